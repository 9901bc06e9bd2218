"""The family tree of a base model as a record: its versions with parents, verdicts and later changes.

It is read from MLflow's registry and the ledger, page by page. A page costs two queries, whatever the number of
versions. A parent on an older page, or deleted in MLflow, is named but not read.
"""

from __future__ import annotations

from typing import Any

import orjson

from academy.genealogy.history import Deployment, history
from academy.genealogy.versions import Version, Versions
from academy.records import Record
from academy.store.ledger import BASE, Ledger


class Node(Record):
    """A version with its changes, oldest first."""

    version: Version
    recipe: dict[str, Any]
    events: tuple[Deployment, ...]

    @property
    def ever_champion(self) -> bool:
        """Whether it ever was champion."""
        number = self.version.version
        return any(event.action in ("deploy", "rollback") and event.version == number for event in self.events)

    @property
    def status(self) -> str:
        """Which of champion, tainted, unverified and archived apply, separated by commas."""
        version = self.version
        flags = {
            "champion": version.champion, "tainted": version.tainted,
            "unverified": bool(version.unverified), "archived": version.archived,
        }  # fmt: skip
        return ", ".join(name for name, applies in flags.items() if applies)


class FamilyTree(Record):
    """A page of a family, oldest first."""

    family: str
    base: str  # the base model's name
    champion: str  # version, or "base"
    champion_adapter: str
    missing: str  # why MLflow does not show the champion; empty if it does
    nodes: tuple[Node, ...]
    before: int | None  # versions of the older page have smaller numbers than this; None on the oldest page

    @property
    def numbers(self) -> frozenset[str]:
        """Versions on this page."""
        return frozenset(node.version.version for node in self.nodes)

    def children(self, parent: str) -> list[Node]:
        """The nodes of this page with this parent, oldest first."""
        return [node for node in self.nodes if node.version.parent == parent]

    def elsewhere(self) -> list[str]:
        """Parents that are not on this page, sorted by number."""
        parents = {node.version.parent for node in self.nodes} - self.numbers - {BASE}
        return sorted(parents, key=lambda number: (len(number), number))


def family_tree(
    versions: Versions, ledger: Ledger, base_name: str, limit: int = 50, before: int | None = None
) -> FamilyTree:
    """The newest `limit` versions, or those with smaller numbers than `before`."""
    champion = ledger.champion()
    newest = versions.page(limit + 1, before, champion)
    page = newest[:limit][::-1]
    events: dict[str, list[Deployment]] = {version.version: [] for version in page}
    for change in reversed(history(ledger, versions=list(events)) if events else []):
        for number in {change.version, change.replaces} & events.keys():
            events[number].append(change)
    missing = ""
    if champion.version != BASE and not any(version.champion for version in page):
        version = versions.find(champion.version)
        if version is None:
            missing = f"{champion.name}, the champion, was deleted in MLflow. It still answers."
        elif version.adapter != champion.adapter:
            missing = f"{champion.name} in MLflow no longer has the champion's adapter {champion.adapter[:12]}."
    return FamilyTree(
        family=versions.family,
        base=base_name,
        champion=champion.version,
        champion_adapter=champion.adapter,
        missing=missing,
        nodes=tuple(
            Node(version=version, recipe=_recipe(version), events=tuple(events[version.version])) for version in page
        ),
        before=int(page[0].version) if len(newest) > limit else None,
    )


def _recipe(version: Version) -> dict[str, Any]:
    """The registered recipe; empty if the tag is missing or invalid."""
    try:
        recipe = orjson.loads(version.recipe or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return recipe if isinstance(recipe, dict) else {}
