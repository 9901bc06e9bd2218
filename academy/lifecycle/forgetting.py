"""Forgetting a lesson: erase its text everywhere in this home, and taint the versions that were trained on it.

    lessons, quarantine        the store erases them and keeps a tombstone without text
    later turns                lessons and ratings of the conversation that quote it are forgotten with it
    datasets                   the line is erased and noted in `forgotten.json`; the digest stays, training is refused
    hold-out                   the assignment stays, the text is erased
    answers, examinations      requests and answers are erased unless another lesson has them
    reports                    reports of such an examination are removed, in MLflow as well; the scores stay
    jobs, training             copies of datasets for Python programs are removed if they contain it
    adapters                   canaries that quote it are removed, and the manifest is signed again
    registry                   versions that were trained on it are tainted

Run records have ids and no texts, so Prefect and the ledger need no change. Each step can be repeated, and the lesson
itself is erased last: repeating the call finishes one that was killed. The weights still contain what a model has
learned; the taint shows that.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from academy.adapters.adapter import MANIFEST, signed_manifest, signed_part
from academy.curriculum.dataset import FORGOTTEN, OVERLAPS, Dataset, all_datasets
from academy.curriculum.filters import as_learned
from academy.curriculum.holdout import request_key
from academy.errors import InputError, SignatureError
from academy.experience.experience import Experience, Trace
from academy.experience.lessons import LessonsStore
from academy.experience.ratings import erase_quoting
from academy.experience.reading import normalised
from academy.experience.tombstones import bury
from academy.genealogy.taint import Tainted, taint
from academy.models.formats import read_row
from academy.models.messages import Transcript
from academy.records import Record
from academy.store.database import Database, assignments
from academy.store.files import write_file
from academy.store.signing import Keys

GONE = "[forgotten]"
REPORTS = (".md", ".html")


class Forgotten(Record):
    """The datasets and versions that contained a forgotten lesson, or one of `with_it`."""

    lesson: str
    with_it: tuple[str, ...]  # ids of the lessons that quote it among their earlier messages
    datasets: tuple[str, ...]
    versions: tuple[Tainted, ...]


MIN_QUOTE = 12
"""A report without a record is searched for texts of at least this many characters; shorter ones match by chance."""
MAX_QUOTE = 80
"""How many characters are compared: reports truncate long texts."""


class _Text(Record):
    """The texts to erase: the request and the answer, unless another lesson has the same.

    Both as in the lesson and as curation wrote them, without secrets and personal data.
    """

    lesson: str
    requests: tuple[str, ...]
    answers: tuple[str, ...]

    def asks(self, request: str) -> bool:
        """Whether a request, or the key of a cached answer (a system message follows), is the lesson's."""
        return normalised(request.partition("\0")[0]) in self.requests

    def quotes(self, text: str) -> bool:
        line = " ".join(text.split())
        return any(answer in line for answer in self.answers)

    def examined_in(self, record: Any) -> bool:
        """Whether an examination's record has it as a question, or an answer quotes it."""
        return any(
            answer["question"] == self.lesson or self.quotes(answer["text"])
            for result in record["results"]
            for answer in [*result["champion"], *result["challenger"]]
        )

    def stands_in_row(self, line: bytes) -> bool:
        """Whether a line of a dataset, in any of the formats, contains its request or its answer."""
        try:
            transcript = read_row(orjson.loads(line))
        except orjson.JSONDecodeError:
            return False
        return not isinstance(transcript, str) and any(
            self.asks(message.content) if message.role == "user" else self.quotes(message.words)
            for message in transcript.messages
        )

    def stands_in(self, report: str) -> bool:
        """Whether a report shows it, escaped for HTML or for a table, and truncated."""
        page = _unescaped(html.unescape(report))
        quotes = [_unescaped(text)[:MAX_QUOTE] for text in (*self.requests, *self.answers)]
        return any(len(quote) >= MIN_QUOTE and quote in page for quote in quotes)


def forget(database: Database, home: Path, client: Any, lesson_id: str, because: str) -> Forgotten:
    """Forget a lesson, or what an installed source gave, by its id or the start of its id.

    `client` is MLflow's. Raises InputError if no lesson matches, or more than one.
    """
    store = LessonsStore(database)
    lesson = _find(store, all_datasets(home / "datasets"), lesson_id)
    with_it = [other for other in store.every() if other.id != lesson.id and lesson.stands_in(other.before)]
    datasets: dict[str, None] = {}
    versions: dict[Tainted, None] = {}
    for each in (*with_it, lesson):
        digests, tainted = _forget_one(database, home, client, each, because)
        datasets |= dict.fromkeys(digests)
        versions |= dict.fromkeys(tainted)
    return Forgotten(
        lesson=lesson.id, with_it=tuple(other.id for other in with_it), datasets=tuple(datasets),
        versions=tuple(versions),
    )  # fmt: skip


def _forget_one(
    database: Database, home: Path, client: Any, lesson: Experience, because: str
) -> tuple[list[str], list[Tainted]]:
    """Forget one lesson. Returns the digests of the datasets that contained it, and the versions trained on them."""
    store = LessonsStore(database)
    is_stored = "lesson" in lesson.provenance
    text = _unshared(store, lesson)
    keys = Keys(home / "keys")
    everywhere = all_datasets(home / "datasets")
    datasets = [dataset for dataset in everywhere if _mark_in(dataset, lesson.id)]
    for dataset in everywhere if is_stored else ():
        _erase_in(dataset, lesson.id)
    _forget_answers(home / "answers", text)
    _forget_reports(home, text)  # before the records, which show what the reports contain
    for path in (home / "examinations").glob("*.json"):
        _forget_examination(path, text)
    for path in (path for folder in ("jobs", "training") for path in (home / folder).glob("*.jsonl")):
        if any(text.stands_in_row(line) for line in path.read_bytes().splitlines()):
            path.unlink()  # it is a copy; one without the line would be another training order
    for folder in ("adapters", "mlartifacts"):
        for path in (home / folder).rglob(MANIFEST):
            _forget_canaries(path, text, keys)
    digests = {dataset.digest for dataset in datasets}
    # a version may be deleted in the registry while versions that started from its adapter are not
    manifests = map(_manifest, (home / "adapters").glob(f"*/{MANIFEST}"))
    adapters = [manifest["adapter"] for manifest in manifests if manifest["dataset"] in digests]
    versions = taint(client, sorted(digests), adapters)
    with database.write() as connection:
        for request in text.requests:
            key = request_key("recall", request)
            connection.execute(sa.update(assignments).where(assignments.c.request == key).values(text="", answer=""))
        if is_stored:
            store.forget(lesson.id, because, connection)
            erase_quoting(lesson, connection)
        else:
            bury(lesson.id, because, connection)
    for dataset in () if is_stored else everywhere:  # last: they have the only copy of its text
        _erase_in(dataset, lesson.id)
    store.scrub(lesson, home / "quarantine")
    return [dataset.digest for dataset in datasets], list(versions)


def _find(store: LessonsStore, datasets: Sequence[Dataset], beginning: str) -> Experience:
    """A lesson of the store, or else what another source gave to a dataset, which has the only copy of its text."""
    matches = {lesson.id: lesson for lesson in store.beginning_with(beginning)} if beginning else {}
    if beginning and not matches:
        matches = {e.id: e for dataset in datasets for e in _given_by_sources(dataset) if e.id.startswith(beginning)}
    if len(matches) != 1:
        many = "More than one lesson id starts" if matches else "No lesson id starts"
        raise InputError(
            f"{many} with '{beginning}'.",
            "`academy lessons list --json` shows full ids, and `academy dataset show DIGEST --json` those of other "
            "sources.",
        )
    return next(iter(matches.values()))


def _given_by_sources(dataset: Dataset) -> Iterator[Experience]:
    """The examples of a dataset that are not from the store, and were not forgotten."""
    pairs = [
        (origin["id"], transcript)
        for origin, row in zip(_lines(dataset.path / "provenance.jsonl"), _lines(dataset.train_file), strict=True)
        if "lesson" not in origin and "messages" in row and isinstance(transcript := read_row(row), Transcript)
    ]
    pairs += [(example.id, example.transcript) for example in dataset.held_out() if "lesson" not in example.provenance]
    for id_, transcript in pairs:
        *before, answer = transcript.messages
        place = max(n for n, message in enumerate(before) if message.role == "user")
        yield Experience(
            id=id_, kind="lesson", request=before[place].content, answer=answer.content, outcome="success",
            context=tuple(before[:place]), provenance={},
            trace=Trace(steps=tuple(before[place + 1 :]), tool_calls=answer.tool_calls, tools=transcript.tools),
        )  # fmt: skip


def _unshared(store: LessonsStore, lesson: Experience) -> _Text:
    wordings = (lesson, as_learned(lesson) or lesson)
    requests = {normalised(wording.request) for wording in wordings} - {""}
    answers = {
        " ".join(text.split())
        for wording in wordings
        for text in (wording.answer, *(f"{call.name}({call.arguments})" for call in wording.trace.tool_calls))
    } - {""}
    for experience in store.every():
        if experience.id != lesson.id:
            requests.discard(normalised(experience.request))
            line = " ".join(experience.words.split())
            answers = {answer for answer in answers if answer not in line}
    return _Text(lesson=lesson.id, requests=tuple(sorted(requests)), answers=tuple(sorted(answers)))


def _mark_in(dataset: Dataset, lesson: str) -> bool:
    """Note that a dataset contains a forgotten lesson: no training starts on it. Returns whether it does, or did."""
    note = dataset.path / FORGOTTEN
    forgotten_ids = set(orjson.loads(note.read_bytes())) if note.is_file() else set()
    rows = [*_lines(dataset.path / "provenance.jsonl"), *_lines(dataset.path / "holdout.jsonl")]
    if not any(row["id"] == lesson for row in rows):
        return lesson in forgotten_ids
    write_file(note, orjson.dumps(sorted(forgotten_ids | {lesson})))
    return True


def _erase_in(dataset: Dataset, lesson: str) -> None:
    """Erase a lesson's line from both sides of a dataset."""
    overlaps = [overlap for overlap in dataset.overlaps if overlap.example != lesson]
    if len(overlaps) != len(dataset.overlaps):
        _write(dataset.path / OVERLAPS, [overlap.model_dump(mode="json") for overlap in overlaps])
    origins = _lines(dataset.path / "provenance.jsonl")
    exam = _lines(dataset.path / "holdout.jsonl")
    train_lines = [n for n, origin in enumerate(origins) if origin["id"] == lesson]
    exam_lines = [n for n, example in enumerate(exam) if example["id"] == lesson]
    if train_lines:
        rows = _lines(dataset.train_file)
        for n in train_lines:
            rows[n], origins[n] = {"forgotten": lesson}, {"id": lesson, "forgotten": True}
        _write(dataset.train_file, rows)
        _write(dataset.path / "provenance.jsonl", origins)
    if exam_lines:
        _write(dataset.path / "holdout.jsonl", [e for n, e in enumerate(exam) if n not in exam_lines])
    for export in dataset.path.glob("train.*.jsonl") if train_lines or exam_lines else ():
        export.unlink()


def _forget_answers(folder: Path, text: _Text) -> None:
    for path in folder.glob("*.json"):
        answers = orjson.loads(path.read_bytes())
        answers_to_keep = {
            request: answer
            for request, answer in answers.items()
            if not text.asks(request) and not text.quotes(_text_of(answer))
        }
        if len(answers_to_keep) != len(answers):
            write_file(path, orjson.dumps(answers_to_keep, option=orjson.OPT_SORT_KEYS))


def _text_of(answer: Any) -> str:
    """The text of a cached answer: [text, tokens, stopped]; earlier versions stored only the text."""
    return str(answer[0]) if isinstance(answer, list) else str(answer)


def _forget_reports(home: Path, text: _Text) -> None:
    """Remove the reports that show it, in the home and among MLflow's artifacts."""
    folder = home / "examinations"
    records = {path.stem for path in folder.glob("*.json") if text.examined_in(orjson.loads(path.read_bytes()))}
    for path in [*folder.glob("*"), *(home / "mlartifacts").rglob("examination/*")]:
        if path.suffix in REPORTS and (path.stem in records or text.stands_in(path.read_text("utf-8", "replace"))):
            path.unlink()


def _unescaped(text: str) -> str:
    """Lower case, single spaces, no backslashes."""
    return " ".join(text.replace("\\", "").lower().split())


def _forget_examination(path: Path, text: _Text) -> None:
    record = orjson.loads(path.read_bytes())
    count = 0
    for result in record["results"]:
        for answer in [*result["champion"], *result["challenger"]]:
            if answer["text"] != GONE and (answer["question"] == text.lesson or text.quotes(answer["text"])):
                answer["text"], count = GONE, count + 1
    if count:
        write_file(path, orjson.dumps(record, option=orjson.OPT_SORT_KEYS))


def _forget_canaries(path: Path, text: _Text, keys: Keys) -> None:
    """Remove canaries that quote it. The manifest is signed again only if its signature was valid."""
    manifest = orjson.loads(path.read_bytes())
    canaries = manifest.get("canaries", [])
    canaries_to_keep = [
        canary for canary in canaries if not text.asks(canary["prompt"]) and not text.quotes(canary["answer"])
    ]
    if len(canaries_to_keep) == len(canaries):
        return
    new_manifest = {**manifest, "canaries": canaries_to_keep}
    try:
        keys.check(signed_part(manifest), manifest.get("signature", ""), str(path))
    except SignatureError:  # an untrusted manifest stays untrusted
        write_file(path, orjson.dumps(new_manifest, option=orjson.OPT_INDENT_2))
    else:
        write_file(path, signed_manifest(new_manifest, keys))


def _manifest(path: Path) -> dict[str, str]:
    """Adapter and dataset of a manifest; empty texts if it cannot be read."""
    try:
        manifest = orjson.loads(path.read_bytes())
        return {"adapter": str(manifest["adapter"]), "dataset": str(manifest["dataset"])}
    except (ValueError, KeyError, TypeError):
        return {"adapter": "", "dataset": ""}


def _lines(path: Path) -> list[Any]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []


def _write(path: Path, rows: Iterable[Any]) -> None:
    write_file(path, (orjson.dumps(row) + b"\n" for row in rows))
