"""The report of an examination, in markdown and HTML: for people, from the record alone and what its questions say.

Ratings are the scores on the scale of one to five stars: 1 + 4 x score. A gold star is a full score.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from academy.arena.endpoint import Opinion
from academy.arena.examination import Cost, Examination, Result
from academy.arena.suites.base import Question
from academy.arena.verdict import LAST, Estimate, interval_of
from academy.records import Record

TEMPLATES = Path(__file__).with_name("templates")
_MARKS = re.compile(r"([\\|`*\[\]~$])")
"""What markdown would take for itself. An underscore inside a word is none."""
SHOWN = 12
"""Answers side by side, of those that got worse and of those that got better."""
FEWEST_WITH_A_TAG, TAGS = 3, 25
"""Groups that a tag must have to be told, and how many tags of a suite are."""


class Context(Record):
    """What a report says beside the record. `names` are the players as people know them."""

    names: tuple[str, str]
    base: str
    costs: tuple[Cost, ...] = ()
    memory: int | None = None  # bytes, the peak of the process that held the examination
    left_out: Mapping[str, str] = {}
    opinion: Opinion | None = None
    contradicted: tuple[Mapping[str, str], ...] = ()
    budget_left: int | None = None
    told_only: bool = False
    sandbox: str = ""  # what contained the programs that players wrote


class Comparison(Record):
    """The figures of the second system: win rate, gold stars, ratings and their consistency, for both players."""

    suite: str
    win_rate: float  # of the questions that either player did better on; 0.5 where there were none
    gold_star_rate: tuple[float, float]  # share of full scores
    avg_rating: tuple[float, float]  # one to five stars
    consistency_score: tuple[float, float]  # standard deviation of the ratings: lower is more even


def compare(result: Result) -> Comparison:
    """Champion and challenger on one suite."""
    sides = ([a.score for a in result.champion], [a.score for a in result.challenger])
    stars = [[1 + 4 * score for score in side] for side in sides]
    wins = sum(item.challenger > item.champion for item in result.items)
    losses = sum(item.challenger < item.champion for item in result.items)
    return Comparison(
        suite=result.suite,
        win_rate=wins / (wins + losses) if wins + losses else 0.5,
        gold_star_rate=_both([sum(score == 1 for score in side) / max(1, len(side)) for side in sides]),
        avg_rating=_both([statistics.fmean(side) if side else 0.0 for side in stars]),
        consistency_score=_both([statistics.pstdev(side) if side else 0.0 for side in stars]),
    )


def render(
    held: Examination, questions: Mapping[str, Sequence[Question]], context: Context, *, form: str, texts: bool = True
) -> str:
    """The report as `md` or `html`. Without `texts` no request and no answer is quoted."""
    known = {(suite, q.id): q for suite, asked in questions.items() for q in asked}
    rows = [_row(held, result) for result in held.results]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(("html.jinja",)), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": _percent, "points": _points, "cell": _cell, "line": _line, "zip": zip}
    return environment.get_template(f"report.{form}.jinja").render(
        verdict=held.verdict, last=LAST, rows=rows, context=context, texts=texts, digest=held.record,
        tags=[line for result in held.results for line in _tags(result, known)],
        worse=_side_by_side(held, known, better=False), better=_side_by_side(held, known, better=True),
        comparisons=[compare(result) for result in held.results if result.items and result.role != "leak"],
    )  # fmt: skip


def _row(held: Examination, result: Result) -> dict[str, Any]:
    finding = next((one for one in held.verdict.findings if one.suite == result.suite), None)
    details: dict[str, list[list[float]]] = defaultdict(lambda: [[], []])
    for place, answers in enumerate((result.champion, result.challenger)):
        for answer in answers:
            for name, value in answer.details.items():
                details[name][place].append(value)
    return {
        "suite": result.suite,
        "role": result.role,
        "unused": finding.unused if finding else "",
        "whole": finding.whole if finding else None,
        "guard": finding.guard if finding else None,
        "asked": len(result.items),
        "groups": result.groups,
        "empty": tuple(
            sum(not answer.text for answer in side) if result.role != "leak" else 0
            for side in (result.champion, result.challenger)
        ),
        "details": {name: tuple(statistics.fmean(side) for side in both) for name, both in sorted(details.items())},
    }


def _tags(result: Result, known: Mapping[tuple[str, str], Question]) -> list[dict[str, Any]]:
    """Wins, ties, losses and the difference with its interval, for each tag that enough groups have."""
    by_tag: dict[str, list[Any]] = defaultdict(list)
    for item in result.items:
        question = known.get((result.suite, item.question))
        for tag in question.tags if question else ():
            by_tag[tag].append(item)
    lines = []
    for tag, items in sorted(by_tag.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        if len({item.group for item in items}) < FEWEST_WITH_A_TAG:
            continue
        difference, low, high = interval_of(items)
        won = Counter((item.challenger > item.champion) - (item.challenger < item.champion) for item in items)
        lines.append(
            {
                "suite": result.suite, "tag": tag, "items": len(items), "wins": won[1], "ties": won[0],
                "losses": won[-1], "difference": difference, "low": low, "high": high,
            }
        )  # fmt: skip
    return lines[:TAGS]


def _side_by_side(
    held: Examination, known: Mapping[tuple[str, str], Question], *, better: bool
) -> list[dict[str, str]]:
    found = []
    for result in held.results:
        if result.role == "leak":
            continue
        said = ({a.question: a.text for a in result.champion}, {a.question: a.text for a in result.challenger})
        for item in result.items:
            moved = item.challenger - item.champion
            question = known.get((result.suite, item.question))
            if question and (moved > 0 if better else moved < 0):
                found.append(
                    {
                        "suite": result.suite, "slice": item.slice, "request": question.request,
                        "reference": question.reference, "champion": said[0][item.question],
                        "challenger": said[1][item.question], "size": f"{moved:+.2f}",
                    }
                )  # fmt: skip
    # a full point before a fraction of one, guard before new
    found.sort(key=lambda one: (-abs(float(one["size"])), one["slice"] != "guard", one["request"]))
    return found[:SHOWN]


def _both(pair: Sequence[float]) -> tuple[float, float]:
    return pair[0], pair[1]


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _points(estimate: Estimate) -> str:
    return f"{estimate.difference:+.1%} ({estimate.low:+.1%} to {estimate.high:+.1%})"


def _cell(text: str) -> str:
    """A text in a markdown table: cut off, in one line, nothing that ends the cell, begins a tag or makes a link."""
    return _line(" ".join(text.split())[:300]) or "(nothing)"


def _line(text: str) -> str:
    """A text in one line of markdown, as it is."""
    shown = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKS.sub(r"\\\1", shown)
