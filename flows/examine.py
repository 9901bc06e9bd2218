"""An examination by hand, as its own flow: any player against any other."""

from __future__ import annotations

from typing import Any

from prefect import flow

from academy.operations.results import RecordSerializer
from tasks import stages


@flow(name="examine", persist_result=True, result_serializer=RecordSerializer(), validate_parameters=True)
def examine(
    challenger: str,
    champion: str | None = None,
    suites: list[str] = [],  # noqa: B006  Prefect shows the default in its form
    base_model: str | None = None,
) -> dict[str, Any]:
    """Examine a player against the champion or another player.

    Args:
        challenger: A version (2 or v2), 'base', 'few-shot' or http://host:port/v1#model.
        champion: The player to compare with. If empty, the champion.
        suites: Names of suites or .jsonl files. If empty, ACADEMY_SUITES; against the champion this is official.
        base_model: 'seed', a folder or a Hugging Face name. If empty, ACADEMY_BASE_MODEL.
    """
    return stages.examine_players(challenger, champion, suites, base_model)
