"""Resolves a base model to a folder on this machine and a digest of its content.

`seed` is the small model that ships in `academy/models/seed/`. A folder is used as it is. Any other name is downloaded
from the Hugging Face hub (safetensors and tokenizer files only, no remote code) and then read from the local copy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import orjson

from academy.errors import BaseModelError, TemplateError
from academy.models.messages import Transcript
from academy.models.rendering import Rendering
from academy.models.template_day import day_of
from academy.models.template_files import read_template_files, read_text
from academy.records import Record, digest_of
from academy.store.files import digest_of_file

NEEDS_TOOLS = "needs a chat template with tools"
"""Why a base model cannot be trained on a conversation with tools."""
SEED = "seed"
SEED_FOLDER = Path(__file__).parent / "seed"
MODEL_FILES = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt",
          "chat_template.jinja", "additional_chat_templates/*.jinja", "*.safetensors",
          "*.safetensors.index.json")  # fmt: skip


class BaseModel(Record):
    """A base model on this machine. `digest` covers weights, configuration and tokenizer by content.

    The name is valid in every process: `seed`, an absolute path, or the name on the hub.
    """

    name: str
    path: Path
    digest: str

    @cached_property
    def parameters(self) -> int:
        """The number of weights, from the headers of its safetensors files."""
        total = 0
        for path in sorted(self.path.glob("*.safetensors")):
            for name, entry in _header(path).items():
                if name != "__metadata__":
                    count = 1
                    for size in entry["shape"]:
                        count *= size
                    total += count
        return total

    @cached_property
    def modules(self) -> frozenset[str]:
        """The last parts of its layers' names (`q_proj`), from the headers of its safetensors files."""
        names = (name for path in self.path.glob("*.safetensors") for name in _header(path))
        return frozenset(name.removesuffix(".weight").rpartition(".")[2] for name in names)

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

            fast = Tokenizer.from_file(str(self.path / "tokenizer.json"))
            return [len(encoding.ids) for encoding in fast.encode_batch(texts, add_special_tokens=False)]
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)
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
    check(name, folder)
    files = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    return BaseModel(
        name=name,
        path=folder,
        digest=digest_of({str(path.relative_to(folder)): digest_of_file(path) for path in files}),
    )


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
        return Path(snapshot_download(name, allow_patterns=list(MODEL_FILES)))
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


def check(name: str, folder: Path) -> None:
    """Raises BaseModelError for a folder without a base model, or a base model that needs its own code."""
    config = folder / "config.json"
    if not config.is_file() or not any(folder.glob("*.safetensors")):
        raise BaseModelError(
            f"{name} does not contain a base model: config.json and *.safetensors are required.",
            "Other weight formats are refused because they can run code. Convert the model to safetensors.",
        )
    try:
        content = orjson.loads(config.read_bytes())
    except orjson.JSONDecodeError as problem:
        raise BaseModelError(
            f"config.json of {name} is not valid JSON ({problem}).", "Copy the model again."
        ) from problem
    if "auto_map" in content:
        raise BaseModelError(
            f"The base model {name} needs its own code (auto_map).", "Choose one that transformers supports."
        )


def _header(path: Path) -> dict[str, dict[str, list[int]]]:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header: dict[str, dict[str, list[int]]] = orjson.loads(stream.read(length))
    return header
