"""How many examinations can still promote a version."""

from __future__ import annotations

from academy.arena.verdict import HORIZON
from academy.loop.home import Home
from academy.records import Record
from academy.store.ledger_rows import RenewalEntry

LOW_BUDGET = 5


class Budget(Record):
    """The budget of examinations since the hold-out was renewed."""

    spent: int
    left: int
    horizon: int
    renewals: int
    renewed_at: str = ""  # ISO 8601; empty where the hold-out was never renewed

    @property
    def low(self) -> bool:
        """Whether users should prepare a renewal now."""
        return self.left <= LOW_BUDGET


def budget(home: Home) -> Budget:
    """The budget of this base model."""
    remaining = home.ledger.budget_left(HORIZON)
    renewals = list(home.ledger.rows(RenewalEntry))
    return Budget(
        spent=HORIZON - remaining, left=remaining, horizon=HORIZON, renewals=len(renewals),
        renewed_at=renewals[-1].at if renewals else "",
    )  # fmt: skip
