"""Dataset: what is trained on and what is examined, written once under its digest.

    datasets/<digest>/train.jsonl       messages, one example a line, sorted by id
                      provenance.jsonl  where each line of train.jsonl comes from, line by line
                      holdout.jsonl     what no training sees; read by the arena alone
                      inputs.jsonl      every lesson and commit that was looked at: what a rebuilding needs
                      overlaps.jsonl    what was left out because an examination asks it, with the words that match
                      manifest.json     counts, the funnel, contradictions, digests

The digest covers train.jsonl and holdout.jsonl, so the same experience gives the same digest whatever its order.
Where a lesson in it was forgotten since, `forgotten.json` says so: the dataset is not whole and is not trained on.
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
from academy.experience.source import Experience, Turn
from academy.models.formats import FORMATS
from academy.records import Record, canonical, digest_of, digest_of_bytes
from academy.store.files import digest_of_file, publish_folder, write_file

MANIFEST, INPUTS, OVERLAPS, FORGOTTEN = "manifest.json", "inputs.jsonl", "overlaps.jsonl", "forgotten.json"


class Example(Record):
    """A request and its answer, the origin it belongs to, and the group (its answer) that results are counted by."""

    id: str
    suite: str
    context: tuple[Turn, ...] = ()
    request: str
    answer: str
    origin: str
    group: str
    seq: int = 0  # not written down: a lesson that was released has a new number
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
            group=group_of(experience.answer),
            seq=experience.seq,
            tags=experience.tags,
            author=experience.author,
            batch=experience.batch,
            provenance=experience.provenance,
        )

    @property
    def messages(self) -> list[dict[str, str]]:
        """As a conversation that ends with the answer."""
        before = [{"role": turn.role, "content": turn.content} for turn in self.context]
        return [*before, {"role": "user", "content": self.request}, {"role": "assistant", "content": self.answer}]

    @property
    def opening(self) -> str:
        """What the user said first: all turns of a conversation share it, so they are never on both sides."""
        return next((turn.content for turn in self.context if turn.role == "user"), self.request)


class Input(Record):
    """One lesson or commit that a curation looked at; `seq` is the number that the lesson had then."""

    id: str
    seq: int = 0
    commit: str = ""
    repository: str = ""


class Contradiction(Record):
    """Two lessons (ids) with the same request and not the same answer; `first` came earlier.

    Ids and not texts: records travel into logs and databases, where a lesson that is to be forgotten must not be.
    """

    first: str
    second: str
    batches: tuple[str, str]


class OverlappingExample(Record):
    """An example (its id) that was left out because it overlaps with what is examined."""

    example: str
    overlaps: tuple[Overlap, ...]


class Dataset(Record):
    """A reference to a written dataset; the content stays in its folder."""

    digest: str
    path: Path
    train_digest: str
    examples: int
    holdout: int
    lessons: int  # trainable lessons and tasks in the store when it was made
    cursor: int  # the newest lesson that was looked at
    tokens: int
    longest: int  # tokens of the longest example
    funnel: dict[str, int]
    contradictions: tuple[Contradiction, ...]
    alarms: tuple[str, ...] = ()  # sentences about what is not wrong, but strange
    base: str = ""  # digest of the base model whose tokens were counted
    context: int = 0  # its longest example, in tokens
    version: str = ""  # of the Academy whose rules made it

    @property
    def train_file(self) -> Path:
        """The training side, in OpenAI's messages form."""
        return self.path / "train.jsonl"

    @property
    def overlaps(self) -> list[OverlappingExample]:
        """What was left out because an examination asks it."""
        path = self.path / OVERLAPS
        return [OverlappingExample.model_validate(row) for row in read_rows(path)] if path.is_file() else []

    def inputs(self) -> Iterator[dict[str, Any]]:
        """Every lesson and commit that was looked at, as `Input` was written."""
        path = self.path / INPUTS
        return read_rows(path) if path.is_file() else iter(())

    def export(self, form: str) -> Path:
        """The training side in another format, `train.<format>.jsonl`, line by line as train.jsonl; written once.

        Raises InputError for an unknown format, or a text that the format cannot hold.
        """
        if form not in FORMATS:
            raise InputError(f"There is no format {form}.", f"There are {', '.join(FORMATS)}.")
        path = self.path / f"train.{form}.jsonl"
        if not path.is_file():
            write = FORMATS[form].write
            write_file(path, (orjson.dumps(write(row["messages"])) + b"\n" for row in read_rows(self.train_file)))
        return path

    def held_out(self, numbers: Mapping[str, int] | None = None) -> list[Example]:
        """The examination side.

        `numbers` are those of the active lessons by id: with them a lesson that was set aside or retired since asks
        nothing, and the others know when they came.
        """
        found = [Example.model_validate(row) for row in read_rows(self.path / "holdout.jsonl")]
        if numbers is None:
            return found
        return [
            example.model_copy(update={"seq": numbers.get(example.id, 0)})
            for example in found
            if example.suite == "commits" or example.id in numbers
        ]


def group_of(answer: str) -> str:
    """The name of an answer: wordings that share it are not independent."""
    return digest_of(answer)[:16]


def write_dataset(
    folder: Path,
    train: Sequence[Example],
    held_out: Sequence[Example],
    inputs: Sequence[Input] = (),
    overlaps: Sequence[OverlappingExample] = (),
    **facts: Any,
) -> Dataset:
    """Write a dataset under its digest in `folder`, or find it there. `facts` are the record's other fields."""
    train, held_out = (sorted(side, key=lambda example: example.id) for side in (train, held_out))
    rows = b"".join(orjson.dumps({"messages": example.messages}) + b"\n" for example in train)
    exam = b"".join(orjson.dumps(example.model_dump(mode="json", exclude={"seq"})) + b"\n" for example in held_out)
    train_digest = digest_of_bytes(rows)
    digest = digest_of({"train": train_digest, "holdout": digest_of_bytes(exam)})
    place = folder / digest[:16]
    dataset = Dataset(
        digest=digest, path=place, train_digest=train_digest, examples=len(train), holdout=len(held_out), **facts
    )
    if not (place / MANIFEST).is_file():
        with publish_folder(place) as staged:
            scan_file(write_file(staged / "train.jsonl", rows))  # once more, whatever the filters did
            write_file(
                staged / "provenance.jsonl",
                (
                    orjson.dumps({"id": e.id, "batch": e.batch, "author": e.author, "origin": e.origin, **e.provenance})
                    + b"\n"
                    for e in train
                ),
            )
            write_file(staged / "holdout.jsonl", exam)
            write_file(staged / INPUTS, (orjson.dumps(one.model_dump(exclude_defaults=True)) + b"\n" for one in inputs))
            write_file(staged / OVERLAPS, (canonical(one) + b"\n" for one in overlaps))
            write_file(
                staged / MANIFEST,
                orjson.dumps(dataset.model_dump(mode="json", exclude={"path"}), option=orjson.OPT_INDENT_2),
            )
    return dataset


def find_dataset(folder: Path, digest: str) -> Dataset:
    """What the manifest of a dataset says; its content is not looked at. Raises InputError."""
    if not re.fullmatch(r"[0-9a-f]{12,64}", digest) or len(found := _beginning_with(folder, digest)) != 1:
        raise InputError(f"There is no dataset {digest}.", "`academy curate` makes one and prints its digest.")
    try:
        manifest = orjson.loads((found[0] / MANIFEST).read_bytes())
        return Dataset.model_validate({**manifest, "path": found[0]})
    except (OSError, orjson.JSONDecodeError, ValidationError) as problem:
        raise InputError(
            f"The dataset {digest[:16]} was altered after it was written.", "Run `academy curate` again."
        ) from problem


def read_dataset(folder: Path, digest: str) -> Dataset:
    """A written dataset by its digest. Raises InputError where there is none or it was altered."""
    dataset = find_dataset(folder, digest)
    place = dataset.path
    if (place / FORGOTTEN).is_file():
        raise InputError(
            f"The dataset {digest[:16]} contains forgotten lessons.", "`academy curate` makes one without them."
        )
    altered = InputError(f"The dataset {digest[:16]} was altered after it was written.", "Run `academy curate` again.")
    try:
        train_digest = digest_of_file(dataset.train_file)
        whole = digest_of({"train": train_digest, "holdout": digest_of_file(place / "holdout.jsonl")})
    except OSError as problem:
        raise altered from problem
    if whole != dataset.digest or train_digest != dataset.train_digest:
        raise altered
    return dataset


def all_datasets(folder: Path) -> list[Dataset]:
    """Every dataset of a folder, oldest first."""
    found = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: (path.stat().st_mtime_ns, path))
    return [find_dataset(folder, path.parent.name) for path in found if not path.parent.name.startswith(".")]


def _beginning_with(folder: Path, digest: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{digest[:16]}*") if path.is_dir())


def read_rows(path: Path) -> Iterator[Any]:
    """The JSON values of a file that this house wrote."""
    with path.open("rb") as stream:
        for line in stream:
            yield orjson.loads(line)
