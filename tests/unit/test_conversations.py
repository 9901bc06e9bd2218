"""Rated answers of conversations become experience; conversations without feedback are stored and not trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.experience.conversations import ConversationFilter
from academy.experience.experience import Experience, Kind
from academy.experience.lessons import LessonsStore
from academy.store.database import Database

TURNS = [
    {"role": "user", "content": "how do I roll back"},
    {"role": "assistant", "content": "quay rollback"},
    {"role": "user", "content": "and by two steps"},
    {"role": "assistant", "content": "quay rollback --steps 2"},
]


@pytest.fixture
def store(database: Database) -> LessonsStore:
    return LessonsStore(database)


def read(store: LessonsStore, folder: Path, *lines: Any, only: ConversationFilter | None = None) -> list[Experience]:
    path = folder / "talks.jsonl"
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    result = store.import_file(path, folder / "quarantine", "conversation", only)
    assert result.unreadable == ()
    return list(store.read())


def test_an_unrated_conversation_is_stored_and_not_trained_on(store: LessonsStore, tmp_path: Path) -> None:
    (experience,) = read(store, tmp_path, {"id": "c1", "messages": TURNS})
    assert (experience.kind, experience.request, experience.answer) == (
        "conversation",
        "and by two steps",
        "quay rollback --steps 2",
    )
    assert (experience.outcome, experience.model_made, experience.thread) == ("unknown", True, "c1")
    assert [turn.content for turn in experience.context] == ["how do I roll back", "quay rollback"]
    assert store.trainable() == 0


@pytest.mark.parametrize(
    ("feedback", "outcome"),
    [
        ({"rating": 5}, "success"), ({"rating": 4}, "success"), ({"rating": 3}, "unknown"), ({"rating": 2}, "failure"),
        ({"gold_star": True}, "success"), ({"is_gold_star": True, "rating": 1}, "success"),
        ({"thumbs": "up"}, "success"), ({"thumbs": "down"}, "failure"), ({"thumbs": "down", "rating": 5}, "failure"),
    ],
)  # fmt: skip
def test_feedback_decides_the_outcome(
    store: LessonsStore, tmp_path: Path, feedback: dict[str, Any], outcome: str
) -> None:
    (experience,) = read(store, tmp_path, {"messages": TURNS, "feedback": feedback})
    assert experience.outcome == outcome
    assert experience.model_made is (outcome != "success")


def test_every_rated_answer_becomes_an_experience(store: LessonsStore, tmp_path: Path) -> None:
    turns = [dict(turn) for turn in TURNS]
    turns[1]["feedback"] = {"thumbs": "up"}  # type: ignore[assignment]
    turns[3]["feedback"] = {"rating": 1}  # type: ignore[assignment]
    first, second = read(store, tmp_path, {"id": "c1", "messages": turns})
    assert (first.answer, first.outcome, len(first.context)) == ("quay rollback", "success", 0)
    assert (second.answer, second.outcome, len(second.context)) == ("quay rollback --steps 2", "failure", 2)
    assert first.thread == second.thread == "c1"


def test_a_correction_replaces_the_answer(store: LessonsStore, tmp_path: Path) -> None:
    (experience,) = read(
        store, tmp_path, {"messages": TURNS, "feedback": {"thumbs": "down", "correction": "quay back 2"}}
    )
    assert (experience.answer, experience.outcome, experience.model_made) == ("quay back 2", "success", False)


def test_the_formats_give_the_same_experience(store: LessonsStore, tmp_path: Path) -> None:
    words = ["how do I roll back", "quay rollback"]
    read(
        store,
        tmp_path,
        {"conversations": [{"from": "human", "value": words[0]}, {"from": "gpt", "value": words[1]}], "id": "a"},
        {"text": f"<|im_start|>user\n{words[0]}<|im_end|>\n<|im_start|>assistant\n{words[1]}<|im_end|>\n", "id": "b"},
        {"messages": TURNS[:2], "id": "c"},
    )
    (experience,) = store.read()  # one content, so one lesson
    assert (experience.request, experience.answer) == tuple(words)


def test_a_filter_skips_other_conversations(store: LessonsStore, tmp_path: Path) -> None:
    def line(name: str, **changes: Any) -> dict[str, Any]:
        turns = [{"role": "user", "content": name}, {"role": "assistant", "content": "yes"}]
        return {
            "messages": turns,
            "user": "ana",
            "domain": "ops",
            "type": "howto",
            "feedback": {"gold": True},
            **changes,
        }

    only = ConversationFilter(users=("ana",), domains=("ops",), types=("howto",), gold_only=True)
    experiences = read(
        store, tmp_path, line("wanted"), line("user", user="bo"), line("domain", domain="art"),
        line("type", type="chat"), line("gold", feedback={"rating": 5}), only=only,
    )  # fmt: skip
    assert [experience.request for experience in experiences] == ["wanted"]
    assert experiences[0].author == "ana"
    assert experiences[0].tags == ("domain:ops", "type:howto")


def test_a_file_of_examples_is_imported_as_successful(store: LessonsStore, tmp_path: Path) -> None:
    path = tmp_path / "alpaca.jsonl"
    path.write_bytes(orjson.dumps({"instruction": "Say yes.", "input": "", "output": "yes"}) + b"\nno json\n")
    result = store.import_file(path, tmp_path / "quarantine", "file")
    assert (result.admitted, len(result.unreadable)) == (1, 1)
    (experience,) = store.read()
    assert (experience.kind, experience.request, experience.answer, experience.outcome, experience.model_made) == (
        "file",
        "Say yes.",
        "yes",
        "success",
        False,
    )


@pytest.mark.parametrize("feedback", [[], {"rating": 9}, {"rating": "good"}])
def test_unreadable_feedback_is_quarantined(store: LessonsStore, tmp_path: Path, feedback: Any) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_bytes(orjson.dumps({"messages": TURNS, "feedback": feedback or ["x"]}) + b"\n")
    result = store.import_file(path, tmp_path / "quarantine", "conversation")
    assert (result.admitted, len(result.unreadable)) == (0, 1)


def conversation(answer: str, feedback: dict[str, Any] | None = None, id_: str = "c1") -> dict[str, Any]:
    turns = [*TURNS[:3], {"role": "assistant", "content": answer}]
    return {"id": id_, "messages": turns, **({"feedback": feedback} if feedback else {})}


RATED = conversation("quay rollback -2", {"rating": 5})
CORRECTED = conversation("quay rollback -2", {"thumb": "down", "correction": "quay rollback --steps 2"})
CORRECTED_AGAIN = conversation("quay rollback -2", {"correction": "quay rollback --steps=2"})
WRONG, RIGHT, LAST = "quay rollback -2", "quay rollback --steps 2", "quay rollback --steps=2"


@pytest.mark.parametrize(
    ("imports", "active"),
    [
        ([RATED, CORRECTED], [RIGHT]),
        ([CORRECTED, RATED], [RIGHT]),
        ([RATED, CORRECTED, RATED], [RIGHT]),
        ([RATED, CORRECTED, CORRECTED_AGAIN], [LAST]),
        ([CORRECTED, CORRECTED_AGAIN, CORRECTED, RATED], [LAST]),
        ([CORRECTED_AGAIN, RATED], [LAST]),
        ([conversation(RIGHT, {"rating": 5}), RATED, CORRECTED], [RIGHT]),
        ([conversation(RIGHT, {"rating": 5}), CORRECTED, RATED], [RIGHT]),
        ([conversation(WRONG, {"rating": 5}, "c2"), CORRECTED], [WRONG, RIGHT]),
        ([conversation(WRONG, {"correction": WRONG})], [WRONG]),
    ],
)
def test_a_correction_retires_the_answer_of_an_earlier_or_later_import(
    store: LessonsStore, tmp_path: Path, imports: list[dict[str, Any]], active: list[str]
) -> None:
    for line in imports:
        lessons = read(store, tmp_path, line)
    assert [lesson.answer for lesson in lessons] == active
    assert store.get_statistics()["standings"].get("superseded", 0) == len(list(store.every())) - len(active)


def test_a_correction_in_the_same_file_retires_the_answer(store: LessonsStore, tmp_path: Path) -> None:
    for lines in ([RATED, CORRECTED, CORRECTED_AGAIN], [CORRECTED, RATED]):
        assert [lesson.answer for lesson in read(store, tmp_path, *lines)] == [LAST]


def test_a_correction_in_a_longer_conversation_without_id_retires_the_answer(
    store: LessonsStore, tmp_path: Path
) -> None:
    turns = [{**turn} for turn in TURNS]
    read(store, tmp_path, {"messages": [*turns[:3], {**turns[3], "feedback": {"rating": 5}}]})
    turns[3]["feedback"] = {"correction": "quay rollback 2"}  # type: ignore[assignment]
    later = [{"role": "user", "content": "thanks"}, {"role": "assistant", "content": "You are welcome."}]
    assert [lesson.answer for lesson in read(store, tmp_path, {"messages": [*turns, *later]})] == ["quay rollback 2"]


@pytest.mark.parametrize("kind", ["lesson", "file"])
def test_a_correction_of_a_lesson_or_an_example_retires_it(store: LessonsStore, tmp_path: Path, kind: Kind) -> None:
    file = tmp_path / "lines.jsonl"
    line = {"instruction": "Which port?", "output": "8080", "outcome": "success"}
    for written in (line, line | {"correction": "8443"}, line):
        file.write_bytes(orjson.dumps(written))
        store.import_file(file, tmp_path / "quarantine", kind)
    assert [lesson.answer for lesson in store.read()] == ["8443"]


def test_a_correction_whose_batch_was_undone_retires_nothing(store: LessonsStore, tmp_path: Path) -> None:
    read(store, tmp_path, CORRECTED)
    with store.database.write() as connection:
        store.undo("talks", connection)
    assert [lesson.answer for lesson in read(store, tmp_path, RATED)] == [WRONG]


def test_an_export_keeps_what_a_correction_retired(
    store: LessonsStore, tmp_path: Path, new_database: Callable[[], Database]
) -> None:
    read(store, tmp_path, RATED, CORRECTED)
    store.export(tmp_path / "export.jsonl")
    other = LessonsStore(new_database())
    assert other.import_file(tmp_path / "export.jsonl", tmp_path / "quarantine").unreadable == ()
    assert [lesson.answer for lesson in other.read()] == [RIGHT]
