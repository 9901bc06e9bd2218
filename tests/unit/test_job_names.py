"""Names of training jobs: given once, unique, and kept."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from academy.habitat.job_names import job_name, job_names, name_job, run_of_job


def test_a_name_is_given_once_and_is_unique(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert job_name(runs, "a1") == ""
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda n: name_job(runs, f"run{n % 20}"), range(80)))
    assert len(set(names)) == 20
    assert all(re.fullmatch(r"training_\d{8}_\d{6}(_\d+)?", name) for name in names)
    assert names[:20] == names[20:40] == [name_job(runs, f"run{n}") for n in range(20)]
    assert [run_of_job(runs, name) for name in names[:20]] == [f"run{n}" for n in range(20)]
    assert job_names(runs) == {f"run{n}": names[n] for n in range(20)}


def test_other_names_are_no_jobs(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "training_20260101_000000.run").write_text("../../etc")
    (jobs / "training_x.run").write_text("abc")
    assert job_names(runs) == {}
    for name in ("training_20260101_000000", "training_x", "../x", "", "training_20260101_000001"):
        assert run_of_job(runs, name) == ""
