"""The random secret of a home: who can read its file may use the servers of the home from any account or address."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from academy.errors import HomeError
from academy.settings import Settings
from academy.store.files import STAGING, explain_disk_errors, write_file

FOLDER, FILE = "access", "secret"
SHORTEST = 32


def home_secret(settings: Settings) -> str:
    """The home's secret; it is made at first use. Raises HomeError where others could read it or it is damaged."""
    path = secret_file(settings)
    if not path.exists():
        _make(path)
    return _read(path)


def write_private(settings: Settings, name: str, text: str) -> Path:
    """Write a file beside the secret, which only the home's owner can read. Replaces an earlier one."""
    return write_file(settings.folder(FOLDER) / name, text.encode())


def read_private(settings: Settings, name: str) -> str:
    """A file beside the secret. Raises HomeError where it is missing, where others could read it or it is damaged."""
    return _read(settings.folder(FOLDER) / name)


def has_private(settings: Settings, name: str) -> bool:
    """Whether there is such a file beside the secret."""
    return os.path.lexists(settings.folder(FOLDER) / name)


def secret_file(settings: Settings) -> Path:
    """Where the home's secret is."""
    return settings.folder(FOLDER) / FILE


def owner_of(settings: Settings) -> int:
    """The uid of the account that owns the home."""
    return settings.folder(".").stat().st_uid


def _make(path: Path) -> None:
    """Write a new secret, unless another process is first."""
    with explain_disk_errors(path.parent):
        path.parent.chmod(0o700)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=STAGING)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_urlsafe(SHORTEST).encode())
                file.flush()
                os.fsync(handle)
            with suppress(FileExistsError):
                os.link(draft, path)
        finally:
            Path(draft).unlink()


def _read(path: Path) -> str:
    remedy = f"Delete {path} and start the servers again: they make a new one."
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as problem:
        raise HomeError(f"The home's secret cannot be read ({problem.strerror}).", remedy) from problem
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(handle).st_mode
        text = file.read(1024).decode("ascii", errors="replace").strip()
    if not stat.S_ISREG(mode) or stat.S_IMODE(mode) & 0o077:
        raise HomeError("Other accounts can read the home's secret.", remedy)
    if len(text) < SHORTEST or not text.isascii():
        raise HomeError("The home's secret is damaged.", remedy)
    return text
