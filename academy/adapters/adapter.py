"""An adapter on the disk: safetensors, configuration, chat template and a manifest that the home signs.

Its digest covers the three files byte for byte and no time: training writes them in one canonical form, so on
processors the same training gives the same digest. Reading one refuses what could run code, what was altered and what
is no adapter that can be served; the files are read once, and what was checked is what is loaded.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError

from academy.adapters.lora_config import check_config, check_tensors
from academy.adapters.tensors import Place, as_torch, check_finite, read_layout, strict_json
from academy.errors import AdapterError
from academy.models.chat_template import FILE as TEMPLATE_FILE
from academy.professor.recipe import Recipe
from academy.records import Record, canonical, digest_of
from academy.store.files import STAGING, content_digest_of, entries_of, open_folder, read_regular_file, write_file
from academy.store.signing import Keys

if TYPE_CHECKING:
    import torch

WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "manifest.json"
FILES = (WEIGHTS, CONFIG, TEMPLATE_FILE)
LONGEST = {WEIGHTS: 8 << 30, CONFIG: 1 << 20, TEMPLATE_FILE: 64 << 10, MANIFEST: 4 << 20}
"""Bytes of each file that are read at most."""
BESIDE = frozenset((
    "README.md", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "merges.txt",
))  # fmt: skip
"""What an export lays beside an adapter for other tools. Nothing of it is read here, and none of it lies in a home."""
PURPOSE = b"an adapter's manifest\n"
"""Stands before what is signed, so that a signature of anything else is none of a manifest."""
AGAIN = "The adapter is refused; train again."


class Canary(Record):
    """A prompt and what the adapter answered to it, greedily, at the end of its training; and what the base said."""

    prompt: str
    answer: str
    logprobs: tuple[float, ...] = ()  # natural, of each token that was generated, the end token among them
    prompt_tokens: int = 0  # of the prompt as the template renders it
    base_answer: str = ""
    base_logprobs: tuple[float, ...] = ()  # what the base alone gives the adapter's tokens
    base_answer_logprobs: tuple[float, ...] = ()  # of each token of the base's own answer


class Manifest(Record):
    """What an adapter is made of. It holds no time: on processors the same training writes the same manifest."""

    adapter: str  # the digest
    files: dict[str, str]  # name -> BLAKE3
    base_name: str
    base_digest: str
    dataset: str
    train_digest: str
    order: str
    template: str
    special_tokens: dict[str, str]
    recipe: Recipe
    trainer: str  # which library trained it
    versions: dict[str, str]
    threads: int  # of the training: another number gives other last digits, so other bytes
    examples: int
    supervised_tokens: int
    steps: int
    loss: float  # of the last logged step
    canaries: tuple[Canary, ...]
    signature: str = ""  # of everything else here, by the home that registered it


class Adapter(Record):
    """A reference to an adapter whose files were checked."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The adapter's identity."""
        return self.manifest.adapter


def digests_of_files(folder: Path) -> dict[str, str]:
    """The BLAKE3 of each of an adapter's files, by name, as a manifest has them."""
    return {name: content_digest_of(folder / name) for name in FILES}


def digest_of_adapter(folder: Path) -> str:
    """The identity of what lies in a folder: sha256 over the names of its files and their BLAKE3."""
    return digest_of(digests_of_files(folder))


def canonical_config(config: dict[str, Any], base_name: str) -> bytes:
    """PEFT writes modules in the order of a hash seed, and the base model's path: sort the one, name the other.

    `auto_mapping` names classes that a loader would import; a causal language model needs none.
    """
    settled = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
    # not the folder that it lies in here: the same training elsewhere makes the same file
    name = Path(base_name).name if Path(base_name).is_absolute() else base_name
    settled |= {"base_model_name_or_path": name, "auto_mapping": None}
    return orjson.dumps(settled, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)


class Opened:
    """An adapter's files as they were when they were read, in memory; each step checks one thing of them.

    `open_adapter` goes through all steps. What happens to the files afterwards changes nothing here.
    """

    def __init__(self, folder: Path, beside: frozenset[str] = frozenset()) -> None:
        """Read the files. Raises AdapterError where one is missing, a link, too large or none of an adapter's.

        Files named in `beside` may lie there as well; they are not read.
        """
        self.folder = folder
        self._content: dict[str, memoryview] = {}
        self.digests: dict[str, str] = {}
        name = ""
        try:
            with open_folder(folder) as handle:
                for name in sorted(entries_of(handle)):
                    if (
                        name not in LONGEST and name not in beside and not name.startswith(STAGING)
                    ):  # which one that is just written has
                        raise AdapterError(
                            f"{folder} holds {ascii(name)[1:-1][:80]}, which is no part of an adapter.",
                            "Other files are refused because they can run code; look at it, and take it away.",
                        )
                for name in (MANIFEST, *FILES):
                    self._content[name], self.digests[name] = read_regular_file(handle, name, LONGEST[name])
        except OSError as problem:
            raise _unreadable(folder, name, problem) from problem

    @cached_property
    def written(self) -> dict[str, Any]:
        """The manifest's JSON as it stands in the file."""
        return checked_manifest(self._content[MANIFEST], self.folder)[0]

    @cached_property
    def adapter(self) -> Adapter:
        """The reference to it."""
        return Adapter(path=self.folder, manifest=checked_manifest(self._content[MANIFEST], self.folder)[1])

    @cached_property
    def config(self) -> dict[str, Any]:
        """PEFT's configuration: plain LoRA, rsLoRA or DoRA, nothing else."""
        return check_config(strict_json(self._content[CONFIG], CONFIG))

    @cached_property
    def layout(self) -> dict[str, Place]:
        """Where each tensor lies; they agree with the configuration."""
        found = read_layout(self._content[WEIGHTS])
        check_tensors(self.config, found)
        return found

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by the names of the file, as views of the bytes that were checked."""
        return as_torch(self._content[WEIGHTS], self.layout)

    @cached_property
    def template(self) -> str:
        """The text of the chat template."""
        try:
            return bytes(self._content[TEMPLATE_FILE]).decode()
        except UnicodeDecodeError as problem:
            raise AdapterError(f"The chat template in {self.folder} is no text.", AGAIN) from problem

    def check_files(self, digest: str | None = None) -> None:
        """The files are those of the manifest, and the manifest is that of the adapter that is expected."""
        manifest = self.adapter.manifest
        for name in FILES:
            if self.digests[name] != manifest.files.get(name):
                raise AdapterError(f"{name} in {self.folder} is missing or was altered.", AGAIN)
        found = digest_of({name: self.digests[name] for name in FILES})
        if found != manifest.adapter or manifest.files.keys() != set(FILES) or (digest and digest != found):
            raise AdapterError(f"{self.folder} holds another adapter than its name says.", AGAIN)

    def check_finite(self) -> None:
        """No number is NaN or infinite."""
        check_finite(self._content[WEIGHTS], self.layout)

    def check_base(self, digest: str) -> None:
        """It was trained on this base model."""
        if self.adapter.manifest.base_digest != digest:
            raise AdapterError(
                "ADAPTER_BASE_MODEL_MISMATCH: the adapter was trained on "
                f"{self.adapter.manifest.base_name}, another base model.",
                "Choose the base model that it was trained on, with --base-model.",
            )

    def check_signature(self, keys: Keys) -> str:
        """The manifest is signed by a key that is trusted here; returns the key's id. Raises SignatureError."""
        return keys.check(signed_part(self.written), self.adapter.manifest.signature, f"The adapter in {self.folder}")


def open_adapter(
    folder: Path,
    *,
    base_digest: str | None = None,
    digest: str | None = None,
    beside: frozenset[str] = frozenset(),
) -> Opened:
    """Read an adapter once, check it, and return what was read: manifest, configuration, tensors and template.

    Raises AdapterError where a file is missing, a link or altered, where it could run code or holds a number that is
    none, where it is not the expected adapter, or was trained on another base model than `base_digest`. Who made it
    is not asked here: academy.lifecycle.gate does.
    """
    found = Opened(folder, beside)
    found.check_files(digest)
    if base_digest:
        found.check_base(base_digest)
    found.check_finite()
    _ = found.template
    return found


def read_adapter(
    folder: Path,
    *,
    base_digest: str | None = None,
    digest: str | None = None,
    beside: frozenset[str] = frozenset(),
) -> Adapter:
    """The reference to an adapter, with all of `open_adapter`'s checks."""
    return open_adapter(folder, base_digest=base_digest, digest=digest, beside=beside).adapter


def sign_adapter(folder: Path, keys: Keys, *, base_digest: str, digest: str) -> Adapter:
    """Check an adapter that was trained just now and sign its manifest, once.

    Raises AdapterError, and SignatureError where it has a signature that does not hold: what was altered after it was
    signed is not signed again by training.
    """
    found = open_adapter(folder, base_digest=base_digest, digest=digest)
    if found.adapter.manifest.signature:
        found.check_signature(keys)
        return found.adapter
    write_file(folder / MANIFEST, signed_manifest(found.written, keys))
    return open_adapter(folder, base_digest=base_digest, digest=digest).adapter


def signed_manifest(written: Mapping[str, Any], keys: Keys) -> bytes:
    """A manifest's JSON as a file, signed with the home's present key."""
    signature = keys.sign(signed_part(written))
    return orjson.dumps({**written, "signature": signature}, option=orjson.OPT_INDENT_2)


def signed_part(written: Mapping[str, Any]) -> bytes:
    """What a signature covers: the manifest as it is written, in canonical form, without the signature.

    Not the record: one that gets a new field with a default would change every manifest that was signed before.
    """
    return PURPOSE + canonical({name: value for name, value in written.items() if name != "signature"})


def checked_manifest(content: bytes | memoryview, folder: Path) -> tuple[dict[str, Any], Manifest]:
    """A manifest's JSON as it is written, and as a record. Raises AdapterError."""
    try:
        written = strict_json(content, MANIFEST)
        return written, Manifest.model_validate(written)
    except (ValidationError, AdapterError) as problem:
        raise AdapterError(f"The manifest in {folder} cannot be read.", AGAIN) from problem


def _unreadable(folder: Path, name: str, problem: OSError) -> AdapterError:
    if name in ("", MANIFEST) and problem.errno == errno.ENOENT:
        return AdapterError(f"There is no adapter in {folder}.", "Train again: on processors the bytes are the same.")
    what = f"{name} in {folder}" if name else str(folder)
    if problem.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
        return AdapterError(f"{what} is missing or was altered.", f"Links are not followed. {AGAIN}")
    return AdapterError(f"{what} cannot be read ({problem.strerror}).", AGAIN)
