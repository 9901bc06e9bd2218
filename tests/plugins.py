"""A package beside the project that adds an implementation by an entry point, as a user's package would."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def install_plugin(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    group: str,
    name: str,
    code: str,
    attribute: str,
    package: str = "outside_package",
) -> Path:
    """Write a package with this code and its metadata, and put it on the path; returns the folder for PYTHONPATH.

    The files are what pip would leave in site-packages.
    """
    site = folder / package
    metadata = site / f"{package}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / f"{package}.py").write_text(code, encoding="utf-8")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {package}:{attribute}\n", encoding="utf-8")
    monkeypatch.delitem(sys.modules, package, raising=False)  # another test may have installed one of this name
    monkeypatch.syspath_prepend(str(site))
    return site
