"""Every command that the README shows is real. Its tutorial, three evolutions long, runs in the campaign."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from academy.models.base_model import SEED_FOLDER
from tests.campaign.tutorial import commands
from tests.homes import RealHome

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
INDENTED = [line.strip() for line in README.splitlines() if line.startswith("    academy ")]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with what the README's commands name."""
    line = '{"situation": "where is the key", "action": "under the mat", "outcome": "success"}\n'
    (tmp_path / "mine.jsonl").write_text(line)
    (tmp_path / "history.jsonl").write_text('{"request": "tidy up", "response": "done", "status": "completed"}\n')
    (tmp_path / "alpaca.jsonl").write_text('{"instruction": "say yes", "input": "", "output": "yes"}\n')
    turns = '[{"role": "user", "content": "how"}, {"role": "assistant", "content": "so"}]'
    (tmp_path / "talks.jsonl").write_text(f'{{"messages": {turns}, "feedback": {{"gold_star": true}}}}\n')
    shutil.copytree(SEED_FOLDER, tmp_path / "models" / "my-model")
    project = tmp_path / "project"
    project.mkdir()
    (project / "notes").write_text("one\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "The first note"]):
        subprocess.run(
            ["git", "-c", "user.name=Anna", "-c", "user.email=anna@example.org", *command], cwd=project, check=True
        )
    return tmp_path


def test_the_commands_for_ones_own_lessons_run(desk: Path) -> None:
    assert len(INDENTED) >= 2
    home = RealHome(desk / "home")
    for line in INDENTED:
        arguments = [word.replace("~", str(desk)) for word in shlex.split(line)[1:]]
        home.desk = desk
        ended = home.run(*arguments)
        assert ended.code == 0, ended.err
        assert "Traceback" not in ended.err


@pytest.mark.campaign
def test_the_examinations_of_the_readme_are_held(second_home: RealHome, tmp_path: Path) -> None:
    block = README.partition("<!-- examinations")[2].partition("```sh\n")[2].partition("```")[0]
    lines = [shlex.split(line, comments=True) for line in block.splitlines() if line]
    assert len(lines) >= 4
    second_home.desk = tmp_path
    for words in lines:
        assert words[0] == "academy"
        ended = second_home.run(*words[1:])
        assert ended.code == 0, ended.err
    assert (tmp_path / "comparisons.jsonl").stat().st_size


def test_every_command_that_is_named_exists(tmp_path: Path) -> None:
    named = {
        match.strip()
        for match in re.findall(r"academy ((?:[a-z]+(?![.\w/-]),? ?)+)", " ".join(re.findall(r"`[^`]+`", README)))
    }
    words = {word for found in named for word in re.split(r"[ ,]+", found) if word}
    home = RealHome(tmp_path / "home")
    listed = "".join(
        home.run(*group, "--help").out for group in ([], ["lessons"], ["dataset"], ["holdout"], ["habitat"])
    )
    assert {word for word in words if re.search(rf"\b{word}\b", listed)} == words


def test_the_tutorial_names_files_that_are_there() -> None:
    found = [word for line in commands() for word in line.split() if word.startswith("examples/")]
    assert len(found) == 2
    assert all((Path(__file__).parents[2] / word).is_file() for word in found)
