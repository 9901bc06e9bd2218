"""`python -m bench.generation`: the cost of an examination in CPU seconds, compared with lm-eval's HFLM.

The bundled seed model answers a local lm-eval task that this module writes. Both sides have one thread (with more,
waiting threads count as work on a busy machine), batches of the same size, float32, and the same prompts. The chat
template is rendered before the measurement for HFLM, and within it for the Academy. Medians of several rounds,
alternating. `--short` uses a quarter of the questions.

    batches      all requests together, compared with one by one
    generation   compared with HFLM.generate_until: same prompts, same token limit; answers and scores are compared
    likelihoods  compared with HFLM.loglikelihood: choices of some words, choices of one letter, one continuation
    champion     an examination, and a second one with another challenger: the champion's answers are cached
"""

from __future__ import annotations

import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from academy.arena.examination import examine
from academy.arena.suites.base import Generation, Reply
from academy.arena.suites.lm_eval import LmEvalSuite, lm_eval_suite
from academy.arena.suites.regression import FILE as GENERAL
from academy.loop.players import likeliest
from academy.models.base_model import resolve
from academy.system.installation import install_remedy
from bench.machine import too_busy

LESSONS = sorted((Path(__file__).parent.parent / "examples/lessons").glob("*.jsonl"))
QUESTIONS, TOKENS, ROUNDS, BATCH = 128, 64, 5, 64  # 64 tokens: the arena's limit for these; HFLM takes no less
Pairs = list[tuple[str, str]]
TASK = """
task: bench-{kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: request
doc_to_target: {target}
{more}
metric_list:
  - {{metric: {metric}, aggregation: mean, higher_is_better: true}}
"""
KINDS = {
    "generate_until": {
        "target": "answer", "metric": "exact_match",
        "more": f"generation_kwargs: {{until: [], max_gen_toks: {TOKENS}, do_sample: false}}",
    },
    "multiple_choice": {"target": "number", "metric": "acc", "more": "doc_to_choice: choices"},
}  # fmt: skip


def main() -> int:
    """Measure and print a table."""
    if too_busy():
        return 2
    logging.disable(logging.WARNING)
    os.environ["TQDM_DISABLE"] = "1"  # before the libraries that read it
    import torch

    from academy.serving.runtimes.peft import PeftRuntime

    torch.set_num_threads(1)
    runtime = PeftRuntime(resolve("seed"))
    with tempfile.TemporaryDirectory(prefix="academy-bench-") as place:
        try:
            peer: Any = Peer(str(runtime.base.path))
        except ModuleNotFoundError:
            print(f"lm-eval is not installed, so there is nothing to compare with. {install_remedy('lm-eval')}")
            return 2
        count = QUESTIONS // 4 if "--short" in sys.argv else QUESTIONS
        paths = {kind: write_task(Path(place), kind, count) for kind in KINDS}
        suites: dict[str, Any] = {kind: lm_eval_suite(str(path), role="target") for kind, path in paths.items()}
        print(f"{count} questions, load {os.getloadavg()[0]:.1f}, one thread, CPU seconds, median of {ROUNDS} rounds")
        print(f"{'':38}{'ours':>9}{'other':>9}{'ratio':>8}  goal")
        batches(runtime, suites["generate_until"])
        generation(runtime, peer, suites["generate_until"], paths["generate_until"])
        likelihoods(runtime, peer, suites["multiple_choice"], paths["multiple_choice"], count)
        champion(runtime, suites["generate_until"], Path(place) / "answers")
    return 0


class Peer:
    """lm-eval's HFLM on the same folder."""

    def __init__(self, path: str) -> None:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        self.instance = Instance
        self.model: Any = HFLM(pretrained=path, device="cpu", dtype="float32", batch_size=BATCH)

    def written(self, prompts: Sequence[str]) -> list[str]:
        """Greedy answers to rendered prompts."""
        settings = {"until": [], "max_gen_toks": TOKENS, "do_sample": False}
        found = self.model.generate_until(self._instances("generate_until", [(p, settings) for p in prompts]), True)
        return list(found)

    def likely(self, pairs: Pairs) -> list[float]:
        """Log-probabilities."""
        return [score for score, _ in self.model.loglikelihood(self._instances("loglikelihood", pairs), True)]

    def rendered(self, text: str) -> str:
        """A text in the user's turn."""
        return str(self.model.apply_chat_template([{"role": "user", "content": text}]))

    def scored(self, path: Path, metric: str) -> float:
        """The library's own score of the task."""
        import datasets

        datasets.disable_progress_bars()
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(path.parent), include_defaults=False)
        name = f"bench-{path.stem}"
        found = simple_evaluate(
            self.model, tasks=[name], task_manager=manager, apply_chat_template=True, bootstrap_iters=0
        )
        return float(found["results"][name][f"{metric},none"])

    def _instances(self, kind: str, arguments: Sequence[Any]) -> list[Any]:
        return [self.instance(kind, {}, one, n) for n, one in enumerate(arguments)]


def batches(runtime: Any, suite: LmEvalSuite) -> None:
    """All requests together, and one by one."""
    requests = [q.request for q in suite.questions()]
    (ours, alone), (said, by_one) = timed(
        lambda: [reply.text for reply in runtime.replies(requests, "base", TOKENS)],
        lambda: [runtime.replies([request], "base", TOKENS)[0].text for request in requests],
    )
    show("batches against one by one", ours, alone, 4.0, f"{unlike(said, by_one)} answers differ")


def generation(runtime: Any, peer: Peer, suite: LmEvalSuite, path: Path) -> None:
    """Written answers."""
    questions = suite.questions()
    prompts = [peer.rendered(q.request) for q in questions]
    (ours, theirs), (said, heard) = timed(
        lambda: [reply.text for reply in runtime.replies([q.request for q in questions], "base", TOKENS)],
        lambda: [text.strip() for text in peer.written(prompts)],
    )
    mine = statistics.mean(suite.grade(q, Reply(text=text)) for q, text in zip(questions, said, strict=True))
    scores = f"exact_match {mine:.4f}, by lm-eval {peer.scored(path, 'exact_match'):.4f}"
    show("generation against HFLM", ours, theirs, 0.95, f"{unlike(said, heard)} answers differ; {scores}")


def likelihoods(runtime: Any, peer: Peer, suite: LmEvalSuite, path: Path, count: int) -> None:
    """Log-probabilities of raw pairs, so that both sides encode the same texts."""
    questions = suite.questions()
    words = [(peer.rendered(q.request), choice) for q in questions for choice in q.choices]
    letters = [(peer.rendered(q.request), letter) for q in questions for letter in "ABCD"]
    single = [(peer.rendered(request), answer) for request, answer in lessons(2 * count)]
    for name, pairs in (("choices of words", words), ("choices of a letter", letters), ("one continuation", single)):
        (ours, theirs), (mine, other) = timed(
            lambda some=pairs: runtime.loglikelihoods(some, "base", raw=True), lambda some=pairs: peer.likely(some)
        )
        apart = max(abs(a - b) for a, b in zip(mine, other, strict=True))
        goal = 1.2 if name == "choices of words" else None
        show(f"likelihoods, {name}", ours, theirs, goal, f"{len(pairs)} pairs, at most {apart:.1e} apart")
    chosen = likeliest(runtime, [(q.request, q.choices) for q in questions], "base")
    mine = statistics.mean(suite.grade(q, reply) for q, reply in zip(questions, chosen, strict=True))
    print(f"{'':38}acc {mine:.4f} (answers encoded as in training), by lm-eval {peer.scored(path, 'acc'):.4f}")


def champion(runtime: Any, suite: LmEvalSuite, answers: Path) -> None:
    """Two examinations of one champion."""

    class Player:
        def __init__(self, name: str) -> None:
            self.identity = name * 64

        def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
            return list(runtime.replies(requests, "base", generation.max_new_tokens))

    seconds, asked = [], []
    for challenger in "bc":
        players: Any = (Player("a"), Player(challenger))
        began = time.process_time()
        _, costs = examine(
            *players, [(suite, Generation(max_new_tokens=TOKENS))], spent_before=0, answers=answers
        )  # fmt: skip
        seconds.append(time.process_time() - began)
        asked.append([cost.asked for cost in costs])
    note = f"questions asked: {sum(asked[0])}, then {sum(asked[1])} (champion {asked[1][0]})"
    show("champion cached against asked again", seconds[1], seconds[0], 1.8, note)


def lessons(count: int) -> list[tuple[str, str]]:
    """Requests and answers in random order: general questions, of which the seed model knows some, then lessons."""
    found: list[tuple[str, str]] = []
    for paths in ([GENERAL], LESSONS):
        rows = [orjson.loads(line) for path in paths for line in path.read_bytes().splitlines()]
        pairs = {
            (row.get("request") or row.get("situation"), row.get("reference") or row.get("action")) for row in rows
        }
        known = sorted((request, answer) for request, answer in pairs if request and answer)
        found += random.Random(1).sample(known, min(len(known), count - len(found)))
    return random.Random(1).sample(found, count)


def write_task(place: Path, kind: str, count: int) -> Path:
    """A task of lessons: generated answers, or the correct one of four."""
    chance = random.Random(2)
    taken = lessons(count)
    rows = []
    for request, answer in taken:
        others = chance.sample(sorted({other for _, other in taken} - {answer}), 3)
        choices = chance.sample([answer, *others], 4)
        rows.append({"request": request, "answer": answer, "choices": choices, "number": choices.index(answer)})
    data = place / f"{kind}.jsonl"
    data.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    path = place / f"{kind}.yaml"
    path.write_text(TASK.format(kind=kind, data=data, **KINDS[kind]), encoding="utf-8")
    return path


def timed(*sides: Callable[[], Any]) -> tuple[list[float], list[Any]]:
    """Median CPU seconds of each side, and its result. Each side runs once before."""
    found = [side() for side in sides]
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS):
        for side, times in zip(sides, seconds, strict=True):
            began = time.process_time()
            side()
            times.append(time.process_time() - began)
    return [statistics.median(times) for times in seconds], found


def unlike(one: Sequence[str], other: Sequence[str]) -> int:
    """The number of texts that differ."""
    return sum(a != b for a, b in zip(one, other, strict=True))


def show(name: str, ours: float, other: float, goal: float | None, note: str) -> None:
    """A line of the table."""
    wanted = "" if goal is None else f"{goal:.2f} {'met' if other / ours >= goal else 'MISSED'}"
    print(f"{name:38}{ours:9.2f}{other:9.2f}{other / ours:8.2f}  {wanted:12} {note}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
