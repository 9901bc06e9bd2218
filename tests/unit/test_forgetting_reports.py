"""Forgetting: a lesson's text goes from answers, records and reports, in the home and where MLflow keeps copies."""

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
from academy.lifecycle.forgetting import GONE, forget
from academy.store.database import Database, assignments

GENERATION = Generation(max_new_tokens=32)
ODD = "Which <b>lights</b> | of the 'east wing' & the *yard* burn\nat `night` [always]?"
ANSWER = 'Only the <i>red</i> ones | and the "green" ones & nothing\nelse, see [the plan].'


class Known:
    """A player that says what it is told to say."""

    def __init__(self, identity: str, said: dict[str, str]) -> None:
        self.identity = identity * 64
        self.said = said

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        return [Reply(text=self.said.get(request, "I do not know"), tokens=3) for request in requests]


@dataclass
class Kept:
    """A home with lessons of which one examination with its reports tells."""

    database: Database
    home: Path

    @property
    def store(self) -> LessonsStore:
        return LessonsStore(self.database)

    @property
    def artifacts(self) -> Path:
        return self.home / "mlartifacts" / "1" / "run" / "artifacts" / "examination"

    def teach(self, request: str, answer: str) -> Experience:
        found = self.store.add_lesson(request, answer, "success")
        (lesson,) = self.store.beginning_with(found)
        return lesson

    def examine(
        self,
        lessons: Sequence[Experience],
        says: Callable[[Question], str] = lambda q: q.reference,
        contradicted: Sequence[dict[str, str]] = (),
    ) -> Examination:
        """An examination, its record and its reports, as the stage writes them.

        The base model knows all but the first lesson, so that everything is asked and the first is shown.
        """
        suite = RecallSuite([Example.of(clean(lesson)[0], origin=lesson.id) for lesson in lessons], 0)
        challenger = Known("b", {q.request: says(q) for q in suite.questions()})
        champion = Known("a", {q.request: q.reference for q in suite.questions() if q.id != lessons[0].id})
        asked = [(suite, GENERATION)]
        held, costs = examine(champion, challenger, asked, spent_before=0, answers=self.home / "answers")
        record = held.save(self.home / "examinations")
        context = ReportContext(names=("base", "v1"), base="seed", costs=costs, contradicted=tuple(contradicted))
        self.artifacts.mkdir(parents=True, exist_ok=True)
        for form in ("md", "html"):
            text = render(held, {"recall": suite.questions()}, context, form=form)
            for path in (record.with_suffix(f".{form}"), self.artifacts / f"{record.stem}.{form}"):
                path.write_text(text, encoding="utf-8")
        return held

    def forget(self, lesson: Experience) -> None:
        forget(self.database, self.home, None, lesson.id, "asked for")  # no version is tainted: MLflow is not asked

    def reports(self) -> list[Path]:
        return sorted(path for path in self.home.rglob("*") if path.suffix in (".md", ".html"))

    def holding(self, text: str) -> list[str]:
        """Files in which a text stands, however it is escaped there."""
        wanted = " ".join(text.split())
        found = []
        for path in self.home.rglob("*"):
            if path.is_file():
                raw = path.read_text("utf-8", "replace")
                unescaped = html.unescape(raw).replace("\\n", " ").replace("\\", "")
                if wanted in " ".join(raw.split()) or wanted in " ".join(unescaped.split()):
                    found.append(str(path.relative_to(self.home)))
        return found


@pytest.fixture
def kept(database: Database, tmp_path: Path) -> Kept:
    made = Kept(database, tmp_path / "home")
    made.home.mkdir()
    return made


def many(kept: Kept, count: int = 30) -> list[Experience]:
    return [
        kept.teach(f"How is machine number {n} restarted?", f"Press the button of room {n:03}.") for n in range(count)
    ]


def test_a_forgotten_lesson_is_in_no_report_record_or_answer(kept: Kept) -> None:
    lesson = kept.teach(ODD, ANSWER)
    held = kept.examine([lesson, *many(kept)])
    assert len(kept.holding(ODD)) == 6, "four reports and both players' answers"
    assert len(kept.holding(ANSWER)) == 6, "four reports, the challenger's answers and the record"
    kept.forget(lesson)
    assert kept.reports() == []
    assert kept.holding(ODD) == kept.holding(ANSWER) == []
    (record,) = (kept.home / "examinations").glob("*.json")
    left = read_examination(record)
    said = {answer.question: answer.text for answer in left.results[0].challenger}
    assert said[lesson.id] == GONE
    assert sum(text == GONE for text in said.values()) == 1
    assert left.verdict == held.verdict
    assert left.results[0].items == held.results[0].items


def test_a_copied_dataset_that_holds_it_goes_and_others_stay(kept: Kept) -> None:
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


def test_answers_of_the_others_stay_with_their_tokens(kept: Kept) -> None:
    lesson = kept.teach(ODD, ANSWER)
    kept.examine([lesson, *many(kept)])
    paths = sorted((kept.home / "answers").glob("*.json"))
    before = [orjson.loads(path.read_bytes()) for path in paths]
    kept.forget(lesson)
    after = [orjson.loads(path.read_bytes()) for path in paths]
    assert [len(one) for one in before] == [31, 31]
    for known, left in zip(before, after, strict=True):
        assert known.keys() - left.keys() == {ODD}
        assert all(known[request] == left[request] == [left[request][0], 3, True] for request in left)


def test_an_answer_that_quotes_a_forgotten_one_goes_as_well(kept: Kept) -> None:
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


def test_a_lesson_that_was_only_taught_instead_goes_from_the_reports(kept: Kept) -> None:
    """It is no question of the examination; the report says what it taught."""
    others = many(kept)
    lesson = kept.teach(others[0].request, "Pull the plug, then wait.")
    taught = {"request": others[0].request, "answer": others[0].answer, "taught": lesson.answer, "batch": "july"}
    kept.examine(others, contradicted=[taught])
    assert len(kept.holding(lesson.answer)) == 4
    kept.forget(lesson)
    assert kept.holding(lesson.answer) == []
    assert kept.reports() == []


def test_a_report_goes_though_its_record_is_gone(kept: Kept) -> None:
    long = kept.teach("Why " + "very " * 100 + "long?", "Because " + "it is " * 100 + "so.")
    kept.examine([long, *many(kept)])
    for path in (kept.home / "examinations").glob("*"):
        path.unlink()
    assert [path.parent for path in kept.reports()] == [kept.artifacts] * 2
    kept.forget(long)
    assert kept.reports() == []


def test_what_another_lesson_teaches_as_well_stays(kept: Kept) -> None:
    lesson = kept.teach("Which lights burn at night?", ANSWER)
    twin = kept.teach("At night, which lights?", ANSWER)
    kept.examine([lesson, twin, *many(kept)])
    kept.forget(lesson)
    (record,) = (kept.home / "examinations").glob("*.json")
    said = {answer.question: answer.text for answer in read_examination(record).results[0].challenger}
    assert (said[lesson.id], said[twin.id]) == (GONE, ANSWER)
    assert kept.holding(lesson.request) == []


def test_a_lesson_of_which_something_was_taken_out_is_found_as_it_was_written(kept: Kept) -> None:
    """Curation wrote its request without the address; that is what answers and register have."""
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


def test_forgetting_that_was_killed_is_finished_by_asking_again(kept: Kept) -> None:
    """The lesson goes last; what was erased by then is erased, and the rest follows."""
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
