"""Turns of one adapter at a time: nobody stands still for ever, and nobody is passed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from academy.serving.runtimes.adapter_scheduling import AdapterScheduler


class Watched(AdapterScheduler):
    """Notes who begins, and that no two adapters are answered together."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.inside: list[str] = []

    @asynccontextmanager
    async def watched_turn(self, adapter: str) -> AsyncIterator[None]:
        async with self.turn(adapter):
            self.begun.append(adapter)
            self.inside.append(adapter)
            assert set(self.inside) == {adapter}
            try:
                yield
            finally:
                self.inside.remove(adapter)


async def answered(turns: Watched, adapter: str, steps: int) -> None:
    async with turns.watched_turn(adapter):
        for _ in range(steps):
            await asyncio.sleep(0)


def test_turns_of_one_adapter_run_together() -> None:
    async def work() -> int:
        turns, most = Watched(), 0

        async def one() -> None:
            nonlocal most
            async with turns.watched_turn("a"):
                most = max(most, turns.running)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(one() for _ in range(5)))
        return most

    assert asyncio.run(work()) == 5


def test_a_turn_of_another_adapter_comes_before_those_who_come_later() -> None:
    """Sixteen users of one adapter ask again and again; the one of the other is the next but their present answers."""

    async def work() -> list[str]:
        turns, going = Watched(), True

        async def user() -> None:
            while going:
                await answered(turns, "a", 5)

        users = [asyncio.create_task(user()) for _ in range(16)]
        await asyncio.sleep(0.01)
        before = len(turns.begun)
        async with asyncio.timeout(5):
            await answered(turns, "b", 5)
        found = turns.begun[before:]
        going = False
        await asyncio.gather(*users)
        return found

    assert "b" in asyncio.run(work())[:17]


@pytest.mark.parametrize("seed", range(20))
def test_in_any_order_with_any_that_leave_all_are_answered_and_nothing_stays(seed: int) -> None:
    async def work() -> None:
        chance, turns = random.Random(seed), Watched()
        tasks = []
        for _ in range(200):
            tasks.append(asyncio.create_task(answered(turns, chance.choice("abc"), chance.randrange(6))))
            if chance.random() < 0.5:
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends), ends
        async with asyncio.timeout(1):
            await turns.drain()
        assert (turns.running, turns.inside) == (0, [])
        async with asyncio.timeout(1):
            await answered(turns, "d", 1)

    asyncio.run(work())


def test_draining_waits_for_those_who_wait() -> None:
    async def work() -> list[str]:
        turns = Watched()
        tasks = [asyncio.create_task(answered(turns, name, 3)) for name in "aba"]
        await asyncio.sleep(0)
        await turns.drain()
        found = [*turns.begun]
        await asyncio.gather(*tasks)
        return found

    assert asyncio.run(work()) == ["a", "b", "a"]
