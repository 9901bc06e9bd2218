"""One family with its ledger, a real MLflow registry, keys and a folder of small signed adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from academy.admission import Gate
from academy.genealogy.tracking import ORDER_TAG
from academy.genealogy.versions import CHAMPION, Version, Versions
from academy.habitat.adapter import read_adapter
from academy.ledger import BASE, Ledger, Row
from academy.promotion import promote, record_verdict, rollback
from academy.signing import Keys
from tests.adapters import MODULES, publish


@dataclass
class House:
    """What promotion and admission work on."""

    ledger: Ledger
    versions: Versions
    home: Path

    @property
    def adapters(self) -> Path:
        return self.home / "adapters"

    @property
    def keys(self) -> Keys:
        return Keys(self.home / "keys")

    @property
    def gate(self) -> Gate:
        return Gate(self.ledger, self.keys, self.adapters, lambda: self.versions, frozenset(MODULES))

    def train(self, value: float, **facts: Any) -> Version:
        """A registered version with a small adapter whose tensors hold `value`."""
        folder = publish(self.adapters, value, **{"keys": self.keys, "base_digest": self.ledger.family, **facts})
        manifest = read_adapter(folder).manifest
        tags = {"adapter": manifest.adapter, ORDER_TAG: manifest.order, "dataset": manifest.dataset}
        made = self.versions.client.create_model_version(
            self.versions.family, source=self.adapters.as_uri(), tags=tags
        )  # fmt: skip
        return self.versions.get(str(made.version))

    def folder(self, version: Version) -> Path:
        """Where a version's adapter lies."""
        return self.adapters / version.adapter[:16]

    def tag(self, version: Version, **tags: str) -> None:
        """Change what the registry says."""
        for name, value in tags.items():
            self.versions.client.set_model_version_tag(
                self.versions.family, version.version, ORDER_TAG if name == "order" else name, value
            )

    def examine(self, version: Version, outcome: str = "PROMOTE", cursor: int = 10) -> Row:
        """A verdict on a version against the present champion."""
        champion = self.ledger.champion().adapter
        body = {
            "outcome": outcome, "challenger": version.adapter, "version": version.version, "champion": champion,
            "cursor": cursor, "spends": True,
        }  # fmt: skip
        key = f"verdict:{len(list(self.ledger.rows()))}"
        return record_verdict(self.ledger, key, body, (self.ledger.champion().cursor, cursor))

    def promote(self, version: Version, verdict: Row, verify: Callable[[Path], None] | None = None) -> Row:
        return promote(self.ledger, self.versions, version, self.gate, verdict, verify)

    def crown(self, version: Version) -> None:
        self.promote(version, self.examine(version))

    def rollback(self, to: str | None = None) -> str:
        return rollback(self.ledger, self.versions, self.gate, to, "a test").name

    @property
    def alias(self) -> str:
        """Whom MLflow shows as champion."""
        aliases = self.versions.client.get_registered_model(self.versions.family).aliases
        return str(aliases.get(CHAMPION, BASE))
