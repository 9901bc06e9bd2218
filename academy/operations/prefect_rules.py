"""What a request may change on a home's Prefect server, and which deployments a worker runs.

Prefect runs whatever text a deployment names: an entry point, a folder, steps before it, a block, a command of its
pool. Here that is the project's own flows in their own folder and nothing else, for every user. A server that
PREFECT_API_URL names has rules of its own; a worker of this home asks these before it starts a run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from academy.habitat.routing import POOLS
from academy.operations.job_template import JOB_TEMPLATE

CHECKOUT = Path(__file__).parents[2]
"""The folder of the flows."""
POOL = "academy-cpu"
"""The work pool of all flows except trainings on a device."""
DEPLOYMENTS = (
    "evolve/nightly", "evolve/on-demand", "train/cpu", "train/gpu", "examine/by-hand", "promote/by-hand",
    "verify/nightly",
)  # fmt: skip
ENTRYPOINTS = {f"flows/{flow}.py:{flow}" for flow in (name.partition("/")[0] for name in DEPLOYMENTS)}
SET_FOLDER = "prefect.deployments.steps.set_working_directory"
SIZES = JOB_TEMPLATE["variables"]["properties"].keys()

_READING = re.compile(
    r".*/(filter|count|paginate|history|lateness|concurrency_status|get_scheduled_flow_runs|get_runs"
    r"|count-by/[a-z:]+|count-deployments|next-runs|count-task-runs|dashboard/counts)|/ui/schemas/validate"
)
"""Requests with a body that change nothing."""
_CHANGING = re.compile(
    r"/(flows|flow_runs|task_runs|logs|events|artifacts|saved_searches|concurrency_limits|v2/concurrency_limits"
    r"|work_queues|csrf-token)(/.*)?"
    r"|/deployments/[^/]+(/(schedule|schedules|schedules/[^/]+|pause_deployment|resume_deployment|create_flow_run"
    r"|create_flow_run/bulk))?"
    r"|/deployments/bulk_delete"
    r"|/work_pools/[^/]+(/(queues|queues/[^/]+|workers/heartbeat|workers/[^/]+))?"
)
"""Names, states, schedules and numbers: nothing that becomes code."""
_DEPLOYMENT = re.compile(r"/deployments(/[^/]*)?")
_POOL = re.compile(r"/work_pools(/[^/]*)?")
_RUN = re.compile(r"/flow_runs(/(?!bulk_)[^/]*)?|/deployments/[^/]+/create_flow_run(/bulk)?")


def request_refusal(method: str, path: str, body: bytes) -> str:
    """Why a request to Prefect's API is refused, as one sentence; empty if it is not. `path` begins after /api."""
    if method in ("GET", "HEAD", "OPTIONS") or (method == "POST" and _READING.fullmatch(path)):
        return ""
    if method == "DELETE" and not path.startswith("/admin/"):
        return ""  # what is deleted runs nothing; `prefect deploy` deletes a deployment's automations
    creates = method == "POST" and path.rstrip("/") in ("/deployments", "/work_pools")
    if not creates and not _CHANGING.fullmatch(path):
        return "Blocks, automations, variables and the server's settings are not changed on a home's Prefect server."
    if not any(rule.fullmatch(path) for rule in (_DEPLOYMENT, _POOL, _RUN)):
        return ""
    try:
        content = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        return "The request is not JSON."
    items = content if isinstance(content, list) else [content]
    if not all(isinstance(item, dict) for item in items):
        return "The request is not a JSON object."
    rule = _deployment_refusal if _DEPLOYMENT.fullmatch(path) else _pool_refusal if _POOL.fullmatch(path) else _sizes
    return next((refusal for item in items if (refusal := rule(item, whole=creates))), "")


def run_refusal(deployment: Mapping[str, Any] | None, template: Mapping[str, Any], sizes: Mapping[str, Any]) -> str:
    """Why a worker of this home does not start a run: for its deployment, its pool's template or its job variables."""
    if deployment is None:
        return "The run has no deployment, and a worker of this home runs its own deployments only."
    return (
        _deployment_refusal(deployment, whole=True)
        or _pool_refusal({"base_job_template": template})
        or _sizes({"job_variables": sizes})
    )


def _deployment_refusal(deployment: Mapping[str, Any], *, whole: bool = False) -> str:
    """Only the fields that a request sets are compared, unless it is a whole deployment."""
    steps = [{SET_FOLDER: {"directory": str(CHECKOUT)}}]
    fields = deployment.keys() | ({"entrypoint", "pull_steps", "work_pool_name"} if whole else set())
    if "entrypoint" in fields and deployment.get("entrypoint") not in ENTRYPOINTS:
        return "A deployment's entry point must be one of the project's flows."
    if "pull_steps" in fields and deployment.get("pull_steps") != steps:
        return f"A deployment must work in {CHECKOUT} without other steps: run `academy deploy` from there."
    if "work_pool_name" in fields and deployment.get("work_pool_name") not in (POOL, *POOLS.values()):
        return "A deployment must use one of the project's work pools."
    if any(deployment.get(name) for name in ("path", "storage_document_id", "infrastructure_document_id")):
        return "A deployment may not name a folder or a block of its own."
    return "A deployment may not set job variables." if deployment.get("job_variables") else ""


def _pool_refusal(pool: Mapping[str, Any], *, whole: bool = False) -> str:
    if ("base_job_template" in pool or whole) and pool.get("base_job_template") != JOB_TEMPLATE:
        return "A work pool's job template is a constant of the home."
    if pool.get("type", "process") != "process":
        return "A home's Prefect server has work pools of the type process only."
    storage = pool.get("storage_configuration") or {}
    if not isinstance(storage, dict) or any(storage.values()):
        return "A work pool may not name storage for code or results."
    return ""


def _sizes(run: Mapping[str, Any], *, whole: bool = False) -> str:  # noqa: ARG001  as the other rules
    variables = run.get("job_variables") or {}
    if isinstance(variables, dict) and variables.keys() <= SIZES:
        return ""
    return f"A run may set these job variables only: {', '.join(SIZES)}."
