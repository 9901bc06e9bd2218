"""Exports a version into a folder that other tools can load."""

from __future__ import annotations

from pathlib import Path

from academy.lifecycle.gate import admit_adapter
from academy.loop.home import Home
from academy.records import Record
from academy.serving.export.export import ExportResult, export_request
from academy.serving.export.export import export as write


class ExportedVersion(Record):
    """A version, and what was written of it."""

    version: str
    export: ExportResult


def export(home: Home, name: str, form: str, precision: str | None, to: Path | None, *, by: str) -> ExportedVersion:
    """Write a version into `to`, or into the home's `exports` folder.

    Raises InputError for an unknown format, precision or version, AdapterError for a version that may not be served.
    """
    order = export_request(form, precision)
    version = home.versions.get(name)
    adapter = admit_adapter(home.gate, home.use_adapter(version.adapter, by=by), version).adapter
    folder = to or home.settings.folder("exports") / f"{home.base.family}-{version.name}-{form}"
    return ExportedVersion(version=version.version, export=write(adapter, home.base, folder.expanduser(), order))
