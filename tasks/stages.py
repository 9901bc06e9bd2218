"""The stages of the loop as Prefect tasks. References pass between them, never payloads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from academy.curriculum.dataset import Dataset
from academy.errors import AcademyError
from academy.genealogy.versions import Version
from academy.habitat.memory import Device
from academy.loop import evolve, examine, promote, train_dataset, tune, verify
from academy.loop.carry_out import Outcome, carry_out
from academy.loop.choose_recipe import choose_recipe as recipe_for
from academy.loop.curate import curate
from academy.loop.decide import Counts
from academy.loop.decide import decide as decide_on
from academy.loop.evolve import EvolutionRequest, Preparation
from academy.loop.examine_player import examine_player
from academy.loop.home import Home
from academy.loop.ingest import choose_repositories
from academy.loop.place_order import place_order
from academy.loop.publish_verdict import brief_report
from academy.loop.train_dataset import OrderDigests, RegisteredAdapter, TrainingLimits
from academy.loop.verify import ServingVerification
from academy.operations import work_pools
from academy.operations.homes import open_home
from academy.operations.results import RecordSerializer
from academy.professor.decision import Decision
from academy.professor.recipe import Recipe
from academy.professor.recipe_options import RecipeOptions
from academy.professor.search_space import TuningResult
from academy.store.ledger_rows import Row, VerdictEntry


def worth_retrying(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Retries an unforeseen failure. A refusal with a sentence would only be repeated."""
    try:
        state.result()
    except AcademyError:
        return False
    except Exception:  # noqa: BLE001  any failure that is not a refusal
        return True
    return False


_stored: dict[str, Any] = {
    "persist_result": True, "result_serializer": RecordSerializer(), "retries": 2, "retry_delay_seconds": 5,
    "retry_condition_fn": worth_retrying,
}  # fmt: skip
LONGEST_TRAINING = 14 * 24 * 3600
"""A training without progress ends by itself; this limit is for anything else that may hang."""


@task(name="prepare", timeout_seconds=1800, **_stored)
def prepare(request: EvolutionRequest) -> Preparation:
    """Finish what a killed run left open, import files, and decide on the counts."""
    return evolve.prepare(open_home(request.base_model), request)


@task(name="curate dataset", timeout_seconds=3600, **_stored)
def curate_dataset(repositories: list[Path], base_model: str | None, tags: Sequence[str] = ()) -> Dataset:
    """Write lessons and commits as a dataset."""
    home = open_home(base_model)
    return curate(home, choose_repositories(repositories, home.settings.workspace_root), tags=tags)


@task(name="choose recipe", timeout_seconds=600, **_stored)
def choose_recipe(dataset: Dataset, options: RecipeOptions, base_model: str | None) -> Recipe:
    """Choose the recipe: the professor's, with the options."""
    return recipe_for(open_home(base_model), dataset, options)


@task(name="decide", timeout_seconds=600, **_stored)
def decide(
    dataset: Dataset, recipe: Recipe, counts: Counts, base_model: str | None, *, force: bool, to_tune: bool = False
) -> Decision:
    """Decide whether training pays. With `to_tune`, a recipe is searched around this one."""
    home = open_home(base_model)
    return decide_on(
        home, force=force, counts=counts, order=place_order(home, dataset, recipe), dataset=dataset, to_tune=to_tune,
        to_start=True, elsewhere=bool(work_pools.live_pools(home.settings)),
    )  # fmt: skip


@task(name="tune recipe", timeout_seconds=24 * 3600, **_stored)
def tune_recipe(
    dataset: Dataset, options: RecipeOptions, trials: int, minutes: float | None, base_model: str | None
) -> TuningResult:
    """Search a recipe around the professor's. A search that was killed continues."""
    home = open_home(base_model)
    return tune.tune(home, dataset, tune.plan_search(home, dataset, options, trials), minutes)


@task(name="train", timeout_seconds=LONGEST_TRAINING, **_stored)
def train_challenger(
    dataset: Dataset, recipe: Recipe, decision: Decision, base_model: str | None, tuning: TuningResult | None = None
) -> Version:
    """Train on a work pool with a live worker, or else here, and register the adapter as a version."""
    return work_pools.train_challenger(
        open_home(base_model), dataset, recipe, decision.because, _tags(decision.because), tuning
    )


@task(name="train here", timeout_seconds=LONGEST_TRAINING, **_stored)
def train_here(
    dataset: str,
    device: Device,
    recipe: RecipeOptions,
    decision: str,
    base_model: str | None,
    tuning: TuningResult | None = None,
    expected: OrderDigests | None = None,
    limits: TrainingLimits = TrainingLimits(),  # noqa: B008  a frozen record
) -> RegisteredAdapter:
    """Train on this pool's kind of device, and on no other."""
    home = open_home(base_model, limits.apply)
    return train_dataset.train_dataset(home, dataset, recipe, _tags(decision), device, tuning, expected)


def _tags(decision: str) -> dict[str, str]:
    return {"prefect.flow_run": str(flow_run.get_id() or ""), "academy.decision": decision}


@task(name="examine", timeout_seconds=6 * 3600, **_stored)
def examine_challenger(challenger: Version, decision: Decision, base_model: str | None) -> Row[VerdictEntry]:
    """Examine the challenger against the champion. The verdict is a ledger row."""
    home = open_home(base_model)
    row = examine.examine_challenger(home, challenger, decision)
    _create_artifact(home, row)
    return row


@task(name="examine players", timeout_seconds=6 * 3600, **_stored)
def examine_players(
    challenger: str, champion: str | None, suites: list[str], base_model: str | None
) -> dict[str, Any]:  # fmt: skip
    """Examine any player against any other. Official for a version against the champion on the settings' suites."""
    home = open_home(base_model)
    result = examine_player(home, challenger, champion, suites)
    if result.row is not None:
        _create_artifact(home, result.row)
    report = str(result.report.report) if result.report else None
    return {"verdict": result.verdict, "of_record": result.official, "report": report}


def _create_artifact(home: Home, row: Row[VerdictEntry]) -> None:
    """Show the report among Prefect's artifacts. It quotes no lesson, because Prefect's copy could not be deleted."""
    create_markdown_artifact(
        brief_report(home, row), key=f"examination-v{row.body.version}", description=row.body.outcome
    )  # fmt: skip


@task(name="promote", timeout_seconds=1800, **_stored)
def carry_out_verdict(challenger: Version, verdict: Row[VerdictEntry], base_model: str | None) -> Outcome:
    """Carry out the verdict. A winner that needs a person's approval waits."""
    return carry_out(open_home(base_model), challenger, verdict, by=_this_run())


@task(name="request promotion", timeout_seconds=1800, **_stored)
def request_promotion(version: str, base_model: str | None) -> Outcome:
    """Promote a version on its verdict, unless a person must approve it first."""
    return promote.request_promotion(open_home(base_model), version, by=_this_run())


@task(name="verify", timeout_seconds=3600, **_stored)
def verify_serving(versions: list[str], base_model: str | None, *, live: bool) -> ServingVerification:
    """Verify files, records and answers of champion and versions. Fails if one of them is not verified."""
    return verify.verify_serving(open_home(base_model), versions, live=live)


def _this_run() -> str:
    """The name of this run, for the ledger."""
    return f"flow run {flow_run.get_id()}"
