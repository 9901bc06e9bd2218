"""`Professor`: decides about trainings and carries out requests in words (loop/supervise.py)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from academy.loop.home import current_user
from academy.loop.supervise import Supervision
from academy.sdk.dataset_curator import DatasetCurator
from academy.sdk.gpu_habitat import GPUHabitat

if TYPE_CHECKING:
    from academy.experience.lessons import LessonsStore


class Professor:
    """Supervises learning with a curator and a habitat."""

    def __init__(
        self,
        kernel: object = None,  # noqa: ARG002  the seed documents' signature
        dataset_curator: DatasetCurator | None = None,
        gpu_habitat: GPUHabitat | None = None,
        lessons_store: LessonsStore | None = None,
    ) -> None:
        """All arguments may be None. `kernel` is not used: the requests are known ones, and no model reads them."""
        curator = dataset_curator or DatasetCurator(lessons_store)
        habitat = gpu_habitat or GPUHabitat()
        self._supervision = Supervision(curator.steps, habitat.jobs, by=current_user())

    def should_start_training(self) -> dict[str, Any]:
        """Whether training pays now: `should_train`, the `reason` as a sentence, and every reason."""
        return self._supervision.decision()

    async def process(self, request: str) -> str:
        """Carry out a request and return the result as a sentence.

        Requests are "prepare learning materials", "start training", "check training progress" and "evaluate model", or
        the same in Polish. The event loop is not blocked.
        """
        return await asyncio.to_thread(self._supervision.answer, request)
