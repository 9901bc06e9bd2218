"""A verification of the champion's files, records and answers, as its own flow."""

from __future__ import annotations

from typing import Any

from prefect import flow

from academy.operations.results import RecordSerializer
from tasks import stages


@flow(name="verify", persist_result=True, result_serializer=RecordSerializer(), validate_parameters=True)
def verify(
    versions: list[str] = [],  # noqa: B006  Prefect shows the default in its form
    live: bool = True,
    base_model: str | None = None,
) -> dict[str, Any]:
    """Verify the champion and named versions offline, and have the running gateway replay their canaries.

    Args:
        versions: Versions (2 or v2) to verify beside the champion.
        live: Ask the running gateway as well. The flow fails if none runs.
        base_model: 'seed', a folder or a Hugging Face name. If empty, ACADEMY_BASE_MODEL.
    """
    return stages.verify_serving(versions, base_model, live=live).model_dump(mode="json")
