"""`python -m bench.duplicates`: near-duplicate examples per CPU second, compared with datasketch.

Both do the whole work: character 4-grams of the normalised text, MinHash of 128 permutations, bands, and the exact
similarity of every candidate. Recall is measured against all pairs of the generated families at the threshold. Memory
is the growth of the process while a stream of texts is added, without the texts, which are generated again on demand.
"""

from __future__ import annotations

import itertools
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from academy.curriculum.similarity import SAME, Deduplicator, jaccard, near_duplicates, shingles
from bench.machine import too_busy

EXAMPLES, FAMILY, ROUNDS = 10_000, 5, 5
SMALL, LARGE = 20_000, 220_000
VOCABULARY = ["".join(random.Random(n).choices("abcdefghijklmnopqrstuvwxyz", k=3 + n % 7)) for n in range(3000)]
Pairs = set[tuple[int, int]]


def text(number: int) -> str:
    """One of half a million texts of 25 words. Every tenth family has members that differ in a few words."""
    family, member = number // FAMILY, number % FAMILY
    alike = family % 10 == 0
    words = random.Random(family if alike else number + 10**9).choices(VOCABULARY, k=25)
    chance = random.Random(number)
    for _ in range(member if alike else 0):
        words[chance.randrange(25)] = chance.choice(VOCABULARY)
    return " ".join(words)


def main() -> int:
    """Measure and print a table."""
    if too_busy():
        return 2
    texts = [text(n) for n in range(EXAMPLES)]
    pairs = planted(texts)
    peer = datasketch()
    runners: dict[str, Callable[[Sequence[str]], Pairs]] = {"ours": ours} | ({"datasketch": peer} if peer else {})
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    results: dict[str, Pairs] = {}
    for _ in range(ROUNDS):
        for name, run in runners.items():
            began = time.process_time()
            results[name] = run(texts)
            seconds[name].append(time.process_time() - began)
    print(f"{EXAMPLES} examples of {sum(map(len, texts)) / EXAMPLES:.0f} characters, {len(pairs)} pairs at {SAME}")
    for name, times in seconds.items():
        rate = EXAMPLES / statistics.median(times)
        print(f"{name:11} {rate:9,.0f} examples a CPU second, recall {len(results[name] & pairs) / len(pairs):.3f}")
    if peer:
        ratio = statistics.median(seconds["datasketch"]) / statistics.median(seconds["ours"])
        print(f"ratio {ratio:.1f} (goal: at least 6 at recall 0.90)")
    else:
        print(
            "datasketch is not installed: no comparison. Install it in a separate environment: pip install datasketch"
        )
    memory = [int(_in_a_child("stream", count)) for count in (SMALL, LARGE)]
    print(f"memory {(memory[1] - memory[0]) * 1024 / (LARGE - SMALL):,.0f} bytes an example (goal: at most 1,300)")
    return 0


def ours(texts: Sequence[str]) -> Pairs:
    """All near-duplicate pairs."""
    return {(i, j) for i, j, _ in near_duplicates(texts)}


def datasketch() -> Callable[[Sequence[str]], Pairs] | None:
    """The same work by datasketch, if it is installed."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ModuleNotFoundError:
        return None

    def run(texts: Sequence[str]) -> Pairs:
        index = MinHashLSH(num_perm=128, params=(32, 4))  # our bands; with its default it finds 0.74 of the pairs
        pairs = set()
        grams = [shingles(text) for text in texts]
        for j, grams_of_text in enumerate(grams):
            signature = MinHash(num_perm=128)
            signature.update_batch([gram.encode() for gram in grams_of_text])
            pairs |= {(i, j) for i in index.query(signature) if jaccard(grams[i], grams_of_text) >= SAME}
            index.insert(j, signature)
        return pairs

    return run


def planted(texts: Sequence[str]) -> Pairs:
    """Pairs inside families whose exact similarity reaches the threshold."""
    grams = [shingles(text) for text in texts]
    return {
        (i, j)
        for first in range(0, len(texts), FAMILY)
        for i, j in itertools.combinations(range(first, first + FAMILY), 2)
        if jaccard(grams[i], grams[j]) >= SAME
    }


def stream(count: int) -> int:
    """Add so many texts to an index without keeping them. Returns the peak size of this process in KiB."""
    index = Deduplicator(lambda numbers: [text(n) for n in numbers])
    for begin in range(0, count, 1024):
        index.add([text(n) for n in range(begin, min(begin + 1024, count))])
    status = Path("/proc/self/status").read_text(encoding="ascii")  # ru_maxrss includes the parent
    return int(status.partition("VmHWM:")[2].split()[0])


def _in_a_child(name: str, count: int) -> str:
    command = [sys.executable, "-c", f"from bench.duplicates import {name}; print({name}({count}))"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
