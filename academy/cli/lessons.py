"""`academy lessons ...`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from academy.cli.output import emit, say, table
from academy.curriculum.dataset import group_of
from academy.curriculum.holdout import request_key
from academy.errors import InputError
from academy.experience.conversations import ConversationFilter
from academy.experience.experience import Kind
from academy.loop.home import Home
from academy.loop.ingest import ingest
from academy.store.ledger_rows import ReleaseEntry, SupersedeEntry, UndoEntry


def add(
    situation: str, action: str, result: str, feedback: str, tags: list[str], author: str, *, as_json: bool
) -> None:
    """Add one lesson by hand."""
    if not situation.strip() or not action.strip():
        raise InputError("A lesson needs a request and an answer.", "Give both, in quotes.")
    home = Home.open()
    found = home.store.add_lesson(situation, action, result, feedback, tags, {"author": author} if author else None)
    if as_json:
        emit({"id": found, "lessons": home.store.newest()})
    else:
        say(f"Kept as {found[:12]}.")


def import_files(files: list[Path], kind: Kind, wanted: ConversationFilter, *, as_json: bool) -> None:
    """Import files; unreadable lines are named and kept aside."""
    home = Home.open()
    given = {"lesson": "lessons", "task": "tasks", "conversation": "conversations", "file": "files"}
    found = ingest(home, **{given[kind]: files}, wanted=wanted)
    if as_json:
        emit({"imported": [one.model_dump(mode="json") for one in found]})
        return
    for one in found:
        say(f"{one.batch}: {one.admitted:,} admitted, {one.known:,} known already, {len(one.unreadable):,} unreadable.")
        if one.forgotten:
            say(f"  {one.forgotten:,} were forgotten and stay so.")
        for line in one.unreadable[:10]:
            say(f"  {line}")
        if one.unreadable:
            say(f"  The unreadable lines are kept in {one.quarantine}.")


def show(limit: int, tags: list[str], *, as_json: bool) -> None:
    """Lessons, newest first."""
    store = Home.open().store
    found = store.get_lessons_by_tags(tags)[:limit] if tags else store.get_all_lessons(limit)
    if as_json:
        emit({"lessons": [one.model_dump(mode="json") for one in found]})
        return
    table(
        f"{len(found)} lessons, newest first",
        ("id", "batch", "outcome", "request", "answer"),
        [(one.id[:8], one.batch, one.outcome, one.request, one.answer) for one in found],
    )


def stats(*, as_json: bool) -> None:
    """Counts."""
    found = Home.open().store.get_statistics()
    if as_json:
        emit(found)
        return
    say(f"{found['total_lessons']:,} lessons and tasks.")
    for name in ("outcomes", "standings", "batches"):
        say(f"{name}: " + ", ".join(f"{key} {count:,}" for key, count in found[name].items()))
    say("tags: " + ", ".join(f"{tag} {count}" for tag, count in list(found["tag_distribution"].items())[:20]))


def export(path: Path, batch: str | None, *, as_json: bool) -> None:
    """Write lessons as JSONL."""
    count = Home.open().store.export(path, batch)
    if as_json:
        emit({"lessons": count, "path": str(path)})
    else:
        say(f"{count:,} lessons in {path}.")


def forget(lesson: str, because: str, *, as_json: bool) -> None:
    """Erase a lesson everywhere, and tell what was made of it."""
    from academy.lifecycle.forgetting import forget as erase

    home = Home.open()
    found = erase(home.database, home.settings.home.resolve(), home.mlflow, lesson, because)
    if as_json:
        emit(found.model_dump(mode="json"))
        return
    say(f"Forgotten: {found.lesson[:12]}.")
    say("Datasets that held it: " + (", ".join(one[:12] for one in found.datasets) or "none") + ".")
    names = [f"v{one.version} of {one.family}" for one in found.versions]
    say("Versions made of it, tainted now: " + (", ".join(names) or "none") + ".")
    if names:
        say("What a model has learned stays in its weights: train again, and do not serve these.")


def undo(batch: str, base_model: str | None, *, restore: bool, as_json: bool) -> None:
    """Take a batch out as a whole, or put it back; a ledger row says so."""
    home = Home.open(base_model)
    with home.database.write() as connection:
        count = home.store.undo(batch, connection, restore=restore)
        if count:
            at = datetime.now(UTC).isoformat()
            entry = UndoEntry(batch=batch, lessons=count, restored=restore)
            home.ledger.append(f"undo:{at}", entry, connection)
    if not count:
        raise InputError(
            f"No lessons of a batch {batch} are {'undone' if restore else 'there to be undone'}.",
            "`academy lessons stats` shows the batches.",
        )
    if as_json:
        emit({"batch": batch, "lessons": count, "restored": restore})
    else:
        say(f"{count:,} lessons of {batch} {'count again' if restore else 'are out'}.")


def release(batch: str | None, base_model: str | None, *, as_json: bool) -> None:
    """Let what was set aside count again; a ledger row says who let it."""
    home = Home.open(base_model)
    with home.database.write() as connection:
        count = home.store.release(batch, connection)
        if count:
            now = datetime.now(UTC).isoformat()
            home.ledger.append(f"release:{now}", ReleaseEntry(batch=batch, lessons=count), connection)
    if not count:
        raise InputError(
            f"No lessons{f' of batch {batch}' if batch else ''} are set aside.",
            "`academy lessons stats` shows the batches.",
        )
    if as_json:
        emit({"released": count})
    else:
        say(f"{count:,} lessons count again.")


def supersede(situation: str, action: str, base_model: str | None, *, as_json: bool) -> None:
    """Retire the lessons that answer a request otherwise; a ledger row says so."""
    home = Home.open(base_model)
    with home.database.write() as connection:
        count = home.store.supersede(situation, action, connection)
        if count:
            now = datetime.now(UTC).isoformat()
            # no text: the ledger is append-only, and a lesson may have to be forgotten
            key = request_key("recall", situation)
            entry = SupersedeEntry(request=key, answer=group_of(action), retired=count)
            home.ledger.append(f"supersede:{now}", entry, connection)
    if not count:
        raise InputError(
            "No active lesson answers this request otherwise.", "Give the request in its own words, in quotes."
        )
    if as_json:
        emit({"retired": count})
    else:
        say(f"{count:,} lessons with another answer retired. If the right ones were set aside: academy lessons release")
