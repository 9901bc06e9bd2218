"""`academy evolve`: the decision first, without Prefect; then the flow, on a running server or one of our own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from academy.cli.output import emit, listen, say, table
from academy.cli.stages import refuse_tuning, show_trials
from academy.loop import stages, training
from academy.loop.carry_out import settle
from academy.loop.examine import in_words
from academy.loop.home import Home
from academy.loop.training import Overrides
from academy.professor.decision import Decision
from academy.professor.search_space import TuningResult
from academy.records import Record


class Request(Record):
    """What a person asked for."""

    lessons: list[Path]
    repos: list[Path]
    tasks: list[Path]
    base_model: str | None
    force: bool
    overrides: Overrides
    tune: int | None = None  # trials of a search for the recipe
    tune_minutes: float | None = None


def run(request: Request, *, dry_run: bool, as_json: bool) -> None:
    """Evolve, or say why not."""
    started = time.monotonic()
    listen()
    home = Home.open(request.base_model)
    repos = stages.repositories(request.repos, home.settings.workspace_root)
    home.base  # noqa: B018  an unknown base model is refused before anything else happens
    refuse_tuning(home, request.overrides, request.tune, request.tune_minutes)
    if not dry_run:
        settle(home)
    stages.admit(home, request.lessons, request.tasks)
    decision = stages.decide(home, force=request.force)
    if dry_run:
        _dry_run(home, repos, request, as_json=as_json)
        return
    if not decision.train:
        result = _no(decision, time.monotonic() - started)
    else:
        result = _in_prefect(home, repos, request)
        if result["verdict"]:
            result["verdict"] = in_words(home, result["verdict"])
        result["stages"]["start"] = round(time.monotonic() - started - sum(result["stages"].values()), 1)
    if as_json:
        emit(result)
    else:
        _tell(home, result, time.monotonic() - started)


def _in_prefect(home: Home, repos: list[Path], request: Request) -> dict[str, Any]:
    from academy.operations.runs import EVOLVE, run_flow

    fixed = request.overrides
    parameters = {
        "lessons": request.lessons,
        "tasks": request.tasks,
        "repositories_read": repos,
        "base_model": request.base_model,
        "force": request.force,
        "lora_rank": fixed.rank,
        "learning_rate": fixed.learning_rate,
        "num_epochs": fixed.epochs,
        "batch_size": fixed.batch_size,
        "init_adapter": fixed.init_adapter,
        "recipe": fixed.recipe,
        "tune": request.tune,
        "tune_minutes": request.tune_minutes,
    }
    result: dict[str, Any] = run_flow(EVOLVE, parameters, home.settings)
    return result


def _no(decision: Decision, seconds: float) -> dict[str, Any]:
    return {
        "decision": {**decision.model_dump(mode="json"), "because": decision.because},
        "dataset": None,
        "tuning": None,
        "adapter": None,
        "verdict": None,
        "promoted": False,
        "waiting": False,
        "stages": {"decision": round(seconds, 1)},
    }


def _dry_run(home: Home, repos: list[Path], request: Request, *, as_json: bool) -> None:
    """What would be trained, and how long: from the measured rate of the last training, where there was one."""
    dataset = stages.curate(home, repos)
    recipe = training.choose(home, dataset, request.overrides)
    kept = None
    if request.tune:
        minutes = request.tune_minutes or home.settings.tune_minutes
        kept = training.search_for(home, dataset, request.overrides, request.tune).kept(minutes)
        recipe = kept.recipe if kept else recipe
    order = training.place_order(home, dataset, recipe)
    to_tune = request.tune is not None and kept is None
    decision = stages.decide(home, force=request.force, order=order, dataset=dataset, to_tune=to_tune)
    rate = training.last_rate(home)
    seconds = dataset.tokens * recipe.epochs / rate if rate else None
    found = {
        "decision": {**decision.model_dump(mode="json"), "because": decision.because},
        "dataset": dataset.model_dump(mode="json", include={"digest", "path", "examples", "holdout", "tokens"}),
        "recipe": recipe.model_dump(mode="json"),
        "tuning": kept.model_dump(mode="json") if kept else None,
        "seconds": seconds,
    }
    if as_json:
        emit(found)
        return
    verb = "Would train" if decision.train else "Would not train"
    say(f"{verb}: {decision.because}")
    if kept:
        say(f"The recipe was found in {kept.sentence}.")
    elif request.tune:
        say(f"The recipe would be searched first, in {request.tune} trials; below is where the search begins.")
    if given := request.overrides.fields:
        say(f"Of the recipe by hand: {', '.join(f'{name} {value}' for name, value in given.items())}.")
    say(f"{dataset.examples:,} examples ({dataset.tokens:,} tokens) x {recipe.epochs} epochs, rank {recipe.rank}.")
    say(
        f"About {seconds:,.0f} s of training at the last training's {rate:,.0f} tokens/s, on this machine."
        if seconds
        else "No training was measured here yet, so nothing is said about its time."
    )


def _tell(home: Home, result: dict[str, Any], seconds: float) -> None:
    because = result["decision"]["because"]
    if result["adapter"] is None:
        say(f"Nothing to train: {because}")
        return
    dataset, verdict, adapter = result["dataset"], result["verdict"], result["adapter"]
    rows = [
        ("dataset", f"{dataset['digest'][:12]}: {dataset['examples']:,} examples, {dataset['holdout']:,} held out"),
        ("decision", because),
        ("adapter", f"v{adapter['version']} {adapter['digest'][:12]}, parent {_name(adapter['parent'])}"),
        ("verdict", f"{verdict['outcome']}: {verdict['because']}"),
    ]
    rows += [
        ("", f"'{c['request']}': '{c['answer']}', but {c['batch']} teaches '{c['taught']}'")
        for c in verdict["contradicted"][:3]
    ]
    table("What happened", ("stage", "result"), rows)
    if result["tuning"]:
        show_trials(TuningResult.model_validate(result["tuning"]))
    table("Seconds", ("stage", "s"), [*result["stages"].items(), ("all", f"{seconds:.1f}")])
    if result["waiting"]:
        say(f"v{adapter['version']} waits for approval: academy approve v{adapter['version']}")
    champion = stages.summary(home)["champion"]
    say(f'Champion: {_name(champion)}. Ask it: academy ask "..."')


def _name(version: str) -> str:
    return version if version == "base" else f"v{version}"
