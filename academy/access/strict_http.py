"""Requests that two programs could read in two ways are refused: the buffer of h11, with stricter lines.

h11 accepts lines that end with a bare line feed, folded headers, a length beside chunks, and targets that name a host.
A proxy in front may read those otherwise, and so take a part of one request for another one (request smuggling).
"""

from __future__ import annotations

import re

import h11
from h11._receivebuffer import ReceiveBuffer

HEAD_BYTES = 32_768
"""Most bytes of a request's line and headers together."""
HEADERS = 100
"""Most headers of a request."""
CHUNK_LINE = 20
"""Most bytes of the line before a chunk: its size and no extensions."""
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\r\n[ \t]")
_LENGTH = re.compile(rb"[ \t]*[0-9]{1,18}[ \t]*")
_TARGET = re.compile(rb"[A-Z]+ /[^ ]* HTTP/1\.[01]|OPTIONS \* HTTP/1\.1")


def strict_connection() -> h11.Connection:
    """A server's side of a connection. It refuses what h11 alone would read in its own way."""
    connection = h11.Connection(h11.SERVER, HEAD_BYTES)
    if not isinstance(connection._receive_buffer, ReceiveBuffer):
        raise TypeError("This version of h11 keeps what it received in another way.")
    connection._receive_buffer = _StrictBuffer()
    return connection


class _StrictBuffer(ReceiveBuffer):
    """Raises LocalProtocolError, which h11 reports as the client's fault."""

    _checked = 0

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """The lines of a head; without any after the last chunk of a body."""
        end = self._data.find(b"\r\n\r\n", max(0, self._checked - 3))
        stop = len(self._data) if end == -1 else end + 4
        if self._data[:2] == b"\r\n":
            stop = 2  # no trailers
        if stop > HEAD_BYTES:
            raise h11.LocalProtocolError("The head is too large.", error_status_hint=431)
        if _BARE.search(self._data, max(0, self._checked - 2), stop):
            raise h11.LocalProtocolError("A line does not end with carriage return and line feed.")
        self._checked = stop
        lines: list[bytearray] | None = super().maybe_extract_lines()
        if lines is not None:
            self._checked = 0
            if lines:
                _check_head(lines)
        return lines

    def maybe_extract_next_line(self) -> bytearray | None:
        """The line before a chunk."""
        line: bytearray | None = super().maybe_extract_next_line()
        if len(line or self._data) > CHUNK_LINE or (line and b";" in line):
            raise h11.LocalProtocolError("The line before a chunk is more than its size.")
        return line


def _check_head(lines: list[bytearray]) -> None:
    if not _TARGET.fullmatch(lines[0]):
        raise h11.LocalProtocolError("The first line is not a method, a path and a version.")
    if len(lines) - 1 > HEADERS:
        raise h11.LocalProtocolError("There are too many headers.", error_status_hint=431)
    fields = [line.partition(b":") for line in lines[1:]]
    names = [bytes(name).lower() for name, _, _ in fields]
    if names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
        raise h11.LocalProtocolError("The length of the body is stated twice.")
    if any(
        name == b"content-length" and not _LENGTH.fullmatch(field[2]) for name, field in zip(names, fields, strict=True)
    ):
        raise h11.LocalProtocolError("The length of the body is not one number.")
    if b"transfer-encoding" in names and lines[0].endswith(b"1.0"):
        raise h11.LocalProtocolError("HTTP/1.0 has no chunks.")
