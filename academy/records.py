"""Frozen records, the digest that names their content, and what an invalid value must be instead."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen record without extra fields. Modules pass these to each other."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_KINDS = {
    "int": "a whole number", "float": "a number", "decimal": "a number", "finite": "a finite number",
    "bool": "true or false", "string": "text", "list": "a list", "tuple": "a list", "dict": "an object",
    "model": "an object", "date": "a date", "datetime": "a date and a time", "json": "valid JSON", "path": "a path",
}  # fmt: skip
_BOUNDS = {
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "greater_than": "greater than {gt}",
    "less_than": "less than {lt}",
    "literal_error": "{expected}",
    "string_too_short": "at least {min_length} characters long",
    "string_too_long": "at most {max_length} characters long",
    "string_pattern_mismatch": "text that matches {pattern}",
    "too_short": "at least {min_length} entries long",
    "too_long": "at most {max_length} entries long",
}


def expectation(error: Mapping[str, Any]) -> str:
    """What one of pydantic's errors expects, as the end of a sentence: "it must be a whole number"."""
    kind = str(error["type"])
    limits = {
        name: int(limit) if isinstance(limit, float) and limit.is_integer() else limit
        for name, limit in (error.get("ctx") or {}).items()
    }
    if kind == "missing":
        return "it is missing"
    if kind == "extra_forbidden":
        return "it is unknown"
    if kind.endswith("too_short") and limits.get("min_length") == 1:
        return "it must not be empty"
    if kind in _BOUNDS:
        return f"it must be {_BOUNDS[kind].format_map(limits)}"
    if words := _KINDS.get(kind.partition("_")[0]):
        return f"it must be {words}"
    return str(error["msg"]).removeprefix("Value error, ")


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no white space: equal values give equal bytes on every machine."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest_of(value: Any) -> str:
    """sha256 of the canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def digest_of_bytes(*chunks: bytes) -> str:
    """sha256 of the chunks in this order."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def stable_fraction(*parts: str) -> float:
    """A number in [0, 1) that depends only on the parts: for splits that never change."""
    return int(digest_of_bytes("\x1f".join(parts).encode())[:13], 16) / 16**13
