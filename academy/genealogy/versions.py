"""Versions in the MLflow registry: an adapter as a LoggedModel, a registered version with tags, the alias `champion`.

People browse the registry; it does not decide which version is champion. A version is identified by its training order
and its adapter, so registering twice gives one version. People may edit or delete anything in MLflow: values from it
are only shown, never trusted, and missing versions are reported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from academy.adapters.adapter import Adapter, Manifest
from academy.errors import InputError
from academy.genealogy.tracking import EXPERIMENT, ORDER_TAG, TrackedRun, run_of_order
from academy.records import Record, canonical
from academy.store.ledger import BASE, Champion

CHAMPION = "champion"
TAINT, TAINTED = "tainted", "trained on lessons that have since been forgotten"
INIT_ADAPTER = "init_adapter"
"""Tag: digest of the adapter that a version's training started from, if it was not the base model."""
LABEL = "label"
UNVERIFIED = "unverified"
ARCHIVED = "archived"
METRIC = "metric."
PAGE = 200
MODEL = "models:/"
GONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
MAX_DIGITS = 18
"""Digits of a version's number: databases do not accept longer ones."""
NAME = re.compile(r"[A-Za-z0-9_][\w.:@+\-]{0,99}", re.ASCII)
"""Allowed labels of a version."""
ALIAS = re.compile(r"(?!latest$|v\d+$)[\w\-]+", re.ASCII | re.IGNORECASE)
"""Labels that MLflow accepts as an alias as well."""
AliasUpdate = Literal["unchanged", "corrected", "missing"]


class Version(Record):
    """A registered version."""

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
    tainted: bool = False  # trained on lessons that have since been forgotten
    label: str = ""  # a name that a person gave it
    because: str = ""  # the verdict's reason
    init_adapter: str = ""  # digest of the adapter that its training started from; empty: the base model
    recipe: str = ""  # canonical JSON; empty for versions of earlier releases
    metrics: dict[str, float] = Field(default_factory=dict)  # given at registration
    scores: dict[str, str] = Field(default_factory=dict)  # of the official examination
    unverified: str = ""  # why its adapter failed verification at registration
    archived: bool = False
    source: str = ""  # where it was registered from: of an unverified version the URI of its folder

    @property
    def name(self) -> str:
        """The name for people: `v7`."""
        return f"v{self.version}"


class Versions:
    """The versions of one family (one base model)."""

    def __init__(self, open_client: Callable[[], Any], family: str) -> None:
        """`open_client` returns MLflow's client. It is called on first use, because it takes seconds."""
        self._open_client = open_client
        self.family = family

    @cached_property
    def client(self) -> Any:
        """MLflow's client."""
        return self._open_client()

    def register(self, adapter: Adapter, run: TrackedRun, *, parent: str, generation: int) -> Version:
        """Publish an adapter as a version, once. Other bytes of the same order are another version."""
        if version := self._registered(adapter):
            return version
        return self._publish(adapter, run.experiment, run.id, parent, generation)

    def adopt(self, adapter: Adapter, *, parent: str, generation: int) -> Version:
        """Publish an adapter that no evolution registered, once; with its MLflow run if it was trained in this home."""
        if version := self._registered(adapter):
            return version
        run = run_of_order(self.client, adapter.manifest.order)
        return self._publish(adapter, self.experiment, run, parent, generation)

    def register_unverified(
        self, base_name: str, tags: dict[str, str], source: str, *, parent: str, generation: int
    ) -> Version:
        """Register a version without a verified adapter: the base model under a label, or a refused adapter."""
        self._ensure_family(base_name)
        facts = {"generation": str(generation), "parent": parent, "base_model": base_name, "verdict": "not examined"}
        row = self.client.create_model_version(self.family, source=source, tags=facts | tags)
        return self.get(str(row.version))

    def get(self, version: str) -> Version:
        """A version by its number (`7` or `v7`), label, training order (job), run or adapter.

        Orders and adapters can be shortened to 12 digits. Raises InputError if there is none.
        """
        number = version.removeprefix("v")
        if number.isdecimal():
            if len(number) <= MAX_DIGITS and (row := self._row(number)) is not None:
                return _version(row)
        elif NAME.fullmatch(version) and (match := self._named(version)):
            return match
        raise InputError(f"This base model has no version {version}.", "`academy models` lists the versions.")

    def find(self, version: str) -> Version | None:
        """As `get`, but None for a missing version: people may delete versions in MLflow."""
        try:
            return self.get(version)
        except InputError:
            return None

    def page(self, limit: int, before: int | None = None, champion: Champion | None = None) -> list[Version]:
        """At most `limit` versions, newest first, with smaller numbers than `before`, in one query.

        The version of `champion` is marked if it still has the same adapter.
        """
        older = f" AND version_number < {before}" if before is not None else ""
        rows = self.client.search_model_versions(
            f"name = '{self.family}'{older}", max_results=limit, order_by=["version_number DESC"]
        )
        current = champion or Champion()
        return [
            version.model_copy(
                update={"champion": (version.version, version.adapter) == (current.version, current.adapter)}
            )
            for version in map(_version, rows)
        ]

    def newest(self, champion: Champion | None = None) -> Iterator[Version]:
        """All versions, newest first; pages are read on demand."""
        before = None
        while page := self.page(PAGE, before, champion):
            yield from page
            before = int(page[-1].version)

    def of_adapter(self, digest: str) -> list[Version]:
        """The versions with this adapter (a digest); usually one."""
        return [_version(row) for row in pages(self.client, f"name = '{self.family}' AND tags.adapter = '{digest}'")]

    def by_order(self, order: str) -> Version | None:
        """The newest version of a training order."""
        return self._search(f"tags.`{ORDER_TAG}` = '{order}'")

    def set_verdict(self, version: str, outcome: str, because: str, scores: dict[str, str]) -> None:
        """Write an examination's outcome into the tags of a version."""
        self.set_tags(version, {"verdict": outcome, "verdict_because": because[:4900], **scores})

    def log_scores(self, version: str, scores: Mapping[str, float], at: int) -> None:
        """Show scores as metrics of a version and of its run; `at` is in milliseconds. Repeating it changes nothing.

        A version without a run has no metrics in MLflow, nor has one whose run or model a person deleted there.
        """
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        row = self._row(version)
        if row is None or not row.run_id or not row.source.startswith(MODEL):
            return
        model = row.source.removeprefix(MODEL)  # MLflow's database does not keep the version's model_id
        metrics = [Metric(name, value, at, 0, model_id=model) for name, value in scores.items()]
        try:
            self.client.log_batch(row.run_id, metrics=metrics)
        except MlflowException as problem:
            if problem.error_code not in GONE:
                raise

    def set_tags(self, version: str, tags: Mapping[str, str | None]) -> bool:
        """Set tags of a version, or remove them (None). Equal values are not written, because MLflow writes slowly.

        Returns False and changes nothing if the version was deleted in MLflow.
        """
        row = self._row(version)
        if row is None:
            return False
        for name, value in tags.items():
            if value is None and name in row.tags:
                self.client.delete_model_version_tag(self.family, version, name)
            elif value is not None and row.tags.get(name) != value:
                self.client.set_model_version_tag(self.family, version, name, value)
        return True

    def describe(self, version: str, text: str) -> None:
        """Write the markdown that MLflow shows for a version, if the version exists."""
        row = self._row(version)
        if row is not None and (row.description or "") != text:
            self.client.update_model_version(self.family, version, text)

    @cached_property
    def experiment(self) -> str:
        """The id of MLflow's experiment with the runs."""
        return str(self.client.get_experiment_by_name(EXPERIMENT).experiment_id)

    def set_label(self, version: Version, label: str) -> Version:
        """Give a version a label: a tag, and an alias if MLflow accepts it. Raises InputError for an invalid label."""
        check_name(label)
        self.set_tags(version.version, {LABEL: label})
        if ALIAS.fullmatch(label):
            self.client.set_registered_model_alias(self.family, label, version.version)
        return self.get(version.version)

    def set_champion_alias(self, version: str, adapter: str = "") -> AliasUpdate:
        """Point the alias `champion` to the ledger's champion.

        Returns "missing" if MLflow has no such version, or it has another adapter; then the alias is removed.
        """
        current = self._aliased()
        if version == BASE:
            if current is None:
                return "unchanged"
            self.client.delete_registered_model_alias(self.family, CHAMPION)
            return "corrected"
        target = current if current is not None and current.version == version else self.find(version)
        if target is None or (adapter and target.adapter != adapter):
            if current is not None:  # no alias is better than a wrong one
                self.client.delete_registered_model_alias(self.family, CHAMPION)
            return "missing"
        if current is not None and current.version == version:
            return "unchanged"
        self.client.set_registered_model_alias(self.family, CHAMPION, version)
        return "corrected"

    def _row(self, number: str) -> Any:
        """MLflow's record of a version; None if it does not exist."""
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

    def _search(self, condition: str) -> Version | None:
        rows = self.client.search_model_versions(
            f"name = '{self.family}' AND {condition}", max_results=1, order_by=["version_number DESC"]
        )
        return _version(rows[0]) if rows else None

    def _named(self, name: str) -> Version | None:
        if version := self._search(f"tags.`{LABEL}` = '{name}'"):
            return version
        if re.fullmatch(r"[0-9a-f]{32}", name) and (version := self._search(f"run_id = '{name}'")):
            return version
        if re.fullmatch(r"[0-9a-f]{12,64}", name):
            return self._search(f"tags.`{ORDER_TAG}` LIKE '{name}%'") or self._search(f"tags.`adapter` LIKE '{name}%'")
        return self.by_order(name)

    def _registered(self, adapter: Adapter) -> Version | None:
        versions = self.of_adapter(adapter.digest)
        return next((version for version in versions if version.order == adapter.manifest.order), None)

    def _publish(self, adapter: Adapter, experiment: str, run: str | None, parent: str, generation: int) -> Version:
        manifest = adapter.manifest
        self._ensure_family(manifest.base_name)
        model = self._logged_model(adapter, experiment, run)
        if run:
            self._show_model(run, model, manifest.steps)
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
            tags[INIT_ADAPTER] = manifest.recipe.init_adapter
        row = self.client.create_model_version(
            self.family, source=f"{MODEL}{model}", run_id=run, tags=tags, model_id=model,
            description=f"Generation {generation}, trained on {manifest.examples:,} examples. Parent: {parent}.",
        )  # fmt: skip
        return self.get(str(row.version))

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
        """The LoggedModel of an order. The incomplete one of a killed attempt is completed."""
        manifest: Manifest = adapter.manifest
        condition = f"tags.`{ORDER_TAG}` = '{manifest.order}' AND tags.adapter = '{adapter.digest}'"
        models = self.client.search_logged_models([experiment], filter_string=condition)
        ready = [model for model in models if str(model.status) in ("READY", "LoggedModelStatus.READY")]
        if ready:
            return str(ready[0].model_id)
        model = models[0] if models else self.client.create_logged_model(
            experiment, name="adapter", source_run_id=run, model_type="lora",
            tags={ORDER_TAG: manifest.order, "adapter": adapter.digest},
            params={name: str(value) for name, value in manifest.recipe.model_dump(mode="json").items()},
        )  # fmt: skip
        self.client.log_model_artifacts(model.model_id, str(Path(adapter.path)))
        self.client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)

    def _show_model(self, run: str, model: str, step: int) -> None:
        """Make a run show its logged model, once."""
        from mlflow.entities import LoggedModelOutput

        outputs = self.client.get_run(run).outputs
        if model not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
            self.client.log_outputs(run, [LoggedModelOutput(model, step)])


def check_name(label: str) -> None:
    """Raise InputError for an invalid label: it would hide a version's number, or break a query."""
    if not NAME.fullmatch(label) or label.removeprefix("v").isdecimal() or label.lower() in (BASE, CHAMPION):
        raise InputError(
            f"'{label}' is not a valid label for a version.",
            "Use letters, digits and . _ - : @ +. Numbers, base and champion are reserved.",
        )


def _version(row: Any) -> Version:
    tags = row.tags
    metrics = {name.removeprefix(METRIC): _number(value) for name, value in tags.items() if name.startswith(METRIC)}
    generation = tags.get("generation", "")
    return Version(
        version=str(row.version),
        adapter=tags.get("adapter", ""),
        order=tags.get(ORDER_TAG, ""),
        generation=int(generation) if generation.isdecimal() else 0,
        parent=tags.get("parent", BASE),
        dataset=tags.get("dataset", ""),
        verdict=tags.get("verdict", ""),
        run=str(row.run_id or ""),
        created=int(row.creation_timestamp),
        tainted=TAINT in tags,
        label=tags.get(LABEL, ""),
        because=tags.get("verdict_because", ""),
        init_adapter=tags.get(INIT_ADAPTER, ""),
        recipe=tags.get("recipe", ""),
        metrics={name: value for name, value in metrics.items() if value is not None},
        scores={name: value for name, value in tags.items() if name.startswith("score_")},
        unverified=tags.get(UNVERIFIED, ""),
        archived=ARCHIVED in tags,
        source=str(row.source or ""),
    )


def _number(text: str) -> float | None:
    """A number in a tag; people can edit tags."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def pages(client: Any, condition: str) -> Iterator[Any]:
    """MLflow's records of all versions, of any family, that meet a condition."""
    token = None
    while True:
        page = client.search_model_versions(condition, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
