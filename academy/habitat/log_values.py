"""Numbers and dictionaries as trainers print them."""

from __future__ import annotations

import re
from typing import Any

import orjson

GROUPS = r"(?:[,_]\d{1,40}){0,5}"
NUMBER = (
    rf"[-+]?(?:\d{{1,15}}{GROUPS}(?:\.\d{{0,40}}){{0,4}}|\.\d{{1,40}})(?:e[-+]?\d{{1,4}})?|[-+]?nan|[-+]?inf(?:inity)?"
)
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?:([,_.])\d{3})(?:\1\d{3}){0,4}", re.ASCII).fullmatch
_WRAPPED = re.compile(rf"[\w.]{{0,40}}\( ?['\"]?({NUMBER})['\"]?(?:,[^()]{{0,200}})?\)", re.ASCII | re.IGNORECASE)
"""`np.float64(1.5)`, `tensor(0.3, device='cuda:0')`."""
_BARE = re.compile(r": (-?(?:nan|inf|NaN|Infinity|None|True|False))\b")
"""Values that Python prints and JSON does not have."""


def read_row(text: str) -> dict[str, Any] | None:
    """A dictionary as Python or JSON prints it."""
    if "(" in text:
        text = _WRAPPED.sub(r"\1", text)
    try:
        mapping = orjson.loads(_BARE.sub(r': "\1"', text.replace("'", '"')))
    except ValueError:
        return None
    return mapping if type(mapping) is dict else None


def read_number(text: str, *, is_count: bool, is_step: bool) -> float | None:
    """The value of a number as people write it; None where it has two readings or none.

    A comma stands between thousands in counts, and before decimals in other figures, unless three digits follow.
    """
    groups = _THOUSANDS(text.partition(".")[0] if "," in text else text)
    if groups is None or (groups[1] == "." and not is_step):
        try:
            return float(text if "_" not in text else "")
        except ValueError:
            pass
    if groups is not None and (is_count or text.count(",") > 1 or "." in text):
        return float(re.sub(r"[,_]", "", text) if groups[1] != "." else text.replace(".", ""))
    if groups is None and text.count(",") == 1 and "." not in text and "_" not in text:
        return float(text.replace(",", "."))
    return None
