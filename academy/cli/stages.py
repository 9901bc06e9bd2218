"""`academy curate | decide | train`: single stages by hand."""

from __future__ import annotations

from pathlib import Path

from academy.cli.output import emit, listen, say, table
from academy.curriculum.sharding import on_ray
from academy.loop.curate import curate as curate_dataset
from academy.loop.decide import preview_decision
from academy.loop.explain_contradictions import explain_contradictions
from academy.loop.home import Home
from academy.loop.ingest import choose_repositories
from academy.loop.summaries import DecisionSummary
from academy.loop.train_by_hand import TrainingRequest, train_by_hand
from academy.professor.search_space import TuningResult

SHOWN_CONTRADICTIONS = 10


def curate(
    repos: list[Path], limit: int | None, form: str, workers: int, base_model: str | None, *, as_json: bool
) -> None:
    """Write the dataset, in another format as well if one is named."""
    home = Home.open(base_model)
    repositories = choose_repositories(repos, home.settings.workspace_root)
    if workers > 1:
        with on_ray(home.settings.ray_address or None, workers) as run_on_ray:
            dataset = curate_dataset(home, repositories, limit, workers, run_on_ray)
    else:
        dataset = curate_dataset(home, repositories, limit)
    file = dataset.export(form) if form else dataset.train_file
    if as_json:
        emit(dataset.model_dump(mode="json") | {"file": str(file)})
        return
    say(f"Written to {file}.")
    table(f"Dataset {dataset.digest[:12]} in {dataset.path}", ("step", "count"), list(dataset.funnel.items()))
    pairs = [(pair.first, pair.second) for pair in dataset.contradictions[:SHOWN_CONTRADICTIONS]]
    for text in explain_contradictions(home, pairs):
        say(f"contradiction: {text.sentence}")


def decide(base_model: str | None, *, force: bool, as_json: bool) -> None:
    """Print the decision on the counts, as `evolve` takes it before it starts."""
    decision, placement = preview_decision(Home.open(base_model), force=force)
    if as_json:
        route = placement.route.model_dump(mode="json") if placement else None
        emit({"decision": DecisionSummary.of(decision).model_dump(mode="json"), "route": route})
        return
    say("Training pays now." if decision.train else "Training does not pay now.")
    for reason in decision.reasons:
        say(f"  {'yes' if reason.met else 'no '}  {reason.sentence}")
    if placement:
        say(f"{'But' if placement.route.refusal else 'With the longest possible examples'} {placement.expected}.")


def train(request: TrainingRequest, base_model: str | None, *, as_json: bool) -> None:
    """Train without asking whether it pays, and print the new version."""
    listen()
    result = train_by_hand(Home.open(base_model), request)
    if as_json:
        emit(result.model_dump(mode="json"))
        return
    if result.tuning:
        show_trials(result.tuning)
    version = f"v{result.adapter.version}"
    say(f"{version} is registered. Examine it: academy examine {version}")


def show_trials(tuning: TuningResult) -> None:
    """Print a search as a table, and its result."""
    rows = [
        (
            trial.number + 1, trial.words, f"{trial.loss:.4f}" if trial.loss is not None else "-",
            f"{trial.seconds:.0f}", f"{trial.state}: {trial.because}" if trial.because else trial.state,
        )
        for trial in tuning.trials
    ]  # fmt: skip
    table("Trials", ("trial", "recipe", "dev loss", "s", "how it ended"), rows)
    say(f"Result of the search: {tuning.sentence}.")
