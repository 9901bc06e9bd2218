"""Runs git with a clean environment. Both pipes of a child are always read, and a silent child is ended."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from academy.border.current_folder import find_program, public_environment
from academy.errors import InputError

SILENCE_SECONDS = 20.0
"""A child that writes nothing for so long is ended: it may wait for a named pipe, or compare without an end."""
CHUNK_BYTES = 1 << 16
KEPT_BYTES = 4096
"""The end of a child's messages that is kept; the rest is read and forgotten."""
MOST_OUTPUT = 1 << 20
"""Bytes of an answer that fits on one screen in any honest repository."""
_OF_THE_USER = ("GIT_CONFIG", "GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM")
"""Variables that say which repositories the user trusts, and where git looks for one."""
NEUTRAL = {
    "LC_ALL": "C",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_ALLOC_LIMIT": "256m",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}
"""Set for every git: English messages, no network, no question, no lock, no object of more than 256 MiB in memory."""
_HARMLESS = (
    "--no-pager", "-c", "protocol.allow=never", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}",
)  # fmt: skip


class SilentError(Exception):
    """A child wrote nothing for SILENCE_SECONDS."""


class Child:
    """A running git. A context manager: after its end, the child has ended and its pipes are closed."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], stdin: IO[bytes] | int) -> None:
        self._process = subprocess.Popen(
            command, env=dict(variables), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._process.stdout is not None  # noqa: S101  for mypy
        assert self._process.stderr is not None  # noqa: S101
        self._out, self._err = self._process.stdout, self._process.stderr
        self._poll = select.poll()
        for stream in (self._out, self._err):
            self._poll.register(stream, select.POLLIN)
        self._open = {self._out.fileno(), self._err.fileno()}
        self.messages = b""
        """The end of what the child wrote to stderr."""

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._out, self._err):
            if stream is not None:
                stream.close()
        self._process.wait()

    def write(self, content: bytes) -> None:
        """Write a short text to the child, which waits for it. A child that has ended is noticed when it is read."""
        stream = self._process.stdin
        if stream is not None:
            try:
                os.write(stream.fileno(), content)
            except BrokenPipeError:
                return

    def read(self) -> bytes:
        """The next bytes of the output; empty at its end. Raises SilentError."""
        limit = time.monotonic() + SILENCE_SECONDS
        while self._out.fileno() in self._open:
            if chunk := self._next(limit):
                return chunk
        return b""

    def succeeded(self) -> bool:
        """Whether the child ended without an error, at the end of its output. Raises SilentError."""
        limit = time.monotonic() + SILENCE_SECONDS
        while self._open:
            self._next(limit)
        try:
            return self._process.wait(max(0.1, limit - time.monotonic())) == 0
        except subprocess.TimeoutExpired as problem:
            raise SilentError from problem

    def recent_messages(self) -> bytes:
        """The end of all messages up to now."""
        handle = self._err.fileno()
        while handle in self._open and any(ready == handle for ready, _ in self._poll.poll(0)):
            self._read_message()
        return self.messages

    def _read_message(self) -> None:
        chunk = os.read(self._err.fileno(), CHUNK_BYTES)
        self.messages = (self.messages + chunk)[-KEPT_BYTES:]
        if not chunk:
            self._poll.unregister(self._err.fileno())
            self._open.remove(self._err.fileno())

    def _next(self, limit: float) -> bytes:
        """Wait for either pipe. Returns output, or nothing where only a message was read or a pipe has ended."""
        output = b""
        ready = self._poll.poll(1000 * max(0.0, limit - time.monotonic()))
        if not ready:
            raise SilentError
        for handle, _ in ready:
            if handle == self._err.fileno():
                self._read_message()
                continue
            output = os.read(handle, CHUNK_BYTES)
            if not output:
                self._poll.unregister(handle)
                self._open.remove(handle)
        return output


def git_program() -> str:
    """The path of git. Raises InputError without one.

    Relative entries of PATH are ignored: the current folder may be the repository of someone else.
    """
    program = find_program("git")
    if not program:
        raise InputError("git is not installed, so no history can be read.", "Install git, or omit --repo.")
    return program


def environment_outside() -> dict[str, str]:
    """The environment of a git that looks at a repository: without variables that select another or run a command."""
    kept = {name: text for name, text in public_environment().items() if not name.startswith("GIT_")}
    kept |= {name: text for name, text in os.environ.items() if name.startswith(_OF_THE_USER)}
    return kept | NEUTRAL


def ask(folder: str, *arguments: str) -> tuple[bool, bytes, str]:
    """Run a short git command in a folder of someone else. Returns whether it succeeded, its output and its messages.

    Only commands that run nothing of the configuration are asked for. Git checks who owns the repository.
    """
    command = [git_program(), *_HARMLESS, "-C", folder, *arguments]
    output = b""
    try:
        with Child(command, environment_outside(), subprocess.DEVNULL) as child:
            while (chunk := child.read()) and len(output) < MOST_OUTPUT:
                output += chunk
            succeeded = not chunk and child.succeeded()
            return succeeded, output, child.messages.decode(errors="replace")
    except SilentError:
        return False, output, f"fatal: git gave no answer within {SILENCE_SECONDS:.0f} seconds"


@contextmanager
def listing(names: Iterable[str]) -> Iterator[IO[bytes]]:
    """A file with one name a line, to be read as standard input: a pipe would block on a long list."""
    with tempfile.TemporaryFile() as stream:
        stream.write("".join(f"{name}\n" for name in names).encode())
        stream.flush()
        os.lseek(stream.fileno(), 0, os.SEEK_SET)
        yield stream


def reason_of(messages: str) -> str:
    """The sentence of git that explains why it ended, without its prefix."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()] or ["git failed"]
    fatal = next((n for n, line in enumerate(lines) if line.startswith("fatal: ")), len(lines) - 1)
    names = ", ".join(lines[fatal + 1 :]) if lines[fatal].endswith(":") else ""
    return f"{lines[fatal]} {names}".strip().removeprefix("fatal: ").removeprefix("error: ").rstrip(".")
