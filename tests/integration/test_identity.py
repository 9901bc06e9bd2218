"""Identity checks: each fault between an adapter and its answers is detected and named.

The server speaks vLLM's protocol with the real model behind it, and loads whatever its own folder contains.
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


def identify(
    adapter: Adapter, theirs: Path, *, ours: Path | None = None, tolerance: float = TOLERANCE, **engine_options: Any
) -> Identity:
    """Load an adapter here while the server reads `theirs`, then check the identity. `engine_options`: the server's."""

    async def work(url: str) -> Identity:
        runtime = VllmRuntime(url, SEED, seen_as=str(theirs.parent), tolerance=tolerance)
        await runtime.start()
        await runtime.load(ours or adapter.path)
        identity = await check_identity(runtime, adapter)
        await runtime.close()
        return identity

    engine = Engine(SEED.path, **engine_options) if engine_options else sound_engine()
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


def test_trainer_writes_canaries_that_distinguish_adapter_and_base(pair: tuple[Adapter, Adapter]) -> None:
    for adapter in pair:
        canaries = adapter.manifest.canaries
        assert len(canaries) == 8
        for canary in canaries:
            assert canary.answer != canary.base_answer
            assert len(canary.logprobs) == len(canary.base_logprobs) > 0
            assert sum(canary.base_logprobs) < sum(canary.logprobs) <= 0
            assert max(canary.base_answer_logprobs) <= 0
            assert all(round(logprob, 4) == logprob for logprob in canary.logprobs)
            assert canary.prompt_tokens > 0


def test_peft_runtime_answers_the_canaries(pair: tuple[Adapter, Adapter]) -> None:
    runtime = PeftRuntime(SEED)
    for adapter in pair:
        runtime.verify(runtime.load(adapter.path))
        for canary in adapter.manifest.canaries:
            score = runtime.loglikelihoods([(canary.prompt, canary.answer)], adapter.digest)[0]
            assert score == pytest.approx(sum(canary.logprobs[:-1]), abs=0.01)


@pytest.mark.parametrize("name", CHANGES)
def test_changed_files_are_detected_and_named(name: str, pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    change, right = CHANGES[name]
    tolerance = FINE if name in SUBTLE else TOLERANCE
    identity = identify(pair[0], seen(pair[0], tmp_path, change), tolerance=tolerance)
    assert identity.reason in right, identity
    assert identity.holds == (name == "nothing")
    assert identity.sentence


def test_intact_adapter_holds_within_the_fine_tolerance(pair: tuple[Adapter, Adapter]) -> None:
    identity = identify(pair[0], pair[0].path, tolerance=FINE)
    assert identity.holds, identity


def test_another_adapter_under_the_same_name_is_detected(pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    other_folder = seen(pair[1], tmp_path).rename(tmp_path / pair[0].path.name)
    identity = identify(pair[0], other_folder)
    assert (identity.reason, identity.same) == ("another adapter", 0)


def test_another_base_model_is_detected(pair: tuple[Adapter, Adapter]) -> None:
    identity = identify(pair[0], pair[0].path, perturbed=0.1)
    assert identity.reason == "another base", identity


def test_another_template_is_detected(pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    folder = in_other_words(pair[0], tmp_path)
    identity = identify(read_adapter(folder), folder)  # with the canaries of the original template
    assert identity.reason == "another template", identity


def test_files_altered_after_loading_are_detected(pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    ours = seen(pair[0], tmp_path / "ours")
    theirs = seen(pair[1], tmp_path / "theirs").rename(tmp_path / "theirs" / pair[0].path.name)
    weights = bytearray((ours / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (ours / WEIGHTS).write_bytes(weights)
    identity = identify(pair[0].model_copy(update={"path": ours}), theirs, ours=pair[0].path)
    assert identity.reason == "broken weights"
    assert "was altered" in identity.sentence


def test_eight_bit_weights_hold_only_within_a_coarse_tolerance(pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    fine = identify(pair[0], pair[0].path, bits=8, tolerance=0.0005)
    coarse = identify(pair[0], pair[0].path, bits=8, tolerance=0.1)
    assert (fine.holds, coarse.holds) == (False, True), (fine, coarse)
    zero = identify(pair[0], seen(pair[0], tmp_path, zeroed), bits=8, tolerance=0.1)
    assert zero.reason == "adapter without effect"


def test_answers_alone_decide_for_manifests_without_log_probabilities(
    pair: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    old = with_canaries(
        pair[0], *(Canary(prompt=canary.prompt, answer=canary.answer) for canary in pair[0].manifest.canaries)
    )
    identity = identify(old, old.path)
    assert (identity.holds, identity.difference) == (True, None)
    identity = identify(old, seen(pair[0], tmp_path, zeroed))
    assert identity.reason == "adapter without effect"


def test_adapter_without_canaries_cannot_be_proven(pair: tuple[Adapter, Adapter]) -> None:
    identity = identify(with_canaries(pair[0]), pair[0].path)
    assert (identity.reason, identity.holds, identity.asked) == ("no canaries", False, 0)


def test_adapter_that_is_not_loaded_raises(pair: tuple[Adapter, Adapter]) -> None:
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
