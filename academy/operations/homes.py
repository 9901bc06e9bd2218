"""The home that the commands, flows and tasks of one process share: it is opened once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache

from academy.loop.home import Home
from academy.settings import Settings, load_settings


def open_home(
    base_model: str | None = None, change: Callable[[Settings], Settings] = lambda settings: settings
) -> Home:
    """The home of the present settings, changed by `change`.

    A change of the settings or the base model, and a fork, open another one.
    """
    return _open(os.getpid(), change(load_settings()), base_model)


@lru_cache(maxsize=2)
def _open(process: int, settings: Settings, base_model: str | None) -> Home:  # noqa: ARG001  a part of the key
    return Home(settings, base_model)
