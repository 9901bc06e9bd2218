"""`academy models archive | prune | restore | register | activate | deactivate | compare`: versions by hand."""

from __future__ import annotations

from academy.cli.output import emit, listen, say, table
from academy.errors import InputError
from academy.genealogy.history import version_name
from academy.lifecycle.retention import archive as put_away
from academy.lifecycle.retention import prune as leave_the_newest
from academy.lifecycle.retention import restore as bring_back
from academy.loop.home import Home
from academy.sdk.model_manager import ModelManager
from academy.store.ledger import BASE
from academy.system.processes import person


def archive(name: str, because: str, base_model: str | None, *, as_json: bool) -> None:
    """Pack a version's adapter into one file and take its folder away."""
    home = Home.open(base_model)
    version = home.versions.get(name)
    found = put_away(home.ledger, home.versions, home.adapter_store, version, by=person(), because=because)
    if as_json:
        emit({"version": version.version, **found.model_dump(mode="json")})
    else:
        say(f"{version.name} is archived: {found.bytes / 1e6:.1f} MB became {found.packed_bytes / 1e6:.1f} MB.")


def restore(name: str, base_model: str | None, *, as_json: bool) -> None:
    """Bring an archived adapter back."""
    listen()
    home = Home.open(base_model)
    version = home.versions.get(name)
    found = bring_back(
        home.ledger, home.versions, home.adapter_store, version.version, version.adapter, by=person()
    )  # fmt: skip
    if as_json:
        emit({"version": version.version, "adapter": version.adapter, "restored": found is not None})
    else:
        say(f"{version.name} is on the disk" + ("." if found is not None else " already."))


def prune(keep: int, base_model: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Archive all but the newest versions and what must stay."""
    listen()
    home = Home.open(base_model)
    found = leave_the_newest(home.ledger, home.versions, home.adapter_store, keep, by=person(), dry_run=dry_run)
    if as_json:
        emit({"dry_run": dry_run, "versions": [one.model_dump(mode="json") for one in found]})
        return
    rows = [(version_name(one.version), one.action, one.because, f"{one.bytes / 1e6:.1f}") for one in found]
    table("Would be done" if dry_run else "Done", ("version", "what", "because", "MB"), rows)
    freed = sum(one.bytes for one in found if one.action == "archive")
    say(f"{freed / 1e6:.1f} MB of folders {'would be' if dry_run else 'were'} archived.")


def register(
    name: str, adapter: str | None, metrics: list[str], base_model: str | None, *, as_json: bool
) -> None:  # fmt: skip
    """Give an adapter, or the base model, a name and figures."""
    listen()
    figures = {}
    for one in metrics:
        what, sign, value = one.partition("=")
        try:
            figures[what] = float(value)
        except ValueError:
            sign = ""
        if not sign:
            raise InputError(f"'{one}' is no metric.", "Write it as name=number.")
    home = Home.open(base_model)
    found = ModelManager(home).register_version(name, base_model, adapter, figures)
    if as_json:
        emit(found.model_dump(mode="json"))
    elif found.unverified:
        say(f"{found.label} is {found.name}, and unverified: {found.unverified}")
    else:
        say(f"{found.label} is {found.name}.")


def activate(name: str, path: str | None, because: str, base_model: str | None, *, as_json: bool) -> None:
    """Make a version champion by hand; with a path, an adapter by its job's id."""
    listen()
    home = Home.open(base_model)
    before = home.ledger.champion()
    manager = ModelManager(home)
    if path is not None:
        champion = manager.activate_adapter(name, path, base_model, because)
    else:
        champion = manager.activate_version(name, because)
    if as_json:
        emit({"champion": champion.version, "before": before.version, "info": manager.get_active_adapter_info()})
    elif champion.seq == before.seq:
        say(f"{champion.name} is the champion already.")
    else:
        say(f"{champion.name} is champion by hand; before it was {before.name}.")


def deactivate(because: str, base_model: str | None, *, as_json: bool) -> None:
    """Go back to the base model."""
    home = Home.open(base_model)
    before = home.ledger.champion()
    changed = ModelManager(home).deactivate_adapter(because)
    if as_json:
        emit({"champion": BASE, "before": before.version, "changed": changed})
    else:
        say(f"The base model answers; before it was {before.name}." if changed else "The base model answers already.")


def compare(a: str, b: str, base_model: str | None, *, as_json: bool) -> None:
    """Figures of two versions beside each other."""
    found = ModelManager(Home.open(base_model)).compare_versions(a, b)
    if as_json:
        emit(found)
        return
    table(
        f"{a} and {b}",
        ("metric", a, b, "difference", "in %"),
        [
            (name, f"{one['a']:g}", f"{one['b']:g}", f"{one['diff']:+g}", f"{one['diff_pct']:+.1f}")
            for name, one in found["metrics_diff"].items()
        ],
    )
    for name, only in found["only_in"].items():
        if only:
            say(f"Only of {name}: {', '.join(only)}.")
