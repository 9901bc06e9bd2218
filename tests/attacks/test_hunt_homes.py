"""Attacks by a second reader on homes: copies that still work in the first home."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from academy.access.secret import has_private, home_secret, write_private
from academy.errors import HomeError
from academy.operations.prefect_server import AUTH_FILE
from academy.settings import load_settings
from academy.store.files import write_file


@pytest.mark.parametrize("without", [(), ("place.json",), ("place.json", "home.id")])
def test_copy_of_a_part_of_a_home_has_neither_its_secret_nor_its_servers(
    tmp_path: Path, without: tuple[str, ...]
) -> None:
    first = load_settings(tmp_path / "first")
    secret = home_secret(first)
    write_private(first, AUTH_FILE, "academy:" + "x" * 43)
    write_file(first.folder("prefect") / "server.url", b"http://127.0.0.1:1/api")
    write_file(first.folder("serving") / "main.json", b"{}")
    shutil.copytree(first.home, tmp_path / "copy", ignore=shutil.ignore_patterns(*without))
    copy = load_settings(tmp_path / "copy", adopt=True)
    assert not has_private(copy, AUTH_FILE)
    assert not (copy.home / "prefect" / "server.url").exists()
    assert not (copy.home / "serving" / "main.json").exists()
    assert home_secret(copy) != secret
    assert home_secret(load_settings(tmp_path / "first")) == secret
    assert has_private(first, AUTH_FILE)


def test_copy_whose_links_name_folders_of_the_first_home_is_refused(tmp_path: Path) -> None:
    first = load_settings(tmp_path / "first").home
    (tmp_path / "disk").mkdir(mode=0o700)
    (first / "adapters").symlink_to(tmp_path / "disk")
    load_settings(first)
    shutil.copytree(first, tmp_path / "copy", symlinks=True)
    with pytest.raises(HomeError, match="adapters in it still link to folders of that home"):
        load_settings(tmp_path / "copy", adopt=True)
    (tmp_path / "copy" / "adapters").unlink()
    shutil.copytree(tmp_path / "disk", tmp_path / "second disk")
    (tmp_path / "copy" / "adapters").symlink_to(tmp_path / "second disk")
    load_settings(tmp_path / "copy", adopt=True)
    load_settings(first)
    first.rename(tmp_path / "renamed")
    load_settings(tmp_path / "renamed", adopt=True)
    shutil.copytree(tmp_path / "renamed", tmp_path / "moved", symlinks=True)
    shutil.rmtree(tmp_path / "renamed")
    load_settings(tmp_path / "moved", adopt=True)  # no other home uses the linked folder
