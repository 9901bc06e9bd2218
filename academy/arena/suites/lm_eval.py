"""A task of lm-eval as a suite: its texts, filters and metric, asked of our players and told beside the verdict.

    lm-eval:gsm8k                  a task that the library brings, from its dataset on the hub or in the local cache
    lm-eval:/path/task.yaml        a task of your own; so is a folder that holds one

The text, with the task's own few shots, goes into the user's turn of the template that the adapter was trained with.
A task is code (`!function`): take one only from where you would take a program. Scores are not those of a leaderboard:
these ask a base model without a template, and all of the questions.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from academy.arena.sandbox import Unavailable
from academy.arena.suites.base import Question, Reply, Role
from academy.errors import InputError
from academy.records import digest_of, stable_fraction

GRADER = "lm-eval task, 1"
PREFIX = "lm-eval:"
MOST = 200
"""Questions at most, drawn once and for all: the suite decides nothing, so it must not cost much."""
FIRST = ("exact_match", "acc")
"""Metrics that go before a task's others."""
SEED = 1234
UNLIKELY = -1e9
INSTALL = "Install the extra: pip install 'the-academy[lm-eval]'."
Doc = dict[str, Any]


def lm_eval_suite(task: str, role: Role = "told", most: int = MOST) -> LmEvalSuite | Unavailable:
    """The suite of a task's name or path.

    Unavailable where the library or the task's data are missing. Raises InputError for an unknown task and for one
    that cannot be asked here.
    """
    try:
        import lm_eval.tasks as library
    except ModuleNotFoundError:
        return Unavailable(because=f"lm-eval is not installed here. {INSTALL}")
    except (ImportError, AttributeError) as problem:  # one that does not go with our transformers
        return Unavailable(because=f"lm-eval cannot be used here ({_line(problem)}). {INSTALL}")
    with _quiet():
        name, manager = _manager(library, task)
        try:
            return LmEvalSuite(name, _only(task, manager.load([name])["tasks"]), role, most)
        except InputError:
            raise
        except Exception as problem:  # noqa: BLE001 - a task is foreign code, and its data may be anywhere
            return Unavailable(because=f"lm-eval's {task} could not be loaded ({_line(problem)}).")


class LmEvalSuite:
    """One task; each document is a question that stands alone."""

    def __init__(self, name: str, task: Any, role: Role = "told", most: int = MOST) -> None:
        self.name = f"{PREFIX}{name}"
        self.role: Role = role
        self._task = task
        self._lock = threading.Lock()  # neither metrics nor datasets promise to bear threads
        _refuse(name, task)
        self._choosing = str(task.OUTPUT_TYPE) == "multiple_choice"
        docs = task.eval_docs
        drawn = sorted(range(len(docs)), key=lambda n: stable_fraction(self.name, str(n)))[:most]
        self._docs: dict[str, Doc] = {f"{self.name}:{n}": docs[n] for n in sorted(drawn)}
        task.set_fewshot_seed(SEED)
        self._questions = tuple(self._question(key, doc) for key, doc in self._docs.items())
        self._metric = self._first_metric()

    @property
    def digest(self) -> str:
        """Covers questions, references, and what the task says of its metric and filters."""
        config = self._task.config
        settings = [config.metadata, config.metric_list, config.filter_list, config.generation_kwargs]
        questions = [q.model_dump(mode="json") for q in self._questions]
        return digest_of([GRADER, self.role, self._metric, _plain(settings), questions])

    @property
    def max_new_tokens(self) -> int:
        """Room that the task asks for an answer; 0 where it does not say."""
        return int((self._task.config.generation_kwargs or {}).get("max_gen_toks", 0)) if not self._choosing else 0

    def questions(self) -> Sequence[Question]:
        """In the order of the documents."""
        return self._questions

    def grade(self, question: Question, reply: Reply) -> float:
        """The task's metric: exact_match or acc where it has them, else the first where more is better."""
        return min(1.0, max(0.0, float(self._results(question, reply)[self._metric])))

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        """The task's other metrics of a single answer."""
        found = self._results(question, reply)
        return {name: float(value) for name, value in sorted(found.items()) if name != self._metric and _single(value)}

    def planted(self, question: Question, *, right: bool) -> Reply:
        """The target; or nothing, or a choice that is wrong."""
        if right:
            return Reply(text=question.reference)
        return Reply(text=next((one for one in question.choices if one != question.reference), ""))

    def _question(self, key: str, doc: Doc) -> Question:
        task = self._task
        shots = task.config.num_fewshot or 0
        text = task.fewshot_context(doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc))
        choices = tuple(str(one) for one in task.doc_to_choice(doc)) if self._choosing else ()
        return Question(
            id=key, request=text, reference=_target(task, doc), group=key, slice="new",
            tags=(str(task.OUTPUT_TYPE),), choices=choices,
        )  # fmt: skip

    def _results(self, question: Question, reply: Reply) -> dict[str, Any]:
        doc = self._docs[question.id]
        with self._lock, _quiet():
            if self._choosing:
                chosen = question.choices.index(reply.text) if reply.text in question.choices else -1
                said: list[Any] = [
                    (0.0 if n == chosen else UNLIKELY, n == chosen) for n in range(len(question.choices))
                ]
                if chosen < 0:
                    return dict.fromkeys(self._task.process_results(doc, said), 0.0)
            else:
                said = [self._filtered(doc, reply.text)]
            found: dict[str, Any] = self._task.process_results(doc, said)
            return found

    def _filtered(self, doc: Doc, text: str) -> Any:
        """An answer up to where it should have ended, as the first of the task's filters gives it."""
        from lm_eval.api.instance import Instance

        until = (self._task.config.generation_kwargs or {}).get("until") or []
        for stop in [until] if isinstance(until, str) else until:
            text = text.split(stop, maxsplit=1)[0] if stop else text
        said = [text] * int(self._task.config.repeats or 1)
        instance = Instance(request_type="generate_until", doc=doc, arguments=("", {}), idx=0, resps=said)
        self._task._filters[0].apply([instance])
        return next(iter(instance.filtered_resps.values()))

    def _first_metric(self) -> str:
        """Which metric grades, found out with the first right answer."""
        if not self._questions:
            return ""
        first = self._questions[0]
        found = self._results(first, self.planted(first, right=True))
        better = self._task.higher_is_better()
        usable = [name for name, value in found.items() if _single(value) and better.get(name, False)]
        if not usable:
            raise InputError(
                f"{self.name} has no metric that scores one answer from 0 to 1.",
                "Choose a task with exact_match or acc.",
            )
        return next((name for name in FIRST if name in usable), usable[0])


def _refuse(name: str, task: Any) -> None:
    """What cannot be asked: raises InputError."""
    kind = str(task.OUTPUT_TYPE)
    if kind not in ("generate_until", "multiple_choice"):
        raise InputError(
            f"The task {name} is of the kind {kind}, which our players are not asked.",
            "Choose one of the kind generate_until or multiple_choice.",
        )
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(
            f"The task {name} runs programs that a model wrote, outside the sandbox.",
            "The suite coding runs them inside.",
        )
    if getattr(task, "MULTIMODAL", False) or getattr(task, "multiple_input", 0):
        raise InputError(
            f"The task {name} asks with pictures, sounds or several texts at once.", "Choose a task of one text."
        )


def _manager(library: Any, task: str) -> tuple[str, Any]:
    """The task's name, and what loads it. Raises InputError where there is none of that name or path."""
    path = Path(task).expanduser()
    if "/" not in task and path.suffix not in (".yaml", ".yml"):
        manager = library.TaskManager()
        names = {*manager.all_tasks, *manager.all_groups, *manager.all_tags}
        if task in names:
            return task, manager
        near = ", ".join(sorted(name for name in names if task.lower() in name.lower())[:5])
        raise InputError(
            f"lm-eval knows no task {task}.", f"Choose one of: {near}." if near else "`lm-eval ls tasks` lists them."
        )
    if not path.exists():
        raise InputError(f"There is no lm-eval task {task}.", "Check the path.")
    folder = path if path.is_dir() else path.parent
    try:
        manager = library.TaskManager(include_path=str(folder.resolve()), include_defaults=False)
        file = path.resolve()
        names = {name for name in manager.all_subtasks if path.is_dir() or _file_of(manager, name) == file}
    except Exception as problem:
        raise InputError(
            f"{task} cannot be read as an lm-eval task ({_line(problem)}).", "Correct the YAML."
        ) from problem
    if len(names) != 1:
        raise InputError(f"{task} holds {len(names)} lm-eval tasks.", "Name one YAML file with a `task:` of its own.")
    return names.pop(), manager


def _file_of(manager: Any, name: str) -> Path:
    entry = manager.task_index[name]
    return Path(str(entry["yaml_path"] if isinstance(entry, dict) else entry.yaml_path)).resolve()


def _only(name: str, tasks: dict[str, Any]) -> Any:
    """The task, where it is one. Raises InputError."""
    if len(tasks) != 1:
        raise InputError(
            f"lm-eval's {name} is a group of {len(tasks)} tasks.", f"Choose one: {', '.join(sorted(tasks)[:5])}."
        )
    return next(iter(tasks.values()))


def _target(task: Any, doc: Doc) -> str:
    """The right answer's text; the first where there are several."""
    target = task.doc_to_target(doc)
    if isinstance(target, list) and target:
        target = target[0]
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    return str(target)


def _single(value: Any) -> bool:
    """Whether a metric is a number already, and not something to be gathered over all documents."""
    return isinstance(value, int | float) or (hasattr(value, "item") and getattr(value, "ndim", 1) == 0)


def _plain(value: Any) -> Any:
    """The same in JSON; a function is known by its name."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float | None) else getattr(value, "__name__", type(value).__name__)


def _line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """The library tells much that nobody asked."""
    log = logging.getLogger("lm_eval")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
