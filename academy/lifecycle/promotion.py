"""Promotion, activation by hand and rollback; each one is one transaction.

The ledger row is the moment of the change. Everything before it can be repeated; `reconcile` repairs everything after
it (alias and description in MLflow) at the next start. A change of the champion holds a lease on the adapter, so that
the adapter cannot be archived at the same time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from academy.adapters.adapter import Adapter
from academy.adapters.archive import AdapterStore
from academy.errors import AdapterError, PromotionError
from academy.experience.standings import set_aside, set_these_aside
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
    """The server that answers users, as a change of the champion sees it: a gateway, or only this process."""

    def prepare(self, adapter: str, *, again: bool = False) -> None:
        """Load an adapter (digest, or "base") beside the champion and replay its canaries under its own name.

        `again`: it was champion before; without a gateway, unaltered files are enough.
        Raises AdapterError if it does not answer as after its training, ServingError if that cannot be checked.
        """
        ...

    def follow(self) -> None:
        """Switch to the ledger's champion and replay its canaries under the name `champion`.

        Raises AdapterError if another adapter answers. The former champion stays loaded until its last answer ends.
        """
        ...


def record_verdict(
    ledger: Ledger, key: str, verdict: VerdictEntry, lessons: tuple[int, int], suspects: Sequence[str] = ()
) -> Row[VerdictEntry]:
    """Write a verdict once. A REJECT sets aside the lessons (lessons[0], lessons[1]] in the same transaction.

    Where there are `suspects` (ids), only they are set aside: a stranger must not have your lessons set aside by adding
    bad ones. If the others did the harm, the next examination shows it.
    """
    with ledger.database.write() as connection:
        row = ledger.append(key, verdict, connection)
        if verdict.outcome == "REJECT" and suspects:
            set_these_aside(suspects, connection)
        elif verdict.outcome == "REJECT":
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
    """Make a version champion because of a PROMOTE verdict against the current champion.

    `by`: who promotes it. With `approval`, a person must have approved the verdict. Raises PromotionError if the
    verdict or the approval does not allow it or the champion has changed, AdapterError if the adapter is not the
    examined one. Repeating it after a crash changes nothing twice.
    """
    promotion = next((row for row in ledger.rows(PromotionEntry) if row.body.verdict == verdict.seq), None)
    if promotion is None:
        champion = ledger.champion()
        if verdict.body.outcome != "PROMOTE" or verdict.body.challenger != version.adapter:
            raise PromotionError(
                f"{version.name} has the verdict {verdict.body.outcome}, not PROMOTE.",
                f"Run `academy examine {version.name}`.",
            )
        if verdict.body.champion != champion.adapter:
            raise PromotionError(
                f"{version.name} was not examined against the current champion, {champion.name}.",
                f"Run `academy examine {version.name}` again.",
            )
        _refuse_tainted(version)
        match approval_status(ledger, verdict):
            case "declined":
                raise PromotionError(f"{version.name} was declined.", "A declined verdict cannot promote.")
            case "undecided" if approval:
                raise PromotionError(
                    f"{version.name} waits for approval.", f"Approve it with `academy approve {version.name}`."
                )
        promotion = _set_champion(
            ledger, champion, version, gate, serving,
            cursor=verdict.body.cursor, verdict=verdict.seq, by=by, because="",
        )  # fmt: skip
    if ledger.champion().adapter != version.adapter:
        raise PromotionError(
            f"{version.name} was already promoted on this verdict and rolled back since.",
            f"Run `academy rollback {version.name}` to make it champion again.",
        )
    _follow(ledger, versions, serving, promotion, by)
    _show(ledger, versions)
    return promotion


def activate(
    ledger: Ledger, versions: Versions, version: Version, gate: Gate, serving: Serving, *, by: str, because: str = ""
) -> Champion:
    """Make a version champion by hand, without a verdict; the history records it as such.

    The adapter is checked and its canaries are replayed as for a promotion. A former champion is rolled back to.
    Raises AdapterError if it is unverified, PromotionError if it is tainted or the champion already.
    """
    champion = ledger.champion()
    if champion.adapter == version.adapter:
        raise PromotionError(f"{version.name} is the champion already.", "`academy models` lists the versions.")
    if version.unverified or not version.adapter:
        raise AdapterError(
            f"{version.name} is unverified: {version.unverified or 'it has no adapter'}",
            "Register an adapter that passes all checks.",
        )
    if version.adapter == BASE:
        return rollback(ledger, versions, gate, BASE, because, serving, by=by)
    _refuse_tainted(version)
    _bring_back(ledger, versions, gate, version.version, version.adapter, by)
    if any(row.body.adapter == version.adapter for row in ledger.rows(PromotionEntry, RollbackEntry)):
        return rollback(ledger, versions, gate, version.version, because, serving, by=by)
    verdicts = [row for row in ledger.rows(VerdictEntry) if row.body.challenger == version.adapter]
    notes = because or (f"its last verdict was {verdicts[-1].body.outcome}" if verdicts else "")
    # its training data is not proven here, so the cursor stays: no further lesson counts as learned
    row = _set_champion(
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
    """Restore the previous champion, a named version or "base". Returns the new champion.

    `expected` is the champion that the caller saw; PromotionError if it has changed, so that only one of two concurrent
    rollbacks happens. The ledger has all the facts, so a version that was deleted in MLflow can be restored. Users get
    the new champion before MLflow is opened, which takes seconds; `on_switch` is called at that moment. An archived
    adapter is restored first.
    """
    champion = ledger.champion()
    if expected is not None and expected.seq != champion.seq:
        raise PromotionError(
            f"The champion is no longer {expected.name} but {champion.name}: another change came first.",
            "Check `academy status` and decide again.",
        )
    changes = list(ledger.rows(PromotionEntry, RollbackEntry))
    to = to or ledger.rollback_target()
    if to is None:
        raise PromotionError(
            "The base model is the champion, so there is nothing to roll back to.", "Promote a version first."
        )
    number = to.removeprefix("v")
    if number != BASE and not number.isdecimal():
        number = versions.get(to).version  # a label
    if number == champion.version:
        raise PromotionError(f"{champion.name} is the champion already.", "`academy models` lists the versions.")
    if number == BASE:
        serving.prepare(BASE, again=True)
        ledger.set_champion(champion, _back_to(BASE_MODEL, because, by))
    else:
        former = next((row.body for row in reversed(changes) if row.body.version == number), None)
        if former is None:
            raise PromotionError(
                f"{versions.get(to).name} was never champion.", "Only a former champion can be restored."
            )
        with AdapterStore(gate.adapters).lease(former.adapter):
            _bring_back(ledger, versions, gate, number, former.adapter, by)
            files = admit_adapter(gate, former.adapter, registry=False)
            serving.prepare(former.adapter, again=True)
            former = former.model_copy(update={"config": _config(files.adapter)})
            ledger.set_champion(champion, _back_to(former, because, by))
    try:
        serving.follow()
        on_switch(ledger.champion())
    finally:
        _show(ledger, versions)  # the row is written, even if the server fails to switch
    return ledger.champion()


def reconcile(ledger: Ledger, versions: Versions) -> Champion:
    """Make MLflow agree with the ledger, and log corrections. Called at every start."""
    champion = ledger.champion()
    if not champion.seq:
        return champion
    match _show(ledger, versions):
        case "missing":
            log.warning(
                "%s, the champion, was deleted in MLflow's registry; its adapter %s still answers",
                champion.name, champion.adapter[:12],
            )  # fmt: skip
        case "corrected":
            log.info("MLflow's alias `champion` points to %s again, as in the ledger", champion.name)
        case "unchanged":
            pass
    return champion


def _set_champion(
    ledger: Ledger, champion: Champion, version: Version, gate: Gate, serving: Serving,
    *, cursor: int, verdict: int | None, by: str, because: str,
) -> Row[PromotionEntry]:  # fmt: skip
    """Check the adapter, replay its canaries, and write the row that makes it champion."""
    with AdapterStore(gate.adapters).lease(version.adapter):
        files = admit_adapter(gate, version.adapter, version)
        serving.prepare(version.adapter)
        promotion = PromotionEntry(
            version=version.version, adapter=version.adapter, generation=champion.generation + 1,
            config=_config(files.adapter), cursor=cursor, verdict=verdict, by=by, because=because,
        )  # fmt: skip
        return ledger.set_champion(champion, promotion)


def _back_to(champion: ChampionEntry, because: str, by: str) -> RollbackEntry:
    """The entry that makes an earlier champion champion again."""
    return RollbackEntry(
        version=champion.version, adapter=champion.adapter, generation=champion.generation, config=champion.config,
        cursor=champion.cursor, by=by, because=because,
    )  # fmt: skip


def _follow(ledger: Ledger, versions: Versions, serving: Serving, row: Row[PromotionEntry], by: str) -> None:
    """Switch the server to the new champion. If another adapter answers in its place, roll back."""
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
            f"{champion.name} was promoted but did not answer as champion; {ledger.champion().name} is champion again.",
            str(problem),
        ) from problem


def _show(ledger: Ledger, versions: Versions) -> AliasUpdate:
    """Update MLflow: the alias, and the descriptions of the champion and of the version it replaced."""
    champion = ledger.champion()
    update = versions.set_champion_alias(champion.version, champion.adapter)
    for row in ledger.latest(PromotionEntry, RollbackEntry, limit=1):
        describe(versions, ledger, champion.version, row.body.replaces)
    return update


def _bring_back(ledger: Ledger, versions: Versions, gate: Gate, version: str, adapter: str, by: str) -> None:
    """Restore an archived adapter. A missing one is reported by the next read."""
    store = AdapterStore(gate.adapters)
    if not store.here(adapter) and store.package(adapter) is not None:
        restore(ledger, versions, store, version, adapter, by=by, because="to become champion")


def _refuse_tainted(version: Version) -> None:
    if version.tainted:
        raise PromotionError(
            f"{version.name} was trained on lessons that have since been forgotten.", "Train again without them."
        )


def _config(adapter: Adapter) -> ChampionConfig:
    """Base model and recipe of the champion, for the history."""
    manifest = adapter.manifest
    return ChampionConfig(base_model=manifest.base_name, recipe=manifest.recipe.model_dump(mode="json"))
