"""Git repositories of other people: what is learned, what is dropped or refused, and that nothing of them runs.

Keys of a case, besides `about`:
[input]
script      sh, run in an empty folder; it makes ./repo. Its $HOME/.gitconfig, which names Bo, is the reader's, too.
trusted     names or addresses of trusted authors; empty: all
environment variables that are set for the reader; $PWD stands for the folder
silence     seconds without output after which a git is ended
owner       true: ./repo is given to another user after the script; needs root
[right]
subjects    what is learned, in any order
includes    what is learned among others
dropped     reason -> commits that are dropped for it; nothing else is dropped
says        words of the refusal, or of a reason
refused     words of the refusal; where it is absent, the repository is read
never       words that no message has
absent      files that do not exist afterwards
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from academy.errors import InputError
from academy.experience.experience import Experience
from academy.experience.sources.base import Skipped
from academy.experience.sources.commits import CommitsSource
from academy.loop.ingest import choose_repositories
from tests.foreign.cases import Case, each_case

SECONDS = 10.0
NOBODY = 65534
PERSON = "[user]\n\tname = Bo\n\temail = bo@example.com\n"


def make(case: Case, folder: Path) -> None:
    """Run the script of a case in an empty folder."""
    own = {"HOME": str(folder / "home"), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    (folder / "home").mkdir()
    (folder / "home" / ".gitconfig").write_text(PERSON)
    subprocess.run(
        ["sh", "-c", case.input["script"]],
        cwd=folder, env=inherited | own, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    if case.input.get("owner"):
        for path in (folder / "repo", *(folder / "repo").rglob("*")):
            os.lchown(path, NOBODY, NOBODY)


@each_case("git")
def test_a_foreign_repository_gives_what_is_right(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.input.get("owner") and os.geteuid():
        pytest.skip("root only: another owner")
    make(case, tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name, text in case.input.get("environment", {}).items():
        monkeypatch.setenv(name, text.replace("$PWD", str(tmp_path)))
    if "silence" in case.input:
        monkeypatch.setattr("academy.experience.git.process.SILENCE_SECONDS", case.input["silence"])
    began = time.monotonic()
    learned: list[str] = []
    reasons: Counter[str] = Counter()
    refusal = ""
    try:
        (path,) = choose_repositories([tmp_path / "repo"], tmp_path)
        for item in CommitsSource(path, 100, trusted=case.input.get("trusted", ())).read():
            if isinstance(item, Experience):
                learned.append(item.answer)
            elif isinstance(item, Skipped):
                reasons[item.because] += 1
    except InputError as problem:
        refusal = str(problem)
    assert time.monotonic() - began < SECONDS
    check(case, learned, reasons, refusal)
    for name in case.right.get("absent", ()):
        assert not (tmp_path / name).exists(), f"{name} was written"


def check(case: Case, learned: list[str], reasons: Counter[str], refusal: str) -> None:
    """Compare with the right of a case."""
    right = case.right
    texts = "\n".join((refusal, *reasons))
    if "refused" in right:
        assert right["refused"] in refusal
        assert "\n" not in refusal
        assert refusal.endswith(".")
    else:
        assert not refusal
    if "subjects" in right:
        assert sorted(learned) == sorted(right["subjects"])
    assert set(right.get("includes", ())) <= set(learned)
    if "dropped" in right:
        assert dict(reasons) == right["dropped"]
    for words in right.get("says", ()):
        assert words in texts
    for words in right.get("never", ()):
        assert words not in texts
