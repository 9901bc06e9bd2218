"""The current folder may be the repository of a stranger: nothing in it is run, used as a home, or read as settings.

The commands run as a person starts them, in a folder of hostile files. A marker shows that one of them ran.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from academy.border.current_folder import environment
from tests.homes import bare

ACADEMY = Path(sys.executable).with_name("academy")
SECONDS = 120
MODULES = (
    "prefect", "uvicorn", "mlflow", "torch", "trl", "peft", "transformers", "tokenizers", "datasets", "accelerate",
    "typer", "pydantic", "sqlalchemy", "orjson", "numpy", "flows", "tasks", "sitecustomize", "usercustomize",
    "conftest", "json", "signal", "multiprocessing", "ctypes", "xllamacpp", "git",
)  # fmt: skip
LOGGING = """version: 1
handlers:
  evil: {"()": "builtins.open", "file": MARKS/logging, "mode": "w"}
root: {handlers: [evil]}
"""


class Folder(NamedTuple):
    """A stranger's folder, and where its code leaves marks."""

    path: Path
    marks: Path
    config: Path

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """A command as a person starts it there."""
        variables = {"HOME": str(self.config), "XDG_CONFIG_HOME": str(self.config), **variables}
        clean = {name: text for name, text in bare().items() if name != "PYTHONPATH"}
        return subprocess.Popen(
            [ACADEMY, *arguments], cwd=self.path, env={**clean, "OMP_WAIT_POLICY": "PASSIVE", **variables}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """A command to its end: exit code, stdout and stderr."""
        with self.start(*arguments, **variables) as process:
            out, err = process.communicate(timeout=SECONDS)
            return process.returncode, out, err

    def harm(self) -> list[str]:
        """What ran."""
        return sorted(path.name for path in self.marks.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder with modules of the names that commands and their children import, and settings of other programs."""
    made = Folder(tmp_path / "theirs", tmp_path / "marks", tmp_path / "config")
    for path in made:
        path.mkdir(mode=0o700)
    mark = f"open(os.path.join({str(made.marks)!r}, __name__.split('.')[-1]), 'w').close()"
    code = f"import os\n{mark}\nraise SystemExit(9)\n"
    for name in MODULES:
        (made.path / f"{name}.py").write_text(code)
        (made.path / name).mkdir()
        for file in ("__init__.py", "__main__.py"):
            (made.path / name / file).write_text(code)
    (made.path / "evil.pth").write_text(f"import os; open({str(made.marks / 'pth')!r}, 'w')\n")
    for name in ("git", "ldd", "bwrap", "setpriv", "python3"):
        program = made.path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ntouch {made.marks}/program-{name}\nexit 9\n")
        program.chmod(0o755)
    logging = made.path / "logging.yml"
    logging.write_text(LOGGING.replace("MARKS", str(made.marks)))
    (made.path / ".env").write_text(
        f"PREFECT_LOGGING_SETTINGS_PATH={logging}\nMLFLOW_TRACKING_URI=http://127.0.0.1:9\n"
    )
    (made.path / "prefect.toml").write_text(f"[logging]\nconfig_path = '{logging}'\n")
    (made.path / "pyproject.toml").write_text(f"[tool.prefect.logging]\nconfig_path = '{logging}'\n")
    return made


def test_module_of_the_current_folder_is_not_run_by_a_command(folder: Folder) -> None:
    code, _, err = folder.run("status", "--json")
    assert (code, folder.harm()) == (0, []), err


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("init",), ("doctor",), ("suites",), ("habitat", "list"), ("models", "list"), ("dataset", "list"), ("sandbox",),
        ("serve", "what is it?"),
    ],
)  # fmt: skip
def test_module_of_the_current_folder_is_not_run_by_other_commands(command: tuple[str, ...], folder: Folder) -> None:
    code, out, err = folder.run(*command)
    assert code in (0, 2), err
    assert (folder.harm(), "Traceback" in out + err) == ([], False), err


@pytest.mark.campaign
@pytest.mark.slow
def test_folder_runs_nothing_in_an_evolution_that_trains(folder: Folder) -> None:
    root = Path(__file__).parents[2]
    file = root / "examples" / "lessons" / "01-2026-07-operations.jsonl"
    process = folder.start("evolve", "--lessons", str(file), "--force", "--epochs", "1", "--json")
    with process:
        out, err = process.communicate(timeout=900)
    assert (process.returncode, folder.harm()) == (0, []), err
    assert '"adapter"' in out


@pytest.mark.campaign
@pytest.mark.slow
def test_folder_runs_nothing_in_pages_with_workers(folder: Folder) -> None:
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(str(probe.getsockname()[1]))
    with folder.start("pages", "--port", ports[0], "--mlflow-port", ports[1]) as process:
        assert process.stdout is not None
        lines: list[str] = []
        until = time.monotonic() + 300
        while "Ctrl-C" not in "".join(lines[-1:]) and process.poll() is None and time.monotonic() < until:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert folder.harm() == [], err
    assert "Ctrl-C" in lines[-1], err


@pytest.mark.parametrize("name", ["PYTHONPATH", "PATH"])
def test_relative_entry_of_a_search_path_reaches_no_child(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f":bin:.:/usr/bin{os.pathsep}")
    assert environment()[name] == "/usr/bin"
    monkeypatch.setenv(name, ".")
    assert name not in environment()


def test_program_of_the_current_folder_is_not_run(folder: Folder) -> None:
    code, _, err = folder.run("sandbox", PATH=f"bin:.:{os.environ['PATH']}", PYTHONPATH="")
    assert code in (0, 2), err
    assert folder.harm() == []


@pytest.mark.campaign
@pytest.mark.slow
def test_empty_entry_of_pythonpath_brings_no_library_of_the_folder(folder: Folder) -> None:
    for name in ("sitecustomize", "usercustomize", "json", "signal", "multiprocessing", "ctypes"):  # Python's own start
        (folder.path / f"{name}.py").unlink()
        shutil.rmtree(folder.path / name)
    code, _, err = folder.run("init", PYTHONPATH=f"{os.pathsep}/nonexistent")
    assert (code, folder.harm()) == (0, []), err


@pytest.mark.campaign
@pytest.mark.slow
def test_variables_of_prefect_and_mlflow_that_name_files_do_not_count(folder: Folder) -> None:
    logging = str(folder.path / "logging.yml")
    code, _, err = folder.run(
        "init", PREFECT_LOGGING_SETTINGS_PATH=logging, PREFECT_LOGGING_CONFIG_PATH=logging,
        PREFECT_PROFILES_PATH=str(folder.path / "prefect.toml"), PREFECT_HOME=str(folder.path / "prefect-home"),
    )  # fmt: skip
    assert (code, folder.harm()) == (0, []), err
    assert not (folder.path / "prefect-home").exists()


PREFECT = """
import os, sys
from pathlib import Path
from academy.operations.prefect_server import configure
from academy.operations.prefect_settings import import_prefect
from academy.settings import load_settings
settings = load_settings(Path(sys.argv[1]))
configure(settings)
import_prefect(settings)
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}) as changed:
    for current in (changed, get_current_settings()):
        print(current.logging.config_path, current.profiles_path)
"""


def test_prefect_in_this_process_reads_no_settings_of_the_folder(folder: Folder, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PREFECT, tmp_path / "home"], cwd=folder.path, env=bare(), capture_output=True,
        text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    place = tmp_path / "home" / "prefect"
    assert set(done.stdout.splitlines()) == {f"{place / 'logging.yml'} {place / 'profiles.toml'}"}
    assert folder.harm() == []


def test_settings_of_the_folder_are_not_read(folder: Folder) -> None:
    for name in (".env", "settings.env", "academy.env"):
        text = f"ACADEMY_DATABASE_URL=sqlite:///{folder.marks}/theirs.db\nACADEMY_MIN_LESSONS=x\n"
        (folder.path / name).write_text(text)
    code, _, err = folder.run("status")
    assert (code, folder.harm()) == (0, []), err


@pytest.mark.campaign
def test_home_that_a_stranger_ships_is_not_used(folder: Folder) -> None:
    theirs = folder.path / "data"
    (theirs / "keys").mkdir(parents=True)
    with sqlite3.connect(theirs / "academy.db") as database:
        database.execute("CREATE TABLE lessons (id TEXT)")
    (theirs / "home.id").write_text("0" * 32)
    (theirs / "settings.env").write_text("ACADEMY_SUITES=lm-eval:theirs.yaml\n")
    before = sorted(theirs.rglob("*"))
    for command in ("init", "doctor", "evolve"):
        code, out, err = folder.run(command)
        assert (code, out) == (2, ""), err
        assert "is not a home that this account made" in err
        assert "`academy init --adopt`" in err
    assert sorted(theirs.rglob("*")) == before


@pytest.mark.campaign
def test_unread_settings_are_mentioned_once(folder: Folder) -> None:
    (folder.path / ".env").write_text("MIN_LESSONS_FOR_TRAINING=5\n")
    _, out, err = folder.run("status", "--json")
    assert err.count(".env is not read") == 1
    assert "ACADEMY_SETTINGS_FILE" in err
    assert ".env" not in out
    assert ".env is not read" not in folder.run("status", "--json")[2]
    (folder.path / ".env").write_text("MIN_LESSONS_FOR_TRAINING=6\n")
    assert ".env is not read" not in folder.run("status", ACADEMY_SETTINGS_FILE=".env")[2]
