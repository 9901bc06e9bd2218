"""Reads the cases of a kind. Adding a case is adding a TOML file to `tests/foreign/KIND/`.

about = "What this input is, and why it is right so."
[input]             # what the reader of this kind is given; its test module describes the keys
text = '''...'''    # or base64 = "..."; with `encoding`, the text is written in that encoding
[right]             # what must come out
"""

from __future__ import annotations

import base64
import tomllib
from pathlib import Path
from typing import Any

import pytest

from academy.records import Record


class Case(Record):
    """One input and what is right for it."""

    kind: str
    name: str
    about: str
    input: dict[str, Any]
    right: dict[str, Any]

    @property
    def content(self) -> bytes:
        """The bytes of the input: `base64`, or `text` in `encoding` (UTF-8)."""
        if "base64" in self.input:
            return base64.b64decode(self.input["base64"])
        return str(self.input["text"]).encode(self.input.get("encoding", "utf-8"))


def cases_of(kind: str) -> list[Case]:
    """All cases of a kind, by name."""
    files = sorted((Path(__file__).parent / kind).glob("*.toml"))
    assert files, f"no cases in tests/foreign/{kind}"
    return [Case(kind=kind, name=file.stem, **tomllib.loads(file.read_text(encoding="utf-8"))) for file in files]


def each_case(kind: str) -> pytest.MarkDecorator:
    """Run a test of one parameter, `case`, for each case of a kind."""
    return pytest.mark.parametrize("case", cases_of(kind), ids=lambda case: case.name)
