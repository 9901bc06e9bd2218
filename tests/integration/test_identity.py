"""Who answers: each way of not being the adapter is found, and called by its name.

The server is vLLM's protocol with the real model behind it, and loads whatever its own folder holds.
"""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from academy.adapters.adapter import WEIGHTS, Adapter, Canary, read_adapter
from academy.errors import AdapterError
from academy.models.base_model import resolve
from academy.serving.identity import Identity, check_identity
from academy.serving.runtimes.peft import PeftRuntime
from academy.serving.runtimes.vllm import TOLERANCE, VllmRuntime
from tests.servers.adapters import CHANGES, FINE, SUBTLE, in_other_words, seen, zeroed
from tests.servers.engine import Engine
from tests.servers.serving import served
from tests.servers.vllm import vllm

SEED = resolve("seed")


def looked_at(
    adapter: Adapter, theirs: Path, *, ours: Path | None = None, tolerance: float = TOLERANCE, **about: Any
) -> Identity:
    """Load an adapter here while the server reads `theirs`, and look who answers. `about` is the server's base."""

    async def work(url: str) -> Identity:
        runtime = VllmRuntime(url, SEED, seen_as=str(theirs.parent), tolerance=tolerance)
        await runtime.start()
        await runtime.load(ours or adapter.path)
        found = await check_identity(runtime, adapter)
        await runtime.close()
        return found

    engine = Engine(SEED.path, **about) if about else sound_engine()
    try:
        with served(vllm(engine, "seed", str(SEED.path))) as url:
            return asyncio.run(work(url))
    finally:
        for name in list(getattr(engine.model, "peft_config", {})):
            engine.unload(name)


@cache
def sound_engine() -> Engine:
    return Engine(SEED.path)


def with_canaries(adapter: Adapter, *canaries: Canary) -> Adapter:
    return adapter.model_copy(update={"manifest": adapter.manifest.model_copy(update={"canaries": canaries})})


def test_the_trainer_writes_canaries_that_tell_adapter_and_base_apart(pair: tuple[Adapter, Adapter]) -> None:
    for adapter in pair:
        canaries = adapter.manifest.canaries
        assert len(canaries) == 8
        for canary in canaries:
            assert canary.answer != canary.base_answer
            assert len(canary.logprobs) == len(canary.base_logprobs) > 0
            assert sum(canary.base_logprobs) < sum(canary.logprobs) <= 0
            assert max(canary.base_answer_logprobs) <= 0
            assert all(round(one, 4) == one for one in canary.logprobs)
            assert canary.prompt_tokens > 0


def test_the_runtime_of_examinations_answers_the_canaries_too(pair: tuple[Adapter, Adapter]) -> None:
    runtime = PeftRuntime(SEED)
    for adapter in pair:
        runtime.verify(runtime.load(adapter.path))
        for canary in adapter.manifest.canaries:
            found = runtime.loglikelihoods([(canary.prompt, canary.answer)], adapter.digest)[0]
            assert found == pytest.approx(sum(canary.logprobs[:-1]), abs=0.01)


@pytest.mark.parametrize("name", CHANGES)
def test_what_happened_to_the_files_on_their_way_is_found(
    name: str, pair: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    change, right = CHANGES[name]
    tolerance = FINE if name in SUBTLE else TOLERANCE
    found = looked_at(pair[0], seen(pair[0], tmp_path, change), tolerance=tolerance)
    assert found.reason in right, found
    assert found.holds == (name == "nothing")
    assert found.sentence


def test_nothing_wrong_holds_within_the_fine_tolerance_too(pair: tuple[Adapter, Adapter]) -> None:
    found = looked_at(pair[0], pair[0].path, tolerance=FINE)
    assert found.holds, found


def test_another_adapter_under_the_name(pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    other = seen(pair[1], tmp_path).rename(tmp_path / pair[0].path.name)
    found = looked_at(pair[0], other)
    assert (found.reason, found.same) == ("another adapter", 0)


def test_another_base_model(pair: tuple[Adapter, Adapter]) -> None:
    found = looked_at(pair[0], pair[0].path, perturbed=0.1)
    assert found.reason == "another base", found


def test_another_template(pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    words = in_other_words(pair[0], tmp_path)
    found = looked_at(read_adapter(words), words)  # the canaries are those of the other words
    assert found.reason == "another template", found


def test_files_that_were_altered_here_since_they_were_loaded(pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    ours = seen(pair[0], tmp_path / "ours")
    theirs = seen(pair[1], tmp_path / "theirs").rename(tmp_path / "theirs" / pair[0].path.name)
    weights = bytearray((ours / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (ours / WEIGHTS).write_bytes(weights)
    found = looked_at(pair[0].model_copy(update={"path": ours}), theirs, ours=pair[0].path)
    assert found.reason == "broken weights"
    assert "was altered" in found.sentence


def test_eight_bits_hold_within_a_coarse_tolerance_and_not_within_a_fine_one(
    pair: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    fine = looked_at(pair[0], pair[0].path, bits=8, tolerance=0.0005)
    coarse = looked_at(pair[0], pair[0].path, bits=8, tolerance=0.1)
    assert (fine.holds, coarse.holds) == (False, True), (fine, coarse)
    zero = looked_at(pair[0], seen(pair[0], tmp_path, zeroed), bits=8, tolerance=0.1)
    assert zero.reason == "adapter without effect"


def test_answers_alone_decide_for_an_adapter_from_before_log_probabilities_were_kept(
    pair: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    old = with_canaries(pair[0], *(Canary(prompt=one.prompt, answer=one.answer) for one in pair[0].manifest.canaries))
    found = looked_at(old, old.path)
    assert (found.holds, found.difference) == (True, None)
    found = looked_at(old, seen(pair[0], tmp_path, zeroed))
    assert found.reason == "adapter without effect"


def test_an_adapter_without_canaries_cannot_be_proven(pair: tuple[Adapter, Adapter]) -> None:
    found = looked_at(with_canaries(pair[0]), pair[0].path)
    assert (found.reason, found.holds, found.asked) == ("no canaries", False, 0)


def test_an_adapter_that_is_not_loaded_is_no_answer_at_all(pair: tuple[Adapter, Adapter]) -> None:
    async def work(url: str) -> None:
        runtime = VllmRuntime(url, SEED)
        await runtime.start()
        try:
            with pytest.raises(AdapterError, match="is not loaded"):
                await check_identity(runtime, pair[1])
        finally:
            await runtime.close()

    with served(vllm(Engine(SEED.path), "seed", str(SEED.path))) as url:
        asyncio.run(work(url))
