"""Finishes what a killed evolution left open after its verdict: registry, champion, alias."""

from __future__ import annotations

import logging

from academy.errors import AdapterError, PromotionError
from academy.lifecycle.approval import approval_status, open_verdicts
from academy.lifecycle.promotion import reconcile
from academy.loop.carry_out import carry_out
from academy.loop.home import Home
from academy.loop.publish_verdict import publish_verdict
from academy.store.files import sweep
from academy.store.ledger_rows import VerdictEntry

log = logging.getLogger(__name__)
NEXT_START = "the next start, after a kill"
"""Who carries out what a killed run left open, for the ledger."""


def finish_interrupted(home: Home) -> None:
    """Publish and carry out the verdicts that a killed evolution or approval left open.

    A winner that waits for approval keeps waiting. A winner whose adapter is damaged, or whose version was deleted in
    MLflow, is not promoted, and does not stop the loop.
    """
    sweep(home.settings.home)
    newest = list(home.ledger.rows(VerdictEntry))[-1:]
    for row in newest:
        version = home.versions.find(row.body.version)
        if version is not None and version.verdict != row.body.outcome:
            publish_verdict(home, version, row)
    champion = home.ledger.champion().seq
    for row in open_verdicts(home.ledger):
        if approval_status(home.ledger, row) != "approved" and row not in newest:
            continue  # a later examination ran instead of its promotion
        version = home.versions.find(row.body.version)
        if version is None:
            log.warning("v%s won its examination, but was deleted in MLflow", row.body.version)
            continue
        try:
            carry_out(home, version, row, by=NEXT_START)
        except (AdapterError, PromotionError) as problem:
            log.warning("%s won its examination and is not promoted: %s", version.name, problem)
        if home.ledger.champion().seq != champion:
            break  # the other open verdicts are against another champion
    if home.ledger.champion().seq:  # MLflow is opened only if it has something to show
        reconcile(home.ledger, home.versions)
