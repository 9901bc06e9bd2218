"""A check that a LoRA on top of the seed learns a small mapping quickly."""

from __future__ import annotations

import argparse
import json
import math
import random
import time

from academy.models.seed.make.evaluation import answers
from academy.models.seed.make.tokenizer import load_tokenizer


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
        replies = answers(model, tokenizer, [prompt for prompt, _ in pairs])
        scores[name] = sum(answer == expected for answer, (_, expected) in zip(replies, pairs, strict=True)) / len(
            pairs
        )
    report = {
        "lora_seconds": round(seconds, 1),
        "lora_train_exact": scores["train"],
        "lora_steps": done,
        "lora_held_out_exact": scores["held_out"],
        "lora_held_out_items": len(test),
    }
    (args.work / "lora.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(json.dumps(report))
