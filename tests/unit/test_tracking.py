"""MLflow's database is made whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from academy.errors import HomeError
from academy.genealogy.tracking import open_mlflow, took
from academy.habitat.watch import Progress
from academy.settings import load_settings

KILLED_HALFWAY = """
import os, sys
import mlflow.store.db.utils as utils
from academy.genealogy.tracking import open_mlflow, took
from academy.habitat.watch import Progress
from academy.settings import load_settings
utils._upgrade_db = lambda engine: os.kill(os.getpid(), 9)  # the first tables are there, the migrations are not
open_mlflow(load_settings())
"""


def test_a_kill_amid_the_making_of_mlflows_tables_stops_no_later_start(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_HALFWAY], env={**os.environ, "ACADEMY_HOME": str(tmp_path)}, check=False
    )
    assert ended.returncode == -9
    assert not (tmp_path / "mlflow.db").exists()
    assert open_mlflow(load_settings(tmp_path)).get_experiment_by_name("academy") is not None


def test_a_half_made_database_is_told_in_a_sentence(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    (settings.home / "mlflow.db").write_bytes(b"no database at all, but long enough to be looked at" * 20)
    with pytest.raises(HomeError, match=r"MLflow at sqlite.* cannot be used.*file is not a database"):
        open_mlflow(settings)


def test_what_a_training_took_is_told_as_far_as_it_is_known() -> None:
    whole = Progress(status="finished", seconds=1800.0, energy=90_000.0, cost=1.25, memory=7)
    assert took(whole) == {
        "training_seconds": 1800.0, "energy_joules": 90_000.0, "cost": 1.25, "memory_peak_bytes": 7.0,
    }  # fmt: skip
    assert took(Progress(status="cancelled", seconds=60.0, memory=7)) == {"training_seconds": 60.0}
