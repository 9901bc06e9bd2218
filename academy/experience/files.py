"""What stands in a file: lines of JSON, a JSON array, or JSON values over several lines, in UTF-8, UTF-16 or UTF-32.

A file of another kind (compressed, Parquet) is rejected with its name before anything is read. Every piece keeps the
bytes that came. Lines of UTF-8 are read one by one, so memory stays bounded; other files are read as a whole.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from academy.errors import InputError
from academy.experience.reading import LONGEST_LINE, numbered_lines
from academy.experience.sessions import read_session
from academy.models.turns import role_of

LARGEST_WHOLE = 64 << 20
"""Bytes of the largest file that is read as a whole."""
ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7z",
    b"\x04\x22\x4d\x18": "lz4",
}
"""First bytes of compressed files, and their format."""
BINARIES = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"Obj\x01": "an Avro file",
    b"SQLite format 3\x00": "an SQLite database",
    b"%PDF-": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an Excel or Word document",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer without the data",
}
"""First bytes of other files that are not JSON, and what they are."""
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_UNMARKED = (
    (re.compile(rb"[\s{\[\"]\x00\x00\x00"), "utf-32-le"),
    (re.compile(rb"\x00\x00\x00[\s{\[\"]"), "utf-32-be"),
    (re.compile(rb"[\s{\[\"]\x00[^\x00]"), "utf-16-le"),
    (re.compile(rb"\x00[\s{\[\"]\x00"), "utf-16-be"),
)
_BLANK = re.compile(r"[\s,\x1e\ufeff]*")
_DECODER = json.JSONDecoder()


class Piece(NamedTuple):
    """A line or a value of a file: its first line's number, its text in UTF-8, and its bytes as they came."""

    number: int
    text: bytes
    raw: bytes


def pieces_of(path: Path) -> Iterator[Piece]:
    """The pieces of a file. Raises InputError where it is of another kind, and OSError."""
    with path.open("rb") as stream:
        beginning = stream.read(64)
    if form := next((name for mark, name in ARCHIVES.items() if beginning.startswith(mark)), ""):
        raise InputError(f"{path} is compressed ({form}).", "Decompress it, check its size, then import it.")
    if form := next((name for mark, name in BINARIES.items() if beginning.startswith(mark)), ""):
        raise InputError(
            f"{path} is {form}, not JSONL.", "Write it as JSONL (one JSON object per line), then import it."
        )
    encoding = _encoding_of(beginning)
    if encoding != "utf-8":
        yield from _of_text(_decoded(path, encoding), encoding)
    elif text := _over_several_lines(path):
        yield from _of_text(text, encoding)
    elif session := read_session(path, LARGEST_WHOLE):
        yield Piece(1, session, path.read_bytes())
    else:
        for number, line in numbered_lines(path):
            is_whole = len(line) <= LONGEST_LINE
            yield Piece(number, line.removeprefix(codecs.BOM_UTF8) if is_whole else line, line)


def looks_like(path: Path) -> str:
    """What a file seems to be of which nothing could be read; empty where that is not clear."""
    with path.open("rb") as stream:
        text = stream.read(4096).decode(errors="replace").lstrip("\ufeff \t\r\n")
    beginning = text[:200].lower()
    if beginning.startswith(("<!doctype html", "<html")):
        return "an HTML page"
    if beginning.startswith("<"):
        return "XML"
    lines = [line for line in text.splitlines() if line.strip()][:3]
    if lines and not any(line.lstrip().startswith(("{", "[")) for line in lines):
        for separator, name in ((",", "CSV"), ("\t", "TSV"), (";", "CSV")):
            if separator in lines[0]:
                return f"{name} (a table)"
        return "plain text or YAML"
    return ""


def _encoding_of(beginning: bytes) -> str:
    if encoding := next((name for mark, name in _MARKS.items() if beginning.startswith(mark)), ""):
        return encoding
    return next((name for pattern, name in _UNMARKED if pattern.match(beginning)), "utf-8")


def _decoded(path: Path, encoding: str) -> str:
    """A file as text. Raises InputError where it is too large or not in this encoding."""
    size, name = path.stat().st_size, encoding.upper().removesuffix("-LE").removesuffix("-BE")
    if size > LARGEST_WHOLE:
        raise InputError(
            f"{path} is {name} and larger than {LARGEST_WHOLE >> 20} MiB.", f"Convert it: iconv -f {name} -t UTF-8."
        )
    try:
        return path.read_bytes().decode(encoding)
    except UnicodeDecodeError as problem:
        raise InputError(
            f"{path} begins as {name}, but byte {problem.start + 1:,} is not.", "Save the file again, in UTF-8."
        ) from None


def _over_several_lines(path: Path) -> str:
    """The text of a JSON array, or of JSON values over several lines. Empty where a file has a value on each line."""
    with path.open("rb") as stream:
        beginning = stream.read(LONGEST_LINE + 1).removeprefix(codecs.BOM_UTF8).lstrip()
    if not beginning.startswith((b"[", b"{")):
        return ""
    first, _, rest = beginning.partition(b"\n")
    try:
        value = orjson.loads(first)
        if not (isinstance(value, list) and _are_rows(value) and not rest.strip()):
            return ""
    except orjson.JSONDecodeError:
        pass
    size = path.stat().st_size
    if size > LARGEST_WHOLE:
        if first.strip() in (b"[", b"{") or (beginning.startswith(b"[{") and not rest):
            raise InputError(
                f"{path} is one JSON value over several lines and larger than {LARGEST_WHOLE >> 20} MiB.",
                "Write one object per line: jq -c '.[]' FILE > FILE.jsonl",
            )
        return ""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as problem:
        if first.strip() not in (b"[", b"{"):
            return ""
        raise InputError(
            f"{path} is JSON over several lines, but not UTF-8 (byte {problem.start + 1:,}).",
            "Convert it: iconv -f CP1252 -t UTF-8.",
        ) from None
    return text if _spans_lines(text) else ""


def _spans_lines(text: str) -> bool:
    """Whether the first value of a text is an array of rows, or ends on another line than it begins."""
    start = _skip(text, 0)
    inner = _skip(text, start + 1) if text[start : start + 1] == "[" else start
    if text[inner : inner + 1] == "]":
        return True
    end = _end_of(text, inner)
    if end is None:
        return False
    line_end = text.find("\n", start)
    return inner > start or line_end == -1 or end > line_end or text[end : end + 1] == "{"


def _are_rows(values: list[Any]) -> bool:
    """Whether a list holds rows; a list of turns is one conversation."""
    return bool(values) and all(isinstance(value, dict) for value in values) and not _is_turn(values[0])


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and any(role_of(value.get(key)) for key in ("role", "from", "sender"))


def _of_text(text: str, encoding: str) -> Iterator[Piece]:
    """The pieces of a whole text: its values where these span lines, otherwise its lines."""
    if _spans_lines(text):
        yield from _values_of(text, encoding)
        return
    start, number = 0, 1
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        line = text[start:end]
        yield Piece(number, line.strip("\ufeff\r\n \t").encode(), line.encode(encoding))
        start, number = end, number + 1


def _values_of(text: str, encoding: str) -> Iterator[Piece]:
    """Each value of a text, or of its array. What follows a broken value is one piece."""
    start = _skip(text, 0)
    is_array = text[start : start + 1] == "["
    if is_array:
        end = _end_of(text, _skip(text, start + 1))
        is_array = end is None or not _is_turn(_DECODER.raw_decode(text, _skip(text, start + 1))[0])
    position = _skip(text, start + 1) if is_array else start
    number, counted = 1, 0
    while position < len(text):
        if is_array and text[position] == "]":
            is_array, position = False, _skip(text, position + 1)
            continue
        number, counted = number + text.count("\n", counted, position), position
        end = _end_of(text, position) or len(text)
        piece = text[position:end]
        yield Piece(number, piece.encode(), piece.encode(encoding))
        position = _skip(text, end)


def _skip(text: str, position: int) -> int:
    """The position of the next value: behind white space, commas and marks."""
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _end_of(text: str, position: int) -> int | None:
    """Where the value at a position ends; None where it is broken."""
    try:
        return _DECODER.raw_decode(text, position)[1]
    except (ValueError, RecursionError):
        return None
