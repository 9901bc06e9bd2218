"""Keeps the folder that one stands in without influence: it may be the repository of a stranger.

Python puts it on the module path (`python -m`, `python -c`, an empty entry of PYTHONPATH), shells find programs in it
(an empty or relative entry of PATH), and Prefect and others read settings in it. So children start with `environment()`
in a folder of ours.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from academy.border.masking import is_secret

SAFE_PATH = "PYTHONSAFEPATH"
_PATHS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
"""Lists of places; an empty or relative entry names the current folder, or one below it."""
_PLACES = (
    "ACADEMY_HOME", "ACADEMY_SETTINGS_FILE", "MEMORY_ROOT", "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "TMPDIR",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip
"""A child starts in another folder, so it gets these as absolute paths."""
_PREFECT = (
    "PREFECT__", "PREFECT_API_", "PREFECT_CLIENT_", "PREFECT_SERVER_API_", "PREFECT_SERVER_DATABASE_",
    "PREFECT_LOGGING_LEVEL",
)  # fmt: skip
_MLFLOW = (
    "MLFLOW_TRACKING_", "MLFLOW_REGISTRY_URI", "MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_DEFAULT_ARTIFACT_ROOT",
    "MLFLOW_S3_", "MLFLOW_HTTP_REQUEST_", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_LOGGING_LEVEL",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
)  # fmt: skip
"""Variables of a person who uses a server of their own; all others could name files, programs and plugins."""


def close_module_path() -> None:
    """Take the current folder off the module path of a command, unless the Academy itself lies there.

    A command calls this before it imports a library.
    """
    own = Path(__file__).resolve().parents[2]
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep) if "PYTHONPATH" in os.environ else []
    folders = [Path(entry).absolute() for entry in entries if not Path(entry).is_absolute()]
    named = [Path(entry) for entry in entries if Path(entry).is_absolute()]
    if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # Python is still importing the packages of the command
        folders.append(Path.cwd())
    for folder in folders:
        if str(folder) in sys.path and folder not in named and folder.resolve() != own:
            sys.path.remove(str(folder))
    sys.path[:] = [entry for entry in sys.path if entry]


def close_environment() -> None:
    """Make the environment of this process the one that its children get, without settings of other programs' kinds."""
    kept = {name: text for name, text in os.environ.items() if is_kept(name, _PREFECT) and is_kept(name, _MLFLOW)}
    for name in os.environ.keys() - kept.keys():
        del os.environ[name]
    clean = environment()
    for name in (*_PATHS, SAFE_PATH):
        if name in clean:
            os.environ[name] = clean[name]
        else:
            os.environ.pop(name, None)


def drop_prefect_settings() -> None:
    """Remove the variables of Prefect that are not about a server of the user's own."""
    for name in [name for name in os.environ if not is_kept(name, _PREFECT)]:
        del os.environ[name]


def is_kept(name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a variable does not belong to the program of these prefixes, or is one of those that it may have."""
    program = prefixes[0].partition("_")[0]
    return not name.lstrip("_").startswith(f"{program}_") or name.startswith(prefixes)


def environment(**variables: str) -> dict[str, str]:
    """The environment of a child that starts in another folder: nothing in it names the current one."""
    clean = dict(os.environ) | {SAFE_PATH: "1"}
    for name in _PATHS:
        if name in clean:
            folders = [entry for entry in clean.pop(name).split(os.pathsep) if Path(entry).is_absolute()]
            if folders:  # an empty list would name the current folder again
                clean[name] = os.pathsep.join(folders)
    for name in _PLACES:
        if clean.get(name):
            clean[name] = str(Path(clean[name]).expanduser().absolute())
    return clean | variables


def public_environment(**variables: str) -> dict[str, str]:
    """The environment of a child that needs no secrets: `environment()` without them."""
    return {name: text for name, text in environment().items() if not is_secret(name, text)} | variables


def find_program(name: str) -> str:
    """The path of an installed program; empty without one. Relative entries of PATH are ignored."""
    return shutil.which(name, path=environment().get("PATH", os.defpath)) or ""
