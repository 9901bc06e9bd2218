"""Shared by the integration tests: one small evolution with real parts, run once a session."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from academy.habitat.adapter import Adapter
from tests.campaign.house import RECIPE, Ended, Home, write_topics


@dataclass(frozen=True)
class Evolved:
    """A home after its first evolution, and what that one told."""

    home: Home
    lessons: Path
    first: Ended

    @property
    def arguments(self) -> tuple[str | Path, ...]:
        """What the evolution was called with."""
        return ("evolve", "--lessons", self.lessons, *RECIPE, "--json")


@pytest.fixture(scope="session")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Evolved:
    """32 answers in five wordings, trained until they are known: about a minute."""
    place = tmp_path_factory.mktemp("evolved")
    home = Home(place / "home")
    lessons = write_topics(place / "topics.jsonl")
    return Evolved(home, lessons, home.run("evolve", "--lessons", lessons, *RECIPE, "--json"))


@pytest.fixture
def second_home(evolved: Evolved, tmp_path: Path) -> Iterator[Home]:
    """A copy of the evolved home, for tests that change the ledger."""
    home = Home(tmp_path / "home")
    shutil.copytree(evolved.home.path, home.path)
    yield home
    shutil.rmtree(home.path)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Sequence[Path]]) -> list[Path]:
    """Paths that the first worker of a session makes in a folder of that name; the others wait, and only read."""
    base = factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    told = place.with_suffix(".json")
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            told.write_text(json.dumps([str(path) for path in make(place)]), encoding="utf-8")
    return [Path(one) for one in json.loads(told.read_text(encoding="utf-8"))]


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the four adapters that each answer one colour. Nobody writes in them."""
    import torch

    from tests.colours import COLOURS, train_colours

    torch.set_num_threads(1)
    folders = made_once(tmp_path_factory, "colours", lambda place: list(train_colours(place).values()))
    return dict(zip(COLOURS, folders, strict=True))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, Adapter]:
    """Two adapters of the real trainer that answer the same requests otherwise. Nobody writes in their folders."""
    from academy.habitat.adapter import read_adapter
    from tests.servers.adapters import trained

    def make(place: Path) -> list[Path]:
        place.mkdir(exist_ok=True)
        return [adapter.path for adapter in trained(place)]

    one, two = (read_adapter(folder) for folder in made_once(tmp_path_factory, "pair", make))
    return one, two
