"""Dataset: examples to train on and examples to examine with, written once under their digest.

    datasets/<digest>/train.jsonl       messages, one example on each line, sorted by id
                      provenance.jsonl  the origin of each line of train.jsonl, line by line
                      holdout.jsonl     examples that are never trained on; only the arena reads them
                      inputs.jsonl      a reference to every experience that was collected; a rebuild reads it
                      overlaps.jsonl    examples that were dropped because an examination asks them, with the matches
                      manifest.json     counts, the funnel, contradictions, digests

The digest covers train.jsonl and holdout.jsonl, so the same experience gives the same digest in any order. After a
lesson of the dataset is forgotten, `forgotten.json` marks the dataset as incomplete, and it is not trained on any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from academy.curriculum.decontamination import Overlap
from academy.curriculum.secrets import scan_file
from academy.errors import InputError
from academy.experience.experience import Experience, Trace, system_message
from academy.experience.sources.base import Reference
from academy.models.formats import FORMATS, read_row
from academy.models.messages import Message, Transcript, words_of
from academy.records import Record, canonical, digest_of, digest_of_bytes
from academy.store.files import digest_of_file, publish_folder, write_file

MANIFEST, INPUTS, OVERLAPS, FORGOTTEN = "manifest.json", "inputs.jsonl", "overlaps.jsonl", "forgotten.json"


class Example(Record):
    """A request and its answer, the origin of the request, and the group (by answer) that results are counted by."""

    id: str
    suite: str
    context: tuple[Message, ...] = ()
    request: str
    answer: str
    trace: Trace = Trace()
    origin: str
    group: str
    seq: int = 0  # not written to disk: a released lesson gets a new number
    tags: tuple[str, ...]
    author: str
    batch: str
    provenance: dict[str, str]

    @classmethod
    def of(cls, experience: Experience, origin: str) -> Example:
        """The example of an experience; its group is its answer."""
        return cls(
            id=experience.id,
            suite="commits" if experience.kind == "commit" else "recall",
            context=experience.context,
            request=experience.request,
            answer=experience.answer,
            origin=origin,
            trace=experience.trace,
            group=group_of(experience.words),
            seq=experience.seq,
            tags=experience.tags,
            author=experience.author,
            batch=experience.batch,
            provenance=experience.provenance,
        )

    @property
    def transcript(self) -> Transcript:
        """The example as a conversation that ends with the answer. Thoughts are not trained on."""
        trace = self.trace.model_copy(update={"reasoning": ""}) if self.trace.reasoning else self.trace
        return trace.transcript(self.context, self.request, self.answer)

    @property
    def words(self) -> str:
        """The answer, and what it calls in words."""
        return words_of(self.answer, self.trace.tool_calls)

    @property
    def row(self) -> dict[str, Any]:
        """The example as a line of train.jsonl, in OpenAI's format."""
        return FORMATS["openai"].write(self.transcript)

    @property
    def opening(self) -> str:
        """The user's first message. All turns of a conversation share it, so they are never on both sides."""
        return opening_of(self.transcript)[0]

    @property
    def opening_answer(self) -> str:
        """The first answer to the user's first message, or what the assistant called first."""
        return opening_of(self.transcript)[1]

    @property
    def system(self) -> str:
        """The system message before the request; empty if there is none."""
        return system_message(self.context)

    @property
    def follows_turns(self) -> bool:
        """Whether a user's or an assistant's message precedes the request. A system message is not an earlier turn."""
        return any(turn.role != "system" for turn in self.context)


def opening_of(transcript: Transcript) -> tuple[str, str]:
    """The user's first message and the first answer to it."""
    messages = transcript.messages
    first = next(n for n, message in enumerate(messages) if message.role == "user")
    answer = next(message.words for message in messages[first:] if message.role == "assistant")
    return messages[first].content, answer


def shown_texts(row: Any) -> tuple[str, str]:
    """The last request of a line of train.jsonl, and its answer in words."""
    transcript = transcript_of(row)
    request = next(message.content for message in reversed(transcript.messages) if message.role == "user")
    return request, transcript.messages[-1].words


class Contradiction(Record):
    """Two lessons (ids) with the same request and different answers; `first` is the earlier one.

    It holds ids instead of texts: records reach logs and databases, from which a forgotten lesson could not be deleted.
    """

    first: str
    second: str
    batches: tuple[str, str]


class OverlappingExample(Record):
    """An example (its id) that was dropped because it overlaps with an examination."""

    example: str
    overlaps: tuple[Overlap, ...]


class Dataset(Record):
    """The manifest of a written dataset; the content stays in its folder."""

    digest: str
    path: Path
    train_digest: str
    examples: int
    holdout: int
    lessons: int  # trainable lessons and tasks in the store at that time
    cursor: int  # number of the newest lesson that was read
    tokens: int
    longest: int  # tokens of the longest example
    funnel: dict[str, int]
    contradictions: tuple[Contradiction, ...]
    alarms: tuple[str, ...] = ()  # sentences about a one-sided training side
    base: str = ""  # digest of the base model that counted the tokens
    context: int = 0  # tokens that an example may have
    per_source: int | None = None  # quotas in examples
    per_author: int | None = None
    untrusted_share: float = 0.2  # of the tokens that examples of untrusted sources may have
    untrusted: int = 0  # examples of sources that are not trusted
    allowed: tuple[str, ...] = ()  # keys of the overlaps that were allowed
    version: str = ""  # of the Academy that made it

    @property
    def train_file(self) -> Path:
        """The training side, in OpenAI's messages form."""
        return self.path / "train.jsonl"

    @property
    def overlaps(self) -> list[OverlappingExample]:
        """Examples that were dropped because an examination asks them."""
        path = self.path / OVERLAPS
        return [OverlappingExample.model_validate(row) for row in read_rows(path)] if path.is_file() else []

    def inputs(self) -> Iterator[dict[str, Any]]:
        """Every lesson and commit that was collected, as written from its `Reference`."""
        path = self.path / INPUTS
        return read_rows(path) if path.is_file() else iter(())

    def export(self, form: str) -> Path:
        """Write the training side in another format to `train.<format>.jsonl`, line by line; an existing file is kept.

        Raises InputError for an unknown format, or for a text that the format cannot hold.
        """
        check_format(form)
        path = self.path / f"train.{form}.jsonl"
        if not path.is_file():
            write = FORMATS[form].write
            write_file(path, (orjson.dumps(write(transcript_of(row))) + b"\n" for row in read_rows(self.train_file)))
        return path

    def held_out(self, numbers: Mapping[str, int] | None = None) -> list[Example]:
        """The examination side.

        `numbers` are the numbers of the active lessons by id. With them, lessons that are not active any more are
        omitted, and the others have their present numbers. Experience that is not from the store always stays.
        """
        examples = [Example.model_validate(row) for row in read_rows(self.path / "holdout.jsonl")]
        if numbers is None:
            return examples
        return [
            example.model_copy(update={"seq": numbers.get(example.id, 0)})
            for example in examples
            if "lesson" not in example.provenance or example.id in numbers
        ]


def transcript_of(row: Any) -> Transcript:
    """A line of train.jsonl. Raises InputError where it was altered."""
    transcript = read_row(row)
    if isinstance(transcript, str):
        raise InputError(f"A line of the dataset cannot be read: {transcript}.", "Run `academy curate` again.")
    return transcript


def check_format(form: str) -> None:
    """Raise InputError for an unknown format; empty is the dataset's own."""
    if form and form not in FORMATS:
        raise InputError(f"Unknown format {form}.", f"Choose one of {', '.join(FORMATS)}.")


def group_of(answer: str) -> str:
    """The name of an answer. Examples that share it are not independent."""
    return digest_of(answer)[:16]


def write_dataset(
    folder: Path,
    train: Sequence[Example],
    held_out: Sequence[Example],
    inputs: Sequence[Reference] = (),
    overlaps: Sequence[OverlappingExample] = (),
    **facts: Any,
) -> Dataset:
    """Write a dataset under its digest in `folder`, unless it is there. `facts` are the other fields of the record."""
    train, held_out = (sorted(side, key=lambda example: example.id) for side in (train, held_out))
    rows = b"".join(orjson.dumps(example.row) + b"\n" for example in train)
    exam = b"".join(orjson.dumps(_exam_row(example)) + b"\n" for example in held_out)
    train_digest = digest_of_bytes(rows)
    digest = digest_of({"train": train_digest, "holdout": digest_of_bytes(exam)})
    path = folder / digest[:16]
    dataset = Dataset(
        digest=digest, path=path, train_digest=train_digest, examples=len(train), holdout=len(held_out), **facts
    )
    if (path / MANIFEST).is_file():
        _renew_cursor(dataset)
    else:
        with publish_folder(path) as staging:
            scan_file(write_file(staging / "train.jsonl", rows))  # a second check, after the filters
            write_file(
                staging / "provenance.jsonl",
                (
                    orjson.dumps({"id": e.id, "batch": e.batch, "author": e.author, "origin": e.origin, **e.provenance})
                    + b"\n"
                    for e in train
                ),
            )
            write_file(staging / "holdout.jsonl", exam)
            write_file(
                staging / INPUTS,
                (orjson.dumps(ref.model_dump(exclude_defaults=True)) + b"\n" for ref in inputs),
            )
            write_file(staging / OVERLAPS, (canonical(overlap) + b"\n" for overlap in overlaps))
            write_file(
                staging / MANIFEST,
                _manifest(dataset),
            )
    return dataset


def _exam_row(example: Example) -> dict[str, Any]:
    """An example of holdout.jsonl; the trace of one without tools is not written."""
    empty = set() if example.trace.identity else {"trace"}
    return example.model_dump(mode="json", exclude={"seq", *empty})


def _manifest(dataset: Dataset) -> bytes:
    return orjson.dumps(dataset.model_dump(mode="json", exclude={"path"}), option=orjson.OPT_INDENT_2)


def _renew_cursor(dataset: Dataset) -> None:
    """Note that the same content now covers later lessons: released ones have new numbers, and others may be dropped.

    Otherwise the lessons would count as new again after this dataset's adapter became champion.
    """
    stored = find_dataset(dataset.path.parent, dataset.digest)
    if dataset.cursor > stored.cursor:
        facts = {"cursor": dataset.cursor, "lessons": dataset.lessons}
        write_file(dataset.path / MANIFEST, _manifest(stored.model_copy(update=facts)))


def find_dataset(folder: Path, digest: str) -> Dataset:
    """Read the manifest of a dataset without checking its content. Raises InputError if there is none."""
    folders = _beginning_with(folder, digest) if re.fullmatch(r"[0-9a-f]{12,64}", digest) else []
    if len(folders) != 1:
        raise InputError(f"Dataset {digest} was not found.", "Run `academy curate` to make one; it prints the digest.")
    try:
        manifest = orjson.loads((folders[0] / MANIFEST).read_bytes())
        return Dataset.model_validate({**manifest, "path": folders[0]})
    except (OSError, orjson.JSONDecodeError, ValidationError) as problem:
        raise InputError(
            f"The dataset {digest[:16]} was altered after it was written.", "Run `academy curate` again."
        ) from problem


def read_dataset(folder: Path, digest: str) -> Dataset:
    """Read a dataset by its digest and check its content. Raises InputError if it is missing, altered or incomplete."""
    dataset = find_dataset(folder, digest)
    if (dataset.path / FORGOTTEN).is_file():
        raise InputError(
            f"The dataset {digest[:16]} contains forgotten lessons.",
            "Run `academy curate` to make one without them.",
        )
    alteration = InputError(
        f"The dataset {digest[:16]} was altered after it was written.", "Run `academy curate` again."
    )
    try:
        train_digest = digest_of_file(dataset.train_file)
        whole = digest_of({"train": train_digest, "holdout": digest_of_file(dataset.path / "holdout.jsonl")})
    except OSError as problem:
        raise alteration from problem
    if whole != dataset.digest or train_digest != dataset.train_digest:
        raise alteration
    return dataset


def all_datasets(folder: Path) -> list[Dataset]:
    """Every dataset of a folder, oldest first."""
    manifests = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: (path.stat().st_mtime_ns, path))
    return [find_dataset(folder, path.parent.name) for path in manifests if not path.parent.name.startswith(".")]


def _beginning_with(folder: Path, digest: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{digest[:16]}*") if path.is_dir())


def read_rows(path: Path) -> Iterator[Any]:
    """The JSON values of a JSON Lines file."""
    with path.open("rb") as stream:
        for line in stream:
            yield orjson.loads(line)
