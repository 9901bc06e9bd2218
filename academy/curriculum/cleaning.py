"""Replaces secrets and personal data in texts, messages, calls and definitions. JSON stays valid JSON.

In JSON, values are cleaned one by one, each with its key, which may say that it is a secret: `{"password": "…"}`,
`{"password": {"value": "…"}}`, `{"selector": "#password", "text": "…"}`, `["--password", "…"]`. Where a secret remains
that only the whole text shows, all its values are replaced: a secret that stays is worse than an example that is lost.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from academy.curriculum import personal, secrets
from academy.experience.experience import Trace
from academy.models.messages import Message, Tool, ToolCall, canonical_object

_HIDDEN = "[secret: value]"
_PROBE = "x7Kp2mQ9vT4wZ8n"
"""A value that is a secret behind a name that says so, and nowhere else."""
_LABELS = ("name", "key", "id", "field", "label", "selector", "element", "target", "placeholder", "type", "ref")
"""Keys of a value that says what another value of the same object is."""
_SPLIT = re.compile(r"[^A-Za-z]++")
LONGEST_LABEL = 100


class Cleaner:
    """Cleans texts and counts what it replaced."""

    def __init__(self) -> None:
        self.redactions: Counter[str] = Counter()

    def text(self, text: str) -> str:
        """A text with marks in place of secrets and personal data."""
        for category, redact in (("secret", secrets.redact), ("personal", personal.redact)):
            text, findings = redact(text)
            self.redactions.update(f"{category}: {finding.kind}" for finding in findings)
        return text

    def object(self, text: str) -> str:
        """A canonical JSON object, cleaned; the same text where nothing was replaced."""
        cleaned = canonical_object(self._value(orjson.loads(text)))
        if secrets.find_secrets(cleaned):
            self.redactions["secret: value"] += 1
            cleaned = canonical_object(_each(orjson.loads(cleaned), lambda _: _HIDDEN))
        return text if cleaned == text else cleaned

    def result(self, text: str) -> str:
        """What a tool gave back: JSON stays JSON, other texts are texts."""
        try:
            value = orjson.loads(text) if text.lstrip().startswith(("{", "[")) else None
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict | list):
            return self.text(text)
        before = self.redactions.total()
        try:
            cleaned = orjson.loads(self.object(canonical_object({"result": value})))["result"]
        except ValueError:  # deeper than what is learned from
            return self.text(text)
        return text if self.redactions.total() == before else orjson.dumps(cleaned).decode()

    def message(self, message: Message) -> Message:
        """A message, with its calls."""
        content = self.result(message.content) if message.role == "tool" else self.text(message.content)
        return message.model_copy(
            update={
                "content": content,
                "reasoning": self.text(message.reasoning),
                "parts": tuple(part.model_copy(update={"reference": self.text(part.reference)})
                               for part in message.parts),
                "tool_calls": self.calls(message.tool_calls),
            }
        )  # fmt: skip

    def calls(self, calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
        """Calls with clean arguments."""
        return tuple(call.model_copy(update={"arguments": self.object(call.arguments)}) for call in calls)

    def trace(self, trace: Trace) -> Trace:
        """A trace with clean steps, calls, thoughts and definitions."""
        if not trace.model_dump():
            return trace
        return trace.model_copy(
            update={
                "parts": self.message(Message(role="user", content="", parts=trace.parts)).parts,
                "steps": tuple(map(self.message, trace.steps)),
                "tool_calls": self.calls(trace.tool_calls),
                "reasoning": self.text(trace.reasoning),
                "tools": tuple(map(self._tool, trace.tools)),
            }
        )

    def _tool(self, tool: Tool) -> Tool:
        return tool.model_copy(
            update={"description": self.text(tool.description), "parameters": self.object(tool.parameters)}
        )

    def _value(self, value: Any, *keys: str) -> Any:
        """A JSON value, each text and number of it cleaned with the keys that may say what it is."""
        if isinstance(value, dict):
            cleaned: dict[str, Any] = {}
            same: Counter[str] = Counter()  # many keys may have one mark: a number makes each another one
            above = [key for key in keys if _names_a_secret(key)][:1]
            label = [] if above else _label_of(value)
            for name, inner in value.items():
                new = mark = self.text(name)
                while new in cleaned:
                    same[mark] += 1
                    new = f"{mark} {same[mark] + 1}"
                cleaned[new] = self._value(inner, name, *above, *(label if name not in _LABELS else ()))
            return cleaned
        if isinstance(value, list):
            return [self._value(inner, *keys) for inner in value]
        if isinstance(value, str):
            cleaned_text = self.text(value)
            for key in keys:
                cleaned_text = self._named(key, cleaned_text)
            return cleaned_text
        if isinstance(value, int) and not isinstance(value, bool):
            digits = self.text(str(value))
            return value if digits == str(value) else digits
        return value

    def _named(self, key: str, value: str) -> str:
        """A text whose key may say that it is a secret."""
        if not key or not value:
            return value
        pair = orjson.dumps({key: value}).decode()
        cleaned = self.text(pair)
        if cleaned == pair:
            return value
        try:
            inner = orjson.loads(cleaned)
        except orjson.JSONDecodeError:
            return _HIDDEN
        return str(inner[key]) if isinstance(inner, dict) and key in inner else _HIDDEN


@lru_cache(maxsize=4096)
def _names_a_secret(key: str) -> bool:
    """Whether a key says that its value is a secret."""
    return len(key) <= LONGEST_LABEL and bool(secrets.find_secrets(orjson.dumps({key: _PROBE}).decode()))


def _label_of(value: Mapping[str, Any]) -> list[str]:
    """The word by which a value of an object says that another one is a secret; none where no value does."""
    labels = (value[name] for name in _LABELS if isinstance(value.get(name), str))
    words = (word for label in labels if len(label) <= LONGEST_LABEL for word in _SPLIT.split(label) if word)
    return next(([word] for word in words if _names_a_secret(word)), [])


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: _each(inner, change) for name, inner in value.items()}
    return [_each(inner, change) for inner in value] if isinstance(value, list) else change(value)
