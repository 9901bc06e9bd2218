"""What the settings were read from is shown, without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from academy.settings import load_settings
from academy.settings_report import describe_settings, sentence_once


def test_files_and_variables_are_shown_and_secrets_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.env").write_text("ACADEMY_MIN_LESSONS=7\nACADEMY_MAX_LESSONS=50\n")
    for name, value in {
        "ACADEMY_HOME": str(tmp_path / "home"), "ACADEMY_SETTINGS_FILE": str(tmp_path / "mine.env"),
        "ACADEMY_SERVE_KEY": "hidden-1", "PREFECT_API_URL": "http://anna:hidden-2@host/api",
        "PREFECT_CLIENT_CUSTOM_HEADERS": "hidden-3", "MIN_LESSONS_FOR_TRAINING": "5",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    load_settings()
    (tmp_path / "home" / "settings.env").write_text("ACADEMY_MIN_LESSONS=8\nACADEMY_NUM_EPOCHS=3\n")
    settings = load_settings()
    assert (settings.min_lessons, settings.max_lessons, settings.num_epochs) == (7, 50, 3)
    report = describe_settings(settings)
    assert report.files == (str(tmp_path / "mine.env"), str(tmp_path / "home" / "settings.env"))
    assert f"ACADEMY_HOME={tmp_path / 'home'}" in report.variables
    assert "MIN_LESSONS_FOR_TRAINING=5" in report.variables
    assert "hidden" not in str(report)
    assert report.unread == ""


def test_settings_of_the_home_cannot_name_another_home(tmp_path: Path) -> None:
    load_settings(tmp_path / "home")
    (tmp_path / "home" / "settings.env").write_text("ACADEMY_HOME=/elsewhere\n")
    with pytest.raises(Exception, match=r"settings\.env names a home\. Remove the line"):
        load_settings(tmp_path / "home")


def test_file_that_is_named_but_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_SETTINGS_FILE", "none.env")
    with pytest.raises(Exception, match=r"ACADEMY_SETTINGS_FILE names none\.env, which is not a file"):
        load_settings()


@pytest.mark.parametrize("text", ["OTHER=1\n", "ACADEMY_MIN_LESSONS\n", ""])
def test_file_without_settings_of_the_academy_is_not_mentioned(text: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(text)
    assert sentence_once() == ""


def test_unread_file_is_in_the_report(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ACADEMY_MIN_LESSONS=7\n")
    assert describe_settings(load_settings(tmp_path / "home")).unread == str(tmp_path / ".env")
    assert sentence_once().startswith(f"{tmp_path}/.env is not read. ")
    assert sentence_once() == ""
