"""Players of an examination, by name: a version, the base model, the base model with examples, an endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from academy.arena.endpoint import Endpoint, EndpointPlayer
from academy.arena.suites.base import Generation, Player, Prompt, Reply, as_messages
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
        self._home = home
        self._adapter = adapter
        self._ready = adapter == BASE

    def answer(self, requests: Sequence[Prompt], generation: Generation) -> list[Reply]:
        """Greedy answers by the adapter, which is checked, loaded and verified before its first answer."""
        self._prepare()
        return self._home.runtime.replies(requests, self._adapter, generation.max_new_tokens)

    def choose(self, questions: Sequence[tuple[str, tuple[str, ...]]]) -> list[Reply]:
        """The most likely choices."""
        self._prepare()
        return likeliest(self._home.runtime, questions, self._adapter)

    def _prepare(self) -> None:
        if not self._ready:
            self._home.runtime.load(self._home.use_adapter(self._adapter, by=person()))
            self._home.runtime.verify(self._adapter)
            self._ready = True


class FewShotPlayer:
    """The base model with the most similar lessons in the prompt. If it scores as high, training gains nothing."""

    def __init__(self, home: Home, dataset: Dataset) -> None:
        self.identity = digest_of([FEW_SHOT, SHOTS, home.base.digest, dataset.digest])
        self._home = home
        self._dataset = dataset

    @cached_property
    def _shots(self) -> list[tuple[str, str]]:
        rows = (row["messages"] for row in read_rows(self._dataset.train_file))
        pairs = (turns[-2:] for turns in rows if len(turns) > 1)
        return [
            (request["content"], answer["content"])
            for request, answer in pairs
            if request["role"] == "user" and answer.get("content")  # neither a tool's result nor a call alone
        ]

    def answer(self, requests: Sequence[Prompt], generation: Generation) -> list[Reply]:
        """Greedy answers by the base model, with as many examples before each request as fit."""
        conversations = self._with_shots(requests, self._home.base.context - generation.max_new_tokens)
        return self._home.runtime.replies(conversations, BASE, generation.max_new_tokens)

    def choose(self, questions: Sequence[tuple[str, tuple[str, ...]]]) -> list[Reply]:
        """The most likely choices after the same examples."""
        longest = max(self._home.base.count_tokens([choice for _, choices in questions for choice in choices]))
        conversations = self._with_shots([request for request, _ in questions], self._home.base.context - longest)
        pairs = [(turns, choices) for turns, (_, choices) in zip(conversations, questions, strict=True)]
        return likeliest(self._home.runtime, pairs, BASE)

    def _with_shots(self, requests: Sequence[Prompt], room: int) -> list[list[Message]]:
        """Requests as conversations of at most `room` tokens."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        lessons = vectors.fit_transform([request for request, _ in self._shots])
        asked = [as_messages(request) for request in requests]
        similarity = (vectors.transform([turns[-1]["content"] for turns in asked]) @ lessons.T).toarray()
        conversations: list[list[Message]] = []
        for (*system, request), row in zip(asked, similarity, strict=True):
            best = [self._shots[n] for n in row.argsort(kind="stable")[::-1][:SHOTS]]
            own = [(turn["content"], "") for turn in (*system, request)]
            while best and self._length([*best, *own]) > room:
                best.pop()
            turns: list[Message] = [*system]
            for shot, answer in reversed(best):  # the most similar example is last, next to the request
                turns += [{"role": "user", "content": shot}, {"role": "assistant", "content": answer}]
            conversations.append([*turns, request])
        return conversations

    def _length(self, turns: Iterable[tuple[str, str]]) -> int:
        texts = [text for turn in turns for text in turn]
        return sum(self._home.base.count_tokens(texts)) + 8 * len(texts)


def likeliest(runtime: Runtime, questions: Sequence[tuple[Request, tuple[str, ...]]], adapter: str) -> list[Reply]:
    """For each request the choice with the highest log-probability, the first of equals."""
    pairs = [(request, choice) for request, choices in questions for choice in choices]
    values = iter(runtime.loglikelihoods(pairs, adapter))
    replies = []
    for _, choices in questions:
        scores = [next(values) for _ in choices]
        replies.append(Reply(text=choices[scores.index(max(scores))]))
    return replies


def is_version(name: str) -> bool:
    """Whether a name is the number of a version."""
    return name.removeprefix("v").isdigit()


def own_identity(home: Home, champion: Champion) -> str:
    """The champion's identity as a player."""
    return home.base.digest if champion.adapter == BASE else champion.adapter


def player_of(home: Home, name: str, dataset: Dataset, champion: Champion) -> Player:
    """The player of a name; `dataset` has the few-shot examples. Raises InputError for an unknown name."""
    if name in (champion.adapter, "champion"):
        return RuntimePlayer(home, champion.adapter)
    if name == BASE:
        return RuntimePlayer(home, BASE)
    if name == FEW_SHOT:
        return FewShotPlayer(home, dataset)
    if "://" in name:
        return EndpointPlayer(Endpoint.of(home.settings, name))
    return RuntimePlayer(home, home.versions.get(name).adapter)


def shown(name: str, champion: Champion) -> str:
    """The name of a player, as shown to people."""
    if name in (champion.adapter, "champion"):
        return champion.name
    return f"v{name.removeprefix('v')}" if is_version(name) else name
