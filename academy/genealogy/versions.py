"""Versions in the MLflow registry: an adapter as a LoggedModel, a registered version with tags, the alias `champion`.

The registry is where people browse; nothing here decides who is champion. A version is found again by its order
and its adapter, so registering twice gives one version.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from academy.artifacts import Record
from academy.errors import InputError
from academy.genealogy.tracking import ORDER_TAG, TrackedRun
from academy.habitat.adapter import Adapter
from academy.ledger import BASE

CHAMPION = "champion"
TAINT = "tainted"


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

    @property
    def name(self) -> str:
        """As shown to people: `v7`."""
        return f"v{self.version}"


class Versions:
    """The versions of one family (one base model)."""

    def __init__(self, client: Any, family: str) -> None:
        self.client = client
        self.family = family

    def register(self, adapter: Adapter, run: TrackedRun, *, parent: str, generation: int) -> Version:
        """Publish an adapter as a version, once. Other bytes of the same order, of other libraries, are another one."""
        order = adapter.manifest.order
        if known := [one for one in self.of_adapter(adapter.digest) if one.order == order]:
            return known[0]
        self._ensure_family(adapter.manifest.base_name)
        model = self._logged_model(adapter, run, order)
        tags = {
            ORDER_TAG: order,
            "adapter": adapter.digest,
            "generation": str(generation),
            "parent": parent,
            "dataset": adapter.manifest.dataset,
            "base_model": adapter.manifest.base_name,
            "verdict": "not examined",
        }
        made = self.client.create_model_version(
            self.family, source=f"models:/{model}", run_id=run.id, tags=tags, model_id=model,
            description=f"Generation {generation}, trained on {adapter.manifest.examples:,} examples; parent {parent}.",
        )  # fmt: skip
        return self.get(str(made.version))

    def get(self, version: str) -> Version:
        """A version by its number (`7` or `v7`). Raises InputError where there is none."""
        from mlflow.exceptions import MlflowException

        number = version.removeprefix("v")
        try:
            return _version(self.client.get_model_version(self.family, number))
        except MlflowException as problem:
            if problem.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise InputError(
                f"There is no version {version} of this base model.", "`academy models` lists them."
            ) from problem

    def all(self, champion: str = BASE) -> list[Version]:
        """All versions, oldest first; the one with the number `champion` is marked."""
        found = [_version(one) for one in _pages(self.client, f"name = '{self.family}'")]
        found.sort(key=lambda one: int(one.version))
        return [one.model_copy(update={"champion": one.version == champion}) for one in found]

    def of_adapter(self, digest: str) -> list[Version]:
        """The versions that name this adapter (a digest); as a rule one."""
        return [_version(one) for one in _pages(self.client, f"name = '{self.family}' AND tags.adapter = '{digest}'")]

    def note_verdict(self, version: str, outcome: str, because: str, scores: dict[str, str]) -> None:
        """Write an examination's outcome where people browse."""
        for name, value in {"verdict": outcome, "verdict_because": because[:4900], **scores}.items():
            self.client.set_model_version_tag(self.family, version, name, value)

    def show_champion(self, version: str) -> None:
        """Make the alias say what the ledger says. Repeating it is harmless."""
        from mlflow.exceptions import MlflowException

        if version != BASE:
            self.client.set_registered_model_alias(self.family, CHAMPION, version)
            return
        try:
            self.client.delete_registered_model_alias(self.family, CHAMPION)
        except MlflowException as problem:
            if problem.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise

    def _ensure_family(self, base_name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(
                self.family, tags={"base_model": base_name}, description=f"Adapters of the base model {base_name}."
            )
        except MlflowException as problem:
            if problem.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _logged_model(self, adapter: Adapter, run: TrackedRun, order: str) -> str:
        """The LoggedModel of an order; a killed attempt's is found again and completed."""
        wanted = f"tags.`{ORDER_TAG}` = '{order}' AND tags.adapter = '{adapter.digest}'"
        found = self.client.search_logged_models([run.experiment], filter_string=wanted)
        ready = [model for model in found if str(model.status) in ("READY", "LoggedModelStatus.READY")]
        if ready:
            return str(ready[0].model_id)
        model = found[0] if found else self.client.create_logged_model(
            run.experiment, name="adapter", source_run_id=run.id, model_type="lora",
            tags={ORDER_TAG: order, "adapter": adapter.digest},
            params={name: str(value) for name, value in adapter.manifest.recipe.model_dump(mode="json").items()},
        )  # fmt: skip
        self.client.log_model_artifacts(model.model_id, str(Path(adapter.path)))
        self.client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)


def _version(found: Any) -> Version:
    tags = found.tags
    return Version(
        version=str(found.version),
        adapter=tags.get("adapter", ""),
        order=tags.get(ORDER_TAG, ""),
        generation=int(tags.get("generation", 0)),
        parent=tags.get("parent", BASE),
        dataset=tags.get("dataset", ""),
        verdict=tags.get("verdict", ""),
        run=str(found.run_id or ""),
        created=int(found.creation_timestamp),
        tainted=TAINT in tags,
    )


class Tainted(Record):
    """A version of some family that was made of a forgotten lesson."""

    family: str
    version: str
    adapter: str


def taint(client: Any, datasets: Sequence[str]) -> list[Tainted]:
    """Mark the versions of all families that were trained on one of these datasets (digests). Returns them."""
    found = []
    for digest in datasets:
        for one in _pages(client, f"tags.dataset = '{digest}'"):
            client.set_model_version_tag(one.name, str(one.version), TAINT, "made of lessons that were forgotten since")
            found.append(Tainted(family=one.name, version=str(one.version), adapter=one.tags.get("adapter", "")))
    return found


def _pages(client: Any, wanted: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_model_versions(wanted, max_results=200, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
