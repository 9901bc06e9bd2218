"""The family tree of a base model as a record: its versions with their parents, verdicts, and what became of them.

It is read from MLflow's registry and the ledger, page by page: a page costs two queries, however many versions there
are. A parent that is on an older page, or was deleted in MLflow, is named and not read.
"""

from __future__ import annotations

from typing import Any

import orjson

from academy.genealogy.history import Deployment, history
from academy.genealogy.versions import Version, Versions
from academy.records import Record
from academy.store.ledger import BASE, Ledger


class Node(Record):
    """A version and what happened to it, oldest first."""

    version: Version
    recipe: dict[str, Any]
    events: tuple[Deployment, ...]

    @property
    def ever_champion(self) -> bool:
        """Whether it answered once."""
        number = self.version.version
        return any(one.action in ("deploy", "rollback") and one.version == number for one in self.events)

    @property
    def status(self) -> str:
        """Champion, tainted, unverified, archived: what is true of it, by commas."""
        one = self.version
        words = (
            ("champion", one.champion), ("tainted", one.tainted),
            ("unverified", bool(one.unverified)), ("archived", one.archived),
        )  # fmt: skip
        return ", ".join(word for word, so in words if so)


class FamilyTree(Record):
    """A page of a family, oldest first."""

    family: str
    base: str  # the base model's name
    champion: str  # version, or "base"
    champion_adapter: str
    missing: str  # why MLflow does not show the champion; empty where it does
    nodes: tuple[Node, ...]
    before: int | None  # the page before this one ends with smaller numbers than this; None where there is none

    @property
    def numbers(self) -> frozenset[str]:
        """Versions on this page."""
        return frozenset(node.version.version for node in self.nodes)

    def children(self, parent: str) -> list[Node]:
        """The nodes of this page whose parent it is, oldest first."""
        return [node for node in self.nodes if node.version.parent == parent]

    def elsewhere(self) -> list[str]:
        """Parents that are not on this page, by their numbers."""
        parents = {node.version.parent for node in self.nodes} - self.numbers - {BASE}
        return sorted(parents, key=lambda one: (len(one), one))


def family_tree(
    versions: Versions, ledger: Ledger, base_name: str, limit: int = 50, before: int | None = None
) -> FamilyTree:
    """The newest `limit` versions, or those with smaller numbers than `before`."""
    champion = ledger.champion()
    found = versions.page(limit + 1, before, champion)
    page = found[:limit][::-1]
    events: dict[str, list[Deployment]] = {one.version: [] for one in page}
    for one in reversed(history(ledger, versions=list(events)) if events else []):
        for number in {one.version, one.replaces} & events.keys():
            events[number].append(one)
    missing = ""
    if champion.version != BASE and not any(one.champion for one in page):
        there = versions.find(champion.version)
        if there is None:
            missing = f"{champion.name}, the champion, was deleted in MLflow; it answers all the same."
        elif there.adapter != champion.adapter:
            missing = f"MLflow's {champion.name} is no longer the champion's adapter {champion.adapter[:12]}."
    return FamilyTree(
        family=versions.family,
        base=base_name,
        champion=champion.version,
        champion_adapter=champion.adapter,
        missing=missing,
        nodes=tuple(Node(version=one, recipe=_recipe(one), events=tuple(events[one.version])) for one in page),
        before=int(page[0].version) if len(found) > limit else None,
    )


def _recipe(version: Version) -> dict[str, Any]:
    """The recipe as it was registered; empty where the tag is not there or was edited into something else."""
    try:
        found = orjson.loads(version.recipe or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
