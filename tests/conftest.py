"""Shared by the integration tests: one small evolution with real parts, run once a session."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
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
    """A home after its first evolution, and the output of that evolution."""

    home: RealHome
    lessons: Path
    first: Ended

    @property
    def arguments(self) -> tuple[str | Path, ...]:
        """The arguments of the evolution."""
        return ("evolve", "--lessons", self.lessons, *RECIPE, "--json")


# Two workers on few cores: one thread each, which does not spin while it waits. Must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

FIRST = ("test_loop.py", "test_container_training.py", "test_identity.py", "test_prefect.py")
"""Long files start first, so that no worker ends with one. Neighbours need different trainings, so neither waits."""


TRAINED = {"evolved", "pair", "colours", "pages"}
"""Fixtures that train or start Prefect. The first test that uses one waits for it, so its limit is longer."""
TRAINED_SECONDS, CAMPAIGN_SECONDS = 900, 1800


def pytest_configure(config: pytest.Config) -> None:
    """Count the skipped tests of the run, and note the homes of tests in a configuration folder of their own."""
    skips.register(config)
    if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit the folder
        folder = tempfile.TemporaryDirectory(prefix="academy-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ["XDG_CONFIG_HOME"] = folder.name
        os.environ.pop("ACADEMY_SETTINGS_FILE", None)  # make names the checkout's own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first, then the other integration tests, the unit tests last. Set the longer time limits."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))
    for item in items:
        if item.get_closest_marker("timeout"):
            continue
        if item.get_closest_marker("campaign"):
            item.add_marker(pytest.mark.timeout(CAMPAIGN_SECONDS))
        elif TRAINED.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(TRAINED_SECONDS))


@pytest.fixture(scope="session", autouse=True)
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start commands as forks of one process (tests/forks.py), which the first command waits for."""
    quiet = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "ERROR"}
    RealHome.forks = Forks(bare() | quiet | {"OMP_WAIT_POLICY": "PASSIVE"}, tmp_path_factory.mktemp("forks"))
    yield
    RealHome.forks.end()
    RealHome.forks = None


@pytest.fixture(scope="session")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Evolved:
    """The home of an evolution on all topics, which takes about a minute. Each worker has a copy of it."""

    def make(place: Path) -> list[Path]:
        home = RealHome(place / "home")
        lessons = write_topics(place / "topics.jsonl")
        first = home.run("evolve", "--lessons", lessons, *RECIPE, "--json")
        (place / "first.json").write_text(json.dumps(asdict(first)), encoding="utf-8")
        return [home.path, lessons, place / "first.json"]

    source, lessons, first = made_once(tmp_path_factory, "evolved", make)
    home = RealHome(tmp_path_factory.mktemp("evolved") / "home")
    home.restore(source)
    return Evolved(home, lessons, Ended(**json.loads(first.read_text(encoding="utf-8"))))


@pytest.fixture
def second_home(evolved: Evolved, tmp_path: Path) -> Iterator[RealHome]:
    """A copy of the evolved home, for tests that change the ledger."""
    home = RealHome(tmp_path / "home")
    home.restore(evolved.home.path)
    yield home
    shutil.rmtree(home.path)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Sequence[Path]]) -> list[Path]:
    """Paths in a folder of that name. The first worker of a session makes them; the others wait, and only read."""
    base = factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    listing = place.with_suffix(".json")
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not listing.exists():
            listing.write_text(json.dumps([str(path) for path in make(place)]), encoding="utf-8")
    return [Path(text) for text in json.loads(listing.read_text(encoding="utf-8"))]


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the four adapters that each answer one colour. Read only."""
    import torch

    from tests.colours import COLOURS, train_colours

    torch.set_num_threads(1)
    folders = made_once(tmp_path_factory, "colours", lambda place: list(train_colours(place).values()))
    return dict(zip(COLOURS, folders, strict=True))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, Adapter]:
    """Two adapters of the real trainer that answer the same requests differently. Their folders are read only."""
    from academy.adapters.adapter import read_adapter
    from tests.servers.adapters import train_pair

    def make(place: Path) -> list[Path]:
        place.mkdir(exist_ok=True)
        return [adapter.path for adapter in train_pair(place)]

    first, second = (read_adapter(folder) for folder in made_once(tmp_path_factory, "pair", make))
    return first, second
