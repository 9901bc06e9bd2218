"""An evolution: what it is asked, what it decides before it starts, and its result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from academy.curriculum.dataset import Dataset
from academy.experience.importing import ImportResult
from academy.genealogy.versions import Version
from academy.loop.ask_judge import configured_judge
from academy.loop.carry_out import Outcome
from academy.loop.decide import Counts, count, decide
from academy.loop.explain_contradictions import ContradictionText, explain_verdict, verdict_as_json
from academy.loop.finish_interrupted import finish_interrupted
from academy.loop.home import Home
from academy.loop.ingest import check_repositories, ingest
from academy.loop.summaries import AdapterSummary, DatasetSummary, DecisionSummary
from academy.loop.tune import Minutes, SearchOptions, Trials
from academy.professor.decision import Decision
from academy.professor.recipe import Recipe
from academy.professor.recipe_options import RecipeOptions
from academy.professor.search_space import TuningResult
from academy.records import Record
from academy.store.ledger import BASE
from academy.store.ledger_rows import Row, VerdictEntry

log = logging.getLogger(__name__)


class EvolutionRequest(Record):
    """What an evolution reads, and how it trains. The flow `evolve` has these parameters."""

    lessons: tuple[Path, ...] = ()
    tasks: tuple[Path, ...] = ()
    repositories_read: tuple[Path, ...] = ()
    base_model: str | None = None
    force: bool = False
    recipe: RecipeOptions = RecipeOptions()
    tags: tuple[str, ...] = ()  # train only on experience with one of them; empty: on all
    tune: Trials | None = None
    tune_minutes: Minutes | None = None

    @property
    def search(self) -> SearchOptions:
        """Whether and how the recipe is searched."""
        return SearchOptions(trials=self.tune, minutes=self.tune_minutes)


class Preparation(Record):
    """What an evolution did before its first stage: files imported, lessons counted, and a decision on the counts."""

    imported: tuple[ImportResult, ...]
    counts: Counts
    decision: Decision


class EvolutionResult(Record):
    """What an evolution did. A field is None if its stage did not run.

    `stages` has the seconds of each stage.
    """

    decision: DecisionSummary
    imported: tuple[ImportResult, ...] = ()
    dataset: DatasetSummary | None = None
    recipe: Recipe | None = None
    tuning: TuningResult | None = None
    adapter: AdapterSummary | None = None
    verdict: VerdictEntry | None = None
    contradictions: tuple[ContradictionText, ...] = ()  # of the verdict
    champion: str | None = None  # a version's number, or "base"
    promoted: bool = False
    waiting: bool = False  # for a person's approval
    stages: dict[str, float]

    @classmethod
    def at_decision(
        cls,
        decision: Decision,
        stages: dict[str, float],
        preparation: Preparation | None = None,
        dataset: Dataset | None = None,
        recipe: Recipe | None = None,
        tuning: TuningResult | None = None,
    ) -> EvolutionResult:
        """The result up to the decision: final if the decision is no."""
        return cls(
            decision=DecisionSummary.of(decision), imported=preparation.imported if preparation else (),
            dataset=DatasetSummary.of(dataset) if dataset else None, recipe=recipe, tuning=tuning, stages=stages,
        )  # fmt: skip

    def trained(
        self, challenger: Version, verdict: Row[VerdictEntry], outcome: Outcome, stages: dict[str, float]
    ) -> EvolutionResult:
        """The result of an evolution that went on to train and examine a challenger."""
        champion = challenger.version if outcome.promoted else verdict.body.champion_version or BASE
        return self.model_copy(
            update={
                "adapter": AdapterSummary.of(challenger), "verdict": verdict.body, "champion": champion,
                "promoted": outcome.promoted, "waiting": outcome.waiting, "stages": stages,
            }
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON object; the texts of contradictions stand in its verdict."""
        verdict = verdict_as_json(self.verdict, self.contradictions) if self.verdict else None
        return {**self.model_dump(mode="json", exclude={"verdict", "contradictions"}), "verdict": verdict}


def prepare(home: Home, request: EvolutionRequest) -> Preparation:
    """Finish what a killed evolution left open, import the files, count the lessons and decide on the counts.

    Raises BaseModelError, and InputError for a request that contradicts itself or an invalid judge, before anything is
    changed; and InputError for a file that does not exist, before any file is imported.
    """
    home.base  # noqa: B018  resolves the base model first
    check_repositories(request.repositories_read)
    request.search.check(home, request.recipe)
    configured_judge(home)
    finish_interrupted(home)
    imports = tuple(ingest(home, request.lessons, request.tasks))
    counts = count(home, request.tags)
    return Preparation(imported=imports, counts=counts, decision=decide(home, force=request.force, counts=counts))


def evolve(
    home: Home, request: EvolutionRequest, run_stages: Callable[[EvolutionRequest, Counts], EvolutionResult]
) -> EvolutionResult:
    """Prepare an evolution, and run its stages if training may pay: most of the time no stage has to run.

    `run_stages` runs the flow `evolve` with the counts of the preparation, which is then not repeated.
    """
    watch = Stopwatch()
    start = time.monotonic()
    preparation = prepare(home, request)
    if preparation.decision.train:
        watch.lap("experience")
        result = run_stages(request, preparation.counts)
        stages = {**watch.laps, **result.stages}
        stages["start"] = round(time.monotonic() - start - sum(stages.values()), 1)
    else:
        watch.lap("decision")
        result, stages = EvolutionResult.at_decision(preparation.decision, {}, preparation), watch.laps
    # texts of lessons are added here: what the flow returns is kept by Prefect, where no lesson can be forgotten
    contradictions = explain_verdict(home, result.verdict) if result.verdict else ()
    return result.model_copy(
        update={"imported": preparation.imported, "stages": stages, "contradictions": contradictions}
    )


class Stopwatch:
    """Seconds of each stage, to a tenth."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._start = time.monotonic()

    def lap(self, stage: str) -> None:
        """The stage has just ended."""
        now = time.monotonic()
        self.laps[stage] = round(now - self._start, 1)
        self._start = now
