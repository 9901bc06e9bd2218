"""Connecting to a Docker engine, and the exceptions of its client."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from academy.errors import EngineError
from academy.system.connections import exempt_loopback

ENGINE_SECONDS = 30
ENGINE_REMEDY = "Start one (systemctl start docker; apt-get install docker.io), or set DOCKER_HOST to a running one."


def connect(seconds: int = ENGINE_SECONDS) -> Any:
    """Connect to the engine at DOCKER_HOST with this timeout. Raises EngineError if none answers."""
    import docker

    exempt_loopback()
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    no_answer = EngineError(f"No Docker engine answers at {host}.", ENGINE_REMEDY)
    if host.startswith("unix://") and not Path(host.removeprefix("unix://")).is_socket():
        raise no_answer
    try:
        client = docker.from_env(timeout=seconds)
    except problems() as problem:
        raise no_answer from problem
    try:
        client.ping()
    except problems() as problem:
        client.close()
        raise no_answer from problem
    return client


@cache
def problems() -> tuple[type[Exception], ...]:
    """The exceptions that the client raises if the engine rejects a request, fails or does not answer."""
    from docker.errors import DockerException
    from urllib3.exceptions import HTTPError

    return (DockerException, HTTPError, OSError)
