"""The corpus: Python's documentation and library source, and the chat tasks."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from academy.models.seed.make.chats import SYSTEMS, TASKS, signatures
from academy.models.seed.make.words import Words, letters, nonword

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


def read_documents(docs: Path, library: Path) -> list[dict[str, str]]:
    """All documents. The digest of its name holds out one document in sixteen; copies are dropped."""
    documents, seen = [], set()
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
            documents.append(
                {"kind": kind, "name": str(name), "split": "held-out" if held_out else "train", "text": text}
            )
    return documents


def make_corpus(args: argparse.Namespace) -> None:
    """Write documents.jsonl, chat.jsonl and the words reserved for the evaluation."""
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

    reserved = {"nonwords": reserve(nonword, 1000), "letters": reserve(letters, 200)}
    words = Words(
        rng, [word for word, _ in counts.most_common(4000)], set(reserved["nonwords"]) | set(reserved["letters"])
    )
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
    # Words joined in an identifier may spell a reserved word by chance: such a word is not used.
    reserved = {kind: [word for word in drawn if word not in chats] for kind, drawn in reserved.items()}
    (args.work / "kept.json").write_text(json.dumps(reserved), encoding="utf-8")
    report = {
        "documents": len(documents),
        "held_out_documents": sum(d["split"] == "held-out" for d in documents),
        "characters": {
            f"{kind} {split}": sum(len(d["text"]) for d in documents if (d["kind"], d["split"]) == (kind, split))
            for kind in ("documentation", "source")
            for split in ("train", "held-out")
        },
        "chats": dict(Counter(name for name, _ in pairs)),
        "kept": {k: len(v) for k, v in reserved.items()},
    }
    (args.work / "corpus.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(json.dumps(report, indent=1))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object per line."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
