"""Prefect tasks: each is a decorator and a call into `academy/`.

Prefect loads a flow's file by its path, without the package that it lies in. So what every process of a run does first
stands here, where each flow imports its tasks.
"""

from academy.operations import run_process

run_process.begin()
