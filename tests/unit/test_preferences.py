"""Preferences: thumbs, corrections, pairs and votes from ratings and imports; each bad kind is a counted reason."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from academy.experience.conversations import ConversationFilter
from academy.experience.experience import Experience
from academy.experience.lines import read_line
from academy.experience.preferences import MOST_OF_ADDRESS, Preferences, read_preferences
from academy.experience.ratings import Rating
from academy.experience.reading import row_to_experience

ASKED = [{"role": "user", "content": "who opens the gate"}]
OURS = "a" * 64


def rating(seq: int, answer: str = "ring twice", source: str = "ann", **more: Any) -> Rating:
    feedback = more.pop("feedback", {"thumb": "up"})
    messages = more.pop("messages", ASKED)
    line = {"messages": [*messages, {"role": "assistant", "content": answer}], "feedback": feedback}
    fields = {"completion": f"c{seq}", "adapter": OURS, "version": "v1", "standing": "admitted", **more}
    return Rating(
        seq=seq, at=f"2026-01-01T00:00:{seq % 60:02d}+00:00", source=source, asker=source, lesson="0" * 64,
        rated="0" * 64, line=line, **fields,
    )  # fmt: skip


def only(preferences: Preferences) -> Any:
    (signal,) = preferences.signals
    return signal


def over(answer: str, messages: Any = None) -> dict[str, Any]:
    return {
        "id": "other",
        "messages": [*(messages or ASKED), {"role": "assistant", "content": answer}],
        "adapter": OURS,
    }


def test_thumb_down_is_kept_with_its_text() -> None:
    signal = only(read_preferences([rating(1, feedback={"thumb": "down"})]))
    assert (signal.kind, signal.chosen, signal.rejected, signal.weight) == ("thumb", "", "ring twice", 1.0)
    assert (signal.source, signal.versions, signal.ratings) == ("ann", ("v1",), ("r1",))


def test_own_answers_of_a_version_are_told_apart() -> None:
    signals = read_preferences([rating(1), rating(2, messages=[{"role": "user", "content": "?"}], adapter="b" * 64)])
    assert [signal.on_policy(OURS) for signal in signals.signals] == [True, False]


def test_correction_is_a_pair() -> None:
    signal = only(read_preferences([rating(1, feedback={"correction": "ring once"})]))
    assert (signal.kind, signal.chosen, signal.rejected) == ("correction", "ring once", "ring twice")


def test_two_answers_of_one_request_are_a_pair() -> None:
    preferences = read_preferences([rating(1), rating(2, "call Tom", feedback={"rating": 1})])
    assert preferences.kinds == {"siblings": 1, "thumb": 2}
    pair = next(signal for signal in preferences.signals if signal.kind == "siblings")
    assert (pair.chosen, pair.rejected, pair.ratings) == ("ring twice", "call Tom", ("r1", "r2"))


def test_opinions_of_two_people_are_no_pair() -> None:
    preferences = read_preferences([rating(1), rating(2, "call Tom", "ben", feedback={"thumb": "down"})])
    assert preferences.kinds == {"thumb": 2}


def test_blind_vote_is_a_pair() -> None:
    signal = only(read_preferences([rating(1, feedback={}, over=over("call Tom"))]))
    assert (signal.kind, signal.chosen, signal.rejected) == ("vote", "ring twice", "call Tom")


def test_waiting_rating_is_kept_and_weighs_nothing() -> None:
    preferences = read_preferences([rating(1, standing="waiting")])
    assert (only(preferences).weight, preferences.kinds) == (0.0, {})
    assert preferences.reasons == {"it waits for a person's decision, and weighs nothing": 1}


@pytest.mark.parametrize(
    ("ratings", "reason", "count"),
    [
        ([rating(1), rating(2, feedback={"thumb": "down"})], "thumbs both ways by one person", 2),
        ([rating(1, feedback={"correction": " Ring  twice."})], "both sides are the same", 1),
        ([rating(1, feedback={}, over=over("ring TWICE"))], "both sides are the same", 1),
        (
            [rating(1, feedback={}, over=over("no", [{"role": "user", "content": "what else"}]))],
            "a preference between answers to different requests", 1,
        ),
        ([rating(1, standing="refused")], "a person refused it", 1),
        ([rating(1, feedback={"comment": "hm"})], "no opinion: a comment, or a rating in the middle", 1),
        (
            [
                rating(n, messages=[{"role": "user", "content": f"request {n}"}], address="203.0.113.7")
                for n in range(MOST_OF_ADDRESS + 1)
            ],
            f"more than {MOST_OF_ADDRESS} signals of one address", MOST_OF_ADDRESS + 1,
        ),
    ],
)  # fmt: skip
def test_bad_kinds_are_counted_and_nothing_is_kept(ratings: list[Rating], reason: str, count: int) -> None:
    assert read_preferences(ratings) == Preferences(signals=(), reasons={reason: count})


def test_trusted_source_may_rate_much_from_one_address() -> None:
    ratings = [
        rating(n, messages=[{"role": "user", "content": f"request {n}"}], address="203.0.113.7")
        for n in range(MOST_OF_ADDRESS + 1)
    ]
    assert len(read_preferences(ratings, trusted=["ann"]).signals) == MOST_OF_ADDRESS + 1


def imported(**line: Any) -> list[Experience]:
    rows = read_line(
        orjson.dumps({"prompt": "who opens the gate", **line}), "conversation", "talks", ConversationFilter()
    )
    assert not isinstance(rows, str), rows
    return [row_to_experience({**row, "seq": n}) for n, row in enumerate(rows)]


def test_imported_preference_and_correction_are_pairs() -> None:
    pair = only(read_preferences([], imported(chosen="ring twice", rejected="call Tom")))
    assert (pair.kind, pair.chosen, pair.rejected, pair.adapters) == ("siblings", "ring twice", "call Tom", ())
    correction = only(read_preferences([], imported(completion="call Tom", feedback={"correction": "ring twice"})))
    assert (correction.kind, correction.chosen, correction.rejected) == ("correction", "ring twice", "call Tom")
