"""`python -m bench.decontamination`: examples a CPU second against 2,000 guarded texts, beside an exact scan.

The exact scan compares every run of eight words of an example with those of every guarded text, as sets of tuples; it
runs on a sample, and both must name the same examples. Guarded texts are planted in one example of a hundred: as they
are, indented, in a diff, quoted, and wrapped anew.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import textwrap
import time

from academy.curriculum.decontamination import RUN, GuardedSuite, OverlapIndex
from bench.duplicates import BUSY, ROUNDS, VOCABULARY

GUARDED, EXAMPLES, SAMPLE, GOAL = 2_000, 20_000, 1_000, 25_000


def words(chance: random.Random, low: int, high: int) -> str:
    """So many words in lines of about 80 characters."""
    return textwrap.fill(" ".join(chance.choices(VOCABULARY, k=chance.randrange(low, high))), 80)


def main() -> int:
    """Measure and print; fails where the scan and the exact one disagree."""
    if os.getloadavg()[0] > BUSY and "--anyway" not in sys.argv:
        print(f"The machine is busy (load {os.getloadavg()[0]:.1f}); measure when it is idle, or say --anyway.")
        return 2
    chance = random.Random(2026)
    texts = [words(chance, 10, 80) for _ in range(GUARDED)]
    examples = [(words(chance, 8, 30), words(chance, 4, 20)) for _ in range(EXAMPLES)]
    marks = ("", "    ", "+", "> ")
    for place in range(0, EXAMPLES, 100):
        body = textwrap.fill(chance.choice(texts), chance.randrange(30, 90))
        examples[place] = (f"Please look:\n{textwrap.indent(body, chance.choice(marks))}\nThanks", examples[place][1])
    started = time.process_time()
    guarded = OverlapIndex([GuardedSuite("coding", texts)])
    building = time.process_time() - started
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        found = guarded.scan(examples)
        seconds.append(time.process_time() - started)
    started = time.process_time()
    expected = exact(texts, examples[:SAMPLE])
    slow = (time.process_time() - started) / SAMPLE
    rate = EXAMPLES / statistics.median(seconds)
    length = sum(len(request) + len(answer) for request, answer in examples) / EXAMPLES
    print(f"{GUARDED} guarded texts hashed in {building:.2f} s; {EXAMPLES} examples of {length:.0f} characters")
    print(f"ours       {rate:9,.0f} examples a CPU second, {len(found)} overlap (goal: at least {GOAL:,})")
    print(f"exact scan {1 / slow:9,.0f} examples a CPU second, on {SAMPLE}; ratio {rate * slow:,.1f}")
    missed = expected ^ {place for place in found if place < SAMPLE}
    print(f"named by one and not by the other: {len(missed)} of {len(expected)}")
    return 1 if missed else 0


def exact(texts: list[str], examples: list[tuple[str, str]]) -> set[int]:
    """Examples that share a run of eight words with a guarded text, without any hash of ours."""
    guarded = [runs(text) for text in texts]
    found = set()
    for place, (request, answer) in enumerate(examples):
        mine = runs(f"{request}\n{answer}")
        if any(not mine.isdisjoint(theirs) for theirs in guarded):
            found.add(place)
    return found


def runs(text: str) -> set[tuple[str, ...]]:
    """Runs of eight words, without the marks of diffs and mails."""
    found = "".join(sign if sign.isalnum() or sign == "_" else " " for sign in text.lower()).split()
    return {tuple(found[i : i + RUN]) for i in range(len(found) - RUN + 1)}


if __name__ == "__main__":
    sys.exit(main())
