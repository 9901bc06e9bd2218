"""Forgetting a lesson: its text is erased wherever this home keeps it, and what was made of it is marked.

    lessons, quarantine        the store erases them, and keeps a tombstone without text
    datasets                   the line goes, `forgotten.json` says so; the digest remains, training on it is refused
    hold-out register          the place stays, the text goes
    answers, examinations      what was asked and answered goes where nobody else teaches it
    reports                    those of such an examination go, here and in MLflow; its record keeps the scores
    jobs                       copies of datasets that were trained on from Python go where they hold it
    adapters                   canaries that quote it go, and what is left is signed again
    registry                   versions made of it are tainted

Run records hold ids and no texts, so Prefect and the ledger have nothing to forget. Every step can be repeated: the
lesson itself goes last, so a forgetting that was killed is finished by asking again. What a model has learned stays in
its weights: that is what the taint says.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from academy.adapters.adapter import MANIFEST, signed_manifest, signed_part
from academy.curriculum.dataset import FORGOTTEN, OVERLAPS, Dataset, all_datasets
from academy.curriculum.filters import clean
from academy.curriculum.holdout import request_key
from academy.errors import InputError, SignatureError
from academy.experience.experience import Experience
from academy.experience.lessons import LessonsStore
from academy.experience.reading import normalised
from academy.genealogy.versions import Tainted, taint
from academy.models.formats import read_row
from academy.records import Record
from academy.store.database import Database, assignments
from academy.store.files import write_file
from academy.store.signing import Keys

GONE = "[forgotten]"
REPORTS = (".md", ".html")


class Forgotten(Record):
    """What held a forgotten lesson."""

    lesson: str
    datasets: tuple[str, ...]
    versions: tuple[Tainted, ...]


LEAST_QUOTED = 12
"""Characters of a text that is looked for in a report whose record is gone; anything shorter stands there by chance."""
LONGEST_QUOTED = 80
"""And how many of them are compared: reports cut long texts off."""


class _Text(Record):
    """What must go: the request, unless another lesson asks it too, and the answer, unless another one teaches it.

    Each as the lesson has it, and as curation wrote it where something was taken out.
    """

    lesson: str
    requests: tuple[str, ...]
    answers: tuple[str, ...]

    def asks(self, request: str) -> bool:
        return normalised(request) in self.requests

    def quotes(self, text: str) -> bool:
        joined = " ".join(text.split())
        return any(answer in joined for answer in self.answers)

    def examined_in(self, record: Any) -> bool:
        """Whether it is a question of an examination's record, or an answer there quotes it."""
        return any(
            answer["question"] == self.lesson or self.quotes(answer["text"])
            for result in record["results"]
            for answer in [*result["champion"], *result["challenger"]]
        )

    def stands_in_row(self, line: bytes) -> bool:
        """Whether a line of a dataset, in any of the formats, asks it or answers with it."""
        try:
            found = read_row(orjson.loads(line))
        except orjson.JSONDecodeError:
            return False
        return not isinstance(found, str) and any(
            self.asks(one["content"]) if one["role"] == "user" else self.quotes(one["content"]) for one in found
        )

    def stands_in(self, report: str) -> bool:
        """Whether a report shows it: escaped for HTML or for a table, and cut off."""
        shown = _plain(html.unescape(report))
        looked_for = [_plain(text)[:LONGEST_QUOTED] for text in (*self.requests, *self.answers)]
        return any(len(text) >= LEAST_QUOTED and text in shown for text in looked_for)


def forget(database: Database, home: Path, client: Any, lesson_id: str, because: str) -> Forgotten:
    """Forget a lesson by its id or the id's beginning.

    `client` is MLflow's. Raises InputError where there is no such lesson, or more than one.
    """
    store = LessonsStore(database)
    lesson = _find(store, lesson_id)
    text = _unshared(store, lesson)
    keys = Keys(home / "keys")
    held = [dataset for dataset in all_datasets(home / "datasets") if _forget_in(dataset, lesson.id)]
    _forget_answers(home / "answers", text)
    _forget_reports(home, text)  # before the records, which tell what they show
    for path in (home / "examinations").glob("*.json"):
        _forget_examination(path, text)
    for path in (home / "jobs").glob("*.jsonl"):
        if any(text.stands_in_row(line) for line in path.read_bytes().splitlines()):
            path.unlink()  # it is a copy, and another one would be another order
    for folder in ("adapters", "mlartifacts"):
        for path in (home / folder).rglob(MANIFEST):
            _forget_canaries(path, text, keys)
    made = {dataset.digest for dataset in held}
    # their versions may be gone from the registry, and what began with them not
    adapters = [
        one["adapter"] for one in map(_manifest, (home / "adapters").glob(f"*/{MANIFEST}")) if one["dataset"] in made
    ]
    versions = taint(client, sorted(made), adapters)
    with database.write() as connection:
        for request in text.requests:
            key = request_key("recall", request)
            connection.execute(sa.update(assignments).where(assignments.c.request == key).values(text=""))
        store.forget(lesson.id, because, connection)
    store.scrub(lesson, home / "quarantine")
    return Forgotten(lesson=lesson.id, datasets=tuple(one.digest for one in held), versions=tuple(versions))


def _find(store: LessonsStore, beginning: str) -> Experience:
    found = store.beginning_with(beginning) if beginning else []
    if len(found) != 1:
        many = "More than one lesson begins" if found else "There is no lesson that begins"
        raise InputError(f"{many} with {beginning}.", "`academy lessons list --json` shows whole ids.")
    return found[0]


def _unshared(store: LessonsStore, lesson: Experience) -> _Text:
    both = (lesson, clean(lesson)[0])
    requests = {normalised(one.request) for one in both} - {""}
    answers = {" ".join(one.answer.split()) for one in both} - {""}
    for other in store.every():
        if other.id != lesson.id:
            requests.discard(normalised(other.request))
            taught = " ".join(other.answer.split())
            answers = {answer for answer in answers if answer not in taught}
    return _Text(lesson=lesson.id, requests=tuple(sorted(requests)), answers=tuple(sorted(answers)))


def _forget_in(dataset: Dataset, lesson: str) -> bool:
    """Erase a lesson's line from both sides of a dataset. True where it was, or had been, in it."""
    note = dataset.path / FORGOTTEN
    known = set(orjson.loads(note.read_bytes())) if note.is_file() else set()
    origins = _lines(dataset.path / "provenance.jsonl")
    exam = _lines(dataset.path / "holdout.jsonl")
    trained = [n for n, origin in enumerate(origins) if origin["id"] == lesson]
    examined = [n for n, example in enumerate(exam) if example["id"] == lesson]
    overlaps = [found for found in dataset.overlaps if found.example != lesson]
    if len(overlaps) != len(dataset.overlaps):
        _write(dataset.path / OVERLAPS, [found.model_dump(mode="json") for found in overlaps])
    if not trained and not examined:
        return lesson in known
    write_file(note, orjson.dumps(sorted(known | {lesson})))  # first: from now on it is not trained on
    if trained:
        rows = _lines(dataset.train_file)
        for n in trained:
            rows[n], origins[n] = {"forgotten": lesson}, {"id": lesson, "forgotten": True}
        _write(dataset.train_file, rows)
        _write(dataset.path / "provenance.jsonl", origins)
    if examined:
        _write(dataset.path / "holdout.jsonl", [e for n, e in enumerate(exam) if n not in examined])
    for export in dataset.path.glob("train.*.jsonl"):
        export.unlink()
    return True


def _forget_answers(folder: Path, text: _Text) -> None:
    for path in folder.glob("*.json"):
        known = orjson.loads(path.read_bytes())
        kept = {
            asked: said for asked, said in known.items() if not text.asks(asked) and not text.quotes(_text_of(said))
        }
        if len(kept) != len(known):
            write_file(path, orjson.dumps(kept, option=orjson.OPT_SORT_KEYS))


def _text_of(kept: Any) -> str:
    """The text of a kept answer: [text, tokens, stopped]; earlier ones were the text alone."""
    return str(kept[0]) if isinstance(kept, list) else str(kept)


def _forget_reports(home: Path, text: _Text) -> None:
    """Remove the reports that show it, in the home and where MLflow keeps them."""
    folder = home / "examinations"
    shown = {path.stem for path in folder.glob("*.json") if text.examined_in(orjson.loads(path.read_bytes()))}
    for path in [*folder.glob("*"), *(home / "mlartifacts").rglob("examination/*")]:
        if path.suffix in REPORTS and (path.stem in shown or text.stands_in(path.read_text("utf-8", "replace"))):
            path.unlink()


def _plain(text: str) -> str:
    """Small letters, single spaces, nothing that escapes."""
    return " ".join(text.replace("\\", "").lower().split())


def _forget_examination(path: Path, text: _Text) -> None:
    record = orjson.loads(path.read_bytes())
    changed = False
    for result in record["results"]:
        for answer in [*result["champion"], *result["challenger"]]:
            if answer["text"] != GONE and (answer["question"] == text.lesson or text.quotes(answer["text"])):
                answer["text"], changed = GONE, True
    if changed:
        write_file(path, orjson.dumps(record, option=orjson.OPT_SORT_KEYS))


def _forget_canaries(path: Path, text: _Text, keys: Keys) -> None:
    """Canaries that quote it go, and what is left is signed again, unless it was not signed as it stands."""
    manifest = orjson.loads(path.read_bytes())
    canaries = manifest.get("canaries", [])
    kept = [one for one in canaries if not text.asks(one["prompt"]) and not text.quotes(one["answer"])]
    if len(kept) == len(canaries):
        return
    left = {**manifest, "canaries": kept}
    try:
        keys.check(signed_part(manifest), manifest.get("signature", ""), str(path))
    except SignatureError:  # it is not trusted now, and must not be because something was forgotten
        write_file(path, orjson.dumps(left, option=orjson.OPT_INDENT_2))
    else:
        write_file(path, signed_manifest(left, keys))


def _manifest(path: Path) -> dict[str, str]:
    """Adapter and dataset of a manifest; nothing where it is none."""
    try:
        found = orjson.loads(path.read_bytes())
        return {"adapter": str(found["adapter"]), "dataset": str(found["dataset"])}
    except (ValueError, KeyError, TypeError):
        return {"adapter": "", "dataset": ""}


def _lines(path: Path) -> list[Any]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []


def _write(path: Path, rows: Iterable[Any]) -> None:
    write_file(path, (orjson.dumps(row) + b"\n" for row in rows))
