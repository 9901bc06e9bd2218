"""The remedy for a missing optional package names packages that a registry has, wherever the Academy runs."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from academy.system import installation
from academy.system.installation import ROOT, install_remedy

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_remedy_names_the_packages_and_never_the_academy_itself(extra: str) -> None:
    remedy = install_remedy(extra)
    assert "the-academy[" not in remedy
    assert f"{sys.executable} -m pip install" in remedy
    for requirement in EXTRAS[extra]:
        name = requirement.partition(">")[0].partition("=")[0]
        assert name in remedy


def test_clone_keeps_the_pinned_versions() -> None:
    assert f"-c {ROOT / 'constraints.txt'}" in install_remedy("llamacpp")


def test_installed_wheel_has_no_constraints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installation, "ROOT", tmp_path)
    assert " -c " not in install_remedy("llamacpp")
    assert "xllamacpp" in install_remedy("llamacpp")


def test_mounted_code_has_no_metadata_and_still_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installation, "requires", missing)
    assert install_remedy("four-bit") == "Install what the extra `four-bit` in the Academy's pyproject.toml names."
