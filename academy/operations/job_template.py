"""What a flow run may ask of its work pool, and what is a constant of the pool.

Prefect's own template lets each run set its command, its environment and its folder, so any starter of a run could
run any program as the worker. Here a run may name sizes only. A process pool ignores them; a pool of containers or a
cluster, whose template a person writes, takes its sizes from them.
"""

from __future__ import annotations

from typing import Any

JOB_TEMPLATE: dict[str, Any] = {
    # no `env`: Prefect merges a run's variables into it if it is there
    "job_configuration": {"stream_output": True},
    "variables": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "cpu": {"type": "number", "exclusiveMinimum": 0, "maximum": 1024, "description": "CPUs of the run."},
            "memory": {"type": "string", "pattern": r"^[0-9]{1,6}(Mi|Gi)$", "description": "Memory of the run."},
            "gpu": {"type": "integer", "minimum": 0, "maximum": 64, "description": "GPUs of the run."},
            "queue": {"type": "string", "pattern": r"^[A-Za-z0-9._-]{1,63}$", "description": "Queue of a cluster."},
        },
    },
}
