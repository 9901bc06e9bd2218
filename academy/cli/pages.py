"""`academy pages | deploy`: the servers of this home, their workers and the deployments."""

from __future__ import annotations

import signal
from contextlib import closing, suppress
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from academy.cli.home import open_home, settings
from academy.cli.output import say

if TYPE_CHECKING:
    from academy.operations.deploy import Deployed
    from academy.operations.servers import ServerEvent

app = typer.Typer(rich_markup_mode=None)


@app.command()
def pages(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Prefect's port.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="MLflow's port.")] = 5000,
    worker: Annotated[bool, typer.Option(help="Also deploy prefect.yaml and run workers.")] = True,
) -> None:
    """Run the Prefect and MLflow servers of this home on loopback, with workers, until Ctrl-C."""
    from academy.operations.servers import serve_pages

    home = open_home()
    signal.signal(signal.SIGTERM, _interrupt)
    with suppress(KeyboardInterrupt), closing(serve_pages(home, port, mlflow_port, with_worker=worker)) as events:
        for event in events:
            _print(event)


@app.command()
def deploy() -> None:
    """Create the work pools and deploy prefect.yaml on the running Prefect server."""
    from academy.operations.deploy import deploy as deploy_all

    _print_deployed(deploy_all(settings()))


def _print(event: ServerEvent) -> None:
    match event.kind:
        case "runs crashed":
            say(f"{event.count} runs ended without a result when their process died; they are marked as crashed.")
        case "server":
            say(f"{event.name + ':':<8} {event.url}")
        case "deployed":
            if event.deployed:
                _print_deployed(event.deployed)
        case "worker":
            say(f"A worker serves the pool {event.name}.")
        case "ready":
            say("Ctrl-C ends everything.")


def _print_deployed(deployed: Deployed) -> None:
    say(f"Deployed {', '.join(deployed.deployments)}.")
    say(f"To start a worker that trains for this home: {deployed.worker_command}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
