"""`python -m bench.decontamination`: examples per CPU second against 2,000 guarded texts, compared with an exact scan.

The exact scan compares every run of eight words of an example with those of every guarded text, as sets of tuples. It
runs on a sample, and both scans must report the same examples. One example of a hundred contains a guarded text: as it
is, indented, in a diff, quoted, or with other line breaks.
"""

from __future__ import annotations

import random
import statistics
import sys
import textwrap
import time

from academy.curriculum.decontamination import RUN, GuardedSuite, OverlapIndex
from bench.duplicates import ROUNDS, VOCABULARY
from bench.machine import too_busy

GUARDED, EXAMPLES, SAMPLE, GOAL = 2_000, 20_000, 1_000, 25_000


def words(chance: random.Random, low: int, high: int) -> str:
    """Random words in lines of about 80 characters."""
    return textwrap.fill(" ".join(chance.choices(VOCABULARY, k=chance.randrange(low, high))), 80)


def main() -> int:
    """Measure and print. Returns 1 if the two scans disagree."""
    if too_busy():
        return 2
    chance = random.Random(2026)
    texts = [words(chance, 10, 80) for _ in range(GUARDED)]
    examples = [(words(chance, 8, 30), words(chance, 4, 20)) for _ in range(EXAMPLES)]
    marks = ("", "    ", "+", "> ")
    for place in range(0, EXAMPLES, 100):
        body = textwrap.fill(chance.choice(texts), chance.randrange(30, 90))
        examples[place] = (f"Please look:\n{textwrap.indent(body, chance.choice(marks))}\nThanks", examples[place][1])
    began = time.process_time()
    index = OverlapIndex([GuardedSuite("coding", texts)])
    building = time.process_time() - began
    seconds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        overlaps = index.scan(examples)
        seconds.append(time.process_time() - began)
    began = time.process_time()
    exact_overlaps = exact(texts, examples[:SAMPLE])
    slow = (time.process_time() - began) / SAMPLE
    rate = EXAMPLES / statistics.median(seconds)
    length = sum(len(request) + len(answer) for request, answer in examples) / EXAMPLES
    print(f"{GUARDED} guarded texts hashed in {building:.2f} s; {EXAMPLES} examples of {length:.0f} characters")
    print(f"ours       {rate:9,.0f} examples a CPU second, {len(overlaps)} overlap (goal: at least {GOAL:,})")
    print(f"exact scan {1 / slow:9,.0f} examples a CPU second, on {SAMPLE}; ratio {rate * slow:,.1f}")
    differences = exact_overlaps ^ {place for place in overlaps if place < SAMPLE}
    print(f"reported by only one scan: {len(differences)} of {len(exact_overlaps)}")
    return 1 if differences else 0


def exact(texts: list[str], examples: list[tuple[str, str]]) -> set[int]:
    """Examples that share a run of eight words with a guarded text, found without hashes."""
    guarded_runs = [runs(text) for text in texts]
    overlaps = set()
    for place, (request, answer) in enumerate(examples):
        example_runs = runs(f"{request}\n{answer}")
        if any(not example_runs.isdisjoint(text_runs) for text_runs in guarded_runs):
            overlaps.add(place)
    return overlaps


def runs(text: str) -> set[tuple[str, ...]]:
    """Runs of eight words, without the marks of diffs and mails."""
    tokens = "".join(sign if sign.isalnum() or sign == "_" else " " for sign in text.lower()).split()
    return {tuple(tokens[i : i + RUN]) for i in range(len(tokens) - RUN + 1)}


if __name__ == "__main__":
    sys.exit(main())
