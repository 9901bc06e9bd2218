"""Which files hold settings, and reads them strictly, before the settings are read from them."""

from __future__ import annotations

import io
import os
from pathlib import Path

from dotenv.parser import parse_stream

from academy.errors import InputError

PREFIX = "ACADEMY_"
FILE_VARIABLE = "ACADEMY_SETTINGS_FILE"
"""The environment variable that names a file of settings."""
OWN_FILE = "settings.env"
"""A home's own file of settings."""


def named_file() -> Path | None:
    """The file that ACADEMY_SETTINGS_FILE names; None without one. Raises InputError for a file that is not there."""
    text = os.environ.get(FILE_VARIABLE, "")
    if not text:
        return None
    file = Path(text).expanduser()
    if not file.is_file():
        raise InputError(f"{FILE_VARIABLE} names {file}, which is not a file.", "Correct the name, or unset it.")
    return file


def names_in_file(path: Path, prefix: str) -> set[str]:
    """The names that the file sets. `prefix`: of names that must have a value.

    Raises InputError with the line of what cannot be read: it would be lost in silence.
    """
    try:
        if not path.is_file():
            return set()
        content = path.read_bytes()
    except OSError as problem:
        raise InputError(f"{path} cannot be read ({problem.strerror}).", "Make it readable, or move it.") from problem
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise InputError(f"Line {line} of {path} is not UTF-8.", "Save the file as UTF-8.") from problem
    if (at := text.find("\0")) >= 0:
        raise InputError(f"Line {text.count(chr(10), 0, at) + 1} of {path} holds a NUL.", "Save the file as UTF-8.")
    names: set[str] = set()
    for binding in parse_stream(io.StringIO(text)):
        is_ours = prefix in binding.original.string if binding.error else (binding.key or "").startswith(prefix)
        if is_ours and (binding.error or binding.value is None):  # lines of other programs are theirs
            blank = len(binding.original.string) - len(binding.original.string.lstrip("\r\n"))
            line = binding.original.line + binding.original.string[:blank].count("\n")
            raise InputError(f"Line {line} of {path} is not a setting.", "Write it as NAME=value.")
        if binding.key is not None:
            names.add(binding.key)
    return names
