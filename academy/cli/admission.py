"""`academy verify` and `academy models refuse | readmit`: what may be served, and why not."""

from __future__ import annotations

import sys

from academy.cli.output import emit, say
from academy.genealogy.history import describe_refusal
from academy.lifecycle.gate import readmit_adapter, refusal, refuse_adapter
from academy.loop.home import Home
from academy.loop.verify import verify_answers, verify_files
from academy.store.ledger import BASE
from academy.store.ledger_rows import RefusalEntry, Row


def refuse(name: str, because: str, base_model: str | None, *, older: bool, as_json: bool) -> None:
    """Refuse a version, or all before it: from now on none of them is served or promoted."""
    home = Home.open(base_model)
    version = home.versions.get(name)
    row = refuse_adapter(home.ledger, version, because, older=older)
    _tell_refusal(home, row, as_json=as_json)


def readmit(name: str, because: str, base_model: str | None, *, as_json: bool) -> None:
    """Take a refusal back."""
    home = Home.open(base_model)
    _tell_refusal(home, readmit_adapter(home.ledger, home.versions.get(name), because), as_json=as_json)


def verify(names: list[str], base_model: str | None, *, all_of_them: bool, as_json: bool) -> None:
    """Verify versions without a network or a server; without a name the champion. Exit code 2 where anything fails."""
    found = verify_files(Home.open(base_model), names, all_of_them=all_of_them)
    sound = all(one.ok for one in found)
    if as_json:
        emit({"ok": sound, "versions": [{"ok": one.ok, **one.model_dump(mode="json")} for one in found]})
    for one in [] if as_json else found:
        say(f"v{one.version}  adapter {one.adapter[:12]}: {'verified' if one.ok else 'NOT VERIFIED'}")
        for check in one.checks:
            say(f"  {'✓' if check.ok else '✗'} {check.name}" + (f": {check.sentence}" if check.sentence else ""))
    if not sound:
        sys.exit(2)


def verify_live(names: list[str], base_model: str | None, *, as_json: bool) -> None:
    """Have the running gateway replay canaries: the champion's by the name `champion`, versions' by their own names.

    Exit code 2 where any of them does not hold.
    """
    found = verify_answers(Home.open(base_model), names)
    sound = all(one.holds for one in found)
    if as_json:
        emit({"ok": sound, "answers": [one.model_dump(mode="json") for one in found]})
    for one in [] if as_json else found:
        say(f"{'✓' if one.holds else '✗'} {one.name} ({one.version}): {one.reason}. {one.sentence}")
    if not sound:
        sys.exit(2)


def _tell_refusal(home: Home, row: Row[RefusalEntry], *, as_json: bool) -> None:
    champion = home.ledger.champion()
    gone = champion.version != BASE and bool(refusal(home.ledger, champion.adapter, [champion.version]))
    if as_json:
        emit({**row.body.as_json(), "champion_refused": gone})
        return
    say(f"{describe_refusal(row.body)}.")
    if gone:
        say(f"The champion {champion.name} is refused: `academy rollback` goes back to another one.")
