"""Implementations that other packages add by entry points."""

from __future__ import annotations

from pathlib import Path

import pytest

from academy.errors import InputError
from academy.system.plugins import load_plugin, plugin_names
from tests.plugins import install_plugin

OWN = {"json": "json:loads"}


def test_own_names_load_without_an_installed_package() -> None:
    assert load_plugin("academy.runtimes", "json", OWN)("[1]") == [1]


def test_an_installed_package_adds_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(
        tmp_path, monkeypatch, "academy.runtimes", "outside", "def make() -> str:\n    return 'outside'\n", "make"
    )
    assert plugin_names("academy.runtimes", OWN) == ["json", "outside"]
    assert load_plugin("academy.runtimes", "outside", OWN)() == "outside"


def test_an_own_name_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(tmp_path, monkeypatch, "academy.runtimes", "json", "make = None\n", "make")
    assert load_plugin("academy.runtimes", "json", OWN)("[1]") == [1]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"There is no runtime 'nope'\. Choose one of json"):
        load_plugin("academy.runtimes", "nope", OWN)


def test_two_packages_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(tmp_path, monkeypatch, "academy.suites", "twice", "make = 1\n", "make", package="first_package")
    install_plugin(tmp_path, monkeypatch, "academy.suites", "twice", "make = 2\n", "make", package="second_package")
    with pytest.raises(InputError, match="first_package and second_package both provide a suite 'twice'"):
        load_plugin("academy.suites", "twice", OWN)


def test_a_package_that_does_not_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(
        tmp_path, monkeypatch, "academy.sources", "broken", "import there_is_no_such_module\n", "make", package="broken"
    )
    with pytest.raises(InputError, match="source 'broken' cannot be loaded from"):
        load_plugin("academy.sources", "broken", OWN)
