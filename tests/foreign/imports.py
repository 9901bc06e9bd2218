"""Runs `academy lessons import` on a case in a home of its own, and compares the result.

[input]
name = "file.jsonl"          # the file's name
options = ["--examples"]     # of `academy lessons import`
[right]                      # every key is optional
lessons = [{request, answer, outcome, system, rating}]   # everything that is stored, in this order; only these fields
                             # and of tools: calls, steps (earlier messages of the exchange), tools, reasoning, parts
learned = [...]              # what counts for training, in this order
includes = [...]             # some of what is stored
set_aside = 1                # lines that are kept in the quarantine, byte by byte
accounted = 3                # lines that were read, skipped or set aside
exit = 0
says = ["words in the output"]
never = ["words that are not"]
either = [{...}, {...}]      # other tables like this: one of them must be right
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from academy.cli.main import app
from academy.errors import AcademyError
from academy.experience.experience import Experience
from academy.experience.importing import ImportResult
from academy.experience.lessons import LessonsStore
from academy.experience.quarantine import REASONS
from academy.home.identity import adopt_home
from academy.loop.ingest import UnreadFilesError
from academy.store.database import Database
from tests.foreign.cases import Case


class Outcome:
    """What an import printed, stored and set aside."""

    def __init__(self, exit_code: int, output: str, stored: list[Experience], aside: list[bytes], lines: int) -> None:
        self.exit_code = exit_code
        self.output = output
        self.stored = stored
        self.aside = aside
        self.lines = lines


@cache
def _migrated() -> bytes:
    """A new database, made once: a migration takes longer than an import."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "academy.db"
        database = Database(f"sqlite:///{file}")
        database.migrate()
        database.engine.dispose()
        return file.read_bytes()


def import_case(case: Case, place: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Import a case's file by the command, in this process."""
    for name in [name for name in os.environ if name.startswith("ACADEMY_")]:
        monkeypatch.delenv(name)
    home = place / "home"
    home.mkdir(mode=0o700)
    adopt_home(home)
    (home / "academy.db").write_bytes(_migrated())
    monkeypatch.setenv("ACADEMY_HOME", str(home))
    file = place / case.input["name"]
    file.write_bytes(case.content)
    results: list[ImportResult] = []
    monkeypatch.setattr("academy.cli.lessons._show_imports", _recording(results))
    run = CliRunner().invoke(app, ["lessons", "import", str(file), *case.input.get("options", [])])
    exit_code, output = run.exit_code, run.output
    if isinstance(run.exception, AcademyError):
        exit_code, output = 2, f"{output}\n{run.exception}"
        results = list(run.exception.results) if isinstance(run.exception, UnreadFilesError) else results
    elif run.exception is not None and not isinstance(run.exception, SystemExit):
        raise run.exception
    aside = [piece for result in results if result.quarantine for piece in _pieces(Path(result.quarantine))]
    database = Database(f"sqlite:///{home / 'academy.db'}")
    stored = list(LessonsStore(database).every())
    database.engine.dispose()
    return Outcome(exit_code, output, stored, aside, sum(result.lines for result in results))


def _recording(results: list[ImportResult]) -> Callable[[Sequence[ImportResult]], None]:
    from academy.cli import lessons

    show = lessons._show_imports

    def record(imports: Sequence[ImportResult]) -> None:
        results.extend(imports)
        show(imports)

    return record


def _pieces(quarantine: Path) -> list[bytes]:
    content = quarantine.read_bytes()
    reasons = quarantine.with_name(quarantine.name.removesuffix(".jsonl") + REASONS).read_bytes().splitlines()
    places = [orjson.loads(reason) for reason in reasons]
    return [content[place["start"] : place["start"] + place["bytes"]] for place in places]


def check(case: Case, outcome: Outcome) -> None:
    """Compare an import with what is right for its case."""
    for piece in outcome.aside:
        assert piece in case.content, "a line that was set aside has other bytes"
    alternatives = case.right.get("either", [{}])
    problems = [_difference({**case.right, **right}, outcome) for right in alternatives]
    assert "" in problems, "\n".join([*problems, outcome.output])


def _difference(right: Mapping[str, Any], outcome: Outcome) -> str:
    learned = [lesson for lesson in outcome.stored if lesson.outcome == "success"]
    counts = {"set_aside": len(outcome.aside), "accounted": outcome.lines, "exit": outcome.exit_code}
    for name, count in counts.items():
        if right.get(name, count) != count:
            return f"{name}: {count}, not {right[name]}"
    for name, lessons in (("lessons", outcome.stored), ("learned", learned)):
        if name in right and not _same(right[name], lessons):
            return f"{name}: {[_shown(lesson) for lesson in lessons]}, not {right[name]}"
    for expected in right.get("includes", []):
        if not any(_matches(expected, lesson) for lesson in outcome.stored):
            return f"{expected} is not among {[_shown(lesson) for lesson in outcome.stored]}"
    words = " ".join(outcome.output.split())
    missing = [text for text in right.get("says", []) if text not in words]
    wrong = [text for text in right.get("never", []) if text in outcome.output]
    return f"the output lacks {missing} or has {wrong}" if missing or wrong else ""


def _same(expected: Sequence[Mapping[str, Any]], lessons: Sequence[Experience]) -> bool:
    return len(expected) == len(lessons) and all(map(_matches, expected, lessons))


def _matches(expected: Mapping[str, Any], lesson: Experience) -> bool:
    shown = _shown(lesson)
    return all(shown[name] == value for name, value in expected.items())


def _shown(lesson: Experience) -> dict[str, Any]:
    system = "\n".join(turn.content for turn in lesson.context if turn.role == "system")
    earlier = [turn.content for turn in lesson.context if turn.role != "system"]
    trace = lesson.trace
    return {
        "calls": [f"{call.name}({call.arguments})" for call in trace.tool_calls],
        "steps": [f"{step.role}: {step.words}" for step in trace.steps],
        "tools": [tool.name for tool in trace.tools],
        "reasoning": trace.reasoning,
        "parts": [f"{part.kind} {part.reference}" for part in trace.parts],
        **lesson.model_dump(include={"request", "answer", "outcome", "rating", "tags"}),
        "system": system,
        "earlier": earlier,
    }
