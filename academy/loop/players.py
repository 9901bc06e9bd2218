"""Who can be examined: a version, the base model, the base model with examples, an endpoint. Found by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from academy.arena.endpoint import Endpoint, EndpointPlayer
from academy.arena.suites.base import Generation, Player, Reply
from academy.curriculum.dataset import Dataset, read_rows
from academy.loop.home import Home
from academy.models.chat_template import Message
from academy.records import digest_of
from academy.serving.runtimes.base import Request, Runtime
from academy.store.ledger import BASE, Champion
from academy.system.processes import person

FEW_SHOT = "few-shot"
SHOTS = 4


class RuntimePlayer:
    """A version of the running base model, or the base model itself."""

    def __init__(self, home: Home, adapter: str) -> None:
        self.identity = home.base.digest if adapter == BASE else adapter
        self._work = home
        self._adapter = adapter
        self._ready = adapter == BASE

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        """Greedy answers by the adapter, which is checked, loaded and verified when it is first asked."""
        self._prepare()
        return self._work.runtime.replies(requests, self._adapter, generation.max_new_tokens)

    def choose(self, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[Reply]:
        """The likeliest choices."""
        self._prepare()
        return likeliest(self._work.runtime, asked, self._adapter)

    def _prepare(self) -> None:
        if not self._ready:
            self._work.runtime.load(self._work.use_adapter(self._adapter, by=person()))
            self._work.runtime.verify(self._adapter)
            self._ready = True


class FewShotPlayer:
    """The base model, shown the lessons that are nearest to each request. Where it does as well, training is idle."""

    def __init__(self, home: Home, dataset: Dataset) -> None:
        self.identity = digest_of([FEW_SHOT, SHOTS, home.base.digest, dataset.digest])
        self._work = home
        self._dataset = dataset

    @cached_property
    def _shots(self) -> list[tuple[str, str]]:
        rows = (row["messages"] for row in read_rows(self._dataset.train_file))
        return [(turns[-2]["content"], turns[-1]["content"]) for turns in rows if len(turns) > 1]

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        """Greedy answers by the base model, with as many shots before each request as fit."""
        asked = self._with_shots(requests, self._work.base.context - generation.max_new_tokens)
        return self._work.runtime.replies(asked, BASE, generation.max_new_tokens)

    def choose(self, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[Reply]:
        """The likeliest choices after the same shots."""
        longest = max(self._work.base.count_tokens([choice for _, choices in asked for choice in choices]))
        shown = self._with_shots([request for request, _ in asked], self._work.base.context - longest)
        pairs = [(turns, choices) for turns, (_, choices) in zip(shown, asked, strict=True)]
        return likeliest(self._work.runtime, pairs, BASE)

    def _with_shots(self, requests: Sequence[str], room: int) -> list[list[Message]]:
        """Requests as conversations of at most `room` tokens."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        known = vectors.fit_transform([request for request, _ in self._shots])
        alike = (vectors.transform(requests) @ known.T).toarray()
        asked: list[list[Message]] = []
        for request, row in zip(requests, alike, strict=True):
            best = [self._shots[n] for n in row.argsort(kind="stable")[::-1][:SHOTS]]
            while best and self._length([*best, (request, "")]) > room:
                best.pop()
            turns: list[Message] = []
            for shot, answer in reversed(best):  # the nearest stands last, beside the request
                turns += [{"role": "user", "content": shot}, {"role": "assistant", "content": answer}]
            asked.append([*turns, {"role": "user", "content": request}])
        return asked

    def _length(self, turns: Iterable[tuple[str, str]]) -> int:
        texts = [text for turn in turns for text in turn]
        return sum(self._work.base.count_tokens(texts)) + 8 * len(texts)


def likeliest(runtime: Runtime, asked: Sequence[tuple[Request, tuple[str, ...]]], adapter: str) -> list[Reply]:
    """For each request the choice of the highest log-probability, the first of equals."""
    pairs = [(request, choice) for request, choices in asked for choice in choices]
    found = iter(runtime.loglikelihoods(pairs, adapter))
    replies = []
    for _, choices in asked:
        likely = [next(found) for _ in choices]
        replies.append(Reply(text=choices[likely.index(max(likely))]))
    return replies


def is_version(name: str) -> bool:
    """Whether a name is a version's number."""
    return name.removeprefix("v").isdigit()


def own_identity(home: Home, champion: Champion) -> str:
    """The champion's identity as a player."""
    return home.base.digest if champion.adapter == BASE else champion.adapter


def player_of(home: Home, name: str, dataset: Dataset, champion: Champion) -> Player:
    """The player of a name; `dataset` holds the few-shot player's examples. Raises InputError for an unknown one."""
    if name in (champion.adapter, "champion"):
        return RuntimePlayer(home, champion.adapter)
    if name == BASE:
        return RuntimePlayer(home, BASE)
    if name == FEW_SHOT:
        return FewShotPlayer(home, dataset)
    if "://" in name:
        return EndpointPlayer(Endpoint.parse(name, home.settings.endpoint_key.get_secret_value()))
    return RuntimePlayer(home, home.versions.get(name).adapter)


def shown(name: str, champion: Champion) -> str:
    """A player's name for people."""
    if name in (champion.adapter, "champion"):
        return champion.name
    return f"v{name.removeprefix('v')}" if is_version(name) else name
