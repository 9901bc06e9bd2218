"""Where a home was last used. A copy of a home has the addresses, the secret and the paths of the first one.

With them a command in the copy would work in the first home: ask its gateway, report to its Prefect server, write
artifacts into its folders. So what belongs to a place is forgotten when the home is found elsewhere.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from academy.errors import HomeError, InputError
from academy.home.files import read_regular, replace_file

FILE = "place.json"
_OF_THE_PLACE = ("prefect/server.url", "serving/*.json", "access/secret", "access/prefect", ".ready")
"""Addresses of servers that run, the secrets that they expect, and the note that databases are prepared."""
_LARGEST = 1 << 16


def settle(home: Path) -> None:
    """Forget what belongs to the place where the home was before. Does nothing where it is still there.

    Raises HomeError where it is a copy whose links name folders of the first home.
    """
    if is_settled(home):
        return
    place, here = home.resolve(), _here(home)
    try:
        with _locked(place):
            note = _read(place / FILE)
            # a copy may lack the note, and a new home has nothing to forget
            if (note.get("device"), note.get("inode")) != (here["device"], here["inode"]):
                _refuse_shared_folders(home, note, here)
                for path in (path for pattern in _OF_THE_PLACE for path in place.glob(pattern)):
                    path.unlink(missing_ok=True)
            # a folder that was only renamed, or is mounted elsewhere, keeps them
            if note != here:
                replace_file(place / FILE, json.dumps(here).encode())
    except OSError as problem:
        raise HomeError(
            f"The home folder {home} cannot be written ({problem.strerror}).",
            "Set ACADEMY_HOME to a folder that you can write.",
        ) from problem


def is_settled(home: Path) -> bool:
    """Whether the home was used at this place before."""
    return _read(home.resolve() / FILE) == _here(home)


def _here(home: Path) -> dict[str, Any]:
    place = home.resolve()
    state = place.stat()
    links: dict[str, list[int]] = {}
    for entry in os.scandir(place):
        if entry.is_symlink() and entry.is_dir():
            target = entry.stat()
            links[entry.name] = [target.st_dev, target.st_ino]
    return {"path": str(place), "device": state.st_dev, "inode": state.st_ino, "links": links}


def _refuse_shared_folders(home: Path, note: dict[str, Any], here: dict[str, Any]) -> None:
    first, noted = Path(str(note.get("path", ""))), note.get("links")
    if not isinstance(noted, dict) or not (first / FILE).is_file():  # the first home is no more
        return
    if shared := sorted(name for name, target in here["links"].items() if noted.get(name) == target):
        raise HomeError(
            f"The home {home} is a copy of {first}, and {', '.join(shared)} in it still link to folders of that home.",
            "Replace each link by a folder of its own, for example a copy made with `cp -rL`.",
        )


def refuse_databases_of_others(home: Path, urls: dict[str, str]) -> None:
    """Raise InputError for a setting that names an SQLite file in another home, as a copied file of settings does."""
    place = home.resolve()
    for name, url in urls.items():
        kind, separator, path = url.partition(":///")
        if not separator or not kind.startswith("sqlite"):
            continue
        file = Path(unquote(path.partition("?")[0])).resolve()
        other = next((folder for folder in file.parents if (folder / FILE).is_file()), place)
        if other != place:
            raise InputError(
                f"{name} names a database in another home, {other}.",
                "Remove the setting to use the database of this home, or set ACADEMY_HOME to that home.",
            )


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read(file: Path) -> dict[str, Any]:
    try:
        note = json.loads(read_regular(file, _LARGEST))
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}
