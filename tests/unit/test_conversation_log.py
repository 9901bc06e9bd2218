"""The conversation log: which conversations of the gateway are stored as experience, and how."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.experience.experience import Experience
from academy.experience.feedback import NAMES, feedback_beside
from academy.experience.lessons import LessonsStore
from academy.experience.ratings import Rater, Ratings
from academy.models.chat_template import Message
from academy.serving.gateway.adapter_pool import ServedVersion
from academy.serving.gateway.conversation_log import BEHIND, ConversationLog, read_feedback
from academy.serving.gateway.openai_protocol import RequestError
from academy.store.database import Database

SERVED = ServedVersion(version="7", adapter="a" * 64, generation=3, seq=12)
OWNER = Rater(source="owner", address="127.0.0.1")
REQUEST = "Which lights show that the gateway in the tower works?"
ANSWER = "The two green ones on its left side."
ASKED: tuple[Message, ...] = ({"role": "user", "content": REQUEST},)


def stored_after(
    database: Database, mode: Any, do: Callable[[ConversationLog], Any], share: float = 1.0
) -> list[Experience]:
    """The stored experience after `do` has used a conversation log."""

    async def run() -> None:
        log = ConversationLog(LessonsStore(database), mode, share, trusted=frozenset({"owner"}))
        try:
            await do(log)
        finally:
            await log.close()

    asyncio.run(run())
    return list(LessonsStore(database).every())


def feedback(log: ConversationLog, rater: Rater = OWNER, **said: Any) -> Any:
    return log.feedback(read_feedback(orjson.dumps({"id": "chatcmpl-1", **said})), rater)


def remembered(
    log: ConversationLog, messages: tuple[Message, ...] = ASKED, answer: str = ANSWER, user: str = ""
) -> None:
    log.remember("chatcmpl-1", messages, answer, SERVED, OWNER, user)


def rated(**said: Any) -> Callable[[ConversationLog], Any]:
    async def do(log: ConversationLog) -> None:
        remembered(log)
        await feedback(log, **said)

    return do


def test_mode_off_stores_and_remembers_nothing(database: Database, tmp_path: Path) -> None:
    async def do(log: ConversationLog) -> None:
        remembered(log)
        with pytest.raises(RequestError) as refused:
            await feedback(log, thumb="up")
        assert (refused.value.status, refused.value.code) == (404, "not_kept")

    assert stored_after(database, "off", do) == []
    place = Path(str(database.engine.url.database)).parent
    assert all(REQUEST.encode() not in path.read_bytes() for path in place.rglob("*") if path.is_file())


def test_mode_rated_stores_only_rated_conversations(database: Database) -> None:
    async def do(log: ConversationLog) -> None:
        log.remember("chatcmpl-2", ASKED, "another answer", SERVED, OWNER)
        await rated(thumb="up", comment="just so")(log)

    (lesson,) = stored_after(database, "rated", do)
    assert (lesson.kind, lesson.request, lesson.answer, lesson.outcome) == ("conversation", REQUEST, ANSWER, "success")
    assert (lesson.thread, lesson.model_made, lesson.tags) == ("chatcmpl-1", False, ("gateway",))
    assert lesson.batch.startswith("gateway-2")


@pytest.mark.parametrize(
    ("said", "outcome", "rating", "gold", "model_made"),
    [
        ({"thumb": "down"}, "failure", 0, False, True),
        ({"rating": 5}, "success", 5, False, False),
        ({"rating": 3}, "unknown", 3, False, True),
        ({"gold_star": True}, "success", 0, True, False),
        ({"thumb": "down", "gold_star": True}, "success", 0, True, False),
    ],
)
def test_feedback_has_the_same_effect_as_in_an_import(
    database: Database, said: dict[str, Any], outcome: str, rating: int, gold: bool, model_made: bool
) -> None:
    (lesson,) = stored_after(database, "rated", rated(**said))
    assert (lesson.outcome, lesson.rating, lesson.gold, lesson.model_made) == (outcome, rating, gold, model_made)


def test_correction_replaces_the_answer(database: Database) -> None:
    (lesson,) = stored_after(database, "rated", rated(correction="All three of them."))
    assert (lesson.answer, lesson.outcome, lesson.model_made) == ("All three of them.", "success", False)


def test_mode_all_stores_unrated_conversations_as_model_made_until_they_are_rated(database: Database) -> None:
    async def unrated(log: ConversationLog) -> None:
        remembered(log)

    (first,) = stored_after(database, "all", unrated)
    assert (first.outcome, first.model_made) == ("unknown", True)
    (second,) = stored_after(database, "all", rated(thumb="up"))
    assert (second.id, second.outcome) == (first.id, "success")
    assert second.seq > first.seq, "it counts as new"
    (third,) = stored_after(database, "all", rated(thumb="up"))
    assert third.seq == second.seq, "the same feedback again changes nothing"
    (fourth,) = stored_after(database, "all", rated(thumb="down"))
    assert fourth.outcome == "failure", "the last feedback counts"


def test_share_limits_only_unrated_conversations(database: Database) -> None:
    async def many(log: ConversationLog) -> None:
        for n in range(200):
            log.remember(f"chatcmpl-x{n}", ({"role": "user", "content": f"{REQUEST} {n}"},), ANSWER, SERVED, OWNER)
        await rated(thumb="up")(log)

    lessons = stored_after(database, "all", many, share=0.25)
    unrated = [lesson for lesson in lessons if lesson.model_made]
    assert 25 <= len(unrated) <= 75
    assert len(lessons) == len(unrated) + 1


def test_secrets_and_personal_data_are_not_stored(database: Database) -> None:
    async def do(log: ConversationLog) -> None:
        messages: tuple[Message, ...] = (
            {"role": "system", "content": "The password is Tr0ub4dor&3x."},
            {"role": "user", "content": "Write to frida.olsen@harbour-mail.no, please."},
        )
        remembered(log, messages, "Token ghp_abcdefghijklmnopqrstuvwxyz0123456789 is set.", "oskar@mill-works.se")
        await feedback(log, thumb="up", comment="ask anna.berg@tower-desk.no")

    (lesson,) = stored_after(database, "rated", do)
    text = Path(str(database.engine.url.database)).read_bytes() + lesson.model_dump_json().encode()
    for secret in (b"Tr0ub4dor", b"frida.olsen", b"ghp_abc", b"oskar@", b"anna.berg"):
        assert secret not in text, secret
    assert "[personal: " in lesson.request
    assert "[secret: " in lesson.answer


def test_feedback_on_an_unknown_answer_is_refused(database: Database) -> None:
    async def do(log: ConversationLog) -> None:
        with pytest.raises(RequestError, match="No recent answer has this id") as refused:
            await feedback(log, thumb="up")
        assert refused.value.status == 404

    assert stored_after(database, "rated", do) == []


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"rating": 6}, "rating"),
        ({"rating": True}, "rating"),
        ({"thumb": "sideways"}, "thumb"),
        ({"correction": ""}, "correction"),
        ({"gold_star": "yes"}, "gold_star"),
        ({}, None),
        ({"gold_star": False}, None),
    ],
)
def test_invalid_feedback_is_refused(said: dict[str, Any], param: str | None) -> None:
    with pytest.raises(RequestError) as refused:
        read_feedback(orjson.dumps({"id": "chatcmpl-1", **said}))
    assert (refused.value.status, refused.value.param) == (400, param)


def test_conversations_beyond_the_queue_are_dropped_and_counted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unrated conversations are dropped without waiting; feedback gets an error to retry."""
    going = threading.Event()
    dropped: list[int] = []

    async def do(log: ConversationLog) -> None:
        log._writer.submit(going.wait, 60)
        for n in range(BEHIND + 5):
            log.remember(f"chatcmpl-x{n}", ASKED, ANSWER, SERVED, OWNER)
        remembered(log)
        dropped.append(log.dropped)
        with pytest.raises(RequestError) as refused:
            await feedback(log, thumb="up")
        assert (refused.value.status, refused.value.code) == (503, "writer_behind")
        going.set()

    (lesson,) = stored_after(database, "all", do)
    assert dropped == [6]
    assert lesson.outcome == "unknown"


def test_forgotten_conversation_is_not_stored_again(database: Database) -> None:
    (lesson,) = stored_after(database, "rated", rated(thumb="up"))
    store = LessonsStore(database)
    with database.write() as connection:
        store.forget(lesson.id, "asked for", connection)
    assert stored_after(database, "rated", rated(thumb="up")) == []
    assert list(Ratings(database).read()) == []


@pytest.mark.parametrize("field", NAMES)
def test_feedback_has_the_same_names_as_in_an_import(field: str) -> None:
    values = {"thumb": "up", "rating": 5, "gold_star": True, "correction": "All three.", "comment": "just so"}
    for name in NAMES[field]:
        value = True if name.startswith("thumb") and "_" in name else values[field]
        request = read_feedback(orjson.dumps({"id": "chatcmpl-1", name: value}))
        assert request.feedback == feedback_beside({"feedback": {name: value}})
        assert field in request.feedback.values


def test_unknown_field_of_feedback_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="unknown field 'helpful'") as refusal:
        read_feedback(orjson.dumps({"id": "chatcmpl-1", "rating": 5, "helpful": False}))
    assert refusal.value.param == "helpful"


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b'{"id": 7, "thumb": "up"}', b'{"thumb": "up"}'])
def test_body_that_is_not_feedback_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError) as refusal:
        read_feedback(body)
    assert refusal.value.status == 400
