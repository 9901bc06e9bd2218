"""`python -m bench.metrics [--anyway]`: lines of training logs parsed per CPU second, compared with a plain parser.

The plain parser tries seven case-insensitive patterns on each line, as log parsers usually do. It also finds less (no
evaluations, no totals from banners) and takes bars of downloads for a training's. Both parse the same 200,000 lines in
turn; the figures are medians of five runs each. Goal: 576,000 lines per CPU second; docs/log.md has the results.

The corpus is synthetic: lines have the form that trainers print, with random numbers. They are mixed as in the log of a
training by transformers that prints its bar to a file and logs every third step:

    45 %  tqdm's bar: two thirds without a loss, one third with ", loss=0.3"
    22 %  transformers' dictionary with plain numbers
    12 %  the same with quoted numbers, as newer versions print it; a third of these with TRL's further keys
     8 %  "Epoch 1/3 - Loss: 0.45 - lr: 2e-4", "Epoch [1/5], Step [100/600], Loss: 0.12", "Step 100/1000", "Epoch 2/5"
     3 %  the slowest lines: nan, colours, banners, evaluations, bars with words before them
    10 %  warnings, paths, empty lines

A log with only words or many colours is parsed more slowly; the figure of each part is printed, too.
"""

from __future__ import annotations

import random
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from academy.habitat.log_parser import TrainingMetricsParser
from bench.machine import too_busy

TIMES = 5
LINES = 200_000
GOAL = 576_000
PLAIN = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"epoch[\s:=]*\[?(\d+)(?:/(\d+))?",
        r"step[\s:=]*\[?(\d+)(?:/(\d+))?",
        r"['\"]?loss['\"]?\s*[:=]\s*['\"]?([\d.e+-]+)",
        r"['\"]?(?:lr|learning_rate)['\"]?\s*[:=]\s*['\"]?([\d.e+-]+)",
        r"['\"]?acc(?:uracy)?['\"]?\s*[:=]\s*['\"]?([\d.]+)",
        r"['\"]?grad_norm['\"]?\s*[:=]\s*['\"]?([\d.e+-]+)", r"(\d+)%\|.*?\|\s*(\d+)/(\d+)",
    )
]  # fmt: skip


def plain(line: str) -> dict[str, float] | None:
    """Try every pattern on the line."""
    found = {}
    for pattern in PLAIN:
        if match := pattern.search(line):
            for place, value in enumerate(match.groups()):
                try:
                    found[f"{pattern.pattern}{place}"] = float(value)
                except (TypeError, ValueError):
                    continue
    return found or None


def corpus(seed: int = 7) -> dict[str, list[str]]:
    """The lines by kind, in the proportions of the docstring."""
    draw = random.Random(seed)
    number = lambda: f"{draw.random():.4f}"  # noqa: E731
    bar = lambda n: "█" * (n // 10) + "▌" + " " * (9 - n // 10)  # noqa: E731

    def bars(n: int) -> str:
        done = draw.randrange(1000)
        loss = f", loss={number()}" if n % 3 == 0 else ""
        return f" {done // 10:2d}%|{bar(done // 10)}| {done}/1000 [01:05<10:40,  {2 + draw.random():.2f}it/s{loss}]"

    def rows(n: int) -> str:  # noqa: ARG001
        return (
            f"{{'loss': {number()}, 'grad_norm': {number()}, 'learning_rate': {draw.random() * 2e-4:.6e}, "
            f"'epoch': {draw.random() * 3:.2f}}}"
        )

    def quoted(n: int) -> str:
        more = (
            f", 'entropy': '{number()}', 'num_tokens': '{draw.randrange(10**6)}', 'mean_token_accuracy': '{number()}'"
        )
        return (
            f"{{'loss': '{number()}', 'grad_norm': '{number()}', 'learning_rate': '{draw.random() * 2e-4:.4g}'"
            f"{more if n % 3 == 0 else ''}, 'epoch': '{draw.random() * 3:.4g}'}}"
        )

    def words(n: int) -> str:
        return (
            f"Epoch {n % 3 + 1}/3 - Loss: {number()} - lr: 2e-4",
            f"Epoch [{n % 5 + 1}/5], Step [{n % 600}/600], Loss: {number()}",
            f"Step {n % 1000}/1000", f"Epoch {n % 5 + 1}/5",
        )[n % 4]  # fmt: skip

    def slow(n: int) -> str:
        return (
            "{'loss': nan, 'grad_norm': nan, 'learning_rate': 0.0002, 'epoch': 0.5}",
            f"\x1b[32mEpoch {n % 3 + 1}/3\x1b[0m - loss: \x1b[1m{number()}\x1b[0m",
            "   \\\\   /|    Num examples = 1,000 | Num Epochs = 3 | Total steps = 375",
            f"{{'eval_loss': {number()}, 'eval_runtime': 1.2, 'eval_samples_per_second': 80.1, 'epoch': 1.0}}",
            f"Epoch 2/5:  12%|#2        | 12/100 [00:05<00:40, 2.2it/s, v_num=0, train_loss={number()}]",
            "Map: 100%|██████████| 600/600 [00:00<00:00, 9000.12 examples/s]",
        )[n % 6]

    def noise(n: int) -> str:
        return (
            "", "The tokenizer has new PAD/BOS/EOS tokens that differ from the model config.",
            "Saving model checkpoint to ./outputs/checkpoint-500", "warnings.warn(",
            "/usr/lib/python3.11/site-packages/torch/utils/data/dataloader.py:668: UserWarning: 'pin_memory' is set",
        )[n % 5]  # fmt: skip

    shares = {"bars": (bars, 45), "plain rows": (rows, 22), "quoted rows": (quoted, 12), "words": (words, 8),
              "slow": (slow, 3), "noise": (noise, 10)}  # fmt: skip
    return {name: [make(n) for n in range(LINES * share // 100)] for name, (make, share) in shares.items()}


def main() -> int:
    """Measure and print."""
    if too_busy():
        return 2
    kinds = corpus()
    mixed = [line for lines in kinds.values() for line in lines]
    random.Random(1).shuffle(mixed)
    mixed = "\n".join(mixed).split("\n")  # as they are in memory after reading a file
    parser = TrainingMetricsParser()
    ours, theirs = [], []
    for _ in range(TIMES):
        ours.append(len(mixed) / _cpu(parser.parse_line, mixed))
        theirs.append(len(mixed) / _cpu(plain, mixed))
    fast, slow = statistics.median(ours), statistics.median(theirs)
    print(
        f"{len(mixed):,} mixed lines: {fast:,.0f} per CPU s (goal {GOAL:,}); "
        f"plain parser {slow:,.0f}; {fast / slow:.1f} times"
    )
    for name, lines in kinds.items():
        rates = [len(lines) / _cpu(parser.parse_line, lines) for _ in range(TIMES)]
        print(f"  {name}: {statistics.median(rates):,.0f} per CPU s, plain {len(lines) / _cpu(plain, lines):,.0f}")
    read = sum(parser.parse_line(line) is not None for line in mixed)
    print(f"{read:,} of them have figures; the plain parser found {sum(plain(line) is not None for line in mixed):,}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    summary = parser.aggregate_metrics(_read(parser, (mixed[n % len(mixed)] for n in range(10 * LINES))))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{10 * LINES:,} lines in a row, {summary.records:,} records: peak memory grew by {grown} KiB")
    return 0


def _read(parser: TrainingMetricsParser, lines: Iterable[str]) -> Iterator[object]:
    return (found for line in lines if (found := parser.parse_line(line)) is not None)


def _cpu(read: Callable[[str], object], lines: list[str]) -> float:
    before = time.process_time()
    for line in lines:
        read(line)
    return time.process_time() - before


if __name__ == "__main__":
    sys.exit(main())
