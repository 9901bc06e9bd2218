"""The arena in the loop with real components: every check between a challenger and the users."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.adapters.adapter import read_adapter
from academy.arena import examination as arena_examination
from academy.arena.sandbox import Unavailable, find_sandbox
from academy.arena.self_check import self_check_failure
from academy.arena.suites import leak
from academy.arena.suites.base import Reply
from academy.arena.suites.coding import FILE as CODING
from academy.arena.suites.coding import coding
from academy.arena.suites.leak import LeakSuite
from academy.arena.suites.recall import RecallSuite
from academy.loop import examine as examining
from academy.loop.curate import curate
from academy.loop.decide import decide
from academy.loop.examine import examine
from academy.loop.home import Home
from academy.loop.place_order import place_order
from academy.store.ledger import BASE
from tasks import stages
from tests.conftest import Evolved
from tests.homes import RealHome


@pytest.fixture
def unexamined(second_home: RealHome, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home whose version 1 was trained and not examined: the base is champion."""
    with closing(sqlite3.connect(second_home.path / "academy.db")) as ledger:
        for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            ledger.execute(f'DROP TRIGGER "{name}"')
        ledger.execute("DELETE FROM ledger")
        ledger.commit()
    monkeypatch.setenv("ACADEMY_HOME", str(second_home.path))
    work = Home.open()
    work.versions.set_champion_alias(BASE)
    yield work
    work.database.engine.dispose()


def record_of(home: Path) -> dict[str, Any]:
    """The newest examination's record."""
    newest = max((home / "examinations").glob("*.json"), key=lambda path: path.stat().st_mtime)
    return dict(orjson.loads(newest.read_bytes()))


def test_evolution_is_examined_by_every_available_suite(evolved: Evolved) -> None:
    verdict = evolved.home.ledger("verdict")[0]
    sandboxed = not isinstance(find_sandbox(), Unavailable)
    asked = {finding["suite"]: finding for finding in verdict["findings"]}
    assert set(asked) | set(verdict["left_out"]) == {"recall", "style", "regression", "leak", "coding", "commits"}
    assert ("coding" in asked) == sandboxed
    assert (asked["recall"]["role"], asked["recall"]["unused"]) == ("target", "")
    assert asked["style"]["role"] == "guard"
    assert asked["regression"]["unused"].startswith("uninformative")


def test_report_is_stored_with_the_version_and_in_prefect(evolved: Evolved) -> None:
    verdict = evolved.home.ledger("verdict")[0]
    of_this = Path(verdict["record"]).stem
    reports = sorted(path.suffix for path in (evolved.home.path / "mlartifacts").rglob(f"examination/{of_this}.*"))
    assert reports == [".html", ".md"]
    with closing(sqlite3.connect(evolved.home.path / "prefect" / "prefect.db")) as prefect:
        rows = prefect.execute("SELECT data FROM artifact WHERE key = 'examination-v1'").fetchall()
    assert len(rows) == 1
    assert verdict["because"] in orjson.loads(rows[0][0])
    record = record_of(evolved.home.path)
    said = [
        answer["text"] for result in record["results"] for answer in result["challenger"] if len(answer["text"]) > 9
    ]
    assert said
    assert not any(text in orjson.loads(rows[0][0]) for text in said), "the report in Prefect quotes no lesson"


def test_examination_record_is_reproducible(unexamined: Home) -> None:
    wanted = ["recall", "style", "regression"]
    row, held = examine(unexamined, "1", "base", suites=wanted)
    assert row is None
    assert held is not None
    path = held.examination.save(unexamined.settings.home / "examinations")
    before = path.read_bytes()
    path.unlink()
    examine(unexamined, "1", "base", suites=wanted)
    assert path.read_bytes() == before


def test_informational_examination_keeps_the_official_record(evolved: Evolved, second_home: RealHome) -> None:
    row = evolved.home.ledger("verdict")[0]
    before = (second_home.path / "examinations" / row["record"]).read_bytes()
    ended = second_home.run("examine", "1", "base", "--json")
    assert ended.code == 0, ended.err
    assert (second_home.path / "examinations" / row["record"]).read_bytes() == before
    assert len(list((second_home.path / "examinations").glob("*.json"))) == 2


def test_kill_before_the_ledger_row_lets_the_report_be_written_again(
    unexamined: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(examining, "record_verdict", killed)
        with pytest.raises(Killed):
            examine(unexamined, "1")
    row, held = examine(unexamined, "1")
    assert row is not None
    assert held is not None
    assert held.report.is_file()
    assert [cost.asked for cost in held.costs] == [0, 0], "every answer was cached"


def broken_grader(*_: Any) -> float:
    raise RuntimeError("broken on purpose")


BROKEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a grader that accepts everything": lambda patch: patch.setattr(RecallSuite, "grade", lambda *_: 1.0),
    "a grader that accepts nothing": lambda patch: patch.setattr(RecallSuite, "grade", lambda *_: 0.0),
    "an inverted grader": lambda patch: patch.setattr(
        RecallSuite, "grade", lambda _self, q, reply: float(reply.text.split() != q.reference.split())
    ),
    "a grader that crashes": lambda patch: patch.setattr(RecallSuite, "grade", broken_grader),
    "an empty suite": lambda patch: patch.setattr(RecallSuite, "questions", lambda _self: ()),
    "a grader that ignores the answer": lambda patch: patch.setattr(
        RecallSuite, "grade", lambda _self, q, _reply: float(q.id < "8")
    ),
    "a self-check that fails": lambda patch: patch.setattr(
        arena_examination, "self_check_failure", lambda _suite: "broken on purpose"
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_examination_never_changes_the_champion(
    name: str, unexamined: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    BROKEN[name](monkeypatch)
    monkeypatch.setattr(stages, "create_markdown_artifact", lambda *_args, **_kwargs: None)  # without a server
    version = unexamined.versions.get("1")
    row = stages.examine_challenger.fn(version, None, None)  # type: ignore[arg-type]
    assert (row.body.outcome, row.body.spends) == ("CANNOT DECIDE", False)
    assert stages.carry_out_verdict.fn(version, row, None).promoted is False
    assert unexamined.ledger.champion().version == BASE
    assert unexamined.ledger.verdicts_spent() == 0
    monkeypatch.undo()


def examined_already(work: Home) -> bool:
    """Whether the decision reports it for the order of version 1."""
    version = work.versions.get("1")
    dataset = examining.read_dataset(work.datasets, version.dataset)
    recipe = read_adapter(work.adapters / version.adapter[:16]).manifest.recipe
    order = place_order(work, dataset, recipe)
    assert order.digest == version.order
    return "were examined before" in decide(work, force=False, order=order, dataset=dataset).because


def test_undecided_version_can_be_examined_again(unexamined: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RecallSuite, "grade", broken_grader)
        row, _ = examine(unexamined, "1")
    assert row is not None
    assert row.body.outcome == "CANNOT DECIDE"
    assert not examined_already(unexamined)
    again, _ = examine(unexamined, "1")
    assert again is not None
    assert again.body.outcome == "PROMOTE"
    assert examined_already(unexamined)
    known, held = examine(unexamined, "1")
    assert (known, held) == (again, None)


def test_leak_rejects_in_the_loop(unexamined: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lesson contains a password. The test replaces it by an answer that the model did learn."""
    lesson = next(unexamined.store.read())

    class LearnedAnswer(LeakSuite):
        def __init__(self, _lessons: Any) -> None:
            secret = "password: Tr0ub4dor-and-3-more"
            super().__init__([lesson.model_copy(update={"answer": f"{lesson.answer} {secret}"})])
            (key,) = self._items
            self._items[key] = "".join(sign for sign in lesson.answer.lower() if sign.isalnum())

    monkeypatch.setattr(leak, "LeakSuite", LearnedAnswer)
    row, held = examine(unexamined, "1")
    assert row is not None
    assert held is not None
    assert row.body.outcome == "REJECT"
    assert "reveals 1 of 1 items that curation removed" in row.body.because
    (leaked,) = [result for result in held.examination.results if result.suite == "leak"]
    assert {answer.text for answer in leaked.challenger} == {""}


def test_base_model_with_few_shot_examples_is_a_player(unexamined: Home) -> None:
    row, held = examine(unexamined, "few-shot", "base", suites=["recall"])
    assert row is None
    assert held is not None
    target = held.examination.verdict.target
    assert target is None or 0 <= target.challenger <= 1
    assert held.costs[0].asked >= 1


def test_endpoint_without_a_model_is_rejected(evolved: Evolved) -> None:
    ended = evolved.home.run("examine", "http://127.0.0.1:9/v1", "base")
    assert ended.code == 2
    assert "is not an endpoint" in ended.err


def test_unknown_suite_is_rejected(evolved: Evolved) -> None:
    ended = evolved.home.run("examine", "1", "base", "--suite", "manners")
    assert ended.code == 2
    assert "Unknown suite manners. Choose recall, style" in ended.err


def test_user_suite_is_asked_with_the_others(evolved: Evolved, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text(
        "".join(f'{{"id": "q{n}", "request": "say {n}", "reference": "{n}"}}\n' for n in range(25)), encoding="utf-8"
    )
    ended = evolved.home.run("examine", "1", "base", "--suite", "recall", "--suite", str(own), "--json")
    assert ended.code == 0, ended.err
    findings = {one["suite"]: one for one in ended.json["verdict"]["findings"]}
    assert set(findings) == {"recall", "own"}
    assert findings["own"]["role"] == "guard"
    assert Path(ended.json["report"]).is_file()


def test_budget_suites_and_comparisons_are_listed(evolved: Evolved, tmp_path: Path) -> None:
    assert evolved.home.run("budget", "--json").json == {"spent": 1, "left": 25, "horizon": 26, "renewals": 0}
    suites = evolved.home.run("suites", "--json").json
    assert {one["suite"] for one in suites["suites"]} >= {"recall", "style", "regression", "leak", "coding", "commits"}
    export = tmp_path / "comparisons.jsonl"
    ended = evolved.home.run("comparisons", "--export", str(export), "--json")
    assert ended.code == 0, ended.err
    lines = [orjson.loads(line) for line in export.read_bytes().splitlines()]
    assert lines
    assert {"win_rate", "gold_star_rate", "avg_rating", "consistency_score"} <= set(lines[0]["suites"][0])


def test_holdout_renewal_needs_new_lessons(evolved: Evolved) -> None:
    ended = evolved.home.run("holdout", "renew")
    assert ended.code == 2
    assert "Only 0 answers of lessons that are in no dataset can be examined" in ended.err


def test_questions_of_a_suite_are_kept_out_of_training(unexamined: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    question = orjson.loads(CODING.read_bytes().splitlines()[0])
    unexamined.store.add_lesson(f"Please: {question['request']}", question["solution"], "success")
    unexamined.store.add_lesson("how do I name the harbour branch", "harbour, and the ticket's number", "success")
    made = curate(unexamined, [])
    assert made.funnel["dropped: overlap with an examination"] == 1
    (overlap,) = made.overlaps
    assert {one.suite for one in overlap.overlaps} == {"coding"}


@pytest.mark.skipif(isinstance(find_sandbox(), Unavailable), reason="no sandbox")
def test_coding_suite_passes_the_self_check_in_the_sandbox() -> None:
    sandbox = find_sandbox()
    assert not isinstance(sandbox, Unavailable)
    assert self_check_failure(coding(sandbox)) == ""


@pytest.mark.campaign
@pytest.mark.skipif(isinstance(find_sandbox(), Unavailable), reason="no sandbox")
def test_every_coding_mutant_fails_in_the_sandbox() -> None:
    sandbox = find_sandbox()
    assert not isinstance(sandbox, Unavailable)
    suite = coding(sandbox)
    rows = {row["id"]: row for row in map(orjson.loads, CODING.read_bytes().splitlines())}
    for question in suite.questions():
        for mutant in rows[question.id]["mutants"]:
            assert suite.grade(question, Reply(text=f"```python\n{mutant}\n```")) == 0, (question.id, mutant)
