"""Attacks on a home: other accounts read or plant files, texts show its secrets, a copy writes into it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from academy.access.secret import home_secret
from academy.border.current_folder import public_environment
from academy.border.masking import MaskedRecord, mask, remember
from academy.errors import HomeError, InputError, ServingError, TrainingError
from academy.genealogy.tracking import open_mlflow
from academy.operations.doctor import Finding
from academy.settings import load_settings
from academy.store.database import Database
from academy.store.files import publish_folder, write_file
from tests.homes import RealHome, result_of
from tests.strangers import AS_ROOT, NOBODY

SECRET = "hunter2-s3cr3t"
as_root = pytest.mark.skipif(not AS_ROOT, reason="root only: it works as two accounts")


def open_bits(folder: Path) -> dict[str, str]:
    """What other accounts may do in a folder, by name."""
    modes = {path: path.lstat() for path in [folder, *folder.rglob("*")]}
    return {
        str(path.relative_to(folder)): stat.filemode(state.st_mode)
        for path, state in modes.items()
        if state.st_mode & 0o077 and not stat.S_ISLNK(state.st_mode)
    }


@pytest.fixture
def loose() -> Iterator[None]:
    """The umask of a careless account: others may write."""
    before = os.umask(0)
    yield
    os.umask(before)


# other accounts on this machine


@pytest.mark.campaign
def test_files_of_a_command_are_closed_to_other_accounts(tmp_path: Path, loose: None) -> None:
    home = RealHome(tmp_path / "home")
    assert home.run("status", timeout=200).code == 0
    assert home.run("keys", "rotate").code == 0
    assert open_bits(home.path) == {}


def test_files_of_a_python_program_are_closed_to_other_accounts(tmp_path: Path, loose: None) -> None:
    settings = load_settings(tmp_path / "home")
    write_file(settings.folder("datasets") / "one" / "train.jsonl", b"lesson")
    with publish_folder(settings.folder("adapters") / "one") as folder:
        (folder / "weights").write_bytes(b"weights")
    home_secret(settings)
    assert open_bits(settings.home) == {}


def test_open_home_is_closed_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = tmp_path / "home"
    for name in ("keys", "adapters/one", "runs"):
        (home / name).mkdir(parents=True)
        (home / name).chmod(0o777)
    for name in ("academy.db", "keys/one.key", "adapters/one/weights"):
        (home / name).write_text("content")
        (home / name).chmod(0o666)
    home.chmod(0o777)
    load_settings(home, adopt=True)
    assert open_bits(home) == {}
    assert caplog.text.count("Other accounts could change the home folder") == 1
    load_settings(home)
    assert caplog.text.count("Other accounts could") == 1


def test_folder_that_is_no_home_keeps_its_modes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    (data / "table.csv").write_text("of another project")
    (data / "table.csv").chmod(0o644)
    with pytest.raises(HomeError, match="is not a home that this account made"):
        load_settings(data)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (data, data / "table.csv")} == {0o755, 0o644}


def test_closing_a_home_does_not_follow_links(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("shared")
    elsewhere.chmod(0o644)
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to(elsewhere)
    home.chmod(0o755)
    load_settings(home, adopt=True)
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o644


def test_folder_on_another_disk_is_closed_with_its_home(tmp_path: Path) -> None:
    disk, home = tmp_path / "disk", tmp_path / "home"
    disk.mkdir()
    disk.chmod(0o755)
    home.mkdir(mode=0o700)
    (home / "adapters").symlink_to(disk)
    load_settings(home, adopt=True)
    assert stat.S_IMODE(disk.stat().st_mode) == 0o700


def test_home_below_a_folder_that_all_may_rename_is_refused(tmp_path: Path) -> None:
    parent = tmp_path / "all"
    parent.mkdir()
    parent.chmod(0o777)
    with pytest.raises(HomeError, match="Every account can replace the home folder"):
        load_settings(parent / "home")
    assert not (parent / "home").exists()
    parent.chmod(0o1777)  # as /tmp
    assert load_settings(parent / "home").home.is_dir()


def test_open_files_in_a_closed_home_are_closed_when_it_comes_to_its_place(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "answers").mkdir(parents=True)
    (home / "answers" / "one.json").write_text("{}")
    (home / "answers" / "one.json").chmod(0o644)
    home.chmod(0o700)
    load_settings(home, adopt=True)
    assert open_bits(home) == {}


@as_root
def test_home_of_another_account_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    with pytest.raises(HomeError, match="belongs to another account"):
        load_settings(home)


@as_root
def test_folder_that_another_account_made_in_tmp_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "academy").mkdir()
    os.chown(shared / "academy", NOBODY, NOBODY)
    with pytest.raises(HomeError, match="above the home folder belongs to another account"):
        load_settings(shared / "academy" / "home")


@as_root
def test_link_that_another_account_made_in_tmp_is_refused(tmp_path: Path) -> None:
    shared, target = tmp_path / "tmp", tmp_path / "target"
    shared.mkdir()
    shared.chmod(0o1777)
    target.mkdir()
    (shared / "home").symlink_to(target)
    os.chown(shared / "home", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(HomeError, match="is a link of another account"):
        load_settings(shared / "home")


@as_root
@pytest.mark.parametrize("planted", ["file", "link", "key"])
def test_home_with_planted_files_is_refused(tmp_path: Path, planted: str) -> None:
    home = load_settings(tmp_path / "home").home
    (home / "keys").mkdir()
    path = {"file": home / "academy.db", "link": home / "runs", "key": home / "keys" / "evil.pub"}[planted]
    path.symlink_to(tmp_path) if planted == "link" else path.write_text("planted")
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(HomeError, match="files or links of other accounts"):
        load_settings(home)


@as_root
def test_planted_lock_is_not_followed(tmp_path: Path) -> None:
    from academy.store.locks import exclusive_lock

    victim = tmp_path / "victim"
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"), exclusive_lock(tmp_path / "lock", "held"):
        pass
    assert not victim.exists()


# texts that show secrets

ADDRESSES = [
    f"postgresql+psycopg://me:{SECRET}@db.example:5432/x?sslmode=require",
    f"postgresql://me:{SECRET}@[::1]:5432/x",
    f"postgresql://me:a/{SECRET}@h/x",
    f"postgresql://me:a@{SECRET}@h/x",
    f"postgresql://me:a?{SECRET}@h/x",
    f"postgresql://h/x?user=a&sslpassword={SECRET}&x=1",
    f"https://host/p?token={SECRET}#part",
    f"https://host/p?%74oken={SECRET}",
    f"https://account.blob.core.windows.net/c?sv=2020&sig={SECRET}%3D&se=1",
    f"https://{SECRET}@github.com/a/b.git",
    f"https://x:{SECRET}@github.com/a.git",
    f"redis://:{SECRET}@h:6379/0",
    f"mongodb+srv://u:{SECRET}@h/?authSource=a@b",
    f"a://u:{SECRET}@h,b://u:{SECRET}@h",
    f"http://h/x,postgresql://u:{SECRET}@h/y",
    f"host=h password={SECRET} dbname=x",
    f"host=h password='a {SECRET} b' dbname=x",
    f"Authorization: Bearer {SECRET}",
    f"{{'authorization': 'Basic {SECRET}'}}",
    f"PREFECT_API_AUTH_STRING=academy:{SECRET} x",
    f'{{"password": "{SECRET}"}}',
    f"AccountKey={SECRET};EndpointSuffix=x",
]


@pytest.mark.parametrize("text", ADDRESSES)
def test_secret_of_this_shape_is_masked(text: str) -> None:
    masked = mask(f"Before ({text}). After")
    assert SECRET not in masked
    assert masked.startswith("Before (")
    assert mask(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:4200/api", "sqlite:////home/a/x.db", "file:///a@b/c", "ssh://git@github.com/x",
        "eos_token='</s>' tokens=512", "Wrong password: check it.",
        "http://host:80/x?mail=a@b", "Bearer token for users",
    ],
)  # fmt: skip
def test_text_without_a_secret_is_not_masked(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize("error", [HomeError, InputError, ServingError, TrainingError])
def test_error_shows_no_password(error: type[HomeError]) -> None:
    problem = error(f"postgresql://me:{SECRET}@h/x cannot be used.", f"Try https://u:{SECRET}@h.")
    assert SECRET not in f"{problem} {problem!r} {problem.message} {problem.remedy} {problem.args}"


def test_known_secret_is_masked_whatever_its_shape() -> None:
    remember("p@ss wörd/1")
    texts = ("it was p@ss wörd/1", "p%40ss%20w%C3%B6rd%2F1", "p%40ss+w%C3%B6rd%2F1", "cEBzcyB3w7ZyZC8x")
    assert [mask(text) for text in texts] == ["it was ***", "***", "***", "***"]


def test_log_and_its_traceback_show_no_password() -> None:
    try:
        sa.create_engine(f"postgresql://me:{SECRET}@h:port/x")
    except ValueError as problem:
        arguments = ("x", logging.ERROR, "f", 1, "at %s", (f"postgresql://me:{SECRET}@h/x",))
        record = MaskedRecord(*arguments, (type(problem), problem, problem.__traceback__))
    text = logging.Formatter().format(record)
    assert "Traceback" in text
    assert SECRET not in text


def test_unforeseen_error_of_a_program_shows_no_password() -> None:
    program = (
        "from academy.home.private import be_private; be_private(); "
        "url = 'postgresql://me:' + 'hunter2-' + 's3cr3t@h/x'; raise ValueError(url)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "ValueError: postgresql://me:***@h/x" in ended.stderr
    assert SECRET not in ended.stderr


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["ACADEMY_DATABASE_URL", "ACADEMY_MLFLOW_TRACKING_URI"])
@pytest.mark.parametrize("command", [("doctor", "--json"), ("status",)])
def test_commands_show_no_password_of_a_database(tmp_path: Path, name: str, command: tuple[str, ...]) -> None:
    home = RealHome(tmp_path / "home")
    for address in (f"postgresql://me:{SECRET}@127.0.0.1:1/x", f"nonsense://me:{SECRET}@h/x?password={SECRET}"):
        ended = home.run(*command, timeout=120, **{name: address})
        assert SECRET not in ended.out + ended.err
        logs = [path.read_text(errors="replace") for path in home.path.rglob("*.log")]
        assert SECRET not in "".join(logs)


def test_doctor_shows_no_password() -> None:
    address = f"http://me:{SECRET}@h/x?token={SECRET}"
    finding = Finding(name="MLflow", works=True, needed=True, found=address, remedy=address)
    assert SECRET not in finding.model_dump_json()


def test_invalid_secret_setting_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_DATABASE_URL", f"postgresql://me:{SECRET}@h/x")
    settings = load_settings(tmp_path / "home")
    assert SECRET not in repr(settings) + str(settings)


def test_children_that_need_no_secret_get_none(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "ACADEMY_SERVE_KEY": SECRET, "ACADEMY_DATABASE_URL": f"postgresql://me:{SECRET}@h/x", "HF_TOKEN": SECRET,
        "PREFECT_API_AUTH_STRING": f"academy:{SECRET}", "https_proxy": f"http://u:{SECRET}@proxy:3128",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }  # fmt: skip
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    environment = public_environment()
    assert SECRET not in json.dumps(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert environment["PATH"] == os.environ["PATH"]


# copies


def test_database_of_another_home_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_settings(tmp_path / "first")
    Database(first.database).migrate()
    monkeypatch.setenv("ACADEMY_DATABASE_URL", first.database)
    with pytest.raises(InputError, match="names a database in another home"):
        load_settings(tmp_path / "second")
    assert load_settings(tmp_path / "first").database == first.database


def test_copy_forgets_addresses_and_secret_of_the_first_home(tmp_path: Path) -> None:
    first = load_settings(tmp_path / "first")
    secret = home_secret(first)
    write_file(first.folder("prefect") / "server.url", b"http://127.0.0.1:1/api")
    write_file(first.folder("serving") / "main.json", b"{}")
    shutil.copytree(first.home, tmp_path / "copy")
    copy = load_settings(tmp_path / "copy", adopt=True)
    assert home_secret(copy) != secret
    assert not (copy.home / "prefect" / "server.url").exists()
    assert not (copy.home / "serving" / "main.json").exists()
    assert home_secret(load_settings(tmp_path / "first")) == secret


def test_renamed_home_keeps_its_secret(tmp_path: Path) -> None:
    secret = home_secret(load_settings(tmp_path / "first"))
    (tmp_path / "first").rename(tmp_path / "second")
    assert home_secret(load_settings(tmp_path / "second", adopt=True)) == secret


@pytest.mark.campaign
@pytest.mark.slow
def test_copy_writes_artifacts_into_itself(tmp_path: Path) -> None:
    first = load_settings(tmp_path / "first")
    client = open_mlflow(first)
    run = client.create_run(client.get_experiment_by_name("academy").experiment_id).info.run_id
    client.log_dict(run, {"text": "first"}, "first.json")
    shutil.copytree(first.home, tmp_path / "copy")
    before = {path.name for path in first.folder("mlartifacts").rglob("*")}
    copy = load_settings(tmp_path / "copy", adopt=True)
    other = open_mlflow(copy)
    second = other.create_run(other.get_experiment_by_name("academy").experiment_id).info.run_id
    other.log_dict(second, {"text": "copy"}, "copy.json")
    assert {path.name for path in first.folder("mlartifacts").rglob("*")} == before
    assert [path.name for path in copy.folder("mlartifacts").rglob("copy.json")] == ["copy.json"]
    assert other.get_run(run).info.artifact_uri.startswith(copy.folder("mlartifacts").as_uri())
    assert str(copy.home) not in open_mlflow(first).get_run(run).info.artifact_uri


def digests(folder: Path) -> dict[str, bytes]:
    """The content of all files of a folder, but for the indexes that a reader of SQLite makes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


@pytest.mark.campaign
@pytest.mark.parametrize("first_exists", [True, False])
def test_commands_in_a_copy_leave_the_first_home_alone(evolved, tmp_path: Path, first_exists: bool) -> None:  # type: ignore[no-untyped-def]
    first, copy = tmp_path / "first", tmp_path / "copy"
    shutil.copytree(evolved.home.path, first)
    origin = RealHome(first)
    assert origin.run("init", "--adopt").code == 0
    assert origin.run("status").code == 0  # settles at its place
    assert open_bits(first) == {}
    shutil.copytree(first, copy)
    if first_exists:
        before = digests(first)
    else:
        shutil.rmtree(first)
    home = RealHome(copy)
    assert "init --adopt" in home.run("status").err
    assert home.run("init", "--adopt").code == 0
    result = result_of(home.run(*evolved.arguments))
    assert result
    for command in (("status",), ("verify",), ("models",), ("genealogy",), ("rollback",), ("doctor",)):
        ended = home.run(*command)
        assert "Traceback" not in ended.err, (command, ended.err)
    forced = home.run(*evolved.arguments, "--force")
    assert forced.code == 0, forced.err
    if first_exists:
        after = digests(first)
        assert sorted(name for name in before if before[name] != after.get(name)) == []
        assert after.keys() == before.keys()
    else:
        assert not first.exists()
