"""Short records of a decision, a dataset and an adapter, as the results of several verbs show them."""

from __future__ import annotations

from pathlib import Path

from academy.curriculum.dataset import Dataset
from academy.genealogy.versions import Version
from academy.professor.decision import Decision, Reason
from academy.records import Record


class DecisionSummary(Record):
    """A decision; `because` gives its reasons as one sentence."""

    train: bool
    forced: bool
    reasons: tuple[Reason, ...]
    because: str

    @classmethod
    def of(cls, decision: Decision) -> DecisionSummary:
        """The summary of a decision."""
        return cls(
            train=decision.train, forced=decision.forced, reasons=decision.reasons, because=decision.because
        )  # fmt: skip


class DatasetSummary(Record):
    """A dataset without its content. `contradictions` counts pairs of lessons with one request and two answers."""

    digest: str
    path: Path
    examples: int
    holdout: int
    tokens: int
    funnel: dict[str, int]
    contradictions: int

    @classmethod
    def of(cls, dataset: Dataset) -> DatasetSummary:
        """The summary of a dataset."""
        return cls(
            digest=dataset.digest, path=dataset.path, examples=dataset.examples, holdout=dataset.holdout,
            tokens=dataset.tokens, funnel=dataset.funnel, contradictions=len(dataset.contradictions),
        )  # fmt: skip


class AdapterSummary(Record):
    """A registered adapter: its digest, its version and the version that was champion before it."""

    digest: str
    version: str
    parent: str

    @classmethod
    def of(cls, version: Version) -> AdapterSummary:
        """The summary of a version."""
        return cls(digest=version.adapter, version=version.version, parent=version.parent)
