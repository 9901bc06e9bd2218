"""`academy evolve`: options in, a result printed."""

from __future__ import annotations

import time

from academy.cli.output import emit, listen, say, table
from academy.cli.stages import show_trials
from academy.loop.dry_run import DryRun, dry_run
from academy.loop.evolve import EvolutionRequest, EvolutionResult, evolve
from academy.loop.home import Home
from academy.loop.status import status_of
from academy.operations.homes import open_home
from academy.operations.runs import run_evolution
from academy.store.ledger import BASE

SHOWN_CONTRADICTIONS = 3


def run(request: EvolutionRequest, *, preview: bool, as_json: bool) -> None:
    """Evolve and print the result, or with `preview` print what would be trained."""
    start = time.monotonic()
    listen()
    home = open_home(request.base_model)
    if preview:
        trial = dry_run(home, request)
        if as_json:
            emit(trial.model_dump(mode="json"))
        else:
            _show_dry_run(trial, request)
        return
    result = evolve(home, request, run_evolution)
    if as_json:
        emit(result.as_json())
    else:
        _show_result(home, result, time.monotonic() - start)


def _show_dry_run(trial: DryRun, request: EvolutionRequest) -> None:
    dataset, recipe = trial.dataset, trial.recipe
    say(f"{'Would train' if trial.decision.train else 'Would not train'}: {trial.decision.because}")
    if trial.tuning:
        say(f"The recipe was chosen by an earlier search: {trial.tuning.sentence}.")
    elif request.tune:
        say(f"The recipe would be searched first, in {request.tune} trials. The search starts from the recipe below.")
    if fields := request.recipe.fields:
        say(f"Recipe options: {', '.join(f'{name} {value}' for name, value in fields.items())}.")
    say(f"{dataset.examples:,} examples ({dataset.tokens:,} tokens) x {recipe.epochs} epochs, rank {recipe.rank}.")
    say(
        f"About {trial.seconds:,.0f} s of training on this machine, at {trial.rate:,.0f} tokens/s as in the last one."
        if trial.seconds
        else "No training was measured in this home yet, so its time cannot be estimated."
    )


def _show_result(home: Home, result: EvolutionResult, seconds: float) -> None:
    adapter, dataset, verdict = result.adapter, result.dataset, result.verdict
    if adapter is None or dataset is None or verdict is None:
        say(f"Not training: {result.decision.because}")
        return
    rows = [
        ("dataset", f"{dataset.digest[:12]}: {dataset.examples:,} examples, {dataset.holdout:,} held out"),
        ("decision", result.decision.because),
        ("adapter", f"v{adapter.version} {adapter.digest[:12]}, parent {_name(adapter.parent)}"),
        ("verdict", f"{verdict.outcome}: {verdict.because}"),
    ]
    rows += [("", text.sentence) for text in result.contradictions[:SHOWN_CONTRADICTIONS]]
    table("Result", ("stage", "result"), rows)
    if result.tuning:
        show_trials(result.tuning)
    table("Seconds", ("stage", "s"), [*result.stages.items(), ("all", f"{seconds:.1f}")])
    if result.waiting:
        say(f"v{adapter.version} waits for approval: academy approve v{adapter.version}")
    say(f'Champion: {_name(status_of(home).champion)}. Ask it: academy ask "..."')


def _name(version: str) -> str:
    return version if version == BASE else f"v{version}"
