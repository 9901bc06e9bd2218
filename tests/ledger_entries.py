"""Ledger entries with plain facts, for tests that care about one or two of them."""

from __future__ import annotations

from typing import Any, Literal

from academy.store.ledger_rows import PromotionEntry, RollbackEntry, VerdictEntry

ChangeKind = Literal["promotion", "rollback"]


def verdict(outcome: str = "HOLD", **facts: Any) -> VerdictEntry:
    """A verdict on v1 against the base model."""
    defaults: dict[str, Any] = {
        "outcome": outcome, "because": "in a test", "level": 0.0, "spends": True, "looks_before": 0,
        "challenger": "a" * 64, "version": "1", "champion": "base", "champion_version": "base",
        "dataset": "", "order": "", "cursor": 0, "record": "none.json",
    }  # fmt: skip
    return VerdictEntry.model_validate(defaults | facts)


def promotion(version: str, adapter: str, generation: int = 1, cursor: int = 0) -> PromotionEntry:
    """What makes a version champion."""
    return PromotionEntry(version=version, adapter=adapter, generation=generation, cursor=cursor)


def rollback(version: str, adapter: str, generation: int = 1, cursor: int = 0) -> RollbackEntry:
    """What makes an earlier version champion again."""
    return RollbackEntry(version=version, adapter=adapter, generation=generation, cursor=cursor)


CHANGES = {"promotion": promotion, "rollback": rollback}
"""The changes of the champion, by kind of row."""
