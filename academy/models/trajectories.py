"""ATIF, the Agent Trajectory Interchange Format: an agent's steps as turns, and turns as its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from academy.models.calls import UnreadableRowError
from academy.models.messages import Message, Transcript

VERSION = "ATIF-v1.6"
"""The version that is written; every version 1 is read."""
_SOURCES = {"user": "user", "system": "system", "agent": "assistant"}
_NAMES = {"user": "user", "system": "system", "assistant": "agent"}


def read_trajectory(row: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The turns of a trajectory; None for other rows. Raises UnreadableRowError."""
    steps = row.get("steps")
    if not str(row.get("schema_version") or "").startswith("ATIF") or not isinstance(steps, list):
        return None
    if not str(row["schema_version"]).startswith("ATIF-v1"):
        raise UnreadableRowError(f"a trajectory of another version ({str(row['schema_version'])[:20]})")
    return [turn for number, step in enumerate(steps, start=1) for turn in _turns(step, number)]


def _turns(step: Any, number: int) -> Iterator[dict[str, Any]]:
    source = step.get("source") if isinstance(step, Mapping) else None
    if not isinstance(source, str) or source not in _SOURCES:
        raise UnreadableRowError(f"a step without a source (step {number})")
    extra = {name: step[name] for name in ("reasoning_content", "feedback", "weight") if name in step}
    calls = step.get("tool_calls") or []
    yield {"role": _SOURCES[source], "content": step.get("message"), "tool_calls": calls, **extra}
    observation = step.get("observation") or {}
    results = observation.get("results") if isinstance(observation, Mapping) else None
    if results and not isinstance(results, list):
        raise UnreadableRowError(f"results are not a list (step {number})")
    for result in results or []:
        if not isinstance(result, Mapping):
            raise UnreadableRowError(f"a result is not an object (step {number})")
        if not calls:
            raise UnreadableRowError(f"a result without its call (step {number})")
        content = result.get("content")
        yield {
            "role": "tool",
            "content": "" if content is None else content,
            "tool_call_id": result.get("source_call_id") or "",
        }


def trajectory(transcript: Transcript) -> dict[str, Any]:
    """A conversation as a trajectory."""
    agent: dict[str, Any] = {"name": "academy", "version": "1"}
    if transcript.tools:
        agent["tool_definitions"] = [tool.as_function for tool in transcript.tools]
    steps: list[dict[str, Any]] = []
    for message in transcript.messages:
        if message.role == "tool":
            results = steps[-1].setdefault("observation", {"results": []})["results"]
            results.append({"source_call_id": message.tool_call_id, "content": _content(message)})
            continue
        step: dict[str, Any] = {"step_id": len(steps) + 1, "source": _NAMES[message.role], "message": _content(message)}
        if message.reasoning:
            step["reasoning_content"] = message.reasoning
        if message.tool_calls:
            step["tool_calls"] = [
                {"tool_call_id": call.id, "function_name": call.name, "arguments": call.values}
                for call in message.tool_calls
            ]
        steps.append(step)
    return {"schema_version": VERSION, "session_id": "", "agent": agent, "steps": steps}


def _content(message: Message) -> str | list[dict[str, Any]]:
    """A text, or where there are other parts, all parts."""
    if not message.parts:
        return message.content
    text = [{"type": "text", "text": message.content}] if message.content else []
    return [*text, *({"type": part.kind, "source": {"path": part.reference}} for part in message.parts)]
