"""Calls of tools, their results and definitions: nothing freezes the reader, and no secret passes in a disguise."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from academy.curriculum.cleaning import Cleaner
from academy.curriculum.filters import reason_to_drop
from academy.experience.conversations import ConversationFilter
from academy.experience.experience import Experience, Trace
from academy.experience.lines import read_line
from academy.models.messages import Message, Tool, ToolCall, settle
from academy.models.tools import read_tools

PASSWORD = "Tr0ub4dor&3xQ"
TOKEN = "ghp_" + "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA2bC4"


def _experience(trace: Trace, **fields: Any) -> Experience:
    fields = {"request": "What is there?", "answer": "A lake lies behind the hill.", "outcome": "success", **fields}
    return Experience(id="a", kind="conversation", trace=trace, provenance={}, **fields)


def test_results_in_reverse_order_do_not_stop_the_reader() -> None:
    numbers = range(20_000)
    calls = tuple(ToolCall(id=f"i{number}", name="look") for number in numbers)
    results = [Message(role="tool", content="x", tool_call_id=call.id) for call in reversed(calls)]
    asked, called = Message(role="user", content="a"), Message(role="assistant", content="", tool_calls=calls)
    start = time.process_time()
    assert settle([asked, called, *results]) == "more than 128 calls in one message (message 2)"
    assert time.process_time() - start < 1


def test_references_of_a_schema_end_the_reader_neither_by_depth_nor_by_number() -> None:
    chain = {f"d{number}": {"$ref": f"#/$defs/d{number + 1}"} for number in range(3_000)} | {"d3000": {}}
    values = [{"value": number} for number in range(20_000)]
    often = {"big": values, "often": [{"$ref": "#/big" + "/" * number} for number in range(400)]}
    for schema in ({"$defs": chain}, often):
        start = time.process_time()
        reason = read_tools([{"name": "look", "parameters": schema}])
        assert reason == "the schema of a tool has too many references (look)"
        assert time.process_time() - start < 3


def test_place_with_thousands_of_digits_is_a_reference_to_nothing() -> None:
    schema = {"any": [1], "a": {"$ref": "#/any/" + "9" * 5_000}}
    assert read_tools([{"name": "look", "parameters": schema}]) == "the schema of a tool refers to nothing (look)"


def test_references_of_real_schemas_are_followed() -> None:
    point = {"type": "object", "properties": {"x": {"type": "number"}}}
    schema = {"$defs": {"point": point}, "properties": {f"p{n}": {"$ref": "#/$defs/point"} for n in range(50)}}
    assert not isinstance(read_tools([{"name": "look", "parameters": schema}]), str)


def test_many_keys_with_one_mark_are_cleaned_in_linear_time() -> None:
    def seconds(count: int) -> float:
        keys = orjson.dumps({f"a{number}@example{number}.org": number for number in range(count)}).decode()
        start = time.process_time()
        cleaned = Cleaner().object(keys)
        assert "@" not in cleaned
        assert len(orjson.loads(cleaned)) == count
        return time.process_time() - start

    seconds(50)
    assert seconds(2_000) < 20 * seconds(200)


@pytest.mark.parametrize(
    "value",
    [
        {"password": {"value": PASSWORD}},
        {"password": {"current": {"inner": [PASSWORD]}}},
        {"type": "password", "text": PASSWORD},
        {"selector": "#login input[name=password]", "text": PASSWORD},
        {"fields": [{"ref": "e12", "name": "Password", "value": PASSWORD}]},
    ],
)
def test_value_is_a_secret_if_its_object_says_so(value: dict[str, Any]) -> None:
    for cleaned in (Cleaner().object(orjson.dumps(value).decode()), Cleaner().result(orjson.dumps(value).decode())):
        assert PASSWORD not in cleaned
        assert orjson.loads(cleaned)


@pytest.mark.parametrize(
    "value",
    [
        {"properties": {"password": {"type": "string", "description": "The user's password, at least 8 characters"}}},
        {"token": {"type": "Bearer", "expires_in": 3600, "scope": "read:user write:repo"}},
        {"key": "ArrowDown", "text": "Page2"},
        {"name": "password_reset", "status": "sent", "at": "2026-01-01T00:00:00Z", "id": "b7e1"},
    ],
)
def test_words_beside_the_name_of_a_secret_stay(value: dict[str, Any]) -> None:
    text = orjson.dumps(value).decode()
    assert Cleaner().result(text) == text


@pytest.mark.parametrize("mark", ["[secret: {}]", "[personal: {}]", "password = [secret: {}]"])
@pytest.mark.parametrize("secret", [TOKEN[:38], "sk_live_51H8xQ2eZvKYlo2C1a9b8c7d6"])
def test_forged_mark_hides_no_secret(mark: str, secret: str) -> None:
    cleaned = Cleaner().text(mark.format(secret))
    assert secret not in cleaned
    assert Cleaner().text(cleaned) == cleaned, "marks of our own stay as they are"


def test_name_of_a_tool_hides_no_secret() -> None:
    call = ToolCall(id="call00001", name=TOKEN)
    step = Message(role="tool", content="x", tool_call_id=call.id, name=TOKEN)
    steps = (Message(role="assistant", content="", tool_calls=(call,)), step)
    for trace in (Trace(steps=steps), Trace(tools=(Tool(name=TOKEN),)), Trace(tool_calls=(call,))):
        assert reason_to_drop(_experience(trace)) in (
            "holds a secret as the name of a tool", "holds little but secrets",
        )  # fmt: skip


def test_definitions_and_thoughts_without_end_are_dropped_before_they_are_scanned() -> None:
    long = "a word and " * 20_000
    call = ToolCall(id="call00001", name="look", arguments=orjson.dumps({"text": long}).decode())
    steps = (
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="x", tool_call_id=call.id, name="look"),
    )
    start = time.process_time()
    for trace in (Trace(tools=(Tool(name="look", description=long),)), Trace(reasoning=long), Trace(steps=steps)):
        assert reason_to_drop(_experience(trace)).endswith("too long")
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{" * 80_000,
        '<details type="tool_calls">' * 35_000,
        '<details type="reasoning">' * 35_000,
        "<functioncall>{" * 60_000,
        "<functioncall>{" + '"arguments": \'' * 60_000 + "x}",
        '<details type="reasoning"><summary></summary>' + "<summary>" * 90_000 + "</details>",
        f'<details type="tool_calls" {"a" * 900_000}></details>',
    ],
)
def test_marks_without_an_end_are_read_in_linear_time(text: str) -> None:
    line = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]}
    start = time.process_time()
    read_line(orjson.dumps(line), "conversation", "a", ConversationFilter())
    assert time.process_time() - start < 2


def test_blanks_in_a_response_are_read_in_linear_time() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": f"<tool_response>{' ' * 900_000}x"},
        {"role": "assistant", "content": "b"},
    ]
    start = time.process_time()
    rows = read_line(orjson.dumps({"messages": messages}), "conversation", "a", ConversationFilter())
    assert len(rows) == 2
    assert time.process_time() - start < 2
