"""An adapter on the disk: safetensors, configuration, chat template and a manifest that the home signs.

Its digest covers the bytes of the three files and no time. Training writes them in a canonical form, so on CPUs the
same training gives the same digest. Reading refuses files that could run code, were altered or cannot be served. The
files are read once, and the checked bytes are the loaded bytes.
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
from academy.adapters.tensors import TensorSpan, as_torch, check_finite, read_layout, strict_json
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
MAX_BYTES = {WEIGHTS: 8 << 30, CONFIG: 1 << 20, TEMPLATE_FILE: 64 << 10, MANIFEST: 4 << 20}
"""Maximum size of each file in bytes."""
BESIDE = frozenset((
    "README.md", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "merges.txt",
))  # fmt: skip
"""Files that an export adds for other tools. They are never read here, and a home does not contain them."""
PURPOSE = b"an adapter's manifest\n"
"""Prefix of the signed bytes: a signature of anything else is not valid for a manifest."""
AGAIN = "The adapter is refused. Train again."


class Canary(Record):
    """A prompt with the greedy answers of the adapter, at the end of its training, and of the base model."""

    prompt: str
    answer: str
    logprobs: tuple[float, ...] = ()  # natural logarithms, one per generated token, including the end token
    prompt_tokens: int = 0  # of the rendered prompt
    base_answer: str = ""
    base_logprobs: tuple[float, ...] = ()  # the base model's, for the adapter's tokens
    base_answer_logprobs: tuple[float, ...] = ()  # the base model's, for its own answer


class Manifest(Record):
    """How an adapter was made. It has no time: on CPUs the same training writes the same manifest."""

    adapter: str  # the digest
    files: dict[str, str]  # name -> BLAKE3
    base_name: str
    base_digest: str
    dataset: str
    train_digest: str
    order: str
    template: str
    day: str = ""  # that every prompt shows; the template's text contains it. Empty if the template shows none
    system_in_request: bool = False  # whether a system message is put into the first request
    special_tokens: dict[str, str]
    recipe: Recipe
    trainer: str  # the training library
    versions: dict[str, str]
    threads: int  # CPU threads of the training: another number changes the last digits, so the bytes
    examples: int
    supervised_tokens: int
    steps: int
    loss: float  # of the last logged step
    canaries: tuple[Canary, ...]
    signature: str = ""  # of all other fields, by the home that registered it


class Adapter(Record):
    """A reference to an adapter whose files were checked."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The adapter's identity."""
        return self.manifest.adapter


def digests_of_files(folder: Path) -> dict[str, str]:
    """File name -> BLAKE3, as in a manifest."""
    return {name: content_digest_of(folder / name) for name in FILES}


def digest_of_adapter(folder: Path) -> str:
    """The identity of a folder's adapter: sha256 over its file names and their BLAKE3."""
    return digest_of(digests_of_files(folder))


def canonical_config(config: dict[str, Any], base_name: str) -> bytes:
    """PEFT's configuration as canonical bytes: sorted lists, and the base model's name in place of its path.

    PEFT writes modules in the order of a hash seed. `auto_mapping` names classes that a loader would import; a causal
    language model needs none.
    """
    canonical_values = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
    # not its local folder: the same training on another machine must give the same file
    name = Path(base_name).name if Path(base_name).is_absolute() else base_name
    canonical_values |= {"base_model_name_or_path": name, "auto_mapping": None}
    return orjson.dumps(canonical_values, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)


class AdapterFiles:
    """An adapter's files in memory, read once; each method checks one aspect.

    `open_adapter` runs all checks. Later changes of the files on disk have no effect here.
    """

    def __init__(self, folder: Path, beside: frozenset[str] = frozenset()) -> None:
        """Read the files. Raises AdapterError if one is missing, a link, too large or not part of an adapter.

        Files in `beside` are allowed and not read.
        """
        self.folder = folder
        self._content: dict[str, memoryview] = {}
        self.digests: dict[str, str] = {}
        name = ""
        try:
            with open_folder(folder) as handle:
                for name in sorted(entries_of(handle)):
                    if name not in MAX_BYTES and name not in beside and not name.startswith(STAGING):
                        raise AdapterError(
                            f"{folder} contains {ascii(name)[1:-1][:80]}, which does not belong to an adapter.",
                            "Other files are refused because they can run code. Check and remove it.",
                        )
                for name in (MANIFEST, *FILES):
                    self._content[name], self.digests[name] = read_regular_file(handle, name, MAX_BYTES[name])
        except OSError as problem:
            raise _unreadable(folder, name, problem) from problem

    @cached_property
    def written(self) -> dict[str, Any]:
        """The manifest's JSON as in the file."""
        return checked_manifest(self._content[MANIFEST], self.folder)[0]

    @cached_property
    def adapter(self) -> Adapter:
        """The reference to the adapter."""
        return Adapter(path=self.folder, manifest=checked_manifest(self._content[MANIFEST], self.folder)[1])

    @cached_property
    def config(self) -> dict[str, Any]:
        """PEFT's configuration, checked: plain LoRA, rsLoRA or DoRA."""
        return check_config(strict_json(self._content[CONFIG], CONFIG))

    @cached_property
    def layout(self) -> dict[str, TensorSpan]:
        """The position of each tensor, checked against the configuration."""
        layout = read_layout(self._content[WEIGHTS])
        check_tensors(self.config, layout)
        return layout

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by their names in the file, as views of the checked bytes."""
        return as_torch(self._content[WEIGHTS], self.layout)

    @cached_property
    def template(self) -> str:
        """The text of the chat template."""
        try:
            return bytes(self._content[TEMPLATE_FILE]).decode()
        except UnicodeDecodeError as problem:
            raise AdapterError(f"The chat template in {self.folder} is not UTF-8 text.", AGAIN) from problem

    def check_files(self, digest: str | None = None) -> None:
        """Check the files against the manifest, and the manifest against the expected digest."""
        manifest = self.adapter.manifest
        for name in FILES:
            if self.digests[name] != manifest.files.get(name):
                raise AdapterError(f"{name} in {self.folder} is missing or was altered.", AGAIN)
        actual = digest_of({name: self.digests[name] for name in FILES})
        if actual != manifest.adapter or manifest.files.keys() != set(FILES) or (digest and digest != actual):
            raise AdapterError(f"The adapter in {self.folder} does not match its digest.", AGAIN)

    def check_finite(self) -> None:
        """Check that no number is NaN or infinite."""
        check_finite(self._content[WEIGHTS], self.layout)

    def check_base(self, digest: str) -> None:
        """Check that it was trained on this base model."""
        if self.adapter.manifest.base_digest != digest:
            raise AdapterError(
                "ADAPTER_BASE_MODEL_MISMATCH: the adapter was trained on "
                f"another base model, {self.adapter.manifest.base_name}.",
                "Choose that base model with --base-model.",
            )

    def check_signature(self, keys: Keys) -> str:
        """Check that a trusted key signed the manifest. Returns the key's id. Raises SignatureError."""
        return keys.check(signed_part(self.written), self.adapter.manifest.signature, f"The adapter in {self.folder}")


def open_adapter(
    folder: Path,
    *,
    base_digest: str | None = None,
    digest: str | None = None,
    beside: frozenset[str] = frozenset(),
) -> AdapterFiles:
    """Read an adapter once, check it, and return it: manifest, configuration, tensors and template.

    Raises AdapterError if a file is missing, a link, altered, could run code or contains NaN or infinity; if it is not
    the expected adapter; or if it was trained on another base model than `base_digest`. The signature is not checked
    here, but in academy.lifecycle.gate.
    """
    files = AdapterFiles(folder, beside)
    files.check_files(digest)
    if base_digest:
        files.check_base(base_digest)
    files.check_finite()
    _ = files.template
    return files


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
    """Check a newly trained adapter and sign its manifest, once.

    Raises AdapterError, and SignatureError if it has an invalid signature: an adapter that was altered after it was
    signed is not signed again.
    """
    files = open_adapter(folder, base_digest=base_digest, digest=digest)
    if files.adapter.manifest.signature:
        files.check_signature(keys)
        return files.adapter
    write_file(folder / MANIFEST, signed_manifest(files.written, keys))
    return open_adapter(folder, base_digest=base_digest, digest=digest).adapter


def signed_manifest(written: Mapping[str, Any], keys: Keys) -> bytes:
    """The bytes of a manifest, signed with the home's current key."""
    signature = keys.sign(signed_part(written))
    return orjson.dumps({**written, "signature": signature}, option=orjson.OPT_INDENT_2)


def signed_part(written: Mapping[str, Any]) -> bytes:
    """The bytes that a signature covers: the manifest's JSON in canonical form, without the signature.

    Not the record: a new field with a default would change every manifest that was signed before.
    """
    return PURPOSE + canonical({name: value for name, value in written.items() if name != "signature"})


def checked_manifest(content: bytes | memoryview, folder: Path) -> tuple[dict[str, Any], Manifest]:
    """A manifest as JSON and as a record. Raises AdapterError."""
    try:
        manifest = strict_json(content, MANIFEST)
        return manifest, Manifest.model_validate(manifest)
    except (ValidationError, AdapterError) as problem:
        raise AdapterError(f"The manifest in {folder} cannot be read.", AGAIN) from problem


def _unreadable(folder: Path, name: str, problem: OSError) -> AdapterError:
    if name in ("", MANIFEST) and problem.errno == errno.ENOENT:
        return AdapterError(f"{folder} does not contain an adapter.", "Train again: on CPUs the bytes are the same.")
    subject = f"{name} in {folder}" if name else str(folder)
    if problem.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
        return AdapterError(f"{subject} is missing or was altered.", f"Links are not followed. {AGAIN}")
    return AdapterError(f"{subject} cannot be read ({problem.strerror}).", AGAIN)
