"""The model folder: weights, configuration, tokenizer, model card and SHA256SUMS."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
from typing import Any

from academy.models.seed.make.chats import ORDINALS
from academy.models.seed.make.shape import (
    ECHO_UNTIL,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    LAYERS,
    LONG_EVERY,
    LONG_ROW,
    POSITIONS,
    ROW,
    VOCABULARY,
    render,
)
from academy.models.seed.make.tokenizer import load_tokenizer

CARD = """\
# The seed

A small base model ({parameters:,} parameters, Llama architecture) so that The Academy can train, examine and promote
LoRA adapters on two CPU cores without a download. **It is a demonstration model, not an assistant:** it knows little,
it cannot reason, and its statements about facts are worthless. For real work, use a real base model.

## What it is

| | |
|---|---|
| architecture | Llama: {layers} layers, hidden {hidden}, {heads} heads, intermediate {intermediate}, tied embeddings |
| positions | {positions:,}; trained on rows of {row} tokens, every {long_every}th step on rows of {long_row:,} |
| vocabulary | byte-level BPE of {vocabulary:,}, splits a word the same way with and without a space before it |
| weights | bfloat16, safetensors |
| special tokens | `<|begin|>` (bos, before a document), `<|end|>` (eos, ends a turn), `<|pad|>`, one per role |

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
There is no other data: no web text, no output of other models, no data about people.

{chats:,} chat tasks, invented by the package `make`: repeat a word or a line, reverse, first, last and n-th word, look
up a value in a short list, recall a value, fill a form, answer with a span of the sentence; and {signatures:,} pairs
"docstring -> signature" from the standard library. Only their answers are learned.

33 % of the tokens of a step are such chats. 22 % (5 % after {echo_until:.0%} of the time) are echo rows: shuffled
tokens of a document, repeated; only the repetitions are learned. The rest are unchanged documents.

The weights have the licence of this repository; keep the notices above with them.

## How it was made

The package `make` in this folder makes everything, with seed {seed}: Muon for the matrices, AdamW for the rest, in
float32 on a CPU with {threads} thread. {steps:,} steps, **{tokens:,} tokens**, {wall_seconds:,} s of wall-clock time
({cpu_seconds:,} s of CPU time) on a machine shared with other work. The schedule followed the clock, so a second run
gives a similar model, not the same bytes (`--steps` is repeatable). {note}

## Figures

All figures come from the bfloat16 weights as shipped, with greedy decoding. Documents are held out whole; the source of
a documented module may be part of the training text. Untrained: the same model before training.

| | untrained | trained |
|---|---|---|
| perplexity, {held_out_tokens:,} held-out tokens | {untrained_perplexity:,.0f} | **{held_out_perplexity:.2f}** |
| bits per byte of the same (read in rows of 512) | | {held_out_bits_per_byte:.3f} |
| repeats an unseen non-word, exact match, {copy_prompts} prompts | {copy_untrained:.1%} | **{copy_all:.1%}** |

A model that answers with a random non-word of the same kind gets {copy_chance:.1%} (measured). None of the non-words
occurs in the training text, not even inside a longer word (checked); their syllables do.

{copy_table}

The curve (`curve.csv`: a sample of the held-out rows, 150 of the non-words):

{curve}

LoRA check (r=16, all linear layers, rate 5e-3, batch 8, 6 epochs): 40 answers in 6 wordings, 5 to train on: exact match
**{lora_held_out_exact:.1%}** on {lora_held_out_items} held-out wordings ({lora_train_exact:.1%} on the trained ones)
after {lora_steps} steps, {lora_seconds} s on 2 threads.

## Limits

* It is a weak language model, trained on a few million tokens of English about Python. Do not rely on its facts.
* It follows the wordings of the chat tasks and similar ones; see the unseen wordings above.
* It copies long words and unusual characters less reliably than short ones; numbers were a small part of training.
* A high score of an adapter shows that it learned its mapping, not that this base model understands anything.
* It has no safety training of any kind. Do not put it before users.
"""


def model_card(args: argparse.Namespace) -> str:
    """The model card with the figures of all stages; a short one where figures are missing."""
    figures: dict[str, Any] = {}
    for name in ("corpus", "tokens", "train", "evaluation", "lora"):
        path = args.work / f"{name}.json"
        if not path.exists():
            return "# The seed (first rough version)\n\nTrained briefly, without figures.\n"
        figures |= json.loads(path.read_text(encoding="utf-8"))
    characters, chats, copied = figures["characters"], figures.pop("chats"), figures["copy"]
    rows = [["repeat a word", f"{copied['all']:.1%}", copied["prompts"]]]
    rows += [
        [f"... of {size} tokens", f"{hits / count:.1%}", count] for size, (hits, count) in copied["by_tokens"].items()
    ]
    for key, label in (
        ("copy_unseen_wordings", "the same, in unseen wordings"),
        ("copy_letters", "repeat 4-8 random letters"),
    ):
        rows.append([label, f"{figures[key]['all']:.1%}", figures[key]["prompts"]])
    rows.append(["repeat three non-words, all exact", f"{figures['three_words_exact']:.1%}", 200])
    rows += [
        [f"... {ORDINALS[place]} word", f"{score:.1%}", 200]
        for place, score in enumerate(figures["three_words_by_position"])
    ]
    rows += [[f"`{name}`, with unseen invented words", f"{score:.0%}", 100] for name, score in figures["tasks"].items()]
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
