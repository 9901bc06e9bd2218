"""Settings come from the environment and named files, within bounds, and a mistyped name is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from academy.errors import HomeError, InputError
from academy.settings import Settings, load_settings


def settings_file(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A file of settings that is named on purpose."""
    Path("academy.env").write_text(text, encoding="utf-8")
    monkeypatch.setenv("ACADEMY_SETTINGS_FILE", "academy.env")


def test_databases_and_folders_lie_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    settings = load_settings()
    assert settings.database == f"sqlite:///{tmp_path}/home/academy.db"
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/home/mlflow.db"
    assert settings.folder("runs") == tmp_path / "home" / "runs"
    assert settings.folder("runs").is_dir()
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["home.id", "place.json", "runs"]


def test_new_home_is_readable_by_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    load_settings()
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_defaults_are_the_documented_ones() -> None:
    settings = load_settings()
    assert (settings.min_lessons, settings.min_new_lessons, settings.training_interval_hours) == (100, 50, 24)
    assert (settings.max_lessons, settings.git_commits_limit, settings.base_model) == (5000, 100, "seed")
    assert (settings.lora_rank, settings.learning_rate, settings.num_epochs) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "value", "field", "read"),
    [
        ("DEFAULT_BASE_MODEL", "/models/one", "base_model", "/models/one"),
        ("DEFAULT_LORA_RANK", "32", "lora_rank", 32),
        ("DEFAULT_LEARNING_RATE", "0.001", "learning_rate", 0.001),
        ("DEFAULT_NUM_EPOCHS", "5", "num_epochs", 5),
        ("MIN_LESSONS_FOR_TRAINING", "7", "min_lessons", 7),
        ("MIN_TRAINING_INTERVAL_HOURS", "0", "training_interval_hours", 0),
        ("ENABLE_GPU", "false", "enable_gpu", False),
        ("ACADEMY_ENABLE_GPU", "0", "enable_gpu", False),
    ],
)
def test_spellings_of_the_seed_documents_are_read_from_environment_and_file(
    name: str, value: str, field: str, read: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), field) == read
    monkeypatch.delenv(name)
    settings_file(monkeypatch, f"{name}={value}\n")
    assert getattr(load_settings(), field) == read


def test_name_of_a_setting_wins_over_an_older_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIN_LESSONS_FOR_TRAINING", "7")
    monkeypatch.setenv("ACADEMY_MIN_LESSONS", "8")
    assert load_settings().min_lessons == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACADEMY_PROMOTION", "never"),
        ("ACADEMY_LORA_RANK", "3"),
        ("ACADEMY_LORA_RANK", "257"),
        ("DEFAULT_LORA_RANK", "512"),
        ("ACADEMY_LEARNING_RATE", "0"),
        ("ACADEMY_LEARNING_RATE", "0.02"),
        ("ACADEMY_NUM_EPOCHS", "21"),
        ("ACADEMY_MIN_LESSONS", "0"),
        ("ACADEMY_MIN_LESSONS", "many"),
        ("ACADEMY_TRAINING_INTERVAL_HOURS", "-1"),
        ("ACADEMY_GIT_COMMITS_LIMIT", "-1"),
        ("ACADEMY_ENABLE_GPU", "perhaps"),
        ("ACADEMY_TRAINING_MEMORY_GIB", "0.05"),
        ("ACADEMY_TRAINING_MEMORY_GIB", "inf"),
        ("ACADEMY_TRAINING_CPUS", "0.001"),
    ],
)
def test_value_out_of_bounds_is_an_error_with_its_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as refused:
        load_settings()
    assert f"{value!r} is not valid" in str(refused.value)
    assert name.removeprefix("ACADEMY_").removeprefix("DEFAULT_") in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["LORA_RANK", "LEARNING_RATE", "NUM_EPOCHS", "DATABASE_URL", "HOME", "MIN_LESSONS"])
def test_empty_value_means_the_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACADEMY_{name}", "")
    assert getattr(load_settings(), name.lower()) == Settings.model_fields[name.lower()].default


def test_mistyped_name_is_an_error_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_MIN_LESONS", "5")
    with pytest.raises(InputError, match=r"ACADEMY_MIN_LESONS is not a setting .* Did you mean ACADEMY_MIN_LESSONS\?"):
        load_settings()


def test_unknown_name_is_an_error_without_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_XYZZY", "5")
    with pytest.raises(InputError, match="ACADEMY_XYZZY is not a setting"):
        load_settings()


def test_mistyped_name_in_the_settings_file_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    settings_file(monkeypatch, "ACADEMY_MIN_LESONS=5\n")
    with pytest.raises(InputError, match=r"Did you mean ACADEMY_MIN_LESSONS\?"):
        load_settings()


def test_names_of_other_programs_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    settings_file(monkeypatch, "SOMETHING_ELSE=5\nACADEMY_MIN_LESSONS=6\n")
    monkeypatch.setenv("ACADEMY_TRAINING_IMAGE", "unsloth/unsloth")
    assert load_settings().min_lessons == 6


@pytest.mark.parametrize("name", ["HOME", "MIN_LESSONS", "BASE_MODEL", "LORA_RANK"])
def test_name_without_the_prefix_is_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "7")
    assert "7" not in {str(value) for value in load_settings().model_dump().values()}


def test_home_on_a_read_only_disk_is_an_error(read_only_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in (read_only_disk, read_only_disk / "below"):
        monkeypatch.setenv("ACADEMY_HOME", str(home))
        with pytest.raises(HomeError, match=r"cannot be written \(Read-only file system\)") as refused:
            load_settings()
        assert "\n" not in str(refused.value)


def test_home_on_a_full_disk_is_an_error(small_disk: Path) -> None:
    load_settings(home=small_disk)
    (small_disk / "ballast").write_bytes(b"x" * (56 << 10))
    with pytest.raises(HomeError, match=r"cannot be written \(No space left on device\)"):
        load_settings(home=small_disk)


def test_home_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    for home in (tmp_path / "home", tmp_path / "home" / "below"):
        with pytest.raises(HomeError, match="cannot be written"):
            load_settings(home=home)


def test_check_of_the_home_leaves_no_file(tmp_path: Path) -> None:
    assert load_settings(home=tmp_path / "home").home == tmp_path / "home"
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["home.id", "place.json"]


def test_root_folders_of_the_seed_documents_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEMORY_ROOT", str(tmp_path / "memory"))
    monkeypatch.setenv("WORKSPACE_ROOT", str(tmp_path / "work"))
    found = load_settings()
    assert (found.home, found.workspace_root) == (tmp_path / "memory", tmp_path / "work")


def test_tilde_in_the_settings_file_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings_file(monkeypatch, "ACADEMY_HOME=~/academy\n")
    assert load_settings().home == tmp_path / "academy"


def test_worker_gets_only_the_training_settings_that_the_user_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from academy.operations.work_pools import sent_limits

    monkeypatch.setenv("ACADEMY_TRAINING_BACKEND", "container")
    monkeypatch.setenv("ACADEMY_ENABLE_GPU", "false")
    monkeypatch.setenv("ACADEMY_SERVE_KEY", "secret")
    monkeypatch.setenv("ACADEMY_TRAINING_IMAGE", "theirs:latest")
    limits = sent_limits(load_settings(tmp_path))
    assert limits.model_dump(exclude_none=True) == {"enable_gpu": False, "training_backend": "container"}
    monkeypatch.undo()
    changed = limits.apply(load_settings(tmp_path))
    assert (changed.enable_gpu, changed.training_backend, changed.training_image) == (False, "container", "")


def test_home_ids_differ_between_homes_and_are_stable(tmp_path: Path) -> None:
    one, two = load_settings(tmp_path / "one"), load_settings(tmp_path / "two")
    assert one.home_id != two.home_id
    assert one.home_id == load_settings(tmp_path / "one").home_id
    assert len(one.home_id) == 8


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ACADEMY_MIN_LESSONS", "many", "ACADEMY_MIN_LESSONS='many' is not valid: it must be a whole number."),
        ("ACADEMY_MIN_LESSONS", "1.5", "ACADEMY_MIN_LESSONS='1.5' is not valid: it must be a whole number."),
        ("ACADEMY_MIN_LESSONS", "0", "ACADEMY_MIN_LESSONS='0' is not valid: it must be at least 1."),
        ("ACADEMY_LEARNING_RATE", "2e-4x", "ACADEMY_LEARNING_RATE='2e-4x' is not valid: it must be a number."),
        ("ACADEMY_LEARNING_RATE", "0", "ACADEMY_LEARNING_RATE='0' is not valid: it must be greater than 0."),
        ("ACADEMY_TRAINING_CPUS", "nan", "ACADEMY_TRAINING_CPUS='nan' is not valid: it must be a finite number."),
        ("ENABLE_ACADEMY", "maybe", "ENABLE_ACADEMY='maybe' is not valid: it must be true or false."),
        (
            "ACADEMY_KEEP_CONVERSATIONS", "some",
            "ACADEMY_KEEP_CONVERSATIONS='some' is not valid: it must be 'off', 'rated' or 'all'.",
        ),
    ],
)  # fmt: skip
def test_invalid_value_is_explained_in_plain_words(
    name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as refused:
        load_settings()
    assert refused.value.message == sentence


def test_home_of_the_seed_documents_counts_only_without_the_academys_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings_file(monkeypatch, "MEMORY_ROOT=./data/memory\n")
    assert load_settings().home == Path("data/memory")
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    assert load_settings().home == tmp_path / "home"
    monkeypatch.delenv("ACADEMY_HOME")
    monkeypatch.setenv("MEMORY_ROOT", str(tmp_path / "memory"))
    settings_file(monkeypatch, f"ACADEMY_HOME={tmp_path / 'own'}\n")
    assert load_settings().home == tmp_path / "own"


def test_disabled_academy_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    load_settings().require_enabled()
    for name in ("ENABLE_ACADEMY", "ACADEMY_ENABLE"):
        monkeypatch.setenv(name, "false")
        with pytest.raises(InputError, match=r"The Academy is disabled \(ACADEMY_ENABLE=false\)\. Set ACADEMY_ENABLE"):
            load_settings().require_enabled()
        monkeypatch.delenv(name)


def test_example_of_a_settings_file_changes_nothing_even_with_its_lines_enabled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    defaults = load_settings()
    text = (Path(__file__).parents[2] / ".env.example").read_text(encoding="utf-8")
    settings_file(monkeypatch, text)
    assert load_settings() == defaults
    enabled = [line.removeprefix("#") for line in text.splitlines() if line.startswith("#ACA")]
    settings_file(monkeypatch, "\n".join(enabled))
    assert load_settings() == defaults
