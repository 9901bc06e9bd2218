"""Keeps what is in a home to its account: the modes of new files, and homes that others can reach.

`be_private` is called once where a program begins; its children inherit the umask. The other two functions are called
whenever the settings are read. A home that others can open is closed. A home that holds files of others, or that they
can replace, is refused, because what they put there would be believed.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from academy.border.masking import mask_outputs
from academy.errors import HomeError
from academy.home.place import is_settled

log = logging.getLogger("academy")
OTHERS = stat.S_IRWXG | stat.S_IRWXO
UMASK = 0o077
ROOT, NOBODY = 0, 65534
DEEP = ("access", "keys", "serving")
"""Folders with secrets: they are checked whole every time."""
RUNS = "runs"
"""Files of containers that root started belong to another account there."""
SHOWN = 3


def be_private() -> None:
    """Give new files of this process and its children to this account alone, and mask secrets in its output."""
    os.umask(UMASK)
    mask_outputs()


def close_home(home: Path) -> None:
    """Close a home that others can reach.

    Raises HomeError where another account owns something in it, or where it cannot be closed.
    """
    place = home.resolve()
    state = place.stat()
    was_open = bool(state.st_mode & OTHERS)
    if was_open:
        _close(place, state.st_mode)  # first: from now on no one else gets in
    planted: list[Path] = []
    count = 0
    for path, entry in _entries(place, deep=was_open or not is_settled(home)):
        if not _is_ours(path, entry, place):
            planted.append(path)
        elif entry.st_mode & OTHERS and not stat.S_ISLNK(entry.st_mode) and entry.st_uid == os.geteuid():
            _close(path, entry.st_mode)
            count += 1
    if planted:
        names = ", ".join(map(str, planted[:SHOWN]))
        raise HomeError(
            f"The home folder {place} holds {len(planted)} files or links of other accounts: {names}.",
            "Remove them after a look, or set ACADEMY_HOME to a new folder: others could have changed this one.",
        )
    if was_open:
        log.warning(
            "Other accounts could %s the home folder %s. It is closed now, with %d files and folders in it.",
            "change" if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else "open", place, count,
        )  # fmt: skip


def refuse_homes_of_others(home: Path) -> None:
    """Raise HomeError for a home that another account owns or can replace. It may not exist yet."""
    for path in _links_and_folders(home.absolute()):
        _refuse_replaceable(path)
    place = home.resolve()
    try:
        state = place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return  # the next step makes it, or says that it cannot
    except OSError as problem:
        raise HomeError(
            f"The home folder {home} cannot be read ({problem.strerror}).",
            "Set ACADEMY_HOME to a folder that you can write.",
        ) from problem
    if not stat.S_ISDIR(state.st_mode):
        return  # the next step says so
    if state.st_uid != os.geteuid():
        raise HomeError(
            f"The home folder {place} belongs to another account (uid {state.st_uid}).",
            "Work as that account, or set ACADEMY_HOME to a folder of your own.",
        )


def _links_and_folders(path: Path) -> Iterator[Path]:
    """The folders above a path, and every link on the way with the folders above its target."""
    pending, done = [path], set()
    while pending:
        current = pending.pop()
        for part in reversed([current, *current.parents]):
            if part in done:
                continue
            done.add(part)
            if part.is_symlink():
                yield part
                pending.append((part.parent / part.readlink()).absolute())
            elif part != path:
                yield part


def _refuse_replaceable(path: Path) -> None:
    """Refuse a link of another account, and a folder in which every account may rename what is in it."""
    try:
        state = path.lstat()
    except OSError:
        return  # it does not exist yet, or the next step says that it cannot be read
    if stat.S_ISLNK(state.st_mode) and state.st_uid not in (ROOT, os.geteuid()):
        raise HomeError(
            f"{path} on the way to the home folder is a link of another account (uid {state.st_uid}).",
            "Set ACADEMY_HOME to a folder of your own.",
        )
    if not stat.S_ISDIR(state.st_mode):
        return
    if state.st_uid not in (ROOT, os.geteuid()) and path.parent.stat().st_mode & stat.S_IWOTH:
        raise HomeError(
            f"{path} above the home folder belongs to another account (uid {state.st_uid}), in a folder for all.",
            "Set ACADEMY_HOME to a folder of your own.",
        )
    if state.st_mode & stat.S_IWOTH and not state.st_mode & stat.S_ISVTX:
        raise HomeError(
            f"Every account can replace the home folder, because {path} is writable for all.",
            f"Run chmod o-w {path}, or set ACADEMY_HOME to another folder.",
        )


def _entries(place: Path, *, deep: bool) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything in a home that was open or is new here, else its top and the folders with secrets.

    Links are not followed, except from the top of the home to a folder of this account, as on a larger disk.
    """
    pending = [(place, True)]
    while pending:
        folder, is_top = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue  # it has just been removed
        for entry in entries:
            path = Path(entry.path)
            try:
                state = path.lstat()
                yield path, state
                if is_top and entry.is_symlink() and path.is_dir():
                    path = path.resolve()
                    yield path, (state := path.stat())
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(state.st_mode) and (deep or (is_top and entry.name in DEEP)):
                pending.append((path, False))


def _is_ours(path: Path, state: os.stat_result, place: Path) -> bool:
    if state.st_uid in (ROOT, os.geteuid()):
        return True
    parts = path.relative_to(place).parts if path.is_relative_to(place) else ("",)
    return os.geteuid() == ROOT and state.st_uid == NOBODY and parts[0] == RUNS and not stat.S_ISLNK(state.st_mode)


def _close(path: Path, mode: int) -> None:
    """Take all rights of others, without following a link. Raises HomeError where that has no effect."""
    try:
        handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if stat.S_ISLNK(os.fstat(handle).st_mode):
                return  # it has just been replaced; links have no modes
            Path(f"/proc/self/fd/{handle}").chmod(stat.S_IMODE(mode) & ~OTHERS)
            is_open, reason = os.fstat(handle).st_mode & OTHERS, "its disk keeps no modes"
        finally:
            os.close(handle)
    except FileNotFoundError:
        return
    except OSError as problem:
        is_open, reason = OTHERS, problem.strerror or type(problem).__name__
    if is_open and reason == os.strerror(errno.EROFS):
        raise HomeError(f"{path} cannot be written ({reason}).", "Set ACADEMY_HOME to a folder that you can write.")
    if is_open:
        raise HomeError(
            f"Other accounts can open {path}, and it cannot be closed ({reason}).",
            "Set ACADEMY_HOME to a folder that only you can open.",
        )
