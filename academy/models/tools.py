"""Reads the definitions of tools in all common dialects, and checks them: names, number, schemas.

A definition that cannot be used gives a reason, and nothing of its conversation is learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from academy.models.messages import DEEPEST, LONGEST_NAME, Message, Tool, canonical_object

TOOL_KEYS = ("tools", "functions", "tool_definitions", "available_tools", "function_declarations")
"""Keys of the definitions of tools, beside the turns or in an object around them."""
MOST_TOOLS = 128
"""Most tools of one conversation: their definitions stand in every prompt."""
_SCHEMAS = ("parameters", "input_schema", "inputSchema", "parametersJsonSchema", "parameters_json_schema")
_GROUPS = ("functionDeclarations", "function_declarations")


def read_tools(value: Any) -> tuple[Tool, ...] | str:
    """The tools of a list, of an object by name, or of the JSON text of either; or why they cannot be used."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value) if value.strip() else []
        except orjson.JSONDecodeError:
            return "the tools are no JSON"
    if isinstance(value, Mapping):
        is_one = isinstance(value.get("name"), str) or "function" in value or any(key in value for key in _GROUPS)
        value = [value] if is_one else [{"name": name, **_object(tool)} for name, tool in value.items()]
    if value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        return ()  # names without definitions
    if not isinstance(value, list):
        return "the tools are not a list"
    tools = []
    for entry in _entries(value):
        tool = _tool(entry)
        if isinstance(tool, str):
            return tool
        tools.append(tool)
    return check_tools(tools)


def check_tools(tools: Sequence[Tool]) -> tuple[Tool, ...] | str:
    """The tools, or why they cannot be used together."""
    if len(tools) > MOST_TOOLS:
        return f"more than {MOST_TOOLS} tools"
    names: set[str] = set()
    for tool in tools:
        if tool.name in names:
            return f"a tool is defined twice ({tool.name[:40]})"
        names.add(tool.name)
        if reason := _bad_references(tool.schema_):
            return f"{reason} ({tool.name[:40]})"
    return tuple(tools)


def check_calls(messages: Sequence[Message], tools: Sequence[Tool]) -> str:
    """Why the calls do not fit the tools; empty where they do, and where no tools are defined."""
    names = {tool.name for tool in tools}
    called = (call.name for message in messages for call in message.tool_calls)
    unknown = next((name for name in called if name not in names), "") if names else ""
    return f"a call of a tool that is not defined ({unknown[:40]})" if unknown else ""


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _entries(values: list[Any]) -> Iterator[Any]:
    """The definitions of a list; Gemini groups them."""
    for value in values:
        group = next((value[key] for key in _GROUPS if isinstance(value, Mapping) and value.get(key)), None)
        if isinstance(group, list):
            yield from group
        else:
            yield value


def _tool(entry: Any) -> Tool | str:
    if not isinstance(entry, Mapping):
        return "a tool is not an object"
    function = entry.get("function")
    if isinstance(function, Mapping):
        entry = function
    name = entry.get("name") or entry.get("type")
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or name != "".join(name.split()):
        return "a tool has no name"
    description = entry.get("description") or ""
    schema: Any = next((entry[key] for key in _SCHEMAS if entry.get(key)), {})
    if isinstance(schema, Mapping) and isinstance(schema.get("jsonSchema"), Mapping):  # Vercel's AI SDK
        schema = schema["jsonSchema"]
    if not isinstance(description, str):
        return f"the description of a tool is not text ({name[:40]})"
    try:
        return Tool(name=name, description=description, parameters=canonical_object(schema))
    except ValueError as problem:
        return f"the schema of a tool is {problem} ({name[:40]})"


def _bad_references(schema: Mapping[str, Any]) -> str:
    """Why the references inside a schema cannot be followed; empty where they can."""
    finished: set[str] = set()
    values = 1_000 + 20 * sum(1 for _ in _values(schema))  # that the search may look at: some more than once

    def visit(pointer: str, above: frozenset[str]) -> str:
        nonlocal values
        if pointer in above:
            return "the schema of a tool refers to itself"
        if pointer in finished:
            return ""
        if not pointer.startswith("#"):
            return "the schema of a tool refers to another document"
        node = _resolved(schema, pointer)
        if node is None:
            return "the schema of a tool refers to nothing"
        pointers = set()
        for value in _values(node):
            values -= 1
            if isinstance(value, Mapping) and isinstance(value.get("$ref"), str):
                pointers.add(value["$ref"])
            if values < 0:
                break
        if len(above) > DEEPEST or values < 0:
            return "the schema of a tool has too many references"
        reasons = (visit(inner, above | {pointer}) for inner in sorted(pointers))
        reason = next((reason for reason in reasons if reason), "")
        finished.add(pointer)
        return reason

    return visit("#", frozenset())


def _resolved(schema: Any, pointer: str) -> Any:
    """What a JSON pointer with `#` names; None where there is nothing."""
    node = schema
    for step in pointer.removeprefix("#").strip("/").split("/"):
        if step == "":
            continue
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping):
            node = node.get(key)
        elif isinstance(node, list) and key.isdecimal() and len(key) < 10 and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node


def _values(node: Any) -> Iterator[Any]:
    """A JSON value and all values inside of it."""
    layer = [node]
    while layer:
        value = layer.pop()
        yield value
        if isinstance(value, Mapping):
            layer += value.values()
        elif isinstance(value, list):
            layer += value
