"""Reads contents: texts, and lists of parts with texts, thoughts, calls, results, and media that are kept by reference.

A part that cannot be read raises UnreadableRowError. Nothing is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from academy.models.calls import Item, Result, Thought, UnreadableRowError, call_in, result_in, result_text
from academy.models.messages import Medium, Part
from academy.records import digest_of

MEDIA_KEYS = (
    "image", "images", "image_url", "image_urls", "video", "videos", "audio", "audios",
)  # fmt: skip
"""Keys of pictures, films and sounds beside a text, in a turn or a row."""
FILE_KEYS = ("attachments", "files")
"""Keys of files beside the text of a turn."""
LESSON_KEYS = ("images", "image_url", "image_urls", "videos", "audios", "attachments")
"""The same beside a lesson, where `image` and `files` may be ordinary data, such as the image of a container."""
LONGEST_REFERENCE = 500
"""Characters of a reference. What is longer, or inline data, is named by its digest."""

_TEXTS = frozenset({"text", "input_text", "output_text"})
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning", "thought"})
_CALLS = frozenset(
    {"tool_use", "server_tool_use", "mcp_tool_use", "tool_call", "function_call", "functioncall", "tool_invocation",
     "dynamic_tool"}
)  # fmt: skip
_RESULTS = frozenset({"tool_result", "tool_response", "function_response", "functionresponse"})
_CODE = {"executablecode": "executableCode", "executable_code": "executable_code"}
_CODE_RESULTS = {"codeexecutionresult": "codeExecutionResult", "code_execution_result": "code_execution_result"}
_MARKS = frozenset({"step_start", "step_finish"})
"""Parts that only separate others (Vercel's AI SDK)."""
_MEDIA: dict[str, Medium] = {
    **dict.fromkeys(("image", "image_url", "input_image", "image_file"), "image"),
    **dict.fromkeys(("audio", "input_audio", "audio_url"), "audio"),
    **dict.fromkeys(("video", "video_url", "input_video"), "video"),
    **dict.fromkeys(
        ("file", "input_file", "document", "inlinedata", "inline_data", "filedata", "file_data", "media"), "file"
    ),
}  # fmt: skip
_REFERENCES = (
    "reference", "url", "uri", "fileUri", "file_uri", "image_url", "audio_url", "video_url", "file_id", "path",
    "file_path", "id", "image", "audio", "video", "input_audio", "file", "source", "inlineData", "inline_data",
    "fileData", "file_data", "file_name", "filename", "name", "data",
)  # fmt: skip
_TYPES = ("mimeType", "mime_type", "mediaType", "media_type")


def plain(name: Any) -> str:
    """A name as it is compared: lower case, underscores."""
    return str(name).strip().strip(":").casefold().replace("-", "_").replace(" ", "_")


def items_in(value: Any, where: str) -> Iterator[Item]:
    """What stands in a content, in order."""
    if value is None:
        return
    if isinstance(value, str):
        yield value
        return
    if isinstance(value, Mapping):
        parts = value.get("parts")
        value = parts if isinstance(parts, list) else [value]
    if not isinstance(value, list):
        raise UnreadableRowError(f"content is not text ({where}: {type(value).__name__})")
    for part in value:
        if part is None or isinstance(part, str):
            yield part or ""
        elif isinstance(part, Mapping):
            yield from _items_of(part, where)
        else:
            raise UnreadableRowError(f"content has a part that is not text ({where}: {type(part).__name__})")


def media_beside(source: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Part, ...]:
    """What stands beside a text, by reference."""
    parts = []
    for key in keys:
        values = source.get(key)
        for value in values if isinstance(values, list) else [values] if values else []:
            kind = next((kind for kind in ("image", "audio", "video") if key.startswith(kind)), "file")
            parts.append(Part(kind=kind, reference=_reference(value)))
    return tuple(parts)


def result_items(source: Mapping[str, Any], where: str) -> Result:
    """The result that a part or a turn holds; pictures in it are kept by reference."""
    value = source.get("content")
    if isinstance(value, list) and any(_medium(part) for part in value):
        items = list(items_in(value, where))
        text = "".join(item for item in items if isinstance(item, str) and not isinstance(item, Thought))
        return result_in(source, text, tuple(item for item in items if isinstance(item, Part)))
    return result_in(source)


def _items_of(part: Mapping[str, Any], where: str) -> Iterator[Item]:
    kind = part.get("type")
    kinds = {plain(kind)} if isinstance(kind, str) else {plain(key) for key in part}
    name = str(kind).partition("-")[2] if str(kind).startswith("tool-") and "toolCallId" in part else ""  # Vercel's
    if kinds & _CALLS or (name and not kinds & _RESULTS):
        yield from _call(part, where, "" if kinds & _CALLS else name)
    elif kinds & _RESULTS or any(name.endswith("_tool_result") for name in kinds):
        yield result_items(part, where)
    elif key := next((key for name, key in _CODE.items() if name in kinds), ""):
        yield call_in({"name": "code_execution", "arguments": part.get(key) or {}}, where)
    elif key := next((key for name, key in _CODE_RESULTS.items() if name in kinds), ""):
        value = part.get(key)
        output = value.get("output") if isinstance(value, Mapping) else value
        yield Result(result_text(output), name="code_execution")
    elif kinds & _THOUGHTS or part.get("thought") is True:
        yield Thought(thoughts_in(part))
    elif kinds & _MARKS:
        return
    elif "text" not in kinds and (medium := _medium(part)) and len(part) > ("type" in part):
        yield Part(kind=medium, reference=_reference(part))
    else:
        yield _text_of(part, kinds, where)


def _call(part: Mapping[str, Any], where: str, name: str) -> Iterator[Item]:
    """A call; Vercel's AI SDK keeps its result in the same part."""
    call = call_in(part, where, name)
    yield call
    inner = part.get("toolInvocation") if isinstance(part.get("toolInvocation"), Mapping) else part
    if isinstance(inner, Mapping) and any(key in inner for key in ("output", "result", "errorText")):
        result = result_in(inner)
        yield Result(result.text, call.id, call.name)


def thoughts_in(source: Mapping[str, Any]) -> str:
    """The thoughts of a part, or of an item of reasoning."""
    for key in ("thinking", "reasoning", "reasoning_content", "text", "content", "summary"):
        value = source.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list) and value:
            texts = (part.get("text") if isinstance(part, Mapping) else part for part in value)
            return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def _medium(part: Any) -> Medium | None:
    """The medium of a part; None for other parts."""
    if not isinstance(part, Mapping):
        return None
    kind = part.get("type")
    names = [plain(kind)] if isinstance(kind, str) else [plain(key) for key in part]
    medium = next((_MEDIA[name] for name in names if name in _MEDIA), None)
    if medium != "file":
        return medium
    inner = [value for value in part.values() if isinstance(value, Mapping)]
    types = [str(fields[key]) for fields in (part, *inner) for key in _TYPES if fields.get(key)]
    found: dict[str, Medium] = {"image": "image", "audio": "audio", "video": "video"}
    return next((found[name.partition("/")[0]] for name in types if name.partition("/")[0] in found), medium)


def _reference(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = next((value[key] for key in _REFERENCES if value.get(key)), None)
        return _reference(inner) if inner is not None else f"sha256:{digest_of(value)}"
    text = value if isinstance(value, str) else ""
    if not text or text.startswith("data:") or len(text) > LONGEST_REFERENCE:
        return f"sha256:{digest_of(value)}"
    return text


def _text_of(part: Mapping[str, Any], kinds: set[str], where: str) -> str:
    text = part.get("text")
    if text is None and "type" not in part:
        text = part.get("content")
    if isinstance(text, Mapping):
        text = text.get("value")
    if not isinstance(text, str) or ("type" in part and not kinds & _TEXTS):
        kind = str(part.get("type") or ", ".join(map(str, part)) or "empty")[:40]
        raise UnreadableRowError(f"a part of type {kind!r} cannot be read ({where})")
    return text
