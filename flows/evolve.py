"""experience -> dataset -> recipe -> decision -> training -> examination -> promotion.

The file to read first. The same flow runs in `academy evolve`, by hand on a Prefect server, and every night.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from academy.loop.decide import Counts
from academy.loop.evolve import EvolutionRequest, EvolutionResult, Stopwatch
from academy.loop.tags import read_tags
from academy.loop.tune import Minutes, Trials
from academy.operations.locks import one_evolution
from academy.operations.results import RecordSerializer
from academy.professor.recipe_options import RecipeOptions
from tasks import stages


@flow(name="evolve", persist_result=True, result_serializer=RecordSerializer(), validate_parameters=True)
def evolve(
    lessons: list[Path] = [],  # noqa: B006  Prefect shows the default in its form
    tasks: list[Path] = [],  # noqa: B006
    repositories_read: list[Path] = [],  # noqa: B006
    base_model: str | None = None,
    force: bool = False,
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008  a frozen record
    tags: list[str] = [],  # noqa: B006
    tune: Trials | None = None,
    tune_minutes: Minutes | None = None,
    counts: Counts | None = None,
) -> EvolutionResult:
    """Turn new experience into an adapter that is examined and, if it is better, promoted.

    Args:
        lessons: files of lessons to import first, as JSONL or a JSON array. Importing known lessons changes nothing.
        tasks: task histories to import first, in the same formats.
        repositories_read: Git repositories whose history is read. If empty, the one that contains the working folder.
        base_model: 'seed', a folder or a Hugging Face name. If empty, ACADEMY_BASE_MODEL.
        force: Train although the conditions are not met. The verdict records this.
        recipe: Fields of the recipe to set. The professor chooses the others.
        tags: Train only on lessons and tasks with one of these tags, without commits. If empty, on everything.
        tune: Trials of a search for the recipe, on a part of the training side. If empty, no search.
        tune_minutes: Minutes that the search may take. If empty, ACADEMY_TUNE_MINUTES.
        counts: Leave empty. `academy evolve` passes what it counted after it imported the files.
    """
    request = EvolutionRequest(
        lessons=tuple(lessons), tasks=tuple(tasks), repositories_read=tuple(repositories_read), base_model=base_model,
        force=force, recipe=recipe, tags=read_tags(tags), tune=tune, tune_minutes=tune_minutes,
    )  # fmt: skip
    watch = Stopwatch()
    with one_evolution():
        preparation = None
        if counts is None:
            preparation = stages.prepare(request)
            counts = preparation.counts
            watch.lap("experience")
            if not preparation.decision.train:
                return EvolutionResult.at_decision(preparation.decision, watch.laps, preparation)
        dataset = stages.curate_dataset(repositories_read, base_model, request.tags)
        watch.lap("dataset")
        training_recipe = stages.choose_recipe(dataset, recipe, base_model)
        decision = stages.decide(dataset, training_recipe, counts, base_model, force=force, to_tune=bool(tune))
        watch.lap("decision")
        tuning = None
        if tune and decision.train:
            tuning = stages.tune_recipe(dataset, recipe, tune, tune_minutes, base_model)
            training_recipe = tuning.recipe
            watch.lap("tuning")
            decision = stages.decide(dataset, training_recipe, counts, base_model, force=force)
            watch.lap("second decision")
        result = EvolutionResult.at_decision(decision, watch.laps, preparation, dataset, training_recipe, tuning)
        if not decision.train:
            return result
        challenger = stages.train_challenger(dataset, training_recipe, decision, base_model, tuning)
        watch.lap("training")
        verdict = stages.examine_challenger(challenger, decision, base_model)
        watch.lap("arena")
        outcome = stages.carry_out_verdict(challenger, verdict, base_model)
        watch.lap("promotion")
    return result.trained(challenger, verdict, outcome, watch.laps)
