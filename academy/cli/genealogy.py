"""`academy genealogy | history | approve | decline`: the family tree, what happened to it, and a person's word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from academy.cli.output import console, emit, listen, say
from academy.errors import InputError
from academy.genealogy import drawing
from academy.genealogy.history import CHANGES, describe_refusal, history, is_change, to_deployment, version_name
from academy.genealogy.tree import FamilyTree, family_tree
from academy.loop.carry_out import approve as approve_version
from academy.loop.carry_out import decline as decline_version
from academy.loop.home import Home
from academy.store.files import write_file
from academy.store.ledger import Ledger
from academy.store.ledger_rows import (
    AllowEntry,
    Entry,
    RefusalEntry,
    ReleaseEntry,
    RenewalEntry,
    Row,
    SupersedeEntry,
    UndoEntry,
    VerdictEntry,
)
from academy.system.processes import person

FORMATS = ("text", "json", "mermaid", "svg")
TOLD: tuple[type[Entry], ...] = (
    VerdictEntry, *CHANGES, ReleaseEntry, SupersedeEntry, UndoEntry, AllowEntry, RenewalEntry, RefusalEntry,
)  # fmt: skip


def tree(
    limit: int, before: int | None, form: str, to: Path | None, base_model: str | None, *, as_json: bool
) -> None:  # fmt: skip
    """A page of the family tree, and what was decided last, in one of FORMATS; to a file where one is named."""
    form = "json" if as_json else form
    if form not in FORMATS:
        raise InputError(f"There is no format {form}.", f"Choose {', '.join(FORMATS)}.")
    home = Home.open(base_model)
    found = family_tree(home.versions, home.ledger, home.base.name, limit, before)
    match form:
        case "json":
            content = orjson.dumps(_as_json(found, home.ledger, limit), option=orjson.OPT_INDENT_2).decode() + "\n"
        case "mermaid":
            content = drawing.mermaid(found)
        case "svg":
            content = drawing.svg(found)
        case _:
            content = _as_text(found, home.ledger, limit)
    if to is not None:
        write_file(to.expanduser(), content.encode())
        say(f"Written to {to}.")
    else:
        console().out(content, end="", highlight=False)


def changes(limit: int, before: int | None, base_model: str | None, *, as_json: bool) -> None:
    """Every change of the champion and of the archive, newest first."""
    found = history(Home.open(base_model).ledger, limit, before)
    if as_json:
        emit([one.model_dump(mode="json") | {"by_hand": one.by_hand} for one in found])
        return
    for one in found:
        say(f"{one.seq:>6}  {one.at}  {one.action:<8}  {one.by or '-'}  {one.sentence}")
    if not found:
        say("Nothing happened yet: the base model answers.")


def approve(name: str, note: str, base_model: str | None, *, as_json: bool) -> None:
    """Approve the last verdict on a version, and promote it."""
    listen()
    home = Home.open(base_model)
    before = home.ledger.champion()
    champion = approve_version(home, name, by=person(), note=note)
    if as_json:
        emit({"champion": champion.version, "adapter": champion.adapter, "before": before.version})
    else:
        say(f"{champion.name} is champion; before it was {before.name}.")


def decline(name: str, because: str, base_model: str | None, *, as_json: bool) -> None:
    """Refuse the last verdict on a version: it never promotes."""
    home = Home.open(base_model)
    row = decline_version(home, name, by=person(), because=because)
    if as_json:
        emit(to_deployment(row).model_dump(mode="json"))
    else:
        say(f"{version_name(row.body.version)} is not promoted; {home.ledger.champion().name} stays champion.")


def _as_json(found: FamilyTree, ledger: Ledger, limit: int) -> dict[str, Any]:
    return {
        "family": found.family,
        "base_model": found.base,
        "champion": found.champion,
        "missing": found.missing,
        "before": found.before,
        "versions": [
            node.version.model_dump(mode="json")
            | {"recipe": node.recipe, "events": [one.model_dump(mode="json") for one in node.events]}
            for node in found.nodes
        ],
        "history": [row.as_json() for row in _last(ledger, limit)],
    }


def _as_text(found: FamilyTree, ledger: Ledger, limit: int) -> str:
    lines = [drawing.text(found)]
    if found.before is not None:
        lines.append(f"Older ones: academy genealogy --before {found.before}")
    lines += [found.missing] if found.missing else []
    lines += [f"{row.at}  {row.kind}: {_story(row)}" for row in _last(ledger, limit)]
    return "\n".join(lines) + "\n"


def _last(ledger: Ledger, limit: int) -> list[Row[Entry]]:
    return ledger.latest(*TOLD, limit=limit)[::-1]


def _story(row: Row[Entry]) -> str:
    if is_change(row):
        told = to_deployment(row)
        return told.sentence + (f", by {told.by}" if told.by else "")
    match row.body:
        case VerdictEntry() as verdict:
            against = version_name(verdict.champion_version)
            return f"v{verdict.version} against {against}: {verdict.outcome}, {verdict.because}"
        case ReleaseEntry() as entry:
            return f"{entry.lessons} lessons" + (f" of {entry.batch}" if entry.batch else "")
        case AllowEntry() as entry:
            return f"the overlap {entry.overlap[:12]} may be trained on"
        case RenewalEntry() as entry:
            return f"{entry.retired} questions retired, {entry.fresh} fresh ones on {entry.groups} answers"
        case RefusalEntry() as entry:
            return describe_refusal(entry)
        case UndoEntry() as entry:
            return f"{entry.lessons} lessons of {entry.batch} {'put back' if entry.restored else 'taken out'}"
        case SupersedeEntry() as entry:
            return f"another answer is right for a request; {entry.retired} lessons retired"
    return row.kind
