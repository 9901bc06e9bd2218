"""The tokenizer, and the corpus in token numbers."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from academy.models.seed.make.corpus import read_lines
from academy.models.seed.make.shape import (
    ASSISTANT,
    BEGIN,
    CHAT_TEMPLATE,
    END,
    PAD,
    POSITIONS,
    ROW,
    SPACED_WORDS,
    SPECIAL,
    SYSTEM,
    USER,
    VOCABULARY,
    render,
)

INNER = r"\n\s*|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\s+"  # spaces apart: to train the merges inside words
SPACED = r"\n\s*| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"  # a space with the word after it: to use the tokenizer


def byte_pre_tokenizer(pattern: str) -> Any:
    """Split by the pattern, then encode in bytes."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train_tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE that splits a word the same way with and without a space before it.

    Merges inside words are learned with spaces apart; the merges of a space with a whole frequent word come last. So
    the pieces of an unseen word never depend on the text before it, which makes the word easier to copy.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = byte_pre_tokenizer(INNER)
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY - SPACED_WORDS,
            special_tokens=list(SPECIAL),
            show_progress=False,
            max_token_length=16,
            initial_alphabet=sorted(_byte_alphabet()),
        ),
    )
    state = json.loads(inner.to_str())["model"]
    vocabulary: dict[str, int] = state["vocab"]
    merges = [tuple(merge) for merge in state["merges"]]
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(re.findall(r"(?<=\S) ([^\W\d_]+|\d|[^\w\s]+)", text))
    space = "\u0120"
    for word, _ in counts.most_common():
        if len(vocabulary) == VOCABULARY:
            break
        if word.isascii() and word in vocabulary and space + word not in vocabulary:
            vocabulary[space + word] = len(vocabulary)
            merges.append((space, word))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = byte_pre_tokenizer(SPACED)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def _byte_alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel.alphabet()


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the two tokenizer files of a model folder."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        model_max_length=POSITIONS,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        chat_template=None,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder, save_jinja_files=False)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, padding on the left for generation."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, padding_side="left")


def make_tokenizer(args: argparse.Namespace) -> None:
    """Train the tokenizer (an existing one is kept) and encode the corpus as 16-bit token numbers."""
    import numpy as np
    from tokenizers import Tokenizer

    documents = list(read_lines(args.work / "documents.jsonl"))
    chats = [chat["messages"] for chat in read_lines(args.work / "chat.jsonl")]
    train = [d["text"] for d in documents if d["split"] == "train"]
    folder = args.work / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        sample = [message["content"] for messages in chats[:12_000] for message in messages]
        save_tokenizer(train_tokenizer(train + sample), folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    sizes: dict[str, list[int]] = {}
    for split in ("train", "held-out"):
        texts = [BEGIN + d["text"] for d in documents if d["split"] == split]
        pieces = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
        sizes[split] = [len(piece) for piece in pieces]
        np.array([token for piece in pieces for token in piece], dtype=np.uint16).tofile(args.work / f"{split}.u16")
    (args.work / "held-out-sizes.json").write_text(json.dumps(sizes["held-out"]), encoding="utf-8")
    rows, masks, dropped = pack_chats(tokenizer, chats)
    np.array(rows, dtype=np.uint16).tofile(args.work / "chat.u16")
    np.array(masks, dtype=np.uint8).tofile(args.work / "chat-mask.u8")
    report = {
        "text_tokens": sum(sizes["train"]),
        "held_out_tokens": sum(sizes["held-out"]),
        "chat_rows": len(rows),
        "chat_tokens": len(rows) * ROW,
        "answer_tokens": sum(map(sum, masks)),
        "chats_dropped": dropped,
        "characters_per_token": round(sum(map(len, train)) / sum(sizes["train"]), 3),
    }
    (args.work / "tokens.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(json.dumps(report, indent=1))


def pack_chats(tokenizer: Any, chats: list[list[dict[str, str]]]) -> tuple[list[list[int]], list[list[int]], int]:
    """Whole chats in rows, masks of their answers' tokens, and how many chats were too long for a row."""
    prompts = tokenizer.encode_batch([render(messages[:-1]) + f"{ASSISTANT}\n" for messages in chats])
    replies = tokenizer.encode_batch([messages[-1]["content"] + END for messages in chats])
    pad, newline = int(tokenizer.token_to_id(PAD)), list(tokenizer.encode("\n").ids)
    rows: list[list[int]] = [[]]
    masks: list[list[int]] = [[]]
    dropped = 0
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = prompt.ids + reply.ids + newline
        if len(ids) > ROW:
            dropped += 1
            continue
        if len(rows[-1]) + len(ids) > ROW:
            rows.append([])
            masks.append([])
        rows[-1] += ids
        masks[-1] += [0] * len(prompt.ids) + [1] * len(reply.ids) + [0] * len(newline)
    rows = [row + [pad] * (ROW - len(row)) for row in rows]
    masks = [mask + [0] * (ROW - len(mask)) for mask in masks]
    return rows, masks, dropped
