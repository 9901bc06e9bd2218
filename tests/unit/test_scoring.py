"""Log-probabilities of continuations by the seed model, and multiple-choice questions in an examination."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from academy.arena.answers import CHUNK
from academy.arena.endpoint import Endpoint, EndpointPlayer
from academy.arena.examination import Cost, examine
from academy.arena.suites.base import Generation, Question, Reply
from academy.errors import AdapterError, ExaminationError
from academy.loop.players import likeliest
from academy.models.base_model import resolve
from academy.records import canonical

WORDS = ("how", "do", "we", "restart", "the", "billing", "service", "after", "a", "deployment", "and", "what", "first")
GENERATION = Generation(max_new_tokens=32)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Any]:
    """The seed model, on one thread: small passes on a busy machine are slower on many."""
    import torch

    from academy.serving.runtimes.peft import PeftRuntime

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield PeftRuntime(resolve("seed"))
    torch.set_num_threads(threads)


def some_pairs(prompts: int, choices: int, seed: int = 1) -> list[tuple[str, str]]:
    """Prompts of 1 to 40 words with several continuations each, of 1 to 6 words."""
    chance = random.Random(seed)
    found = []
    for _ in range(prompts):
        prompt = " ".join(chance.choices(WORDS, k=chance.randint(1, 40)))
        found += [(prompt, " " + " ".join(chance.choices(WORDS, k=chance.randint(1, 6)))) for _ in range(choices)]
    return found


def naive(runtime: Any, prompt: Sequence[int], follower: Sequence[int]) -> float:
    """One pair, one pass, all logits."""
    import torch

    context = runtime.base.context
    ids = [*prompt, *follower][-(context + 1) :]
    with torch.no_grad():
        logits = runtime._model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    return float(sum(logits[n - 1, ids[n]] for n in range(len(ids) - len(follower), len(ids))))


def test_scores_equal_those_of_single_pairs(runtime: Any) -> None:
    template = runtime._templates["base"]
    pairs = some_pairs(10, 3)
    found = runtime.loglikelihoods(pairs, "base")
    for (request, continuation), score in zip(pairs, found, strict=True):
        prompt = template.prompt([{"role": "user", "content": request}])
        follower = template.tokenizer(continuation, add_special_tokens=False)["input_ids"]
        assert score == pytest.approx(naive(runtime, prompt, follower), abs=1e-4)


def test_raw_scores_equal_those_of_the_whole_text(runtime: Any) -> None:
    tokenizer = runtime._templates["base"].tokenizer
    pairs = [*some_pairs(6, 2), ("Answer:  ", "yes"), ("Answer:\n", "A"), ("", "yes, always"), ("x", "")]
    found = runtime.loglikelihoods(pairs, "base", raw=True)
    for (context, continuation), score in zip(pairs, found, strict=True):
        known = tokenizer.encode(context.rstrip()) or [tokenizer.bos_token_id]
        whole = tokenizer.encode(context + continuation)
        follower = whole[len(known) :] if context else whole
        if not follower:
            assert score == 0.0
            continue
        assert score == pytest.approx(naive(runtime, known, follower), abs=1e-4)


def test_scores_do_not_depend_on_the_order(runtime: Any) -> None:
    pairs = some_pairs(40, 2)
    found = dict(zip(pairs, runtime.loglikelihoods(pairs, "base"), strict=True))
    mixed = random.Random(2).sample(pairs, len(pairs))
    assert runtime.loglikelihoods(mixed, "base") == [found[pair] for pair in mixed]
    alone = runtime.loglikelihoods(pairs[:3], "base")
    assert alone == pytest.approx([found[pair] for pair in pairs[:3]], abs=1e-4)


def test_conversations_single_tokens_and_empty_continuations_are_scored(runtime: Any) -> None:
    turns = [
        {"role": "user", "content": "Yes or no?"}, {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "Again?"},
    ]  # fmt: skip
    pairs = [(turns, "y"), (turns, "n"), (turns, ""), ("Again?", "y")]
    found = runtime.loglikelihoods(pairs, "base")
    assert found[2] == 0.0
    assert len(set(found)) == 4
    assert max(found[0], found[1], found[3]) < 0
    assert runtime.loglikelihoods([], "base") == []


def test_too_long_prompt_loses_its_beginning(runtime: Any) -> None:
    tokenizer = runtime._templates["base"].tokenizer
    context, continuation = "the service " * 800, " after a deployment"
    known, whole = tokenizer.encode(context.rstrip()), tokenizer.encode(context + continuation)
    assert len(known) > runtime.base.context
    (found,) = runtime.loglikelihoods([(context, continuation)], "base", raw=True)
    assert found == pytest.approx(naive(runtime, known, whole[len(known) :]), abs=1e-3)
    with pytest.raises(ExaminationError, match="longer than the model's context"):
        runtime.loglikelihoods([("x", context)], "base")


def test_unloaded_adapter_is_refused(runtime: Any) -> None:
    with pytest.raises(AdapterError):
        runtime.loglikelihoods([("a", "b")], "f" * 64)


def test_likeliest_choice_is_selected(runtime: Any) -> None:
    choices = ("yes", "no", "The billing service is restarted.", "yes")
    scores = runtime.loglikelihoods([("Yes or no?", choice) for choice in choices], "base")
    (reply,) = likeliest(runtime, [("Yes or no?", choices)], "base")
    assert reply.text == choices[scores.index(max(scores))]
    equal: Any = SimpleNamespace(loglikelihoods=lambda pairs, adapter: [0.0] * len(pairs))
    assert [reply.text for reply in likeliest(equal, [("q", ("a", "b")), ("r", ("c",))], "base")] == ["a", "c"]


# Generated answers


def test_greedy_answers_equal_those_of_transformers(runtime: Any) -> None:
    from academy.serving.runtimes.peft import _in_batches

    requests = [prompt for prompt, _ in some_pairs(24, 1)] + [
        "Repeat exactly: lantern",
        "Repeat exactly: " + "ab " * 30,
    ]
    assert runtime._plain
    ours = runtime.replies(requests, "base", 24)
    runtime._plain = False
    try:
        theirs = runtime.replies(requests, "base", 24)
    finally:
        runtime._plain = True
    assert [r.model_copy(update={"first": None}) for r in ours] == [
        r.model_copy(update={"first": None}) for r in theirs
    ]
    assert {reply.stopped for reply in ours} == {True, False}
    assert [len(batch) for batch in _in_batches([[1] * n for n in (10, 20_000, 20_000)], 8)] == [1, 1, 1]


def test_model_with_own_generation_settings_uses_transformers(runtime: Any) -> None:
    from academy.serving.runtimes.decoding import is_plain

    settings = runtime._model.generation_config
    settings.repetition_penalty = 1.1
    try:
        assert not is_plain(runtime._model)
    finally:
        settings.repetition_penalty = None
    assert is_plain(runtime._model)


# In the arena


class InTestSuite:
    """Questions of choices beside written ones with the same requests."""

    name, role, digest = "mixed", "informational", "d" * 64

    def __init__(self, groups: int = 2 * CHUNK) -> None:
        common: Any = {"reference": "right", "slice": "new"}
        self._questions = [
            Question(id=f"{n}-{k}", request=f"request {n}", group=str(n), choices=choices, **common)
            for n in range(groups)
            for k, choices in enumerate(((), ("wrong", "right"), ("wrong", "right", "other")))
        ]

    def questions(self) -> Sequence[Question]:
        return self._questions

    def grade(self, question: Question, reply: Reply) -> float:
        return float(reply.text == question.reference)

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        return {}

    def control_answer(self, question: Question, *, right: bool) -> Reply:
        return Reply(text="right" if right else "wrong")


class InTestPlayer:
    """Writes one thing and chooses by place; counts what it is asked."""

    def __init__(self, identity: str, place: int) -> None:
        self.identity, self.place = identity * 64, place
        self.written: list[str] = []
        self.chosen: list[tuple[str, tuple[str, ...]]] = []

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        self.written += requests
        return [Reply(text="wrong") for _ in requests]

    def choose(self, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[Reply]:
        self.chosen += asked
        return [Reply(text=choices[self.place]) for _, choices in asked]


def examination_of(players: tuple[Any, Any], folder: Path) -> tuple[Any, tuple[Cost, Cost]]:
    suite: Any = InTestSuite()
    return examine(*players, [(suite, GENERATION)], spent_before=0, answers=folder)


def test_examination_with_choices_uses_the_answer_cache(tmp_path: Path) -> None:
    players = (InTestPlayer("a", 0), InTestPlayer("b", 1))
    found, costs = examination_of(players, tmp_path)
    (result,) = found.results
    asked = len(result.items)
    assert {item.champion for item in result.items} == {0.0}
    by_kind = {kind: {i.challenger for i in result.items if i.question.endswith(kind)} for kind in ("-0", "-1", "-2")}
    assert by_kind == {"-0": {0.0}, "-1": {1.0}, "-2": {1.0}}
    assert costs[0].asked == asked
    for player in players:  # the same request among other choices is another question
        assert len(player.written) == len(set(player.written)) == asked // 3
        assert len(player.chosen) == len(set(player.chosen)) == asked // 3 * 2
    again, costs = examination_of((InTestPlayer("a", 0), InTestPlayer("b", 1)), tmp_path)
    assert canonical(again) == canonical(found)
    assert [(cost.asked, cost.kept) for cost in costs] == [(0, asked)] * 2


def test_questions_without_choices_are_written_down_as_before() -> None:
    question = Question(id="q", request="r", reference="a", group="g", slice="new")
    assert "choices" not in question.model_dump(mode="json")
    assert question.key == "r"
    among = Question(**question.model_dump(), choices=("a", "b"))
    assert Question.model_validate(among.model_dump(mode="json")) == among
    assert len({question.key, among.key, Question(**question.model_dump(), choices=("a", "c")).key}) == 3


def test_an_endpoint_cannot_choose(tmp_path: Path) -> None:
    endpoint = EndpointPlayer(Endpoint.parse("http://localhost:9/v1#model"))
    with pytest.raises(ExaminationError, match="cannot choose among 2 answers") as told:
        endpoint.choose([("request", ("a", "b"))])
    assert told.value.remedy

    class Writing(EndpointPlayer):
        def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
            return [Reply(text="") for _ in requests]

    found, _ = examination_of((Writing(endpoint.endpoint), InTestPlayer("b", 1)), tmp_path)
    assert found.verdict.outcome == "CANNOT DECIDE"
    assert "cannot choose among" in found.verdict.because
