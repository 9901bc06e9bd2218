"""The runtime for users, in this process, with adapters that show by their answers which one made them."""

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


async def said(answer: AsyncIterator[Piece]) -> str:
    return "".join([piece.text async for piece in answer]).strip()


def served(do: Callable[[PeftLive], Awaitable[None]]) -> None:
    """Run something with a runtime that is started and ended."""

    async def run() -> None:
        runtime = PeftLive(resolve("seed"))
        await runtime.start()
        try:
            await do(runtime)
        finally:
            await runtime.close()

    asyncio.run(run())


def test_each_turn_is_answered_by_the_adapter_it_names(colours: dict[str, Path]) -> None:
    """16 users while adapters come and go: no answer is a mix, none is dropped."""

    async def do(runtime: PeftLive) -> None:
        digests = {colour: await runtime.load(folder) for colour, folder in colours.items()}
        alone = {q: await said(runtime.chat(turn(q), "base")) for q in QUESTIONS}
        wrong: list[str] = []
        answered = 0

        async def user(number: int) -> None:
            nonlocal answered
            chance = random.Random(number)
            for _ in range(10):
                colour = chance.choice([*list(colours)[:3], "base"])
                question = chance.choice(QUESTIONS)
                found = await said(runtime.chat(turn(question), digests.get(colour, "base")))
                answered += 1
                if found != (alone[question] if colour == "base" else says(colour)):
                    wrong.append(f"{colour}: {found}")

        async def swaps() -> None:
            for _ in range(12):
                await runtime.unload(digests["gold"])
                assert digests["gold"] not in runtime.loaded
                await runtime.load(colours["gold"])
                assert await said(runtime.chat(turn("hello"), digests["gold"])) == says("gold")

        await asyncio.gather(swaps(), *(user(number) for number in range(16)))
        assert (answered, wrong) == (160, [])

    served(do)


def test_one_that_is_dropped_finishes_what_it_began(colours: dict[str, Path]) -> None:
    async def do(runtime: PeftLive) -> None:
        blue = await runtime.load(colours["blue"])
        answer = runtime.chat(turn("hello"), blue)
        first = await anext(answer)
        await runtime.unload(blue)
        with pytest.raises(AdapterError, match="not loaded"):
            await said(runtime.chat(turn("hello"), blue))
        assert first.text + "".join([piece.text async for piece in answer]) == says("blue")
        assert await runtime.load(colours["blue"]) == blue
        assert await said(runtime.chat(turn("hello"), blue)) == says("blue")
        answer = runtime.chat(turn("hello"), blue)
        first = await anext(answer)
        await runtime.unload(blue)
        await runtime.load(colours["blue"])  # while the old turn still goes on
        assert first.text + "".join([piece.text async for piece in answer]) == says("blue")
        assert await said(runtime.chat(turn("hello"), blue)) == says("blue")

    served(do)


def test_log_probabilities_counts_and_ends(colours: dict[str, Path]) -> None:
    async def do(runtime: PeftLive) -> None:
        blue = await runtime.load(colours["blue"])
        found = await pieces(runtime.chat(turn("hello", logprobs=True), blue))
        assert [piece.finish for piece in found[:-1]] == [""] * (len(found) - 1)
        assert found[-1].finish == "stop"
        told = [one for piece in found for one in piece.logprobs]
        assert len(told) == found[-1].tokens
        assert all(-0.5 < one <= 0 for one in told), "it was trained to say just this"
        assert found[-1].prompt_tokens == len(runtime._templates[blue].prompt(turn("hello").messages))
        short = await pieces(runtime.chat(turn("hello", limit=2), blue))
        assert (short[-1].finish, short[-1].tokens) == ("length", 2)
        stopped = await pieces(runtime.chat(turn("hello", stop=("er is",)), blue))
        assert "".join(piece.text for piece in stopped) == "the answ"
        assert stopped[-1].finish == "stop"
        drawn = [await said(runtime.chat(turn("hello", temperature=2.0, seed=n), "base")) for n in (1, 1, 2, 3, 4)]
        assert drawn[0] == drawn[1]
        assert len(set(drawn)) > 1
        careful = await said(runtime.chat(turn("hello", temperature=2.0, top_p=0.001, seed=5), blue))
        assert careful == says("blue")
        greedy = await said(runtime.chat(turn("hello", limit=5), "base"))
        for extreme in ({"top_p": 1e-300}, {"temperature": 1e-300}, {"temperature": 5e-324}, {"temperature": 1e-40}):
            asked = turn("hello", limit=5, **{"temperature": 1.0, "seed": 5} | extreme)
            assert await said(runtime.chat(asked, "base")) == greedy, "and the next user is answered as well"

    served(do)


def test_what_cannot_be_answered(colours: dict[str, Path], tmp_path: Path) -> None:
    async def do(runtime: PeftLive) -> None:
        with pytest.raises(AdapterError, match="not loaded"):
            await said(runtime.chat(turn("hello"), "f" * 64))
        with pytest.raises(InputError, match="tokens"):
            await said(runtime.chat(turn("hello " * 3000), "base"))
        with pytest.raises(AdapterError):
            await runtime.load(tmp_path)
        answer = runtime.chat(turn("hello", limit=400), "base")
        await anext(answer)
        left = runtime._engine
        assert left is not None
        await answer.aclose()  # type: ignore[attr-defined]
        assert await said(runtime.chat(turn("hello"), "base"))
        while left._groups:
            await asyncio.sleep(0.01)
        forward = left.model.forward
        left.model.forward = lambda **given: time.sleep(0.1) or forward(**given)
        answer = runtime.chat(turn("hello", limit=400), "base")
        await anext(answer)
        await runtime.close()  # long before the next token
        with pytest.raises(ServingError):
            await said(answer)
        with pytest.raises(ServingError):
            await said(runtime.chat(turn("hello"), "base"))
        await runtime.start()
        assert await said(runtime.chat(turn("hello"), "base"))

    served(do)


def test_a_model_that_breaks_ends_every_turn(colours: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda _: None)

    async def do(runtime: PeftLive) -> None:
        engine = runtime._engine
        assert engine is not None
        engine.model.forward = lambda **_: 1 / 0
        with pytest.raises(ServingError):
            await asyncio.wait_for(said(runtime.chat(turn("hello"), "base")), 30)
        with pytest.raises(ServingError):
            await runtime.load(colours["blue"])

    served(do)


def test_text_comes_in_whole_characters() -> None:
    from academy.models.chat_template import ChatTemplate

    tokenizer = ChatTemplate.of(resolve("seed").path).tokenizer
    for text in ("größer, naïve 日本語 🙂 done", "a b  c", "  indented\n\nlines", "x"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        words = Detokenizer(tokenizer)
        parts = [words.add(one) for one in ids]
        assert "".join(parts) + words.rest() == tokenizer.decode(ids)
        assert not any("\ufffd" in part for part in parts)
        for stop in ("b", "done", "lines", "üß", "nothing"):
            words = Detokenizer(tokenizer, (stop,))
            told = ""
            for one in ids:
                told += words.add(one)
                if words.stopped:
                    break
            told += words.rest()
            assert told == tokenizer.decode(ids).partition(stop)[0]
            assert words.stopped == (stop in text)
