"""How many examinations can still promote a version, and how often the hold-out was renewed."""

from __future__ import annotations

from academy.loop.home import Home
from academy.loop.status import Budget, budget_of
from academy.records import Record
from academy.store.ledger_rows import RenewalEntry


class BudgetHistory(Record):
    """The budget, and the renewals that restored it."""

    budget: Budget
    renewals: int
    renewed_at: str = ""  # ISO 8601; empty where the hold-out was never renewed


def budget_history(home: Home) -> BudgetHistory:
    """The budget of this base model with its renewals."""
    renewals = list(home.ledger.rows(RenewalEntry))
    return BudgetHistory(budget=budget_of(home), renewals=len(renewals), renewed_at=renewals[-1].at if renewals else "")
