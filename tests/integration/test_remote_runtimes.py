"""Live runtimes on servers of other processes: what they promise, and every way in which a server can fail them.

The servers of tests/servers speak the protocols with the real small model behind them, so an answer tells which
adapter made it. With ACADEMY_TEST_VLLM_URL, or ACADEMY_TEST_OLLAMA_URL and ACADEMY_TEST_OLLAMA_MODEL, the tests of
what is promised run on a real server as well, which must hold the seed model and see this machine's files.
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
    """A server, and how a runtime on it is made."""

    make: Callable[..., Any]
    faults: Faults
    url: str = ""
    app: Any = None


@contextmanager
def on_vllm(engine: Engine, **about: Any) -> Iterator[Place]:
    faults = Faults()
    app = vllm(engine, "seed", str(SEED.path), faults=faults, **about)
    with served(app) as url:
        yield Place(lambda **more: VllmRuntime(url, SEED, **{"patience": 60.0, **more}), faults, url)
    _emptied(engine)


@contextmanager
def on_ollama(engine: Engine, **about: Any) -> Iterator[Place]:
    faults = Faults()
    app = ollama(SEED.path, engine, "seed", faults=faults, **about)
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


def run(work: Callable[..., Coroutine[Any, Any, Any]], *given: Any) -> Any:
    """Do the work with what is given; runtimes among it are closed then."""

    async def whole() -> Any:
        try:
            return await work(*given)
        finally:
            for one in given:
                if hasattr(one, "close"):
                    await one.close()

    return asyncio.run(whole())


async def started(runtime: LiveRuntime) -> None:
    await runtime.start()


def turn(request: str, limit: int = 24, **more: Any) -> Turn:
    return Turn(messages=({"role": "user", "content": request},), max_new_tokens=limit, **more)


async def pieces(runtime: LiveRuntime, asked: Turn, adapter: str) -> list[Piece]:
    return [piece async for piece in runtime.chat(asked, adapter)]


async def answer(runtime: LiveRuntime, request: str, adapter: str) -> str:
    return "".join(piece.text for piece in await pieces(runtime, turn(request), adapter)).strip()


# What is promised


@everywhere
def test_each_turn_is_answered_by_the_adapter_that_it_names(
    made: Made, engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: LiveRuntime) -> None:
        await runtime.start()
        assert runtime.loaded == frozenset()
        one, two = [await runtime.load(adapter.path) for adapter in pair]
        assert (one, two) == (pair[0].digest, pair[1].digest)
        assert runtime.loaded == {one, two}
        asked = [(topic, name) for topic in list(TOPICS)[:4] for name in (one, two, BASE)]
        said = await asyncio.gather(*(answer(runtime, topic, name) for topic, name in asked))
        for n in range(4):
            assert said[3 * n : 3 * n + 2] == [ANSWERS[n], ANSWERS[8 + n]]
            assert said[3 * n + 2] not in ANSWERS
        for adapter in pair:
            await runtime.unload(adapter.digest)

    with made(engine) as place:
        run(work, place.make())


@everywhere
def test_the_healthy_adapter_holds(made: Made, engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: LiveRuntime) -> None:
        await runtime.start()
        await runtime.load(pair[0].path)
        found = await check_identity(runtime, pair[0])
        assert (found.reason, found.same, found.runtime) == ("holds", found.asked, runtime.name)
        assert found.difference is not None
        assert found.difference <= runtime.capabilities.tolerance
        await runtime.unload(pair[0].digest)

    with made(engine) as place:
        run(work, place.make())


@everywhere
def test_loading_again_is_free_and_a_second_runtime_finds_what_the_first_loaded(
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
def test_an_unloaded_adapter_is_refused_until_it_is_loaded_again(
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
def test_lengths_stops_seeds_and_counts(made: Made, engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
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
        drawn = [
            "".join(piece.text for piece in await pieces(runtime, turn("hello", temperature=1.5, seed=seed), name))
            for seed in (1, 1, 2, 3)
        ]
        assert drawn[0] == drawn[1]
        assert len(set(drawn)) > 1
        with raises_refusal(InputError, "context holds 1,024"):
            await answer(runtime, "a b c " * 1000, name)
        await runtime.unload(name)

    with made(engine) as place:
        run(work, place.make())


@everywhere
def test_an_adapter_of_another_base_is_refused_before_anything_is_sent(
    made: Made, engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: Any) -> None:
        await runtime.start()
        runtime._admit = partial(open_adapter, base_digest="0" * 64)
        with raises_refusal(AdapterError, "ADAPTER_BASE_MODEL_MISMATCH"):
            await runtime.load(pair[0].path)

    with made(engine) as place:
        run(work, place.make())


# How a server can fail


@on_ours
def test_a_server_that_dies_in_the_middle_of_an_answer(
    made: Made, engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: LiveRuntime, faults: Faults) -> None:
        await runtime.start()
        name = await runtime.load(pair[0].path)
        faults.dies_after = 2
        heard = []
        with raises_refusal(ServingError, "in the middle of an answer"):
            async for piece in runtime.chat(turn("printer"), name):
                heard.append(piece)  # noqa: PERF401
        assert len(heard) == 2
        faults.dies_after = 0
        with raises_refusal(ServingError, "in the middle of an answer"):
            await answer(runtime, "printer", name)
        faults.dies_after = None
        assert await answer(runtime, "printer", name) == ANSWERS[0]

    with made(engine) as place:
        run(work, place.make(), place.faults)


@on_ours
def test_an_error_in_the_stream_is_told_in_its_words(made: Made, engine: Engine) -> None:
    async def work(runtime: LiveRuntime, faults: Faults) -> None:
        await runtime.start()
        faults.fails_after = 1
        with raises_refusal(ServingError, "EngineCore encountered an issue|runner process no longer running"):
            await answer(runtime, "printer", BASE)

    with made(engine) as place:
        run(work, place.make(), place.faults)


@on_ours
def test_a_server_that_is_silent_is_given_up(made: Made, engine: Engine) -> None:
    async def work(runtime: LiveRuntime, faults: Faults) -> None:
        await runtime.start()
        faults.silent_for = 5.0
        with raises_refusal(ServingError, "was silent for 1 seconds"):
            await answer(runtime, "printer", BASE)

    with made(engine) as place:
        run(work, place.make(patience=1.0), place.faults)


@on_ours
@pytest.mark.parametrize("status", [429, 503])
def test_a_full_server_says_so(made: Made, engine: Engine, status: int) -> None:
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
def test_a_failed_request_is_told_with_its_status(made: Made, engine: Engine) -> None:
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
def test_an_answer_in_shreds_is_the_same_answer(made: Made, engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: LiveRuntime, faults: Faults) -> None:
        await runtime.start()
        name = await runtime.load(pair[0].path)
        faults.shredded = True
        assert await answer(runtime, "printer", name) == ANSWERS[0]

    with made(engine) as place:
        run(work, place.make(), place.faults)


@on_ours
def test_whoever_stops_listening_stops_the_answer(made: Made, engine: Engine) -> None:
    async def work(runtime: Any, faults: Faults) -> None:
        await runtime.start()
        faults.silent_for = 0.05
        heard = runtime.chat(turn("hello", 500, temperature=2.0, seed=1), BASE)
        async for _ in heard:
            break
        await heard.aclose()
        for _ in range(100):
            if faults.cancelled:
                break
            await asyncio.sleep(0.05)
        assert faults.cancelled == 1

    with made(engine) as place:
        run(work, place.make(), place.faults)


@on_ours
def test_an_adapter_stays_until_its_last_turn_has_ended(
    made: Made, engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: LiveRuntime, faults: Faults) -> None:
        await runtime.start()
        name = await runtime.load(pair[0].path)
        faults.silent_for = 0.1
        under_way = asyncio.create_task(answer(runtime, "printer", name))
        await asyncio.sleep(0.3)
        leaving = asyncio.create_task(runtime.unload(name))
        await asyncio.sleep(0.05)
        assert not leaving.done()
        assert runtime.loaded == frozenset()
        assert await under_way == ANSWERS[0]
        await leaving

    with made(engine) as place:
        run(work, place.make(), place.faults)


@pytest.mark.parametrize("kind", [VllmRuntime, OllamaRuntime])
def test_no_server_at_all(kind: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    more = {"model": "seed"} if kind is OllamaRuntime else {}
    with raises_refusal(ServingError, "There is no (vllm|ollama) server at"):
        run(started, kind(f"http://127.0.0.1:{free}", SEED, **more))
    with raises_refusal(InputError, "is not the URL of a server"):
        run(started, kind("nowhere", SEED, **more))


def test_a_server_of_another_kind(engine: Engine) -> None:
    with on_vllm(engine) as place:
        url = place.url
        with raises_refusal(ServingError, r"refused \(404\)"):
            run(started, OllamaRuntime(url, SEED, model="seed"))
    with on_ollama(engine) as place:
        url = place.url
        with raises_refusal(ServingError, r"refused \(404\)"):
            run(started, VllmRuntime(url, SEED))


# vLLM alone


def test_vllm_is_asked_with_token_ids_and_nothing_is_left_to_its_defaults(
    engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        assert runtime.base_proven
        await answer(runtime, "printer", await runtime.load(pair[0].path))

    with on_vllm(engine) as place:
        run(work, place.make())
        asked = place.faults.asked[0]
    assert asked["model"] == pair[0].digest
    assert all(isinstance(token, int) for token in asked["prompt"])
    said = {name: asked[name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    assert said == {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}


def test_a_base_model_that_cannot_be_proven_is_left_to_the_canaries(
    engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        assert not runtime.base_proven
        await runtime.load(pair[0].path)
        assert (await check_identity(runtime, pair[0])).holds

    with served(vllm(engine, "assistant", "/models/assistant")) as url:
        run(work, VllmRuntime(url, SEED))
    _emptied(engine)


def test_vllm_that_does_not_see_the_adapter(engine: Engine, pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        with raises_refusal(AdapterError, "does not see the adapter"):
            await runtime.load(pair[0].path)
        assert runtime.loaded == frozenset()

    with on_vllm(engine) as place:
        run(work, place.make(seen_as="/elsewhere/adapters"))


def test_vllm_reads_the_adapter_where_it_sees_it(engine: Engine, pair: tuple[Adapter, Adapter], tmp_path: Path) -> None:
    there = seen(pair[0], tmp_path)

    async def work(runtime: VllmRuntime) -> str:
        await runtime.start()
        return await answer(runtime, "printer", await runtime.load(pair[0].path))

    with on_vllm(engine) as place:
        assert run(work, place.make(seen_as=str(there.parent))) == ANSWERS[0]


def test_a_name_that_stands_for_other_files_is_not_taken_over(
    engine: Engine, pair: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    seen(pair[0], tmp_path)

    async def work(first: VllmRuntime, second: VllmRuntime) -> None:
        await first.start()
        await first.load(pair[0].path)
        await second.start()
        with raises_refusal(AdapterError, "has already been loaded"):
            await second.load(pair[0].path)

    with on_vllm(engine) as place:
        run(work, place.make(seen_as=str(tmp_path)), place.make())


def test_vllm_without_runtime_updating(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        with raises_refusal(ServingError, "does not allow loading adapters while it runs"):
            await runtime.load(pair[0].path)

    with on_vllm(engine, updating=False) as place:
        run(work, place.make())


def test_a_rank_that_is_too_large_for_the_server(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        with raises_refusal(AdapterError, "LoRA rank 8 is greater than max_lora_rank 4"):
            await runtime.load(pair[0].path)

    with on_vllm(engine, max_rank=4) as place:
        run(work, place.make())


def test_dora_is_refused_and_rslora_is_served_by_vllm(
    engine: Engine, pair: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    dora = forged(pair[0], tmp_path / "dora", lambda _, config: config.update(use_dora=True))
    rslora = forged(pair[0], tmp_path / "rslora", lambda _, config: config.update(use_rslora=True))

    async def work(runtime: VllmRuntime) -> None:
        await runtime.start()
        with raises_refusal(AdapterError, "A and B instead of A and B and DoRA"):
            await runtime.load(dora)
        assert await runtime.load(rslora) in runtime.loaded

    with on_vllm(engine) as place:
        run(work, place.make())


def test_a_server_that_was_started_anew_has_forgotten_the_adapter(
    engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
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


# Ollama alone


def merged(folder: Path) -> Path:
    """Base and adapter in one file, as the test server reads it."""
    whole: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(SEED.path, dtype="float32"), folder)
    tensors = {name: tensor.clone() for name, tensor in whole.merge_and_unload().state_dict().items()}
    target = folder.parent / f"merged-{folder.name}.gguf"
    target.write_bytes(MAGIC + save(tensors))
    return target


def test_ollama_that_takes_no_adapters_any_more_gets_a_merged_model(
    engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        assert (runtime.capabilities.rslora, runtime.capabilities.dora) == (True, True)
        await runtime.load(pair[0].path)
        found = await check_identity(runtime, pair[0])
        assert found.holds, found
        assert await answer(runtime, "printer", pair[0].digest) == ANSWERS[0]
        assert await answer(runtime, "printer", BASE) not in ANSWERS

    with on_ollama(engine, version="0.34.4") as place:
        run(work, place.make(merged_gguf=merged))


def test_ollama_that_takes_no_adapters_and_nothing_to_merge_with(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        assert not runtime.capabilities.hot
        with raises_refusal(AdapterError, "version 0.34.4 does not convert adapters"):
            await runtime.load(pair[0].path)
        assert runtime.loaded == frozenset()

    with on_ollama(engine, version="0.34.4") as place:
        run(work, place.make())


def test_rslora_is_refused_where_ollama_would_forget_its_scale(
    engine: Engine, pair: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    rslora = forged(pair[0], tmp_path, lambda _, config: config.update(use_rslora=True))

    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        with raises_refusal(AdapterError, "is an rsLoRA adapter, which ollama does not serve"):
            await runtime.load(rslora)

    with on_ollama(engine) as place:
        run(work, place.make())


def test_ollama_is_asked_raw_by_tag_and_nothing_is_left_to_its_defaults(
    engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        await answer(runtime, "printer", await runtime.load(pair[0].path))

    with on_ollama(engine) as place:
        run(work, place.make())
        asked, app = place.faults.asked[0], place.app
    assert asked["model"] == f"academy/{SEED.family}:{pair[0].digest[:16]}"
    assert asked["raw"]
    assert asked["prompt"] == "<|user|>\nprinter<|end|>\n<|assistant|>\n"
    said = {name: asked["options"][name] for name in ("temperature", "top_p", "top_k", "min_p", "repeat_penalty")}
    assert said == {"temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repeat_penalty": 1}
    assert asked["options"]["num_ctx"] == 1024
    assert app.state.memory == {"seed", asked["model"]}


def test_a_tag_that_is_not_known_to_be_the_adapter_is_made_anew(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        await runtime._connection.call(
            "POST", "/api/copy", {"source": "seed", "destination": runtime.tag(pair[0].digest)}
        )
        name = await runtime.load(pair[0].path)
        assert await answer(runtime, "printer", name) == ANSWERS[0]

    with on_ollama(engine) as place:
        run(work, place.make())


def test_the_alias_follows_and_outlives_the_tag(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: OllamaRuntime, app: Any) -> None:
        await runtime.start()
        one, two = [await runtime.load(adapter.path) for adapter in pair]
        models = app.state.models
        for name in (one, two, BASE, one):
            alias = await runtime.point(name)
            assert alias == f"academy/{SEED.family}:champion"
            assert models[alias] is models[runtime.tag(name)]
        with raises_refusal(AdapterError, "is not loaded"):
            await runtime.point("0" * 64)
        await runtime.unload(one)
        assert runtime.tag(one) not in models
        assert runtime.tag(one) not in app.state.memory
        assert alias in models

    with on_ollama(engine) as place:
        run(work, place.make(), place.app)


def test_an_old_ollama_tells_no_logprobs_and_the_answers_decide(engine: Engine, pair: tuple[Adapter, Adapter]) -> None:
    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        assert not runtime.capabilities.logprobs
        await runtime.load(pair[0].path)
        found = await check_identity(runtime, pair[0])
        assert (found.holds, found.difference) == (True, None)

    with on_ollama(engine, version="0.12.10") as place:
        run(work, place.make())


def test_a_first_token_that_the_template_does_not_know_is_another_template(
    engine: Engine, pair: tuple[Adapter, Adapter]
) -> None:
    async def work(runtime: OllamaRuntime) -> None:
        await runtime.start()
        await runtime.load(pair[0].path)
        assert (await check_identity(runtime, pair[0])).reason == "another template"

    with on_ollama(engine, begins=True) as place:
        run(work, place.make())


def test_a_first_token_that_the_template_sets_too_is_set_once(
    engine: Engine, pair: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    twice = in_other_words(pair[0], tmp_path, "{% for message in", "<|begin|>{% for message in")

    async def work(runtime: OllamaRuntime) -> int:
        await runtime.start()
        name = await runtime.load(twice)
        return (await pieces(runtime, turn("printer"), name))[-1].prompt_tokens

    with on_ollama(engine, begins=True) as place:
        setting = run(work, place.make())
    with on_ollama(engine) as place:
        assert setting == run(work, place.make())


def test_a_model_that_ollama_does_not_have(engine: Engine) -> None:
    with on_ollama(engine) as place, raises_refusal(ServingError, "has no model llama9"):
        run(started, place.make(model="llama9"))
