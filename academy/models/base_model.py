"""Resolves a base model to a folder on this machine and a digest of its content.

`seed` is the small model that ships in `academy/models/seed/`. A folder is used as it is. Any other name is downloaded
from the Hugging Face hub (safetensors and tokenizer files only, no remote code) and then read from the local copy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson

from academy.errors import BaseModelError, TemplateError
from academy.models.messages import Transcript
from academy.models.model_files import HUB_PATTERNS, loaded_files, weight_files
from academy.models.model_settings import check_settings, check_sizes
from academy.models.rendering import Rendering
from academy.models.template_day import day_of
from academy.models.template_files import read_template_files, read_text
from academy.models.weights import read_shapes
from academy.records import Record, digest_of
from academy.store.files import digest_of_file

if TYPE_CHECKING:
    from academy.models.chat_template import ChatTemplate

NEEDS_TOOLS = "needs a chat template with tools"
"""Why a base model cannot be trained on a conversation with tools."""
SEED = "seed"
SEED_FOLDER = Path(__file__).parent / "seed"
SUMS = "SHA256SUMS"
"""The sha256 of the seed's files, beside them."""


class BaseModel(Record):
    """A base model on this machine. `digest` covers weights, configuration and tokenizer by content.

    The name is valid in every process: `seed`, an absolute path, or the name on the hub.
    """

    name: str
    path: Path
    digest: str

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of its tensors by name, from the headers of the weights that are loaded."""
        return read_shapes(self.weights)

    @cached_property
    def weights(self) -> tuple[Path, ...]:
        """The files of its weights."""
        return weight_files(self.name, self.path)

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def modules(self) -> frozenset[str]:
        """The last parts of its layers' names (`q_proj`)."""
        return frozenset(name.removesuffix(".weight").rpartition(".")[2] for name in self.shapes)

    @contextmanager
    def unchanged(self) -> Iterator[Path]:
        """The folder, for a loader. Its files are checked before and after: what is loaded is what the digest covers.

        A process that has the digest from another one reads all files once. Raises BaseModelError.
        """
        before = check(self.name, self.path)
        digest = digest_of_files(self.path, before)
        if digest != self.digest:
            raise BaseModelError(
                f"The files of the base model {self.name} have changed: its digest is {digest[:12]}, "
                f"not {self.digest[:12]}.",
                "Start again with the changed model, or copy the model again.",
            )
        yield self.path
        if check(self.name, self.path) != before:
            raise BaseModelError(
                f"Files of the base model {self.name} changed while they were loaded.", "Wait for the copy, and retry."
            )

    @cached_property
    def context(self) -> int:
        """Longest sequence in tokens."""
        config = orjson.loads((self.path / "config.json").read_bytes())
        return int(config.get("max_position_embeddings") or config.get("n_positions") or 1024)

    @property
    def family(self) -> str:
        """The registry's name for all adapters of this base model."""
        slug = re.sub(r"[^a-z0-9]+", "-", Path(self.name).name.lower()).strip("-") or "model"
        return f"academy-{slug}-{self.digest[:8]}"

    @cached_property
    def rendering(self) -> Rendering:
        """Its chat template, without a tokenizer. Raises TemplateError where it cannot be read."""
        return Rendering.of(read_template_files(self.path))

    def open_template(self, adapter: Path | None = None) -> ChatTemplate:
        """The chat template with the tokenizer: the adapter's stored template, or its own. Loads transformers."""
        from academy.models.chat_template import ChatTemplate

        with self.unchanged() as folder:
            return ChatTemplate.of(folder, adapter)

    @property
    def template_note(self) -> str:
        """A sentence about what is unusual in its chat template; empty if nothing is."""
        if not read_text(self.path)[0]:
            return (
                "The base model has no chat template. Its prompts are written as '### user:' and '### assistant:', "
                "for training and for serving."
            )
        try:
            _ = self.rendering.frame
        except TemplateError:  # curation names the fault; what such a template lacks is not known
            return ""
        notes = []
        if day := day_of(self.rendering.text):
            notes.append(f"The chat template shows the current day; every prompt has the day {day}.")
        if self.rendering.system_in_request:
            notes.append("The chat template has no system message; its text is put before the first request.")
        return " ".join(notes)

    def measure(self, conversations: Sequence[Transcript]) -> list[int | str]:
        """The tokens of each conversation as it is trained on, or why its chat template rejects it, in a few words.

        A conversation ends with an answer. Raises TemplateError where the template works for no conversation.
        """
        _ = self.rendering.frame
        sizes: list[int | str] = []
        texts: list[str] = []
        owners: list[int] = []  # the conversation of each text
        for number, transcript in enumerate(conversations):
            if transcript.has_tools and not self.rendering.takes_tools:
                sizes.append(NEEDS_TOOLS)
                continue
            try:
                parts = self.rendering.example_of(transcript)
            except TemplateError as problem:
                sizes.append(f"chat template: {problem.message.removeprefix('The chat template ').rstrip('.')}")
                continue
            sizes.append(0)
            for piece, is_plain in (piece for part in parts for piece in part.pieces()):
                # a control token in a content becomes ordinary tokens: at most those of its characters
                texts += piece if is_plain else [piece]
                owners += [number] * (len(piece) if is_plain else 1)
        for number, tokens in zip(owners, self.count_tokens(texts), strict=True):
            sizes[number] += tokens  # type: ignore[operator]  # these have no reason
        return sizes

    def count_tokens(self, texts: list[str]) -> list[int]:
        """The number of tokens of each text. Uses only the fast tokenizer, so that curation does not need torch."""
        if (self.path / "tokenizer.json").is_file():
            from tokenizers import Tokenizer

            with self.unchanged() as folder:
                fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
            return [len(encoding.ids) for encoding in fast.encode_batch(texts, add_special_tokens=False)]
        from transformers import AutoTokenizer

        with self.unchanged() as folder:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def resolve(name: str) -> BaseModel:
    """Find a base model by name or folder.

    Raises BaseModelError with the fix if it is missing, has no safetensors or needs its own code.
    """
    if name == SEED:
        folder = SEED_FOLDER
    elif Path(name).is_dir():
        folder = Path(name).resolve()
        name = _absolute(Path(name))  # workers run in another folder
    elif name.startswith((".", "/", "~")):
        raise BaseModelError(f"The base model folder {name} does not exist.", "Check the path of the base model.")
    else:
        folder = _from_hub(name)
    stamps = check(name, folder)
    if folder == SEED_FOLDER and (altered := altered_seed_files()):
        raise BaseModelError(
            f"The seed model was altered: {', '.join(altered)} does not have the checksum in {SUMS}.",
            "Install the package again, or use another base model.",
        )
    return BaseModel(name=name, path=folder, digest=digest_of_files(folder, stamps))


def _absolute(folder: Path) -> str:
    """The absolute folder. A link keeps its name, because the name identifies the family of its adapters."""
    path = folder.absolute()
    if path.name == "..":
        path = path.resolve()
    elif ".." in path.parts:
        path = path.parent.resolve() / path.name
    return str(path)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    remedy = f"Check the name, the network and your access. Or use a folder, or '{SEED}' for the included model."
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_PATTERNS), ignore_patterns=["consolidated*"]))
    except HFValidationError as problem:
        if re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?:[\w.-]+", name):
            raise BaseModelError(
                f"'{name}' is a name of Ollama, and trainings need the model's own weights.",
                "Name its repository on the Hugging Face hub, such as microsoft/Phi-3-mini-4k-instruct, or a folder.",
            ) from problem
        raise BaseModelError(f"'{name}' is not a valid name of a base model.", remedy) from problem
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        raise BaseModelError(
            f"The base model '{name}' could not be found on the Hugging Face hub.", remedy
        ) from problem


class Stamp(NamedTuple):
    """What changes with a file: even a program that restores its time cannot restore `changed`."""

    path: Path
    inode: int
    size: int
    modified: int
    changed: int


def check(name: str, folder: Path) -> tuple[Stamp, ...]:
    """The files of a base model that are loaded, all of them checked.

    Raises BaseModelError for a folder without a base model, with files that are not known, or with a model that needs
    its own code or has settings that are refused.
    """
    stamps = []
    for path in loaded_files(name, folder):
        status = path.stat()
        stamps.append(Stamp(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    _check_contents(name, folder, tuple(stamps))
    return tuple(stamps)


@lru_cache(maxsize=16)
def _check_contents(name: str, folder: Path, stamps: tuple[Stamp, ...]) -> None:
    """Check settings and headers, once in a process as long as the files do not change."""
    top = {stamp.path.name: stamp.path for stamp in stamps if stamp.path.parent == folder}
    check_settings(name, top)
    check_sizes(name, top["config.json"], len(read_shapes(weight_files(name, folder))))


def digest_of_files(folder: Path, stamps: Sequence[Stamp]) -> str:
    """The digest of a base model: of the names and contents of all files that are loaded."""
    return digest_of({str(stamp.path.relative_to(folder)): _digest_of(stamp) for stamp in stamps})


@lru_cache(maxsize=1024)
def _digest_of(stamp: Stamp) -> str:
    """The sha256 of a file, computed once in a process as long as the file does not change."""
    return digest_of_file(stamp.path)


def altered_seed_files() -> list[str]:
    """The names of the seed's files that differ from the checksums beside them."""
    file = SEED_FOLDER / SUMS
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    sums = {name: digest for digest, name in map(str.split, lines)}
    digests = {stamp.path.name: _digest_of(stamp) for stamp in check(SEED, SEED_FOLDER)}
    others = {name: SEED_FOLDER / name for name in sums.keys() - digests.keys()}
    digests |= {name: digest_of_file(path) if path.is_file() else "" for name, path in others.items()}
    return sorted(name for name in digests if digests[name] != sums.get(name))
