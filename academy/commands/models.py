"""`academy promote | rollback | models | verify | genealogy | ask | export | status`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from academy import stages
from academy.admission import readmit_adapter, refusal, refuse_adapter, verify_version
from academy.commands.arena import LOW_BUDGET
from academy.commands.output import console, emit, listen, say, table
from academy.errors import InputError, PromotionError
from academy.genealogy.versions import Version
from academy.habitat.adapter import read_adapter
from academy.ledger import BASE, Row
from academy.promotion import reconcile
from academy.promotion import rollback as go_back
from academy.workplace import Workplace


def promote(name: str, base_model: str | None, *, as_json: bool) -> None:
    """Promote a version by the last verdict on it."""
    listen()
    work = Workplace.open(base_model)
    version = work.versions.get(name)
    verdicts = [row for row in work.ledger.rows("verdict") if row.body["challenger"] == version.adapter]
    if not verdicts:
        raise PromotionError(f"{version.name} was not examined.", f"Run `academy examine {version.name}` first.")
    if verdicts[-1].body["outcome"] != "PROMOTE":
        raise PromotionError(
            f"{version.name} has the verdict {verdicts[-1].body['outcome']}: {verdicts[-1].body['because']}.",
            "Only a version with the verdict PROMOTE becomes champion.",
        )
    champion = work.ledger.champion()
    if champion.adapter == version.adapter:
        raise PromotionError(f"{version.name} is the champion already.", "`academy models` lists the versions.")
    stages.act(work, version, verdicts[-1])
    if as_json:
        emit({"champion": work.ledger.champion().version, "before": champion.version})
    else:
        say(f"{version.name} is champion; before it was {champion.name}.")


def rollback(to: str | None, because: str, base_model: str | None, *, as_json: bool) -> None:
    """Go back."""
    work = Workplace.open(base_model)
    before = work.ledger.champion()
    champion = go_back(work.ledger, work.versions, work.gate, to, because)
    if as_json:
        emit({"champion": champion.version, "adapter": champion.adapter, "before": before.version})
    else:
        say(f"{champion.name} is champion again; before it was {before.name}.")


def show(base_model: str | None, *, as_json: bool) -> None:
    """The versions, each with whether it can be verified."""
    work = Workplace.open(base_model)
    found = work.versions.all(work.ledger.champion().version)
    sound = {one.version: verify_version(work.gate, one, work.datasets).ok for one in found}
    if as_json:
        emit([{**one.model_dump(mode="json"), "verified": sound[one.version]} for one in found])
        return
    if not found:
        say("No versions yet: the base model answers.")
        return
    table(
        f"Versions of {work.base.family}",
        ("version", "standing", "generation", "parent", "verdict", "dataset", "adapter", "made"),
        [
            (
                one.name, _standing(one, verified=sound[one.version]), one.generation, _name(one.parent), one.verdict,
                one.dataset[:12], one.adapter[:12],
                datetime.fromtimestamp(one.created / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
            )
            for one in found
        ],
    )  # fmt: skip


def refuse(name: str, because: str, base_model: str | None, *, older: bool, as_json: bool) -> None:
    """Refuse a version, or all before it: from now on none of them is served or promoted."""
    work = Workplace.open(base_model)
    version = work.versions.get(name)
    row = refuse_adapter(work.ledger, version, because, older=older)
    _tell_refusal(work, row, as_json=as_json)


def readmit(name: str, because: str, base_model: str | None, *, as_json: bool) -> None:
    """Take a refusal back."""
    work = Workplace.open(base_model)
    _tell_refusal(work, readmit_adapter(work.ledger, work.versions.get(name), because), as_json=as_json)


def _tell_refusal(work: Workplace, row: Row, *, as_json: bool) -> None:
    champion = work.ledger.champion()
    gone = champion.version != BASE and bool(refusal(work.ledger, champion.adapter, [champion.version]))
    if as_json:
        emit({**row.body, "champion_refused": gone})
        return
    say(f"{_story(row)}.")
    if gone:
        say(f"The champion {champion.name} is refused: `academy rollback` goes back to another one.")


def verify(names: list[str], base_model: str | None, *, all_of_them: bool, as_json: bool) -> None:
    """Verify versions without a network or a server; without a name the champion. Exit code 2 where anything fails."""
    work = Workplace.open(base_model)
    champion = work.ledger.champion()
    if all_of_them:
        versions = work.versions.all(champion.version)
    elif names:
        versions = [work.versions.get(name) for name in names]
    elif champion.version != BASE:
        versions = [work.versions.get(champion.version)]
    else:
        raise InputError("The base model is the champion, and no version was named.", "`academy models` lists them.")
    found = [verify_version(work.gate, one, work.datasets) for one in versions]
    sound = all(one.ok for one in found)
    if as_json:
        emit({"ok": sound, "versions": [{"ok": one.ok, **one.model_dump(mode="json")} for one in found]})
    for one in [] if as_json else found:
        say(f"v{one.version}  adapter {one.adapter[:12]}: {'verified' if one.ok else 'NOT VERIFIED'}")
        for check in one.checks:
            say(f"  {'✓' if check.ok else '✗'} {check.name}" + (f": {check.sentence}" if check.sentence else ""))
    if not sound:
        sys.exit(2)


def genealogy(base_model: str | None, *, as_json: bool) -> None:
    """The family tree, and what happened to the crown."""
    work = Workplace.open(base_model)
    champion = work.ledger.champion()
    versions = work.versions.all(champion.version)
    history = list(
        work.ledger.rows("verdict", "promotion", "rollback", "release", "supersede", "undo", "allow", "refuse")
    )
    if as_json:
        emit(
            {
                "family": work.base.family,
                "champion": champion.version,
                "versions": [one.model_dump(mode="json") for one in versions],
                "history": [row.model_dump(mode="json") for row in history],
            }
        )
        return
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(
        Text(f"base  {work.base.name} {work.base.digest[:12]}" + ("  <- champion" if champion.version == BASE else ""))
    )
    nodes = {BASE: root}
    for one in versions:
        text = f"{one.name}  generation {one.generation}, {one.verdict}, dataset {one.dataset[:12]}"
        nodes[one.version] = nodes.get(one.parent, root).add(Text(text + ("  <- champion" if one.champion else "")))
    console().print(root)
    for row in history:
        say(f"{row.at}  {row.kind}: {_story(row)}")


def ask(request: str, version: str | None, max_new_tokens: int, base_model: str | None, *, as_json: bool) -> None:
    """Answer with the champion or another version; the adapter's canaries are replayed first."""
    work = Workplace.open(base_model)
    champion = work.ledger.champion()
    name, adapter = champion.name, champion.adapter
    if version == BASE:
        name, adapter = BASE, BASE
    elif version is not None:
        found = work.versions.get(version)
        name, adapter = found.name, found.adapter
    if adapter != BASE:
        work.runtime.load(work.adapters / adapter[:16])
        work.runtime.verify(adapter)
    answer = work.runtime.generate([request], adapter, max_new_tokens)[0]
    if as_json:
        emit({"request": request, "answer": answer, "version": name.removeprefix("v"), "adapter": adapter})
    else:
        say(answer or "(no answer)")
        console().print(f"[dim]answered by {name}[/dim]")


def export(
    name: str, form: str, to: Path | None, precision: str | None, base_model: str | None, *, as_json: bool
) -> None:
    """Write a version for other tools."""
    from academy.export import export as write
    from academy.export import wanted

    order = wanted(form, precision)
    work = Workplace.open(base_model)
    version = work.versions.get(name)
    adapter = read_adapter(work.adapters / version.adapter[:16], base_digest=work.base.digest, digest=version.adapter)
    place = to or work.settings.folder("exports") / f"{work.base.family}-{version.name}-{form}"
    found = write(adapter, work.base, place.expanduser(), order)
    if as_json:
        emit({"version": version.version, **found.model_dump(mode="json")})
        return
    say(f"{version.name} is in {found.folder}: {', '.join(found.files)}.")
    for note in found.notes:
        say(note)


def status(base_model: str | None, *, as_json: bool) -> None:
    """The state of the house in a few lines."""
    work = Workplace.open(base_model)
    reconcile(work.ledger, work.versions) if work.ledger.champion().seq else None
    found = stages.summary(work)
    if as_json:
        emit(found)
        return
    say(f"Champion: {_name(found['champion'])} (generation {found['generation']}) of {work.base.family}.")
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
    budget = found["budget"]
    say(f"Examinations spent: {budget['spent']} of {budget['horizon']}.")
    if budget["left"] <= LOW_BUDGET:
        say("Few are left before nothing can be promoted any more: import new lessons, then `academy holdout renew`.")


def _story(row: Row) -> str:
    body: dict[str, Any] = row.body
    match row.kind:
        case "verdict":
            return f"v{body['version']} against {_name(body['champion_version'])}: {body['outcome']}, {body['because']}"
        case "promotion":
            return f"{_name(body['version'])} replaces {_name(body['replaces'])}"
        case "rollback":
            return f"back to {_name(body['version'])} from {_name(body['replaces'])}{_why(body)}"
        case "release":
            return f"{body['lessons']} lessons" + (f" of {body['batch']}" if body["batch"] else "")
        case "allow":
            return f"the overlap {body['overlap'][:12]} may be trained on"
        case "renewal":
            return f"{body['retired']} questions retired, {body['fresh']} fresh ones on {body['groups']} answers"
        case "refuse":
            who = f"all before v{body['older_than']}" if "older_than" in body else _name(body["version"])
            return f"{who} {'is served again' if body.get('refused') is False else 'must not be served'}{_why(body)}"
        case "undo":
            return f"{body['lessons']} lessons of {body['batch']} {'put back' if body['restored'] else 'taken out'}"
        case _:
            return f"another answer is right for a request; {body['retired']} lessons retired"


def _why(body: dict[str, Any]) -> str:
    return f" ({body['because']})" if body.get("because") else ""


def _standing(version: Version, *, verified: bool) -> str:
    words = (("champion", version.champion), ("tainted", version.tainted), ("unverified", not verified))
    return ", ".join(word for word, so in words if so)


def _name(version: str) -> str:
    return version if version == BASE else f"v{version}"
