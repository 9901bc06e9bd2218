"""The keys of a home, and signing adapters again with the current one."""

from __future__ import annotations

from collections.abc import Sequence

from academy.access.user_keys import UserKeys
from academy.errors import AdapterError, InputError
from academy.lifecycle.gate import DIGEST, resign_adapter
from academy.loop.home import Home
from academy.loop.named_versions import get_version, vouch_for
from academy.records import Record
from academy.settings import Settings
from academy.store.database import Database
from academy.store.signing import Keys


class Resigned(Record):
    """Versions that were signed again, and those that were not, each with the reason."""

    signed: tuple[str, ...]
    refused: dict[str, str]


def open_keys(settings: Settings) -> Keys:
    """The keys of a home; its database is not opened."""
    return Keys(settings.home.resolve() / "keys")


def open_user_keys(settings: Settings) -> UserKeys:
    """The keys of the gateway's users."""
    database = Database(settings.database)
    database.migrate()
    return UserKeys(database)


def resign(home: Home, names: Sequence[str], *, all_of_them: bool) -> Resigned:
    """Sign adapters again: those of named versions, which the user vouches for, even unsigned ones.

    An unverified version is registered again under its name, as a new version.

    With `all_of_them` only those that a key of this home signed before. Raises InputError where no version is named.
    """
    if not names and not all_of_them:
        raise InputError("No version is named.", "Name the versions that you vouch for, or add --all.")
    if all_of_them:  # without the base model under a name, and unverified versions
        versions = [version for version in home.versions.newest() if DIGEST.fullmatch(version.adapter)]
    else:
        versions = [get_version(home, name) for name in names]
    copies = home.settings.home.resolve() / "mlartifacts"
    names_signed: list[str] = []
    reasons: dict[str, str] = {}
    for version in versions:
        try:
            if version.unverified:
                names_signed.append(vouch_for(home, version).version)
            elif resign_adapter(home.gate, version, copies, unsigned=not all_of_them):
                names_signed.append(version.version)
        except AdapterError as problem:
            reasons[version.version] = str(problem)
    return Resigned(signed=tuple(names_signed), refused=reasons)
