"""Conversations with tools: one record from import to dataset, the same in every format; what is bad has a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from academy.curriculum.cleaning import Cleaner
from academy.curriculum.secrets import find_secrets
from academy.errors import InputError
from academy.experience.conversations import ConversationFilter, conversation_rows
from academy.experience.experience import Trace
from academy.experience.lessons import LessonsStore
from academy.models.base_model import NEEDS_TOOLS, resolve
from academy.models.formats import FORMATS, read_row
from academy.models.messages import Message, Tool, ToolCall, Transcript, settle
from academy.models.tools import MOST_TOOLS, read_tools

TEXT = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
    .map(str.strip)
    .filter(lambda text: text and "<" not in text)
)
NAMES = ("find_ship", "harbour.depth", "list-berths")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Conversations with parallel calls, results in any order, texts beside calls, and definitions or none."""
    messages = [Message(role="system", content=draw(TEXT))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        messages.append(Message(role="user", content=draw(TEXT)))
        for _ in range(draw(st.integers(0, 2))):
            calls = tuple(
                ToolCall(id=f"id{n}", name=draw(st.sampled_from(NAMES)),
                         arguments=orjson.dumps(draw(st.dictionaries(TEXT, JSON, max_size=3))).decode())
                for n in range(draw(st.integers(1, 3)))
            )  # fmt: skip
            messages.append(Message(role="assistant", content=draw(st.just("") | TEXT), tool_calls=calls))
            messages += [
                Message(role="tool", content=draw(TEXT), tool_call_id=call.id) for call in draw(st.permutations(calls))
            ]
        messages.append(Message(role="assistant", content=draw(TEXT)))
    settled = settle(messages)
    assert not isinstance(settled, str)
    schema = '{"type":"object","properties":{"a":{"type":"string"}}}'
    tools = tuple(Tool(name=name, description=draw(TEXT), parameters=schema) for name in NAMES)
    return Transcript(settled, tools if draw(st.booleans()) else ())


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "alpaca"])
@given(transcript=transcripts())
def test_tools_are_read_back_from_every_format(name: str, transcript: Transcript) -> None:
    row = orjson.loads(orjson.dumps(FORMATS[name].write(transcript)))
    assert read_row(row) == transcript


def test_thoughts_are_read_back() -> None:
    transcript = Transcript(
        (Message(role="user", content="a"), Message(role="assistant", content="b", reasoning="because"))
    )
    for name in ("openai", "sharegpt", "atif"):
        assert read_row(FORMATS[name].write(transcript)) == transcript


def test_other_parts_are_read_back() -> None:
    user = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]}
    user["content"].append({"type": "text", "text": "What is it?"})
    transcript = read_row({"messages": [user, {"role": "assistant", "content": "A buoy."}]})
    assert isinstance(transcript, Transcript)
    assert transcript.messages[0].parts[0].reference == "https://a.example/b.png"
    for name in ("openai", "atif"):
        assert read_row(FORMATS[name].write(transcript)) == transcript
    with pytest.raises(InputError, match="cannot hold this part of a message: image"):
        FORMATS["sharegpt"].write(transcript)


def test_inline_data_is_named_by_its_digest() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    transcript = read_row({"messages": [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]},
                                        {"role": "assistant", "content": "A buoy."}]})  # fmt: skip
    assert isinstance(transcript, Transcript)
    assert transcript.messages[0].parts[0].reference.startswith("sha256:")


CALL = {"id": "x1", "type": "function", "function": {"name": "depth", "arguments": '{"gate": 7, "at": "noon"}'}}


def talk(*middle: dict[str, Any], tools: Any = None) -> dict[str, Any]:
    row = {"messages": [{"role": "user", "content": "How deep is gate seven?"}, *middle]}
    return {**row, "tools": tools} if tools is not None else row


def calling(*calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


RESULT = {"role": "tool", "tool_call_id": "x1", "content": "42"}
ANSWER = {"role": "assistant", "content": "42 metres."}
DEPTH = {"type": "function", "function": {"name": "depth", "parameters": {"type": "object"}}}
NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
LOOP = {"$defs": {"node": NODE}, "properties": {"first": {"$ref": "#/$defs/node"}}}


def test_alpaca_refuses_tools_by_name() -> None:
    transcript = read_row(talk(calling(CALL), RESULT, ANSWER))
    assert isinstance(transcript, Transcript)
    with pytest.raises(InputError, match="Alpaca cannot hold tools"):
        FORMATS["alpaca"].write(transcript)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (talk(calling(CALL), ANSWER), "a call without its result"),
        (talk(calling(CALL, {**CALL, "id": "x2"}), RESULT), "a call without its result"),
        (talk(RESULT, ANSWER), "a result without its call"),
        (talk(calling(CALL), {**RESULT, "tool_call_id": "x9"}, ANSWER), "a result without its call"),
        (talk(calling(CALL), RESULT, RESULT, ANSWER), "a result without its call"),
        (talk(calling(CALL, CALL), RESULT, RESULT, ANSWER), "two calls with one id"),
        (talk(calling({"function": {"name": "depth", "arguments": "{gate: 7"}})), "arguments of a call are no JSON"),
        (talk(calling({"function": {"name": "depth", "arguments": "[7]"}})), "no JSON object"),
        (talk(calling({"function": {"arguments": "{}"}})), "a call without the name of its tool"),
        (talk(calling({"function": {"name": "depth", "arguments": '{"a":' * 40 + "1" + "}" * 40}})), "32 levels"),
        (talk(calling(*[{**CALL, "id": str(n)} for n in range(200)])), "more than 128 calls in one message"),
        (talk(calling(CALL), RESULT, ANSWER, tools=[DEPTH, DEPTH]), "a tool is defined twice (depth)"),
        (
            talk(ANSWER, tools=[{"name": f"tool{n}", "parameters": {}} for n in range(500)]),
            f"more than {MOST_TOOLS} tools",
        ),
        (talk(ANSWER, tools=[{"name": "walk", "parameters": LOOP}]), "the schema of a tool refers to itself (walk)"),
        (
            talk(ANSWER, tools=[{"name": "walk", "parameters": {"items": {"$ref": "#"}}}]),
            "the schema of a tool refers to itself",
        ),
        (
            talk(ANSWER, tools=[{"name": "walk", "parameters": {"$ref": "https://a.example/schema.json"}}]),
            "the schema of a tool refers to another document",
        ),
        (
            talk(ANSWER, tools=[{"name": "walk", "parameters": {"$ref": "#/$defs/none"}}]),
            "the schema of a tool refers to nothing",
        ),
        (talk(calling(CALL), RESULT, ANSWER, tools=[{**DEPTH, "function": {"name": "tide"}}]), "not defined (depth)"),
        (talk(ANSWER, tools="[{"), "the tools are no JSON"),
        (talk(ANSWER, tools=[{"parameters": {}}]), "a tool has no name"),
        (
            talk({"role": "assistant", "content": '<tool_call>\n{"name": "depth", "argu'}),
            "a call that is cut off",
        ),
        ({"messages": [calling(CALL), RESULT, {"role": "user", "content": "a"}, ANSWER]}, ""),
    ],
)  # fmt: skip
def test_bad_calls_and_tools_give_a_reason(row: dict[str, Any], reason: str) -> None:
    transcript = read_row(row)
    if reason:
        assert isinstance(transcript, str)
        assert reason in transcript
    else:
        assert isinstance(transcript, Transcript)


def test_bad_conversations_are_set_aside_and_counted(tmp_path: Path) -> None:
    store, path = _store(tmp_path), tmp_path / "agents.jsonl"
    rows = [
        talk(calling(CALL), ANSWER),
        talk(calling(CALL), {"role": "user", "content": "And?"}, ANSWER),
        talk(RESULT, ANSWER),
        talk(calling(CALL), RESULT, ANSWER),
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    result = store.import_file(path, tmp_path / "aside", "file")
    assert result.reasons == {"a call without its result": 2, "a result without its call": 1}
    assert result.admitted == 2


def test_every_call_is_an_answer_to_what_stands_before_it(tmp_path: Path) -> None:
    rows = _rows(talk(calling(CALL), RESULT, calling({**CALL, "id": "x2"}), {**RESULT, "tool_call_id": "x2"}, ANSWER))
    assert [(row["action"], len(row["trace"].get("steps", ())), len(row["trace"].get("tool_calls", ())))
            for row in rows] == [("", 0, 1), ("", 2, 1), ("42 metres.", 4, 0)]  # fmt: skip
    assert {row["situation"] for row in rows} == {"How deep is gate seven?"}
    assert len({row["thread"] for row in rows}) == 1


def test_ids_of_calls_and_order_of_keys_do_not_change_a_lesson() -> None:
    other = {"id": "toolu_9", "function": {"arguments": {"at": "noon", "gate": 7}, "name": "depth"}}
    first = _rows(talk(calling(CALL), RESULT, ANSWER))
    second = _rows(talk(calling(other), {**RESULT, "tool_call_id": "toolu_9"}, ANSWER))
    assert [row["id"] for row in first] == [row["id"] for row in second]


def test_tools_and_results_are_a_part_of_the_lesson() -> None:
    plain = _rows(talk(calling(CALL), RESULT, ANSWER))
    with_tools = _rows(talk(calling(CALL), RESULT, ANSWER, tools=[DEPTH]))
    with_other_result = _rows(talk(calling(CALL), {**RESULT, "content": "43"}, ANSWER))
    ids = [row["id"] for row in (*plain, *with_tools, with_other_result[-1])]
    assert len(set(ids)) == 5


def test_thoughts_do_not_make_another_lesson() -> None:
    thinking = _rows(talk({**ANSWER, "reasoning_content": "hm"}))
    assert thinking[0]["id"] == _rows(talk(ANSWER))[0]["id"]
    assert thinking[0]["trace"] == {"reasoning": "hm"}


def test_feedback_on_an_answer_is_shared_by_the_calls_before_it() -> None:
    good = _rows(talk(calling(CALL), RESULT, {**ANSWER, "feedback": {"thumb": "up"}}), kind="conversation")
    bad = _rows(talk(calling(CALL), RESULT, {**ANSWER, "feedback": {"thumb": "down"}}), kind="conversation")
    corrected = _rows(
        talk(calling(CALL), RESULT, {**ANSWER, "feedback": {"correction": "43 metres."}}), kind="conversation"
    )
    own = _rows(talk({**calling(CALL), "feedback": {"thumb": "up"}}, RESULT, {**ANSWER, "feedback": {"thumb": "down"}}),
                kind="conversation")  # fmt: skip
    assert [row["outcome"] for row in good] == ["success", "success"]
    assert [row["outcome"] for row in bad] == ["failure", "failure"]
    assert [(row["outcome"], row["action"]) for row in own] == [("success", ""), ("failure", "42 metres.")]
    assert [(row["outcome"], row["action"]) for row in corrected if row["action"]] == [("success", "43 metres.")]


def test_lessons_with_tools_are_exported_and_imported_with_the_same_ids(tmp_path: Path) -> None:
    store, path = _store(tmp_path), tmp_path / "agents.jsonl"
    row = talk(calling(CALL), RESULT, {**ANSWER, "reasoning_content": "hm"}, tools=[DEPTH])
    path.write_bytes(orjson.dumps(row))
    store.import_file(path, tmp_path / "aside", "file")
    store.export(tmp_path / "out.jsonl")
    other = _store(tmp_path / "other")
    assert other.import_file(tmp_path / "out.jsonl", tmp_path / "aside").unreadable == ()
    assert [lesson.model_copy(update={"batch": "", "provenance": {}}) for lesson in other.every()] == [
        lesson.model_copy(update={"batch": "", "provenance": {}}) for lesson in store.every()
    ]


def test_secrets_in_arguments_and_results_are_replaced_and_the_json_stays_valid() -> None:
    key = "AKIA" + "Q7XWPL4MZT2RVB6N"
    arguments = {
        "password": "hunter2-Tr0ub4dor&3",
        "to": "jan.kowalski@firma-morska.pl",
        "depth": [{"key": key}],
        "n": 7,
    }
    call = ToolCall(id="a", name="mail", arguments=orjson.dumps(arguments).decode())
    result = Message(role="tool", content=orjson.dumps({"token": key, "text": 'say "hi"'}).decode(), tool_call_id="a")
    cleaner = Cleaner()
    trace = cleaner.trace(Trace(steps=(Message(role="assistant", content="", tool_calls=(call,)), result)))
    cleaned = trace.steps[0].tool_calls[0].values
    assert set(cleaned) == set(arguments)
    assert cleaned["n"] == 7
    assert orjson.loads(trace.steps[1].content)["text"] == 'say "hi"'
    everything = "".join(step.words for step in trace.steps)
    assert not any(secret in everything for secret in (key, "hunter2", "kowalski"))
    assert not find_secrets(everything)
    assert cleaner.redactions.total() >= 4


@given(value=st.dictionaries(TEXT, JSON, max_size=4))
def test_cleaning_arguments_gives_json_again(value: dict[str, Any]) -> None:
    text = ToolCall(id="a", name="b", arguments=orjson.dumps(value).decode()).arguments
    cleaned = Cleaner().object(text)
    assert isinstance(orjson.loads(cleaned), dict)
    assert Cleaner().object(cleaned) == cleaned


def test_definitions_are_read_from_every_dialect() -> None:
    schema = {"type": "object", "properties": {"gate": {"type": "integer"}}}
    expected = (Tool(name="depth", description="Depth", parameters=orjson.dumps(schema).decode()),)
    plain = {"name": "depth", "description": "Depth"}
    for tools in (
        [{"type": "function", "function": {**plain, "parameters": schema}}],
        [{"type": "function", **plain, "parameters": schema}],
        [{**plain, "input_schema": schema}],
        [{**plain, "inputSchema": schema}],
        [{"functionDeclarations": [{**plain, "parametersJsonSchema": schema}]}],
        {"depth": {"description": "Depth", "inputSchema": {"jsonSchema": schema}}},
        orjson.dumps([{**plain, "parameters": schema}]).decode(),
    ):
        assert read_tools(tools) == expected


def test_a_template_without_tools_keeps_them_out_of_training() -> None:
    transcript = read_row(talk(calling(CALL), RESULT, ANSWER, tools=[DEPTH]))
    assert isinstance(transcript, Transcript)
    assert resolve("seed").measure([transcript]) == [NEEDS_TOOLS]


def _rows(row: dict[str, Any], kind: Any = "file") -> list[dict[str, Any]]:
    rows = conversation_rows(row, kind, "batch", ConversationFilter())
    assert not isinstance(rows, str), rows
    return rows


def _store(folder: Path) -> LessonsStore:
    from academy.store.database import Database

    folder.mkdir(exist_ok=True)
    database = Database(f"sqlite:///{folder / 'academy.db'}")
    database.migrate()
    return LessonsStore(database)
