"""Lessons that resemble each other: what is kept, what is dropped, and what is a contradiction.

[input]
text = '''...'''        # lines as `academy lessons import` reads them
options = ["--examples"] # or "--conversations"
[right]
trained_or_held = ["..."]    # requests that the dataset must have, on either side
dropped = {"near duplicate" = 1}    # numbers in the funnel, by reason
contradictions = 1           # pairs of lessons
together = [["...", "..."]]  # requests that are one question: they are on one side
apart = [["...", "..."]]     # requests that are different questions: they have origins of their own
systems = ["..."]            # system messages that the held-out and trained conversations have
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from academy.curriculum.curator import DatasetCurator
from academy.curriculum.dataset import read_rows
from academy.curriculum.holdout import Holdout, request_key
from academy.experience.experience import Kind
from academy.experience.lessons import LessonsStore
from academy.store.database import Database
from tests.foreign.cases import Case, each_case

KINDS: dict[tuple[str, ...], Kind] = {(): "lesson", ("--examples",): "file", ("--conversations",): "conversation"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LessonsStore]:
    database = Database(f"sqlite:///{tmp_path}/academy.db")
    database.migrate()
    yield LessonsStore(database)
    database.engine.dispose()


def origins(store: LessonsStore, requests: list[str]) -> list[Any]:
    """The assignments of requests, of one side and origin each."""
    database = store.database
    with database.read() as connection:
        rows = {row.request: (row.origin, row.side) for row in connection.exec_driver_sql("SELECT * FROM register")}
    return [rows[request_key("recall", request)] for request in requests]


@each_case("answers")
def test_answers_are_kept_dropped_and_compared_as_people_mean_them(
    case: Case, store: LessonsStore, tmp_path: Path
) -> None:
    file = tmp_path / "lessons.jsonl"
    file.write_bytes(case.content)
    store.import_file(file, tmp_path / "quarantine", KINDS[tuple(case.input.get("options", ()))])
    curator = DatasetCurator(
        store, lambda talks: [sum(len(turn.content) for turn in talk.messages) // 4 for talk in talks], context=2048
    )
    curator.collect_from_lessons()
    curator.filter_low_quality()
    dataset = curator.save(tmp_path / "datasets", Holdout(store.database))
    conversations = [row["messages"] for row in read_rows(dataset.train_file)]
    held_out = dataset.held_out()
    conversations += [[turn.written() for turn in example.transcript.messages] for example in held_out]
    requests = {messages[-2]["content"] for messages in conversations}
    right = case.right
    assert set(right.get("trained_or_held", ())) <= requests
    assert len(dataset.contradictions) == right.get("contradictions", 0)
    for reason, number in right.get("dropped", {}).items():
        assert dataset.funnel.get(f"dropped: {reason}", 0) == number, dataset.funnel
    for wordings in right.get("together", ()):
        assert len(set(origins(store, wordings))) == 1
    for questions in right.get("apart", ()):
        assert len({origin for origin, _ in origins(store, questions)}) == len(questions)
    systems = {m["content"] for messages in conversations for m in messages if m["role"] == "system"}
    assert systems == set(right.get("systems", systems))
    assert not right.get("held_out") or held_out
