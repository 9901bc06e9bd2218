"""The four formats write the same conversation and read it back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from academy.errors import InputError
from academy.models.formats import FORMATS, read_row
from academy.models.messages import Message, Transcript


def plain_transcript(messages: list[dict[str, str]]) -> Transcript:
    return Transcript(tuple(Message.model_validate(message) for message in messages))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(str.strip)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages += [{"role": "user", "content": draw(TEXT)}, {"role": "assistant", "content": draw(TEXT)}]
    return messages


@pytest.mark.parametrize("name", FORMATS)
@given(messages=conversations())
def test_written_rows_are_read_back(name: str, messages: list[dict[str, str]]) -> None:
    transcript = plain_transcript(messages)
    row = orjson.loads(orjson.dumps(FORMATS[name].write(transcript)))
    assert read_row(row) == transcript


def test_rows_have_the_usual_shape_of_each_format() -> None:
    talk = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
    ]
    messages = plain_transcript(talk)
    two = plain_transcript(talk[1:3])
    assert FORMATS["alpaca"].write(messages) == {
        "instruction": "three", "input": "", "output": "four", "system": "be short", "history": [["one", "two"]],
    }  # fmt: skip
    assert FORMATS["sharegpt"].write(two) == {
        "conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two"}]
    }
    assert FORMATS["chatml"].write(two) == {
        "text": "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
    }


def test_text_with_chatml_marks_is_not_written_as_chatml() -> None:
    messages = [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "no"}]
    with pytest.raises(InputError, match="contains ChatML marks"):
        FORMATS["chatml"].write(plain_transcript(messages))


def test_alpaca_input_follows_its_instruction() -> None:
    transcript = read_row({"instruction": "Translate.", "input": "dzień dobry", "output": "good morning"})
    assert transcript == plain_transcript(
        [
            {"role": "user", "content": "Translate.\n\ndzień dobry"},
            {"role": "assistant", "content": "good morning"},
        ]
    )


def test_content_in_parts_is_joined() -> None:
    transcript = read_row(
        {
            "messages": [
                {"role": "developer", "content": "be short"},
                {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": " more"}]},
                {"role": "assistant", "content": None, "tool_calls": []},
                {"role": "assistant", "content": "two"},
            ]
        }
    )
    assert transcript == plain_transcript(
        [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": "one more"},
            {"role": "assistant", "content": "two"},
        ]
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": "hello"}, "messages is not a list of turns"),
        ({"conversations": 3}, "conversations is not a list"),
        ({"text": "plain words"}, "text is not ChatML"),
        ({"instruction": 3, "output": ""}, "no request"),
        ({"instruction": "Translate.", "output": 3}, "output is not text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "part of type 'image_url'"),
        ({"messages": [{"role": "narrator", "content": "a"}]}, "unknown role 'narrator' (turn 1)"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "list of pairs"),
        ({"messages": [{"role": "user", "content": "alone"}]}, "no request with an answer"),
        ({"question": "a"}, "no answer"),
    ],
)
def test_unreadable_row_gives_a_reason(row: dict[str, Any], reason: str) -> None:
    assert reason in read_row(row)
