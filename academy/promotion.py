"""Promotion and rollback, each one transaction on one screen.

The ledger's row is the moment at which the champion changes; everything before it can be repeated, and everything
after it (the alias that MLflow shows) is made true again by `reconcile` at the next start.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from academy.admission import Gate, admit_adapter
from academy.errors import PromotionError
from academy.experience.lessons import set_aside
from academy.genealogy.versions import Version, Versions
from academy.ledger import BASE, Champion, Ledger, Row

Verify = Callable[[Path], None]
"""Loads an adapter and replays its canaries; raises AdapterError."""


def record_verdict(ledger: Ledger, key: str, body: dict[str, Any], lessons: tuple[int, int]) -> Row:
    """Write a verdict once. A REJECT sets the lessons numbered (lessons[0], lessons[1]] aside, in one transaction."""
    with ledger.database.write() as connection:
        row = ledger.append("verdict", key, body, connection)
        if body["outcome"] == "REJECT":
            set_aside(*lessons, connection)
    return row


def promote(
    ledger: Ledger, versions: Versions, version: Version, gate: Gate, verdict: Row, verify: Verify | None
) -> Row:
    """Make a version champion on the strength of a PROMOTE verdict against the present champion.

    Raises PromotionError where the verdict says otherwise or the champion has changed since, AdapterError where the
    adapter is not the one that was examined or is not admitted. Repeating it after a crash changes nothing twice.
    """
    done = next((row for row in ledger.rows("promotion") if row.body.get("verdict") == verdict.seq), None)
    if done is None:
        champion = ledger.champion()
        if verdict.body["outcome"] != "PROMOTE" or verdict.body["challenger"] != version.adapter:
            raise PromotionError(
                f"{version.name} has no verdict PROMOTE but {verdict.body['outcome']}.",
                "`academy examine` holds an examination.",
            )
        if verdict.body["champion"] != champion.adapter:
            raise PromotionError(
                f"{version.name} was examined against another champion than {champion.name}.",
                f"Run `academy examine {version.name}` again.",
            )
        if version.tainted:
            raise PromotionError(
                f"{version.name} was made of lessons that were forgotten since.", "Train again without them."
            )
        admitted = admit_adapter(gate, version.adapter, version)
        if verify is not None:
            verify(admitted.folder)
        done = ledger.crown(
            "promotion",
            champion,
            {
                "version": version.version,
                "adapter": version.adapter,
                "generation": champion.generation + 1,
                "cursor": verdict.body["cursor"],
                "verdict": verdict.seq,
            },
        )
    if ledger.champion().adapter != version.adapter:
        raise PromotionError(
            f"{version.name} was promoted on this verdict before, and was rolled back since.",
            f"Make it champion again with `academy rollback {version.name}`.",
        )
    reconcile(ledger, versions)
    return done


def rollback(ledger: Ledger, versions: Versions, gate: Gate, to: str | None, because: str) -> Champion:
    """Go back to the champion before this one, or to a named version or "base". Returns the new champion."""
    champion = ledger.champion()
    crowned = list(ledger.rows("promotion", "rollback"))
    if to is None:
        if not crowned:
            raise PromotionError(
                "There is nothing to go back to: the base model is the champion.", "Promote a version first."
            )
        to = str(crowned[-1].body["replaces"]) if crowned[-1].kind == "promotion" else _parent(crowned, champion)
    to = to.removeprefix("v")
    if to == champion.version:
        raise PromotionError(f"{champion.name} is the champion already.", "`academy models` lists the versions.")
    body: dict[str, Any] = {"version": BASE, "adapter": BASE, "generation": 0, "cursor": 0}
    if to != BASE:
        version = versions.get(to)
        was = next((row.body for row in reversed(crowned) if row.body["version"] == version.version), None)
        if was is None:
            raise PromotionError(
                f"v{to} was never champion.", "Only an examined and promoted version can be gone back to."
            )
        admit_adapter(gate, version.adapter, version)
        body = {name: was[name] for name in ("version", "adapter", "generation", "cursor")}
    ledger.crown("rollback", champion, {**body, "because": because})
    reconcile(ledger, versions)
    return ledger.champion()


def reconcile(ledger: Ledger, versions: Versions) -> Champion:
    """Make MLflow's alias say what the ledger says. Called at every start and after every change."""
    champion = ledger.champion()
    if champion.seq:
        versions.show_champion(champion.version)
    return champion


def _parent(crowned: list[Row], champion: Champion) -> str:
    """Whom the present champion replaced when it was promoted: a second rollback goes one step further back."""
    for row in reversed(crowned):
        if row.kind == "promotion" and row.body["version"] == champion.version:
            return str(row.body["replaces"])
    raise PromotionError("There is nothing to go back to: the base model is the champion.", "Promote a version first.")
