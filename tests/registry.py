"""A family with a real ledger, a real MLflow registry, keys and small signed adapters, without any training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from academy.adapters.adapter import read_adapter
from academy.adapters.archive import AdapterStore
from academy.genealogy.tracking import ORDER_TAG
from academy.genealogy.versions import CHAMPION, Version, Versions
from academy.lifecycle.gate import Gate
from academy.lifecycle.promotion import promote, record_verdict, rollback
from academy.store.ledger import BASE, Ledger
from academy.store.ledger_rows import PromotionEntry, Row, VerdictEntry
from academy.store.signing import Keys
from tests.adapters import MODULES, publish
from tests.ledger_entries import verdict as verdict_entry


@dataclass
class Standby:
    """A gateway without users, for adapters without canaries. Records its calls; `check` and `alias` may refuse."""

    check: Callable[[str], None] | None = None
    alias: Callable[[], None] | None = None
    asked: list[str] = field(default_factory=list)

    def prepare(self, adapter: str, *, again: bool = False) -> None:
        self.asked.append(f"again {adapter}" if again else adapter)
        if self.check is not None:
            self.check(adapter)

    def follow(self) -> None:
        self.asked.append("follow")
        if self.alias is not None:
            self.alias()


@dataclass
class House:
    """A family in a home, on which promotion, admission and retention work."""

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

    @property
    def store(self) -> AdapterStore:
        """The adapters on the disk and in the archive."""
        return AdapterStore(self.adapters)

    def make(self, value: float, **facts: Any) -> Path:
        """The folder of a small signed adapter whose tensors hold `value`."""
        return publish(self.adapters, value, **{"keys": self.keys, "base_digest": self.ledger.family, **facts})

    def train(self, value: float, **facts: Any) -> Version:
        """A registered version with such an adapter."""
        manifest = read_adapter(self.make(value, **facts)).manifest
        tags = {"adapter": manifest.adapter, ORDER_TAG: manifest.order, "dataset": manifest.dataset}
        version = self.versions.client.create_model_version(
            self.versions.family, source=self.adapters.as_uri(), tags=tags
        )  # fmt: skip
        return self.versions.get(str(version.version))

    def folder(self, version: Version) -> Path:
        """The folder of a version's adapter."""
        return self.store.folder(version.adapter)

    def tag(self, version: Version, **tags: str) -> None:
        """Change tags of a version in the registry."""
        for name, value in tags.items():
            self.versions.client.set_model_version_tag(
                self.versions.family, version.version, ORDER_TAG if name == "order" else name, value
            )

    def examine(self, version: Version, outcome: str = "PROMOTE", cursor: int = 10) -> Row[VerdictEntry]:
        """A verdict on a version against the current champion."""
        champion = self.ledger.champion()
        entry = verdict_entry(
            outcome, challenger=version.adapter, champion=champion.adapter, cursor=cursor, version=version.version,
            champion_version=champion.version, because="a test says so",
        )  # fmt: skip
        key = f"verdict:{len(list(self.ledger.rows()))}"
        return record_verdict(self.ledger, key, entry, (champion.cursor, cursor))

    def promote(
        self, version: Version, verdict: Row[VerdictEntry], check: Callable[[str], None] | None = None, **more: Any
    ) -> Row[PromotionEntry]:
        serving = more.pop("serving", None) or Standby(check)
        return promote(self.ledger, self.versions, version, self.gate, verdict, serving, **more)

    def make_champion(self, version: Version) -> None:
        self.promote(version, self.examine(version))

    def rollback(self, to: str | None = None, serving: Standby | None = None) -> str:
        return rollback(self.ledger, self.versions, self.gate, to, "a test", serving or Standby(), by="tester").name

    @property
    def alias(self) -> str:
        """The version that MLflow's alias names champion."""
        aliases = self.versions.client.get_registered_model(self.versions.family).aliases
        return str(aliases.get(CHAMPION, BASE))
