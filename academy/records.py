"""Frozen records, and the digest that names their content."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen record without extra fields. Modules pass these to each other."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
