"""A tokenizer in llama.cpp's form: tokens, merges, special tokens, and the name of the rule that pre-splits text.

llama.cpp supports a fixed list of named rules and no custom expression. A byte-level tokenizer with an unknown rule is
written with the most similar one, and `alike` is False: token ids keep their meaning, but text that is sent as text may
become other tokens than in training. Clients should then send token ids.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson

from academy.errors import BaseModelError
from academy.records import Record

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    (_WORDS + r"\p{N}{1,3}" + _REST, True): "llama-bpe",
    (_WORDS + r"\p{N}" + _REST, False): "qwen2",
}
"""The expression and whether whole words skip the merges -> llama.cpp's name."""
NEAREST = "gpt-2"
"""For a rule that llama.cpp does not know; it splits words and numbers with their space, punctuation, white space."""
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


class Vocabulary(Record):
    """The tokenizer of a GGUF file."""

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    split: str
    alike: bool  # whether llama.cpp splits every text as the tokenizer does
    begins: bool  # whether the tokenizer adds a first token
    bos: int | None
    eos: int
    pad: int | None
    template: str

    def add_to(self, writer: Any) -> None:
        """Write it into the header of a GGUF file."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.split)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.kinds))
        writer.add_token_merges(list(self.merges))
        if self.bos is not None:
            writer.add_bos_token_id(self.bos)
        writer.add_eos_token_id(self.eos)
        if self.pad is not None:
            writer.add_pad_token_id(self.pad)
        writer.add_add_bos_token(self.begins)
        if self.template:
            writer.add_chat_template(self.template)


def vocabulary(folder: Path, size: int, template: str | None = None) -> Vocabulary:
    """The tokenizer of a transformers folder, padded with unused tokens to `size` tokens.

    Raises BaseModelError for a tokenizer that is not a byte-level BPE.
    """
    from transformers import AutoTokenizer

    from academy.models.chat_template import ChatTemplate

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    own_template = ChatTemplate(tokenizer).text  # this also sets the tokenizer's end token
    backend = getattr(tokenizer, "backend_tokenizer", None)
    description: dict[str, Any] = orjson.loads(backend.to_str()) if backend is not None else {}
    model = description.get("model", {})
    if model.get("type") != "BPE" or "ByteLevel" not in str(description["decoder"]) or model.get("byte_fallback"):
        raise BaseModelError(
            "This base model's tokenizer cannot be written as GGUF: it is not a byte-level BPE.",
            "Serve it with PEFT, or use llama.cpp's own converter.",
        )
    tokens = {number: token for token, number in model["vocab"].items()}
    kinds = dict.fromkeys(tokens, NORMAL)
    for entry in description["added_tokens"]:
        tokens[entry["id"]] = entry["content"]
        kinds[entry["id"]] = CONTROL if entry["special"] else USER_DEFINED
    split, alike = _split(description)
    first = tokenizer("a")["input_ids"][:1]
    return Vocabulary(
        tokens=tuple(tokens.get(n, f"[PAD{n}]") for n in range(size)),
        kinds=tuple(kinds.get(n, UNUSED) for n in range(size)),
        merges=tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]),
        split=split,
        alike=alike,
        begins=tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id],
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        # the marks around trained text render to nothing, and llama.cpp does not support them
        template=re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", own_template if template is None else template),
    )


def _split(description: dict[str, Any]) -> tuple[str, bool]:
    """Llama.cpp's name of the rule that pre-splits text, and whether it does the same as the tokenizer."""
    before = description["pre_tokenizer"] or {}
    parts = before.get("pretokenizers", [before])
    plain = (description["normalizer"] or {}).get("type") in (None, "NFC")  # practically all text is composed
    match [part.get("type") for part in parts]:
        case ["ByteLevel"] if parts[0]["use_regex"] and not parts[0]["add_prefix_space"]:
            return "gpt-2", plain
        case ["Digits", "ByteLevel"] if parts[0]["individual_digits"] and parts[1]["use_regex"]:
            return "smollm", plain
        case ["Split", "ByteLevel"] if not parts[1]["use_regex"] and parts[0]["behavior"] == "Isolated":
            key = (parts[0]["pattern"].get("Regex", ""), bool(description["model"].get("ignore_merges")))
            return SPLITS.get(key, NEAREST), plain and key in SPLITS
    return NEAREST, False
