"""Checks that a live runtime really answers with an adapter, by its answers and their log-probabilities after training.

The canaries of the manifest are sent to the runtime again, under the adapter's digest, greedily. The result "holds"
means that answers and log-probabilities are those of the training, within the effect of the runtime's quantisation.
Every other result names the most likely fault. The base model gets the canaries only where the adapter does not hold,
so a healthy adapter costs no more than its canaries.

The runtime's `tolerance` limits the mean absolute difference of a canary's token log-probabilities. Below COARSE, every
canary must have its exact answer and lie within the tolerance. From COARSE on (quantised weights) a near tie may change
an answer: SHARE of the canaries must have their exact answer and lie within the tolerance. For a runtime without
log-probabilities only the answers count, which detects less: slightly wrong weights often give the same answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from academy.adapters.adapter import Adapter, Canary, read_adapter
from academy.errors import AdapterError
from academy.records import Record
from academy.serving.runtimes.base import LiveRuntime, Turn
from academy.store.ledger import BASE

COARSE = 0.05
"""A tolerance from this value on means quantised weights."""
SHARE = 0.75
"""Share of the canaries that must hold where weights are quantised."""
KINSHIP = 0.34
"""Share of an answer's characters, from its beginning, that shows a damaged adapter instead of another one."""
LONG = 8
"""Fewest words of an answer that can count as rambling."""
UNSURE, SLACK = 2.0, 0.1
"""An answer of broken weights is at least UNSURE times less likely than in training, plus SLACK nats a token."""
CANARY_TOKENS = 48
"""Longest answer of a canary, as after the training."""

Reason = Literal[
    "holds",
    "no canaries",
    "adapter without effect",
    "another adapter",
    "another base",
    "another template",
    "broken weights",
]


class Identity(Record):
    """Whether a live runtime answers with an adapter, and the most likely fault if not."""

    adapter: str
    runtime: str
    reason: Reason
    sentence: str  # the evidence, for people
    asked: int  # canaries
    same: int  # canaries answered as after the training
    difference: float | None = None  # largest one of the canaries answered the same; None: nothing to compare

    @property
    def holds(self) -> bool:
        """Whether the adapter answers."""
        return self.reason == "holds"


class _Reply(Record):
    """A greedy answer of a live runtime."""

    text: str
    logprobs: tuple[float, ...]
    prompt_tokens: int


async def check_identity(runtime: LiveRuntime, adapter: Adapter) -> Identity:
    """Replay an adapter's canaries on a runtime that has loaded it.

    Raises AdapterError where it is not loaded, and ServingError where the runtime has died. Neither says anything about
    the adapter's identity.
    """
    canaries = adapter.manifest.canaries
    replies = await _ask(runtime, adapter.digest, canaries)
    tolerance = runtime.capabilities.tolerance
    matches = [reply.text == canary.answer for reply, canary in zip(replies, canaries, strict=True)]
    differences = [
        _difference(reply.logprobs, canary.logprobs)
        for reply, canary, equal in zip(replies, canaries, matches, strict=True)
        if equal
    ]
    measurements = [difference for difference in differences if difference is not None]
    holding = sum(difference is None or difference <= tolerance for difference in differences)
    reason: Reason = "holds"
    sentence = f"{sum(matches)} of {len(canaries)} canaries are answered as after the training."
    if not canaries:
        reason, sentence = "no canaries", "The manifest has no canaries, so the identity cannot be proven."
    elif holding < _enough(len(canaries), tolerance):
        reason, sentence = await _diagnose(runtime, adapter, replies)
    return Identity(
        adapter=adapter.digest,
        runtime=runtime.name,
        reason=reason,
        sentence=sentence,
        asked=len(canaries),
        same=sum(matches),
        difference=round(max(measurements), 4) if measurements else None,
    )


async def _diagnose(runtime: LiveRuntime, adapter: Adapter, replies: Sequence[_Reply]) -> tuple[Reason, str]:
    """The most likely fault; the clearest evidence decides first."""
    canaries, tolerance = adapter.manifest.canaries, runtime.capabilities.tolerance
    pairs = list(zip(replies, canaries, strict=True))
    first = next(((reply, canary) for reply, canary in pairs if reply.text != canary.answer), pairs[0])
    evidence = f"'{first[1].prompt}' gave '{first[0].text}' instead of '{first[1].answer}'."
    length_mismatches = [(reply, canary) for reply, canary in pairs if _counted_otherwise(reply, canary)]
    if length_mismatches:
        reply, canary = length_mismatches[0]
        return "another template", (
            f"'{canary.prompt}' became {reply.prompt_tokens} tokens instead of {canary.prompt_tokens}: "
            "the prompt is rendered or tokenized differently than in the training."
        )
    base = await _ask(runtime, BASE, canaries)
    mismatches = [
        (reply, canary) for reply, canary in zip(base, canaries, strict=True) if not _is_base(reply, canary, tolerance)
    ]
    if len(canaries) - len(mismatches) < _enough(len(canaries), tolerance):
        reply, canary = mismatches[0]
        return "another base", (
            f"The base model is not the one that the adapter was trained on: '{canary.prompt}' gave '{reply.text}', "
            + (
                f"and '{canary.base_answer}' when the adapter was trained."
                if reply.text != canary.base_answer
                else "as when the adapter was trained, but with other log-probabilities."
            )
        )
    distinctive = [
        (reply, base_reply)
        for reply, base_reply, canary in zip(replies, base, canaries, strict=True)
        if _is_distinctive(canary)
    ]
    if distinctive and all(_as_the_base(reply, base_reply, tolerance) for reply, base_reply in distinctive):
        return "adapter without effect", f"The answers are the base model's. {evidence}"
    try:
        read_adapter(adapter.path, digest=adapter.digest)
    except AdapterError as problem:
        return "broken weights", f"{problem.message} {evidence}"
    similar = sum(_kinship(reply.text, canary.answer) >= KINSHIP for reply, canary in pairs)
    if similar * 2 >= len(pairs):
        return "broken weights", (
            f"The answers are similar to those of the training, but not the same: {evidence}"
            if first[0].text != first[1].answer
            else "The answers are those of the training, but their log-probabilities are not."
        )
    if sum(_rambles(reply.text) for reply in replies) * 2 >= len(pairs) or _unsure(replies, canaries):
        return (
            "broken weights",
            f"The answers are not those of a trained model: they repeat words or are very unlikely. {evidence}",
        )
    return "another adapter", f"The answers are neither the adapter's nor the base model's. {evidence}"


def _enough(count: int, tolerance: float) -> float:
    """How many of `count` canaries must hold."""
    return count if tolerance < COARSE else SHARE * count


async def _ask(runtime: LiveRuntime, adapter: str, canaries: Sequence[Canary]) -> list[_Reply]:
    """Send all canaries at once, because engines answer many for little more than the cost of one."""
    return list(await asyncio.gather(*(_answer(runtime, adapter, canary) for canary in canaries)))


async def _answer(runtime: LiveRuntime, adapter: str, canary: Canary) -> _Reply:
    turn = Turn(
        messages=({"role": "user", "content": canary.prompt},),
        max_new_tokens=CANARY_TOKENS,
        logprobs=runtime.capabilities.logprobs,
    )
    text, prompt_tokens = "", 0
    logprobs: tuple[float, ...] = ()
    async for piece in runtime.chat(turn, adapter):
        text, logprobs = text + piece.text, logprobs + piece.logprobs
        prompt_tokens = piece.prompt_tokens or prompt_tokens
    return _Reply(text=text.strip(), logprobs=logprobs, prompt_tokens=prompt_tokens)


def _difference(logprobs: Sequence[float], trained: Sequence[float]) -> float | None:
    """The mean absolute difference of two answers with the same text. Some engines omit the end token."""
    if not logprobs or not trained:
        return None
    pairs = list(zip(logprobs, trained, strict=False))
    return sum(abs(value - reference) for value, reference in pairs) / len(pairs)


def _counted_otherwise(reply: _Reply, canary: Canary) -> bool:
    return bool(reply.prompt_tokens and canary.prompt_tokens and reply.prompt_tokens != canary.prompt_tokens)


def _is_base(reply: _Reply, canary: Canary, tolerance: float) -> bool:
    """Whether the base model answers as it did when the adapter was trained."""
    if not canary.base_answer_logprobs and not canary.base_answer:
        return True  # older manifests do not have the base model's answers
    difference = _difference(reply.logprobs, canary.base_answer_logprobs)
    if tolerance >= COARSE:
        return reply.text == canary.base_answer or _kinship(reply.text, canary.base_answer) >= KINSHIP
    return reply.text == canary.base_answer and (difference is None or difference <= tolerance)


def _is_distinctive(canary: Canary) -> bool:
    """Whether the adapter's answer, or its log-probability, differs from the base model's."""
    difference = _difference(canary.logprobs, canary.base_logprobs)
    return canary.answer != canary.base_answer or (difference is not None and difference > COARSE)


def _as_the_base(reply: _Reply, base: _Reply, tolerance: float) -> bool:
    """Whether two answers of one runtime come from the same model."""
    difference = _difference(reply.logprobs, base.logprobs)
    return reply.text == base.text and (difference is None or difference <= tolerance)


def _rambles(text: str) -> bool:
    """Whether at least half of an answer's words are repetitions, as with mixed up or wrongly scaled weights."""
    words = text.split()
    return len(words) >= LONG and len(set(words)) * 2 <= len(words)


def _unsure(replies: Sequence[_Reply], canaries: Sequence[Canary]) -> bool:
    """Whether the model that answers finds its answers far less likely than the adapter found its own.

    Another adapter is about as sure of its own answers: on the seed model -0.44 a token against -0.35, and -1.0 to -1.2
    where the scale or layers were lost.
    """
    current = _mean([_mean(reply.logprobs) for reply in replies])
    reference = _mean([_mean(canary.logprobs) for canary in canaries])
    return all(reply.logprobs for reply in replies) and current < UNSURE * reference - SLACK


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


def _kinship(text: str, trained: str) -> float:
    """The share of characters, from the beginning, that two answers have in common."""
    pairs = zip(text, trained, strict=False)
    length = next((n for n, (character, reference) in enumerate(pairs) if character != reference), None)
    if length is None:
        length = min(len(text), len(trained))
    return length / max(len(text), len(trained), 1)
