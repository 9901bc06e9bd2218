"""Makes versions champion by hand, without a verdict, and rolls back to the base model."""

from __future__ import annotations

from pathlib import Path

from academy.adapters.adapter import BESIDE, read_adapter
from academy.errors import InputError
from academy.lifecycle.promotion import activate, rollback
from academy.loop.home import Home
from academy.loop.register_version import register_version
from academy.loop.rollback import Change
from academy.store.ledger import BASE, Champion


def activate_version(home: Home, name: str, because: str = "", *, by: str) -> Champion:
    """Make a version champion. A champion stays champion, and nothing is written.

    Raises AdapterError if its adapter does not pass the checks, and PromotionError if the ledger refuses it.
    """
    version = home.versions.get(name)
    champion = home.ledger.champion()
    if version.adapter == champion.adapter:
        return champion
    return activate(home.ledger, home.versions, version, home.gate, home.serving, by=by, because=because)


def activate_adapter(
    home: Home,
    name: str,
    adapter_path: str | Path | None = None,
    base_model: str | None = None,
    because: str = "",
    *,
    by: str,
) -> Champion:
    """Activate an adapter by its job's id (or its order or digest), and register it first if it is new.

    Raises AdapterError if `adapter_path` contains another adapter than the registered one.
    """
    version = home.versions.find(name)
    if version is None:
        if adapter_path is None:
            raise InputError(f"Unknown adapter {name}.", "`academy models` lists the versions.")
        version = register_version(home, name, base_model, adapter_path)
    elif adapter_path is not None and not version.unverified:
        path = Path(adapter_path).expanduser()
        read_adapter(path, base_digest=home.base.digest, digest=version.adapter, beside=BESIDE)
    return activate_version(home, version.version, because, by=by)


def deactivate_adapter(home: Home, because: str = "", *, by: str) -> bool:
    """Roll back to the base model, as a ledger row. False if the base model already answers."""
    if home.ledger.champion().adapter == BASE:
        return False
    rollback(home.ledger, home.versions, home.gate, BASE, because, home.serving, by=by)
    return True


def activate_by_hand(
    home: Home, name: str, adapter_path: str | None, base_model: str | None, because: str, *, by: str
) -> Change:
    """Activate a version, or with a path an adapter that may be new. The champion before and after."""
    before = home.ledger.champion()
    if adapter_path is None:
        champion = activate_version(home, name, because, by=by)
    else:
        champion = activate_adapter(home, name, adapter_path, base_model, because, by=by)
    return Change(before=before, champion=champion)


def deactivate_by_hand(home: Home, because: str, *, by: str) -> Change:
    """Roll back to the base model. The champion before and after."""
    before = home.ledger.champion()
    deactivate_adapter(home, because, by=by)
    return Change(before=before, champion=home.ledger.champion())
