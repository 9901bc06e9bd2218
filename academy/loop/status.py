"""The status of a home: its champion, lessons, last verdict and budget."""

from __future__ import annotations

from typing import Any

from academy.lifecycle.promotion import reconcile
from academy.loop.home import Home
from academy.loop.stages import summary


def status(home: Home) -> dict[str, Any]:
    """The status, after MLflow's alias is made to agree with the ledger."""
    if home.ledger.champion().seq:  # MLflow is opened only where it has something to show
        reconcile(home.ledger, home.versions)
    return summary(home)
