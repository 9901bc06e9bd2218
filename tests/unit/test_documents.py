"""What README.md and docs/ name is real: commands with their options, targets of make, settings, imports and links.

Commands are only parsed here. tests/integration/test_readme.py runs short ones, the campaign runs the tutorial.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from academy.cli.main import app
from academy.settings import Settings
from tests.campaign.tutorial import EXPECTED, commands
from tests.documents import (
    ROOT,
    Block,
    Command,
    block_commands,
    block_named,
    blocks,
    inline_commands,
    pages,
    split_line,
)

ACADEMY = typer.main.get_command(app)
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
NOT_SETTINGS = {"ACADEMY_HOME", "ACADEMY_SETTINGS_FILE", "ACADEMY_API_KEY"}
"""Names of the environment that are read before, or beside, the settings."""


def problem_with(words: tuple[str, ...], *, partial: bool) -> str:
    """What is wrong with a command of the Academy; empty if nothing is. A partial one may lack arguments."""
    command: Any = ACADEMY
    context: Any = command.context_class(command, info_name="academy")
    rest = list(words)
    while getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        child = command.commands.get(name)
        if child is None:
            if partial and not name.isalpha():
                return ""  # `academy ...`
            return f"unknown command {name}"
        context = child.context_class(child, info_name=name, parent=context)
        command = child
    try:
        values, extra, _ = command.make_parser(context).parse_args(rest)
    except Exception as problem:  # noqa: BLE001  typer's own usage errors have no public base class
        message = str(getattr(problem, "message", problem))
        return "" if partial and "requires an argument" in message else message
    if extra and not getattr(command, "commands", None):
        return f"unexpected arguments {extra}"
    missing = [parameter.name for parameter in command.params if parameter.required and not values.get(parameter.name)]
    return f"missing {missing}" if missing and not partial else ""


def program_of(command: Command) -> str:
    return command.words[0].rpartition("/")[2]


@pytest.mark.parametrize("command", block_commands(), ids=lambda command: f"{command.page}: {command.shown}")
def test_a_command_in_a_block_exists_with_its_options(command: Command) -> None:
    if program_of(command) == "academy":
        assert problem_with(command.words[1:], partial=False) == ""
    if program_of(command) == "make":
        assert {word for word in command.words[1:] if "=" not in word} <= TARGETS
    if command.words[:2] in {("python", "-m"), (".venv/bin/python", "-m")} and command.words[2].startswith("tests."):
        assert importlib.util.find_spec(command.words[2]) is not None


def test_commands_in_running_text_exist_with_their_options() -> None:
    problems = {}
    for command in inline_commands():
        if program_of(command) == "academy":
            problems[command.page, command.shown] = problem_with(command.words[1:], partial=True)
        elif not {word for word in command.words[1:2] if "=" not in word} <= TARGETS:
            problems[command.page, command.shown] = "no such target of make"
    assert len(problems) > 20
    assert {place: problem for place, problem in problems.items() if problem} == {}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("academy nothing", "unknown command nothing"),
        ("academy lessons nothing", "unknown command nothing"),
        ("academy status --colour", "No such option: --colour"),
        ("academy lessons import", "missing ['files']"),
        ("academy status v1 v2", "unexpected arguments"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str, problem: str) -> None:
    (words,) = split_line(line)
    assert problem in problem_with(words[1:], partial=False)


def test_the_words_of_a_line_are_those_of_its_commands() -> None:
    line = "HOME_OF=x academy ask 'a | b' --json > out.json && make serve | tee log  # a comment"
    assert list(split_line(line)) == [("academy", "ask", "a | b", "--json"), ("make", "serve"), ("tee", "log")]


def test_a_console_block_has_commands_and_output() -> None:
    block = Block("page", "", "console", "$ academy ask \\\n    hello\nacademy is not a command here\n")
    assert block.lines == ["academy ask      hello"]


def test_settings_that_pages_name_exist() -> None:
    names = {str(name) for field in Settings.model_fields.values() for name in field.validation_alias.choices}  # type: ignore[union-attr]
    for page in pages():
        named = set(re.findall(r"\bACADEMY_[A-Z_]*[A-Z]\b(?!\*)", page.read_text(encoding="utf-8")))
        assert named - names - NOT_SETTINGS == set(), page


def test_python_blocks_import_what_exists() -> None:
    imports = 0
    for block in blocks():
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("academy"):
                    module = importlib.import_module(node.module or "")
                    missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                    assert not missing, (block.page, node.module, missing)
                    imports += 1
    assert imports >= 2


def test_links_lead_to_files() -> None:
    for page in pages():
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page, target)


def test_each_expectation_of_the_tutorial_meets_one_command() -> None:
    assert all(line.startswith(".venv/bin/academy ") for line in commands())
    assert {words: sum(key in line for line in commands()) for key, words in EXPECTED.items()} == dict.fromkeys(
        EXPECTED.values(), 1
    )


def test_the_tutorial_names_example_files_that_exist() -> None:
    files = [word for line in commands() for word in line.split() if word.startswith("examples/")]
    assert len(files) == 2
    assert all((ROOT / file).is_file() for file in files)


def test_the_tutorial_page_shows_commands_that_the_campaign_runs() -> None:
    shown = [line for block in blocks(ROOT / "docs" / "tutorial.md") for line in block.lines]
    run = {command.removeprefix(".venv/bin/") for command in commands()} | {"make evolve"}
    assert {line.removeprefix(".venv/bin/") for line in shown if not line.startswith("export ")} <= run


def test_named_blocks_are_there_to_be_run() -> None:
    for name, least in (("tutorial", 8), ("own lessons", 2), ("examinations", 4)):
        assert len(block_named(name).lines) >= least, name
    assert Path(ROOT / "README.md").read_text(encoding="utf-8").count("\n") < 200
