"""Shared by the integration tests: one small evolution with real parts, run once a session."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from academy.adapters.adapter import Adapter
from tests import skips
from tests.forks import Forks
from tests.homes import Ended, RealHome, bare
from tests.topics import RECIPE, write_topics


@dataclass(frozen=True)
class Evolved:
    """A home after its first evolution, and what that one told."""

    home: RealHome
    lessons: Path
    first: Ended

    @property
    def arguments(self) -> tuple[str | Path, ...]:
        """What the evolution was called with."""
        return ("evolve", "--lessons", self.lessons, *RECIPE, "--json")


# two workers on as few processors: one thread each, which does not spin; before anything imports torch
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

FIRST = ("test_loop.py", "test_container_training.py", "test_identity.py", "test_prefect.py")
"""The long files, so that no worker is left with one at the end; neighbours wait for no training of each other's."""


CAMPAIGN_SECONDS = 1800


def pytest_configure(config: pytest.Config) -> None:
    """Count the skipped tests of the run."""
    skips.register(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first, then the other integration tests, the unit tests last; give the campaign's more time."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))
    for item in items:
        if item.get_closest_marker("campaign") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(CAMPAIGN_SECONDS))


@pytest.fixture(scope="session", autouse=True)
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands are forks. The first one waits for what all of them import."""
    quiet = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "ERROR"}
    RealHome.forks = Forks(bare() | quiet | {"OMP_WAIT_POLICY": "PASSIVE"}, tmp_path_factory.mktemp("forks"))
    yield
    RealHome.forks.end()
    RealHome.forks = None


@pytest.fixture(scope="session")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Evolved:
    """32 answers in five wordings, trained until they are known: about a minute. Each worker has its own copy."""

    def make(place: Path) -> list[Path]:
        home = RealHome(place / "home")
        lessons = write_topics(place / "topics.jsonl")
        first = home.run("evolve", "--lessons", lessons, *RECIPE, "--json")
        (place / "first.json").write_text(json.dumps(asdict(first)), encoding="utf-8")
        return [home.path, lessons, place / "first.json"]

    made, lessons, first = made_once(tmp_path_factory, "evolved", make)
    home = RealHome(tmp_path_factory.mktemp("evolved") / "home")
    shutil.copytree(made, home.path)
    return Evolved(home, lessons, Ended(**json.loads(first.read_text(encoding="utf-8"))))


@pytest.fixture
def second_home(evolved: Evolved, tmp_path: Path) -> Iterator[RealHome]:
    """A copy of the evolved home, for tests that change the ledger."""
    home = RealHome(tmp_path / "home")
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
    from academy.adapters.adapter import read_adapter
    from tests.servers.adapters import trained

    def make(place: Path) -> list[Path]:
        place.mkdir(exist_ok=True)
        return [adapter.path for adapter in trained(place)]

    one, two = (read_adapter(folder) for folder in made_once(tmp_path_factory, "pair", make))
    return one, two
