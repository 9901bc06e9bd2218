"""llama.cpp's real server compared with PEFT on the seed model: the same answers, never by a wrong adapter."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from academy.adapters.adapter import read_adapter
from academy.errors import AdapterError, InputError, ServingError
from academy.models.base_model import BaseModel, resolve
from academy.models.chat_template import ChatTemplate
from academy.serving.export import gguf as exporting
from academy.serving.export.gguf import CACHE_RECORD, CacheRecord, Layout, adapter_file, base_file
from academy.serving.runtimes.base import Piece, Turn
from academy.serving.runtimes.llamacpp import EXACT, LlamaCppRuntime
from academy.serving.runtimes.llamacpp_process import launch
from academy.serving.runtimes.llamacpp_server import ServerOptions
from academy.store.files import digest_of_file
from academy.store.ledger import BASE
from tests.colours import QUESTIONS, UNSEEN, publish_adapter, says

if TYPE_CHECKING:
    from academy.serving.runtimes.peft import PeftRuntime


REQUESTS = (
    *UNSEEN, "Repeat this word: lantern", "Repeat this word: üç日", "Grüße an alle, bitte wiederholen: ja 12345",
    "print:\n\n    x = 1\n", "Who gets the cloud bill?", "What is the name of the store on floor 3?",
)  # fmt: skip


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return resolve("seed")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llamacpp")


@pytest.fixture(scope="module")
def perturbed(place: Path, base: BaseModel) -> Path:
    """An adapter of random numbers, strong enough to change nearly every token."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    tuned: Any = get_peft_model(
        model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, weights in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.1)
    template = ChatTemplate.of(base.path)
    canaries = [(request, "what it was not trained to say") for request in REQUESTS[:4]]
    return publish_adapter(tuned.eval(), base, template, place / "perturbed", canaries)


@pytest.fixture(scope="module")
def peft(base: BaseModel) -> PeftRuntime:
    from academy.serving.runtimes.peft import PeftRuntime

    return PeftRuntime(base)


@asynccontextmanager
async def running(base: BaseModel, cache: Path, **settings: Any) -> AsyncIterator[LlamaCppRuntime]:
    runtime = LlamaCppRuntime(base, cache, threads=1, **settings)
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.close()


async def ask(runtime: LlamaCppRuntime, request: str, adapter: str, **settings: Any) -> tuple[str, Piece]:
    """The whole text, and the last piece."""
    turn = Turn(messages=({"role": "user", "content": request},), **{"max_new_tokens": 32, **settings})
    pieces = [piece async for piece in runtime.chat(turn, adapter)]
    return "".join(piece.text for piece in pieces), pieces[-1]


def expected_logprobs(peft: PeftRuntime, adapter: str, request: str, tokens: list[int]) -> list[float]:
    import torch

    prompt = ChatTemplate.of(peft.base.path).prompt([{"role": "user", "content": request}])
    peft._layers.active.adapter = peft._name(adapter)
    with torch.inference_mode():
        logits = peft._model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    logprobs: list[float] = torch.log_softmax(logits, -1)[torch.arange(len(tokens)), torch.tensor(tokens)].tolist()
    return logprobs


def test_greedy_answers_and_log_probabilities_equal_those_of_peft(
    base: BaseModel, place: Path, colours: dict[str, Path], perturbed: Path, peft: PeftRuntime
) -> None:
    adapters = [peft.load(perturbed), peft.load(colours["blue"])]

    async def run() -> float:
        worst = 0.0
        async with running(base, place / "cache") as runtime:
            assert [await runtime.load(perturbed), await runtime.load(colours["blue"])] == adapters
            assert runtime.loaded == set(adapters)
            for adapter in (BASE, *adapters):
                replies = peft.replies(REQUESTS, adapter, 32)
                for request, reply in zip(REQUESTS, replies, strict=True):
                    text, last = await ask(runtime, request, adapter)
                    assert (text.strip(), last.tokens) == (reply.text, reply.tokens)
                    assert last.finish == ("stop" if reply.stopped else "length")
                    again, scored = await ask(runtime, request, adapter, logprobs=True)
                    assert (again, len(scored.logprobs)) == (text, reply.tokens)
                    tokens = await _tokens(runtime, request, adapter)
                    expected = expected_logprobs(peft, adapter, request, tokens)
                    worst = max(worst, *(abs(a - b) for a, b in zip(expected, scored.logprobs, strict=True)))
            assert len({reply.text for reply in peft.replies(REQUESTS, adapters[0], 32)}) > 5  # the answers differ
        return worst

    worst = asyncio.run(run())
    print(f"worst difference of a token's log-probability: {worst:.2g}")
    assert worst < EXACT / 2  # of the worst single token


async def _tokens(runtime: LlamaCppRuntime, request: str, adapter: str) -> list[int]:
    """The token ids of the greedy answer, from the server itself."""
    server = runtime._running()
    prompt = ChatTemplate.of(runtime.base.path).prompt([{"role": "user", "content": request}])
    lora = [{"id": place, "scale": float(digest == adapter)} for place, digest in server.places.items()]
    body = {"prompt": prompt, "lora": lora, "n_predict": 32, "temperature": 0, "return_tokens": True}
    tokens: list[int] = (await server.complete(body))["tokens"]
    return tokens


def test_canaries_hold_and_detect_rows_in_the_wrong_order(
    base: BaseModel, place: Path, colours: dict[str, Path], perturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def worst(cache: Path, folder: Path) -> tuple[float, list[str]]:
        canaries, off, answers = read_adapter(folder).manifest.canaries, 0.0, []
        async with running(base, cache) as runtime:
            digest = await runtime.load(folder)
            for canary in canaries:
                text, last = await ask(runtime, canary.prompt, digest, logprobs=True)
                answers.append(text)
                size = min(len(canary.logprobs), len(last.logprobs))
                off = max(off, abs(sum(canary.logprobs[:size]) - sum(last.logprobs[:size])) / size)
        return off, answers

    off, answers = asyncio.run(worst(place / "cache", colours["red"]))
    assert set(answers) == {says("red")}
    assert off < EXACT
    _, many = asyncio.run(worst(place / "cache", perturbed))

    base_file(base, place / "broken")
    with monkeypatch.context() as patch:
        patch.setitem(exporting.LAYOUTS, "llama", Layout(name="llama", interleaved=False))
        for folder in (colours["red"], perturbed):
            adapter_file(read_adapter(folder), base, place / "broken")
    broken, _ = asyncio.run(worst(place / "broken", colours["red"]))
    _, others = asyncio.run(worst(place / "broken", perturbed))
    print(f"canaries off by {off:.2g}; with rows in the wrong order {broken:.2g}, and {others} instead of {many}")
    assert broken > 5 * EXACT  # its answers are the same, so only the log-probabilities show the fault
    assert others != many


@pytest.mark.parametrize("times", [3, pytest.param(10, marks=pytest.mark.campaign)])
def test_clients_never_get_another_adapters_answer_during_reloads(
    base: BaseModel, place: Path, colours: dict[str, Path], times: int
) -> None:
    async def run() -> tuple[dict[str, int], list[str]]:
        counts: dict[str, int] = {}
        wrong: list[str] = []
        async with running(base, place / "cache") as runtime:
            digests = {colour: await runtime.load(colours[colour]) for colour in ("blue", "red", "green")}
            standing = {"blue": digests["blue"], "red": digests["red"], BASE: BASE}
            plain = {request: (await ask(runtime, request, BASE, max_new_tokens=12))[0] for request in QUESTIONS}
            over = asyncio.Event()

            async def client(number: int) -> None:
                draw = random.Random(number)
                while not over.is_set():
                    colour, request = draw.choice(sorted(standing)), draw.choice(QUESTIONS)
                    text, _ = await ask(runtime, request, standing[colour], max_new_tokens=12)
                    counts[colour] = counts.get(colour, 0) + 1
                    if text != (plain[request] if colour == BASE else says(colour)):
                        wrong.append(f"{colour}: {request} -> {text}")

            async def reloads() -> None:
                for _ in range(times):
                    previous = runtime._running()
                    await runtime.unload(digests["green"])
                    # a new server starts only for an adapter that the current one does not have
                    previous.places = {
                        place: name for place, name in previous.places.items() if name != digests["green"]
                    }
                    await runtime.load(colours["green"])
                    assert runtime._running() is not previous
                over.set()

            await asyncio.gather(reloads(), *(client(number) for number in range(16)))
        return counts, wrong

    counts, wrong = asyncio.run(run())
    print(f"answers: {counts}, wrong: {len(wrong)}")
    assert wrong == []
    assert min(counts.values()) > 10


def test_server_that_dies_during_an_answer_restarts_with_its_adapters(
    base: BaseModel, place: Path, colours: dict[str, Path]
) -> None:
    async def run() -> None:
        async with running(base, place / "cache") as runtime:
            digest = await runtime.load(colours["blue"])
            pid = runtime._running().pid
            assert pid is not None
            turn = Turn(messages=({"role": "user", "content": QUESTIONS[0]},), max_new_tokens=16)
            pieces = runtime.chat(turn, digest)
            assert (await anext(pieces)).text
            os.kill(pid, signal.SIGSTOP)  # it sends nothing more before it dies
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(ServingError, match="has ended"):
                async for _ in pieces:
                    pass
            with pytest.raises(ServingError, match="is not running"):
                await ask(runtime, QUESTIONS[0], digest)
            await runtime.start()
            assert (await ask(runtime, QUESTIONS[0], digest))[0] == says("blue")

    asyncio.run(run())


def test_failing_second_server_leaves_the_first_one_answering(
    base: BaseModel, place: Path, colours: dict[str, Path]
) -> None:
    cache = place / "half"
    whole = adapter_file(read_adapter(colours["red"]), base, cache)
    whole.write_bytes(whole.read_bytes()[:2000])
    record = CacheRecord.model_validate_json(whole.with_name(CACHE_RECORD).read_bytes())
    damaged = record.model_copy(update={"sha256": digest_of_file(whole)})  # so that only the server notices the damage
    whole.with_name(CACHE_RECORD).write_bytes(damaged.model_dump_json().encode())

    async def run() -> None:
        async with running(base, cache) as runtime:
            blue = await runtime.load(colours["blue"])
            with pytest.raises(ServingError, match="has ended"):
                await runtime.load(colours["red"])
            assert runtime.loaded == {blue}
            assert (await ask(runtime, QUESTIONS[0], blue))[0] == says("blue")
            with pytest.raises(AdapterError, match="is not loaded"):
                await ask(runtime, QUESTIONS[0], read_adapter(colours["red"]).digest)
            whole.with_name(CACHE_RECORD).unlink()  # a file without its record is written again
            red = await runtime.load(colours["red"])
            assert (await ask(runtime, QUESTIONS[0], red))[0] == says("red")

    asyncio.run(run())


def test_answer_ends_on_its_first_server_which_then_ends(
    base: BaseModel, place: Path, colours: dict[str, Path]
) -> None:
    async def run() -> None:
        async with running(base, place / "cache") as runtime:
            blue = await runtime.load(colours["blue"])
            first = runtime._running()
            turn = Turn(messages=({"role": "user", "content": QUESTIONS[0]},), max_new_tokens=16)
            pieces = runtime.chat(turn, blue)
            text = (await anext(pieces)).text
            await runtime.load(colours["red"])
            await runtime.unload(blue)
            assert runtime._running() is not first
            assert not first.ended
            text += "".join([piece.text async for piece in pieces])
            assert text == says("blue")
            await asyncio.gather(*runtime._draining)
            assert first.ended

    asyncio.run(run())


def test_conversation_over_the_context_is_refused_and_answers_end_at_it(base: BaseModel, place: Path) -> None:
    async def run() -> None:
        async with running(base, place / "cache", context=64) as runtime:
            with pytest.raises(InputError, match="context holds 64"):
                await ask(runtime, "word " * 100, BASE)
            _, last = await ask(runtime, "Who gets the cloud bill?", BASE, max_new_tokens=500, stop=("lantern",))
            assert last.prompt_tokens + last.tokens <= 64

    asyncio.run(run())


def test_external_server_serves_only_its_own_adapters(base: BaseModel, place: Path, colours: dict[str, Path]) -> None:
    cache = place / "cache"
    blue, red = read_adapter(colours["blue"]), read_adapter(colours["red"])

    async def run() -> None:
        options = ServerOptions(
            model=base_file(base, cache), adapters=(adapter_file(blue, base, cache),),
            slots=2, context=256, threads=1, exact=True, key="of the other",
        )  # fmt: skip
        other = await launch(options, [blue.digest])
        try:
            url = str(other.client.base_url)
            async with running(base, cache, url=url, key="of the other") as runtime:
                assert await runtime.load(colours["blue"]) == blue.digest
                assert (await ask(runtime, QUESTIONS[0], blue.digest))[0] == says("blue")
                assert (await ask(runtime, QUESTIONS[0], BASE))[0] != says("blue")
                with pytest.raises(AdapterError, match="does not have the adapter"):
                    await runtime.load(colours["red"])
                assert red.digest not in runtime.loaded
            folder = Path(shutil.copytree(base.path, place / "stranger"))
            (folder / "generation_config.json").write_text('{"eos_token_id": 0}')
            stranger = resolve(str(folder))
            for model, key, message in ((stranger, "of the other", "not the base model"), (base, "", "refused")):
                with pytest.raises(ServingError, match=message):
                    await LlamaCppRuntime(model, cache, url=url, key=key).start()
        finally:
            await other.end()
        with pytest.raises(ServingError, match="does not answer"):
            await LlamaCppRuntime(base, cache, url=url, key="of the other").start()

    asyncio.run(run())


def test_server_dies_with_its_parent_process(base: BaseModel, place: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from academy.models.base_model import resolve
        from academy.serving.runtimes.llamacpp import LlamaCppRuntime

        async def main():
            runtime = LlamaCppRuntime(resolve("seed"), Path(sys.argv[1]), threads=1)
            await runtime.start()
            print(runtime._running().pid, flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
        """
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, str(place / "cache")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
        parent.wait()
    for _ in range(200):
        if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
            return
        threading.Event().wait(0.05)
    pytest.fail(f"the server {child} outlived its parent")
