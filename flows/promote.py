"""A promotion that a person asks for, as its own flow. Where a person must approve it, the version waits."""

from __future__ import annotations

from typing import Any

from prefect import flow

from academy.operations.results import RecordSerializer
from tasks import stages


@flow(name="promote", persist_result=True, result_serializer=RecordSerializer(), validate_parameters=True)
def promote(version: str, base_model: str | None = None) -> dict[str, Any]:
    """Ask for the promotion of a version with the verdict PROMOTE.

    With ACADEMY_PROMOTION=approval it waits for `academy approve`: a form does not know who fills it in.

    Args:
        version: A version (2, v2 or its name) whose last verdict against the present champion is PROMOTE.
        base_model: 'seed', a folder or a Hugging Face name. If empty, ACADEMY_BASE_MODEL.
    """
    return stages.request_promotion(version, base_model).model_dump(mode="json")
