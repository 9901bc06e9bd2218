"""Suites by name: those of this project, those of installed packages, files and lm-eval tasks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from academy.arena.sandbox import Unavailable
from academy.arena.suites.base import Suite
from academy.arena.suites.factory import SuiteContext, SuiteFactory
from academy.arena.suites.lm_eval import PREFIX, lm_eval_suite
from academy.arena.suites.user import UserSuite
from academy.curriculum.decontamination import GuardedSuite
from academy.errors import InputError
from academy.records import Record
from academy.system.plugins import load_plugin, plugin_names

SUITES = {
    "recall": "academy.arena.suites.recall:RecallFactory",
    "style": "academy.arena.suites.style:StyleFactory",
    "regression": "academy.arena.suites.regression:RegressionFactory",
    "leak": "academy.arena.suites.leak:LeakFactory",
    "coding": "academy.arena.suites.coding:CodingFactory",
    "coding#first-ten": "academy.arena.suites.coding:FirstTenFactory",
    "commits": "academy.arena.suites.commits:CommitsFactory",
}
"""The project's suites: name -> factory. base.py describes how to add one."""
ENDING = ".jsonl"


class SuiteDescription(Record):
    """A suite as `academy suites` lists it."""

    name: str
    description: str
    needs_sandbox: bool
    selected: bool


def create_suites(names: Iterable[str], context: SuiteContext) -> tuple[list[Suite], dict[str, str]]:
    """The suites of these names, in order; and by name, why a suite is skipped.

    A name is a registered suite, a .jsonl file or lm-eval:TASK. Raises InputError for any other one, for a file that
    cannot be read, and for two suites with the same name.
    """
    suites: list[Suite] = []
    reasons: dict[str, str] = {}
    for name in dict.fromkeys(names):
        suite = create_suite(name, context)
        if isinstance(suite, Unavailable):
            reasons[name] = suite.because
            continue
        if any(suite.name == earlier.name for earlier in suites):
            raise InputError(f"Two suites have the name {suite.name}.", "Rename one in the first line of its file.")
        if suite.questions() or suite.role == "target":
            suites.append(suite)
        else:
            reasons[suite.name] = "it has no questions here"
    return suites, reasons


def may_be_target(name: str) -> bool:
    """Whether a suite of this name may have the role `target`: recall, and suites that are not ours."""
    return name == "recall" or (name not in SUITES and not name.startswith(PREFIX))


def create_suite(name: str, context: SuiteContext) -> Suite | Unavailable:
    """The suite of this name, or why it cannot run here. Raises InputError as `create_suites` does."""
    if name.startswith(PREFIX):
        return lm_eval_suite(name.removeprefix(PREFIX), trusted=context.trusted)
    if name.endswith(ENDING):
        return _file_suite(name, context)
    suite = _factory(name).create(context)
    if not isinstance(suite, Unavailable) and suite.name != name:
        raise InputError(
            f"The suite {name} of an installed package has another name in its code ({suite.name}).",
            "Make the suite's name equal to the name of the entry point.",
        )
    return suite


def guarded_texts(names: Iterable[str]) -> list[GuardedSuite]:
    """The texts of these suites that curation keeps out of training. Held-out lessons are kept out by themselves."""
    texts: list[GuardedSuite] = []
    for name in names:
        if name.startswith(PREFIX):
            continue
        if name.endswith(ENDING):
            suite = _read(name)
            texts.append(GuardedSuite(suite.name, [question.request for question in suite.questions()]))
        elif suite_texts := _factory(name).guarded():
            texts.append(suite_texts)
    return texts


def describe_suites(selected: Iterable[str]) -> list[SuiteDescription]:
    """All registered suites, then the files and lm-eval tasks among the selected names.

    Imports an installed package only where its suite is selected.
    """
    names = list(dict.fromkeys(selected))
    factories = plugin_names("academy.suites", SUITES)
    return [_describe(name, selected=name in names) for name in dict.fromkeys([*factories, *names])]


def _describe(name: str, *, selected: bool) -> SuiteDescription:
    if name.startswith(PREFIX):
        description, needs_sandbox = "a task of lm-eval; informational", False
    elif name.endswith(ENDING):
        suite = _read(name)
        name, needs_sandbox = suite.name, suite.needs_sandbox
        description = f"{len(suite.questions())} questions of your own; {suite.role}"
    elif name in SUITES or selected:
        factory = _factory(name)
        description, needs_sandbox = factory.description, factory.needs_sandbox
    else:
        description, needs_sandbox = "from an installed package", False
    return SuiteDescription(name=name, description=description, needs_sandbox=needs_sandbox, selected=selected)


def _factory(name: str) -> SuiteFactory:
    names = plugin_names("academy.suites", SUITES)
    if name not in names:
        raise InputError(f"Unknown suite {name}.", f"Choose {', '.join(names)}, a {ENDING} file or {PREFIX}TASK.")
    factory = load_plugin("academy.suites", name, SUITES)
    if not (isinstance(factory, type) and issubclass(factory, SuiteFactory)):
        raise InputError(
            f"The suite {name} of an installed package is not a SuiteFactory.",
            "Make its entry point name a subclass of academy.arena.suites.factory.SuiteFactory.",
        )
    return factory()


def _file_suite(name: str, context: SuiteContext) -> UserSuite | Unavailable:
    suite = _read(name)
    if suite.name in plugin_names("academy.suites", SUITES):
        raise InputError(f"The suite {name} has the name of a registered suite, {suite.name}.", "Give it another name.")
    if not suite.needs_sandbox:
        return suite
    sandbox = context.sandbox()
    return sandbox if isinstance(sandbox, Unavailable) else suite.inside(sandbox)


def _read(name: str) -> UserSuite:
    return UserSuite.read(Path(name).expanduser())
