"""An lm-eval task as an informational suite: its texts, filters and metric.

    lm-eval:gsm8k                  a task of the library, with its dataset from the hub or the local cache
    lm-eval:/path/task.yaml        a task of your own, or a folder that contains one

The text, with the task's few-shot examples, becomes the user's turn of the template that the adapter was trained with.
A task of your own that holds code (`!function` and its kind) is refused until a person trusts its files. Scores differ
from those of a leaderboard, which asks a base model without a template, and asks all questions.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from academy.arena.sandbox import Unavailable
from academy.arena.suites.base import Question, Reply, Role, role_in_digests
from academy.arena.suites.lm_eval_code import is_path, require_trust
from academy.errors import InputError
from academy.records import digest_of, stable_fraction
from academy.system.installation import install_remedy

GRADER = "lm-eval task, 1"
PREFIX, EXTRA = "lm-eval:", "lm-eval"
MOST = 200
"""The maximum number of questions, from a fixed sample: an informational suite must be cheap."""
FIRST = ("exact_match", "acc")
"""Metrics that are preferred to a task's others."""
SEED = 1234
UNLIKELY = -1e9
Doc = dict[str, Any]


def lm_eval_suite(
    task: str, role: Role = "informational", most: int = MOST, trusted: Collection[str] = ()
) -> LmEvalSuite | Unavailable:
    """The suite of a task's name or path. `trusted`: digests of files whose code a person trusts.

    Unavailable where the library or the task's data is missing. Raises InputError for an unknown task, one of an
    unsupported kind, and one with code that is not trusted.
    """
    if is_path(task):
        require_trust(task, trusted)
    try:
        import lm_eval.tasks as library
    except ModuleNotFoundError:
        return Unavailable(because=f"lm-eval is not installed. {install_remedy(EXTRA)}")
    except (ImportError, AttributeError) as problem:  # a version that does not work with the installed transformers
        return Unavailable(because=f"lm-eval cannot be imported ({_line(problem)}). {install_remedy(EXTRA)}")
    _close_templates()
    with _quiet():
        name, manager = _manager(library, task)
        try:
            return LmEvalSuite(name, _only(task, manager.load([name])["tasks"]), role, most)
        except InputError:
            raise
        except Exception as problem:  # noqa: BLE001 - a task is third-party code, and its data may be anywhere
            return Unavailable(because=f"The lm-eval task {task} could not be loaded ({_line(problem)}).")


def _close_templates() -> None:
    """Render the library's templates in Jinja's sandbox: in its open environment a template can run any program."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    if isinstance(utils.env, ImmutableSandboxedEnvironment):
        return
    closed = ImmutableSandboxedEnvironment(
        loader=utils.env.loader, undefined=utils.env.undefined, keep_trailing_newline=utils.env.keep_trailing_newline
    )
    closed.filters.update(utils.env.filters)
    utils.env = closed


def missing_library() -> str:
    """Why no task of lm-eval can run here; empty if the library is installed. It is not imported."""
    return "" if find_spec("lm_eval") else f"lm-eval is not installed. {install_remedy(EXTRA)}"


class LmEvalSuite:
    """One task; each document is a question and a group."""

    def __init__(self, name: str, task: Any, role: Role = "informational", most: int = MOST) -> None:
        self.name = f"{PREFIX}{name}"
        self.role: Role = role
        self._task = task
        self._lock = threading.Lock()  # neither metrics nor datasets promise thread safety
        _require_supported(name, task)
        self._choosing = str(task.OUTPUT_TYPE) == "multiple_choice"
        docs = task.eval_docs
        sample = sorted(range(len(docs)), key=lambda n: stable_fraction(self.name, str(n)))[:most]
        self._docs: dict[str, Doc] = {f"{self.name}:{n}": docs[n] for n in sorted(sample)}
        task.set_fewshot_seed(SEED)
        self._questions = tuple(self._question(key, doc) for key, doc in self._docs.items())
        self._metric = self._first_metric()

    @property
    def digest(self) -> str:
        """Covers questions, references, and the task's settings for its metric and filters."""
        config = self._task.config
        settings = [config.metadata, config.metric_list, config.filter_list, config.generation_kwargs]
        questions = [q.model_dump(mode="json") for q in self._questions]
        return digest_of([GRADER, role_in_digests(self.role), self._metric, _plain(settings), questions])

    @property
    def max_new_tokens(self) -> int:
        """The maximum number of tokens that the task sets for an answer; 0 where it sets none."""
        return int((self._task.config.generation_kwargs or {}).get("max_gen_toks", 0)) if not self._choosing else 0

    def questions(self) -> Sequence[Question]:
        """In the order of the documents."""
        return self._questions

    def grade(self, question: Question, reply: Reply) -> float:
        """The task's metric: exact_match or acc if present, otherwise the first one where higher is better."""
        return min(1.0, max(0.0, float(self._results(question, reply)[self._metric])))

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        """The task's other metrics of a single answer."""
        results = self._results(question, reply)
        return {
            name: float(value) for name, value in sorted(results.items()) if name != self._metric and _single(value)
        }

    def control_answer(self, question: Question, *, right: bool) -> Reply:
        """The target; or a wrong choice, or an empty answer."""
        if right:
            return Reply(text=question.reference)
        return Reply(text=next((choice for choice in question.choices if choice != question.reference), ""))

    def _question(self, key: str, doc: Doc) -> Question:
        task = self._task
        shots = task.config.num_fewshot or 0
        text = task.fewshot_context(doc, num_fewshot=shots, gen_prefix=task.doc_to_prefix(doc))
        choices = tuple(str(choice) for choice in task.doc_to_choice(doc)) if self._choosing else ()
        return Question(
            id=key, request=text, reference=_target(task, doc), group=key, slice="new",
            tags=(str(task.OUTPUT_TYPE),), choices=choices,
        )  # fmt: skip

    def _results(self, question: Question, reply: Reply) -> dict[str, Any]:
        doc = self._docs[question.id]
        with self._lock, _quiet():
            if self._choosing:
                choice = question.choices.index(reply.text) if reply.text in question.choices else -1
                responses: list[Any] = [
                    (0.0 if n == choice else UNLIKELY, n == choice) for n in range(len(question.choices))
                ]
                if choice < 0:
                    return dict.fromkeys(self._task.process_results(doc, responses), 0.0)
            else:
                responses = [self._filtered(doc, reply.text)]
            results: dict[str, Any] = self._task.process_results(doc, responses)
            return results

    def _filtered(self, doc: Doc, text: str) -> Any:
        """An answer up to the task's stop text, after the first of the task's filters."""
        from lm_eval.api.instance import Instance

        until = (self._task.config.generation_kwargs or {}).get("until") or []
        for stop in [until] if isinstance(until, str) else until:
            text = text.split(stop, maxsplit=1)[0] if stop else text
        responses = [text] * int(self._task.config.repeats or 1)
        instance = Instance(request_type="generate_until", doc=doc, arguments=("", {}), idx=0, resps=responses)
        self._task._filters[0].apply([instance])
        return next(iter(instance.filtered_resps.values()))

    def _first_metric(self) -> str:
        """The metric that grades; the first correct answer shows which metrics there are."""
        if not self._questions:
            return ""
        first = self._questions[0]
        results = self._results(first, self.control_answer(first, right=True))
        better = self._task.higher_is_better()
        usable = [name for name, value in results.items() if _single(value) and better.get(name, False)]
        if not usable:
            raise InputError(
                f"{self.name} has no metric that scores a single answer from 0 to 1.",
                "Choose a task with exact_match or acc.",
            )
        return next((name for name in FIRST if name in usable), usable[0])


def _require_supported(name: str, task: Any) -> None:
    """Raise InputError for a task that players cannot answer here."""
    kind = str(task.OUTPUT_TYPE)
    if kind not in ("generate_until", "multiple_choice"):
        raise InputError(
            f"The task {name} is of the kind {kind}, which is not supported.",
            "Choose one of the kind generate_until or multiple_choice.",
        )
    if getattr(task, "UNSAFE_CODE", False):
        raise InputError(
            f"The task {name} runs code that a model wrote outside the sandbox.",
            "Use the suite coding, which runs code in the sandbox.",
        )
    if getattr(task, "MULTIMODAL", False) or getattr(task, "multiple_input", 0):
        raise InputError(
            f"The task {name} has images, sounds or several texts per question.",
            "Choose a task with one text per question.",
        )


def _manager(library: Any, task: str) -> tuple[str, Any]:
    """The task's name and its task manager. Raises InputError for an unknown name or path."""
    path = Path(task).expanduser()
    if not is_path(task):
        manager = library.TaskManager()
        names = {*manager.all_tasks, *manager.all_groups, *manager.all_tags}
        if task in names:
            return task, manager
        near = ", ".join(sorted(name for name in names if task.lower() in name.lower())[:5])
        raise InputError(
            f"lm-eval has no task {task}.", f"Choose one of: {near}." if near else "`lm-eval ls tasks` lists all tasks."
        )
    if not path.exists():
        raise InputError(f"The lm-eval task {task} does not exist.", "Check the path.")
    folder = path if path.is_dir() else path.parent
    try:
        manager = library.TaskManager(include_path=str(folder.resolve()), include_defaults=False)
        file = path.resolve()
        names = {name for name in manager.all_subtasks if path.is_dir() or _file_of(manager, name) == file}
    except Exception as problem:
        raise InputError(f"{task} is not a valid lm-eval task ({_line(problem)}).", "Correct the YAML.") from problem
    if len(names) != 1:
        raise InputError(f"{task} contains {len(names)} lm-eval tasks.", "Name a YAML file with one `task:`.")
    return names.pop(), manager


def _file_of(manager: Any, name: str) -> Path:
    entry = manager.task_index[name]
    return Path(str(entry["yaml_path"] if isinstance(entry, dict) else entry.yaml_path)).resolve()


def _only(name: str, tasks: dict[str, Any]) -> Any:
    """The single task. Raises InputError for a group of tasks."""
    if len(tasks) != 1:
        raise InputError(
            f"{name} is a group of {len(tasks)} lm-eval tasks.", f"Choose one: {', '.join(sorted(tasks)[:5])}."
        )
    return next(iter(tasks.values()))


def _target(task: Any, doc: Doc) -> str:
    """The text of the correct answer; the first one of several."""
    target = task.doc_to_target(doc)
    if isinstance(target, list) and target:
        target = target[0]
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    return str(target)


def _single(value: Any) -> bool:
    """Whether a metric is a number for one answer, and not a value to aggregate over all documents."""
    return isinstance(value, int | float) or (hasattr(value, "item") and getattr(value, "ndim", 1) == 0)


def _plain(value: Any) -> Any:
    """The value in JSON; a function becomes its name."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | None) else getattr(value, "__name__", type(value).__name__)


def _line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the library's log messages below ERROR."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
