"""A sandbox of Linux namespaces, created by bubblewrap for each program.

It contains one interpreter with its standard library, the C library, devices such as /dev/null, and two small empty
writable folders (/tmp and /home): no network, no /proc, no /sys, no shell, no other process. As root, bubblewrap
creates the namespaces as root and the program runs under a user id that no other run has at the same time; otherwise
it runs in a user namespace that forbids further ones.

    start bwrap --block-fd --> it reports the first process inside (--info-fd), which waits
    put the process into a cgroup, open a pidfd for it, let it continue
    read the channel and stderr, both bounded, until bwrap ends, a timeout or too much output
    kill the first process inside: the kernel ends all others before it
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from academy.arena.sandbox.answer import SOURCE, RunOutput, request
from academy.arena.sandbox.inside import Inside, memory_file
from academy.arena.sandbox.memory import find_cgroups, memory_of
from academy.arena.sandbox.records import Call, Ended, Limits, RunResult
from academy.arena.sandbox.seccomp import seccomp_filter
from academy.arena.sandbox.users import own_uid
from academy.border.current_folder import find_program
from academy.errors import ExaminationError

START_SECONDS = 20.0
"""For starting the sandbox; the program's own time begins after that."""
POLL_SECONDS = 0.05
CPU_TIME_EXCEEDED = 128 + signal.SIGXCPU
WRITABLE = ("/tmp", "/home")  # noqa: S108 - the sandbox's own
DEVICES = ("null", "zero", "full", "random", "urandom")


class BubblewrapSandbox:
    """A Sandbox. Raises ExaminationError where bubblewrap or an interpreter cannot be found."""

    name = "bubblewrap"

    def __init__(self, limits: Limits | None = None, python: str = "") -> None:
        self.limits = limits or Limits()
        self.bwrap = find_program("bwrap")
        self.setpriv = os.path.realpath(find_program("setpriv"))
        if not self.bwrap:
            raise ExaminationError(
                "bubblewrap (bwrap) is not on the PATH.", "Install it: apt-get install bubblewrap (or dnf, or pacman)."
            )
        self.python = python or find_python()
        self.own_uid = os.geteuid() == 0 and Path(self.setpriv).is_file()
        self.filter = seccomp_filter()
        self.cgroups = find_cgroups()
        self._frame = self._namespaces() + self._files()

    @property
    def active_limits(self) -> tuple[str, ...]:
        """The containment that is in force, in words."""
        words = ["namespaces", "rlimits"]
        if self.filter:
            words.append("seccomp")
        words.append("cgroup" if self.cgroups else "memory watch")
        if self.own_uid:
            words.append("own uid")
        return tuple(words)

    def run(self, program: str, calls: Sequence[Call]) -> RunResult:
        """Run a program and call its functions. Raises ExaminationError where the sandbox itself fails."""
        nonce = secrets.token_hex(16)
        output = RunOutput(nonce, len(calls), self.limits)
        with ExitStack() as stack:
            stdin = stack.enter_context(memory_file(request(nonce, program, calls, self.limits)))
            uid = stack.enter_context(own_uid()) if self.own_uid else 0
            cgroup = None
            if self.cgroups:
                cgroup = stack.enter_context(self.cgroups.create(self.limits.memory_bytes, self.limits.processes))
            running = stack.enter_context(
                Inside([self.bwrap, *self._frame], self._payload(uid), stdin, self.filter, cgroup)
            )
            ending = self._follow(running, output, watched=not cgroup)
            code = running.end()
            running.rest(output)
            if not output.ready:
                raise _did_not_start(output.excerpt(), code)
            if ending is None and cgroup and cgroup.killed_for_memory():
                ending = "memory"
            if ending is None and code == CPU_TIME_EXCEEDED:
                ending = "time"
            return output.result(ending)

    def _follow(self, running: Inside, output: RunOutput, watched: bool) -> Ended | None:
        """Read until the program ends by itself (None) or exceeds a limit."""
        deadline, is_started = time.monotonic() + START_SECONDS, False
        while (seconds := deadline - time.monotonic()) > 0:
            is_over = running.wait(output, min(seconds, POLL_SECONDS))
            if output.too_much:
                return "output"
            if is_over:
                return None
            if output.ready and not is_started:
                deadline, is_started = time.monotonic() + self.limits.seconds, True
            if watched and memory_of(running.first) > self.limits.memory_bytes:
                return "memory"
            if files_of(running.first) > self.limits.files:
                return "output"
        return "time"

    def _namespaces(self) -> list[str]:
        kinds = ["net", "pid", "ipc", "uts", "cgroup-try"]
        frame = [*(f"--unshare-{kind}" for kind in kinds), "--hostname", "sandbox", "--die-with-parent"]
        frame += ["--new-session", "--clearenv", "--setenv", "HOME", "/home", "--setenv", "MALLOC_ARENA_MAX", "1"]
        frame += ["--setenv", "LD_LIBRARY_PATH", "/python/lib", "--cap-drop", "ALL"]
        if self.own_uid:
            return frame + [word for cap in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{cap}")]
        return [*frame, "--unshare-user", "--disable-userns", "--uid", "60000", "--gid", "60000"]

    def _files(self) -> list[str]:
        frame = [*_folders("/usr"), "--ro-bind", "/usr/lib", "/usr/lib", "--ro-bind-try", "/usr/lib64", "/usr/lib64"]
        for name in ("/lib", "/lib64"):
            if Path(name).is_symlink():
                frame += ["--symlink", str(Path(name).readlink()), name]
            elif Path(name).is_dir():
                frame += ["--ro-bind", name, name]
        if self.own_uid:
            frame += [*_folders("/usr/bin"), "--ro-bind", self.setpriv, "/usr/bin/setpriv"]
        frame += _folders("/python", "/python/bin", "/etc", "/dev")
        python = Path(self.python)
        frame += ["--ro-bind", self.python, f"/python/bin/{python.name}"]
        library = python.parent.parent / "lib"
        frame += ["--symlink", "/usr/lib", "/python/lib"] if str(library) == "/usr/lib" else [
            "--ro-bind", str(library), "/python/lib"]  # fmt: skip
        for device in DEVICES:
            frame += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
        for folder in WRITABLE:
            frame += ["--perms", "1777", "--size", str(self.limits.file_bytes), "--tmpfs", folder]
        return [*frame, "--chdir", "/home", "--remount-ro", "/"]

    def _payload(self, uid: int) -> list[str]:
        """Python isolated from its folder, without site-packages and compiled files, in UTF-8."""
        python = [f"/python/bin/{Path(self.python).name}", "-I", "-S", "-B", "-X", "utf8", "-c", SOURCE]
        if not self.own_uid:
            return python
        user = ["--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        return ["/usr/bin/setpriv", *user, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", *python]


def find_python() -> str:
    """The interpreter inside: the one that runs this, without its virtual environment, or the system's."""
    current = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    for path in (current, os.path.realpath("/usr/bin/python3")):
        library = Path(path).parent.parent / "lib"
        if os.access(path, os.X_OK) and os.access(library, os.X_OK):
            return path
    raise ExaminationError(
        f"This user cannot read any Python interpreter ({current} is not readable).", "Install python3."
    )


def files_of(first: int) -> int:
    """The largest number of files in a writable folder inside. bubblewrap cannot limit them, so they are counted."""
    counts = [0]
    for folder in WRITABLE:
        with suppress(OSError):  # it has just ended
            status = os.statvfs(f"/proc/{first}/root{folder}")
            counts.append(status.f_files - status.f_ffree)
    return max(counts)


def _folders(*paths: str) -> list[str]:
    """Create folders explicitly: those that bubblewrap creates for a bind are not readable for others."""
    return [word for path in paths for word in ("--perms", "0755", "--dir", path)]


def _did_not_start(stderr: str, code: int) -> ExaminationError:
    reason = " ".join(stderr.split())[:300] or f"code {code}"
    return ExaminationError(
        f"The sandbox did not start: {reason}.",
        "In a container it needs permission to create namespaces: --security-opt seccomp=unconfined, or --privileged.",
    )
