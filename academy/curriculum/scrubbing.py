"""Takes secrets and personal data out of texts beside a program that must go on answering.

The patterns take linear time, but Python's hold its global lock while they search. So only short texts are scrubbed in
the caller's thread. Longer ones go to a process of their own, which is ended when it takes too long: what cannot be
scanned in time is refused, never stored as it came.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from threading import Lock

from academy.curriculum.cleaning import Cleaner
from academy.curriculum.secrets import UnscannableError
from academy.system.processes import die_with_parent

SHORT = 20_000
"""Characters that are scrubbed in the caller's thread: less than a second for the worst text."""
SECONDS, START_SECONDS = 10.0, 60.0
"""Limits in seconds for the texts of one conversation, and for the start of the process."""
_READY = b"ready\n"


def scrub(text: str) -> str:
    """A text with placeholders for secrets and personal data, as in curation. Raises UnscannableError."""
    return Cleaner().text(text)


class Scrubber:
    """Scrubs texts, long ones in a process that starts with the first of them. Several threads may call it."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    def scrub(self, texts: Sequence[str]) -> list[str]:
        """The texts without secrets and personal data. Raises UnscannableError if that takes too long."""
        if sum(map(len, texts)) <= SHORT:
            return [scrub(text) for text in texts]
        with self._lock:
            try:
                answer = self._ask(json.dumps(list(texts)).encode() + b"\n")
            except (OSError, TimeoutError):
                self._end()
                raise UnscannableError(
                    f"The texts could not be scanned for secrets within {self.seconds:g} seconds.",
                    "They are not stored. Send shorter texts.",
                ) from None
        scrubbed: list[str] = json.loads(answer)
        return scrubbed

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, question: bytes) -> bytes:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "academy.curriculum.scrubbing", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            _line_from(self._process, time.monotonic() + START_SECONDS)
        until = time.monotonic() + self.seconds
        assert self._process.stdin is not None  # noqa: S101  it was opened as a pipe
        self._process.stdin.write(question)
        self._process.stdin.flush()
        return _line_from(self._process, until)

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _line_from(process: subprocess.Popen[bytes], until: float) -> bytes:
    """One line of a process. Raises TimeoutError, and OSError when it has ended."""
    assert process.stdout is not None  # noqa: S101  it was opened as a pipe
    pieces: list[bytes] = []
    while not (pieces and pieces[-1].endswith(b"\n")):
        if not select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError
        if not (piece := os.read(process.stdout.fileno(), 1 << 20)):
            raise BrokenPipeError
        pieces.append(piece)
    return b"".join(pieces)


def main() -> None:
    """Scrub lines of JSON, each a list of texts, until the input ends."""
    die_with_parent(int(sys.argv[1]))
    out = sys.stdout.buffer
    out.write(_READY)
    out.flush()
    for line in sys.stdin.buffer:
        out.write(json.dumps([scrub(text) for text in json.loads(line)]).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    main()
