"""Prefect flows: each reads like the sentence it implements.

A worker starts a run in a session of its own, which a killed worker would leave behind: so a run ends with its worker.
"""

import os

from academy.processes import die_with_parent

if os.environ.get("PREFECT__FLOW_RUN_ID"):
    die_with_parent(os.getppid())
