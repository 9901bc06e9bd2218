"""Rolls back to an earlier champion. It imports little, because a rollback has to be quick."""

from __future__ import annotations

from collections.abc import Callable

from academy.lifecycle import promotion
from academy.loop.home import Home
from academy.records import Record
from academy.store.ledger import Champion


class Change(Record):
    """The champion before and after a change."""

    before: Champion
    champion: Champion


def rollback(home: Home, to: str | None, because: str, *, by: str, report: Callable[[Change], None]) -> None:
    """Roll back to a version, to "base", or without a name to the champion before this one.

    `report` is called as soon as users have the new champion; MLflow's pages show it some seconds later. Raises
    PromotionError where there is nothing to roll back to, or another champion came first.
    """
    before = home.ledger.champion()
    promotion.rollback(
        home.ledger, home.versions, home.gate, to, because, home.serving,
        by=by, expected=before, on_switch=lambda champion: report(Change(before=before, champion=champion)),
    )  # fmt: skip
