"""`python -m bench.meaning`: what similarity of characters confuses, with and without the carrying words.

A made set of pairs of examples that differ in one place: pairs that say different things (a number, an option, a path,
negation, an opposite, another thing, two words exchanged) and pairs that say the same (courtesy, articles,
auxiliaries, endings, punctuation, forms of numbers). A false drop is a pair of the first kind that counts as a near
duplicate; a miss is one of the second kind that does not. The same for origins of the hold-out, where wordings with one
answer stay together. Then the speed, on texts of all kinds and on questions of one template.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence

from academy.curriculum.carrying import answer_key, opposed, request_salts
from academy.curriculum.sharding import near_duplicates
from academy.curriculum.similarity import NEAR, Deduplicator, Duplicate, example_text, jaccard, near_between, shingles
from bench.duplicates import text

THINGS = ("gate", "crane", "tower", "lamp", "pump", "winch", "radar", "ferry")
FORM = "How do I {verb} the service of the {place} {thing} in the {cluster} cluster of the old harbour{end}"
ANSWER = "Run {thing}ctl {verb} --{place} {number} on the {cluster} machine and tell the night watch of the harbour."
DIFFERENT = {
    "number": (("E1042 of", "E1043 of"), ("port 8443", "port 8433"), ("version 3.11", "version 3.12")),
    "option": (("with --dry-run", "with --no-dry-run"), ("with -v", "with -x"), ("and --force", "and --quiet")),
    "unit": (("for 5 MB", "for 5 GB"), ("for 10 minutes", "for 10 seconds")),
    "path": (("in /etc/gate.conf", "in /etc/gato.conf"), ("in sea_team", "in fog_team")),
    "negation": (("that does answer", "that does not answer"), ("die alarm hat", "die kein alarm hat"),
                 ("który działa", "który nie działa")),
    "opposite": (("to switch on", "to switch off"), ("before noon", "after noon"), ("when enabled", "when disabled"),
                 ("aby włączyć", "aby wyłączyć")),
    "thing": (("on Fridays", "on Mondays"), ("for Pia", "for Ana"), ("in red", "in blue")),
    "exchange": (("from north via dock to south", "from south via dock to north"),),
}  # fmt: skip
SAME = {
    "courtesy": (("now", "now, please"), ("today", "today please")),
    "article": (("of the night", "of a night"), ("with lamp", "with the lamp")),
    "ending": (("with lamp lit", "with lamps lit"), ("that checks", "that check")),
    "form": (("for 7 days", "for seven days"), ("for 5 GB", "for 5GB"), ("for 1000 m", "for 1,000 m")),
    "sign": (("right now", "right now!"), ("(red)", "red"), ("-- quick", "quick")),
}
Pair = tuple[str, str, str, str, bool]  # first request, second request, both answers, whether they say the same


def made(seed: int, count: int = 40) -> list[Pair]:
    """Pairs of examples that differ in one place. The answers differ where the requests ask different things."""
    chance = random.Random(seed)
    pairs: list[Pair] = []
    for kinds, alike in ((DIFFERENT, False), (SAME, True)):
        for variants in kinds.values():
            for _ in range(count):
                fill = {
                    "verb": chance.choice(("restart", "inspect", "check")), "place": chance.choice(("north", "west")),
                    "thing": chance.choice(THINGS), "cluster": chance.choice(("staging", "live")),
                    "number": chance.randrange(1000),
                }  # fmt: skip
                one, other = chance.choice(variants)
                answer = ANSWER.format(**fill)
                pairs.append((
                    FORM.format(**fill, end=f" {one}?"), FORM.format(**fill, end=f" {other}?"),
                    answer if alike else f"{answer} {one}", answer if alike else f"{answer} {other}", alike,
                ))  # fmt: skip
    return pairs


def before(texts: Sequence[str]) -> list[Duplicate]:
    """Near duplicates by similarity of characters alone."""
    return Deduplicator(lambda numbers: [texts[n] for n in numbers]).add(texts)


def one_origin(pair: Pair) -> bool:
    """Whether the hold-out takes both requests for one question."""
    first, second, *answers, _ = pair
    salts = tuple([request_salts(r, answer_key(a))] for r, a in zip((first, second), answers, strict=True))
    return any(near_between([first], [second], salts=(salts[0], salts[1]), distinct=opposed))


def rates(pairs: Sequence[Pair], judged_same: Callable[[Pair], bool]) -> tuple[int, int]:
    """False drops and misses."""
    wrong = [pair for pair in pairs if judged_same(pair) is not pair[-1]]
    return sum(1 for pair in wrong if not pair[-1]), sum(1 for pair in wrong if pair[-1])


def main() -> int:
    """Print the rates before and after, then the speed."""
    pairs = made(1)
    different = sum(1 for pair in pairs if not pair[-1])
    print(f"{different} pairs that say different things, {len(pairs) - different} that say the same")
    examples = {pair: [example_text(pair[n], pair[n + 2]) for n in (0, 1)] for pair in pairs}
    for name, judged_same in (
        ("near duplicates, before", lambda pair: bool(before(examples[pair]))),
        ("near duplicates, now", lambda pair: bool(near_duplicates(examples[pair]))),
        ("origins, before", lambda pair: jaccard(shingles(pair[0]), shingles(pair[1])) >= NEAR),
        ("origins, now", one_origin),
    ):
        false, missed = rates(pairs, judged_same)
        print(f"{name:24} {false:4} false, {missed:4} missed")
    texts = [text(n) for n in range(10_000)]
    template = [f"What does error E{n:05} of the crane mean?\x1fReplace sensor {n} of the crane." for n in range(5_000)]
    for name, sample in (("all kinds", texts), ("one template", template)):
        for rule, run in (("before", before), ("now", near_duplicates)):
            start = time.process_time()
            found = run(sample)
            rate = len(sample) / (time.process_time() - start)
            print(f"{name}, {rule}: {rate:,.0f} examples a CPU second, {len(found)} dropped of {len(sample)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
