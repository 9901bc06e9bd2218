"""Resolves a base model to a folder on this machine and a digest of its content.

`seed` is the small model that ships in `academy/models/seed/`. A folder is taken as it is; any other name is
asked of the Hugging Face hub (safetensors and tokenizer files only, no remote code) and then read from its local copy.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import orjson

from academy.errors import BaseModelError
from academy.records import Record, digest_of
from academy.store.files import digest_of_file

SEED = "seed"
SEED_FOLDER = Path(__file__).parent / "seed"
WANTED = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt",
          "chat_template.jinja", "*.safetensors", "*.safetensors.index.json")  # fmt: skip


class BaseModel(Record):
    """A base model on this machine. `digest` covers weights, configuration and tokenizer by content.

    The name is one that means the same to every process: `seed`, an absolute path, or the hub's name.
    """

    name: str
    path: Path
    digest: str

    @cached_property
    def parameters(self) -> int:
        """How many weights it has, read from the headers of its safetensors files."""
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
        """The last parts of its layers' names (`q_proj`), read from the headers of its safetensors files."""
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

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Tokens of each text. Uses the fast tokenizer alone, so that curation needs no torch."""
        if (self.path / "tokenizer.json").is_file():
            from tokenizers import Tokenizer

            return [
                len(found.ids) for found in Tokenizer.from_file(str(self.path / "tokenizer.json")).encode_batch(texts)
            ]
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def resolve(name: str) -> BaseModel:
    """Find a base model by name or folder.

    Raises BaseModelError, with the remedy, for one that is not there, has no safetensors or needs code of its own.
    """
    if name == SEED:
        folder = SEED_FOLDER
    elif Path(name).is_dir():
        folder = Path(name).resolve()
        name = _absolute(Path(name))  # it goes to workers, which stand in another folder
    elif name.startswith((".", "/", "~")):
        raise BaseModelError(f"There is no base model folder {name}.", "Check the path given as base model.")
    else:
        folder = _from_hub(name)
    check(name, folder)
    files = sorted({path for pattern in WANTED for path in folder.glob(pattern) if path.is_file()})
    return BaseModel(name=name, path=folder, digest=digest_of({path.name: digest_of_file(path) for path in files}))


def _absolute(folder: Path) -> str:
    """The folder from the root. A link keeps its name, which names the family of its adapters."""
    whole = folder.absolute()
    if whole.name == "..":
        whole = whole.resolve()
    elif ".." in whole.parts:
        whole = whole.parent.resolve() / whole.name
    return str(whole)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    remedy = (
        f"Check the name, the network and your access, or give a folder, or '{SEED}' for the model that ships here."
    )
    try:
        return Path(snapshot_download(name, allow_patterns=list(WANTED)))
    except HFValidationError as problem:
        raise BaseModelError(f"'{name}' is no name of a base model.", remedy) from problem
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        raise BaseModelError(
            f"The base model '{name}' could not be found on the Hugging Face hub.", remedy
        ) from problem


def check(name: str, folder: Path) -> None:
    """Raises BaseModelError for a folder that holds no base model, or one that needs code of its own."""
    config = folder / "config.json"
    if not config.is_file() or not any(folder.glob("*.safetensors")):
        raise BaseModelError(
            f"{name} holds no base model: config.json and *.safetensors are needed.",
            "Other weight formats are refused because they can run code; convert the model to safetensors.",
        )
    try:
        content = orjson.loads(config.read_bytes())
    except orjson.JSONDecodeError as problem:
        raise BaseModelError(f"config.json of {name} is no JSON ({problem}).", "Copy the model again.") from problem
    if "auto_map" in content:
        raise BaseModelError(
            f"The base model {name} wants to run code of its own (auto_map).", "Choose one that transformers knows."
        )


def _header(path: Path) -> dict[str, dict[str, list[int]]]:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header: dict[str, dict[str, list[int]]] = orjson.loads(stream.read(length))
    return header
