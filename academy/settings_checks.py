"""Which variables are settings, and what is said of those that are refused."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Collection, Sequence
from copy import copy
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, PydanticBaseSettingsSource

from academy.border.masking import MASK, is_secret
from academy.errors import HomeError, InputError
from academy.records import expectation
from academy.settings_file import PREFIX


def own_names(source: PydanticBaseSettingsSource) -> PydanticBaseSettingsSource:
    """A source of settings without the names that do not begin with the prefix."""
    own = copy(source)
    if isinstance(own, EnvSettingsSource):
        own.env_vars = {name: text for name, text in own.env_vars.items() if name.upper().startswith(PREFIX)}
    return own


def refusal(
    problem: ValidationError, names: Collection[str], spellings: Sequence[Sequence[str]], files: Sequence[Path]
) -> InputError:
    """The error for the first invalid value, under the spelling that was used. Values of secrets are not shown."""
    first = problem.errors()[0]
    name = next((str(part) for part in first["loc"]), "a setting")
    name = name if name.isupper() else PREFIX + name.upper()
    name = next((each for group in spellings if name in group for each in group if each in names), name)
    value = MASK if is_secret(name, str(first.get("input"))) else repr(first.get("input"))
    where = "".join(f" or {file}" for file in files)
    return InputError(f"{name}={value} is not valid: {expectation(first)}.", f"Correct it in the environment{where}.")


def reject_unknown_names(names: Collection[str], valid: Collection[str]) -> None:
    """Raise InputError for a name that begins like a setting and is none."""
    for name in sorted(names):
        if name.startswith(PREFIX) and name not in valid and not name.startswith(PREFIX + "TEST_"):
            matches = difflib.get_close_matches(name, sorted(valid), 1)
            hint = f"Did you mean {matches[0]}?" if matches else "docs/reference/settings.md lists all settings."
            raise InputError(f"{name} is not a setting of the Academy.", hint)


def check_writable(folder: Path, home: Path) -> None:
    """Raise HomeError where nothing can be written into the folder of a home, which `home` names."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-", buffering=0) as probe:
            probe.write(b"x" * 4096)
            os.fsync(probe.fileno())
    except OSError as problem:
        raise HomeError(
            f"The home folder {home} cannot be written ({problem.strerror}).",
            "Free some space there, or set ACADEMY_HOME to another folder.",
        ) from problem


def with_keys(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of sources that may be trusted. Raises ValueError for those of people who have no key."""
    if strangers := sorted({"anonymous", "import"} & {*names}):
        raise ValueError(f"{strangers[0]} is not the name of a key: anyone without a key is not trusted")
    return names
