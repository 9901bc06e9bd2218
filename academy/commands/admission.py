"""`academy verify` and `academy models refuse | readmit`: what may be served, and why not."""

from __future__ import annotations

import sys

from academy.admission import readmit_adapter, refusal, refuse_adapter, verify_version
from academy.commands.output import emit, say
from academy.errors import InputError
from academy.genealogy.history import refused
from academy.ledger import BASE, Row
from academy.workplace import Workplace


def refuse(name: str, because: str, base_model: str | None, *, older: bool, as_json: bool) -> None:
    """Refuse a version, or all before it: from now on none of them is served or promoted."""
    work = Workplace.open(base_model)
    version = work.versions.get(name)
    row = refuse_adapter(work.ledger, version, because, older=older)
    _tell_refusal(work, row, as_json=as_json)


def readmit(name: str, because: str, base_model: str | None, *, as_json: bool) -> None:
    """Take a refusal back."""
    work = Workplace.open(base_model)
    _tell_refusal(work, readmit_adapter(work.ledger, work.versions.get(name), because), as_json=as_json)


def verify(names: list[str], base_model: str | None, *, all_of_them: bool, as_json: bool) -> None:
    """Verify versions without a network or a server; without a name the champion. Exit code 2 where anything fails."""
    work = Workplace.open(base_model)
    champion = work.ledger.champion()
    if all_of_them:
        versions = list(work.versions.newest(champion))[::-1]
    elif names:
        versions = [work.versions.get(name) for name in names]
    elif champion.version != BASE:
        versions = [work.versions.get(champion.version)]
    else:
        raise InputError("The base model is the champion, and no version was named.", "`academy models` lists them.")
    found = [verify_version(work.gate, one, work.datasets) for one in versions]
    sound = all(one.ok for one in found)
    if as_json:
        emit({"ok": sound, "versions": [{"ok": one.ok, **one.model_dump(mode="json")} for one in found]})
    for one in [] if as_json else found:
        say(f"v{one.version}  adapter {one.adapter[:12]}: {'verified' if one.ok else 'NOT VERIFIED'}")
        for check in one.checks:
            say(f"  {'✓' if check.ok else '✗'} {check.name}" + (f": {check.sentence}" if check.sentence else ""))
    if not sound:
        sys.exit(2)


def _tell_refusal(work: Workplace, row: Row, *, as_json: bool) -> None:
    champion = work.ledger.champion()
    gone = champion.version != BASE and bool(refusal(work.ledger, champion.adapter, [champion.version]))
    if as_json:
        emit({**row.body, "champion_refused": gone})
        return
    say(f"{refused(row)}.")
    if gone:
        say(f"The champion {champion.name} is refused: `academy rollback` goes back to another one.")
