"""A Docker engine: how it is reached, and what its client raises."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from academy.errors import EngineError

ENGINE_SECONDS = 30
HOW = "Start one (systemctl start docker; apt-get install docker.io), or set DOCKER_HOST to one that runs."


def connect(seconds: int = ENGINE_SECONDS) -> Any:
    """A client of the engine at DOCKER_HOST that waits so long for an answer. Raises EngineError where none answers."""
    try:
        import docker
    except ImportError as problem:
        raise EngineError("The Docker SDK is not installed.", "pip install 'the-academy[docker]'.") from problem
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    silent = EngineError(f"No Docker engine answers at {host}.", HOW)
    if host.startswith("unix://") and not Path(host.removeprefix("unix://")).is_socket():
        raise silent
    try:
        client = docker.from_env(timeout=seconds)
    except problems() as problem:
        raise silent from problem
    try:
        client.ping()
    except problems() as problem:
        client.close()
        raise silent from problem
    return client


@cache
def problems() -> tuple[type[Exception], ...]:
    """What the client raises where the engine refuses, fails or is gone."""
    from docker.errors import DockerException
    from urllib3.exceptions import HTTPError

    return (DockerException, HTTPError, OSError)
