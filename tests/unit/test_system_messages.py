"""A system message is not an earlier turn: such examples are held out, and asked with their system message."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest

from academy.arena.examination import examine
from academy.arena.self_check import fewest_groups, undecidable
from academy.arena.suites.base import Generation, Prompt, Question, Reply, as_messages
from academy.arena.suites.recall import RecallSuite
from academy.arena.suites.regression import regression
from academy.curriculum.dataset import Example
from academy.experience.experience import Experience
from academy.lifecycle.forgetting import forget
from academy.loop.decide import count, decide, preview_decision
from academy.loop.dry_run import dry_run
from academy.loop.evolve import EvolutionRequest
from academy.loop.home import Home
from academy.loop.ingest import ingest
from academy.loop.renew_holdout import renew_holdout
from academy.models.messages import Message
from academy.operations.homes import open_home
from academy.store.ledger_rows import VerdictEntry
from tests.ledger_entries import verdict

SYSTEM = "You are the harbour assistant. Answer in one line."
THINGS = (
    "gate", "tower", "crane", "buoy", "lamp", "pump", "valve", "winch", "anchor", "hatch", "rudder", "engine", "boiler",
    "radar", "mast",
)  # fmt: skip
VERBS = ["restart", "inspect", "paint", "grease", "lock", "move", "count", "label"]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Home]:
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ACADEMY_WORKSPACE_ROOT", str(tmp_path))
    monkeypatch.setenv("ACADEMY_TRAINING_INTERVAL_HOURS", "0")
    home = open_home()
    yield home
    home.database.engine.dispose()


def conversations(path: Path, *before: tuple[str, str], verbs: Sequence[str] = VERBS) -> Path:
    """A file of conversations of one request each, after the same messages."""
    turns = [{"role": role, "content": content} for role, content in before]
    lines = [
        {
            "messages": [
                *turns,
                {"role": "user", "content": f"How do I {verb} the {thing}?"},
                {"role": "assistant", "content": f"Use {thing}ctl {verb} and tell the land crew."},
            ]
        }
        for verb in verbs
        for thing in THINGS
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def example(n: int, *context: Message) -> Example:
    lesson = Experience(
        id=f"{n:064}", kind="file", request=f"request {n}", answer=f"answer {n}", outcome="success", context=context,
        provenance={"lesson": f"{n:064}"},
    )  # fmt: skip
    return Example.of(lesson, origin=str(n))


class RecordingPlayer:
    """Answers nothing, and remembers what it is asked."""

    def __init__(self, identity: str) -> None:
        self.identity = identity * 64
        self.prompts: list[Prompt] = []

    def answer(self, requests: Sequence[Prompt], generation: Generation) -> list[Reply]:
        self.prompts += requests
        return [Reply(text=f"answer to {as_messages(request)[-1]['content']}") for request in requests]

    def choose(self, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[Reply]:
        raise NotImplementedError


def test_examples_with_one_system_message_are_held_out_and_training_starts(home: Home, tmp_path: Path) -> None:
    ingest(home, files=[conversations(tmp_path / "one.jsonl", ("system", SYSTEM))])
    result = dry_run(home, EvolutionRequest())
    assert result.decision.train, result.decision.because
    assert f"{result.dataset.holdout} held-out questions" in result.decision.because
    assert not any("later turn" in reason for reason in result.dataset.funnel)
    assert fewest_groups() <= result.dataset.holdout < result.dataset.examples


def test_where_nothing_is_held_out_the_decision_says_so_before_training(home: Home, tmp_path: Path) -> None:
    before = (("user", "Good morning."), ("assistant", "Good morning, what is it?"))
    ingest(home, files=[conversations(tmp_path / "turns.jsonl", *before)])
    result = dry_run(home, EvolutionRequest())
    assert not result.decision.train
    assert "no challenger could be promoted: no question is held out; import lessons with 19" in result.decision.because
    preview = preview_decision(home, force=False)
    assert (preview.decision.train, preview.placement) == (False, None)
    assert "no question is held out" in preview.decision.because
    forced = dry_run(home, EvolutionRequest(force=True))
    assert forced.decision.forced


def test_too_few_answers_to_decide_anything_are_shown_before_training(home: Home, tmp_path: Path) -> None:
    rows = [
        {
            "situation": f"{verb} of {thing}, how?",
            "action": f"Ask the {verb} team of the harbour.",
            "outcome": "success",
        }
        for verb in VERBS
        for thing in THINGS
    ]
    path = tmp_path / "lessons.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = dry_run(home, EvolutionRequest(lessons=(path,)))
    assert not result.decision.train
    assert f"have {len(VERBS)} different answers (minimum 19)" in result.decision.because


def test_a_decision_without_a_dataset_says_nothing_about_questions(home: Home) -> None:
    decision = decide(home, force=False, counts=count(home))
    assert "held-out questions" not in [reason.name for reason in decision.reasons]


@pytest.mark.parametrize(("number", "possible"), [(0, False), (18, False), (19, True), (200, True)])
def test_a_verdict_needs_enough_groups(number: int, possible: bool) -> None:
    questions = RecallSuite([example(n) for n in range(number)], 0).questions()
    assert (undecidable(questions, 0) == "") is possible
    assert "the error budget of 26 examinations is spent" in undecidable(questions, 26)


def test_wordings_of_few_answers_are_not_enough_groups() -> None:
    questions = [q.model_copy(update={"group": str(int(q.id) % 5)}) for q in RecallSuite(
        [example(n) for n in range(100)], 0).questions()]  # fmt: skip
    assert "have 5 different answers (minimum 19)" in undecidable(questions, 0)


def test_recall_and_regression_ask_with_the_system_message() -> None:
    context = Message(role="system", content=SYSTEM)
    plain, harbour = example(1), example(2, context)
    first, second = RecallSuite([plain, harbour], 0).questions()
    assert first.prompt == first.key == "request 1"
    assert "system" not in first.model_dump()
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "request 2"}]
    assert second.prompt == messages
    lesson = Experience(
        id="x", kind="file", request="request 2", answer="answer", outcome="success", context=(context,), provenance={}
    )
    assert [q.prompt for q in regression([lesson]).questions() if q.id == "x"] == [messages]


def test_the_same_request_after_another_system_message_is_another_question() -> None:
    question = Question(id="a", request="request", reference="answer", group="g", slice="new", system=SYSTEM)
    others = [question.model_copy(update={"system": system}) for system in ("", "Answer in Polish.")]
    assert len({question.key, *(other.key for other in others)}) == 3


def test_players_are_asked_with_the_system_message_and_answers_are_forgotten(home: Home) -> None:
    line = {"messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Who paints the buoys?"},
                         {"role": "assistant", "content": "The sea team paints them."}]}  # fmt: skip
    path = home.settings.folder("batches") / "one.jsonl"
    path.write_text(json.dumps(line) + "\n")
    ingest(home, files=[path])
    (lesson,) = home.store.read()
    examples = [Example.of(lesson, origin="o"), *(example(n) for n in range(30))]
    players = (RecordingPlayer("a"), RecordingPlayer("b"))
    answers = home.settings.folder("answers")
    generation = Generation(max_new_tokens=32)
    examine(*players, [(RecallSuite(examples, 0), generation)], spent_before=0, answers=answers)
    asked = [prompt for prompt in players[0].prompts if not isinstance(prompt, str)]
    assert asked == [line["messages"][:2]]
    cached = [orjson.loads(file.read_bytes()) for file in answers.glob("*.json")]
    assert sum(key == f"Who paints the buoys?\0{SYSTEM}" for keys in cached for key in keys) == 2
    forget(home.database, home.settings.home.resolve(), home.mlflow, lesson.id, "")
    left = b"".join(file.read_bytes() for file in answers.glob("*.json"))
    assert b"buoys" not in left


def test_renewal_holds_out_requests_with_a_system_message(home: Home, tmp_path: Path) -> None:
    ingest(home, files=[conversations(tmp_path / "one.jsonl", ("system", SYSTEM), verbs=VERBS[:4])])
    first = dry_run(home, EvolutionRequest()).dataset
    entry: VerdictEntry = verdict("HOLD", spends=True, cursor=home.store.newest(), dataset=first.digest, order="1")
    home.ledger.append("verdict:1", entry)
    ingest(
        home, files=[conversations(tmp_path / "two.jsonl", ("system", SYSTEM), verbs=["weigh", "tow", "burn", "rent"])]
    )
    renewal = renew_holdout(home)
    assert renewal.retired == first.holdout
    assert renewal.groups >= 20
