"""Fixtures of the unit tests: fresh databases, a full and a read-only disk, and no settings from the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from academy.curriculum.curator import Measure
from academy.models.base_model import SEED, resolve
from academy.settings import Settings
from academy.store.database import Database
from tests.conftest import made_once

if TYPE_CHECKING:
    from tests.registry import House

OUTSIDE = (
    "ACADEMY_",
    "DEFAULT_",
    "MIN_LESSONS",
    "MIN_TRAINING",
    "ENABLE_",
    "WORKSPACE_ROOT",
    "MEMORY_ROOT",
    "DOCKER_CUDA_IMAGE",
)


if examples := os.environ.get("HYPOTHESIS_EXAMPLES"):
    from hypothesis import settings

    settings.register_profile("fast", max_examples=int(examples))
    settings.load_profile("fast")


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the settings of the person who runs the tests, from the environment and from a .env file."""
    for name in list(os.environ):
        if name.startswith(OUTSIDE):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Database]]:
    """A function that makes migrated SQLite databases, as copies of one that is migrated."""
    first = tmp_path_factory.mktemp("migrated") / "academy.db"
    template = Database(f"sqlite:///{first}")
    template.migrate()
    template.engine.dispose()
    databases: list[Database] = []

    def make() -> Database:
        place = tmp_path_factory.mktemp("database") / "academy.db"
        shutil.copy(first, place)
        databases.append(Database(f"sqlite:///{place}"))
        return databases[-1]

    yield make
    for database in databases:
        database.engine.dispose()


@pytest.fixture
def database(new_database: Callable[[], Database]) -> Database:
    """A fresh database."""
    return new_database()


@pytest.fixture(scope="session")
def measure() -> Measure:
    """Counts the tokens of conversations as the seed model is trained on them, without torch."""
    return resolve(SEED).measure


def _mounted(place: Path, options: str) -> Iterator[Path]:
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    try:
        mount = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as problem:
        pytest.skip(f"no tmpfs: {problem}")
    if mount.returncode:
        pytest.skip(f"no tmpfs: {mount.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    yield from _mounted(tmp_path / "small-disk", "size=64k")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that not even root can write to."""
    yield from _mounted(tmp_path / "read-only-disk", "ro,size=64k")


@pytest.fixture(scope="session")
def mlflow_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database of MLflow without rows. MLflow needs a second for its migrations, a copy needs none."""
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    def make(folder: Path) -> list[Path]:
        folder.mkdir()
        engine = create_sqlalchemy_engine(f"sqlite:///{folder / 'mlflow.db'}")
        _initialize_tables(engine)
        engine.dispose()
        return [folder / "mlflow.db"]

    (tables,) = made_once(tmp_path_factory, "mlflow-tables", make)
    return tables


@pytest.fixture(scope="module")
def mlflow_client(tmp_path_factory: pytest.TempPathFactory, mlflow_tables: Path) -> Iterator[Any]:
    """A real MLflow registry, shared by a module; each test takes a family of its own."""
    from academy.genealogy.tracking import open_mlflow

    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY",
                     "MLFLOW_LOGGING_LEVEL", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"):  # fmt: skip
            patch.setenv(name, "")  # so that what open_mlflow sets is restored at the end
        home = tmp_path_factory.mktemp("mlflow")
        shutil.copy(mlflow_tables, home / "mlflow.db")
        patch.chdir(home)
        yield open_mlflow(Settings().model_copy(update={"home": home}))


@pytest.fixture
def house(mlflow_client: Any, database: Database, tmp_path: Path) -> House:
    """A family with its ledger and its registry."""
    from academy.genealogy.versions import Versions
    from academy.store.ledger import Ledger
    from tests.registry import House

    family = f"academy-test-{tmp_path.name}".replace("_", "-")
    mlflow_client.create_registered_model(family)
    return House(Ledger(database, "f" * 64), Versions(lambda: mlflow_client, family), tmp_path)
