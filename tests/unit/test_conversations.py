"""Rated answers of conversations become experience; conversations without feedback are stored and not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.experience.conversations import ConversationFilter
from academy.experience.experience import Experience
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
