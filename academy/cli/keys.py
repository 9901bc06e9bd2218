"""`academy keys`: list, rotate, revoke, resign, export, trust; add, users, remove (keys of the gateway's users)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from academy.cli.home import open_home, settings
from academy.cli.options import Base, Json
from academy.cli.output import emit, say, table

app = typer.Typer(
    help="Manage the keys that sign adapters, the keys that this home trusts, and the keys of the gateway's users.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
def keys(context: typer.Context, json: Json = False) -> None:
    """List the keys that sign adapters, and the keys that this home trusts."""
    if context.invoked_subcommand is not None:
        return
    from academy.loop.keys import open_keys

    key_list = open_keys(settings()).all()
    if json:
        emit([key.model_dump(mode="json") for key in key_list])
    elif not key_list:
        say("No key exists yet. The first training creates one.")
    else:
        table(
            "Keys of this home",
            ("key", "owner", "status", "reason"),
            [
                (
                    key.id,
                    "" if key.revoked else "this home" if key.own else "another home",
                    "revoked" if key.revoked else "current" if key.current else "trusted",
                    key.because,
                )
                for key in key_list
            ],
        )


@app.command()
def rotate(json: Json = False) -> None:
    """Create a new signing key. Adapters that the old key signed stay valid."""
    from academy.loop.keys import open_keys

    _print(
        open_keys(settings()).rotate(), "signs adapters from now on. Signatures of older keys stay valid.", as_json=json
    )


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="A key's id, or its first digits.")],
    because: Annotated[str, typer.Option(help="The reason; kept with the key.")] = "",
    json: Json = False,
) -> None:
    """Reject everything that a key signed, until it is signed again."""
    from academy.loop.keys import open_keys

    _print(
        open_keys(settings()).revoke(key, because), "is revoked. `academy verify --all` lists what it signed; "
        "`academy keys resign` signs it again.", as_json=json,
    )  # fmt: skip


@app.command()
def resign(
    versions: Annotated[
        list[str] | None, typer.Argument(help="Versions that you vouch for; they may be unsigned.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All versions that a key of this home signed.")] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Sign adapters with the current key: unsigned ones, and those of a revoked key."""
    from academy.loop.keys import resign as sign_again

    result = sign_again(open_home(base_model), versions or [], all_of_them=every)
    if json:
        emit(result.model_dump(mode="json"))
    else:
        names = ", ".join(f"v{version}" for version in result.signed)
        say(f"Signed: {names}." if names else "No version needed a new signature.")
        for version, reason in result.refused.items():
            say(f"Not signed: v{version}. {reason}")
    if result.refused:
        sys.exit(2)


@app.command()
def export(file: Annotated[Path, typer.Argument(help="The file to write.")], json: Json = False) -> None:
    """Write the current public key to a file that other homes can trust."""
    from academy.loop.keys import open_keys

    _print(
        open_keys(settings()).export(file),
        f"is in {file}. Another home trusts it with `academy keys trust`.",
        as_json=json,
    )


@app.command()
def trust(
    file: Annotated[Path, typer.Argument(help="A file that `academy keys export` wrote.")], json: Json = False
) -> None:
    """Trust the public key of another home."""
    from academy.loop.keys import open_keys

    _print(open_keys(settings()).trust(file), "is trusted from now on.", as_json=json)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The person or program that gets the key.")], json: Json = False
) -> None:
    """Make a key for a user of the gateway. Its name says who asked and who rated."""
    from academy.loop.keys import open_user_keys

    key = open_user_keys(settings()).add(name)
    if json:
        emit({"name": name, "key": key})
    else:
        say(f"{key}")
        say(f"This is the key of {name}; it is shown only now. Send it as a bearer token, or as OPENAI_API_KEY.")


@app.command()
def users(json: Json = False) -> None:
    """List the keys of the gateway's users."""
    from academy.loop.keys import open_user_keys

    home_settings = settings()
    keys_of_users = open_user_keys(home_settings).all()
    trusted = set(home_settings.trusted_keys)
    if json:
        emit([{**key.model_dump(), "trusted": key.name in trusted} for key in keys_of_users])
    elif not keys_of_users:
        say("No user has a key. Make one: academy keys add NAME")
    else:
        table(
            "Keys of users",
            ("name", "since", "ratings"),
            [
                (key.name, key.at[:10], "are lessons at once" if key.name in trusted else "wait for a review")
                for key in keys_of_users
            ],
        )


@app.command()
def remove(name: Annotated[str, typer.Argument(help="The name of a user's key.")], json: Json = False) -> None:
    """Remove a user's key: requests with it are refused at once."""
    from academy.loop.keys import open_user_keys

    open_user_keys(settings()).remove(name)
    emit({"removed": name}) if json else say(f"The key of {name} is removed.")


def _print(key: str, sentence: str, *, as_json: bool) -> None:
    emit({"key": key}) if as_json else say(f"The key {key} {sentence}")
