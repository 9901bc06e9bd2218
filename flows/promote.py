"""An approval by hand, as its own flow: the version whose verdict waits becomes champion."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks import stages


@flow(name="promote", persist_result=True, validate_parameters=True)
def promote(version: str, approved_by: str = "", note: str = "", base_model: str | None = None) -> dict[str, Any]:
    """Approve a version's verdict PROMOTE and make it champion.

    Args:
        version: A version (2, v2 or its name) whose last verdict against the present champion is PROMOTE.
        approved_by: Who approves it. The ledger records the name with this run's id.
        note: Why. The ledger records it.
        base_model: 'seed', a folder or a Hugging Face name. If empty, ACADEMY_BASE_MODEL.
    """
    champion = stages.promote_approved(version, approved_by, note, base_model)
    return {"champion": champion.version, "adapter": champion.adapter, "generation": champion.generation}
