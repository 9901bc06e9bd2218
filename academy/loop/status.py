"""The state of a home: its champion, its lessons, the last verdict and the budget."""

from __future__ import annotations

from typing import Any

from academy.arena.verdict import HORIZON
from academy.experience.ratings import Ratings
from academy.lifecycle.approval import open_verdicts
from academy.lifecycle.gate import refusal
from academy.lifecycle.promotion import reconcile
from academy.loop.carry_out import waits_for_approval
from academy.loop.explain_contradictions import open_contradictions
from academy.loop.home import Home
from academy.records import Record
from academy.store.ledger import BASE
from academy.store.ledger_rows import VerdictEntry

LOW_BUDGET = 5


class BaseModelStatus(Record):
    """The base model of a family."""

    name: str
    digest: str
    family: str


class LastVerdict(Record):
    """The newest verdict; `at` is ISO 8601 in UTC."""

    at: str
    outcome: str
    because: str
    version: str


class Budget(Record):
    """Examinations that were spent since the hold-out was renewed, and how many are left of the horizon."""

    spent: int
    left: int
    horizon: int

    @property
    def low(self) -> bool:
        """Whether users should prepare a renewal of the hold-out now."""
        return self.left <= LOW_BUDGET


class Status(Record):
    """What `academy status` shows."""

    champion: str  # version number, or "base"
    adapter: str
    tainted: bool
    refused: str  # why the champion's adapter is refused; empty if it is not
    generation: int
    base_model: BaseModelStatus
    lessons: dict[str, Any]  # the store's statistics, and `new` since the champion's examination
    ratings_waiting: int  # ratings of sources that are not trusted, until a person decides
    contradictions: int  # pairs of active lessons that answer one request differently
    last_verdict: LastVerdict | None
    budget: Budget
    waiting: tuple[str, ...]  # versions that wait for approval
    home: str


def budget_of(home: Home) -> Budget:
    """The budget of this base model."""
    return Budget(spent=home.ledger.verdicts_spent(), left=home.ledger.budget_left(HORIZON), horizon=HORIZON)


def reconciled_status(home: Home) -> Status:
    """The state of a home, after MLflow's alias is made to agree with the ledger."""
    if home.ledger.champion().seq:  # MLflow is opened only where it has something to show
        reconcile(home.ledger, home.versions)
    return status_of(home)


def status_of(home: Home) -> Status:
    """The state of a home."""
    champion = home.ledger.champion()
    verdicts = list(home.ledger.rows(VerdictEntry))
    version = home.versions.find(champion.version) if champion.version != BASE else None
    newest = verdicts[-1] if verdicts else None
    return Status(
        champion=champion.version,
        adapter=champion.adapter,
        tainted=version is not None and version.tainted,
        refused=refusal(home.ledger, champion.adapter, [champion.version]) if champion.version != BASE else "",
        generation=champion.generation,
        base_model=BaseModelStatus(name=home.base.name, digest=home.base.digest, family=home.base.family),
        lessons=home.store.get_statistics() | {"new": home.store.trainable(since=champion.cursor)},
        ratings_waiting=Ratings(home.database).counts().get("waiting", 0),
        contradictions=open_contradictions(home),
        last_verdict=(
            LastVerdict(
                at=newest.at, outcome=newest.body.outcome, because=newest.body.because,
                version=newest.body.version,
            )
            if newest
            else None
        ),
        budget=budget_of(home),
        waiting=(
            tuple(row.body.version for row in open_verdicts(home.ledger)) if waits_for_approval(home) else ()
        ),
        home=str(home.settings.home),
    )  # fmt: skip
