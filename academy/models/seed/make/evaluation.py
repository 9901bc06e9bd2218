"""The figures of the model card: perplexity of held-out documents, and how well unseen words are copied."""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

from academy.models.seed.make.chats import REPEAT, REPEAT_UNSEEN, TASKS
from academy.models.seed.make.corpus import read_lines
from academy.models.seed.make.model import new_model
from academy.models.seed.make.tokenizer import load_tokenizer
from academy.models.seed.make.words import Words, nonword


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
    """Prompts that ask to repeat one reserved word each, and the answers."""
    words = json.loads((work / "kept.json").read_text(encoding="utf-8"))[kind]
    return [(wordings[i % len(wordings)].format(word), word) for i, word in enumerate(words[:count])]


def answers(model: Any, tokenizer: Any, prompts: list[str], length: int = 24) -> list[str]:
    """The model's greedy answers, up to <|end|>."""
    import torch

    replies: list[str] = []
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
                replies.append(tokenizer.decode(ids[: ids.index(tokenizer.eos_token_id)]))
            else:
                replies.append(tokenizer.decode(ids) + " ...")  # an answer that does not end is not exact
    return replies


def copy_scores(model: Any, tokenizer: Any, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Exact match of all answers, by the number of tokens of the word, and by the wording of the prompt."""
    replies = answers(model, tokenizer, [prompt for prompt, _ in pairs])
    sizes: dict[int, list[bool]] = {}
    wordings: dict[str, list[bool]] = {}
    for answer, (prompt, word) in zip(replies, pairs, strict=True):
        sizes.setdefault(len(tokenizer.tokenize(word)), []).append(answer == word)
        wordings.setdefault(prompt.replace(word, "{}"), []).append(answer == word)
    return {
        "all": sum(map(sum, sizes.values())) / len(pairs),
        "prompts": len(pairs),
        "by_tokens": {size: [sum(hits), len(hits)] for size, hits in sorted(sizes.items())},
        "by_wording": {wording: [sum(hits), len(hits)] for wording, hits in wordings.items()},
        "examples": [[prompt, answer] for (prompt, _), answer in zip(pairs[:8], replies[:8], strict=True)],
    }


def evaluate(args: argparse.Namespace) -> None:
    """Compute all figures of the model card from the bf16 weights as shipped."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(args.threads)
    tokenizer = load_tokenizer(args.work / "tokenizer")
    model = AutoModelForCausalLM.from_pretrained(args.work / "model").bfloat16().float().eval()
    reserved = json.loads((args.work / "kept.json").read_text(encoding="utf-8"))
    trained_on = "\n".join(
        [d["text"] for d in read_lines(args.work / "documents.jsonl") if d["split"] == "train"]
        + [m["content"] for chat in read_lines(args.work / "chat.jsonl") for m in chat["messages"]]
    ).lower()
    leaked = [word for words in reserved.values() for word in words if word in trained_on]
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

    words: list[str] = reserved["nonwords"]
    triples = [words[i : i + 3] for i in range(0, 600, 3)]
    replies = answers(model, tokenizer, ["Repeat the words: " + " ".join(three) for three in triples], 40)
    turns = list(zip(replies, triples, strict=True))
    report["three_words_by_position"] = [
        sum(answer.split()[place : place + 1] == [three[place]] for answer, three in turns) / len(turns)
        for place in range(3)
    ]
    report["three_words_exact"] = sum(answer == " ".join(three) for answer, three in turns) / len(turns)

    # The other tasks, with reserved non-words where the task invents one.
    class ReservedWords(Words):
        def invented(self) -> str:
            return self.rng.choice(words)

    fresh = ReservedWords(rng, ["value", "name", "path", "object", "string", "module"], set())
    report["tasks"] = {}
    for task, _ in TASKS:
        examples = [task(fresh) for _ in range(100)]
        replies = answers(model, tokenizer, [prompt for prompt, _ in examples], 60)
        report["tasks"][task.__name__] = (
            sum(answer == expected for answer, (_, expected) in zip(replies, examples, strict=True)) / 100
        )
    (args.work / "evaluation.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(json.dumps(report, indent=1))
