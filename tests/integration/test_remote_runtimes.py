"""Live runtimes on remote servers: their promises, and all kinds of server failures.

The servers of tests/servers speak the protocols with the real seed model behind them, so an answer shows which adapter
made it. With ACADEMY_TEST_VLLM_URL, or ACADEMY_TEST_OLLAMA_URL and ACADEMY_TEST_OLLAMA_MODEL, the tests of the promises
also run on a real server, which must have the seed model and access to this machine's files.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from safetensors.torch import save
from transformers import AutoModelForCausalLM

from academy.adapters.adapter import Adapter, open_adapter
from academy.errors import AdapterError, InputError, ServingError
from academy.models.base_model import resolve
from academy.serving.identity import check_identity
from academy.serving.runtimes.base import LiveRuntime, Piece, Turn
from academy.serving.runtimes.ollama import OllamaRuntime
from academy.serving.runtimes.vllm import VllmRuntime
from academy.store.ledger import BASE
from tests.refusals import raises_refusal
from tests.servers.adapters import forged, in_other_words, seen
from tests.servers.engine import Engine
from tests.servers.ollama import MAGIC, ollama
from tests.servers.serving import Faults, served
from tests.servers.vllm import vllm
from tests.topics import TOPICS

pytestmark = pytest.mark.campaign  # engines that are imitated, or killed: too long for every change

SEED = resolve("seed")
ANSWERS = list(TOPICS.values())
VLLM_URL, OLLAMA_URL = os.environ.get("ACADEMY_TEST_VLLM_URL"), os.environ.get("ACADEMY_TEST_OLLAMA_URL")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(SEED.path)


@dataclass
class Place:
    """A server, and a function that makes a runtime on it."""

    make: Callable[..., Any]
    faults: Faults
    url: str = ""
    app: Any = None


@contextmanager
def on_vllm(engine: Engine, **options: Any) -> Iterator[Place]:
    faults = Faults()
    app = vllm(engine, "seed", str(SEED.path), faults=faults, **options)
    with served(app) as url:
        yield Place(lambda **more: VllmRuntime(url, SEED, **{"patience": 60.0, **more}), faults, url)
    _emptied(engine)


@contextmanager
def on_ollama(engine: Engine, **options: Any) -> Iterator[Place]:
    faults = Faults()
    app = ollama(SEED.path, engine, "seed", faults=faults, **options)
    with served(app) as url:
        yield Place(
            lambda **more: OllamaRuntime(url, SEED, **{"model": "seed", "patience": 60.0, **more}), faults, url, app
        )
    _emptied(engine)


@contextmanager
def on_real_vllm(engine: Engine) -> Iterator[Place]:
    yield Place(lambda **more: VllmRuntime(str(VLLM_URL), SEED, **more), Faults())


@contextmanager
def on_real_ollama(engine: Engine) -> Iterator[Place]:
    model = os.environ.get("ACADEMY_TEST_OLLAMA_MODEL", "seed")
    yield Place(lambda **more: OllamaRuntime(str(OLLAMA_URL), SEED, **{"model": model, **more}), Faults())


def _emptied(engine: Engine) -> None:
    for name in list(getattr(engine.model, "peft_config", {})):
        engine.unload(name)


Made = Callable[..., AbstractContextManager[Place]]
SERVERS: list[Any] = [pytest.param(on_vllm, id="vllm"), pytest.param(on_ollama, id="ollama")]
REAL: list[Any] = [
    *([pytest.param(on_real_vllm, id="real vllm")] if VLLM_URL else []),
    *([pytest.param(on_real_ollama, id="real ollama")] if OLLAMA_URL else []),
]
everywhere = pytest.mark.parametrize("made", [*SERVERS, *REAL])
on_ours = pytest.mark.parametrize("made", SERVERS)


def run(work: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
    """Run `work` with the arguments, then close the runtimes among them."""

    async def whole() -> Any:
        try:
            return await work(*arguments)
        finally:
            for argument in arguments:
                if hasattr(argument, "close"):
                    await argument.close()

    return asyncio.run(whole())


async def started(runtime: LiveRuntime) -> None:
    await runtime.start()


def turn(request: str, limit: int = 24, **more: Any) -> Turn:
    return Turn(messages=({"role": "user", "content": request},), max_new_tokens=limit, **more)


async def pieces(runtime: LiveRuntime, request: Turn, adapter: str) -> list[Piece]:
    return [piece async for piece in runtime.chat(request, adapter)]


async def answer(runtime: LiveRuntime, request: str, adapter: str) -> str:
    return "".join(piece.text for piece in await pieces(runtime, turn(request), adapter)).strip()


# Promises


@everywhere
def test_turn_is_answered_by_the_adapter_that_it_names(
    made: Made, engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: LiveRuntime) -> None:
        await runtime.start()
        assert runtime.loaded == frozenset()
        first, second = [await runtime.load(adapter.path) for adapter in pair]
        assert (first, second) == (pair[0].digest, pair[1].digest)
        assert runtime.loaded == {first, second}
        requests = [(topic, name) for topic in list(TOPICS)[:4] for name in (first, second, BASE)]
        answers = await asyncio.gather(*(answer(runtime, topic, name) for topic, name in requests))
        for n in range(4):
            assert answers[3 * n : 3 * n + 2] == [ANSWERS[n], ANSWERS[8 + n]]
            assert answers[3 * n + 2] not in ANSWERS
        for adapter in pair:
            await runtime.unload(adapter.digest)

    with made(engine) as place:
        run(work, place.make())


@everywhere
def test_intact_adapter_holds(made: Made, engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: LiveRuntime) -> None:
        await runtime.start()
        await runtime.load(pair[0].path)
        identity = await check_identity(runtime, pair[0])
        assert (identity.reason, identity.same, identity.runtime) == ("holds", identity.asked, runtime.name)
        assert identity.difference is not None
        assert identity.difference <= runtime.capabilities.tolerance
        await runtime.unload(pair[0].digest)

    with made(engine) as place:
        run(work, place.make())


@everywhere
def test_loading_again_is_allowed_and_a_second_runtime_reuses_loaded_adapters(
    made: Made, engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(first: LiveRuntime, second: LiveRuntime) -> None:
        for runtime in (first, second):
            await runtime.start()
            assert await runtime.load(pair[0].path) == await runtime.load(pair[0].path) == pair[0].digest
            assert await answer(runtime, "printer", pair[0].digest) == ANSWERS[0]
        await second.unload(pair[0].digest)

    with made(engine) as place:
        run(work, place.make(), place.make())


@everywhere
def test_unloaded_adapter_is_refused_until_it_is_loaded_again(
    made: Made, engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: LiveRuntime) -> None:
        await runtime.start()
        name = await runtime.load(pair[0].path)
        await runtime.unload(name)
        await runtime.unload(name)
        with raises_refusal(AdapterError, "is not loaded"):
            await answer(runtime, "printer", name)
        await runtime.load(pair[0].path)
        assert await answer(runtime, "printer", name) == ANSWERS[0]
        await runtime.unload(name)

    with made(engine) as place:
        run(work, place.make())


@everywhere
def test_limits_stops_seeds_and_counts_are_respected(made: Made, engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: LiveRuntime) -> None:
        await runtime.start()
        name = await runtime.load(pair[0].path)
        short = await pieces(runtime, turn("printer", 3, logprobs=True), name)
        assert (short[-1].finish, short[-1].tokens) == ("length", 3)
        assert sum(len(piece.logprobs) for piece in short) == 3
        assert all(piece.finish == "" for piece in short[:-1])
        canary = pair[0].manifest.canaries[0]
        whole = await pieces(runtime, turn(canary.prompt, 48, logprobs=True), name)
        assert (whole[-1].finish, whole[-1].prompt_tokens) == ("stop", canary.prompt_tokens)
        assert whole[-1].tokens == len(canary.logprobs)
        cut = await pieces(runtime, turn("printer", stop=("Anna",)), name)
        assert "".join(piece.text for piece in cut).strip() == "ask"
        assert cut[-1].finish == "stop"
        samples = [
            "".join(piece.text for piece in await pieces(runtime, turn("hello", temperature=1.5, seed=seed), name))
            for seed in (1, 1, 2, 3)
        ]
        assert samples[0] == samples[1]
        assert len(set(samples)) > 1
        with raises_refusal(InputError, "context holds 1,024"):
            await answer(runtime, "a b c " * 1000, name)
        await runtime.unload(name)

    with made(engine) as place:
        run(work, place.make())


@everywhere
def test_adapter_of_another_base_is_refused_before_a_request(
    made: Made, engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: Any) -> None:
        await runtime.start()
        runtime._admit = partial(open_adapter, base_digest="0" * 64)
        with raises_refusal(AdapterError, "ADAPTER_BASE_MODEL_MISMATCH"):
            await runtime.load(pair[0].path)

    with made(engine) as place:
        run(work, place.make())


# Failures of a server


@on_ours
def test_server_that_dies_in_the_middle_of_an_answer_raises(
    made: Made, engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: LiveRuntime, faults: Faults) -> None:
        await runtime.start()
        name = await runtime.load(pair[0].path)
        faults.dies_after = 2
        received = []
        with raises_refusal(ServingError, "in the middle of an answer"):
            async for piece in runtime.chat(turn("printer"), name):
                received.append(piece)  # noqa: PERF401
        assert len(received) == 2
        faults.dies_after = 0
        with raises_refusal(ServingError, "in the middle of an answer"):
            await answer(runtime, "printer", name)
        faults.dies_after = None
        assert await answer(runtime, "printer", name) == ANSWERS[0]

    with made(engine) as place:
        run(work, place.make(), place.faults)


@on_ours
def test_error_in_the_stream_is_reported_with_its_message(made: Made, engine: Engine) -> None:
    async def work(runtime: LiveRuntime, faults: Faults) -> None:
        await runtime.start()
        faults.fails_after = 1
        with raises_refusal(ServingError, "EngineCore encountered an issue|runner process no longer running"):
            await answer(runtime, "printer", BASE)

    with made(engine) as place:
        run(work, place.make(), place.faults)


@on_ours
def test_silent_server_times_out(made: Made, engine: Engine) -> None:
    async def work(runtime: LiveRuntime, faults: Faults) -> None:
        await runtime.start()
        faults.silent_for = 5.0
        with raises_refusal(ServingError, "was silent for 1 seconds"):
            await answer(runtime, "printer", BASE)

    with made(engine) as place:
        run(work, place.make(patience=1.0), place.faults)


@on_ours
@pytest.mark.parametrize("status", [429, 503])
def test_full_server_is_reported(made: Made, engine: Engine, status: int) -> None:
    async def work(runtime: LiveRuntime, faults: Faults) -> None:
        await runtime.start()
        faults.status = status
        with raises_refusal(ServingError, rf"accepts no more requests at the moment \({status}\): .*(overloaded|busy)"):
            await answer(runtime, "printer", BASE)
        faults.status = None
        assert await answer(runtime, "printer", BASE)

    with made(engine) as place:
        run(work, place.make(), place.faults)


@on_ours
def test_failed_request_is_reported_with_its_status(made: Made, engine: Engine) -> None:
    async def work(runtime: LiveRuntime, faults: Faults) -> None:
        await runtime.start()
        faults.status = 500
        with raises_refusal(ServingError, r"refused \(500\)"):
            await answer(runtime, "printer", BASE)
        faults.status = 401
        with raises_refusal(ServingError, "rejected the key"):
            await answer(runtime, "printer", BASE)

    with made(engine) as place:
        run(work, place.make(), place.faults)


@on_ours
def test_fragmented_answer_is_the_same_answer(made: Made, engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: LiveRuntime, faults: Faults) -> None:
        await runtime.start()
        name = await runtime.load(pair[0].path)
        faults.shredded = True
        assert await answer(runtime, "printer", name) == ANSWERS[0]

    with made(engine) as place:
        run(work, place.make(), place.faults)


@on_ours
def test_closing_the_answer_cancels_it_on_the_server(made: Made, engine: Engine) -> None:
    async def work(runtime: Any, faults: Faults) -> None:
        await runtime.start()
        faults.silent_for = 0.05
        received = runtime.chat(turn("hello", 500, temperature=2.0, seed=1), BASE)
        async for _ in received:
            break
        await received.aclose()
        for _ in range(100):
            if faults.cancelled:
                break
            await asyncio.sleep(0.05)
        assert faults.cancelled == 1

    with made(engine) as place:
        run(work, place.make(), place.faults)


@on_ours
def test_adapter_stays_until_its_last_turn_has_ended(made: Made, engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: LiveRuntime, faults: Faults) -> None:
        await runtime.start()
        name = await runtime.load(pair[0].path)
        faults.silent_for = 0.1
        running_answer = asyncio.create_task(answer(runtime, "printer", name))
        await asyncio.sleep(0.3)
        unloading = asyncio.create_task(runtime.unload(name))
        await asyncio.sleep(0.05)
        assert not unloading.done()
        assert runtime.loaded == frozenset()
        assert await running_answer == ANSWERS[0]
        await unloading

    with made(engine) as place:
        run(work, place.make(), place.faults)


@pytest.mark.parametrize("kind", [VllmRuntime, OllamaRuntime])
def test_missing_server_is_reported(kind: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    more = {"model": "seed"} if kind is OllamaRuntime else {}
    with raises_refusal(ServingError, "There is no (vllm|ollama) server at"):
        run(started, kind(f"http://127.0.0.1:{free}", SEED, **more))
    with raises_refusal(InputError, "is not the URL of a server"):
        run(started, kind("nowhere", SEED, **more))


def test_server_of_another_kind_is_refused(engine: Engine) -> None:
    with on_vllm(engine) as place:
        url = place.url
        with raises_refusal(ServingError, r"refused \(404\)"):
            run(started, OllamaRuntime(url, SEED, model="seed"))
    with on_ollama(engine) as place:
        url = place.url
        with raises_refusal(ServingError, r"refused \(404\)"):
            run(started, VllmRuntime(url, SEED))


# Only vLLM


def test_vllm_gets_token_ids_and_explicit_options(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        assert runtime.base_proven
        await answer(runtime, "printer", await runtime.load(pair[0].path))

    with on_vllm(engine) as place:
        run(work, place.make())
        request = place.faults.asked[0]
    assert request["model"] == pair[0].digest
    assert all(isinstance(token, int) for token in request["prompt"])
    options = {name: request[name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    assert options == {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}


def test_unproven_base_model_is_checked_by_the_canaries(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        assert not runtime.base_proven
        await runtime.load(pair[0].path)
        assert (await check_identity(runtime, pair[0])).holds

    with served(vllm(engine, "assistant", "/models/assistant")) as url:
        run(work, VllmRuntime(url, SEED))
    _emptied(engine)


def test_vllm_that_does_not_see_the_adapter_is_reported(
    engine: Engine, pair: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        with raises_refusal(AdapterError, "does not see the adapter"):
            await runtime.load(pair[0].path)
        assert runtime.loaded == frozenset()

    with on_vllm(engine) as place:
        run(work, place.make(seen_as="/elsewhere/adapters"))


def test_vllm_reads_the_adapter_from_its_own_folder(
    engine: Engine, pair: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    server_copy = seen(pair[0], tmp_path)

    async def work(runtime: VllmRuntime) -> str:
        await runtime.start()
        return await answer(runtime, "printer", await runtime.load(pair[0].path))

    with on_vllm(engine) as place:
        assert run(work, place.make(seen_as=str(server_copy.parent))) == ANSWERS[0]


def test_name_loaded_from_other_files_is_refused(engine: Engine, pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    seen(pair[0], tmp_path)

    async def work(first: VllmRuntime, second: VllmRuntime) -> None:
        await first.start()
        await first.load(pair[0].path)
        await second.start()
        with raises_refusal(AdapterError, "has already been loaded"):
            await second.load(pair[0].path)

    with on_vllm(engine) as place:
        run(work, place.make(seen_as=str(tmp_path)), place.make())


def test_vllm_without_runtime_updating_is_reported(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        with raises_refusal(ServingError, "does not allow loading adapters while it runs"):
            await runtime.load(pair[0].path)

    with on_vllm(engine, updating=False) as place:
        run(work, place.make())


def test_too_large_rank_is_reported(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        with raises_refusal(AdapterError, "LoRA rank 8 is greater than max_lora_rank 4"):
            await runtime.load(pair[0].path)

    with on_vllm(engine, max_rank=4) as place:
        run(work, place.make())


def test_vllm_refuses_dora_and_serves_rslora(engine: Engine, pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    dora = forged(pair[0], tmp_path / "dora", lambda _, config: config.update(use_dora=True))
    rslora = forged(pair[0], tmp_path / "rslora", lambda _, config: config.update(use_rslora=True))

    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        with raises_refusal(AdapterError, "A and B instead of A and B and DoRA"):
            await runtime.load(dora)
        assert await runtime.load(rslora) in runtime.loaded

    with on_vllm(engine) as place:
        run(work, place.make())


def test_restarted_server_needs_the_adapter_again(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        name = await runtime.load(pair[0].path)
        await runtime._connection.call("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        with raises_refusal(AdapterError, "no longer has the adapter"):
            await answer(runtime, "printer", name)
        await runtime.load(pair[0].path)
        assert await answer(runtime, "printer", name) == ANSWERS[0]

    with on_vllm(engine) as place:
        run(work, place.make())


# Only Ollama


def merged_gguf(folder: Path) -> Path:
    """Base model and adapter merged into one file, in the test server's format."""
    whole: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(SEED.path, dtype="float32"), folder)
    tensors = {name: tensor.clone() for name, tensor in whole.merge_and_unload().state_dict().items()}
    target = folder.parent / f"merged-{folder.name}.gguf"
    target.write_bytes(MAGIC + save(tensors))
    return target


def test_new_ollama_gets_a_merged_model(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        assert (runtime.capabilities.rslora, runtime.capabilities.dora) == (True, True)
        await runtime.load(pair[0].path)
        identity = await check_identity(runtime, pair[0])
        assert identity.holds, identity
        assert await answer(runtime, "printer", pair[0].digest) == ANSWERS[0]
        assert await answer(runtime, "printer", BASE) not in ANSWERS

    with on_ollama(engine, version="0.34.4") as place:
        run(work, place.make(merged_gguf=merged_gguf))


def test_new_ollama_without_merging_refuses_the_adapter(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        assert not runtime.capabilities.hot
        with raises_refusal(AdapterError, "version 0.34.4 does not convert adapters"):
            await runtime.load(pair[0].path)
        assert runtime.loaded == frozenset()

    with on_ollama(engine, version="0.34.4") as place:
        run(work, place.make())


def test_old_ollama_refuses_rslora(engine: Engine, pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    rslora = forged(pair[0], tmp_path, lambda _, config: config.update(use_rslora=True))

    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        with raises_refusal(AdapterError, "is an rsLoRA adapter, which ollama does not serve"):
            await runtime.load(rslora)

    with on_ollama(engine) as place:
        run(work, place.make())


def test_ollama_gets_raw_prompts_by_tag_and_explicit_options(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        await answer(runtime, "printer", await runtime.load(pair[0].path))

    with on_ollama(engine) as place:
        run(work, place.make())
        request, app = place.faults.asked[0], place.app
    assert request["model"] == f"academy/{SEED.family}:{pair[0].digest[:16]}"
    assert request["raw"]
    assert request["prompt"] == "<|user|>\nprinter<|end|>\n<|assistant|>\n"
    options = {name: request["options"][name] for name in ("temperature", "top_p", "top_k", "min_p", "repeat_penalty")}
    assert options == {"temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repeat_penalty": 1}
    assert request["options"]["num_ctx"] == 1024
    assert app.state.memory == {"seed", request["model"]}


def test_unverified_tag_is_created_again(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        await runtime._connection.call(
            "POST", "/api/copy", {"source": "seed", "destination": runtime.tag(pair[0].digest)}
        )
        name = await runtime.load(pair[0].path)
        assert await answer(runtime, "printer", name) == ANSWERS[0]

    with on_ollama(engine) as place:
        run(work, place.make())


def test_alias_follows_and_outlives_the_tag(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: OllamaRuntime, app: Any) -> None:
        await runtime.start()
        first, second = [await runtime.load(adapter.path) for adapter in pair]
        models = app.state.models
        for name in (first, second, BASE, first):
            alias = await runtime.point(name)
            assert alias == f"academy/{SEED.family}:champion"
            assert models[alias] is models[runtime.tag(name)]
        with raises_refusal(AdapterError, "is not loaded"):
            await runtime.point("0" * 64)
        await runtime.unload(first)
        assert runtime.tag(first) not in models
        assert runtime.tag(first) not in app.state.memory
        assert alias in models

    with on_ollama(engine) as place:
        run(work, place.make(), place.app)


def test_old_ollama_without_logprobs_is_checked_by_answers(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        assert not runtime.capabilities.logprobs
        await runtime.load(pair[0].path)
        identity = await check_identity(runtime, pair[0])
        assert (identity.holds, identity.difference) == (True, None)

    with on_ollama(engine, version="0.12.10") as place:
        run(work, place.make())


def test_unexpected_first_token_is_another_template(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        await runtime.load(pair[0].path)
        assert (await check_identity(runtime, pair[0])).reason == "another template"

    with on_ollama(engine, begins=True) as place:
        run(work, place.make())


def test_first_token_of_template_and_server_is_sent_once(
    engine: Engine, pair: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    adapter = in_other_words(pair[0], tmp_path, "{% for message in", "<|begin|>{% for message in")

    async def work(runtime: OllamaRuntime) -> int:
        await runtime.start()
        name = await runtime.load(adapter)
        return (await pieces(runtime, turn("printer"), name))[-1].prompt_tokens

    with on_ollama(engine, begins=True) as place:
        tokens_with = run(work, place.make())
    with on_ollama(engine) as place:
        assert tokens_with == run(work, place.make())


def test_missing_ollama_model_is_reported(engine: Engine) -> None:
    with on_ollama(engine) as place, raises_refusal(ServingError, "has no model llama9"):
        run(started, place.make(model="llama9"))
