"""An OpenAI-compatible endpoint: as a player, and as a judge of pairs.

Timeouts, lost connections and answers of 408, 409, 429 and 5xx are tried again by the client library; whatever still
fails ends the examination with CANNOT DECIDE, and the answers given until then are kept. The key is sent and stands in
no text of ours: where an endpoint says it back, it is taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from academy.arena.suites.base import Generation, Question, Reply
from academy.errors import ExaminationError, InputError
from academy.records import Record, digest_of

AT_ONCE = 8
TRIES = 3
SECONDS = 120.0
AGAIN = (408, 409, 429)
"""Refusals that are tried again, as are those from 500 on."""


class Endpoint(Record):
    """Where a model is asked: `url` ends with /v1; `key` is sent as a bearer token and never written down."""

    url: str
    model: str
    key: str = Field("", repr=False, exclude=True)
    seconds: float = Field(SECONDS, gt=0)
    tries: int = Field(TRIES, ge=0)  # after the first one

    @classmethod
    def parse(cls, text: str, key: str = "") -> Endpoint:
        """`http://host:port/v1#model`. Raises InputError."""
        url, _, model = text.partition("#")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and model and (parts.port or 1)
        except ValueError:  # a port or an address that is none
            usable = False
        if usable and (parts.username or parts.password):
            raise InputError(
                f"The address of {parts.hostname} carries a name or a password.",
                "Give the key in ACADEMY_ENDPOINT_KEY: an address is written into reports.",
            )
        if not usable or not (url + model).isprintable() or " " in url:
            raise InputError(f"{text} names no endpoint.", "Write it as http://host:port/v1#model.")
        return cls(url=url, model=model, key=key)

    @property
    def identity(self) -> str:
        """Digest of address and model."""
        return digest_of(["endpoint", self.url, self.model])

    def ask(self, messages: Sequence[dict[str, str]], most: int) -> Reply:
        """One greedy answer. Raises ExaminationError where the endpoint does not give one."""
        import openai

        try:
            found = self._client.chat.completions.create(
                model=self.model, messages=list(messages), temperature=0, max_tokens=most
            )
            choice = found.choices[0]
            text = choice.message.content or ""
            tokens = (found.usage.completion_tokens if found.usage else 0) or 0
            reply = Reply(text=self._without_key(text).strip(), tokens=tokens, stopped=choice.finish_reason == "stop")
        except openai.APIStatusError as problem:
            if problem.status_code < 500 and problem.status_code not in AGAIN:
                raise ExaminationError(
                    f"{self.url} refused a request ({self._short(problem)}).",
                    "Check the address, the model's name and ACADEMY_ENDPOINT_KEY.",
                ) from None
            raise self._gone(problem) from None
        except openai.APIConnectionError as problem:
            raise self._gone(problem) from None
        except (openai.APIError, LookupError, TypeError, AttributeError, ValueError):
            raise ExaminationError(
                f"{self.url} answered with something that is no chat completion.", "Check the address."
            ) from None
        return reply

    def _gone(self, problem: Exception) -> ExaminationError:
        return ExaminationError(
            f"{self.url} gave no answer in {self.tries + 1} tries ({self._short(problem)}).",
            "What was answered is kept: run the same command again when it answers.",
        )

    def _short(self, problem: Exception) -> str:
        """An exception's class and what it says, in one line."""
        said = " ".join(self._without_key(str(problem)).split())[:200]
        return f"{type(problem).__name__}: {said}" if said else type(problem).__name__

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "[key]") if self.key else text

    @cached_property
    def _client(self) -> Any:
        import openai

        return openai.OpenAI(
            base_url=self.url, api_key=self.key or "none", max_retries=self.tries, timeout=self.seconds
        )


class EndpointPlayer:
    """An endpoint as a player."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.identity = endpoint.identity

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        """Greedy answers, AT_ONCE at a time."""

        def ask(request: str) -> Reply:
            return self.endpoint.ask([{"role": "user", "content": request}], generation.max_new_tokens)

        with ThreadPoolExecutor(AT_ONCE) as pool:  # where one fails, those not begun yet are not asked
            return list(pool.map(ask, requests))

    def choose(self, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[Reply]:
        """Refused: a chat completion does not tell how likely an answer that it did not give would have been."""
        raise ExaminationError(
            f"{self.endpoint.url} cannot be asked to choose among {len(asked[0][1])} answers: it tells no likelihoods.",
            "Leave out suites of choices, or examine the model as a version or as the base model.",
        )


class Opinion(Record):
    """What a judge made of pairs, each shown in both orders. It decides nothing."""

    judge: str
    wins: int = 0  # the challenger's answer was preferred in both orders
    losses: int = 0
    ties: int = 0  # no preference, or another one in the other order
    by_place: int = 0  # of the ties: the judge preferred a place, not an answer
    unreadable: int = 0
    gold_asked: int = 0
    gold_agreed: int = 0  # a gold answer was preferred to another lesson's answer, in both orders

    @property
    def agreement(self) -> float | None:
        """Share of gold stars that the judge agrees with; None where there were none."""
        return self.gold_agreed / self.gold_asked if self.gold_asked else None


ASK = (
    "Two answers were given to one request. Say which is better for the person who asked: more correct first, then "
    "clearer and shorter. Reply with one letter: A, B, or T where neither is better.\n\n"
    "Request:\n{request}\n\nAnswer A:\n{a}\n\nAnswer B:\n{b}\n\nYour letter:"
)


def opinion(
    judge: Endpoint,
    pairs: Sequence[tuple[Question, str, str]],
    gold: Sequence[tuple[str, str, str]] = (),
) -> Opinion:
    """Ask a judge about (question, champion's answer, challenger's answer) and about (request, gold answer, another).

    Equal answers are ties without asking. Raises ExaminationError where the judge does not answer.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda pair: _both_orders(judge, pair[0].request, pair[1], pair[2]), pairs))
        known = list(pool.map(lambda one: _both_orders(judge, *one), gold))
    return Opinion(
        judge=f"{judge.model} at {judge.url}",
        wins=found.count("second"),
        losses=found.count("first"),
        ties=sum(one not in ("first", "second") for one in found),
        by_place=found.count("place"),
        unreadable=found.count("unreadable"),
        gold_asked=len(known),
        gold_agreed=known.count("first"),
    )


def _both_orders(judge: Endpoint, request: str, first: str, second: str) -> str:
    if first.split() == second.split():
        return "tie"
    letters = [_letter(judge, request, a, b) for a, b in ((first, second), (second, first))]
    match letters:
        case ["A", "B"]:
            return "first"
        case ["B", "A"]:
            return "second"
        case ["A", "A"] | ["B", "B"]:
            return "place"
        case _:
            return "unreadable" if "" in letters else "tie"


def _letter(judge: Endpoint, request: str, a: str, b: str) -> str:
    said = judge.ask([{"role": "user", "content": ASK.format(request=request, a=a, b=b)}], 8).text
    first = said.strip().strip("*\"'(").upper()[:1]
    alone = not said.strip().strip("*\"'(")[1:2].isalpha()
    return first if first in ("A", "B", "T") and alone else ""
