"""A home counts only if this account made it, or adopted it on purpose."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from academy.errors import HomeError
from academy.home.identity import ID_FILE, adopt_home, claim_home, config_folder, home_id


@pytest.fixture(autouse=True)
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration folder of an account."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "academy"


def filled(home: Path) -> Path:
    """A home of this account that is no longer empty."""
    claim_home(home)
    (home / "academy.db").write_text("")
    return home


def test_empty_folder_becomes_a_home_with_a_random_id(tmp_path: Path, account: Path) -> None:
    claim_home(tmp_path / "one")
    claim_home(tmp_path / "two")
    numbers = {home_id(tmp_path / "one"), home_id(tmp_path / "two")}
    assert len(numbers - {""}) == 2
    assert set(json.loads((account / "homes.json").read_text())["homes"].values()) == numbers


def test_notes_and_ids_are_readable_by_their_account_only(tmp_path: Path, account: Path) -> None:
    claim_home(tmp_path / "home")
    for file, mode in ((account, 0o700), (account / "homes.json", 0o600), (tmp_path / "home" / ID_FILE, 0o600)):
        assert file.stat().st_mode & 0o777 == mode


def test_home_of_this_account_counts_again(tmp_path: Path) -> None:
    number = home_id(filled(tmp_path / "home"))
    claim_home(tmp_path / "home")
    assert home_id(tmp_path / "home") == number


@pytest.mark.parametrize("text", ["", "0" * 32, "x" * 100])
def test_filled_folder_of_a_stranger_does_not_count(text: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "academy.db").write_text("theirs")
    if text:
        (home / ID_FILE).write_text(text)
    with pytest.raises(HomeError, match=r"is not a home that this account made\. .*`academy init --adopt`"):
        claim_home(home)
    adopt_home(home)
    claim_home(home)
    assert (home / "academy.db").read_text() == "theirs"


def test_id_of_a_home_that_was_replaced_does_not_count(tmp_path: Path) -> None:
    home = filled(tmp_path / "home")
    (home / ID_FILE).write_text("0" * 32)
    with pytest.raises(HomeError, match="not a home that this account made"):
        claim_home(home)


def test_link_as_an_id_does_not_count(tmp_path: Path) -> None:
    first, second = filled(tmp_path / "first"), filled(tmp_path / "second")
    (second / ID_FILE).unlink()
    (second / ID_FILE).symlink_to(first / ID_FILE)
    with pytest.raises(HomeError, match="not a home that this account made"):
        claim_home(second)


def test_copied_home_counts_when_it_is_adopted_and_has_its_own_id_then(tmp_path: Path) -> None:
    first = filled(tmp_path / "first")
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    with pytest.raises(HomeError, match="not a home that this account made"):
        claim_home(copy)
    adopt_home(copy)
    claim_home(copy)
    claim_home(first)
    assert home_id(copy) != home_id(first)


def test_moved_home_keeps_its_id_when_it_is_adopted(tmp_path: Path) -> None:
    first = filled(tmp_path / "first")
    number = home_id(first)
    moved = first.rename(tmp_path / "moved")
    with pytest.raises(HomeError, match="not a home that this account made"):
        claim_home(moved)
    adopt_home(moved)
    assert home_id(moved) == number


def test_processes_that_make_a_home_at_the_same_time_agree(tmp_path: Path) -> None:
    def work(_number: int) -> str:
        home = filled(tmp_path / "home")
        return home_id(home)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(16)))) == 1


def test_home_that_was_killed_while_it_was_made_is_made_again(tmp_path: Path, account: Path) -> None:
    home = tmp_path / "home"
    claim_home(home)
    (account / "homes.json").unlink()
    (home / ".staging-x").write_text("")
    claim_home(home)


def test_notes_that_other_accounts_can_write_are_refused(tmp_path: Path, account: Path) -> None:
    claim_home(tmp_path / "home")
    (account / "homes.json").chmod(0o666)
    with pytest.raises(HomeError, match=r"Another account owns .*homes\.json or can write it"):
        claim_home(tmp_path / "home")


@pytest.mark.skipif(os.getuid() != 0, reason="root only")
def test_notes_of_another_account_are_refused(tmp_path: Path, account: Path) -> None:
    claim_home(tmp_path / "home")
    os.chown(account / "homes.json", 12345, 12345)
    with pytest.raises(HomeError, match="Another account owns"):
        claim_home(tmp_path / "home")


def test_damaged_notes_are_a_sentence(tmp_path: Path, account: Path) -> None:
    claim_home(tmp_path / "home")
    (account / "homes.json").write_text("[]")
    with pytest.raises(HomeError, match=r"homes\.json is damaged\. Delete "):
        claim_home(tmp_path / "home")


def test_configuration_folder_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(HomeError, match=r"XDG_CONFIG_HOME"):
        claim_home(tmp_path / "home")


def test_relative_configuration_folder_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    assert config_folder() == tmp_path / "person" / ".config" / "academy"


def test_account_without_a_home_folder_has_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/proc/none")
    with pytest.raises(
        HomeError, match=r"notes in /proc/none/\.config/academy cannot be written .* Set XDG_CONFIG_HOME"
    ):
        claim_home(tmp_path / "home")
