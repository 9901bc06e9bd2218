"""A tokenizer as llama.cpp keeps it: tokens, merges, special tokens and the name of how text is split before merging.

llama.cpp knows the ways of splitting by name and takes no expression of one's own. A byte-level tokenizer whose
splitting it does not know is written with the nearest one, and `alike` says so: token ids mean the same there, but
text that is sent as words may fall into other tokens than in training. Whoever can, sends token ids.
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
"""For a splitting that llama.cpp does not know: words and numbers with their space, marks, white space."""
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


class Vocabulary(Record):
    """What a GGUF file says of its tokenizer."""

    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    split: str
    alike: bool  # whether llama.cpp splits every text as the tokenizer does
    begins: bool  # whether a text gets a first token of its own
    bos: int | None
    eos: int
    pad: int | None
    template: str

    def add_to(self, writer: Any) -> None:
        """Write it into a GGUF file's head."""
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
    """The tokenizer of a transformers folder, filled up to `size` tokens with unused ones.

    Raises BaseModelError for a tokenizer that is not a byte-level BPE.
    """
    from transformers import AutoTokenizer

    from academy.models.chat_template import ChatTemplate

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    own = ChatTemplate(tokenizer).text  # which also tells the tokenizer what ends an answer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    stored: dict[str, Any] = orjson.loads(backend.to_str()) if backend is not None else {}
    model = stored.get("model", {})
    if model.get("type") != "BPE" or "ByteLevel" not in str(stored["decoder"]) or model.get("byte_fallback"):
        raise BaseModelError(
            "This base model's tokenizer cannot be written as GGUF: it is no byte-level BPE.",
            "Serve it with PEFT, or use llama.cpp's own converter.",
        )
    tokens = {number: token for token, number in model["vocab"].items()}
    kinds = dict.fromkeys(tokens, NORMAL)
    for one in stored["added_tokens"]:
        tokens[one["id"]] = one["content"]
        kinds[one["id"]] = CONTROL if one["special"] else USER_DEFINED
    split, alike = _split(stored)
    first = tokenizer("a")["input_ids"][:1]
    return Vocabulary(
        tokens=tuple(tokens.get(n, f"[PAD{n}]") for n in range(size)),
        kinds=tuple(kinds.get(n, UNUSED) for n in range(size)),
        merges=tuple(one if isinstance(one, str) else " ".join(one) for one in model["merges"]),
        split=split,
        alike=alike,
        begins=tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id],
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        # the marks of what is trained on render to nothing, and llama.cpp does not know them
        template=re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", template or own),
    )


def _split(stored: dict[str, Any]) -> tuple[str, bool]:
    """Llama.cpp's name for how text is split before merging, and whether it means the same."""
    before = stored["pre_tokenizer"] or {}
    parts = before.get("pretokenizers", [before])
    plain = (stored["normalizer"] or {}).get("type") in (None, "NFC")  # composed text is what everybody sends
    match [part.get("type") for part in parts]:
        case ["ByteLevel"] if parts[0]["use_regex"] and not parts[0]["add_prefix_space"]:
            return "gpt-2", plain
        case ["Digits", "ByteLevel"] if parts[0]["individual_digits"] and parts[1]["use_regex"]:
            return "smollm", plain
        case ["Split", "ByteLevel"] if not parts[1]["use_regex"] and parts[0]["behavior"] == "Isolated":
            key = (parts[0]["pattern"].get("Regex", ""), bool(stored["model"].get("ignore_merges")))
            return SPLITS.get(key, NEAREST), plain and key in SPLITS
    return NEAREST, False
