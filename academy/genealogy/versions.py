"""Versions in the MLflow registry: an adapter as a LoggedModel, a registered version with tags, the alias `champion`.

The registry is where people browse; nothing here decides who is champion. A version is found again by its order and
its adapter, so registering twice gives one version. People may edit or delete there what they like: what is read here
is never trusted further than to be shown, and what is gone is told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from academy.adapters.adapter import Adapter, Manifest
from academy.errors import InputError
from academy.genealogy.tracking import EXPERIMENT, ORDER_TAG, TrackedRun
from academy.records import Record, canonical
from academy.store.ledger import BASE, Champion

CHAMPION = "champion"
TAINT, TAINTED = "tainted", "made of lessons that were forgotten since"
FIRST = "init_adapter"
"""Digest of the adapter that a version's training began with, where that was not the base."""
LABEL = "label"
UNVERIFIED = "unverified"
ARCHIVED = "archived"
METRIC = "metric."
PAGE = 200
GONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
LONGEST_NUMBER = 18
"""Digits of a version's number: longer ones are none, and no database takes them."""
NAME = re.compile(r"[A-Za-z0-9_][\w.:@+\-]{0,99}", re.ASCII)
"""What a person may call a version."""
ALIAS = re.compile(r"(?!latest$|v\d+$)[\w\-]+", re.ASCII | re.IGNORECASE)
"""Names that MLflow takes as an alias as well."""
AliasUpdate = Literal["as it was", "mended", "gone"]


class Version(Record):
    """A registered version as people see it."""

    version: str
    adapter: str
    order: str
    generation: int
    parent: str
    dataset: str
    verdict: str
    run: str
    created: int  # milliseconds since the epoch
    champion: bool = False
    tainted: bool = False  # made of lessons that were forgotten since
    label: str = ""  # what a person called it
    because: str = ""  # of the verdict
    init_adapter: str = ""  # digest of the adapter that its training began with; empty: the base model
    recipe: str = ""  # canonical JSON; empty for versions registered before it was kept here
    metrics: dict[str, float] = Field(default_factory=dict)  # what was told at registration
    scores: dict[str, str] = Field(default_factory=dict)  # of the examination of record
    unverified: str = ""  # why its adapter could not be verified when it was registered
    archived: bool = False

    @property
    def name(self) -> str:
        """As shown to people: `v7`."""
        return f"v{self.version}"


class Versions:
    """The versions of one family (one base model)."""

    def __init__(self, open_client: Callable[[], Any], family: str) -> None:
        """`open_client` gives MLflow's client; it is called when it is first needed, because that takes seconds."""
        self._open_client = open_client
        self.family = family

    @cached_property
    def client(self) -> Any:
        """MLflow's client."""
        return self._open_client()

    def register(self, adapter: Adapter, run: TrackedRun, *, parent: str, generation: int) -> Version:
        """Publish an adapter as a version, once. Other bytes of the same order are another one."""
        if known := self._known(adapter):
            return known
        return self._publish(adapter, run.experiment, run.id, parent, generation)

    def adopt(self, adapter: Adapter, *, parent: str, generation: int) -> Version:
        """Publish an adapter that no training of this home made, once. Other bytes of one order are another version."""
        if known := self._known(adapter):
            return known
        return self._publish(adapter, self.experiment, None, parent, generation)

    def register_unverified(
        self, base_name: str, tags: dict[str, str], source: str, *, parent: str, generation: int
    ) -> Version:
        """Register what is no verified adapter: the base model under a name, or something that was refused."""
        self._ensure_family(base_name)
        facts = {"generation": str(generation), "parent": parent, "base_model": base_name, "verdict": "not examined"}
        made = self.client.create_model_version(self.family, source=source, tags=facts | tags)
        return self.get(str(made.version))

    def get(self, version: str) -> Version:
        """A version by its number (`7` or `v7`), its name, its order (job), run or adapter.

        Of orders and adapters 12 digits are enough. Raises InputError where there is none.
        """
        number = version.removeprefix("v")
        if number.isdecimal():
            if len(number) <= LONGEST_NUMBER and (row := self._row(number)) is not None:
                return _version(row)
        elif NAME.fullmatch(version) and (found := self._named(version)):
            return found
        raise InputError(f"There is no version {version} of this base model.", "`academy models` lists them.")

    def find(self, version: str) -> Version | None:
        """A version as `get` finds it, or None: people may delete versions in MLflow."""
        try:
            return self.get(version)
        except InputError:
            return None

    def page(self, limit: int, before: int | None = None, champion: Champion | None = None) -> list[Version]:
        """At most `limit` versions, newest first, with smaller numbers than `before`: one query.

        The one that `champion` names is marked, where it is still that adapter.
        """
        older = f" AND version_number < {before}" if before is not None else ""
        found = self.client.search_model_versions(
            f"name = '{self.family}'{older}", max_results=limit, order_by=["version_number DESC"]
        )
        now = champion or Champion()
        versions = map(_version, found)
        return [
            one.model_copy(update={"champion": (one.version, one.adapter) == (now.version, now.adapter)})
            for one in versions
        ]

    def newest(self, champion: Champion | None = None) -> Iterator[Version]:
        """All versions, newest first, read page by page as far as the caller goes."""
        before = None
        while page := self.page(PAGE, before, champion):
            yield from page
            before = int(page[-1].version)

    def of_adapter(self, digest: str) -> list[Version]:
        """The versions that name this adapter (a digest); as a rule one."""
        return [_version(one) for one in _pages(self.client, f"name = '{self.family}' AND tags.adapter = '{digest}'")]

    def by_order(self, order: str) -> Version | None:
        """The newest version of a training order."""
        return self._one(f"tags.`{ORDER_TAG}` = '{order}'")

    def set_verdict(self, version: str, outcome: str, because: str, scores: dict[str, str]) -> None:
        """Write an examination's outcome where people browse."""
        self.set_tags(version, {"verdict": outcome, "verdict_because": because[:4900], **scores})

    def set_tags(self, version: str, tags: Mapping[str, str | None]) -> bool:
        """Set tags of a version, or take them away (None). What is so already is left: MLflow writes slowly.

        False, and nothing is done, where the version was deleted there.
        """
        found = self._row(version)
        if found is None:
            return False
        known = found.tags
        for name, value in tags.items():
            if value is None and name in known:
                self.client.delete_model_version_tag(self.family, version, name)
            elif value is not None and known.get(name) != value:
                self.client.set_model_version_tag(self.family, version, name, value)
        return True

    def describe(self, version: str, text: str) -> None:
        """Write the markdown that MLflow shows with a version, where the version is still there."""
        found = self._row(version)
        if found is not None and (found.description or "") != text:
            self.client.update_model_version(self.family, version, text)

    @cached_property
    def experiment(self) -> str:
        """The id of MLflow's experiment that holds the runs."""
        return str(self.client.get_experiment_by_name(EXPERIMENT).experiment_id)

    def set_label(self, version: Version, label: str) -> Version:
        """Give a version a name: a tag, and an alias where MLflow takes it. Raises InputError for one that is none."""
        check_name(label)
        self.set_tags(version.version, {LABEL: label})
        if ALIAS.fullmatch(label):
            self.client.set_registered_model_alias(self.family, label, version.version)
        return self.get(version.version)

    def set_champion_alias(self, version: str, adapter: str = "") -> AliasUpdate:
        """Make the alias say what the ledger says; "gone" where that version is no longer there, or another adapter."""
        shown = self._aliased()
        if version == BASE:
            if shown is None:
                return "as it was"
            self.client.delete_registered_model_alias(self.family, CHAMPION)
            return "mended"
        found = shown if shown is not None and shown.version == version else self.find(version)
        if found is None or (adapter and found.adapter != adapter):
            if shown is not None:  # better nobody is shown than somebody else
                self.client.delete_registered_model_alias(self.family, CHAMPION)
            return "gone"
        if shown is not None and shown.version == version:
            return "as it was"
        self.client.set_registered_model_alias(self.family, CHAMPION, version)
        return "mended"

    def _row(self, number: str) -> Any:
        """MLflow's own record of a version, or None where it was deleted or never was."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version(self.family, number)
        except MlflowException as problem:
            if problem.error_code not in GONE:
                raise
            return None

    def _aliased(self) -> Version | None:
        from mlflow.exceptions import MlflowException

        try:
            return _version(self.client.get_model_version_by_alias(self.family, CHAMPION))
        except MlflowException as problem:
            if problem.error_code not in GONE:
                raise
            return None

    def _one(self, wanted: str) -> Version | None:
        found = self.client.search_model_versions(
            f"name = '{self.family}' AND {wanted}", max_results=1, order_by=["version_number DESC"]
        )
        return _version(found[0]) if found else None

    def _named(self, name: str) -> Version | None:
        if found := self._one(f"tags.`{LABEL}` = '{name}'"):
            return found
        if re.fullmatch(r"[0-9a-f]{32}", name) and (found := self._one(f"run_id = '{name}'")):
            return found
        if re.fullmatch(r"[0-9a-f]{12,64}", name):
            return self._one(f"tags.`{ORDER_TAG}` LIKE '{name}%'") or self._one(f"tags.`adapter` LIKE '{name}%'")
        return self.by_order(name)

    def _known(self, adapter: Adapter) -> Version | None:
        found = [one for one in self.of_adapter(adapter.digest) if one.order == adapter.manifest.order]
        return found[0] if found else None

    def _publish(self, adapter: Adapter, experiment: str, run: str | None, parent: str, generation: int) -> Version:
        manifest = adapter.manifest
        self._ensure_family(manifest.base_name)
        model = self._logged_model(adapter, experiment, run)
        tags = {
            ORDER_TAG: manifest.order,
            "adapter": adapter.digest,
            "generation": str(generation),
            "parent": parent,
            "dataset": manifest.dataset,
            "base_model": manifest.base_name,
            "recipe": canonical(manifest.recipe).decode(),
            "verdict": "not examined",
        }
        if manifest.recipe.init_adapter:
            tags[FIRST] = manifest.recipe.init_adapter
        made = self.client.create_model_version(
            self.family, source=f"models:/{model}", run_id=run, tags=tags, model_id=model,
            description=f"Generation {generation}, trained on {manifest.examples:,} examples; parent {parent}.",
        )  # fmt: skip
        return self.get(str(made.version))

    def _ensure_family(self, base_name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(
                self.family, tags={"base_model": base_name}, description=f"Adapters of the base model {base_name}."
            )
        except MlflowException as problem:
            if problem.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _logged_model(self, adapter: Adapter, experiment: str, run: str | None) -> str:
        """The LoggedModel of an order; a killed attempt's is found again and completed."""
        manifest: Manifest = adapter.manifest
        wanted = f"tags.`{ORDER_TAG}` = '{manifest.order}' AND tags.adapter = '{adapter.digest}'"
        found = self.client.search_logged_models([experiment], filter_string=wanted)
        ready = [model for model in found if str(model.status) in ("READY", "LoggedModelStatus.READY")]
        if ready:
            return str(ready[0].model_id)
        model = found[0] if found else self.client.create_logged_model(
            experiment, name="adapter", source_run_id=run, model_type="lora",
            tags={ORDER_TAG: manifest.order, "adapter": adapter.digest},
            params={name: str(value) for name, value in manifest.recipe.model_dump(mode="json").items()},
        )  # fmt: skip
        self.client.log_model_artifacts(model.model_id, str(Path(adapter.path)))
        self.client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)


def check_name(label: str) -> None:
    """Raise InputError for what cannot be the name of a version: it would hide a number, or break a query."""
    if not NAME.fullmatch(label) or label.removeprefix("v").isdecimal() or label.lower() in (BASE, CHAMPION):
        raise InputError(
            f"'{label}' cannot be the name of a version.",
            "Take letters, digits and . _ - : @ +, and neither a number, base nor champion.",
        )


def _version(found: Any) -> Version:
    tags = found.tags
    told = {name.removeprefix(METRIC): _number(value) for name, value in tags.items() if name.startswith(METRIC)}
    generation = tags.get("generation", "")
    return Version(
        version=str(found.version),
        adapter=tags.get("adapter", ""),
        order=tags.get(ORDER_TAG, ""),
        generation=int(generation) if generation.isdecimal() else 0,
        parent=tags.get("parent", BASE),
        dataset=tags.get("dataset", ""),
        verdict=tags.get("verdict", ""),
        run=str(found.run_id or ""),
        created=int(found.creation_timestamp),
        tainted=TAINT in tags,
        label=tags.get(LABEL, ""),
        because=tags.get("verdict_because", ""),
        init_adapter=tags.get(FIRST, ""),
        recipe=tags.get("recipe", ""),
        metrics={name: value for name, value in told.items() if value is not None},
        scores={name: value for name, value in tags.items() if name.startswith("score_")},
        unverified=tags.get(UNVERIFIED, ""),
        archived=ARCHIVED in tags,
    )


def _number(text: str) -> float | None:
    """A figure of a tag, which people can edit."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class Tainted(Record):
    """A version of some family that was made of a forgotten lesson."""

    family: str
    version: str
    adapter: str


def taint(client: Any, datasets: Sequence[str], adapters: Iterable[str] = ()) -> list[Tainted]:
    """Mark the versions of all families that were trained on one of these datasets (digests). Returns them.

    So are those whose training began with the adapter of such a version, or with one of `adapters` (digests).
    """
    found: dict[tuple[str, str], Tainted] = {}
    wanted = [f"tags.dataset = '{digest}'" for digest in datasets]
    wanted += [f"tags.{FIRST} = '{adapter}'" for adapter in adapters]
    while wanted:
        for one in _pages(client, wanted.pop()):
            place, adapter = (one.name, str(one.version)), one.tags.get("adapter", "")
            if place in found:
                continue
            client.set_model_version_tag(*place, TAINT, TAINTED)
            found[place] = Tainted(family=one.name, version=str(one.version), adapter=adapter)
            if adapter:
                wanted.append(f"tags.{FIRST} = '{adapter}'")
    return list(found.values())


def _pages(client: Any, wanted: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_model_versions(wanted, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
