"""Limits on all processes of a run together: a cgroup of its own, or repeated checks of their memory.

cgroup v1 has a tree for each controller, v2 a single one where a folder's children have the controllers that
`cgroup.subtree_control` names. Creating a cgroup shows which of them are writable.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PREFIX = "academy-sandbox-"
EXTRA_PROCESSES = 4
"""Of bubblewrap itself."""
PATIENCE = 2.0
_numbers = itertools.count()


class Cgroup:
    """The folders of one run."""

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders

    def enter(self, process: int) -> None:
        """Add a process; its children are added with it."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(process), encoding="ascii")

    def killed_for_memory(self) -> bool:
        """Whether the kernel killed one of its processes for its memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with suppress(OSError):
                    for line in (folder / name).read_text(encoding="ascii").splitlines():
                        word, _, count = line.partition(" ")
                        if word == "oom_kill" and int(count) > 0:
                            return True
        return False


class Cgroups:
    """Parent folders for the cgroups of runs: one with both controllers (v2), or one for each controller (v1)."""

    def __init__(self, parents: list[Path]) -> None:
        self.parents = parents

    @contextmanager
    def create(self, memory_bytes: int, processes: int) -> Iterator[Cgroup]:
        """A cgroup that is removed at the end, when its processes must have ended."""
        name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        cgroup = Cgroup([])
        try:
            for parent in self.parents:
                folder = parent / name
                folder.mkdir()
                cgroup.folders.append(folder)
            _limit(cgroup.folders, memory_bytes, processes + EXTRA_PROCESSES)
            yield cgroup
        finally:
            for folder in cgroup.folders:
                _remove(folder)


def find_cgroups(root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> Cgroups | None:
    """Where cgroups can be created, tested by creating one; None where that fails."""
    paths = _paths_of(own)
    choices: list[list[Path]] = []
    if (root / "cgroup.controllers").is_file():  # v2
        place = root / paths.get("", "").lstrip("/")
        while place.is_relative_to(root):
            choices.append([place])
            place = place.parent
    elif (root / "memory").is_dir() and (root / "pids").is_dir():  # v1
        choices.append([root / kind / paths.get(kind, "").lstrip("/") for kind in ("memory", "pids")])
        choices.append([root / kind for kind in ("memory", "pids")])
    for parents in choices:
        cgroups = Cgroups(parents)
        with suppress(OSError):
            for parent in parents:
                _sweep(parent)
            if len(parents) == 1:
                _hand_down(parents[0])
            with cgroups.create(2**26, 8) as trial:
                if all((folder / "cgroup.procs").exists() for folder in trial.folders):
                    return cgroups
    return None


def memory_of(process: int, limit: int = 4096) -> int:
    """The current memory of a process and its descendants in bytes; shared memory counts for each of them."""
    total, stack = 0, [process]
    while stack and limit:
        limit -= 1
        folder = Path(f"/proc/{stack.pop()}")
        with suppress(OSError, ValueError):
            for line in (folder / "status").read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += 1024 * int(line.split()[1])
            for task in (folder / "task").iterdir():
                with suppress(OSError, ValueError):
                    stack += map(int, (task / "children").read_text(encoding="ascii").split())
    return total


def _paths_of(own: Path) -> dict[str, str]:
    paths = {}
    with suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _hand_down(parent: Path) -> None:
    """Enable both controllers for the children of a v2 folder. Raises OSError without permission."""
    control = parent / "cgroup.subtree_control"
    if not {"memory", "pids"} <= set(control.read_text(encoding="ascii").split()):
        control.write_text("+memory +pids", encoding="ascii")


def _limit(folders: list[Path], memory_bytes: int, processes: int) -> None:
    for folder in folders:
        for name, value, is_required in (
            ("memory.max", memory_bytes, True),
            ("memory.swap.max", 0, False),
            ("memory.oom.group", 1, False),
            ("memory.limit_in_bytes", memory_bytes, True),
            ("memory.memsw.limit_in_bytes", memory_bytes, False),
            ("pids.max", processes, True),
        ):
            if (folder / name).exists():
                try:
                    (folder / name).write_text(str(value), encoding="ascii")
                except OSError:
                    if is_required:
                        raise


def _remove(folder: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # the last process has not ended completely
            if time.monotonic() > until:
                return
            time.sleep(0.002)
        else:
            return


def _sweep(parent: Path) -> None:
    """Remove cgroups without processes whose creator has ended."""
    for folder in parent.glob(f"{PREFIX}*"):
        creator = folder.name.removeprefix(PREFIX).partition("-")[0]
        if not Path(f"/proc/{creator}").exists():
            with suppress(OSError):
                folder.rmdir()
