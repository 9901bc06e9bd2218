"""A home whose trainings are to run in containers, and no Docker engine: its dry run and its run say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.homes import RealHome
from tests.topics import write_topics


@pytest.mark.campaign
def test_an_evolution_is_refused_as_its_dry_run_says(tmp_path: Path) -> None:
    no_engine = f"No Docker engine answers at unix://{tmp_path}/none.sock"
    home = RealHome(tmp_path / "home")
    asked = {"ACADEMY_TRAINING_BACKEND": "container", "DOCKER_HOST": no_engine.rpartition(" ")[2]}
    evolve = ("evolve", "--lessons", write_topics(tmp_path / "topics.jsonl"), "--force")
    refused = home.run(*evolve, **asked)
    assert refused.code == 2
    assert refused.err.count(no_engine) == 1
    assert "Traceback" not in refused.err
    assert not home.events()
    dry = home.run(*evolve, "--dry-run", **asked)
    assert f"Would not train: it would be refused: {no_engine}. Start one" in " ".join(dry.out.split())
    come_down = home.run(*evolve, "--dry-run", **{**asked, "ACADEMY_TRAINING_BACKEND": "auto"})
    said = " ".join(come_down.out.split())
    assert said.startswith("Would train: ")
    assert f"; in a process instead of a container: {no_engine}." in said
