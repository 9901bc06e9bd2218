"""The home: settings, database and base model, and everything else that commands, flows and tasks share."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from academy.curriculum.holdout import Holdout
from academy.errors import AdapterError
from academy.experience.lessons import LessonsStore
from academy.models.base_model import BaseModel, resolve
from academy.settings import Settings, load_settings
from academy.store.database import Database
from academy.store.ledger import Ledger
from academy.store.ledger_rows import ArchiveEntry, PromotionEntry, RollbackEntry
from academy.store.signing import Keys
from academy.system.connections import exempt_loopback

if TYPE_CHECKING:
    from academy.adapters.archive import AdapterStore
    from academy.genealogy.versions import Versions
    from academy.lifecycle.gate import Gate
    from academy.lifecycle.promotion import Serving
    from academy.serving.runtimes.base import Admit
    from academy.serving.runtimes.peft import PeftRuntime


class Home:
    """An opened home. Heavy parts are opened on first use."""

    def __init__(self, settings: Settings, base_model: str | None = None) -> None:
        exempt_loopback()
        self.settings = settings
        self.base_name = base_model or settings.base_model
        self.database = Database(settings.database)
        self.database.migrate()
        self.store = LessonsStore(self.database)
        self.holdout = Holdout(self.database)
        self._leases = ExitStack()
        self._leased: set[str] = set()

    @classmethod
    def open(cls, base_model: str | None = None, home: Path | None = None, *, adopt: bool = False) -> Home:
        """Read the settings, check the home, and migrate the database. `adopt`: a person trusts the home as it is."""
        return cls(load_settings(home, adopt=adopt), base_model)

    @cached_property
    def base(self) -> BaseModel:
        """The base model of this family."""
        return resolve(self.base_name)

    @cached_property
    def ledger(self) -> Ledger:
        """The family's ledger."""
        return Ledger(self.database, self.base.digest)

    @cached_property
    def mlflow(self) -> Any:
        """The MLflow client."""
        from academy.genealogy.tracking import open_mlflow

        return open_mlflow(self.settings)

    @cached_property
    def versions(self) -> Versions:
        """The family's registered versions."""
        from academy.genealogy.versions import Versions

        return Versions(lambda: self.mlflow, self.base.family)

    @cached_property
    def runtime(self) -> PeftRuntime:
        """The runtime that answers in this process."""
        from academy.serving.runtimes.peft import PeftRuntime

        return PeftRuntime(self.base, self.admit)

    @property
    def serving(self) -> Serving:
        """What switches to a new champion: the gateway of this home if one runs, or else this process."""
        from academy.serving.gateway.client import GatewayClient
        from academy.serving.gateway.switch import GatewaySwitch, InProcessSwitch

        gateway = GatewayClient.find(self.settings, self.base.digest)
        return (
            GatewaySwitch(gateway, self.ledger)
            if gateway
            else InProcessSwitch(lambda: self.runtime, self.adapter_store.folder)
        )

    @property
    def keys(self) -> Keys:
        """The keys that sign adapters, and the trusted keys."""
        return Keys(self.settings.home.resolve() / "keys")

    @cached_property
    def gate(self) -> Gate:
        """The rules that decide which adapters may be served and promoted."""
        from academy.lifecycle.gate import Gate

        return Gate(
            ledger=self.ledger,
            keys=self.keys,
            adapters=self.adapters,
            versions=lambda: self.versions,
            modules=self.base.modules,
        )

    @property
    def admit(self) -> Admit:
        """The gate as a function, for runtimes."""
        from academy.lifecycle.gate import admit_adapter

        return partial(admit_adapter, self.gate)

    @property
    def adapters(self) -> Path:
        """The folder of published adapters, each under its digest."""
        return self.settings.folder("adapters")

    def use_adapter(self, digest: str, *, by: str = "") -> Path:
        """The folder of an adapter. It is restored first if it was archived, and stays while this process runs."""
        from academy.lifecycle.gate import DIGEST

        if not DIGEST.fullmatch(digest):  # the base model under a name, or an unverified version
            raise AdapterError("This version has no usable adapter.", "`academy models` lists the versions.")
        if digest not in self._leased:
            self._leases.enter_context(self.adapter_store.lease(digest))
            self._leased.add(digest)
        if not self.adapter_store.here(digest) and self.adapter_store.package(digest) is not None:
            self.restore_adapter(digest, by=by, because="it is used")
        return self.adapter_store.folder(digest)

    def restore_adapter(self, digest: str, *, by: str, because: str) -> None:
        """Restore an archived adapter that the caller uses. Its version may have been deleted in MLflow."""
        from academy.lifecycle.retention import restore

        rows = self.ledger.latest(PromotionEntry, RollbackEntry, ArchiveEntry)
        number = next((row.body.version for row in rows if row.body.digest == digest), None)
        number = number or self.versions.get(digest).version
        restore(self.ledger, self.versions, self.adapter_store, number, digest, by=by, because=because)

    @cached_property
    def adapter_store(self) -> AdapterStore:
        """Adapters on disk and in the archive."""
        from academy.adapters.archive import AdapterStore

        return AdapterStore(self.adapters)

    @property
    def datasets(self) -> Path:
        """The folder of datasets, each under its digest."""
        return self.settings.folder("datasets")

    @property
    def quarantine(self) -> Path:
        """The folder that keeps unreadable lines."""
        return self.settings.folder("quarantine")


def current_user() -> str:
    """The login name of the user of this process; ledger rows keep it."""
    from academy.system.processes import person

    return person()
