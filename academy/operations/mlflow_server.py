"""`python -m academy.operations.mlflow_server HOME SOCKETS`: MLflow's pages and API, behind the access layer.

MLflow's assistant runs shell commands, and its gateway, jobs and webhooks ask other servers or run code: the pages of a
home do without them. Artifacts are read and written below the home's folder for them, or in the configured store.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.types import ASGIApp

from academy.access.layer import AccessLayer, home_rules
from academy.home.private import be_private
from academy.operations.listeners import inherited
from academy.settings import Settings, load_settings

CONFIGURED = ("MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_DEFAULT_ARTIFACT_ROOT")
"""MLflow's own variables for a store elsewhere."""
INDIRECT = ("mlflow-artifacts", "runs", "models")
"""Schemes that name an artifact by another one, which is then checked."""
LOCATIONS = ("artifact_location", "artifactLocation", "default_artifact_root", "defaultArtifactRoot")
"""Fields of requests that set where artifacts are stored."""
_REMOVED = {"gateway", "gateway-proxy", "webhooks", "jobs", "invoke", "demo", "create-promptlab-run"}
"""Parts of paths of MLflow's older routes that are not served."""


def make_app(settings: Settings) -> ASGIApp:
    """MLflow's server for a home. Call it before anything imports mlflow.server."""
    roots = artifact_roots(settings)
    os.environ |= {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its pages need no job processes
        "_MLFLOW_SERVER_FILE_STORE": settings.tracking_uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": settings.tracking_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",  # clients send artifacts through this server
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": roots[-1],
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
    }
    _guard_repositories(roots)
    from mlflow.server import app as flask_app
    from mlflow.server.assistant.api import assistant_router
    from mlflow.server.fastapi_app import app
    from mlflow.server.gateway_api import gateway_router
    from mlflow.server.job_api import job_api_router
    from mlflow.server.mcp_server_api import mcp_server_router

    removed = (assistant_router, gateway_router, job_api_router, mcp_server_router)
    kept = [route for route in app.router.routes if getattr(route, "original_router", None) not in removed]
    if len(app.router.routes) - len(kept) < len(removed):
        raise RuntimeError("This version of MLflow adds its routes in another way.")
    app.router.routes[:] = kept
    _restrict(flask_app, roots)
    return AccessLayer(app, home_rules(settings))


def artifact_roots(settings: Settings) -> tuple[str, ...]:
    """URIs below which artifacts may be; the last one is where MLflow's server puts those of its clients."""
    configured = [text for name in CONFIGURED if (text := os.environ.get(name, "")) and urlsplit(text).scheme]
    return (settings.folder("mlartifacts").as_uri(), *configured)


def is_below(location: str, roots: tuple[str, ...]) -> bool:
    """Whether a location of artifacts is one of these roots or below it; links on this machine are followed."""
    parts = urlsplit(location)
    path = unquote(parts.path)
    if "%" in path or "\\" in location or "\0" in path or any(part == ".." for part in PurePosixPath(path).parts):
        return False
    if parts.scheme in ("", "file"):
        if parts.netloc not in ("", "localhost") or not path.startswith("/") or parts.query or parts.fragment:
            return False
        place = Path(path).resolve()
        return any(place.is_relative_to(Path(unquote(urlsplit(root).path)).resolve()) for root in _local(roots))
    for root in roots:
        of_root = urlsplit(root)
        if (of_root.scheme, of_root.netloc) == (parts.scheme, parts.netloc):
            return PurePosixPath(path).is_relative_to(PurePosixPath(of_root.path or "/"))
    return False


def _local(roots: tuple[str, ...]) -> list[str]:
    return [root for root in roots if urlsplit(root).scheme == "file"]


def _refuse(location: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    raise MlflowException(
        f"Artifacts at {location[:200]!r} are not below the home's folder for artifacts or the configured store.",
        PERMISSION_DENIED,
    )


def _guard_repositories(roots: tuple[str, ...]) -> None:
    """Check every location when it is used: the database may have been written by other programs."""
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry as registry

    def guarded(make: Callable[..., Any]) -> Callable[..., Any]:
        def repository(uri: str, *arguments: Any, **options: Any) -> Any:
            if not is_below(uri, roots):
                _refuse(uri)
            return make(uri, *arguments, **options)

        return repository

    for scheme, make in list(registry.get_registered_artifact_repositories().items()):
        if scheme not in INDIRECT:
            registry.register(scheme, guarded(make))


def _restrict(flask_app: Any, roots: tuple[str, ...]) -> None:
    """Remove routes of MLflow's older application, and check locations when they are set."""
    import flask

    def not_here(**_arguments: Any) -> Any:
        flask.abort(404)

    for rule in flask_app.url_map.iter_rules():
        if _REMOVED.intersection(rule.rule.split("/")):
            flask_app.view_functions[rule.endpoint] = not_here

    def check_location() -> Any:
        content = flask.request.get_json(force=True, silent=True) if flask.request.method != "GET" else None
        if isinstance(content, str):  # MLflow decodes JSON in a text once more
            return flask.jsonify(error_code="INVALID_PARAMETER_VALUE", message="The body is not a JSON object."), 400
        if not isinstance(content, dict):
            return None
        locations = [str(content[name]) for name in LOCATIONS if content.get(name)]
        if all(_is_own(location, roots) for location in locations):
            return None
        detail = "Artifacts may only be below the home's folder for artifacts or the configured store."
        return flask.jsonify(error_code="PERMISSION_DENIED", message=detail), 403

    flask_app.before_request(check_location)


def _is_own(location: str, roots: tuple[str, ...]) -> bool:
    parts = urlsplit(location)
    return (parts.scheme == "mlflow-artifacts" and not parts.netloc) or is_below(location, roots)


def main() -> None:
    """Serve until a supervisor ends this process."""
    be_private()
    from academy.access.guarded_server import run

    run(make_app(load_settings(Path(sys.argv[1]))), inherited(sys.argv[2]))


if __name__ == "__main__":
    main()
