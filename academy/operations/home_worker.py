"""Prefect's worker for process pools, which starts runs of this project's own deployments only."""

from __future__ import annotations

import warnings
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from academy.errors import InputError
from academy.operations.prefect_rules import run_refusal

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Type 'HomeWorker'")  # it takes the place of Prefect's in its register

    class HomeWorker(ProcessWorker):
        """Asks prefect_rules.py before a run starts: the server may be one that does not."""

        type = "process"

        async def run(
            self, flow_run: FlowRun, configuration: ProcessJobConfiguration, task_status: Any = None
        ) -> ProcessWorkerResult:
            """Raises InputError for a run that is not of this project. Prefect marks it as crashed, with the reason."""
            deployment = None
            if flow_run.deployment_id is not None:
                deployment = (await self.client.read_deployment(flow_run.deployment_id)).model_dump(mode="json")
            template = self.work_pool.base_job_template
            if refusal := run_refusal(deployment, template, flow_run.job_variables or {}):
                raise InputError(refusal, "Run one of the deployments that `academy deploy` writes.")
            return await super().run(flow_run, configuration, task_status)
