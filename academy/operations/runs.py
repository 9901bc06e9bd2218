"""Runs of flows that a command starts and waits for.

A flow is named by its entry point, as in prefect.yaml, because `academy` does not import `flows`.
"""

from __future__ import annotations

import os
import pkgutil
from typing import TYPE_CHECKING, Any

from academy.loop.decide import Counts
from academy.loop.evolve import EvolutionRequest, EvolutionResult
from academy.operations.prefect_server import configure, prefect_server
from academy.operations.prefect_settings import import_prefect
from academy.settings import Settings, load_settings

if TYPE_CHECKING:
    from prefect import Flow

EVOLVE = "flows.evolve:evolve"


def run_evolution(request: EvolutionRequest, counts: Counts) -> EvolutionResult:
    """Run the flow `evolve` for a prepared request."""
    result: EvolutionResult = run_flow(EVOLVE, {**dict(request), "counts": counts}, load_settings())
    return result


def run_flow(entrypoint: str, parameters: dict[str, Any], settings: Settings) -> Any:
    """Run a flow in this process and return its result. Uses the running Prefect server, or starts one for this run."""
    configure(settings)
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"  # the command prints its own log
    with prefect_server(settings) as server:
        # Prefect's load_flow_from_entrypoint would import a folder `flows` of the working directory instead of ours
        import_prefect(settings)
        flow: Flow[..., Any] = pkgutil.resolve_name(entrypoint)  # while the server starts
        server.wait()
        return flow(**parameters)
