"""Blocks versions from being served or promoted, and unblocks them."""

from __future__ import annotations

from typing import Any

from academy.genealogy.history import describe_refusal
from academy.lifecycle.gate import readmit_adapter, refusal, refuse_adapter
from academy.loop.home import Home
from academy.records import Record
from academy.store.ledger import BASE, Champion
from academy.store.ledger_rows import RefusalEntry, Row


class Refusal(Record):
    """What the ledger's new row says, and what it means for the champion."""

    row: dict[str, Any]
    sentence: str  # without a full stop
    champion: Champion
    champion_refused: bool


def refuse(home: Home, name: str, because: str, *, older: bool) -> Refusal:
    """Block a version, or with `older` all versions before it. Raises InputError for a version without an adapter."""
    return _refusal(home, refuse_adapter(home.ledger, home.versions.get(name), because, older=older))


def readmit(home: Home, name: str, because: str) -> Refusal:
    """Unblock a version."""
    return _refusal(home, readmit_adapter(home.ledger, home.versions.get(name), because))


def _refusal(home: Home, row: Row[RefusalEntry]) -> Refusal:
    champion = home.ledger.champion()
    is_blocked = champion.version != BASE and bool(refusal(home.ledger, champion.adapter, [champion.version]))
    return Refusal(
        row=row.body.as_json(), sentence=describe_refusal(row.body), champion=champion, champion_refused=is_blocked
    )
