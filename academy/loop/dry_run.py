"""Says what an evolution would train, and how long it would take, without training it."""

from __future__ import annotations

from academy.curriculum.dataset import Dataset
from academy.habitat.run_folder import read_events
from academy.loop.choose_recipe import choose_recipe
from academy.loop.curate import curate
from academy.loop.decide import count, decide
from academy.loop.evolve import EvolutionRequest
from academy.loop.home import Home
from academy.loop.ingest import check_repositories, choose_repositories, ingest
from academy.loop.place_order import place_order
from academy.loop.summaries import DatasetSummary, DecisionSummary
from academy.loop.tune import plan_search
from academy.professor.recipe import Recipe
from academy.professor.search_space import TuningResult
from academy.records import Record


class DryRun(Record):
    """What would be trained. `tuning` is the result of an earlier search; `seconds` are of the training alone."""

    decision: DecisionSummary
    dataset: DatasetSummary
    recipe: Recipe
    tuning: TuningResult | None
    seconds: float | None  # None if no training was measured in this home
    rate: float | None  # tokens a second of the last training


def dry_run(home: Home, request: EvolutionRequest) -> DryRun:
    """Import, curate and decide as an evolution does, and stop before the training."""
    check_repositories(request.repositories_read)
    request.search.check(home, request.recipe)
    ingest(home, request.lessons, request.tasks)
    repositories = choose_repositories(request.repositories_read, home.settings.workspace_root)
    dataset = curate(home, repositories, tags=request.tags)
    recipe = choose_recipe(home, dataset, request.recipe)
    tuning = _earlier_search(home, request, dataset)
    recipe = tuning.recipe if tuning else recipe
    order = place_order(home, dataset, recipe)
    to_tune = request.tune is not None and tuning is None
    counts = count(home, request.tags)
    decision = decide(home, force=request.force, counts=counts, order=order, dataset=dataset, to_tune=to_tune)
    rate = _last_rate(home)
    return DryRun(
        decision=DecisionSummary.of(decision),
        dataset=DatasetSummary.of(dataset),
        recipe=recipe,
        tuning=tuning,
        seconds=dataset.tokens * recipe.epochs / rate if rate else None,
        rate=rate,
    )


def _earlier_search(home: Home, request: EvolutionRequest, dataset: Dataset) -> TuningResult | None:
    if request.tune is None:
        return None
    search = plan_search(home, dataset, request.recipe, request.tune)
    return search.earlier_result(request.tune_minutes or home.settings.tune_minutes)


def _last_rate(home: Home) -> float | None:
    """Tokens a second of the last training in this home, from its own events."""
    runs = sorted(home.settings.folder("runs").glob("*/events.jsonl"), key=lambda path: path.stat().st_mtime)
    rates = [event.rate for event in read_events(runs[-1]) if event.rate] if runs else []
    return sum(rates) / len(rates) if rates else None
