"""Shared by the integration tests: one small evolution with real parts, run once a session."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the four adapters that each answer one colour. Nobody writes in them."""
    import torch

    from tests.colours import train_colours

    torch.set_num_threads(1)
    return train_colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, Adapter]:
    """Two adapters of the real trainer that answer the same requests otherwise."""
    from tests.servers.adapters import trained

    return trained(tmp_path_factory.mktemp("pair"))
