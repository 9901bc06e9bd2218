"""`python -m bench.sandbox`: harmless programs a second in the sandbox of this machine, by one thread and by two.

Each run is a whole one: its namespaces, its cgroup, its interpreter, two calls, and nothing left. The goal is eight a
second by two threads on two cores.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from academy.arena.sandbox import Call, Unavailable, find_sandbox

BUSY = 0.5
PROGRAMS, ROUNDS, GOAL = 40, 5, 8
PROGRAM = """
def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a
"""
CALLS = [Call(function="fibonacci", args=(10,)), Call(function="fibonacci", args=(90,))]
EXPECTED = [55, 2880067194370816120]


def main() -> int:
    """Measure and print a table."""
    if os.getloadavg()[0] > BUSY and "--anyway" not in sys.argv:
        print(f"The machine is busy (load {os.getloadavg()[0]:.1f}); measure when it is idle, or say --anyway.")
        return 2
    room = find_sandbox(next((name for name in sys.argv[1:] if not name.startswith("-")), ""))
    if isinstance(room, Unavailable):
        print(room.because)
        return 2

    def one(_: int) -> float:
        started = time.perf_counter()
        ran = room.run(PROGRAM, CALLS)
        assert [value.value for value in ran.values] == EXPECTED, ran
        return time.perf_counter() - started

    print(f"{room.name}: {', '.join(room.active_limits)}; load {os.getloadavg()[0]:.1f}; {PROGRAMS} programs a round")
    print("threads  programs/s (median of rounds)  ms a program: median, worst")
    rate = 0.0
    for threads in (1, 2):
        rates: list[float] = []
        times: list[float] = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                times += pool.map(one, range(PROGRAMS))
            rates.append(PROGRAMS / (time.perf_counter() - started))
        rate = statistics.median(rates)
        print(f"{threads:7}  {rate:29.1f}  {1000 * statistics.median(times):17.0f}, {1000 * max(times):.0f}")
    print(f"goal: {GOAL} a second by two threads: {'met' if rate >= GOAL else 'missed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
