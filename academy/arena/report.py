"""The report of an examination, in Markdown and HTML, from its record and its questions.

Ratings are the scores on a scale of one to five stars: 1 + 4 x score. A gold star is a full score.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from academy.arena.endpoint import JudgeTally
from academy.arena.examination import Cost, Examination, Result
from academy.arena.suites.base import Question
from academy.arena.verdict import LAST, Estimate, interval_of
from academy.border.plain_text import plain
from academy.records import Record

TEMPLATES = Path(__file__).with_name("templates")
_MARKS = re.compile(r"([\\|`*\[\]~$])")
"""Characters with a meaning in Markdown. An underscore inside a word has none."""
SHOWN = 12
"""The number of answers side by side: of those that got worse, and of those that got better."""
FEWEST_WITH_A_TAG, TAGS = 3, 25
"""The minimum number of groups of a tag in the report, and the maximum number of tags of a suite."""


class ReportContext(Record):
    """What a report shows in addition to the record. `names` are the players' names for users."""

    names: tuple[str, str]
    base: str
    costs: tuple[Cost, ...] = ()
    memory: int | None = None  # bytes, the peak of the process that ran the examination
    skipped: Mapping[str, str] = {}
    judge_tally: JudgeTally | None = None
    contradicted: tuple[Mapping[str, str], ...] = ()
    budget_left: int | None = None
    informational: bool = False  # not official: without effect on the champion and on the budget
    sandbox: str = ""  # the sandbox of code that players wrote, in words


class Comparison(Record):
    """Win rate, gold stars, ratings and their consistency, for both players, as the second system defines them."""

    suite: str
    win_rate: float  # of the questions where the scores differ; 0.5 without any
    gold_star_rate: tuple[float, float]  # share of full scores
    avg_rating: tuple[float, float]  # one to five stars
    consistency_score: tuple[float, float]  # standard deviation of the ratings: lower is more consistent


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
    examination: Examination,
    questions: Mapping[str, Sequence[Question]],
    context: ReportContext,
    *,
    form: str,
    texts: bool = True,
) -> str:
    """The report as `md` or `html`. Without `texts` it quotes no request and no answer."""
    by_id = {(suite, q.id): q for suite, suite_questions in questions.items() for q in suite_questions}
    results = examination.results
    rows = [_row(examination, result) for result in results]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(("html.jinja",)), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": _percent, "points": _points, "cell": _cell, "line": _line, "zip": zip}
    report = environment.get_template(f"report.{form}.jinja").render(
        verdict=examination.verdict, last=LAST, rows=rows, context=context, texts=texts, digest=examination.record,
        tags=[row for result in results for row in _tags(result, by_id)],
        worse=_side_by_side(results, by_id, better=False), better=_side_by_side(results, by_id, better=True),
        comparisons=[compare(result) for result in results if result.items and result.role != "leak"],
    )  # fmt: skip
    return plain(report)


def _row(examination: Examination, result: Result) -> dict[str, Any]:
    finding = next((finding for finding in examination.verdict.findings if finding.suite == result.suite), None)
    details: dict[str, list[list[float]]] = defaultdict(lambda: [[], []])
    for side, answers in enumerate((result.champion, result.challenger)):
        for answer in answers:
            for name, value in answer.details.items():
                details[name][side].append(value)
    return {
        "suite": result.suite,
        "role": result.role,
        "unused": finding.unused if finding else "",
        "whole": finding.whole if finding else None,
        "guard": finding.guard if finding else None,
        "asked": len(result.items),
        "groups": result.groups,
        "empty": tuple(
            sum(not answer.text for answer in answers) if result.role != "leak" else 0
            for answers in (result.champion, result.challenger)
        ),
        "details": {name: tuple(map(statistics.fmean, values)) for name, values in sorted(details.items())},
    }


def _tags(result: Result, questions: Mapping[tuple[str, str], Question]) -> list[dict[str, Any]]:
    """Wins, ties, losses and the difference with its interval, for each tag with enough groups."""
    by_tag: dict[str, list[Any]] = defaultdict(list)
    for item in result.items:
        question = questions.get((result.suite, item.question))
        for tag in question.tags if question else ():
            by_tag[tag].append(item)
    rows = []
    for tag, items in sorted(by_tag.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        if len({item.group for item in items}) < FEWEST_WITH_A_TAG:
            continue
        difference, low, high = interval_of(items)
        signs = Counter((item.challenger > item.champion) - (item.challenger < item.champion) for item in items)
        rows.append(
            {
                "suite": result.suite, "tag": tag, "items": len(items), "wins": signs[1], "ties": signs[0],
                "losses": signs[-1], "difference": difference, "low": low, "high": high,
            }
        )  # fmt: skip
    return rows[:TAGS]


def _side_by_side(
    results: Sequence[Result], questions: Mapping[tuple[str, str], Question], *, better: bool
) -> list[dict[str, str]]:
    rows = []
    for result in results:
        if result.role == "leak":
            continue
        champion = {answer.question: answer.text for answer in result.champion}
        challenger = {answer.question: answer.text for answer in result.challenger}
        for item in result.items:
            change = item.challenger - item.champion
            question = questions.get((result.suite, item.question))
            if question and (change > 0 if better else change < 0):
                rows.append(
                    {
                        "suite": result.suite, "slice": item.slice, "request": question.request,
                        "reference": question.reference, "champion": champion[item.question],
                        "challenger": challenger[item.question], "size": f"{change:+.2f}",
                    }
                )  # fmt: skip
    # a full point before a fraction of one, guard before new
    rows.sort(key=lambda row: (-abs(float(row["size"])), row["slice"] != "guard", row["request"]))
    return rows[:SHOWN]


def _both(pair: Sequence[float]) -> tuple[float, float]:
    return pair[0], pair[1]


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _points(estimate: Estimate) -> str:
    return f"{estimate.difference:+.1%} ({estimate.low:+.1%} to {estimate.high:+.1%})"


def _cell(text: str) -> str:
    """A text for a cell of a Markdown table: truncated, in one line, without cell ends, tags and links."""
    return _line(" ".join(text.split())[:300]) or "(empty)"


def _line(text: str) -> str:
    """A text in one line of Markdown, with its special characters escaped."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKS.sub(r"\\\1", line)
