#!/usr/bin/env python3
"""Make the seed: the small base model that The Academy ships so that everything runs without a download.

The stages run in this order, each from what the one before left in the work folder:

    corpus     collect the Python documentation and library source, invent the chat tasks
    tokenizer  train the byte-level BPE, encode the corpus
    train      pre-train a small Llama on a CPU; resumes from its checkpoint
    evaluate   held-out perplexity and how well unseen words are copied
    lora       check that a LoRA on top of it learns a small mapping quickly
    export     write the model folder: weights, configuration, tokenizer, card, SHA256SUMS

Example (the documentation is the unpacked Debian package python3.11-doc):

    python make_seed.py all --docs html/_sources --library lib/python3.11 --work work --out seed --minutes 55
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STAGES = ("corpus", "tokenizer", "train", "evaluate", "lora", "export")
PAD, BEGIN, SYSTEM, USER, ASSISTANT, END = SPECIAL = (
    "<|pad|>",
    "<|begin|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
VOCABULARY, SPACED_WORDS = 3072, 1000
HIDDEN, LAYERS, HEADS, INTERMEDIATE, POSITIONS = 192, 6, 6, 512, 1024
ROW, LONG_ROW = 256, 1024
# A step holds 16 rows of 256 tokens: 6 of chat, of which only the answers are learned and weigh double; some echo rows
# (see Training.echo); the rest is documents. Every eighth step is 4 rows of 1,024 tokens of documents.
ROWS, CHAT_ROWS, LONG_ROWS, LONG_EVERY, ANSWER_WEIGHT = 16, 6, 4, 8, 2
ECHO_ROWS, ECHO_ROWS_LATE, ECHO_UNTIL = 4, 1, 0.6
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\\n' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "pydoc_data",
    "turtledemo",
    "encodings",
    "ensurepip",
    "__pycache__",
    "site-packages",
    "dist-packages",
    "changelog.rst.txt",
}

# ---------------------------------------------------------------------------------------------------- words


ONSETS = (
    *"bcdfghjklmnprstvwz",
    *("bl", "br", "cl", "cr", "dr", "fl", "fr", "gl", "gr", "kl", "pl"),
    *("pr", "sk", "sl", "sn", "st", "tr"),
)
VOWELS = (*"aeiou", *"aeiou", "ai", "ee", "oo")
CODAS = ("", "", "", "n", "r", "l", "s", "m", "k", "t", "x")


def nonword(rng: random.Random) -> str:
    """A pronounceable word of two or three syllables that (nearly always) means nothing."""
    word = ""
    for _ in range(rng.choice((2, 2, 2, 3))):
        word += rng.choice(ONSETS) + rng.choice(VOWELS)
        word += rng.choice(CODAS)
    return word


def letters(rng: random.Random) -> str:
    """Random letters, harder than a non-word: nothing like it is made for training."""
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(4, 8)))


class Words:
    """Draws the words of the chat tasks: non-words, words of the documents, identifiers, numbers."""

    def __init__(self, rng: random.Random, real: list[str], reserved: set[str]) -> None:
        self.rng, self.real, self.reserved = rng, real, reserved

    def invented(self) -> str:
        """A non-word that is not kept for the evaluation, nor contains one that is."""
        while True:
            word = nonword(self.rng)
            if not any(word[i:j] in self.reserved for i in range(len(word)) for j in range(i + 4, len(word) + 1)):
                return word

    def identifier(self) -> str:
        """A name as found in programs and configurations."""
        parts = [self.plain() for _ in range(self.rng.choice((1, 2, 2, 3)))]
        style = self.rng.randrange(5)
        if style == 0:
            return "_".join(parts)
        if style == 1:
            return "-".join(parts)
        if style == 2:
            return "".join(part.capitalize() for part in parts)
        if style == 3:
            return ".".join(parts)
        return f"{parts[0]}{self.rng.randint(0, 99)}"

    def number(self) -> str:
        """A number of one to five digits, sometimes with a point."""
        value = str(self.rng.randint(0, 10 ** self.rng.randint(1, 5)))
        return value + f".{self.rng.randint(0, 99)}" if self.rng.random() < 0.15 else value

    def plain(self) -> str:
        """A lower-case word, invented or real."""
        return self.invented() if self.rng.random() < 0.6 else self.rng.choice(self.real)

    def name(self) -> str:
        """A capitalised invented name."""
        return self.invented().capitalize()

    def any(self) -> str:
        """A word of any kind."""
        draw = self.rng.random()
        if draw < 0.5:
            return self.invented()
        if draw < 0.65:
            return self.rng.choice(self.real)
        if draw < 0.85:
            return self.identifier()
        return self.number() if draw < 0.93 else self.name()

    def some(self, low: int, high: int, kind: Callable[[], str] | None = None) -> list[str]:
        """Between low and high different words."""
        count = self.rng.randint(low, high)
        found: list[str] = []
        while len(found) < count:
            word = (kind or self.any)()
            if word not in found:
                found.append(word)
        return found


# ---------------------------------------------------------------------------------------------------- chat tasks

REPEAT = (
    "Repeat the word: {}",
    "Repeat this word: {}",
    "Say {}",
    "Say the word {}.",
    'Repeat "{}".',
    "Write {} again.",
    "Please repeat: {}",
    "Echo {}",
    "Copy the word {}.",
    "Quote this: {}",
    "Answer with the word {}.",
    "Repeat after me: {}",
    "Print {}.",
    'The word is "{}". Which word is it?',
    "Type the word {} and nothing else.",
)
REPEAT_UNSEEN = (
    "Your answer is the word {} and nothing more.",
    "Give me back {}.",
    "I say {}, you say the same:",
    "{} is what you should reply.",
)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def task_repeat(w: Words) -> tuple[str, str]:
    """Repeat one word."""
    word = w.any()
    return w.rng.choice(REPEAT).format(word), word


def task_line(w: Words, low: int = 2, high: int = 0) -> tuple[str, str]:
    """Copy a line of several words."""
    line = w.rng.choice((" ", " ", ", ", " / ")).join(w.some(low, high or w.rng.choice((3, 6, 14))))
    return w.rng.choice(
        (
            "Repeat the words: {}",
            "Copy this line: {}",
            "Repeat: {}",
            "Say: {}",
            "Write this again:\n{}",
            "Copy exactly.\n{}",
            'Quote the line "{}".',
        )
    ).format(line), line


def task_long(w: Words) -> tuple[str, str]:
    """Copy a long line: the densest signal that copying is of use at all."""
    return task_line(w, 8, 22)


def task_quote(w: Words) -> tuple[str, str]:
    """Repeat a word in another dress: in quotes, in brackets, as an option, twice."""
    word, style = w.any(), w.rng.randrange(6)
    prompt, answer = (
        (f"Put {word} in double quotes.", f'"{word}"'),
        (f"Put {word} in brackets.", f"({word})"),
        (f"Write {word} as an option.", f"--{word}"),
        (f"Say {word} twice.", f"{word} {word}"),
        (f"Write {word} in capitals.", word.upper()),
        (f"Put a star before {word}.", f"*{word}"),
    )[style]
    return prompt, answer


def task_order(w: Words) -> tuple[str, str]:
    """Reverse, first, last, n-th."""
    words = w.some(2, 2) if w.rng.random() < 0.4 else w.some(3, 6)
    line = w.rng.choice((" ", ", ")).join(words)
    kind = w.rng.randrange(4)
    if len(words) == 2 and kind < 2:
        prompt = ("Swap the two: {} {}", "Say in reverse order: {} {}", "Turn around: {}, {}")[w.rng.randrange(3)]
        return prompt.format(*words), (", " if "," in prompt else " ").join(reversed(words))
    if kind == 0:
        return f"What is the first word of: {line}", words[0]
    if kind == 1:
        return f"What is the last word of: {line}", words[-1]
    if kind == 2:
        place = w.rng.randrange(len(words))
        return f"What is the {ORDINALS[place]} word of: {line}", words[place]
    place = w.rng.randrange(len(words) - 1)
    return f"Which word comes after {words[place]} in: {line}", words[place + 1]


def task_lookup(w: Words) -> tuple[str, str]:
    """Find the value that belongs to a key."""
    count = w.rng.randint(2, 6)
    keys, values = w.some(count, count, w.plain), w.some(count, count)
    place, style = w.rng.randrange(count), w.rng.randrange(4)
    form, glue = (("{}={}", " "), ("{}: {}", "\n"), ("{} = {}", "; "), ("- {} is {}", "\n"))[style]
    table = glue.join(form.format(key, value) for key, value in zip(keys, values, strict=True))
    question = w.rng.choice(
        ("Which value belongs to {}?", "What is {}?", "Give the value of {}.", "{}?", "Look up {}.")
    ).format(keys[place])
    return (f"{table}\n{question}" if w.rng.random() < 0.7 else f"{question}\n{table}"), values[place]


def task_recall(w: Words) -> tuple[str, str]:
    """State one thing, ask for it."""
    key, value = w.plain(), w.any()
    return w.rng.choice(
        (
            "Remember {0}={1}. What is {0}?",
            "The {0} is {1}. What is the {0}?",
            "Set {0} to {1}. What is {0} now?",
            "Let {0} be {1}. Tell me {0}.",
            "My {0} is called {1}. How is my {0} called?",
        )
    ).format(key, value), value


def task_form(w: Words) -> tuple[str, str]:
    """Fill a short form from a sentence: the answer keeps its values and changes what is around them."""
    a, b, c = w.plain(), w.any(), w.any()
    return w.rng.choice(
        (
            (f"Set {a} to {b}.", f"{a}={b}"),
            (f"Call {a} with {b}.", f"{a}({b})"),
            (f"Call {a} with {b} and {c}.", f"{a}({b}, {c})"),
            (f"Use the option {a} with {b}.", f"--{a}={b}"),
            (f"Write {b} and {c} as a list.", f"[{b}, {c}]"),
            (f"Copy {b} to {c}.", f"cp {b} {c}"),
            (f"Import {a}.", f"import {a}"),
            (f"From {a} import {b}.", f"from {a} import {b}"),
            (f"Make a tag {a} around {b}.", f"<{a}>{b}</{a}>"),
            (f"{a} is {b} and {c} is the rest.", f"{a}: {b}\nrest: {c}"),
        )
    )


def task_span(w: Words) -> tuple[str, str]:
    """A question about a sentence; the answer is a span of it."""
    who, where, thing, other, count = w.name(), w.name(), w.plain(), w.plain(), w.rng.randint(2, 99)
    sentence, pairs = w.rng.choice(
        (
            (
                f"{who} keeps the {thing} in {where}.",
                (("Who keeps the {t}?", who), ("Where is the {t}?", where), ("What does {w} keep?", f"the {thing}")),
            ),
            (
                f"In {where} the {thing} is sold by {who} for {count} coins.",
                (("Who sells the {t}?", who), ("How many coins is the {t}?", str(count)), ("Where is it sold?", where)),
            ),
            (
                f"The {thing} of {who} needs {count} {other} every day.",
                (
                    ("How many {o} does it need?", str(count)),
                    ("Whose {t} is it?", who),
                    ("What does the {t} need?", f"{count} {other}"),
                ),
            ),
            (
                f"{who} wrote the {thing} before {where} read the {other}.",
                (("Who wrote the {t}?", who), ("Who read the {o}?", where), ("What did {p} read?", f"the {other}")),
            ),
            (
                f"The function {thing} takes {other} and returns {who}.",
                (
                    ("What does {t} take?", other),
                    ("What does {t} return?", who),
                    ("Which function returns {w}?", thing),
                ),
            ),
        )
    )
    question, answer = w.rng.choice(pairs)
    question = question.format(w=who, p=where, t=thing, o=other)
    return (f"{sentence} {question}" if w.rng.random() < 0.6 else f"{question}\n{sentence}"), answer


TASKS: tuple[tuple[Callable[[Words], tuple[str, str]], int], ...] = (
    (task_repeat, 22),
    (task_line, 22),
    (task_long, 27),
    (task_quote, 6),
    (task_order, 12),
    (task_lookup, 12),
    (task_recall, 8),
    (task_form, 10),
    (task_span, 8),
)
SYSTEMS = ("Answer in one line.", "You copy what you are given.", "Answer with words of the question.", "Be brief.")


def signatures(text: str) -> Iterator[tuple[str, str]]:
    """Docstring -> signature pairs of one source file."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            summary = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ").strip()
            signature = f"def {node.name}({ast.unparse(node.args)})"
            if 20 <= len(summary) <= 200 and len(signature) <= 120:
                yield f"Write the signature of a function.\n{summary}", signature


# ---------------------------------------------------------------------------------------------------- corpus


def read_documents(docs: Path, library: Path) -> list[dict[str, str]]:
    """All documents, one in twenty held out by the digest of its name; copies are dropped."""
    found, seen = [], set()
    for kind, root, pattern in (("documentation", docs, "*.rst.txt"), ("source", library, "*.py")):
        for path in sorted(root.rglob(pattern)):
            name = path.relative_to(root)
            if SKIPPED & set(name.parts) or path.is_symlink():
                continue
            text = path.read_text(encoding="utf-8", errors="ignore")[:200_000].strip()
            digest = hashlib.sha256(text.encode()).hexdigest()
            if len(text) < 200 or digest in seen:
                continue
            seen.add(digest)
            held_out = hashlib.sha256(f"{kind}/{name}".encode()).digest()[0] % 16 == 0
            found.append({"kind": kind, "name": str(name), "split": "held-out" if held_out else "train", "text": text})
    return found


def make_corpus(args: argparse.Namespace) -> None:
    """Write documents.jsonl, chat.jsonl and the words kept for the evaluation."""
    rng = random.Random(args.seed)
    documents = read_documents(args.docs, args.library)
    train = [d["text"] for d in documents if d["split"] == "train"]
    counts = Counter(word for text in train for word in re.findall(r"[a-z]{3,10}", text))
    everything = "\n".join(d["text"] for d in documents).lower()

    def reserve(make: Callable[[random.Random], str], count: int) -> list[str]:
        words: list[str] = []
        while len(words) < count:
            word = make(rng)
            if len(word) >= 4 and word not in words and word not in everything:
                words.append(word)
        return words

    kept = {"nonwords": reserve(nonword, 1000), "letters": reserve(letters, 200)}
    words = Words(rng, [word for word, _ in counts.most_common(4000)], set(kept["nonwords"]) | set(kept["letters"]))
    pairs = [
        ("signature", pair)
        for d in documents
        if d["split"] == "train" and d["kind"] == "source"
        for pair in signatures(d["text"])
    ]
    tasks, weights = zip(*TASKS, strict=True)
    pairs += [(task.__name__, task(words)) for task in rng.choices(tasks, weights, k=args.chats)]
    rng.shuffle(pairs)

    args.work.mkdir(parents=True, exist_ok=True)
    with (args.work / "documents.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(d) + "\n" for d in documents)
    chat_text = []
    with (args.work / "chat.jsonl").open("w", encoding="utf-8") as file:
        for task_name, (question, answer) in pairs:
            messages = [{"role": "system", "content": rng.choice(SYSTEMS)}] if rng.random() < 0.06 else []
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"task": task_name, "messages": messages}) + "\n")
            chat_text.append(question + "\n" + answer)
    chats = "\n".join(chat_text).lower()
    # Words glued together in an identifier may spell a kept word by chance: such a word is not used.
    kept = {kind: [word for word in found if word not in chats] for kind, found in kept.items()}
    (args.work / "kept.json").write_text(json.dumps(kept), encoding="utf-8")
    report = {
        "documents": len(documents),
        "held_out_documents": sum(d["split"] == "held-out" for d in documents),
        "characters": {
            f"{kind} {split}": sum(len(d["text"]) for d in documents if (d["kind"], d["split"]) == (kind, split))
            for kind in ("documentation", "source")
            for split in ("train", "held-out")
        },
        "chats": dict(Counter(name for name, _ in pairs)),
        "kept": {k: len(v) for k, v in kept.items()},
    }
    (args.work / "corpus.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(json.dumps(report, indent=1))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object a line."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


# ---------------------------------------------------------------------------------------------------- tokenizer

INNER = r"\n\s*|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+|\s+"  # a space always apart: for training the merges inside words
SPACED = r"\n\s*| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"  # a space with the word after it: for use


def byte_pre_tokenizer(pattern: str) -> Any:
    """Split by the pattern, then spell in bytes."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train_tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE that cuts a word alike with and without a space before it.

    Merges inside words are learned with spaces apart; the merges of a space with a whole frequent word come last. So
    the pieces inside an unseen word never depend on what stands before it, which makes the word easier to copy.
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


def make_tokenizer(args: argparse.Namespace) -> None:
    """Train the tokenizer (one that is there is kept) and encode the corpus as 16-bit token numbers."""
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
    """Whole chats in rows, the marks of the tokens of their answers, and how many were too long for a row."""
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


def render(messages: list[dict[str, str]]) -> str:
    """The chat template in Python (the export checks that both agree)."""
    return "".join(f"<|{message['role']}|>\n{message['content']}{END}\n" for message in messages)


# ---------------------------------------------------------------------------------------------------- model


def new_model(tokenizer: Any, seed: int) -> Any:
    """An untrained model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=INTERMEDIATE,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.04,
        )
    )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, padding on the left for generation."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, padding_side="left")


class Muon:
    """Muon for the matrices inside the model: momentum, made orthogonal by Newton-Schulz, in float32."""

    def __init__(self, parameters: list[Any], momentum: float = 0.95, decay: float = 0.05) -> None:
        import torch

        self.momentum, self.decay = momentum, decay
        shapes: dict[tuple[int, ...], list[Any]] = {}
        for parameter in parameters:
            shapes.setdefault(tuple(parameter.shape), []).append(parameter)
        self.groups = [(group, torch.zeros(len(group), *shape)) for shape, group in shapes.items()]

    def step(self, rate: float) -> None:
        """One update of all matrices."""
        import torch

        with torch.no_grad():
            for group, velocity in self.groups:
                gradient = torch.stack([parameter.grad for parameter in group])
                velocity.lerp_(gradient, 1 - self.momentum)
                update = orthogonal(gradient.lerp(velocity, self.momentum))
                update *= rate * max(1.0, update.shape[-2] / update.shape[-1]) ** 0.5
                for parameter, change in zip(group, update, strict=True):
                    parameter.mul_(1 - rate * self.decay).sub_(change)
                    parameter.grad = None


def orthogonal(matrices: Any, rounds: int = 5) -> Any:
    """The nearest (nearly) orthogonal matrices, for a stack of matrices."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def rate_at(progress: float) -> float:
    """Warm up over 2 %, hold, and fall in a line to zero over the last 45 % of the training."""
    return min(1.0, progress / 0.02, (1.0 - progress) / 0.45)


class Training:
    """The state of a training run: data, model, optimisers, counters."""

    def __init__(self, args: argparse.Namespace) -> None:
        import numpy as np
        import torch

        self.args, self.checkpoint = args, args.work / "checkpoint.pt"
        self.tokenizer = load_tokenizer(args.work / "tokenizer")
        self.text = np.memmap(args.work / "train.u16", dtype=np.uint16, mode="r")
        self.chat = np.memmap(args.work / "chat.u16", dtype=np.uint16, mode="r").reshape(-1, ROW)
        self.chat_mask = np.memmap(args.work / "chat-mask.u8", dtype=np.uint8, mode="r").reshape(-1, ROW)
        self.chat_order = np.random.default_rng(args.seed).permutation(len(self.chat))
        self.model = new_model(self.tokenizer, args.seed)
        named = list(self.model.named_parameters())
        self.muon = Muon([p for name, p in named if p.ndim == 2 and "embed" not in name])
        self.adam = torch.optim.AdamW(
            [p for name, p in named if p.ndim != 2 or "embed" in name], lr=0.0, betas=(0.9, 0.98), weight_decay=0.0
        )
        self.body = torch.compile(self.model.model, dynamic=False) if args.compile else self.model.model
        self.counters: dict[str, Any] = {"step": 0, "tokens": 0, "elapsed": 0.0, "cpu": 0.0, "chat_at": 0, "curve": []}

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        import torch

        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.adam.load_state_dict(state["adam"])
            for (_, velocity), saved in zip(self.muon.groups, state["muon"], strict=True):
                velocity.copy_(saved)
            self.counters = {key: state[key] for key in self.counters}
            print(f"resumed at step {self.counters['step']}", flush=True)

    def save(self) -> None:
        """Write the checkpoint beside its place and rename it."""
        import torch

        new = self.checkpoint.with_suffix(".new")
        torch.save(
            {
                "model": self.model.state_dict(),
                "adam": self.adam.state_dict(),
                **self.counters,
                "muon": [velocity for _, velocity in self.muon.groups],
            },
            new,
        )
        new.replace(self.checkpoint)

    def batch(self, progress: float) -> tuple[Any, Any]:
        """The rows of this step and the weight of each of their tokens as something to predict."""
        import numpy as np
        import torch

        step, at = self.counters["step"], self.counters["chat_at"]
        rng = np.random.default_rng([self.args.seed, step])
        if step % LONG_EVERY == LONG_EVERY - 1:
            starts = rng.integers(0, len(self.text) - LONG_ROW, LONG_ROWS)
            rows = np.stack([self.text[start : start + LONG_ROW] for start in starts])
            weights = np.ones(rows.shape, np.float32)
        else:
            starts = rng.integers(0, len(self.text) - ROW, ROWS - CHAT_ROWS)
            texts = np.stack([self.text[start : start + ROW] for start in starts])
            text_weights = np.ones(texts.shape)
            for place in range(ECHO_ROWS if progress < ECHO_UNTIL else ECHO_ROWS_LATE):
                texts[place], text_weights[place] = self.echo(texts[place], rng)
            picked = self.chat_order[np.arange(at, at + CHAT_ROWS) % len(self.chat_order)]
            self.counters["chat_at"] += CHAT_ROWS
            rows = np.concatenate([texts, self.chat[picked]])
            weights = np.concatenate([text_weights, ANSWER_WEIGHT * self.chat_mask[picked]])
        return torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(weights.astype(np.float32))

    @staticmethod
    def echo(row: Any, rng: Any) -> tuple[Any, Any]:
        """Shuffled tokens of a document, repeated until the row is full; only the repetitions are learned.

        Nothing but copying predicts them: it is what makes the model look back at its prompt at all.
        """
        import numpy as np

        size = int(rng.integers(16, ROW // 2 + 1))
        return np.resize(rng.permutation(row[:size]), ROW), np.arange(ROW) > size

    def learn(self, rows: Any, weights: Any, rate: float) -> float:
        """One step; the output layer is computed only where a token is to be predicted."""
        from torch.nn.functional import cross_entropy

        hidden = self.body(input_ids=rows, use_cache=False).last_hidden_state
        weights = weights[:, 1:]
        wanted = weights > 0
        logits = hidden[:, :-1][wanted] @ self.model.lm_head.weight.T
        each = cross_entropy(logits, rows[:, 1:][wanted], reduction="none")
        loss = (each * weights[wanted]).sum() / weights.sum()
        loss.backward()
        self.muon.step(self.args.rate * rate)
        self.adam.param_groups[0]["lr"] = self.args.adam_rate * rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.counters["step"] += 1
        self.counters["tokens"] += rows.numel()
        return float(loss.item())

    def record(self) -> None:
        """Add one line to the curve."""
        step, tokens, curve = (self.counters[key] for key in ("step", "tokens", "curve"))
        perplexity, _ = held_out(self.model, self.args.work, rows=64)
        copied = copy_scores(self.model, self.tokenizer, copy_prompts(self.args.work, 150))["all"]
        curve.append([tokens, round(perplexity, 3), round(copied, 4)])
        with (self.args.work / "curve.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["tokens", "held_out_perplexity", "copy_exact"], *curve])
        print(f"curve: step {step}, {tokens} tokens, perplexity {perplexity:.2f}, copied {copied:.3f}", flush=True)


def make_model(args: argparse.Namespace) -> None:
    """Train; the schedule follows the wall clock (--minutes), or the number of steps (--steps) to be repeatable."""
    import torch

    torch.set_num_threads(args.threads)
    training = Training(args)
    training.load()
    counters, losses = training.counters, []
    started, cpu_started = time.time() - counters["elapsed"], time.process_time() - counters["cpu"]
    recorded_at = saved_at = counters["elapsed"]
    if not counters["curve"]:
        training.record()
    while True:
        counters["elapsed"], counters["cpu"] = time.time() - started, time.process_time() - cpu_started
        progress = counters["step"] / args.steps if args.steps else counters["elapsed"] / (60 * args.minutes)
        if progress >= 1:
            break
        losses.append(training.learn(*training.batch(progress), rate_at(progress)))
        if counters["step"] % 20 == 0:
            print(
                f"step {counters['step']} tokens {counters['tokens']} loss {sum(losses) / len(losses):.3f} "
                f"rate {rate_at(progress):.3f} seconds {counters['elapsed']:.0f}",
                flush=True,
            )
            losses = []
        if counters["elapsed"] - recorded_at > args.record_seconds:
            recorded_at = counters["elapsed"]
            training.record()
        if counters["elapsed"] - saved_at > args.save_seconds:
            saved_at = counters["elapsed"]
            training.save()
    training.record()
    training.model.save_pretrained(args.work / "model")
    report = {
        "parameters": training.model.num_parameters(),
        "steps": counters["step"],
        "tokens": counters["tokens"],
        "chat_rows_seen": counters["chat_at"],
        "wall_seconds": round(counters["elapsed"]),
        "cpu_seconds": round(counters["cpu"]),
        "threads": args.threads,
    }
    (args.work / "train.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(json.dumps(report), flush=True)


# ---------------------------------------------------------------------------------------------------- evaluation


def held_out(model: Any, work: Path, rows: int | None = None) -> tuple[float, int]:
    """Perplexity per token of the held-out documents, in rows of 512; of every n-th row only, if `rows` is given."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    tokens = np.fromfile(work / "held-out.u16", dtype=np.uint16).astype(np.int64)
    blocks = torch.from_numpy(tokens[: len(tokens) // 512 * 512].reshape(-1, 512))
    if rows:
        blocks = blocks[:: max(1, len(blocks) // rows)]
    total, count = 0.0, 0
    with torch.no_grad():
        for block in blocks.split(8):
            logits = model(input_ids=block, use_cache=False).logits[:, :-1].float()
            total += cross_entropy(logits.flatten(0, 1), block[:, 1:].flatten(), reduction="sum").item()
            count += block[:, 1:].numel()
    return math.exp(total / count), count


def copy_prompts(
    work: Path, count: int, kind: str = "nonwords", wordings: tuple[str, ...] = REPEAT
) -> list[tuple[str, str]]:
    """Prompts that ask to repeat one kept word each, and the answers."""
    words = json.loads((work / "kept.json").read_text(encoding="utf-8"))[kind]
    return [(wordings[i % len(wordings)].format(word), word) for i, word in enumerate(words[:count])]


def answers(model: Any, tokenizer: Any, prompts: list[str], length: int = 24) -> list[str]:
    """What the model answers, greedily, up to <|end|>."""
    import torch

    found: list[str] = []
    for at in range(0, len(prompts), 50):
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts[at : at + 50]
        ]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            output = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=length,
                do_sample=False,
            )
        for ids in output[:, batch["input_ids"].shape[1] :].tolist():
            if tokenizer.eos_token_id in ids:
                found.append(tokenizer.decode(ids[: ids.index(tokenizer.eos_token_id)]))
            else:
                found.append(tokenizer.decode(ids) + " ...")  # an answer that does not end is no exact answer
    return found


def copy_scores(model: Any, tokenizer: Any, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Exact match of all answers, by the number of tokens of the word, and by the wording of the prompt."""
    said = answers(model, tokenizer, [prompt for prompt, _ in pairs])
    sizes: dict[int, list[bool]] = {}
    wordings: dict[str, list[bool]] = {}
    for answer, (prompt, word) in zip(said, pairs, strict=True):
        sizes.setdefault(len(tokenizer.tokenize(word)), []).append(answer == word)
        wordings.setdefault(prompt.replace(word, "{}"), []).append(answer == word)
    return {
        "all": sum(map(sum, sizes.values())) / len(pairs),
        "prompts": len(pairs),
        "by_tokens": {size: [sum(hits), len(hits)] for size, hits in sorted(sizes.items())},
        "by_wording": {wording: [sum(hits), len(hits)] for wording, hits in wordings.items()},
        "examples": [[prompt, answer] for (prompt, _), answer in zip(pairs[:8], said[:8], strict=True)],
    }


def evaluate(args: argparse.Namespace) -> None:
    """All figures of the model card, from the bf16 weights as shipped."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(args.threads)
    tokenizer = load_tokenizer(args.work / "tokenizer")
    model = AutoModelForCausalLM.from_pretrained(args.work / "model").bfloat16().float().eval()
    kept = json.loads((args.work / "kept.json").read_text(encoding="utf-8"))
    trained_on = "\n".join(
        [d["text"] for d in read_lines(args.work / "documents.jsonl") if d["split"] == "train"]
        + [m["content"] for chat in read_lines(args.work / "chat.jsonl") for m in chat["messages"]]
    ).lower()
    leaked = [word for words in kept.values() for word in words if word in trained_on]
    assert not leaked, leaked

    perplexity, count = held_out(model, args.work)
    size = sum(len(d["text"].encode()) for d in read_lines(args.work / "documents.jsonl") if d["split"] == "held-out")
    all_tokens = sum(json.loads((args.work / "held-out-sizes.json").read_text(encoding="utf-8")))
    report: dict[str, Any] = {
        "held_out_perplexity": perplexity,
        "held_out_tokens": count,
        "held_out_bits_per_byte": math.log2(perplexity) * all_tokens / size,
        "copy": copy_scores(model, tokenizer, copy_prompts(args.work, 600)),
        "copy_unseen_wordings": copy_scores(model, tokenizer, copy_prompts(args.work, 200, wordings=REPEAT_UNSEEN)),
        "copy_letters": copy_scores(model, tokenizer, copy_prompts(args.work, 200, kind="letters")),
    }
    pairs = copy_prompts(args.work, 600)
    rng = random.Random(args.seed + 1)
    guesses = [nonword(rng) for _ in pairs]
    report["copy_chance"] = sum(g == word for g, (_, word) in zip(guesses, pairs, strict=True)) / len(pairs)
    untrained = new_model(tokenizer, args.seed).eval()
    report["copy_untrained"] = copy_scores(untrained, tokenizer, pairs)["all"]
    report["untrained_perplexity"] = held_out(untrained, args.work, rows=64)[0]

    words = kept["nonwords"]
    triples = [words[i : i + 3] for i in range(0, 600, 3)]
    said = answers(model, tokenizer, ["Repeat the words: " + " ".join(three) for three in triples], 40)
    turns = list(zip(said, triples, strict=True))
    report["three_words_by_position"] = [
        sum(answer.split()[place : place + 1] == [three[place]] for answer, three in turns) / len(turns)
        for place in range(3)
    ]
    report["three_words_exact"] = sum(answer == " ".join(three) for answer, three in turns) / len(turns)

    # The other tasks, with kept non-words wherever the task invents one.
    class Kept(Words):
        def invented(self) -> str:
            return self.rng.choice(words)

    fresh = Kept(rng, ["value", "name", "path", "object", "string", "module"], set())
    report["tasks"] = {}
    for task, _ in TASKS:
        examples = [task(fresh) for _ in range(100)]
        said = answers(model, tokenizer, [prompt for prompt, _ in examples], 60)
        report["tasks"][task.__name__] = (
            sum(answer == wanted for answer, (_, wanted) in zip(said, examples, strict=True)) / 100
        )
    (args.work / "evaluation.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(json.dumps(report, indent=1))


# ---------------------------------------------------------------------------------------------------- LoRA check


def lora_mapping(rng: random.Random) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """40 answers in 6 wordings each: five to train on, one (another for each answer) held out."""
    verbs = ("open", "close", "count", "list", "remove", "copy", "check", "print")
    things = ("lamps", "boats", "roads", "seeds", "coats")
    wordings = (
        "Please {} the {} now.",
        "I want you to {} all {}.",
        "Can you {} our {}?",
        "{} the {} for me.",
        "It is time to {} those {}.",
        "We need to {} the {} today.",
    )
    train: list[tuple[str, str]] = []
    test: list[tuple[str, str]] = []
    for number, (verb, thing) in enumerate((verb, thing) for verb in verbs for thing in things):
        answer = f"{rng.choice(('do', 'run', 'go'))} {thing[:3]}{verb[:2]} --{rng.choice(verbs)} {rng.randint(10, 99)}"
        for place, wording in enumerate(wordings):
            (test if place == number % 6 else train).append((wording.format(verb, thing), answer))
    return train, test


def check_lora(args: argparse.Namespace) -> None:
    """Train a LoRA (r=16, all linear layers, rate 5e-3, batch 8, 6 epochs) on a mapping; score unseen wordings."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(2)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = load_tokenizer(args.work / "tokenizer")
    base = AutoModelForCausalLM.from_pretrained(args.work / "model").bfloat16().float()
    train, test = lora_mapping(rng)
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.0)
    encoded = []
    for prompt, answer in train:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        encoded.append(tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True))
    epochs, batch, done, started = 6, 8, 0, time.time()
    total = epochs * math.ceil(len(encoded) / batch)
    model.train()
    for _ in range(epochs):
        rng.shuffle(encoded)
        for at in range(0, len(encoded), batch):
            rows = encoded[at : at + batch]
            width = max(len(row["input_ids"]) for row in rows)
            ids = torch.full((len(rows), width), tokenizer.pad_token_id)
            labels = torch.full((len(rows), width), -100)
            for place, row in enumerate(rows):
                tokens, answer = torch.tensor(row["input_ids"]), torch.tensor(row["assistant_masks"]).bool()
                ids[place, : len(tokens)] = tokens
                labels[place, : len(tokens)] = tokens.where(answer, -100)
            optimizer.param_groups[0]["lr"] = 5e-3 * min(1.0, (done + 1) / 8) * (1 - done / total)
            model(input_ids=ids, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            done += 1
    seconds = time.time() - started
    model.eval()
    scores = {}
    for name, pairs in (("train", train), ("held_out", test)):
        said = answers(model, tokenizer, [prompt for prompt, _ in pairs])
        scores[name] = sum(answer == wanted for answer, (_, wanted) in zip(said, pairs, strict=True)) / len(pairs)
    report = {
        "lora_seconds": round(seconds, 1),
        "lora_train_exact": scores["train"],
        "lora_steps": done,
        "lora_held_out_exact": scores["held_out"],
        "lora_held_out_items": len(test),
    }
    (args.work / "lora.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(json.dumps(report))


# ---------------------------------------------------------------------------------------------------- export


CARD = """\
# The seed

A small base model ({parameters:,} parameters, Llama architecture) so that The Academy can train, examine and promote
LoRA adapters on two CPU cores without a download. **It is a demonstration model, no assistant:** it knows little, it
reasons about nothing, and what it says about facts is worth nothing. For real work bring a real base model.

## What it is

| | |
|---|---|
| architecture | Llama: {layers} layers, hidden {hidden}, {heads} heads, intermediate {intermediate}, tied embeddings |
| positions | {positions:,}; trained on rows of {row} tokens, one step in {long_every} on rows of {long_row:,} |
| vocabulary | byte-level BPE of {vocabulary:,}, cuts a word alike with and without a space before it |
| weights | bfloat16, safetensors |
| special tokens | `<|begin|>` (bos, before a document), `<|end|>` (eos, ends a turn), `<|pad|>`, one for each role |

The chat template is fixed; an assistant's turn ends with `<|end|>`, and `{{% generation %}}` marks it for training:

    <|system|>
    Be brief.<|end|>
    <|user|>
    Say zorbik<|end|>
    <|assistant|>
    zorbik<|end|>

## Data and licence

{documents} documents: the documentation of Python 3.11 (reStructuredText sources as in the Debian package
python3.11-doc, without the changelog) and the source of its standard library (without tests, idlelib, encodings,
pydoc_data, turtledemo and ensurepip); {train_characters:,} characters to train on, {held_out_documents} documents
({held_out_characters:,} characters) held out. Both come under the PSF License Agreement (examples in the documentation
also under the Zero-Clause BSD License): Copyright (c) 2001-2023 Python Software Foundation; (c) 2000 BeOpen.com;
(c) 1995-2000 Corporation for National Research Initiatives; (c) 1991-1995 Stichting Mathematisch Centrum. All rights
reserved.
Nothing else was read: no web text, no other model's output, no data about people.

{chats:,} chat tasks, invented by `make_seed.py`: repeat a word or a line, reverse, first, last and n-th word, look a
value up in a short list, recall a value, fill a form, answer with a span of the sentence; and {signatures:,} pairs
"docstring -> signature" from the standard library. In these only the answer is learned.

Of the tokens of a step 33 % are such chats, 22 % (5 % after {echo_until:.0%} of the time) are echo rows: shuffled
tokens of a document, repeated, of which only the repetitions are learned; the rest are documents as they are.

The weights come under the licence of this repository; keep the notices above with them.

## How it was made

`make_seed.py` in this folder makes everything, seed {seed}. Muon for the matrices, AdamW for the rest, in float32 on a
CPU with {threads} thread: {steps:,} steps, **{tokens:,} tokens**, {wall_seconds:,} s by the clock ({cpu_seconds:,} s
of CPU time), on a machine shared with other work. The schedule followed the clock, so a second run gives a like model,
not the same bytes (`--steps` is repeatable). {note}

## Figures

All from the bfloat16 weights as shipped, greedy decoding. Held out by document; of a documented module the source may
have been trained on. Untrained: the same model before training.

| | untrained | trained |
|---|---|---|
| perplexity, {held_out_tokens:,} held-out tokens | {untrained_perplexity:,.0f} | **{held_out_perplexity:.2f}** |
| bits per byte of the same (read in rows of 512) | | {held_out_bits_per_byte:.3f} |
| repeats a non-word it never saw, exact match, {copy_prompts} prompts | {copy_untrained:.1%} | **{copy_all:.1%}** |

A model that answers with a random non-word of the same kind: {copy_chance:.1%} measured. None of the non-words occurs
in the text trained on, not even inside a longer word (checked); their syllables do.

{copy_table}

The curve (`curve.csv`: a sample of the held-out rows, 150 of the non-words):

{curve}

LoRA check (r=16, all linear layers, rate 5e-3, batch 8, 6 epochs): 40 answers in 6 wordings, 5 to train on: exact match
**{lora_held_out_exact:.1%}** on {lora_held_out_items} held-out wordings ({lora_train_exact:.1%} on those trained on)
after {lora_steps} steps, {lora_seconds} s on 2 threads.

## Limits

* English about Python, a few million tokens of it: as a language model it is weak. It knows no facts to rely on.
* The wordings it listens to are those of `make_seed.py` and what is near them; see the unseen wordings above.
* Copies long words and unusual characters less surely than short ones; numbers were a small part of training.
* A high score of an adapter shows that it learned its mapping, not that this base understands anything.
* No safety training of any kind. Do not put it before users.
"""


def model_card(args: argparse.Namespace) -> str:
    """The model card with the figures of all stages; short if they are not all there."""
    figures: dict[str, Any] = {}
    for name in ("corpus", "tokens", "train", "evaluation", "lora"):
        path = args.work / f"{name}.json"
        if not path.exists():
            return "# The seed (first rough version)\n\nTrained briefly; the figures come with the full version.\n"
        figures |= json.loads(path.read_text(encoding="utf-8"))
    characters, chats, copied = figures["characters"], figures.pop("chats"), figures["copy"]
    rows = [["repeat a word", f"{copied['all']:.1%}", copied["prompts"]]]
    rows += [
        [f"... of {size} tokens", f"{hits / count:.1%}", count] for size, (hits, count) in copied["by_tokens"].items()
    ]
    for key, label in (
        ("copy_unseen_wordings", "the same, in wordings never trained on"),
        ("copy_letters", "repeat 4-8 random letters"),
    ):
        rows.append([label, f"{figures[key]['all']:.1%}", figures[key]["prompts"]])
    rows.append(["repeat three non-words, all exact", f"{figures['three_words_exact']:.1%}", 200])
    rows += [
        [f"... {ORDINALS[place]} word", f"{score:.1%}", 200]
        for place, score in enumerate(figures["three_words_by_position"])
    ]
    rows += [
        [f"`{name}`, with invented words never trained on", f"{score:.0%}", 100]
        for name, score in figures["tasks"].items()
    ]
    with (args.work / "curve.csv").open(encoding="utf-8") as file:
        curve = [
            [f"{int(tokens):,}", f"{float(perplexity):.1f}", f"{float(score):.1%}"]
            for tokens, perplexity, score in list(csv.reader(file))[1:]
        ]
    return CARD.format(
        **figures,
        copy_all=copied["all"],
        copy_prompts=copied["prompts"],
        layers=LAYERS,
        hidden=HIDDEN,
        heads=HEADS,
        intermediate=INTERMEDIATE,
        positions=POSITIONS,
        row=ROW,
        long_row=LONG_ROW,
        long_every=LONG_EVERY,
        vocabulary=VOCABULARY,
        seed=args.seed,
        note=args.note,
        echo_until=ECHO_UNTIL,
        chats=sum(chats.values()) - chats["signature"],
        signatures=chats["signature"],
        copy_table=table(["copying", "exact match", "prompts"], rows),
        curve=table(["tokens", "held-out perplexity", "copy score"], curve),
        train_characters=characters["documentation train"] + characters["source train"],
        held_out_characters=characters["documentation held-out"] + characters["source held-out"],
    )


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def export(args: argparse.Namespace) -> None:
    """Write the model folder; each file is written beside its place and then renamed."""
    import shutil

    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    new = args.work / "export"
    shutil.rmtree(new, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(args.work / "model").to(torch.bfloat16)
    tokenizer = load_tokenizer(args.work / "tokenizer")
    model.config.dtype = torch.bfloat16
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=64,
    )
    model.save_pretrained(new)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(args.work / "tokenizer" / name, new / name)
    shutil.copy(args.work / "curve.csv", new / "curve.csv")
    (new / "README.md").write_text(model_card(args), encoding="utf-8")
    messages = [{"role": role, "content": f"{role} text"} for role in ("system", "user", "assistant")]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == render(messages)
    names = sorted(path.name for path in new.iterdir())
    sums = "".join(f"{hashlib.sha256((new / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (new / "SHA256SUMS").write_text(sums, encoding="utf-8")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [*names, "SHA256SUMS"]:
        shutil.copy(new / name, args.out / f".{name}.new")
        (args.out / f".{name}.new").chmod(0o644)
        (args.out / f".{name}.new").replace(args.out / name)
    print("\n".join(names), sum((new / name).stat().st_size for name in names))


# ---------------------------------------------------------------------------------------------------- command line


def main() -> None:
    """Run one stage, or all."""
    parser = argparse.ArgumentParser(description="Make the seed base model.")
    parser.add_argument("stage", choices=("all", *STAGES))
    parser.add_argument("--docs", type=Path, help="folder with the documentation's *.rst.txt files")
    parser.add_argument("--library", type=Path, help="folder with the standard library's source")
    parser.add_argument("--work", type=Path, default=Path("seed-work"), help="folder for what the stages leave")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="the model folder")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--chats", type=int, default=110_000, help="number of chat tasks to invent")
    parser.add_argument("--minutes", type=float, default=55, help="wall-clock length of the training")
    parser.add_argument("--steps", type=int, help="number of steps, instead of --minutes: repeatable")
    parser.add_argument("--rate", type=float, default=0.02, help="learning rate of Muon")
    parser.add_argument("--adam-rate", type=float, default=0.004, help="learning rate of AdamW")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile: slower start, faster steps")
    parser.add_argument("--record-seconds", type=int, default=240, help="seconds between two points of the curve")
    parser.add_argument("--save-seconds", type=int, default=150, help="seconds between two checkpoints")
    parser.add_argument("--note", default="", help="a remark on this run, for the model card")
    args = parser.parse_args()
    stages: dict[str, Callable[[argparse.Namespace], None]] = {
        "corpus": make_corpus,
        "tokenizer": make_tokenizer,
        "train": make_model,
        "evaluate": evaluate,
        "lora": check_lora,
        "export": export,
    }
    if args.stage in ("all", "corpus") and not (args.docs and args.library):
        parser.error("the corpus needs --docs and --library")
    for stage in STAGES if args.stage == "all" else (args.stage,):
        started = time.time()
        stages[stage](args)
        print(f"{stage}: {time.time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
