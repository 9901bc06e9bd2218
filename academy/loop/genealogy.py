"""The family tree of this base model in one of several formats, and the history of the champion and the archive."""

from __future__ import annotations

from typing import Any

import orjson

from academy.errors import InputError
from academy.genealogy import drawing
from academy.genealogy.history import CHANGES, Deployment, describe_refusal, is_change, to_deployment, version_name
from academy.genealogy.history import history as deployments
from academy.genealogy.tree import FamilyTree, family_tree
from academy.loop.home import Home
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

FORMATS = ("text", "json", "mermaid", "svg")
LISTED: tuple[type[Entry], ...] = (
    VerdictEntry, *CHANGES, ReleaseEntry, SupersedeEntry, UndoEntry, AllowEntry, RenewalEntry, RefusalEntry,
)  # fmt: skip


def family(home: Home, limit: int, before: int | None) -> FamilyTree:
    """A page of the family tree: the newest `limit` versions, or those with smaller numbers than `before`."""
    return family_tree(home.versions, home.ledger, home.base.name, limit, before)


def history(home: Home, limit: int, before: int | None) -> list[Deployment]:
    """Changes of the champion and the archive, newest first; `before` is a row's number."""
    return deployments(home.ledger, limit, before)


def check_format(form: str) -> str:
    """The format, where it is one of FORMATS. Raises InputError."""
    if form not in FORMATS:
        raise InputError(f"Unknown format {form}.", f"Choose {', '.join(FORMATS)}.")
    return form


def draw_family(home: Home, form: str, limit: int, before: int | None) -> str:
    """A page of the family tree in one of FORMATS; text and JSON also list the last ledger rows."""
    tree = family(home, limit, before)
    match check_format(form):
        case "json":
            return orjson.dumps(_as_json(tree, home.ledger, limit), option=orjson.OPT_INDENT_2).decode() + "\n"
        case "mermaid":
            return drawing.mermaid(tree)
        case "svg":
            return drawing.svg(tree)
        case _:
            return _as_text(tree, home.ledger, limit)


def _as_json(tree: FamilyTree, ledger: Ledger, limit: int) -> dict[str, Any]:
    return {
        "family": tree.family,
        "base_model": tree.base,
        "champion": tree.champion,
        "missing": tree.missing,
        "before": tree.before,
        "versions": [
            node.version.model_dump(mode="json")
            | {"recipe": node.recipe, "events": [event.model_dump(mode="json") for event in node.events]}
            for node in tree.nodes
        ],
        "history": [row.as_json() for row in _last(ledger, limit)],
    }


def _as_text(tree: FamilyTree, ledger: Ledger, limit: int) -> str:
    lines = [drawing.text(tree)]
    if tree.before is not None:
        lines.append(f"Older versions: academy genealogy --before {tree.before}")
    lines += [tree.missing] if tree.missing else []
    lines += [f"{row.at}  {_line(row)}" for row in _last(ledger, limit)]
    return "\n".join(lines) + "\n"


def _last(ledger: Ledger, limit: int) -> list[Row[Entry]]:
    return ledger.latest(*LISTED, limit=limit)[::-1]


def _line(row: Row[Entry]) -> str:
    sentence = _sentence(row)
    return sentence if sentence.startswith(f"{row.kind} ") else f"{row.kind}: {sentence}"


def _sentence(row: Row[Entry]) -> str:
    if is_change(row):
        change = to_deployment(row)
        return change.sentence + (f", by {change.by}" if change.by else "")
    match row.body:
        case VerdictEntry() as verdict:
            against = version_name(verdict.champion_version)
            return f"v{verdict.version} against {against}: {verdict.outcome}, {verdict.because}"
        case ReleaseEntry() as entry:
            return f"{entry.lessons} lessons" + (f" of {entry.batch}" if entry.batch else "")
        case AllowEntry() as entry:
            return f"the overlap {entry.overlap[:12]} is allowed in training"
        case RenewalEntry() as entry:
            return f"{entry.retired} questions retired, {entry.fresh} new questions on {entry.groups} answers"
        case RefusalEntry() as entry:
            return describe_refusal(entry)
        case UndoEntry() as entry:
            return f"{entry.lessons} lessons of {entry.batch} {'restored' if entry.restored else 'removed'}"
        case SupersedeEntry() as entry:
            return f"another answer to a request is right; {entry.retired} lessons retired"
    return row.kind
