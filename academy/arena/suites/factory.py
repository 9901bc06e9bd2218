"""How an examination creates a suite: the factory that each suite provides, and what it receives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

from pydantic import ConfigDict

from academy.arena.sandbox import Sandbox, Unavailable
from academy.arena.suites.base import Suite
from academy.curriculum.dataset import Example
from academy.curriculum.decontamination import GuardedSuite
from academy.experience.experience import Experience
from academy.records import Record


class SuiteContext(Record):
    """What an examination offers to a suite's factory. Callables compute their value only for suites that need it."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    held_out: tuple[Example, ...]
    """The held-out examples of the challenger's dataset."""
    cursor: int
    """Lessons with a sequence number up to this one were known before the challenger's batch."""
    known_lessons: Callable[[], Iterable[Experience]]
    """Lessons that an earlier champion answered correctly, without the held-out ones."""
    source_lessons: Callable[[], Iterable[Experience]]
    """All lessons that the dataset was made from, trained on or not, as they were imported."""
    sandbox: Callable[[], Sandbox | Unavailable]
    """The sandbox for code that a model wrote."""
    trusted: frozenset[str] = frozenset()
    """Digests of tasks of lm-eval whose code a person trusts."""


class SuiteFactory(ABC):
    """Creates a suite for an examination. The table and the entry points name subclasses; they take no arguments."""

    description: ClassVar[str]
    """One line for `academy suites`."""
    needs_sandbox: ClassVar[bool] = False

    @abstractmethod
    def create(self, context: SuiteContext) -> Suite | Unavailable:
        """The suite, or why it cannot run here."""

    def guarded(self) -> GuardedSuite | None:
        """Texts that curation keeps out of training. Held-out lessons are kept out anyway."""
        return None
