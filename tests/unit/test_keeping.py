"""Conversations of the gateway as experience: what is kept, what is not, and in whose words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.experience.experience import Experience
from academy.experience.lessons import LessonsStore
from academy.models.chat_template import Message
from academy.serving.gateway.adapter_pool import ServedVersion
from academy.serving.gateway.conversation_log import BEHIND, ConversationLog, read_feedback
from academy.serving.gateway.openai_protocol import RequestError
from academy.store.database import Database

SERVED = ServedVersion(version="7", adapter="a" * 64, generation=3, seq=12)
REQUEST = "Which lights show that the gateway in the tower works?"
ANSWER = "The two green ones on its left side."
ASKED: tuple[Message, ...] = ({"role": "user", "content": REQUEST},)


def keep(database: Database, mode: Any, do: Callable[[ConversationLog], Any], share: float = 1.0) -> list[Experience]:
    """What is in the store after something was done with a log."""

    async def run() -> None:
        log = ConversationLog(LessonsStore(database), mode, share)
        try:
            await do(log)
        finally:
            await log.close()

    asyncio.run(run())
    return list(LessonsStore(database).every())


def feedback(log: ConversationLog, **said: Any) -> Any:
    return log.feedback(read_feedback(orjson.dumps({"id": "chatcmpl-1", **said})))


def remembered(
    log: ConversationLog, messages: tuple[Message, ...] = ASKED, answer: str = ANSWER, user: str = ""
) -> None:
    log.remember("chatcmpl-1", messages, answer, SERVED, user)


def rated(**said: Any) -> Callable[[ConversationLog], Any]:
    async def do(log: ConversationLog) -> None:
        remembered(log)
        await feedback(log, **said)

    return do


def test_with_off_nothing_is_kept_and_nothing_is_remembered(database: Database, tmp_path: Path) -> None:
    async def do(log: ConversationLog) -> None:
        remembered(log)
        with pytest.raises(RequestError) as refused:
            await feedback(log, thumb="up")
        assert (refused.value.status, refused.value.code) == (404, "not_kept")

    assert keep(database, "off", do) == []
    place = Path(str(database.engine.url.database)).parent
    assert all(REQUEST.encode() not in path.read_bytes() for path in place.rglob("*") if path.is_file())


def test_of_the_rated_only_what_somebody_rated_is_kept(database: Database) -> None:
    async def do(log: ConversationLog) -> None:
        log.remember("chatcmpl-2", ASKED, "another answer", SERVED, "")
        await rated(thumb="up", comment="just so")(log)

    (one,) = keep(database, "rated", do)
    assert (one.kind, one.request, one.answer, one.outcome) == ("conversation", REQUEST, ANSWER, "success")
    assert (one.thread, one.model_made, one.tags) == ("chatcmpl-1", False, ("gateway",))
    assert one.batch.startswith("gateway-2")


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
def test_feedback_means_what_it_means_in_an_import(
    database: Database, said: dict[str, Any], outcome: str, rating: int, gold: bool, model_made: bool
) -> None:
    (one,) = keep(database, "rated", rated(**said))
    assert (one.outcome, one.rating, one.gold, one.model_made) == (outcome, rating, gold, model_made)


def test_a_correction_takes_the_answers_place(database: Database) -> None:
    (one,) = keep(database, "rated", rated(correction="All three of them."))
    assert (one.answer, one.outcome, one.model_made) == ("All three of them.", "success", False)


def test_of_all_the_unrated_are_kept_and_not_trained_on_until_somebody_rates_them(database: Database) -> None:
    async def unrated(log: ConversationLog) -> None:
        remembered(log)

    (first,) = keep(database, "all", unrated)
    assert (first.outcome, first.model_made) == ("unknown", True)
    (second,) = keep(database, "all", rated(thumb="up"))
    assert (second.id, second.outcome) == (first.id, "success")
    assert second.seq > first.seq, "it counts as new"
    (third,) = keep(database, "all", rated(thumb="up"))
    assert third.seq == second.seq, "the same again changes nothing"
    (fourth,) = keep(database, "all", rated(thumb="down"))
    assert fourth.outcome == "failure", "the last word counts"


def test_a_share_of_the_unrated_is_kept_and_every_rated_one(database: Database) -> None:
    async def many(log: ConversationLog) -> None:
        for n in range(200):
            log.remember(f"chatcmpl-x{n}", ({"role": "user", "content": f"{REQUEST} {n}"},), ANSWER, SERVED, "")
        await rated(thumb="up")(log)

    found = keep(database, "all", many, share=0.25)
    unrated = [one for one in found if one.model_made]
    assert 25 <= len(unrated) <= 75
    assert len(found) == len(unrated) + 1


def test_secrets_and_personal_data_are_not_written(database: Database) -> None:
    async def do(log: ConversationLog) -> None:
        messages: tuple[Message, ...] = (
            {"role": "system", "content": "The password is Tr0ub4dor&3x."},
            {"role": "user", "content": "Write to frida.olsen@harbour-mail.no, please."},
        )
        remembered(log, messages, "Token ghp_abcdefghijklmnopqrstuvwxyz0123456789 is set.", "oskar@mill-works.se")
        await feedback(log, thumb="up", comment="ask anna.berg@tower-desk.no")

    (one,) = keep(database, "rated", do)
    text = Path(str(database.engine.url.database)).read_bytes() + one.model_dump_json().encode()
    for secret in (b"Tr0ub4dor", b"frida.olsen", b"ghp_abc", b"oskar@", b"anna.berg"):
        assert secret not in text, secret
    assert "[personal: " in one.request
    assert "[secret: " in one.answer


def test_an_unknown_answer_gets_a_sentence(database: Database) -> None:
    async def do(log: ConversationLog) -> None:
        with pytest.raises(RequestError, match="No recent answer has this id") as refused:
            await feedback(log, thumb="up")
        assert refused.value.status == 404

    assert keep(database, "rated", do) == []


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
def test_feedback_that_cannot_be_read_is_refused(said: dict[str, Any], param: str | None) -> None:
    with pytest.raises(RequestError) as refused:
        read_feedback(orjson.dumps({"id": "chatcmpl-1", **said}))
    assert (refused.value.status, refused.value.param) == (400, param)


def test_what_the_writer_has_no_room_for_is_dropped_and_counted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits; feedback, which is somebody's work, is told to come back."""
    going = threading.Event()
    told: list[int] = []

    async def do(log: ConversationLog) -> None:
        log._writer.submit(going.wait, 60)
        for n in range(BEHIND + 5):
            log.remember(f"chatcmpl-x{n}", ASKED, ANSWER, SERVED, "")
        remembered(log)
        told.append(log.dropped)
        with pytest.raises(RequestError) as refused:
            await feedback(log, thumb="up")
        assert (refused.value.status, refused.value.code) == (503, "writer_behind")
        going.set()

    (one,) = keep(database, "all", do)
    assert told == [6]
    assert one.outcome == "unknown"


def test_what_was_forgotten_does_not_come_back(database: Database) -> None:
    (one,) = keep(database, "rated", rated(thumb="up"))
    store = LessonsStore(database)
    with database.write() as connection:
        store.forget(one.id, "asked for", connection)
    assert keep(database, "rated", rated(thumb="up")) == []
