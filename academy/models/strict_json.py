"""JSON of a base model, without duplicate names: programs differ in which duplicate they use."""

from __future__ import annotations

import json
from typing import Any

import orjson

from academy.errors import BaseModelError


def strict_json(content: bytes, what: str, remedy: str) -> Any:
    """The value of a JSON text. Raises BaseModelError, also for a duplicate name and for endless nesting."""
    duplicates: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            names = [name for name, _ in pairs]
            duplicates.append(next(name for name in names if names.count(name) > 1))
        return members

    try:
        value = orjson.loads(content)  # first: it rejects NaN, lone surrogates and endless nesting
        json.loads(content, object_pairs_hook=unique)
    except (ValueError, RecursionError) as problem:
        raise BaseModelError(f"{what} is not valid JSON ({str(problem)[:200]}).", remedy) from problem
    if duplicates:
        raise BaseModelError(f"{what} has the name {ascii(duplicates[0])[:80]} twice in one object.", remedy)
    return value
