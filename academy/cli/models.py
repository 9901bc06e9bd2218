"""`academy promote | models | ask | export | status`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from academy.cli.arena import LOW_BUDGET
from academy.cli.output import console, emit, listen, say, table
from academy.errors import PromotionError
from academy.genealogy.history import version_name
from academy.genealogy.tree import Node, family_tree
from academy.lifecycle.gate import admit_adapter
from academy.lifecycle.promotion import reconcile
from academy.loop.carry_out import carry_out, winner
from academy.loop.home import Home
from academy.loop.status import status_of
from academy.store.ledger import BASE
from academy.system.processes import person


def promote(name: str, base_model: str | None, *, as_json: bool) -> None:
    """Promote a version by the last verdict on it."""
    listen()
    home = Home.open(base_model)
    version = home.versions.get(name)
    champion = home.ledger.champion()
    if champion.adapter == version.adapter:
        raise PromotionError(f"{version.name} is the champion already.", "`academy models` lists the versions.")
    version, verdict = winner(home, name)
    if carry_out(home, version, verdict, by=person()).waiting:
        raise PromotionError(
            f"{version.name} waits for approval: a person approves every promotion here.",
            f"Approve it with `academy approve {version.name}`.",
        )
    if home.ledger.champion().adapter != version.adapter:
        raise PromotionError(f"{version.name} was declined.", f"`academy models activate {version.name}` goes without.")
    if as_json:
        emit({"champion": home.ledger.champion().version, "before": champion.version})
    else:
        say(f"{version.name} is champion; before it was {champion.name}.")


def show(limit: int, before: int | None, base_model: str | None, *, as_json: bool) -> None:
    """The versions, a page at a time, oldest first."""
    home = Home.open(base_model)
    tree = family_tree(home.versions, home.ledger, home.base.name, limit, before)
    if as_json:
        emit([node.version.model_dump(mode="json") for node in tree.nodes])
        return
    if not tree.nodes:
        say("No versions yet: the base model answers.")
    else:
        table(
            f"Versions of {home.base.family}",
            ("version", "name", "standing", "generation", "parent", "verdict", "dataset", "adapter", "made"),
            [_cells(node) for node in tree.nodes],
        )
    if tree.before is not None:
        say(f"Older ones: academy models --before {tree.before}")
    if tree.missing:
        say(tree.missing)


def _cells(node: Node) -> tuple[object, ...]:
    one = node.version
    made = datetime.fromtimestamp(one.created / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    return (
        one.name, one.label, node.status, one.generation, version_name(one.parent), one.verdict,
        one.dataset[:12], one.adapter[:12], made,
    )  # fmt: skip


def ask(request: str, version: str | None, max_new_tokens: int, base_model: str | None, *, as_json: bool) -> None:
    """Answer with the champion or another version; the adapter's canaries are replayed first."""
    listen()
    home = Home.open(base_model)
    champion = home.ledger.champion()
    name, adapter = champion.name, champion.adapter
    if version == BASE:
        name, adapter = BASE, BASE
    elif version is not None:
        found = home.versions.get(version)
        name, adapter = found.name, found.adapter
    if adapter != BASE:
        home.runtime.load(home.use_adapter(adapter, by=person()))
        home.runtime.verify(adapter)
    answer = home.runtime.generate([request], adapter, max_new_tokens)[0]
    if as_json:
        emit({"request": request, "answer": answer, "version": name.removeprefix("v"), "adapter": adapter})
    else:
        say(answer or "(no answer)")
        console().print(f"[dim]answered by {name}[/dim]")


def export(
    name: str, form: str, to: Path | None, precision: str | None, base_model: str | None, *, as_json: bool
) -> None:
    """Write a version for other tools."""
    from academy.serving.export.export import export as write
    from academy.serving.export.export import export_request

    order = export_request(form, precision)
    home = Home.open(base_model)
    version = home.versions.get(name)
    adapter = admit_adapter(home.gate, home.use_adapter(version.adapter, by=person()), version).adapter
    place = to or home.settings.folder("exports") / f"{home.base.family}-{version.name}-{form}"
    found = write(adapter, home.base, place.expanduser(), order)
    if as_json:
        emit({"version": version.version, **found.model_dump(mode="json")})
        return
    say(f"{version.name} is in {found.folder}: {', '.join(found.files)}.")
    for note in found.notes:
        say(note)


def status(base_model: str | None, *, as_json: bool) -> None:
    """The state of the house in a few lines."""
    listen()
    home = Home.open(base_model)
    if home.ledger.champion().seq:  # MLflow is opened only where it has something to show
        reconcile(home.ledger, home.versions)
    found = status_of(home).model_dump(mode="json")
    if as_json:
        emit(found)
        return
    say(f"Champion: {version_name(found['champion'])} (generation {found['generation']}) of {home.base.family}.")
    if found["refused"]:
        say(f"{found['refused']} `academy rollback` goes back to another champion.")
    if found["tainted"]:
        say("It was made of lessons that were forgotten since: train again (`academy evolve --force`).")
    say(
        f"Lessons: {found['lessons']['total_lessons']:,}, "
        f"of which {found['lessons']['new']:,} new since the champion's examination."
    )
    aside = found["lessons"]["standings"].get("set aside", 0)
    if aside:
        say(f"Set aside after a REJECT: {aside:,}. Look at them, then `academy lessons release`, or leave them.")
    if last := found["last_verdict"]:
        say(f"Last verdict ({last['at']}): v{last['version']} {last['outcome']}: {last['because']}")
    for version in found["waiting"]:
        say(f"v{version} waits for approval: academy approve v{version}")
    budget = found["budget"]
    say(f"Examinations spent: {budget['spent']} of {budget['horizon']}.")
    if budget["left"] <= LOW_BUDGET:
        say("Few are left before nothing can be promoted any more: import new lessons, then `academy holdout renew`.")
