"""Scheduling by adapter: one adapter at a time, in the order of arrival, and no turn waits forever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from academy.serving.runtimes.adapter_scheduling import AdapterScheduler


class WatchedScheduler(AdapterScheduler):
    """Records the order of turns, and fails if two adapters run together."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []
        self.inside: list[str] = []

    @asynccontextmanager
    async def watched_turn(self, adapter: str) -> AsyncIterator[None]:
        async with self.turn(adapter):
            self.order.append(adapter)
            self.inside.append(adapter)
            assert set(self.inside) == {adapter}
            try:
                yield
            finally:
                self.inside.remove(adapter)


async def take_turn(scheduler: WatchedScheduler, adapter: str, steps: int) -> None:
    async with scheduler.watched_turn(adapter):
        for _ in range(steps):
            await asyncio.sleep(0)


def test_turns_of_one_adapter_run_together() -> None:
    async def work() -> int:
        scheduler, most = WatchedScheduler(), 0

        async def user() -> None:
            nonlocal most
            async with scheduler.watched_turn("a"):
                most = max(most, scheduler.running)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(user() for _ in range(5)))
        return most

    assert asyncio.run(work()) == 5


def test_waiting_adapter_is_not_overtaken_by_later_turns() -> None:
    """Sixteen users keep asking one adapter; a turn of another adapter runs right after their current turns."""

    async def work() -> list[str]:
        scheduler, going = WatchedScheduler(), True

        async def user() -> None:
            while going:
                await take_turn(scheduler, "a", 5)

        users = [asyncio.create_task(user()) for _ in range(16)]
        await asyncio.sleep(0.01)
        before = len(scheduler.order)
        async with asyncio.timeout(5):
            await take_turn(scheduler, "b", 5)
        order = scheduler.order[before:]
        going = False
        await asyncio.gather(*users)
        return order

    assert "b" in asyncio.run(work())[:17]


@pytest.mark.parametrize("seed", range(20))
def test_random_order_with_cancellations_leaves_no_turn_behind(seed: int) -> None:
    async def work() -> None:
        chance, scheduler = random.Random(seed), WatchedScheduler()
        tasks = []
        for _ in range(200):
            tasks.append(asyncio.create_task(take_turn(scheduler, chance.choice("abc"), chance.randrange(6))))
            if chance.random() < 0.5:
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends), ends
        async with asyncio.timeout(1):
            await scheduler.drain()
        assert (scheduler.running, scheduler.inside) == (0, [])
        async with asyncio.timeout(1):
            await take_turn(scheduler, "d", 1)

    asyncio.run(work())


def test_drain_waits_for_waiting_turns() -> None:
    async def work() -> list[str]:
        scheduler = WatchedScheduler()
        tasks = [asyncio.create_task(take_turn(scheduler, name, 3)) for name in "aba"]
        await asyncio.sleep(0)
        await scheduler.drain()
        order = [*scheduler.order]
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(work()) == ["a", "b", "a"]
