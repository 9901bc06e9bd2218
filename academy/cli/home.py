"""The home and the settings that a command works with, and the user who runs it.

The imports stand in the functions, so that `academy --help` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from academy.loop.home import Home
    from academy.settings import Settings


def open_home(base_model: str | None = None, *, adopt: bool = False) -> Home:
    """Open the home of the settings. `adopt`: the user trusts a home that this account did not make."""
    from academy.loop.home import Home

    return Home.open(base_model, adopt=adopt)


def settings() -> Settings:
    """Read the settings, without opening the home's database."""
    from academy.settings import load_settings

    return load_settings()


def user() -> str:
    """The login name of the user who runs the command; ledger rows keep it."""
    from academy.loop.home import current_user

    return current_user()
