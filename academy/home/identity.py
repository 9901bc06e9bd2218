"""Which folders are homes of this account: a home counts only if this account made it, or adopted it on purpose.

A home has a random id. The account's configuration folder notes the id of each home with its place. The default home
lies in the current folder, so without the note a stranger's repository could bring a home with its own database, keys
and settings. A copied or moved home is refused too, until a person adopts it with `academy init --adopt`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from academy.errors import HomeError
from academy.home.files import DRAFT, read_regular, replace_file

ID_FILE = "home.id"
NOTES_FILE = "homes.json"
ADOPT = "If you trust all that is in it, run `academy init --adopt`; or set ACADEMY_HOME to another folder."
_ID = re.compile(r"[0-9a-f]{32}")
_DRAFTS = (DRAFT, ".write-")
"""Files that a process leaves behind if it is killed while it makes a home."""
_LARGEST_NOTES = 1 << 24
_CONFIG_REMEDY = "Set XDG_CONFIG_HOME to a folder that only you can write."


def config_folder() -> Path:
    """The Academy's folder in the account's configuration: XDG_CONFIG_HOME, or ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not Path(base).is_absolute():  # the standard ignores a relative one, which would depend on the current folder
        try:
            base = str(Path.home() / ".config")
        except RuntimeError as problem:
            raise HomeError("This account has no home folder for its configuration.", _CONFIG_REMEDY) from problem
    return Path(base) / "academy"


def claim_home(home: Path) -> None:
    """Return where the folder is a home of this account. An empty or new folder becomes one.

    Raises HomeError for any other folder, and where the account's notes cannot be read or written.
    """
    place = _made(home)
    if _is_noted(place, _read_notes()):
        return
    with _changed_notes() as notes:
        if _is_noted(place, notes):  # another process was first
            return
        if not _is_empty(place):
            raise HomeError(f"{home} is not empty, and is not a home that this account made.", ADOPT)
        _note(notes, home, place, secrets.token_hex(16))


def adopt_home(home: Path) -> None:
    """Make an existing folder a home of this account: a person trusts all that is in it.

    A copy of a home that is still in its place gets an id of its own.
    """
    place = _made(home)
    with _changed_notes() as notes:
        number = home_id(place)
        others = (Path(path) for path, noted in notes["homes"].items() if noted == number and path != str(place))
        if not number or any(home_id(other) == number for other in others):
            number = secrets.token_hex(16)
        _note(notes, home, place, number)


def home_id(home: Path) -> str:
    """The id in a home; empty where it has none."""
    text = read_regular(home / ID_FILE, 64).decode("utf-8", errors="replace").strip()
    return text if _ID.fullmatch(text) else ""


def mention_once(file: Path, digest: str) -> bool:
    """Whether this content of a file was not mentioned to this account before; it is noted as mentioned."""
    if _read_notes()["mentioned"].get(str(file)) == digest:
        return False
    with _changed_notes() as notes:
        notes["mentioned"][str(file)] = digest
    return True


def _made(home: Path) -> Path:
    place = home.resolve()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)  # other users must not read the lessons
    except OSError as problem:
        raise _unwritable(home, problem) from problem
    return place


def _unwritable(home: Path, problem: OSError) -> HomeError:
    return HomeError(
        f"The home folder {home} cannot be written ({problem.strerror}).",
        "Set ACADEMY_HOME to a folder that you can write.",
    )


def _is_noted(place: Path, notes: dict[str, Any]) -> bool:
    noted = notes["homes"].get(str(place))
    return noted is not None and noted == home_id(place)


def _is_empty(place: Path) -> bool:
    return all(path.name == ID_FILE or path.name.startswith(_DRAFTS) for path in place.iterdir())


def _note(notes: dict[str, Any], home: Path, place: Path, number: str) -> None:
    """Write the id into the home, then the note. A kill in between leaves an empty home, which may be made again."""
    try:
        replace_file(place / ID_FILE, f"{number}\n".encode())
    except OSError as problem:
        raise _unwritable(home, problem) from problem
    notes["homes"][str(place)] = number


@contextmanager
def _changed_notes() -> Iterator[dict[str, Any]]:
    """The notes, to be changed by one process at a time; they are written at the end."""
    folder = config_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as problem:
        raise _unusable(folder, problem) from problem
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        notes = _read_notes()
        yield notes
        try:
            replace_file(folder / NOTES_FILE, f"{json.dumps(notes, indent=1)}\n".encode())
        except OSError as problem:
            raise _unusable(folder, problem) from problem
    finally:
        os.close(lock)


def _unusable(folder: Path, problem: OSError) -> HomeError:
    return HomeError(f"The account's notes in {folder} cannot be written ({problem.strerror}).", _CONFIG_REMEDY)


def _read_notes() -> dict[str, Any]:
    file = config_folder() / NOTES_FILE
    for path in (file.parent, file):
        try:
            state = path.stat()
        except FileNotFoundError:
            return {"homes": {}, "mentioned": {}}
        except OSError as problem:
            raise HomeError(f"{path} cannot be read ({problem.strerror}).", _CONFIG_REMEDY) from problem
        if state.st_uid != os.geteuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise HomeError(f"Another account owns {path} or can write it.", _CONFIG_REMEDY)
    try:
        notes = json.loads(read_regular(file, _LARGEST_NOTES))
        return {name: dict(notes[name]) for name in ("homes", "mentioned")}
    except (ValueError, KeyError, TypeError) as problem:
        remedy = f"Delete {file}, and run `academy init --adopt` in each home that you trust."
        raise HomeError(f"{file} is damaged.", remedy) from problem
