"""A bubblewrap that runs, and a firm hold on everything that it started."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from academy.arena.sandbox.answer import Heard
from academy.arena.sandbox.memory import Cgroup
from academy.errors import ExaminationError

CHUNK = 2**16
PATIENCE_SECONDS = 20.0
"""For bubblewrap to make its first process, and for the kernel to end the last one."""


class Inside:
    """What runs inside, from its first process on. A context: when it is left, all its processes have ended."""

    def __init__(
        self, bwrap: list[str], payload: list[str], stdin: int, seccomp: bytes | None, cgroup: Cgroup | None
    ) -> None:
        self.first = 0
        """The process that is number 1 inside: with it the kernel ends all the others."""
        self._hold = -1
        self._held = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._open: dict[int, str] = {}
        try:
            self._start(bwrap, payload, stdin, seccomp)
            self._let_go(cgroup)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        with self._held:
            self.end()

    def wait(self, heard: Heard, seconds: float) -> bool:
        """Read what comes for at most so many seconds. Gives whether bubblewrap has ended."""
        ready = _readable([*self._open, self._ending], seconds)
        for handle in ready:
            if handle != self._ending:
                self._read(handle, heard)
        return self._ending in ready

    def rest(self, heard: Heard) -> None:
        """Read what is still in the pipes, when all that could write has ended."""
        while self._open and not heard.too_much:
            for handle in list(self._open):
                self._read(handle, heard, to_the_end=True)

    def end(self) -> int:
        """End every process and wait for it. Gives bubblewrap's code; raises ExaminationError if one lives on."""
        if self._hold >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._hold, signal.SIGKILL)
            if not _readable([self._hold], PATIENCE_SECONDS):
                raise ExaminationError("A program in the sandbox could not be ended.", "Look at the machine's log.")
        if self._process is None:
            return 0
        if self._process.poll() is None and self._hold < 0:
            self._process.kill()
        try:
            code = self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if self.first:  # where this process is number 1 of a container, the orphan is ours to fetch
            with suppress(ChildProcessError):
                os.waitpid(self.first, os.WNOHANG)
        return code

    def _start(self, bwrap: list[str], payload: list[str], stdin: int, seccomp: bytes | None) -> None:
        with ExitStack() as theirs:
            channel, stderr, info = (self._pipe(theirs) for _ in range(3))
            block, self._go = os.pipe()
            theirs.callback(os.close, block)
            passed = [info[1], block]
            extra = ["--info-fd", str(info[1]), "--block-fd", str(block)]
            try:
                if seccomp:
                    passed.append(theirs.enter_context(memory_file(seccomp)))
                    extra += ["--seccomp", str(passed[-1])]
                self._process = subprocess.Popen(
                    [*bwrap, *extra, "--", *payload],
                    stdin=stdin, stdout=channel[1], stderr=stderr[1], pass_fds=passed, env={},
                )  # fmt: skip
            except BaseException:
                os.close(self._go)
                raise
        self._info = info[0]
        self._open = {channel[0]: "channel", stderr[0]: "stderr"}
        self._ending = os.pidfd_open(self._process.pid)
        self._held.callback(os.close, self._ending)

    def _pipe(self, theirs: ExitStack) -> tuple[int, int]:
        ours, other = os.pipe()
        self._held.callback(os.close, ours)
        theirs.callback(os.close, other)
        os.set_blocking(ours, False)
        return ours, other

    def _let_go(self, cgroup: Cgroup | None) -> None:
        """Learn the first process, hold it, bound it, and let it go on; it waits for the byte."""
        try:
            self.first = self._first()
            if self.first:
                self._hold = os.pidfd_open(self.first)
                self._held.callback(os.close, self._hold)
                if cgroup:
                    cgroup.enter(self.first)
                os.write(self._go, b"1")
        finally:
            os.close(self._go)

    def _first(self) -> int:
        """The number of the first process; 0 where bubblewrap ended before it had one."""
        told = b""
        until = time.monotonic() + PATIENCE_SECONDS
        while (left := until - time.monotonic()) > 0:
            if _readable([self._info], left):
                chunk = os.read(self._info, CHUNK)
                told += chunk
                if told.rstrip().endswith(b"}"):
                    return int(json.loads(told)["child-pid"])
                if not chunk:
                    return 0
        return 0

    def _read(self, handle: int, heard: Heard, to_the_end: bool = False) -> None:
        try:
            chunk = os.read(handle, CHUNK)
        except BlockingIOError:
            if not to_the_end:
                return
            chunk = b""
        if chunk:
            (heard.channel if self._open[handle] == "channel" else heard.stderr).extend(chunk)
        else:
            del self._open[handle]


def _readable(handles: list[int], seconds: float) -> list[int]:
    """Those that can be read or are at their end; poll, for select knows no handle above 1,023."""
    waiting = select.poll()
    for handle in handles:
        waiting.register(handle, select.POLLIN)
    return [handle for handle, _ in waiting.poll(1000 * seconds)]


@contextmanager
def memory_file(content: bytes) -> Iterator[int]:
    """A handle on bytes that nobody can change, at their beginning; no file is left."""
    handle = os.memfd_create("academy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(os.dup(handle), "wb") as stream:
            stream.write(content)
        os.lseek(handle, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, seals)
        yield handle
    finally:
        os.close(handle)
