"""The stages of the loop as Prefect tasks. What passes between them are references, never payloads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from academy.curriculum.dataset import Dataset, read_dataset
from academy.errors import AcademyError, TrainingError
from academy.experience.lessons import ImportResult
from academy.genealogy.versions import Version
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.memory import Device
from academy.habitat.routing import POOLS
from academy.loop import stages, training
from academy.loop import verify as verification
from academy.loop.carry_out import Acted, act, approve, settle
from academy.loop.examine import brief_report, hold_examination, publish_verdict, require_verdict
from academy.loop.home import Home
from academy.loop.verify import Verified
from academy.professor.decision import Decision
from academy.professor.recipe import Recipe
from academy.professor.search_space import TuningResult
from academy.store.ledger import Champion
from academy.store.ledger_rows import Row, VerdictEntry
from tasks import dispatch

log = logging.getLogger("academy")


def worth_retrying(_task: Any, _run: Any, state: State[Any]) -> bool:
    """A refusal in words would be the same again; only what nobody foresaw is tried again."""
    try:
        state.result()
    except AcademyError:
        return False
    except Exception:  # noqa: BLE001  whatever it was, it was not one of our refusals
        return True
    return False


_again: dict[str, Any] = {"retries": 2, "retry_delay_seconds": 5, "retry_condition_fn": worth_retrying}


LONGEST_TRAINING = 14 * 24 * 3600
"""A training that does not come on is ended by its silence; this is for whatever else may hang."""


@task(name="read experience", timeout_seconds=1800, persist_result=True, **_again)
def read_experience(lessons: list[Path], tasks: list[Path], base_model: str | None) -> list[ImportResult]:
    """Files of lessons and tasks into the store."""
    home = Home.open(base_model)
    settle(home)
    return stages.admit(home, lessons, tasks)


@task(name="curate dataset", timeout_seconds=3600, persist_result=True, **_again)
def curate_dataset(repos: list[Path], base_model: str | None) -> Dataset:
    """The store and the git history into a dataset."""
    return stages.curate(Home.open(base_model), repos)


@task(name="choose recipe", timeout_seconds=600, persist_result=True, **_again)
def choose_recipe(dataset: Dataset, overrides: training.Overrides, base_model: str | None) -> Recipe:
    """The professor's recipe."""
    return training.choose(Home.open(base_model), dataset, overrides)


@task(name="decide", timeout_seconds=600, persist_result=True, **_again)
def decide(dataset: Dataset, recipe: Recipe, base_model: str | None, *, force: bool, to_tune: bool = False) -> Decision:
    """Does training pay now? With `to_tune`, by a recipe that will be searched around this one."""
    home = Home.open(base_model)
    order = training.place_order(home, dataset, recipe)
    elsewhere = bool(dispatch.pools_alive(home.settings))
    return stages.decide(
        home, force=force, order=order, dataset=dataset, to_tune=to_tune, to_start=True, elsewhere=elsewhere
    )


@task(name="tune recipe", timeout_seconds=24 * 3600, persist_result=True, **_again)
def tune_recipe(
    dataset: Dataset, overrides: training.Overrides, trials: int, minutes: float | None, base_model: str | None
) -> TuningResult:
    """A search around the professor's recipe, on a part of the training side; one that was killed goes on."""
    home = Home.open(base_model)
    return training.tune(home, dataset, training.search_for(home, dataset, overrides, trials), minutes)


@task(name="train", timeout_seconds=LONGEST_TRAINING, persist_result=True, **_again)
def train_challenger(
    dataset: Dataset, recipe: Recipe, decision: Decision, base_model: str | None, tuned: TuningResult | None = None
) -> Version:
    """A training on a work pool whose worker is alive, else here, as the settings say; registered as a version."""
    home = Home.open(base_model)
    order: TrainingOrder = training.place_order(home, dataset, recipe)
    pools = dispatch.pools_alive(home.settings)
    only: Device | None = None
    if pools:
        training.refuse_overlap(home, dataset)  # the worker knows its own suites only
    for device in pools:
        _warm_up()
        try:
            trained = dispatch.train_on(device, order, decision.because, home.settings, tuned)
            if trained is not None:
                return dispatch.found_here(home.versions, trained, POOLS[device])
            log.warning("No worker of %s took the training.", POOLS[device])
        except TrainingError as problem:
            if problem.cause != "memory" or device == "cpu":
                raise
            log.warning("%s It goes on on processors.", problem.message)
            only = "cpu"
    return training.train(home, order, dataset, _tags(decision.because), meanwhile=_warm_up, only=only, tuned=tuned)


@task(name="train here", timeout_seconds=LONGEST_TRAINING, persist_result=True, **_again)
def train_here(
    dataset: str,
    device: Device,
    recipe: dict[str, Any] | None,
    decision: str,
    base_model: str | None,
    tuned: TuningResult | None = None,
    asked: training.Asked | None = None,
) -> dict[str, str]:
    """A training on this pool's kind of device, which is never replaced by the other one.

    Raises TrainingError where it would not be what was `asked` for.
    """
    home = Home.open(base_model)
    found = read_dataset(home.datasets, dataset)
    order = training.place_order(home, found, training.complete(home, found, recipe or {}))
    if asked:
        asked.refuse_another(order)
    version = training.train(home, order, found, _tags(decision), only=device, tuned=tuned)
    return {"version": version.version, "adapter": version.adapter}


def _tags(decision: str) -> dict[str, str]:
    return {"prefect.flow_run": str(flow_run.get_id() or ""), "academy.decision": decision}


@task(name="examine", timeout_seconds=6 * 3600, persist_result=True, **_again)
def examine_challenger(challenger: Version, decision: Decision, base_model: str | None) -> Row[VerdictEntry]:
    """Champion against challenger; the verdict is a ledger row."""
    home = Home.open(base_model)
    row, _ = hold_examination(home, challenger.version, decision=decision)
    found = require_verdict(row)
    publish_verdict(home, challenger, found)
    _show(home, found)
    return found


@task(name="examine players", timeout_seconds=6 * 3600, persist_result=True, **_again)
def examine_players(
    challenger: str, champion: str | None, suites: list[str], base_model: str | None
) -> dict[str, Any]:  # fmt: skip
    """Any player against any other; of record where it is a version against the champion on all suites."""
    home = Home.open(base_model)
    row, held = hold_examination(home, challenger, champion, wanted=suites)
    if row is not None:
        publish_verdict(home, home.versions.get(challenger), row)
        _show(home, row)
    verdict = (
        row.body.as_json() if row is not None else held.examination.verdict.model_dump(mode="json") if held else {}
    )
    return {"verdict": verdict, "of_record": row is not None, "report": str(held.report) if held else None}


def _show(home: Home, row: Row[VerdictEntry]) -> None:
    """The report among Prefect's artifacts. It quotes no lesson: what Prefect keeps could not be forgotten."""
    create_markdown_artifact(
        brief_report(home, row), key=f"examination-v{row.body.version}", description=row.body.outcome
    )  # fmt: skip


@task(name="promote", timeout_seconds=1800, persist_result=True, **_again)
def act_on_verdict(challenger: Version, verdict: Row[VerdictEntry], base_model: str | None) -> Acted:
    """Do what the verdict says; where a person must approve, the winner waits."""
    return act(Home.open(base_model), challenger, verdict, by=_this_run())


@task(name="promote approved", timeout_seconds=1800, persist_result=True, **_again)
def promote_approved(version: str, approved_by: str, note: str, base_model: str | None) -> Champion:
    """A person's approval of a version's verdict, and its promotion."""
    by = f"{approved_by}, {_this_run()}" if approved_by else _this_run()
    return approve(Home.open(base_model), version, by=by, note=note)


@task(name="verify", timeout_seconds=3600, persist_result=True, **_again)
def verify_serving(versions: list[str], base_model: str | None, *, live: bool) -> Verified:
    """Files and records of champion and versions, and who answers by their names. Fails with what does not hold."""
    return verification.verify_serving(Home.open(base_model), versions, live=live)


def _this_run() -> str:
    """Who acts here, for the ledger."""
    return f"flow run {flow_run.get_id()}"


def _warm_up() -> None:
    """ImportResult what the arena needs while the trainer is at work."""
    importing: Callable[[], object] = lambda: __import__("academy.serving.runtimes.peft")  # noqa: E731
    threading.Thread(target=importing, daemon=True).start()
