"""`academy keys | keys rotate | revoke | resign | export | trust`: who vouches for adapters."""

from __future__ import annotations

import sys
from pathlib import Path

from academy.cli.output import emit, say, table
from academy.errors import AdapterError, InputError
from academy.lifecycle.gate import resign_adapter
from academy.loop.home import Home
from academy.settings import load_settings
from academy.store.signing import Keys


def show(*, as_json: bool) -> None:
    """The keys."""
    found = _keys().all()
    if as_json:
        emit([one.model_dump(mode="json") for one in found])
    elif not found:
        say("There is no key yet: the first training makes one.")
    else:
        table(
            "Keys of this home",
            ("key", "of", "standing", "because"),
            [
                (
                    one.id,
                    "" if one.revoked else "this home" if one.own else "another home",
                    _standing(one.revoked, one.current),
                    one.because,
                )
                for one in found
            ],
        )


def rotate(*, as_json: bool) -> None:
    """A new key."""
    _tell(_keys().rotate(), "signs from now on; what older keys signed stays valid.", as_json=as_json)


def revoke(key: str, because: str, *, as_json: bool) -> None:
    """Refuse what a key signed."""
    _tell(
        _keys().revoke(key, because), "is revoked: `academy verify --all` tells what it signed, "
        "`academy keys resign` signs that again.", as_json=as_json,
    )  # fmt: skip


def export(file: Path, *, as_json: bool) -> None:
    """Write the public key."""
    _tell(_keys().export(file), f"is in {file}: another home trusts it by `academy keys trust`.", as_json=as_json)


def trust(file: Path, *, as_json: bool) -> None:
    """Trust another home's key."""
    _tell(_keys().trust(file), "is trusted from now on.", as_json=as_json)


def resign(names: list[str], base_model: str | None, *, all_of_them: bool, as_json: bool) -> None:
    """Sign adapters again that a person vouches for, by name; with --all only those that a key vouched for."""
    home = Home.open(base_model)
    if not names and not all_of_them:
        raise InputError("No version was named.", "Name versions that you vouch for, or give --all.")
    versions = list(home.versions.newest()) if all_of_them else [home.versions.get(name) for name in names]
    copies = home.settings.home.resolve() / "mlartifacts"
    signed, refused = [], {}
    for one in versions:
        try:
            if resign_adapter(home.gate, one, copies, unsigned=not all_of_them):
                signed.append(one.version)
        except AdapterError as problem:
            refused[one.version] = str(problem)
    if as_json:
        emit({"signed": signed, "refused": refused})
    else:
        say(f"Signed: {', '.join(f'v{one}' for one in signed)}." if signed else "Nothing was signed again.")
        for version, sentence in refused.items():
            say(f"Not signed: v{version}. {sentence}")
    if refused:
        sys.exit(2)


def _keys() -> Keys:
    return Keys(load_settings().home.resolve() / "keys")


def _standing(revoked: bool, current: bool) -> str:
    return "revoked" if revoked else "signs" if current else "trusted"


def _tell(key: str, what: str, *, as_json: bool) -> None:
    emit({"key": key}) if as_json else say(f"The key {key} {what}")
