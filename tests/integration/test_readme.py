"""The short commands of README.md and docs/ run. The tutorial, three evolutions long, runs in the campaign."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from academy.models.base_model import SEED_FOLDER
from tests.documents import ROOT, Block, block_named, blocks, split_line
from tests.homes import RealHome

IMPORTS = [
    block
    for block in blocks(ROOT / "docs" / "how-to" / "use-your-own-lessons.md")
    if any(line.startswith("academy lessons import") for line in block.lines)
]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with what the commands of the pages name."""
    line = '{"situation": "where is the key", "action": "under the mat", "outcome": "success"}\n'
    (tmp_path / "mine.jsonl").write_text(line)
    (tmp_path / "history.jsonl").write_text('{"request": "tidy up", "response": "done", "status": "completed"}\n')
    (tmp_path / "alpaca.json").write_text('[{"instruction": "say yes", "input": "", "output": "yes"}]')
    turns = '[{"role": "user", "content": "how"}, {"role": "assistant", "content": "so"}]'
    (tmp_path / "conversations.jsonl").write_text(f'{{"messages": {turns}}}\n')
    events = (
        {"type": "user", "sessionId": "s1", "message": {"role": "user", "content": "Count the files."}},
        {"type": "assistant", "sessionId": "s1", "message": {"id": "m1", "role": "assistant", "content": "Twelve."}},
    )
    (tmp_path / "session.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
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


@pytest.mark.parametrize("block", [block_named("own lessons"), *IMPORTS], ids=lambda block: block.page)
def test_the_commands_for_lessons_of_your_own_run(desk: Path, block: Block) -> None:
    home = RealHome(desk / "home")
    home.desk = desk
    for line in block.lines:
        (words,) = split_line(line)
        outcome = home.run(*(word.replace("~", str(desk)) for word in words[1:]))
        assert outcome.code == 0, outcome.err
        assert "Traceback" not in outcome.err


@pytest.mark.campaign
def test_the_examinations_of_the_how_to_guide_run(second_home: RealHome, tmp_path: Path) -> None:
    second_home.desk = tmp_path
    for line in block_named("examinations").lines:
        (words,) = split_line(line)
        outcome = second_home.run(*words[1:])
        assert outcome.code == 0, outcome.err
    assert (tmp_path / "comparisons.jsonl").stat().st_size
