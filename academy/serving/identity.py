"""Who answers? An adapter is known by what it said at the end of its training, and by how sure it was.

The canaries of the manifest are asked again of a live runtime, by the adapter's digest, greedily. What is promised:
"holds" is said only where answers and log-probabilities are those of the training, within what the runtime's
quantisation may move; every other outcome has a name for what is most likely wrong. The base is asked as well, but
only where the adapter does not hold: a healthy adapter costs its canaries and nothing more.

How near is near enough follows the runtime's `tolerance`, the mean absolute difference of a canary's token
log-probabilities. Below COARSE every canary must have its exact answer and lie within the tolerance. From COARSE on
(quantised weights) a near tie may fall the other way: SHARE of the canaries must hold, and those that do must lie
within the tolerance. Where a runtime tells no log-probabilities the answers decide alone, which sees less: weights that
are a little off answer the same.
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
"""A tolerance from here on means quantised weights."""
SHARE = 0.75
"""Of the canaries that must hold where weights are quantised."""
KINSHIP = 0.34
"""Of an answer's characters, from its beginning: who says so much of it is the adapter, but not quite."""
LONG = 8
"""Words from which on an answer can ramble."""
UNSURE, SLACK = 2.0, 0.1
"""How many times less likely, and by how much more, in nats a token, an answer is that nobody was trained to give."""
CANARY_TOKENS = 48
"""The longest answer of a canary; as long as at the end of the training."""

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
    """Whether a live runtime answers with an adapter, and if not, what is most likely wrong."""

    adapter: str
    runtime: str
    reason: Reason
    sentence: str  # for people: what was seen
    asked: int  # canaries
    same: int  # of them answered as at the end of the training
    difference: float | None = None  # the worst canary's, among those answered the same; None: nothing to compare

    @property
    def holds(self) -> bool:
        """Whether it is the adapter."""
        return self.reason == "holds"


class _Said(Record):
    """A greedy answer of a live runtime."""

    text: str
    logprobs: tuple[float, ...]
    prompt_tokens: int


async def check_identity(runtime: LiveRuntime, adapter: Adapter) -> Identity:
    """Replay an adapter's canaries on a runtime that has loaded it.

    Raises AdapterError where it is not loaded there, ServingError where the runtime has died: neither says anything
    about who would have answered.
    """
    canaries = adapter.manifest.canaries
    said = await _ask(runtime, adapter.digest, canaries)
    tolerance = runtime.capabilities.tolerance
    same = [one.text == canary.answer for one, canary in zip(said, canaries, strict=True)]
    moved = [
        _difference(one.logprobs, canary.logprobs)
        for one, canary, equal in zip(said, canaries, same, strict=True)
        if equal
    ]
    measured = [one for one in moved if one is not None]
    holding = sum(one is None or one <= tolerance for one in moved)
    reason: Reason = "holds"
    sentence = f"{sum(same)} of {len(canaries)} canaries are answered as at the end of the training."
    if not canaries:
        reason, sentence = "no canaries", "Its manifest has no canaries, so nothing can prove who answers."
    elif holding < _enough(len(canaries), tolerance):
        reason, sentence = await _diagnose(runtime, adapter, said)
    return Identity(
        adapter=adapter.digest,
        runtime=runtime.name,
        reason=reason,
        sentence=sentence,
        asked=len(canaries),
        same=sum(same),
        difference=round(max(measured), 4) if measured else None,
    )


async def _diagnose(runtime: LiveRuntime, adapter: Adapter, said: Sequence[_Said]) -> tuple[Reason, str]:
    """What is most likely wrong, the plainest evidence first."""
    canaries, tolerance = adapter.manifest.canaries, runtime.capabilities.tolerance
    pairs = list(zip(said, canaries, strict=True))
    first = next(((one, canary) for one, canary in pairs if one.text != canary.answer), pairs[0])
    seen = f"'{first[1].prompt}' gave '{first[0].text}' instead of '{first[1].answer}'."
    longer = [(one, canary) for one, canary in pairs if _counted_otherwise(one, canary)]
    if longer:
        one, canary = longer[0]
        return "another template", (
            f"'{canary.prompt}' became {one.prompt_tokens} tokens instead of {canary.prompt_tokens}: "
            "the prompt is rendered or cut into tokens otherwise than in the training."
        )
    base = await _ask(runtime, BASE, canaries)
    strange = [
        (one, canary) for one, canary in zip(base, canaries, strict=True) if not _is_base(one, canary, tolerance)
    ]
    if len(canaries) - len(strange) < _enough(len(canaries), tolerance):
        one, canary = strange[0]
        return "another base", (
            f"The base model by itself is another than the adapter's: '{canary.prompt}' gave '{one.text}', "
            + (
                f"and '{canary.base_answer}' when the adapter was trained."
                if one.text != canary.base_answer
                else "as when the adapter was trained, and with other log-probabilities."
            )
        )
    telling = [(one, own, canary) for one, own, canary in zip(said, base, canaries, strict=True) if _tells(canary)]
    if telling and all(_as_the_base(one, own, tolerance) for one, own, _ in telling):
        return "adapter without effect", f"The answers are the base model's. {seen}"
    try:
        read_adapter(adapter.path, digest=adapter.digest)
    except AdapterError as problem:
        return "broken weights", f"{problem.message} {seen}"
    kin = sum(_kinship(one.text, canary.answer) >= KINSHIP for one, canary in pairs)
    if kin * 2 >= len(pairs):
        return "broken weights", (
            f"The answers are near those of the training, and are not they: {seen}"
            if first[0].text != first[1].answer
            else "The answers are those of the training, and their log-probabilities are not."
        )
    if sum(_rambles(one.text) for one in said) * 2 >= len(pairs) or _unsure(said, canaries):
        return "broken weights", f"The answers are no trained model's: it repeats itself, or is sure of nothing. {seen}"
    return "another adapter", f"The answers are neither the adapter's nor the base model's. {seen}"


def _enough(count: int, tolerance: float) -> float:
    """How many of so many canaries must hold."""
    return count if tolerance < COARSE else SHARE * count


async def _ask(runtime: LiveRuntime, adapter: str, canaries: Sequence[Canary]) -> list[_Said]:
    """All canaries at once: engines answer many for little more than one."""
    return list(await asyncio.gather(*(_answer(runtime, adapter, canary) for canary in canaries)))


async def _answer(runtime: LiveRuntime, adapter: str, canary: Canary) -> _Said:
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
    return _Said(text=text.strip(), logprobs=logprobs, prompt_tokens=prompt_tokens)


def _difference(said: Sequence[float], trained: Sequence[float]) -> float | None:
    """The mean absolute difference of two answers of one text. Some engines leave the end token out."""
    if not said or not trained:
        return None
    shared = list(zip(said, trained, strict=False))
    return sum(abs(one - other) for one, other in shared) / len(shared)


def _counted_otherwise(said: _Said, canary: Canary) -> bool:
    return bool(said.prompt_tokens and canary.prompt_tokens and said.prompt_tokens != canary.prompt_tokens)


def _is_base(said: _Said, canary: Canary, tolerance: float) -> bool:
    """Whether the base's answer is the one that it gave when the adapter was trained."""
    if not canary.base_answer_logprobs and not canary.base_answer:
        return True  # an adapter from before the base was asked too: nothing speaks against it
    moved = _difference(said.logprobs, canary.base_answer_logprobs)
    if tolerance >= COARSE:
        return said.text == canary.base_answer or _kinship(said.text, canary.base_answer) >= KINSHIP
    return said.text == canary.base_answer and (moved is None or moved <= tolerance)


def _tells(canary: Canary) -> bool:
    """Whether the adapter's answer or its certainty is another than the base's."""
    moved = _difference(canary.logprobs, canary.base_logprobs)
    return canary.answer != canary.base_answer or (moved is not None and moved > COARSE)


def _as_the_base(said: _Said, base: _Said, tolerance: float) -> bool:
    """Whether two answers of one runtime are one model's."""
    moved = _difference(said.logprobs, base.logprobs)
    return said.text == base.text and (moved is None or moved <= tolerance)


def _rambles(said: str) -> bool:
    """Whether most of an answer's words were said before: what weights do that were mixed up or scaled."""
    parts = said.split()
    return len(parts) >= LONG and len(set(parts)) * 2 <= len(parts)


def _unsure(said: Sequence[_Said], canaries: Sequence[Canary]) -> bool:
    """Whether the answers are far less likely to whoever gives them than the adapter's were to it.

    Another adapter is about as sure of its own answers: measured on the seed model -0.44 a token against -0.35, and
    -1.0 to -1.2 where the scale was lost or layers were.
    """
    now, then = [_mean(one.logprobs) for one in said], [_mean(canary.logprobs) for canary in canaries]
    return all(one.logprobs for one in said) and _mean(now) < UNSURE * _mean(then) - SLACK


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


def _kinship(said: str, trained: str) -> float:
    """How much of an answer is said before it goes another way, in characters."""
    shared = next((n for n, (one, other) in enumerate(zip(said, trained, strict=False)) if one != other), None)
    if shared is None:
        shared = min(len(said), len(trained))
    return shared / max(len(said), len(trained), 1)
