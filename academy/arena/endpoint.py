"""An OpenAI-compatible endpoint: as a player, and as a judge of pairs of answers.

The client library retries timeouts, lost connections and the statuses 408, 409, 429 and 5xx. A request that still fails
ends the examination with CANNOT DECIDE; earlier answers stay in the cache. The key is sent to its own origin only and
never written: where an endpoint returns it in a text, it is removed. What an endpoint may cost is bounded
(academy.system.bounded_http).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from academy.arena.suites.base import Generation, Prompt, Question, Reply, as_messages
from academy.errors import ExaminationError, InputError
from academy.models.chat_template import Message
from academy.models.thinking import without_thoughts
from academy.records import Record, digest_of
from academy.settings import Settings
from academy.system.origins import key_for

AT_ONCE = 8
TRIES = 3
SECONDS = 120.0
RETRIED = (408, 409, 429)
"""Statuses that are retried, in addition to those from 500."""


class Endpoint(Record):
    """The address of a model: `url` ends with /v1; `key` is sent as a bearer token and never written."""

    url: str
    model: str
    key: str = Field("", repr=False, exclude=True)
    seconds: float = Field(SECONDS, gt=0)
    tries: int = Field(TRIES, ge=0)  # retries after the first request

    @classmethod
    def parse(cls, text: str, keys: str = "", default: str = "") -> Endpoint:
        """`http://host:port/v1#model`. Raises InputError.

        `keys` is the setting, of which the endpoint gets the key of its own origin; `default` is the address that a
        key without an origin belongs to.
        """
        url, _, model = text.partition("#")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and model and (parts.port or 1)
        except ValueError:  # an invalid port or address
            usable = False
        if usable and (parts.username or parts.password):
            raise InputError(
                f"The address of {parts.hostname} contains a user name or a password.",
                "Set ACADEMY_ENDPOINT_KEY instead: reports contain the address.",
            )
        if not usable or not (url + model).isprintable() or " " in url or parts.query:
            raise InputError(f"{text} is not an endpoint.", "Write it as http://host:port/v1#model.")
        return cls(url=url, model=model, key=key_for(url, keys, default))

    @classmethod
    def of(cls, settings: Settings, text: str) -> Endpoint:
        """The endpoint of an address, with the key that the settings have for its origin. Raises InputError."""
        return cls.parse(text, settings.endpoint_key.get_secret_value(), settings.judge.partition("#")[0])

    @property
    def identity(self) -> str:
        """The digest of address and model."""
        return digest_of(["endpoint", self.url, self.model])

    def ask(self, messages: Sequence[Message], most: int) -> Reply:
        """One greedy answer. Raises ExaminationError where the endpoint gives none."""
        import openai

        try:
            completion = self._client.chat.completions.create(
                model=self.model, messages=list(messages), temperature=0, max_tokens=most
            )
            choice = completion.choices[0]
            text = choice.message.content or ""
            tokens = (completion.usage.completion_tokens if completion.usage else 0) or 0
            raw = self._without_key(text).strip()
            answer = without_thoughts(raw)
            reply = Reply(
                text=answer,
                tokens=tokens,
                stopped=choice.finish_reason == "stop",
                raw=raw if raw != answer else "",
            )
        except openai.APIStatusError as problem:
            if 300 <= problem.status_code < 400:
                raise ExaminationError(
                    f"{self.url} redirects requests ({problem.status_code}). Nothing was sent to the other address.",
                    "Name the endpoint's final address.",
                ) from None
            if problem.status_code < 500 and problem.status_code not in RETRIED:
                raise ExaminationError(
                    f"{self.url} rejected a request ({self._short(problem)}).",
                    "Check the address, the model's name and ACADEMY_ENDPOINT_KEY.",
                ) from None
            raise self._no_answer(problem) from None
        except openai.APIConnectionError as problem:
            raise self._no_answer(problem) from None
        except (openai.APIError, LookupError, TypeError, AttributeError, ValueError, RecursionError):
            raise ExaminationError(
                f"The response of {self.url} is not a chat completion.", "Check the address."
            ) from None
        return reply

    def _no_answer(self, problem: Exception) -> ExaminationError:
        return ExaminationError(
            f"{self.url} did not answer after {self.tries + 1} attempts ({self._short(problem)}).",
            "Run the same command again when the endpoint is available; earlier answers are kept.",
        )

    def _short(self, problem: Exception) -> str:
        """An exception's class and message in one line."""
        cause = problem.__cause__ if str(problem) == "Connection error." and problem.__cause__ else problem
        message = " ".join(self._without_key(str(cause)).split())[:200]
        return f"{type(problem).__name__}: {message}" if message else type(problem).__name__

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "[key]") if self.key else text

    @cached_property
    def _client(self) -> Any:
        import openai

        from academy.system.bounded_http import bounded_client

        connections = bounded_client(self.url, self.seconds, key=bool(self.key))
        client = openai.OpenAI(
            base_url=self.url, api_key=self.key or "none", max_retries=self.tries, timeout=self.seconds,
            http_client=connections,
        )  # fmt: skip
        weakref.finalize(client, connections.close)  # the library closes only clients of its own
        return client


class EndpointPlayer:
    """An endpoint as a player."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.identity = endpoint.identity

    def answer(self, requests: Sequence[Prompt], generation: Generation) -> list[Reply]:
        """Greedy answers, AT_ONCE at a time."""

        def ask(request: Prompt) -> Reply:
            return self.endpoint.ask(as_messages(request), generation.max_new_tokens)

        with ThreadPoolExecutor(AT_ONCE) as pool:  # after a failure the waiting requests are not sent
            return list(pool.map(ask, requests))

    def choose(self, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[Reply]:
        """Raises ExaminationError: a chat completion does not contain the likelihoods of other answers."""
        raise ExaminationError(
            f"{self.endpoint.url} cannot choose among {len(asked[0][1])} answers: it does not return likelihoods.",
            "Omit suites with choices, or examine the model as a version or as the base model.",
        )


class JudgeTally(Record):
    """A judge's preferences for pairs of answers, each shown in both orders. They have no effect on the verdict."""

    judge: str
    wins: int = 0  # the challenger's answer was preferred in both orders
    losses: int = 0
    ties: int = 0  # no preference, or different ones in the two orders
    by_place: int = 0  # of the ties: the judge preferred a position, not an answer
    unreadable: int = 0
    gold_asked: int = 0
    gold_agreed: int = 0  # a gold answer was preferred to another lesson's answer, in both orders

    @property
    def agreement(self) -> float | None:
        """The share of gold stars that the judge agrees with; None without any."""
        return self.gold_agreed / self.gold_asked if self.gold_asked else None


ASK = (
    "Two answers were given to one request. Say which is better for the person who asked: more correct first, then "
    "clearer and shorter. Reply with one letter: A, B, or T where neither is better.\n\n"
    "Request:\n{request}\n\nAnswer A:\n{a}\n\nAnswer B:\n{b}\n\nYour letter:"
)


def judge_pairs(
    judge: Endpoint,
    pairs: Sequence[tuple[Question, str, str]],
    gold: Sequence[tuple[str, str, str]] = (),
) -> JudgeTally:
    """Ask a judge about (question, champion's answer, challenger's answer) and about (request, gold answer, another).

    Equal answers are ties without a request. Raises ExaminationError where the judge does not answer.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        preferences = list(pool.map(lambda pair: _both_orders(judge, pair[0].request, pair[1], pair[2]), pairs))
        controls = list(pool.map(lambda control: _both_orders(judge, *control), gold))
    return JudgeTally(
        judge=f"{judge.model} at {judge.url}",
        wins=preferences.count("second"),
        losses=preferences.count("first"),
        ties=sum(preference not in ("first", "second") for preference in preferences),
        by_place=preferences.count("place"),
        unreadable=preferences.count("unreadable"),
        gold_asked=len(controls),
        gold_agreed=controls.count("first"),
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
    text = judge.ask([{"role": "user", "content": ASK.format(request=request, a=a, b=b)}], 8).text
    content = text.strip().strip("*\"'(")
    letter = content.upper()[:1]
    is_word = content[1:2].isalpha()
    return letter if letter in ("A", "B", "T") and not is_word else ""
