"""Shows contradicting lessons with their texts. Records keep ids only, so that a lesson can be forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from academy.arena.examination import Examination
from academy.curriculum.dataset import Dataset, all_datasets
from academy.curriculum.filters import as_learned, clean
from academy.experience.experience import Experience
from academy.loop.choose_suites import suspects_of
from academy.loop.home import Home
from academy.records import Record
from academy.store.ledger import Champion
from academy.store.ledger_rows import Contradicted, VerdictEntry


class ContradictionText(Record):
    """A request with its answer, and the other answer that a lesson of a batch teaches."""

    request: str
    answer: str
    taught: str
    batch: str

    @property
    def sentence(self) -> str:
        """Both answers, for people."""
        return f"'{self.request}': '{self.answer}', but {self.batch} teaches '{self.taught}'"


def count_in_words(number: int) -> str:
    """How many pairs of lessons contradict each other, and what to do."""
    pairs = "1 pair of lessons gives" if number == 1 else f"{number:,} pairs of lessons give"
    return f'{pairs} different answers to one request. Choose an answer: academy lessons supersede "REQUEST" "ANSWER"'


def open_contradictions(home: Home) -> int:
    """The contradictions of the newest dataset that no user has decided: both lessons are still active."""
    pairs = [pair for dataset in all_datasets(home.datasets)[-1:] for pair in dataset.contradictions]
    active = {lesson.id for lesson in home.store.read()} if pairs else set()
    return sum(1 for pair in pairs if {pair.first, pair.second} <= active)


def explain_contradictions(home: Home, pairs: Iterable[tuple[str, str]]) -> list[ContradictionText]:
    """The texts of pairs of lessons (ids). A pair with a forgotten lesson is skipped."""
    pairs = list(pairs)
    rows = home.store.by_id(id_ for pair in pairs for id_ in pair)
    lessons = {id_: clean(row)[0] for id_, row in rows.items()}
    return [
        ContradictionText(
            request=lessons[first].request,
            answer=lessons[first].answer,
            taught=lessons[second].answer,
            batch=lessons[second].batch,
        )
        for first, second in pairs
        if first in lessons and second in lessons
    ]


def explain_verdict(home: Home, verdict: VerdictEntry) -> tuple[ContradictionText, ...]:
    """The texts of a verdict's contradicting lessons."""
    return tuple(explain_contradictions(home, [(pair.lesson, pair.against) for pair in verdict.contradicted]))


def verdict_as_json(verdict: VerdictEntry, contradictions: Sequence[ContradictionText]) -> dict[str, Any]:
    """A verdict as a JSON object, with the texts of its contradicting lessons."""
    return {**verdict.as_json(), "contradicted": [text.model_dump() for text in contradictions]}


def contradicting_lessons(
    home: Home, examination: Examination, champion: Champion, dataset: Dataset
) -> list[Contradicted]:
    """The new lessons that teach the wrong answers that the challenger gave to questions it lost: ids, no texts."""
    held_out = {example.id for example in dataset.held_out()}
    by_answer: dict[str, Experience] = {lesson.answer: lesson for lesson in suspects_of(home, dataset)}
    for lesson in home.store.read(since=champion.cursor):
        if lesson.seq <= dataset.cursor and (learned := as_learned(lesson)):
            by_answer.setdefault(learned.answer, lesson)
    return [
        Contradicted(lesson=question, against=by_answer[answer].id, batch=by_answer[answer].batch)
        for result in examination.results
        if result.role in ("target", "suspect")
        for question, answer in result.lost
        if answer in by_answer and (question in held_out or result.role == "suspect")
    ]


def suspects_behind(home: Home, examination: Examination, champion: Champion, dataset: Dataset) -> list[str]:
    """The suspect lessons that a REJECT sets aside (ids): those new since the champion, and those whose answers the
    challenger gave to trusted questions."""
    lost_to = {answer for result in examination.results if result.role == "suspect" for _, answer in result.lost}
    return [
        lesson.id for lesson in suspects_of(home, dataset) if lesson.seq > champion.cursor or lesson.answer in lost_to
    ]
