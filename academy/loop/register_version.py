"""Registers adapters, and the base model, under names that users choose."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from academy.adapters.adapter import BESIDE, FILES, MANIFEST, Adapter, open_adapter, read_adapter
from academy.errors import AdapterError, InputError
from academy.genealogy.description import describe
from academy.genealogy.versions import METRIC, NAME, UNVERIFIED, Version, check_name
from academy.loop.home import Home
from academy.models.base_model import SEED, resolve
from academy.store.files import publish_folder
from academy.store.ledger import BASE

log = logging.getLogger(__name__)


def register_version(
    home: Home,
    name: str,
    base_model: str | None = None,
    adapter_path: str | Path | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Version:
    """Register an adapter (or, without one, the base model) under a name with metrics, or add them to its version.

    An adapter that a training of this home registered keeps its version. An adapter that cannot be verified is
    registered as unverified and is never activated. `base_model` is a label, because the adapter's manifest has the
    digest of its base model. Raises InputError for another base model of this machine, for a name that is taken,
    and for metrics that are not numbers.
    """
    checked_metrics = _check_metrics(metrics or {})
    label = base_model or home.base.name
    if (label == SEED or Path(label).is_dir()) and resolve(label).digest != home.base.digest:
        raise InputError(
            f"{label} is not the base model {home.base.name}.", "Choose the base model with ACADEMY_BASE_MODEL."
        )
    version = _named(home, name)
    tags = {f"{METRIC}{metric}": repr(value) for metric, value in checked_metrics.items()}
    tags |= {"base_model_label": label[:500]}
    if adapter_path is None:
        if version is not None and version.adapter != BASE:
            raise _taken(name, version)
        version = version or _enter(home, label, {"adapter": BASE}, home.base.path.resolve().as_uri())
    else:
        version = _register_adapter(home, name, label, Path(adapter_path).expanduser(), version)
    home.versions.set_tags(version.version, tags)
    if version.label != name:
        home.versions.set_label(version, name)
    describe(home.versions, home.ledger, version.version)
    return home.versions.get(version.version)


def _named(home: Home, name: str) -> Version | None:
    """The version that has exactly this name now."""
    check_name(name)
    version = home.versions.find(name)
    return version if version is not None and version.label == name else None


def _register_adapter(home: Home, name: str, label: str, path: Path, named: Version | None) -> Version:
    try:
        opened = open_adapter(path, base_digest=home.base.digest, beside=BESIDE)
        opened.check_signature(home.keys)
        adapter = opened.adapter
    except (AdapterError, NotADirectoryError) as problem:
        because = problem.message if isinstance(problem, AdapterError) else f"{path} is not a folder."
        if named is not None and not named.unverified:
            raise _taken(name, named) from problem
        log.warning("%s is registered as unverified: %s", name, because)
        tags = {UNVERIFIED: because[:4900]}
        if named is not None:
            home.versions.set_tags(named.version, tags)
            return named
        return _enter(home, label, tags, path.resolve().as_uri())
    if named is not None and named.adapter != adapter.digest and not named.unverified:
        raise _taken(name, named)
    champion = home.ledger.champion()
    version = home.versions.adopt(
        _stored(home, adapter), parent=champion.version, generation=champion.generation + 1
    )  # fmt: skip
    if version.label and version.label != name:
        raise InputError(
            f"This adapter is {version.name} and already has the name {version.label}.",
            f"Use the name {version.label}.",
        )
    if named is not None and named.version != version.version:  # an unverified version gives up its name
        home.versions.set_tags(named.version, {"label": None})
    return version


def _stored(home: Home, adapter: Adapter) -> Adapter:
    """A copy of the adapter in this home, checked again there."""
    place = home.adapter_store.folder(adapter.digest)
    if adapter.path.resolve() != place and not place.is_dir():
        with publish_folder(place) as folder:
            for name in (*FILES, MANIFEST):
                (folder / name).write_bytes((adapter.path / name).read_bytes())
            read_adapter(folder, base_digest=home.base.digest, digest=adapter.digest)
    return read_adapter(place, base_digest=home.base.digest, digest=adapter.digest)


def _enter(home: Home, base_name: str, tags: dict[str, str], source: str) -> Version:
    return home.versions.register_unverified(base_name, tags, source, parent=BASE, generation=0)


def _check_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    for name, value in metrics.items():
        if not NAME.fullmatch(name):
            raise InputError(f"Invalid metric name '{name}'.", "Use letters, digits and . _ - : @ +.")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"The metric {name} must be a finite number.", "Pass a number.")
    return {name: float(value) for name, value in metrics.items()}


def _taken(name: str, owner: Version) -> InputError:
    return InputError(f"{owner.name} already has the name {name}.", "Choose another name; a version keeps its name.")
