"""experience -> dataset -> recipe -> decision -> training -> arena -> promotion.

The file to read first. The same flow runs in `academy evolve`, against a Prefect server, and on a schedule.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from academy.loop.stages import repositories
from academy.loop.training import Overrides
from academy.professor.recipe import validate_fields
from academy.settings import load_settings
from academy.store.ledger import BASE
from academy.store.locks import exclusive_lock
from tasks import loop

Rank = Annotated[int | None, Field(ge=4, le=256)]
Rate = Annotated[float | None, Field(gt=0, le=1e-2)]
Epochs = Annotated[int | None, Field(ge=1, le=20)]
Batch = Annotated[int | None, Field(ge=1, le=128)]
Trials = Annotated[int | None, Field(ge=1, le=500)]
Minutes = Annotated[float | None, Field(gt=0)]


@flow(name="evolve", persist_result=True, validate_parameters=True)
def evolve(
    lessons: list[Path] = [],  # noqa: B006  Prefect shows the default in its form
    tasks: list[Path] = [],  # noqa: B006
    repositories_read: list[Path] = [],  # noqa: B006
    base_model: str | None = None,
    force: bool = False,
    lora_rank: Rank = None,
    learning_rate: Rate = None,
    num_epochs: Epochs = None,
    batch_size: Batch = None,
    init_adapter: str | None = None,
    recipe: dict[str, Any] | None = None,
    tune: Trials = None,
    tune_minutes: Minutes = None,
) -> dict[str, Any]:
    """Turn new experience into an adapter that is examined and, if it is better, promoted.

    Args:
        lessons: JSONL files of lessons to import first; what is known already changes nothing.
        tasks: JSONL task histories to import first.
        repositories_read: Git repositories whose history is read; empty for the one the run stands in.
        base_model: 'seed', a folder or a Hugging Face name; empty for ACADEMY_BASE_MODEL.
        force: Train although the conditions are not met; recorded with the verdict.
        lora_rank: LoRA rank, 4 to 256; empty to let the professor choose.
        learning_rate: Learning rate, up to 0.01; empty to let the professor choose.
        num_epochs: Passes over the dataset, 1 to 20; empty to let the professor choose.
        batch_size: Examples a batch, 1 to 128; empty to let the professor choose.
        init_adapter: A version (v3) or champion, whose adapter training begins with; empty for the base model.
        recipe: Fields of a recipe, such as {"patience": 2, "dev_share": 0.1}; what is said above of the same wins.
        tune: Trials in which the recipe is searched first, on a part of the training side; empty for no search.
        tune_minutes: Minutes that the search may take; empty for ACADEMY_TUNE_MINUTES.
    """
    watch = _Stopwatch()
    overrides = Overrides(
        rank=lora_rank, learning_rate=learning_rate, epochs=num_epochs, batch_size=batch_size,
        init_adapter=init_adapter, recipe=validate_fields(recipe or {}),
    )  # fmt: skip
    settings = load_settings()
    with exclusive_lock(settings.folder("locks") / "evolve", "Another evolution is running in this home."):
        read = loop.read_experience(lessons, tasks, base_model)
        watch.lap("experience")
        dataset = loop.curate_dataset(repositories(repositories_read, settings.workspace_root), base_model)
        watch.lap("dataset")
        chosen = loop.choose_recipe(dataset, overrides, base_model)
        decision = loop.decide(dataset, chosen, base_model, force=force, to_tune=bool(tune))
        watch.lap("decision")
        tuned = None
        if tune and decision.train:
            tuned = loop.tune_recipe(dataset, overrides, tune, tune_minutes, base_model)
            chosen = tuned.recipe
            watch.lap("tuning")
            decision = loop.decide(dataset, chosen, base_model, force=force)
            watch.lap("second decision")
        told = {
            "decision": {**decision.model_dump(mode="json"), "because": decision.because},
            "imported": [one.model_dump(mode="json") for one in read],
            "dataset": dataset.model_dump(
                mode="json", include={"digest", "path", "examples", "holdout", "tokens", "funnel"}
            )
            | {"contradictions": len(dataset.contradictions)},
            "recipe": chosen.model_dump(mode="json"),
            "tuning": tuned.model_dump(mode="json") if tuned else None,
        }
        if not decision.train:
            return told | {"adapter": None, "verdict": None, "promoted": False, "waiting": False, "stages": watch.laps}
        challenger = loop.train_challenger(dataset, chosen, decision, base_model, tuned)
        watch.lap("training")
        verdict = loop.examine_challenger(challenger, decision, base_model)
        watch.lap("arena")
        acted = loop.act_on_verdict(challenger, verdict, base_model)
        watch.lap("promotion")
    return told | {
        "adapter": {"digest": challenger.adapter, "version": challenger.version, "parent": challenger.parent},
        "verdict": verdict.body.as_json(),
        "champion": challenger.version if acted.promoted else verdict.body.champion_version or BASE,
        "promoted": acted.promoted,
        "waiting": acted.waiting,
        "stages": watch.laps,
    }


class _Stopwatch:
    """Seconds of each stage, to a tenth."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.laps[stage] = round(now - self._since, 1)
        self._since = now
