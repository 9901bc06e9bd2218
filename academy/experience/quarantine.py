"""The quarantine: what an import could not read, byte by byte as it came, and beside it where it stood and why.

NAME.jsonl has the pieces one after another, so it can be corrected and imported again. NAME.reasons.jsonl has a line
for each: its file and line, the reason, and its first byte and length in NAME.jsonl.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import orjson

from academy.experience.files import Piece
from academy.store.files import write_file

REASONS = ".reasons.jsonl"
_IN_MEMORY = 8 << 20
_ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


class Quarantine:
    """The pieces of one file that could not be read."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.reasons: list[dict[str, Any]] = []
        self._digest = hashlib.sha256()
        self._pieces = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  closed by `write`
        self._size = 0

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(self, *_problem: object) -> None:
        self._pieces.close()

    def add(self, piece: Piece, because: str) -> None:
        """Set a piece aside."""
        self.reasons.append(
            {"file": self.file, "line": piece.number, "because": because, "start": self._size, "bytes": len(piece.raw)}
        )
        separator = b"" if piece.raw.endswith((b"\n", b"\n\x00", b"\n\x00\x00\x00")) else b"\n"
        self._pieces.write(piece.raw + separator)
        self._size += len(piece.raw) + len(separator)
        self._digest.update(piece.raw + because.encode())

    def write(self, folder: Path) -> str:
        """Write what was set aside and return the file's path; empty where there is nothing."""
        if not self.reasons:
            return ""
        name = f"{Path(self.file).stem}-{self._digest.hexdigest()[:8]}"  # two files may have the same name
        self._pieces.seek(0)
        path = write_file(folder / f"{name}.jsonl", iter(lambda: self._pieces.read(1 << 20), b""))
        write_file(folder / f"{name}{REASONS}", (orjson.dumps(reason) + b"\n" for reason in self.reasons))
        return str(path)


def scrub(folder: Path, texts: Iterable[str]) -> None:
    """Erase every piece that contains one of the texts."""
    wanted = [text for text in texts if text.strip()]
    spellings = {
        spelling for text in wanted for spelling in (text, json.dumps(text)[1:-1], orjson.dumps(text)[1:-1].decode())
    }
    needles = {spelling.encode(encoding) for spelling in spellings for encoding in _ENCODINGS}
    for reasons_file in folder.glob(f"*{REASONS}"):
        pieces_file = reasons_file.with_name(reasons_file.name.removesuffix(REASONS) + ".jsonl")
        content = pieces_file.read_bytes()
        reasons = [orjson.loads(line) for line in reasons_file.read_bytes().splitlines()]
        remaining, pieces, size = [], [], 0
        for reason in reasons:
            piece = content[reason["start"] : reason["start"] + reason["bytes"]]
            if any(needle in piece for needle in needles):
                continue
            separator = b"" if piece.endswith((b"\n", b"\n\x00", b"\n\x00\x00\x00")) else b"\n"
            remaining.append({**reason, "start": size})
            pieces.append(piece + separator)
            size += len(piece) + len(separator)
        if len(remaining) != len(reasons):
            write_file(pieces_file, pieces)
            write_file(reasons_file, (orjson.dumps(reason) + b"\n" for reason in remaining))
