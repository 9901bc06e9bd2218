"""A sandbox of Linux namespaces, made by bubblewrap for each program.

Inside there is one interpreter with its standard library, the C library, /dev/null and its like, two small empty
folders that can be written (/tmp and /home), and nothing else: no network, no /proc, no /sys, no shell, no other
process. As root, bubblewrap makes the namespaces as root and the program runs under a user number that no other run
has at the same time; otherwise under a user namespace that forbids further ones.

    start bwrap --block-fd --> the first process inside is told (--info-fd) and waits
    put it into a cgroup, hold it by a pidfd, let it go on
    read the channel and stderr, both bounded, until bwrap ends, the time is over or it is too much
    kill the first process inside: the kernel ends all the others before it lets go of it
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from academy.arena.sandbox.answer import SOURCE, Heard, request
from academy.arena.sandbox.inside import Inside, memory_file
from academy.arena.sandbox.memory import find_cgroups, memory_of
from academy.arena.sandbox.records import Call, Ended, Limits, Ran
from academy.arena.sandbox.seccomp import seccomp_filter
from academy.arena.sandbox.users import own_uid
from academy.errors import ExaminationError

START_SECONDS = 20.0
"""For the sandbox to stand; the program's own time begins after that."""
LOOK_SECONDS = 0.05
ENDED_FOR_TIME = 128 + signal.SIGXCPU
DEVICES = ("null", "zero", "full", "random", "urandom")


class BubblewrapSandbox:
    """A Sandbox. Raises ExaminationError where bubblewrap or an interpreter cannot be found."""

    name = "bubblewrap"

    def __init__(self, limits: Limits | None = None, python: str = "") -> None:
        self.limits = limits or Limits()
        self.bwrap = shutil.which("bwrap") or ""
        self.setpriv = os.path.realpath(shutil.which("setpriv") or "")
        if not self.bwrap:
            raise ExaminationError(
                "bubblewrap (bwrap) is not on the PATH.", "Install it: apt-get install bubblewrap, or dnf, or pacman."
            )
        self.python = python or find_python()
        self.own_uid = os.geteuid() == 0 and Path(self.setpriv).is_file()
        self.filter = seccomp_filter()
        self.cgroups = find_cgroups()
        self._frame = self._namespaces() + self._files()

    @property
    def limits_in_force(self) -> tuple[str, ...]:
        """What contains a program here, in words."""
        words = ["namespaces", "rlimits"]
        if self.filter:
            words.append("seccomp")
        words.append("cgroup" if self.cgroups else "memory watch")
        if self.own_uid:
            words.append("own uid")
        return tuple(words)

    def run(self, program: str, calls: Sequence[Call]) -> Ran:
        """Run a program and call its functions. Raises ExaminationError where the sandbox itself fails."""
        nonce = secrets.token_hex(16)
        heard = Heard(nonce, len(calls), self.limits)
        with ExitStack() as held:
            stdin = held.enter_context(memory_file(request(nonce, program, calls, self.limits)))
            uid = held.enter_context(own_uid()) if self.own_uid else 0
            cgroup = None
            if self.cgroups:
                cgroup = held.enter_context(self.cgroups.one(self.limits.memory_bytes, self.limits.processes))
            running = held.enter_context(
                Inside([self.bwrap, *self._frame], self._payload(uid), stdin, self.filter, cgroup)
            )
            ended = self._follow(running, heard, watched=not cgroup)
            code = running.end()
            running.rest(heard)
            if not heard.ready:
                raise _did_not_start(heard.said(), code)
            if ended is None and cgroup and cgroup.killed_for_memory():
                ended = "memory"
            if ended is None and code == ENDED_FOR_TIME:
                ended = "time"
            return heard.ran(ended)

    def _follow(self, running: Inside, heard: Heard, watched: bool) -> Ended | None:
        """Read until it ends by itself (None) or has to be ended."""
        until, begun = time.monotonic() + START_SECONDS, False
        while (left := until - time.monotonic()) > 0:
            ended = running.wait(heard, min(left, LOOK_SECONDS) if watched else left)
            if heard.too_much:
                return "output"
            if ended:
                return None
            if heard.ready and not begun:
                until, begun = time.monotonic() + self.limits.seconds, True
            if watched and memory_of(running.first) > self.limits.memory_bytes:
                return "memory"
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
        for folder in ("/tmp", "/home"):  # noqa: S108 - the sandbox's own
            frame += ["--perms", "1777", "--size", str(self.limits.file_bytes), "--tmpfs", folder]
        return [*frame, "--chdir", "/home", "--remount-ro", "/"]

    def _payload(self, uid: int) -> list[str]:
        """Isolated from its folder, no site-packages, nothing compiled is kept, UTF-8."""
        python = [f"/python/bin/{Path(self.python).name}", "-I", "-S", "-B", "-X", "utf8", "-c", SOURCE]
        if not self.own_uid:
            return python
        user = ["--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        return ["/usr/bin/setpriv", *user, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", *python]


def find_python() -> str:
    """The interpreter that goes in: the one that runs this, without its virtual environment, or the system's."""
    mine = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    for path in (mine, os.path.realpath("/usr/bin/python3")):
        library = Path(path).parent.parent / "lib"
        if os.access(path, os.X_OK) and os.access(library, os.X_OK):
            return path
    raise ExaminationError(f"No Python interpreter can be read by this user ({mine} cannot).", "Install python3.")


def _folders(*paths: str) -> list[str]:
    """Made on purpose: those that bubblewrap makes by itself above a bind are closed to others."""
    return [word for path in paths for word in ("--perms", "0755", "--dir", path)]


def _did_not_start(said: str, code: int) -> ExaminationError:
    told = " ".join(said.split())[:300] or f"code {code}"
    return ExaminationError(
        f"The sandbox did not start: {told}.",
        "Inside a container it needs the right to make namespaces: --security-opt seccomp=unconfined, or --privileged.",
    )
