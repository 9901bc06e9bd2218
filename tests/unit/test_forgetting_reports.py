"""Forgetting removes a lesson's text from answers, records and reports, in the home and among MLflow's artifacts."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
import sqlalchemy as sa

from academy.arena.examination import Examination, examine, read_examination
from academy.arena.report import ReportContext, render
from academy.arena.suites.base import Generation, Question, Reply
from academy.arena.suites.recall import RecallSuite
from academy.curriculum.dataset import Example
from academy.curriculum.filters import clean
from academy.curriculum.holdout import GroupedRequest, Holdout, request_key
from academy.experience.experience import Experience
from academy.experience.lessons import LessonsStore
from academy.experience.ratings import Rating, Ratings
from academy.lifecycle.forgetting import GONE, forget
from academy.store.database import Database, assignments

GENERATION = Generation(max_new_tokens=32)
ODD = "Which <b>lights</b> | of the 'east wing' & the *yard* burn\nat `night` [always]?"
ANSWER = 'Only the <i>red</i> ones | and the "green" ones & nothing\nelse, see [the plan].'


class Known:
    """A player with fixed answers."""

    def __init__(self, identity: str, said: dict[str, str]) -> None:
        self.identity = identity * 64
        self.said = said

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        return [Reply(text=self.said.get(request, "I do not know"), tokens=3) for request in requests]


@dataclass
class Kept:
    """A home with lessons, and one examination of them with its reports."""

    database: Database
    home: Path

    @property
    def store(self) -> LessonsStore:
        return LessonsStore(self.database)

    @property
    def artifacts(self) -> Path:
        return self.home / "mlartifacts" / "1" / "run" / "artifacts" / "examination"

    def teach(self, request: str, answer: str) -> Experience:
        lesson_id = self.store.add_lesson(request, answer, "success")
        (lesson,) = self.store.beginning_with(lesson_id)
        return lesson

    def examine(
        self,
        lessons: Sequence[Experience],
        says: Callable[[Question], str] = lambda q: q.reference,
        contradicted: Sequence[dict[str, str]] = (),
    ) -> Examination:
        """An examination with its record and reports, as the loop writes them.

        The base model knows all but the first lesson, so that everything is asked and the first is shown.
        """
        suite = RecallSuite([Example.of(clean(lesson)[0], origin=lesson.id) for lesson in lessons], 0)
        challenger = Known("b", {q.request: says(q) for q in suite.questions()})
        champion = Known("a", {q.request: q.reference for q in suite.questions() if q.id != lessons[0].id})
        asked = [(suite, GENERATION)]
        examination, costs = examine(champion, challenger, asked, spent_before=0, answers=self.home / "answers")
        record = examination.save(self.home / "examinations")
        context = ReportContext(names=("base", "v1"), base="seed", costs=costs, contradicted=tuple(contradicted))
        self.artifacts.mkdir(parents=True, exist_ok=True)
        for form in ("md", "html"):
            text = render(examination, {"recall": suite.questions()}, context, form=form)
            for path in (record.with_suffix(f".{form}"), self.artifacts / f"{record.stem}.{form}"):
                path.write_text(text, encoding="utf-8")
        return examination

    def forget(self, lesson: Experience) -> None:
        forget(self.database, self.home, None, lesson.id, "asked for")  # no dataset contains it: MLflow is not used

    def reports(self) -> list[Path]:
        return sorted(path for path in self.home.rglob("*") if path.suffix in (".md", ".html"))

    def holding(self, text: str) -> list[str]:
        """Files that contain a text, escaped or not."""
        wanted = " ".join(text.split())
        paths = []
        for path in self.home.rglob("*"):
            if path.is_file():
                raw = path.read_text("utf-8", "replace")
                unescaped = html.unescape(raw).replace("\\n", " ").replace("\\", "")
                if wanted in " ".join(raw.split()) or wanted in " ".join(unescaped.split()):
                    paths.append(str(path.relative_to(self.home)))
        return paths


@pytest.fixture
def kept(database: Database, tmp_path: Path) -> Kept:
    kept_home = Kept(database, tmp_path / "home")
    kept_home.home.mkdir()
    return kept_home


def many(kept: Kept, count: int = 30) -> list[Experience]:
    return [
        kept.teach(f"How is machine number {n} restarted?", f"Press the button of room {n:03}.") for n in range(count)
    ]


def test_forgotten_lesson_disappears_from_reports_records_and_answers(kept: Kept) -> None:
    lesson = kept.teach(ODD, ANSWER)
    examination = kept.examine([lesson, *many(kept)])
    assert len(kept.holding(ODD)) == 6, "four reports and both players' answers"
    assert len(kept.holding(ANSWER)) == 6, "four reports, the challenger's answers and the record"
    kept.forget(lesson)
    assert kept.reports() == []
    assert kept.holding(ODD) == kept.holding(ANSWER) == []
    (record,) = (kept.home / "examinations").glob("*.json")
    redacted_record = read_examination(record)
    said = {answer.question: answer.text for answer in redacted_record.results[0].challenger}
    assert said[lesson.id] == GONE
    assert sum(text == GONE for text in said.values()) == 1
    assert redacted_record.verdict == examination.verdict
    assert redacted_record.results[0].items == examination.results[0].items


def test_dataset_copies_with_the_lesson_are_removed_and_others_stay(kept: Kept) -> None:
    lesson = kept.teach(ODD, ANSWER)
    jobs = kept.home / "jobs"
    jobs.mkdir()
    alpaca = {"instruction": ODD, "input": "", "output": ANSWER}
    messages = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": f"So: {ANSWER}"}]}
    other = {"instruction": "Who is there?", "input": "", "output": "It is me."}
    for name, rows in (("a", [other, alpaca]), ("b", [messages]), ("c", [other])):
        (jobs / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows) + b"no JSON\n")
    kept.forget(lesson)
    assert [path.name for path in jobs.iterdir()] == ["c.jsonl"]


def test_answers_of_other_lessons_stay_with_their_tokens(kept: Kept) -> None:
    lesson = kept.teach(ODD, ANSWER)
    kept.examine([lesson, *many(kept)])
    paths = sorted((kept.home / "answers").glob("*.json"))
    before = [orjson.loads(path.read_bytes()) for path in paths]
    kept.forget(lesson)
    after = [orjson.loads(path.read_bytes()) for path in paths]
    assert [len(answers) for answers in before] == [31, 31]
    for former, current in zip(before, after, strict=True):
        assert former.keys() - current.keys() == {ODD}
        assert all(former[request] == current[request] == [current[request][0], 3, True] for request in current)


def test_answers_that_quote_a_forgotten_lesson_are_removed(kept: Kept) -> None:
    lesson, others = kept.teach(ODD, ANSWER), many(kept)
    kept.examine(others, says=lambda q: f"As always: {ANSWER}" if q.id == others[1].id else q.reference)
    assert len(kept.holding(ANSWER)) == 6
    kept.forget(lesson)
    assert kept.holding(ANSWER) == []
    assert kept.reports() == []


def test_reports_that_do_not_show_it_stay(kept: Kept) -> None:
    lesson, others = kept.teach(ODD, ANSWER), many(kept, 60)
    kept.examine(others)
    before = {path: path.read_bytes() for path in kept.reports()}
    assert len(before) == 4
    kept.forget(lesson)
    assert {path: path.read_bytes() for path in kept.reports()} == before


def test_contradicting_lesson_disappears_from_the_reports(kept: Kept) -> None:
    """It is not a question of the examination, but the report shows what it taught."""
    others = many(kept)
    lesson = kept.teach(others[0].request, "Pull the plug, then wait.")
    taught = {"request": others[0].request, "answer": others[0].answer, "taught": lesson.answer, "batch": "july"}
    kept.examine(others, contradicted=[taught])
    assert len(kept.holding(lesson.answer)) == 4
    kept.forget(lesson)
    assert kept.holding(lesson.answer) == []
    assert kept.reports() == []


def test_report_without_its_record_is_removed(kept: Kept) -> None:
    long = kept.teach("Why " + "very " * 100 + "long?", "Because " + "it is " * 100 + "so.")
    kept.examine([long, *many(kept)])
    for path in (kept.home / "examinations").glob("*"):
        path.unlink()
    assert [path.parent for path in kept.reports()] == [kept.artifacts] * 2
    kept.forget(long)
    assert kept.reports() == []


def test_text_that_another_lesson_also_teaches_stays(kept: Kept) -> None:
    lesson = kept.teach("Which lights burn at night?", ANSWER)
    twin = kept.teach("At night, which lights?", ANSWER)
    kept.examine([lesson, twin, *many(kept)])
    kept.forget(lesson)
    (record,) = (kept.home / "examinations").glob("*.json")
    said = {answer.question: answer.text for answer in read_examination(record).results[0].challenger}
    assert (said[lesson.id], said[twin.id]) == (GONE, ANSWER)
    assert kept.holding(lesson.request) == []


def test_redacted_lesson_is_found_in_its_curated_wording(kept: Kept) -> None:
    """Curation removed the address from its request; answers and the hold-out have that wording."""
    mail = "ana.kowalska@orlen-fracht.pl"
    lesson = kept.teach(f"May I write to {mail} about the lights?", f"Yes, write to {mail}.")
    written = clean(lesson)[0]
    assert written.request != lesson.request
    Holdout(kept.database).assign([GroupedRequest(text=written.request, suite="recall", group="g")])
    kept.examine([lesson, *many(kept)])
    assert len(kept.holding(written.request)) == 6
    kept.forget(lesson)
    assert kept.holding(written.request) == []
    assert kept.holding(written.answer) == []
    with kept.database.read() as connection:
        (row,) = connection.execute(sa.select(assignments)).all()
    assert (row.request, row.text) == (request_key("recall", written.request), "")


def test_killed_forgetting_is_finished_by_repeating_it(kept: Kept) -> None:
    """The lesson is erased last, so repeating the call erases the rest."""
    lesson = kept.teach(ODD, ANSWER)
    kept.examine([lesson, *many(kept)])
    blocked = kept.artifacts / "blocked.html"
    blocked.mkdir()
    with pytest.raises(IsADirectoryError):
        kept.forget(lesson)
    blocked.rmdir()
    assert kept.store.beginning_with(lesson.id)
    kept.forget(lesson)
    assert kept.holding(ODD) == kept.holding(ANSWER) == []
    assert kept.store.beginning_with(lesson.id) == []


def test_later_turns_that_quote_a_forgotten_lesson_go_with_it(kept: Kept, tmp_path: Path) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "plan_of_wing", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": ODD},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "red"},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": "And on Sundays?"},
        {"role": "assistant", "content": "On Sundays all are dark.", "feedback": {"thumb": "up"}},
    ]
    other = [
        {"role": "user", "content": "And on Sundays?"},
        {"role": "assistant", "content": "The gate is shut.", "feedback": {"thumb": "up"}},
    ]
    turns[3]["feedback"] = {"thumb": "up"}
    file = tmp_path / "talks.jsonl"
    file.write_bytes(b"".join(orjson.dumps({"messages": messages}) + b"\n" for messages in (turns, other)))
    kept.store.import_file(file, tmp_path / "quarantine", "conversation")
    rating = Rating(
        completion="c", source="anonymous", asker="anonymous", at="2026-12-01T00:00:00+00:00", lesson="x", rated="x",
        line={"messages": [turns[0], turns[3], *turns[4:]]},
    )  # fmt: skip
    with kept.database.write() as connection:
        Ratings(kept.database).add(rating, connection)
    lessons = {lesson.words: lesson for lesson in kept.store.every()}
    assert len(lessons) == 4, "a call, the answer after its result, and two later answers"
    forgotten = forget(kept.database, kept.home, None, lessons[ANSWER].id, "asked for")
    assert forgotten.with_it == (lessons["On Sundays all are dark."].id,)
    assert [lesson.words for lesson in kept.store.every()] == ["plan_of_wing({})", "The gate is shut."]
    assert list(Ratings(kept.database).read()) == []
    forget(kept.database, kept.home, None, lessons["plan_of_wing({})"].id, "asked for")
    assert [lesson.words for lesson in kept.store.every()] == ["The gate is shut."]
