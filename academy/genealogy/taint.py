"""Marks the versions that were trained on forgotten lessons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from academy.genealogy.versions import INIT_ADAPTER, TAINT, TAINTED, pages
from academy.records import Record


class Tainted(Record):
    """A version of any family that was trained on a forgotten lesson."""

    family: str
    version: str
    adapter: str


def taint(client: Any, datasets: Sequence[str], adapters: Iterable[str] = ()) -> list[Tainted]:
    """Taint the versions of all families that were trained on one of these datasets (digests). Returns them.

    Versions whose training started from the adapter of such a version, or from one of `adapters` (digests), as well.
    """
    versions: dict[tuple[str, str], Tainted] = {}
    conditions = [f"tags.dataset = '{digest}'" for digest in datasets]
    conditions += [f"tags.{INIT_ADAPTER} = '{adapter}'" for adapter in adapters]
    while conditions:
        for row in pages(client, conditions.pop()):
            key, adapter = (row.name, str(row.version)), row.tags.get("adapter", "")
            if key in versions:
                continue
            client.set_model_version_tag(*key, TAINT, TAINTED)
            versions[key] = Tainted(family=row.name, version=str(row.version), adapter=adapter)
            if adapter:
                conditions.append(f"tags.{INIT_ADAPTER} = '{adapter}'")
    return list(versions.values())
