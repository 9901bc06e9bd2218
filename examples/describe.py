"""Describe the example lessons in Markdown: a table of the batches, a sample, and how near their wordings are.

Run it from anywhere with `python3 examples/describe.py`; it reads the `lessons` folder beside this file and needs
nothing but the standard library. The nearness is measured over the successful lessons of the batches 01 to 03.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

LESSONS = Path(__file__).resolve().parent / "lessons"
SAMPLE_SEED = "harbourline-20"
SAMPLE_SIZE = 20
HARMFUL = "04-"


class Near(NamedTuple):
    """The likeness of a wording to its nearest other wording, and the place of that other one."""

    value: float
    other: int


@dataclass(frozen=True)
class Lesson:
    """The four fields of a lesson that are described here."""

    batch: str
    situation: str
    action: str
    success: bool


def read_lessons(folder: Path) -> list[Lesson]:
    """Read every batch of a folder, in the order of their names."""
    lessons: list[Lesson] = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            lessons.append(Lesson(path.name, row["situation"], row["action"], row["outcome"] == "success"))
    return lessons


def normal(text: str) -> str:
    """Lower-case words and numbers, one blank between them."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def word_set(text: str) -> set[str]:
    """The set of words of a wording."""
    return set(normal(text).split())


def trigram_set(text: str) -> set[str]:
    """The set of three-character pieces of a wording, with a blank at either end."""
    padded = f" {normal(text)} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def as_masks(sets: list[set[str]]) -> list[int]:
    """Each set as one integer with a bit per member, which makes comparing all pairs quick."""
    bits = {member: 1 << place for place, member in enumerate(sorted(set().union(*sets)))}
    return [sum(bits[member] for member in members) for members in sets]


def nearest(masks: list[int], answers: list[str]) -> tuple[list[Near], list[Near]]:
    """For each wording the Jaccard likeness to its nearest other wording: of its own answer, and of another answer."""
    same = [Near(-1.0, -1)] * len(masks)
    other = [Near(-1.0, -1)] * len(masks)
    for i, left in enumerate(masks):
        for j in range(i):
            right = masks[j]
            value = (left & right).bit_count() / (left | right).bit_count()
            best = same if answers[i] == answers[j] else other
            if value > best[i].value:
                best[i] = Near(value, j)
            if value > best[j].value:
                best[j] = Near(value, i)
    return same, other


def batch_table(lessons: list[Lesson]) -> list[str]:
    """One row per batch: successful lessons, their distinct answers, failed lessons."""
    rows = ["| batch | lessons | successful | distinct answers | failed |", "|---|---:|---:|---:|---:|"]
    for name in sorted({lesson.batch for lesson in lessons}):
        batch = [lesson for lesson in lessons if lesson.batch == name]
        good = [lesson for lesson in batch if lesson.success]
        answers = len({lesson.action for lesson in good})
        rows.append(f"| `{name}` | {len(batch)} | {len(good)} | {answers} | {len(batch) - len(good)} |")
    return rows


def sample(lessons: list[Lesson]) -> list[str]:
    """Twenty lessons drawn at random: those whose hash, salted with the seed, is smallest."""

    def lot(lesson: Lesson) -> str:
        return hashlib.sha256(f"{SAMPLE_SEED}|{lesson.situation}|{lesson.action}".encode()).hexdigest()

    drawn = sorted(lessons, key=lot)[:SAMPLE_SIZE]
    return [f"{place}. {lesson.situation} -> `{lesson.action}`" for place, lesson in enumerate(drawn, 1)]


def nearness(lessons: list[Lesson]) -> list[str]:
    """The table of likenesses and the nearest pairs."""
    answers = [lesson.action for lesson in lessons]
    rows = ["| measure | nearest wording of | median | 95th percentile | maximum |", "|---|---|---:|---:|---:|"]
    pairs = ["The nearest pairs:", ""]
    for measure, make in (("word-set Jaccard", word_set), ("character-3-gram Jaccard", trigram_set)):
        same, other = nearest(as_masks([make(lesson.situation) for lesson in lessons]), answers)
        for label, found in (("the same answer", same), ("another answer", other)):
            values = [near.value for near in found]
            top = max(values)
            percentile = statistics.quantiles(values, n=20, method="inclusive")[-1]
            rows.append(f"| {measure} | {label} | {statistics.median(values):.2f} | {percentile:.2f} | {top:.2f} |")
            shown = sorted(
                {(min(i, near.other), max(i, near.other)) for i, near in enumerate(found) if near.value == top}
            )
            for left, right in shown:
                texts = f'"{lessons[left].situation}" and "{lessons[right].situation}"'
                pairs.append(f"- {measure}, {label}, {top:.2f}: {texts}")
    return [*rows, "", *pairs]


def main() -> None:
    """Print the description."""
    lessons = read_lessons(LESSONS)
    good = [lesson for lesson in lessons if lesson.success and not lesson.batch.startswith(HARMFUL)]
    parts = ["### Batches", "", *batch_table(lessons), "", "### Twenty lessons drawn at random", "", *sample(good), ""]
    parts += ["### How near the nearest wordings are", "", *nearness(good)]
    sys.stdout.write("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
