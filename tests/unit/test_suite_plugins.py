"""Suites from outside: an installed package adds one by an entry point, and an examination asks it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from academy.arena.examination import examine
from academy.arena.suites import table
from academy.arena.suites.base import Generation, Reply
from academy.curriculum.dataset import Dataset
from academy.errors import InputError
from academy.home.identity import claim_home
from academy.loop.choose_suites import choose_suites, guarded_texts
from academy.loop.curate import curate
from academy.loop.home import Home
from academy.settings import load_settings
from academy.store.database import Database
from tests.plugins import install_plugin
from tests.unit.test_cli import Academy, academy

__all__ = ["academy"]

GREETINGS = """
from academy.arena.suites.base import Question, Reply
from academy.arena.suites.factory import SuiteFactory
from academy.arena.suites.fixed import FixedQuestions
from academy.curriculum.decontamination import GuardedSuite


class Greetings(FixedQuestions):
    name = "greetings"
    role = "guard"
    grader = "starts with hello, 1"

    def grade(self, question, reply):
        return float(reply.text.startswith("hello"))

    def details(self, question, reply):
        return {"length": float(len(reply.text) < 80)}

    def control_answer(self, question, *, right):
        return Reply(text="hello" if right else "no")


class Factory(SuiteFactory):
    description = "greets every user; a guard"

    def create(self, context):
        questions = [self.question(n) for n in range(25)]
        return Greetings([q.model_copy(update={"tags": (f"{len(context.held_out)} held out",)}) for q in questions])

    def question(self, number):
        name = f"g{number}"
        return Question(id=name, request=f"greet user {number}", reference="hello", group=name, slice="guard")

    def guarded(self):
        return GuardedSuite("greetings", [self.question(n).request for n in range(25)])
"""


class ScriptedPlayer:
    """Greets, and otherwise gives the answers that it knows."""

    def __init__(self, identity: str, answers: dict[str, str]) -> None:
        self.identity = identity * 64
        self.answers = answers
        self.requests: list[str] = []

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        self.requests += requests
        return [Reply(text="hello" if text.startswith("greet") else self.answers.get(text, "no")) for text in requests]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_database: Callable[[], Database]) -> Iterator[Home]:
    """A home without lessons and repositories."""
    folder = tmp_path / "home"
    claim_home(folder)
    shutil.copy(new_database().url.removeprefix("sqlite:///"), folder / "academy.db")
    monkeypatch.setenv("ACADEMY_HOME", str(folder))
    home = Home(load_settings())
    yield home
    home.database.engine.dispose()


def curated(home: Home) -> Dataset:
    """A dataset of 24 answers with three unrelated wordings each."""
    rng = random.Random(0)

    def words() -> str:
        return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(8))

    pairs = [(words(), answer) for answer in [words() for _ in range(24)] for _ in range(3)]
    for request, answer in pairs:
        home.store.add_lesson(request, answer, "success")
    return curate(home, [])


@pytest.fixture
def greetings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(
        tmp_path, monkeypatch, "academy.suites", "greetings", GREETINGS, "Factory", package="greetings_package"
    )


@pytest.mark.usefixtures("greetings")
def test_suite_of_an_installed_package_is_asked_in_an_examination(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACADEMY_SUITES", "recall, greetings")
    dataset = curated(home)
    entries, skipped = choose_suites(home, dataset, home.ledger.champion(), load_settings().suites)
    assert ([suite.name for suite, _ in entries], skipped) == (["recall", "greetings"], {})
    recall, greetings = (suite for suite, _ in entries)
    assert {q.tags for q in greetings.questions()} == {(f"{len(recall.questions())} held out",)}
    champion = ScriptedPlayer("a", {})
    challenger = ScriptedPlayer("b", {q.request: q.reference for q in recall.questions()})
    examination, _ = examine(champion, challenger, entries, spent_before=0, answers=tmp_path / "answers")
    assert examination.verdict.outcome == "PROMOTE"
    (finding,) = (finding for finding in examination.verdict.findings if finding.suite == "greetings")
    assert (finding.role, finding.unused) == ("guard", "")
    assert finding.whole is not None
    assert (finding.whole.champion, finding.whole.challenger) == (1.0, 1.0)
    assert sum(request.startswith("greet user") for request in champion.requests) == finding.whole.items


@pytest.mark.usefixtures("greetings")
def test_suite_of_an_installed_package_is_listed_and_kept_out_of_training(
    academy: Academy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACADEMY_SUITES", "recall, greetings")
    row = json.loads(academy("suites", "--json").out)["suites"][-1]
    assert row == {"suite": "greetings", "asked": True, "what": "greets every user; a guard", "left_out": ""}
    (texts,) = guarded_texts(load_settings())
    assert (texts.name, len(texts.texts), texts.texts[0]) == ("greetings", 25, "greet user 0")


def test_suite_of_an_installed_package_is_imported_only_when_it_is_selected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(
        tmp_path,
        monkeypatch,
        "academy.suites",
        "broken",
        "import there_is_no_such_module\n",
        "Factory",
        package="broken_package",
    )
    described = table.describe_suites(["recall", "lm-eval:gsm8k"])
    assert [(suite.name, suite.selected) for suite in described][-3:] == [
        ("commits", False), ("broken", False), ("lm-eval:gsm8k", True),
    ]  # fmt: skip
    with pytest.raises(InputError, match="suite 'broken' cannot be loaded from"):
        table.describe_suites(["broken"])


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("greetings", "class Factory: ...", "greetings of an installed package is not a SuiteFactory"),
        ("hello", GREETINGS, r"hello of an installed package has another name in its code \(greetings\)"),
    ],
)
def test_invalid_suite_of_an_installed_package_is_rejected(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, code: str, message: str
) -> None:
    install_plugin(tmp_path, monkeypatch, "academy.suites", name, code, "Factory", package=f"package_of_{name}")
    with pytest.raises(InputError, match=message):
        choose_suites(home, curated(home), home.ledger.champion(), [name])


@pytest.mark.usefixtures("greetings")
def test_suite_file_cannot_have_the_name_of_a_registered_suite(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"suite": "greetings"}\n{"id": "1", "request": "a", "reference": "b"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="has the name of a registered suite, greetings"):
        choose_suites(home, curated(home), home.ledger.champion(), [str(path)])


def test_tasks_of_lm_eval_in_the_settings_are_listed(academy: Academy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_SUITES", "recall,lm-eval:gsm8k, lm-eval:/tasks/ours.yaml")
    suites = {row["suite"]: row for row in json.loads(academy("suites", "--json").out)["suites"]}
    for name in ("lm-eval:gsm8k", "lm-eval:/tasks/ours.yaml"):
        assert suites[name]["asked"]
        assert suites[name]["what"] == "a task of lm-eval; informational"
