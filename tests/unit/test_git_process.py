"""Children of the git reader: their pipes are read, a silent one is ended, and the environment selects nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from academy.errors import InputError
from academy.experience.git import process
from academy.experience.git.process import KEPT_BYTES, Child, SilentError, ask, git_program, reason_of

FLOOD = "import sys; sys.stderr.write('warning: x\\n' * 500_000); print('done'); sys.stderr.write('fatal: the end\\n')"


def child(program: str) -> Child:
    return Child([sys.executable, "-c", program], dict(os.environ), subprocess.DEVNULL)


def test_megabytes_of_warnings_are_read_and_forgotten() -> None:
    with child(FLOOD) as running:
        output = b""
        while chunk := running.read():
            output += chunk
        assert running.succeeded()
        assert output == b"done\n"
        assert len(running.messages) <= KEPT_BYTES
        assert running.messages.endswith(b"fatal: the end\n")


def test_a_child_that_only_writes_warnings_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SILENCE_SECONDS", 0.5)
    began = time.monotonic()
    with child("import sys\nwhile True: sys.stderr.write('warning: x\\n')") as running, pytest.raises(SilentError):
        running.read()
    assert time.monotonic() - began < 10


def test_a_child_is_ended_with_its_context() -> None:
    with child("import os, time; os.write(1, str(os.getpid()).encode()); time.sleep(600)") as running:
        pid = int(running.read())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_that_has_ended_takes_no_text_and_has_failed() -> None:
    with Child([sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ), subprocess.PIPE) as running:
        assert running.read() == b""
        running.write(b"text\n")
        assert not running.succeeded()


def test_git_is_never_a_program_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text(f"#!/bin/sh\ntouch {tmp_path}/pwned\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f".:{os.pathsep}{os.environ['PATH']}")
    assert Path(git_program()).is_absolute()
    ask(".", "version")
    assert not (tmp_path / "pwned").exists()


def test_a_machine_without_git_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"git is not installed, so no history can be read\."):
        git_program()


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ("warning: a\nfatal: bad config line 1 in file x.\n", "bad config line 1 in file x"),
        (
            "fatal: unknown repository extensions found:\n\tone\n\ttwo\n",
            "unknown repository extensions found: one, two",
        ),
        ("error: nothing\n", "nothing"),
        ("", "git failed"),
    ],
)
def test_the_reason_is_gits_own_sentence(messages: str, sentence: str) -> None:
    assert reason_of(messages) == sentence
