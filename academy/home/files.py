"""Small files that say whose a home is and where: read without following links, replaced in one step."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

DRAFT = ".staging-"
"""Begins the name of a file that a killed process left unfinished."""


def read_regular(path: Path, most: int) -> bytes:
    """The first bytes of a regular file that is not a link; empty where there is none."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(handle, "rb") as stream:
        return stream.read(most) if stat.S_ISREG(os.fstat(handle).st_mode) else b""


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 under another name, and give it its name when it is on the disk."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=DRAFT)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(handle)
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
