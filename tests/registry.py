"""A family with a real ledger, a real MLflow registry and tiny adapters, for tests that train nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from safetensors.numpy import save_file

from academy.artifacts import digest_of_file
from academy.genealogy.tracking import ORDER_TAG
from academy.genealogy.versions import CHAMPION, Version, Versions
from academy.habitat.adapter import CONFIG, FILES, MANIFEST, TEMPLATE_FILE, WEIGHTS, digest_of_adapter, read_adapter
from academy.habitat.archive import AdapterStore
from academy.ledger import BASE, Ledger, Row
from academy.professor import Recipe
from academy.promotion import promote, record_verdict, rollback


def nothing(_folder: Path) -> None:
    """The canaries of adapters that have none."""


@dataclass
class House:
    """One family with its ledger, its registry and a folder of tiny adapters."""

    ledger: Ledger
    versions: Versions
    adapters: Path

    def make(self, value: float, base_digest: str = "") -> Path:
        """The folder of a tiny adapter whose tensors hold `value`."""
        staged = self.adapters / f"made-{value}"
        staged.mkdir(parents=True)
        save_file({"layer.lora_A": np.full((2, 4), value, dtype=np.float32)}, staged / WEIGHTS)
        (staged / CONFIG).write_bytes(b'{"r": 4}')
        (staged / TEMPLATE_FILE).write_text("{{ messages }}", encoding="utf-8")
        digest = digest_of_adapter(staged)
        manifest = {
            "adapter": digest, "files": {name: digest_of_file(staged / name) for name in FILES},
            "base_name": "seed", "base_digest": base_digest or self.ledger.family, "dataset": "d",
            "train_digest": "t", "order": f"order-{value}", "template": "t",
            "special_tokens": {}, "recipe": Recipe().model_dump(mode="json"), "trainer": "test",
            "versions": {}, "threads": 1, "examples": 50, "supervised_tokens": 500, "steps": 10, "loss": 0.5,
            "canaries": [],
        }  # fmt: skip
        (staged / MANIFEST).write_bytes(orjson.dumps(manifest))
        return staged.rename(self.adapters / digest[:16])

    def train(self, value: float) -> Version:
        """A registered version with such an adapter."""
        digest = read_adapter(self.make(value)).digest
        made = self.versions.client.create_model_version(
            self.versions.family,
            source=self.adapters.as_uri(),
            tags={"adapter": digest, ORDER_TAG: f"order-{value}"},
        )
        return self.versions.get(str(made.version))

    def examine(self, version: Version, outcome: str = "PROMOTE", cursor: int = 10) -> Row:
        """A verdict on a version against the present champion."""
        champion = self.ledger.champion().adapter
        body = {
            "outcome": outcome, "challenger": version.adapter, "champion": champion, "cursor": cursor, "spends": True,
            "version": version.version, "champion_version": self.ledger.champion().version, "because": "a test says so",
        }  # fmt: skip
        key = f"verdict:{len(list(self.ledger.rows()))}"
        return record_verdict(self.ledger, key, body, (self.ledger.champion().cursor, cursor))

    def promote(self, version: Version, verdict: Row, verify: Callable[[Path], None] | None = None) -> Row:
        return promote(self.ledger, self.versions, version, self.adapters, verdict, verify)

    def crown(self, version: Version) -> None:
        self.promote(version, self.examine(version))

    def rollback(self, to: str | None = None) -> str:
        return rollback(self.ledger, self.versions, self.adapters, to, "a test", by="tester").name

    @property
    def store(self) -> AdapterStore:
        """The adapters on the disk and in the archive."""
        return AdapterStore(self.adapters)

    @property
    def alias(self) -> str:
        """Whom MLflow shows as champion."""
        aliases = self.versions.client.get_registered_model(self.versions.family).aliases
        return str(aliases.get(CHAMPION, BASE))
