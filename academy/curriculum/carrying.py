"""Which words carry the meaning of a text: those that two similar texts must share to say the same thing.

Similarity of characters is blind to them: "turn the alarm on" and "turn the alarm off", or E1042 and E1043, are nearly
the same characters. So a pair of similar texts is compared again, by its words:

  * numbers and options of commands carry meaning always;
  * every other word does, except those that only hold a sentence together (articles, pronouns, auxiliaries, courtesy),
    with its ending removed, so that "deploys" is "deploy";
  * where the other words are the same, two of them that changed places do ("from A to B", "from B to A").

Two similar requests are one question if they share their numbers and options and, beyond that, either all carrying
words or the answer: then they are wordings of one thing. With the same answer only a negation or an opposite ("on" and
"off") makes them two questions. The frequency of words in the corpus has no say: an assignment to the hold-out is
permanent, so it must not depend on what else was imported.

The first two rules are a number (`request_salts`, `example_salt`) that is mixed into the signatures of similarity.py,
so that texts with other carrying words are never compared: a thousand questions of one template cost no more than a
thousand different ones. The others are decided for each pair (`opposed`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from functools import lru_cache
from hashlib import blake2b
from itertools import starmap
from typing import NamedTuple

from academy.curriculum.similarity import SAME, SEPARATOR, jaccard, shingles
from academy.experience.wording import signs, wording


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FUNCTION = _words(
    """
    a an the i we you it they he she me us them my our your its their this that these those there here do does did done
    doing am is are was were be been being have has had having can could would should shall will to of in at for by with
    and so then also just now really please kindly hi hello hey thanks thank tell some any s
    der die das den dem des ein eine einen einem einer eines ich wir du ihr sie es man mir uns mich dich mein meine
    meinen unser unsere dein deine ist sind war waren sein wird werden hat haben kann können könnte könnten soll sollte
    zu im und denn doch mal jetzt bitte danke hallo
    ja my ty ona ono oni mi mnie nam nas moje mój moja nasz nasza nasze ten ta to te tego tej jest są był była było być
    mam mamy ma można mogę możemy mógłbym i oraz więc się w we z ze do proszę dziękuję dzięki cześć
    le la les un une des du de je nous vous il elle mon ma mes notre est sont et svp merci
    el los las uno unos del yo nosotros son y por favor gracias
    """
)
"""Words that hold a sentence together, in English, German, Polish, French and Spanish. Where there is doubt, a word
carries meaning: that keeps two examples, or makes two origins of one answer's wordings one, which are both harmless."""
_NEGATIONS = _words(
    """
    not no never none nothing neither nor without cannot
    nicht nie niemals nichts niemand weder ohne kein keine keinen keinem keiner keines
    nigdy żaden żadna żadne żadnego nic nikt bez
    ne pas jamais sans aucun aucune rien sin nunca jamás ningún ninguna nada non mai senza nessuno
    niet geen nooit zonder inte aldrig utan не нет никогда без ні немає nikdy žádný
    """
)
_NUMBERS = {
    word: str(number)
    for words in (
        "two three four five six seven eight nine",  # "ten" is "this" in Polish
        "zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
        "dwa trzy cztery pięć sześć siedem osiem dziewięć dziesięć jedenaście dwanaście",
    )
    for number, word in enumerate(words.split(), start=2)
}
_OPPOSITES = tuple(
    pair.split("/")
    for pair in _words(
        """
        on/off enable/disable up/down start/stop open/close open/shut allow/deny allow/forbid permit/deny accept/reject
        accept/refuse grant/revoke before/after above/below over/under first/last minimum/maximum min/max least/most
        less/more left/right north/south northern/southern east/west eastern/western top/bottom inside/outside
        internal/external input/output push/pull read/write send/receive import/export increase/decrease raise/lower
        add/remove create/delete attach/detach show/hide true/false yes/no public/private always/never old/new fast/slow
        high/low begin/end begin/finish day/night morning/evening earliest/latest primary/secondary
        an/aus ein/aus auf/zu an/ab vor/nach starten/stoppen öffnen/schließen erlauben/verbieten hinzufügen/entfernen
        innen/außen oben/unten ja/nein immer/nie links/rechts hoch/runter mehr/weniger
        włączyć/wyłączyć włącz/wyłącz przed/po otwórz/zamknij otworzyć/zamknąć dodaj/usuń dodać/usunąć
        uruchomić/zatrzymać uruchom/zatrzymaj zezwól/zabroń przyjąć/odrzucić tak/nie góra/dół zawsze/nigdy więcej/mniej
        lewo/prawo wewnątrz/zewnątrz
        ouvrir/fermer activer/désactiver avant/après avec/sans démarrer/arrêter autoriser/interdire oui/non
        abrir/cerrar activar/desactivar antes/después con/sin encender/apagar permitir/prohibir sí/no
        aprire/chiudere accendere/spegnere prima/dopo openen/sluiten aan/uit voor/na
        открыть/закрыть открывать/закрывать включить/выключить до/после разрешить/запретить запустить/остановить да/нет
        відкрити/закрити увімкнути/вимкнути до/після дозволити/заборонити так/ні otevřít/zavřít zapnout/vypnout
        """
    )
)
_OPPOSITES_OF = {
    word: frozenset(other for pair in _OPPOSITES if word in pair for other in pair if other != word)
    for word in frozenset(word for pair in _OPPOSITES for word in pair)
}
_PREFIXES = (
    ("", "un"), ("", "dis"), ("", "de"), ("", "in"), ("", "im"), ("", "ir"), ("", "non"), ("", "nie"), ("", "anti"),
    ("en", "dis"), ("en", "de"), ("up", "down"), ("in", "out"), ("over", "under"), ("in", "ex"), ("im", "ex"),
    ("ein", "aus"), ("an", "aus"), ("an", "ab"), ("auf", "zu"), ("hoch", "herunter"), ("w", "wy"), ("za", "wy"),
)  # fmt: skip
"""Beginnings that make two words with the same rest opposites."""
_SUFFIXES = (
    "ings", "ing", "ami", "ach", "owi", "est", "ern", "ów", "om", "em", "ed", "es", "en", "er", "ą", "ę", "s", "e", "n",
    "a", "i", "y", "u",
)  # fmt: skip
_SHORTEST_STEM = 4


class Carried(NamedTuple):
    """The carrying words of a text, sorted: numbers and options, and all others without their endings."""

    numbers: tuple[str, ...]
    words: tuple[str, ...]


def carried(text: str) -> Carried:
    """The words that carry the meaning of a text."""
    numbers, words = [], []
    for word in wording(text):
        if word in _NUMBERS:
            numbers.append(_NUMBERS[word])
        elif word[-1].isdigit() or (word[0] == "-" and len(word) > 1):
            numbers.append(word)
        elif word not in _FUNCTION:
            words.append(_stem(word))
    return Carried(tuple(sorted(numbers)), tuple(sorted(words)))


def request_salts(request: str, answer: str) -> tuple[int, int]:
    """Numbers of a request: two similar requests that share one of them are one question unless they are `opposed`.

    `answer` names the answer, as `answer_key` does.
    """
    numbers, words = carried(request)
    return _number("words", *numbers, "", *words), _number("answer", *numbers, "", answer)


def example_salt(text: str) -> tuple[int]:
    """The number of an example (`similarity.example_text`). Near duplicates have the same one."""
    parts = [carried(part) for part in text.split(SEPARATOR)]
    return (_number(*(word for part in parts for word in ("\n", *part.numbers, "", *part.words))),)


def answer_key(answer: str) -> str:
    """A name for an answer that does not depend on its case, white space and punctuation."""
    return f"{_number(*wording(answer)):016x}"


def opposed(first: str, second: str) -> bool:
    """Whether similar texts say opposite things: a negation, a pair of opposites, or two words that changed places.

    Request and answer of an example are compared separately.
    """
    return any(starmap(_opposed, zip(first.split(SEPARATOR), second.split(SEPARATOR), strict=False)))


def distinct_examples(first: str, second: str) -> bool:
    """Whether similar examples are two: they say opposite things, or their code differs."""
    pairs = list(zip(first.split(SEPARATOR), second.split(SEPARATOR), strict=False))
    return any(_opposed(a, b) or signs(a).differ(signs(b)) for a, b in pairs)


def contradict(first: str, second: str) -> bool:
    """Whether two answers to one request differ in more than their wording."""
    if signs(first).differ(signs(second)):
        return True
    if wording(first) == wording(second):
        return False
    alike = jaccard(shingles(first), shingles(second)) >= SAME
    return not (alike and carried(first) == carried(second) and not opposed(first, second))


def _opposed(first: str, second: str) -> bool:
    one, other = wording(first), wording(second)
    if one == other:
        return False
    only_one, only_other = Counter(one) - Counter(other), Counter(other) - Counter(one)
    if not only_one and not only_other:
        return _swapped(one, other)
    if _negations(only_one) != _negations(only_other):
        return True
    return _hold_opposites(only_one, only_other) or _hold_opposites(only_other, only_one)


def _swapped(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether the texts are the same but for two words, apart from each other, that changed places."""
    places = [n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    return len(places) == 2 and places[1] > places[0] + 1


def _negations(words: Counter[str]) -> int:
    return sum(count for word, count in words.items() if word in _NEGATIONS)


def _hold_opposites(one: Iterable[str], other: Collection[str]) -> bool:
    """Whether a word of one text and a word of the other are opposites. It takes linear time: texts are long."""
    if any(not _OPPOSITES_OF[word].isdisjoint(other) for word in one if word in _OPPOSITES_OF):
        return True
    return any(not _stems_after(first, one).isdisjoint(_stems_after(second, other)) for first, second in _PREFIXES)


def _stems_after(prefix: str, words: Iterable[str]) -> set[str]:
    """The stems of what follows a prefix."""
    return {_stem(word[len(prefix) :]) for word in words if word.startswith(prefix) and len(word) - len(prefix) >= 3}


@lru_cache(100_000)
def _stem(word: str) -> str:
    """A word without its ending. Only equality counts, so a stem need not be a word."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _SHORTEST_STEM:
            return word[: -len(suffix)]
    return word


def _number(*parts: str) -> int:
    """64 bits of the parts, the same in every process."""
    return int.from_bytes(blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def salts(requests: Iterable[tuple[str, str]]) -> list[tuple[int, int]]:
    """The numbers of many requests with their answers' names."""
    return [request_salts(request, answer) for request, answer in requests]
