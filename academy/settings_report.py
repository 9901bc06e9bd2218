"""Says which files and variables the settings were read from, and which file was not read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from academy.border.masking import MASK, is_secret
from academy.errors import AcademyError, InputError
from academy.home.identity import mention_once
from academy.records import Record
from academy.settings import Settings, setting_names
from academy.settings_file import FILE_VARIABLE, OWN_FILE, PREFIX, named_file, names_in_file

UNREAD = ".env"
_OTHERS = ("PREFECT_API_", "PREFECT_CLIENT_", "PREFECT_SERVER_", "MLFLOW_TRACKING_", "MLFLOW_ARTIFACTS_")


class SettingsReport(Record):
    """Where the settings came from. `variables` are NAME=value of the environment; secrets and addresses are masked."""

    files: tuple[str, ...]
    variables: tuple[str, ...]
    unread: str = ""


def describe_settings(settings: Settings) -> SettingsReport:
    """Where these settings were read from."""
    files = [file for file in (named_file(), settings.home / OWN_FILE) if file is not None and file.is_file()]
    names = [name for name in sorted(os.environ) if name in setting_names() or name.startswith(_OTHERS)]
    unread = unread_file()
    return SettingsReport(
        files=tuple(str(file) for file in files),
        variables=tuple(f"{name}={_shown(name, os.environ[name])}" for name in names),
        unread=str(unread or ""),
    )


def _shown(name: str, text: str) -> str:
    return MASK if is_secret(name, text) or "HEADERS" in name or "://" in text or "@" in text else text


def unread_file() -> Path | None:
    """A .env of the current folder that holds settings of the Academy and is not read; None without one."""
    file = Path(UNREAD).absolute()
    try:
        if not file.is_file() or ((named := named_file()) and named.resolve() == file.resolve()):
            return None
        names = names_in_file(file, PREFIX)
    except InputError:
        return None  # it is not named, so its mistakes do not matter
    except OSError:
        return None
    return file if names & setting_names() else None


def sentence_once() -> str:
    """One sentence about an unread file that was not mentioned to this account; empty otherwise."""
    try:
        file = unread_file()
        if file is None or not mention_once(file, hashlib.sha256(file.read_bytes()).hexdigest()):
            return ""
    except (AcademyError, OSError):
        return ""  # the command itself reports what is wrong with the account's notes
    return f"{file} is not read. If you trust it, set {FILE_VARIABLE}={file}."
