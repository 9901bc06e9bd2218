"""Imports Prefect so that its settings come from the environment and the home, never from the current folder.

Prefect reads `.env`, `prefect.toml` and `pyproject.toml` of the current folder, when it is imported and whenever its
settings change. They can name a file for Python's logging, which runs code, and servers to which lessons are sent.
"""

from __future__ import annotations

import contextlib
from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from academy.settings import Settings

_FILES = ("FilteredDotEnvSettingsSource", "PrefectTomlConfigSettingsSource", "PyprojectTomlConfigSettingsSource")
"""Prefect's sources of settings that read the current folder."""


class NoSource(PydanticBaseSettingsSource):
    """A source without settings, in place of one that reads the current folder."""

    def __init__(self, settings_cls: type[BaseSettings], **_options: object) -> None:
        super().__init__(settings_cls)

    def get_field_value(self, field: object, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        """Nothing."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """No settings."""
        return {}


def import_prefect(settings: Settings) -> None:
    """Import Prefect in a folder of the home, and close its sources of settings. Call `configure` first."""
    with contextlib.chdir(settings.folder("prefect")):  # its import reads the settings for the first time
        from prefect.context import get_settings_context
        from prefect.settings import base

        get_settings_context()
    for name in _FILES:
        if not hasattr(base, name):
            raise RuntimeError("This version of Prefect reads its settings in another way.")
        setattr(base, name, NoSource)
