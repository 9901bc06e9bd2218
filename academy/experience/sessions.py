"""Sessions of coding agents, which write one event on each line of a file: Claude Code and Codex.

A session is one conversation. Events that are not messages (summaries, snapshots, token counts) and the side
conversations of sub-agents are not a part of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

FIRST_LINES = 20
"""Lines at the beginning of a file that show whether it is a session."""
_SPEAKERS = ("user", "assistant")


def read_session(path: Path, largest: int) -> bytes:
    """A session's file as one row with its messages; empty for other files, and for those over `largest` bytes."""
    if path.stat().st_size > largest:
        return b""
    with path.open("rb") as stream:
        events = [_event(line) for line, _ in zip(stream, range(FIRST_LINES), strict=False) if line.strip()]
    read = next((read for event in events if (read := _reader(event))), None)
    if read is None:
        return b""
    lines = [_event(line) for line in path.read_bytes().splitlines() if line.strip()]
    row = read([line for line in lines if isinstance(line, dict)])
    return orjson.dumps(row) if all(isinstance(line, dict) for line in lines) else b""


def _event(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def _reader(event: Any) -> Any:
    if not isinstance(event, dict):
        return None
    if event.get("type") == "session_meta" and isinstance(event.get("payload"), dict):
        return _codex
    has_message = event.get("type") in _SPEAKERS and isinstance(event.get("message"), dict)
    return _claude_code if has_message and isinstance(event.get("sessionId"), str) else None


def _claude_code(events: list[dict[str, Any]]) -> dict[str, Any]:
    spoken = [
        event
        for event in events
        if event.get("type") in _SPEAKERS and not event.get("isSidechain") and not event.get("isMeta")
    ]
    number = next((event["sessionId"] for event in spoken if isinstance(event.get("sessionId"), str)), "")
    return {"id": number, "messages": [event.get("message") for event in spoken]}


def _codex(events: list[dict[str, Any]]) -> dict[str, Any]:
    about = next(event["payload"] for event in events if _reader(event) is _codex)
    items = [event.get("payload") for event in events if event.get("type") == "response_item"]
    instructions = about.get("base_instructions") or about.get("instructions")
    text = instructions.get("text") if isinstance(instructions, dict) else instructions
    return {
        "id": str(about.get("id") or ""),
        "messages": items,
        **({"system": text} if isinstance(text, str) else {}),
    }
