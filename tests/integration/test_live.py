"""The live runtime in this process, with adapters whose answers show which adapter made them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from academy.errors import AdapterError, InputError, ServingError
from academy.models.base_model import resolve
from academy.serving.runtimes.base import Piece, Turn
from academy.serving.runtimes.detokenizer import Detokenizer
from academy.serving.runtimes.peft_live import PeftLive
from tests.colours import QUESTIONS, says


def turn(text: str, **more: Any) -> Turn:
    return Turn(messages=({"role": "user", "content": text},), max_new_tokens=more.pop("limit", 24), **more)


async def pieces(answer: AsyncIterator[Piece]) -> list[Piece]:
    return [piece async for piece in answer]


async def text_of(answer: AsyncIterator[Piece]) -> str:
    return "".join([piece.text async for piece in answer]).strip()


def with_runtime(do: Callable[[PeftLive], Awaitable[None]]) -> None:
    """Run `do` with a started runtime, and close it."""

    async def run() -> None:
        runtime = PeftLive(resolve("seed"))
        await runtime.start()
        try:
            await do(runtime)
        finally:
            await runtime.close()

    asyncio.run(run())


def test_turn_is_answered_by_the_adapter_it_names(colours: dict[str, Path]) -> None:
    """16 users while adapters are loaded and unloaded: no answer is mixed or dropped."""

    async def do(runtime: PeftLive) -> None:
        digests = {colour: await runtime.load(folder) for colour, folder in colours.items()}
        alone = {q: await text_of(runtime.chat(turn(q), "base")) for q in QUESTIONS}
        wrong: list[str] = []
        answered = 0

        async def user(number: int) -> None:
            nonlocal answered
            chance = random.Random(number)
            for _ in range(10):
                colour = chance.choice([*list(colours)[:3], "base"])
                question = chance.choice(QUESTIONS)
                text = await text_of(runtime.chat(turn(question), digests.get(colour, "base")))
                answered += 1
                if text != (alone[question] if colour == "base" else says(colour)):
                    wrong.append(f"{colour}: {text}")

        async def swaps() -> None:
            for _ in range(12):
                await runtime.unload(digests["gold"])
                assert digests["gold"] not in runtime.loaded
                await runtime.load(colours["gold"])
                assert await text_of(runtime.chat(turn("hello"), digests["gold"])) == says("gold")

        await asyncio.gather(swaps(), *(user(number) for number in range(16)))
        assert (answered, wrong) == (160, [])

    with_runtime(do)


def test_unloaded_adapter_finishes_its_running_answers(colours: dict[str, Path]) -> None:
    async def do(runtime: PeftLive) -> None:
        blue = await runtime.load(colours["blue"])
        answer = runtime.chat(turn("hello"), blue)
        first = await anext(answer)
        await runtime.unload(blue)
        with pytest.raises(AdapterError, match="not loaded"):
            await text_of(runtime.chat(turn("hello"), blue))
        assert first.text + "".join([piece.text async for piece in answer]) == says("blue")
        assert await runtime.load(colours["blue"]) == blue
        assert await text_of(runtime.chat(turn("hello"), blue)) == says("blue")
        answer = runtime.chat(turn("hello"), blue)
        first = await anext(answer)
        await runtime.unload(blue)
        await runtime.load(colours["blue"])  # while the old turn still goes on
        assert first.text + "".join([piece.text async for piece in answer]) == says("blue")
        assert await text_of(runtime.chat(turn("hello"), blue)) == says("blue")

    with_runtime(do)


def test_answers_have_logprobs_counts_and_finish_reasons(colours: dict[str, Path]) -> None:
    async def do(runtime: PeftLive) -> None:
        blue = await runtime.load(colours["blue"])
        answer = await pieces(runtime.chat(turn("hello", logprobs=True), blue))
        assert [piece.finish for piece in answer[:-1]] == [""] * (len(answer) - 1)
        assert answer[-1].finish == "stop"
        logprobs = [logprob for piece in answer for logprob in piece.logprobs]
        assert len(logprobs) == answer[-1].tokens
        assert all(-0.5 < logprob <= 0 for logprob in logprobs), "its trained answer is unlikely"
        assert answer[-1].prompt_tokens == len(runtime._templates[blue].prompt(turn("hello").messages))
        short = await pieces(runtime.chat(turn("hello", limit=2), blue))
        assert (short[-1].finish, short[-1].tokens) == ("length", 2)
        stopped = await pieces(runtime.chat(turn("hello", stop=("er is",)), blue))
        assert "".join(piece.text for piece in stopped) == "the answ"
        assert stopped[-1].finish == "stop"
        samples = [await text_of(runtime.chat(turn("hello", temperature=2.0, seed=n), "base")) for n in (1, 1, 2, 3, 4)]
        assert samples[0] == samples[1]
        assert len(set(samples)) > 1
        careful = await text_of(runtime.chat(turn("hello", temperature=2.0, top_p=0.001, seed=5), blue))
        assert careful == says("blue")
        greedy = await text_of(runtime.chat(turn("hello", limit=5), "base"))
        for extreme in ({"top_p": 1e-300}, {"temperature": 1e-300}, {"temperature": 5e-324}, {"temperature": 1e-40}):
            request = turn("hello", limit=5, **{"temperature": 1.0, "seed": 5} | extreme)
            assert await text_of(runtime.chat(request, "base")) == greedy, "an extreme setting changed the answer"

    with_runtime(do)


def test_invalid_turns_are_refused_and_cancelled_turns_end(colours: dict[str, Path], tmp_path: Path) -> None:
    async def do(runtime: PeftLive) -> None:
        with pytest.raises(AdapterError, match="not loaded"):
            await text_of(runtime.chat(turn("hello"), "f" * 64))
        with pytest.raises(InputError, match="tokens"):
            await text_of(runtime.chat(turn("hello " * 3000), "base"))
        with pytest.raises(AdapterError):
            await runtime.load(tmp_path)
        answer = runtime.chat(turn("hello", limit=400), "base")
        await anext(answer)
        engine = runtime._engine
        assert engine is not None
        await answer.aclose()  # type: ignore[attr-defined]
        assert await text_of(runtime.chat(turn("hello"), "base"))
        while engine._groups:
            await asyncio.sleep(0.01)
        forward = engine.model.forward
        engine.model.forward = lambda **inputs: time.sleep(0.1) or forward(**inputs)
        answer = runtime.chat(turn("hello", limit=400), "base")
        await anext(answer)
        await runtime.close()  # long before the next token
        with pytest.raises(ServingError):
            await text_of(answer)
        with pytest.raises(ServingError):
            await text_of(runtime.chat(turn("hello"), "base"))
        await runtime.start()
        assert await text_of(runtime.chat(turn("hello"), "base"))

    with_runtime(do)


def test_a_model_that_breaks_ends_every_turn(colours: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda _: None)

    async def do(runtime: PeftLive) -> None:
        engine = runtime._engine
        assert engine is not None
        engine.model.forward = lambda **_: 1 / 0
        with pytest.raises(ServingError):
            await asyncio.wait_for(text_of(runtime.chat(turn("hello"), "base")), 30)
        with pytest.raises(ServingError):
            await runtime.load(colours["blue"])

    with_runtime(do)


def test_detokenizer_emits_whole_characters_and_cuts_at_stop_texts() -> None:
    from academy.models.chat_template import ChatTemplate

    tokenizer = ChatTemplate.of(resolve("seed").path).tokenizer
    for text in ("größer, naïve 日本語 🙂 done", "a b  c", "  indented\n\nlines", "x"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        detokenizer = Detokenizer(tokenizer)
        parts = [detokenizer.add(token) for token in ids]
        assert "".join(parts) + detokenizer.rest() == tokenizer.decode(ids)
        assert not any("\ufffd" in part for part in parts)
        for stop in ("b", "done", "lines", "üß", "nothing"):
            detokenizer = Detokenizer(tokenizer, (stop,))
            text_so_far = ""
            for token in ids:
                text_so_far += detokenizer.add(token)
                if detokenizer.stopped:
                    break
            text_so_far += detokenizer.rest()
            assert text_so_far == tokenizer.decode(ids).partition(stop)[0]
            assert detokenizer.stopped == (stop in text)
