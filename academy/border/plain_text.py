"""Text of strangers for terminals and logs: signs that control a terminal or turn around a line become visible.

A terminal acts on control characters: they set its title and clipboard, move its cursor and hide what was printed.
Lessons, commits, names of files, models and users, and messages of errors may hold them.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from typing import TextIO

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters but for the tabulator and line breaks, separators of lines, and signs that set a direction."""
INVISIBLE = re.compile(
    f"{CONTROLS.pattern}|"
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u206f\u2800\u3164\ufe00-\ufe0e\ufeff\uffa0"
    "\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""These, and letters without a shape: a person sees nothing where a model reads something."""
_LINES = re.compile(f"{CONTROLS.pattern}|\n")
_COLOUR = re.compile(r"\x1b\[(?:(?:0|1|2|3|4|2[234]|3[1-79]|9[0-7])(?:;|(?=m)))*m")
"""Colours and weights of a terminal; not the ones that hide text or its background."""
STRICT = ("academy", "uvicorn")
"""Loggers whose messages are one line."""


def plain(text: str) -> str:
    """The text with control characters as visible escapes (`\\x1b`); line breaks and tabulators stay."""
    return text if text.isprintable() else CONTROLS.sub(_escape, text.replace("\r\n", "\n"))


def plain_line(text: str) -> str:
    """The same for one line: line breaks are escapes, too."""
    return text if text.isprintable() else _LINES.sub(_escape, text)


def visible(text: str) -> str:
    """The text with every letter that has no shape as an escape, for a person who decides about it."""
    return text if text.isascii() and text.isprintable() else INVISIBLE.sub(_escape, text.replace("\r\n", "\n"))


def json_escaped(text: str) -> str:
    """JSON whose strings hold no such characters; what it means does not change."""
    return text if text.isprintable() else CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    sign = ord(match[0])
    return {10: "\\n", 13: "\\r"}.get(sign) or (_hexadecimal(sign))


def _hexadecimal(sign: int) -> str:
    return f"\\x{sign:02x}" if sign < 1 << 8 else f"\\u{sign:04x}" if sign < 1 << 16 else f"\\U{sign:08x}"


class PlainRecord(logging.LogRecord):
    """A line of the log without control characters, whatever handler writes it."""

    def getMessage(self) -> str:  # noqa: N802  logging's name
        """The message; for our own loggers in one line."""
        text = super().getMessage()
        return plain_line(text) if self.name.partition(".")[0] in STRICT else plain(text)


def plain_logs() -> None:
    """Let every logger of this process write plain text."""
    logging.setLogRecordFactory(PlainRecord)


class PlainStream(io.TextIOBase):
    """A terminal's stream that passes text and colours, and shows everything else as escapes.

    It has no `buffer`, by which a library could write past it. A line that replaces itself, as a progress bar does,
    begins with a carriage return in a writing of its own.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write the text; colours only reach a terminal."""
        if not text.isprintable():
            lead = "\r" if text.startswith("\r") else ""
            text = lead + self._plain(text[len(lead) :])
        return self.stream.write(text)

    def _plain(self, text: str) -> str:
        if "\x1b" not in text or not self.isatty():
            return plain(text)
        parts, place = [], 0
        for colour in _COLOUR.finditer(text):
            parts += [plain(text[place : colour.start()]), colour[0]]
            place = colour.end()
        return "".join([*parts, plain(text[place:])])

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """The number of its file."""
        return self.stream.fileno()

    def writable(self) -> bool:
        """It is."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """What it does with signs that the encoding lacks."""
        return self.stream.errors


def plain_streams() -> None:
    """Let this process print plain text on its standard streams, and log plain text."""
    plain_logs()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, PlainStream):
            setattr(sys, name, PlainStream(stream))
