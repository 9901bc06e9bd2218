"""Promotion, activation by hand and rollback, each one transaction on one screen.

The ledger's row is the moment at which the champion changes; everything before it can be repeated, and everything
after it (the alias and the description that MLflow shows) is made true again by `reconcile` at the next start.
Whoever changes the champion uses the adapter meanwhile, so that it cannot be archived under their hands.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from academy.adapters.adapter import Adapter
from academy.adapters.archive import AdapterStore
from academy.errors import AdapterError, PromotionError
from academy.experience.lessons import set_aside
from academy.genealogy.description import describe
from academy.genealogy.versions import AliasUpdate, Version, Versions
from academy.lifecycle.approval import approval_status
from academy.lifecycle.gate import Gate, admit_adapter
from academy.lifecycle.retention import restore
from academy.store.ledger import BASE, Champion, Ledger
from academy.store.ledger_rows import (
    ChampionConfig,
    ChampionEntry,
    PromotionEntry,
    RollbackEntry,
    Row,
    VerdictEntry,
)

log = logging.getLogger("academy")
BASE_MODEL = ChampionEntry(version=BASE, adapter=BASE, generation=0, config=ChampionConfig(), cursor=0)
"""The base model as champion."""


class Serving(Protocol):
    """What answers users, as a change of the champion sees it: a gateway, or nothing but this process."""

    def prepare(self, adapter: str, *, again: bool = False) -> None:
        """Load an adapter (digest, or "base") beside the champion and replay its canaries by its own name.

        `again`: it was champion before; where nobody is being served, that its files are unaltered is enough.
        Raises AdapterError where it is not the one of its training, ServingError where nobody can tell.
        """
        ...

    def follow(self) -> None:
        """Let the champion of the ledger answer from now on, and replay its canaries through the name `champion`.

        Raises AdapterError where another one answers. The one before stays loaded until its last answer has ended.
        """
        ...


def record_verdict(ledger: Ledger, key: str, verdict: VerdictEntry, lessons: tuple[int, int]) -> Row[VerdictEntry]:
    """Write a verdict once. A REJECT sets the lessons numbered (lessons[0], lessons[1]] aside, in one transaction."""
    with ledger.database.write() as connection:
        row = ledger.append(key, verdict, connection)
        if verdict.outcome == "REJECT":
            set_aside(*lessons, connection)
    return row


def promote(
    ledger: Ledger,
    versions: Versions,
    version: Version,
    gate: Gate,
    verdict: Row[VerdictEntry],
    serving: Serving,
    *,
    by: str = "",
    approval: bool = False,
) -> Row[PromotionEntry]:
    """Make a version champion on the strength of a PROMOTE verdict against the present champion.

    `by` is who did it; with `approval` a person's word on this verdict must be there. Raises PromotionError where
    the verdict or a person says otherwise or the champion has changed since, AdapterError where the adapter is not
    the one that was examined. Repeating it after a crash changes nothing twice.
    """
    done = next((row for row in ledger.rows(PromotionEntry) if row.body.verdict == verdict.seq), None)
    if done is None:
        champion = ledger.champion()
        if verdict.body.outcome != "PROMOTE" or verdict.body.challenger != version.adapter:
            raise PromotionError(
                f"{version.name} has no verdict PROMOTE but {verdict.body.outcome}.",
                "`academy examine` holds an examination.",
            )
        if verdict.body.champion != champion.adapter:
            raise PromotionError(
                f"{version.name} was examined against another champion than {champion.name}.",
                f"Run `academy examine {version.name}` again.",
            )
        _refuse_tainted(version)
        said = approval_status(ledger, verdict)
        if said == "declined" or (approval and said == "undecided"):
            raise PromotionError(
                f"{version.name} " + ("was declined." if said == "declined" else "waits for approval."),
                f"Approve it with `academy approve {version.name}`."
                if said == "undecided"
                else "Its verdict is spent.",
            )
        done = _crown(
            ledger, champion, version, gate, serving,
            cursor=verdict.body.cursor, verdict=verdict.seq, by=by, because="",
        )  # fmt: skip
    if ledger.champion().adapter != version.adapter:
        raise PromotionError(
            f"{version.name} was promoted on this verdict before, and was rolled back since.",
            f"Make it champion again with `academy rollback {version.name}`.",
        )
    _follow(ledger, versions, serving, done, by)
    _show(ledger, versions)
    return done


def activate(
    ledger: Ledger, versions: Versions, version: Version, gate: Gate, serving: Serving, *, by: str, because: str = ""
) -> Champion:
    """Make a version champion because a person says so, without a verdict; the history tells it as that.

    The adapter is checked and its canaries are replayed as for a promotion. Raises AdapterError where it is not
    verified, PromotionError where it is champion already or tainted. One that was champion before is gone back to.
    """
    champion = ledger.champion()
    if champion.adapter == version.adapter:
        raise PromotionError(f"{version.name} is the champion already.", "`academy models` lists the versions.")
    if version.unverified or not version.adapter:
        raise AdapterError(
            f"{version.name} is unverified: {version.unverified or 'it has no adapter'}",
            "Register an adapter that passes its checks.",
        )
    if version.adapter == BASE:
        return rollback(ledger, versions, gate, BASE, because, serving, by=by)
    _refuse_tainted(version)
    _bring_back(ledger, versions, gate, version.version, version.adapter, by)
    if any(row.body.adapter == version.adapter for row in ledger.rows(PromotionEntry, RollbackEntry)):
        return rollback(ledger, versions, gate, version.version, because, serving, by=by)
    verdicts = [row for row in ledger.rows(VerdictEntry) if row.body.challenger == version.adapter]
    notes = because or (f"its last verdict was {verdicts[-1].body.outcome}" if verdicts else "")
    # what it was trained on is not proven here: no lesson counts as learned that did not count before
    row = _crown(
        ledger, champion, version, gate, serving, cursor=champion.cursor, verdict=None, by=by, because=notes
    )  # fmt: skip
    _follow(ledger, versions, serving, row, by)
    _show(ledger, versions)
    return ledger.champion()


def rollback(
    ledger: Ledger,
    versions: Versions,
    gate: Gate,
    to: str | None,
    because: str,
    serving: Serving,
    *,
    by: str = "",
    expected: Champion | None = None,
    on_switch: Callable[[Champion], None] = lambda champion: None,  # noqa: ARG005
) -> Champion:
    """Go back to the champion before this one, or to a named version or "base". Returns the new champion.

    `expected` is whom the caller saw as champion: where another one is by now, PromotionError (of two people who go
    back at once, one does).
    The ledger knows all that is needed: a version that was deleted in MLflow can be gone back to, and users have the
    other champion before MLflow is opened, which takes seconds: `told` is called when they have it. An archived one is
    restored first.
    """
    champion = ledger.champion()
    if expected is not None and expected.seq != champion.seq:
        raise PromotionError(
            f"The champion is no longer {expected.name} but {champion.name}: somebody else came first.",
            "Look at `academy status` and decide again.",
        )
    crowned = list(ledger.rows(PromotionEntry, RollbackEntry))
    to = to or ledger.rollback_target()
    if to is None:
        raise PromotionError(
            "There is nothing to go back to: the base model is the champion.", "Promote a version first."
        )
    number = to.removeprefix("v")
    if number != BASE and not number.isdecimal():
        number = versions.get(to).version  # a name that a person gave it
    if number == champion.version:
        raise PromotionError(f"{champion.name} is the champion already.", "`academy models` lists the versions.")
    if number == BASE:
        serving.prepare(BASE, again=True)
        ledger.set_champion(champion, _back_to(BASE_MODEL, because, by))
    else:
        was = next((row.body for row in reversed(crowned) if row.body.version == number), None)
        if was is None:
            known = versions.get(number)
            raise PromotionError(
                f"{known.name} was never champion.", "Only an examined and promoted version can be gone back to."
            )
        with AdapterStore(gate.adapters).lease(was.adapter):
            _bring_back(ledger, versions, gate, number, was.adapter, by)
            opened = admit_adapter(gate, was.adapter, registry=False)
            serving.prepare(was.adapter, again=True)
            was = was.model_copy(update={"config": _config(opened.adapter)})
            ledger.set_champion(champion, _back_to(was, because, by))
    try:
        serving.follow()
        on_switch(ledger.champion())
    finally:
        _show(ledger, versions)  # the row stands, whoever refuses to follow it
    return ledger.champion()


def reconcile(ledger: Ledger, versions: Versions) -> Champion:
    """Make MLflow say what the ledger says, and tell what was found otherwise. Called at every start."""
    champion = ledger.champion()
    if not champion.seq:
        return champion
    match _show(ledger, versions):
        case "gone":
            log.warning(
                "%s, the champion, is no longer in MLflow's registry; its adapter %s answers all the same",
                champion.name, champion.adapter[:12],
            )  # fmt: skip
        case "mended":
            log.info("MLflow's alias is %s again, as the ledger says", champion.name)
        case "as it was":
            pass
    return champion


def _crown(
    ledger: Ledger, champion: Champion, version: Version, gate: Gate, serving: Serving,
    *, cursor: int, verdict: int | None, by: str, because: str,
) -> Row[PromotionEntry]:  # fmt: skip
    """Check the adapter, replay its canaries, and write the row that makes it champion instead of `champion`."""
    with AdapterStore(gate.adapters).lease(version.adapter):
        opened = admit_adapter(gate, version.adapter, version)
        serving.prepare(version.adapter)
        promotion = PromotionEntry(
            version=version.version, adapter=version.adapter, generation=champion.generation + 1,
            config=_config(opened.adapter), cursor=cursor, verdict=verdict, by=by, because=because,
        )  # fmt: skip
        return ledger.set_champion(champion, promotion)


def _back_to(champion: ChampionEntry, because: str, by: str) -> RollbackEntry:
    """The entry that makes an earlier champion champion again."""
    return RollbackEntry(
        version=champion.version, adapter=champion.adapter, generation=champion.generation, config=champion.config,
        cursor=champion.cursor, by=by, because=because,
    )  # fmt: skip


def _follow(ledger: Ledger, versions: Versions, serving: Serving, row: Row[PromotionEntry], by: str) -> None:
    """Have the new champion answer. Where another one answers in its place, go back: what answers is what is told."""
    try:
        serving.follow()
    except AdapterError as problem:
        champion = ledger.champion()
        if champion.seq != row.seq:
            raise
        changes = ledger.rows(PromotionEntry, RollbackEntry)
        before = next((change.body for change in changes if change.seq == row.body.since), BASE_MODEL)
        ledger.set_champion(champion, _back_to(before, problem.message, by))
        _show(ledger, versions)
        raise PromotionError(
            f"{champion.name} was promoted and did not answer as champion; {ledger.champion().name} is champion again.",
            str(problem),
        ) from problem


def _show(ledger: Ledger, versions: Versions) -> AliasUpdate:
    """Alias and descriptions in MLflow: of the champion, and of whom it replaced."""
    champion = ledger.champion()
    found = versions.set_champion_alias(champion.version, champion.adapter)
    for row in ledger.latest(PromotionEntry, RollbackEntry, limit=1):
        describe(versions, ledger, champion.version, row.body.replaces)
    return found


def _bring_back(ledger: Ledger, versions: Versions, gate: Gate, version: str, adapter: str, by: str) -> None:
    """Restore an archived adapter. One that is nowhere is told by whoever reads it next."""
    store = AdapterStore(gate.adapters)
    if not store.here(adapter) and store.packed(adapter) is not None:
        restore(ledger, versions, store, version, adapter, by=by, because="it is to be champion")


def _refuse_tainted(version: Version) -> None:
    if version.tainted:
        raise PromotionError(
            f"{version.name} was made of lessons that were forgotten since.", "Train again without them."
        )


def _config(adapter: Adapter) -> ChampionConfig:
    """What answers from now on, for the history."""
    manifest = adapter.manifest
    return ChampionConfig(base_model=manifest.base_name, recipe=manifest.recipe.model_dump(mode="json"))
