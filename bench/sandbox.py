"""`python -m bench.sandbox`: harmless programs per second in the sandbox of this machine, with one and two threads.

Each run is complete: its namespaces, its cgroup, its interpreter, two calls, and the cleanup. The goal is eight runs
per second with two threads on two cores.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from academy.arena.sandbox import Call, Unavailable, find_sandbox
from bench.machine import too_busy

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
    if too_busy():
        return 2
    room = find_sandbox(next((name for name in sys.argv[1:] if not name.startswith("-")), ""))
    if isinstance(room, Unavailable):
        print(room.because)
        return 2

    def measure(_: int) -> float:
        start = time.perf_counter()
        result = room.run(PROGRAM, CALLS)
        assert [value.value for value in result.values] == EXPECTED, result
        return time.perf_counter() - start

    print(f"{room.name}: {', '.join(room.active_limits)}; load {os.getloadavg()[0]:.1f}; {PROGRAMS} programs per round")
    print("threads  programs/s (median of rounds)  ms per program: median, worst")
    rate = 0.0
    for threads in (1, 2):
        rates: list[float] = []
        times: list[float] = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                times += pool.map(measure, range(PROGRAMS))
            rates.append(PROGRAMS / (time.perf_counter() - start))
        rate = statistics.median(rates)
        print(f"{threads:7}  {rate:29.1f}  {1000 * statistics.median(times):17.0f}, {1000 * max(times):.0f}")
    print(f"goal: {GOAL} per second with two threads: {'met' if rate >= GOAL else 'missed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
