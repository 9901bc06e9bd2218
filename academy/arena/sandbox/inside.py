"""A running bubblewrap, with control over every process that it started."""

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

from academy.arena.sandbox.answer import RunOutput
from academy.arena.sandbox.memory import Cgroup
from academy.errors import ExaminationError

CHUNK = 2**16
PATIENCE_SECONDS = 20.0
"""For bubblewrap to create its first process, and for the kernel to end the last one."""


class Inside:
    """The processes inside. A context manager: after its end, all of them have ended."""

    def __init__(
        self, bwrap: list[str], payload: list[str], stdin: int, seccomp: bytes | None, cgroup: Cgroup | None
    ) -> None:
        self.first = 0
        """The PID outside of process 1 inside: when it ends, the kernel ends all others."""
        self._pidfd = -1
        self._stack = ExitStack()
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
        with self._stack:
            self.end()

    def wait(self, output: RunOutput, seconds: float) -> bool:
        """Read output for up to `seconds`. Returns whether bubblewrap has ended."""
        ready = _readable([*self._open, self._ending], seconds)
        for handle in ready:
            if handle != self._ending:
                self._read(handle, output)
        return self._ending in ready

    def rest(self, output: RunOutput) -> None:
        """Read the rest of the pipes, after all writers have ended."""
        while self._open and not output.too_much:
            for handle in list(self._open):
                self._read(handle, output, to_the_end=True)

    def end(self) -> int:
        """End every process. Returns bubblewrap's exit code; raises ExaminationError if a process survives."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            if not _readable([self._pidfd], PATIENCE_SECONDS):
                raise ExaminationError(
                    "A program in the sandbox could not be killed.", "Check the kernel log of the machine."
                )
        if self._process is None:
            return 0
        if self._process.poll() is None and self._pidfd < 0:
            self._process.kill()
        try:
            code = self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if self.first:  # as process 1 of a container, this process must reap the orphan
            with suppress(ChildProcessError):
                os.waitpid(self.first, os.WNOHANG)
        return code

    def _start(self, bwrap: list[str], payload: list[str], stdin: int, seccomp: bytes | None) -> None:
        with ExitStack() as child_ends:
            channel, stderr, info = (self._pipe(child_ends) for _ in range(3))
            block, self._go = os.pipe()
            child_ends.callback(os.close, block)
            handles = [info[1], block]
            extra = ["--info-fd", str(info[1]), "--block-fd", str(block)]
            try:
                if seccomp:
                    handles.append(child_ends.enter_context(memory_file(seccomp)))
                    extra += ["--seccomp", str(handles[-1])]
                self._process = subprocess.Popen(
                    [*bwrap, *extra, "--", *payload],
                    stdin=stdin, stdout=channel[1], stderr=stderr[1], pass_fds=handles, env={},
                )  # fmt: skip
            except BaseException:
                os.close(self._go)
                raise
        self._info = info[0]
        self._open = {channel[0]: "channel", stderr[0]: "stderr"}
        self._ending = os.pidfd_open(self._process.pid)
        self._stack.callback(os.close, self._ending)

    def _pipe(self, child_ends: ExitStack) -> tuple[int, int]:
        reader, writer = os.pipe()
        self._stack.callback(os.close, reader)
        child_ends.callback(os.close, writer)
        os.set_blocking(reader, False)
        return reader, writer

    def _let_go(self, cgroup: Cgroup | None) -> None:
        """Find the first process, open its pidfd, put it into the cgroup, and send the byte that it waits for."""
        try:
            self.first = self._first()
            if self.first:
                self._pidfd = os.pidfd_open(self.first)
                self._stack.callback(os.close, self._pidfd)
                if cgroup:
                    cgroup.enter(self.first)
                os.write(self._go, b"1")
        finally:
            os.close(self._go)

    def _first(self) -> int:
        """The PID of the first process; 0 where bubblewrap ended before it had one."""
        info = b""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (seconds := deadline - time.monotonic()) > 0:
            if _readable([self._info], seconds):
                chunk = os.read(self._info, CHUNK)
                info += chunk
                if info.rstrip().endswith(b"}"):
                    return int(json.loads(info)["child-pid"])
                if not chunk:
                    return 0
        return 0

    def _read(self, handle: int, output: RunOutput, to_the_end: bool = False) -> None:
        try:
            chunk = os.read(handle, CHUNK)
        except BlockingIOError:
            if not to_the_end:
                return
            chunk = b""
        if chunk:
            (output.channel if self._open[handle] == "channel" else output.stderr).extend(chunk)
        else:
            del self._open[handle]


def _readable(handles: list[int], seconds: float) -> list[int]:
    """Handles that are readable or at their end. It uses poll, because select fails for handles above 1,023."""
    poller = select.poll()
    for handle in handles:
        poller.register(handle, select.POLLIN)
    return [handle for handle, _ in poller.poll(1000 * seconds)]


@contextmanager
def memory_file(content: bytes) -> Iterator[int]:
    """A handle on immutable bytes, at their beginning; no file remains."""
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
