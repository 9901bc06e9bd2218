"""Artifact locations of a home that was copied or moved: MLflow stores them as absolute paths."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
BUSY_SECONDS = 60.0


def keep_artifacts_here(database: Path, folder: Path) -> None:
    """Make MLflow's SQLite file name this folder for artifacts, in place of the same folder of another home.

    Otherwise a copied home would write its artifacts into the first one. Locations elsewhere stay.
    Raises sqlite3.Error.
    """
    with closing(sqlite3.connect(database, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        others = _other_folders(connection, folder)
        if not others:
            return
        connection.execute("BEGIN IMMEDIATE")
        for other in others:
            for table, column in COLUMNS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608  names of this file
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ? || '/'",
                    (folder.as_uri(), len(other) + 1, other, len(other) + 1, other),
                )
        connection.execute("COMMIT")


def _other_folders(connection: sqlite3.Connection, folder: Path) -> list[str]:
    """URIs of folders with the same name elsewhere that the database names."""
    others = set()
    for table, column in COLUMNS:
        rows = connection.execute(
            f"SELECT DISTINCT {column} FROM {table} WHERE {column} LIKE '%/{folder.name}%'"  # noqa: S608
        )
        others |= {root for (location,) in rows if (root := _root(str(location), folder.name))}
    return sorted(root for root in others if not _is_same(root, folder))


def _root(location: str, name: str) -> str:
    """The part of a location up to the folder for artifacts; empty where it has none on this machine."""
    if urlsplit(location).scheme not in ("", "file"):
        return ""
    before, separator, after = location.partition(f"/{name}")
    return before + separator if separator and (not after or after.startswith("/")) else ""


def _is_same(root: str, folder: Path) -> bool:
    place = Path(unquote(urlsplit(root).path))
    return place == folder or (place.is_dir() and place.samefile(folder))
