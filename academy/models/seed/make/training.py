"""Pre-training on a CPU. A killed training resumes from its checkpoint."""

from __future__ import annotations

import argparse
import csv
import json
import time
from typing import Any

from academy.models.seed.make.evaluation import copy_prompts, copy_scores, held_out
from academy.models.seed.make.model import Muon, new_model
from academy.models.seed.make.shape import (
    ANSWER_WEIGHT,
    CHAT_ROWS,
    ECHO_ROWS,
    ECHO_ROWS_LATE,
    ECHO_UNTIL,
    LONG_EVERY,
    LONG_ROW,
    LONG_ROWS,
    ROW,
    ROWS,
)
from academy.models.seed.make.tokenizer import load_tokenizer


def rate_at(progress: float) -> float:
    """Learning rate, as a factor: warm-up over 2 %, constant, then linear decay to zero over the last 45 %."""
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
        """Resume from the checkpoint, if there is one."""
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
        """Write the checkpoint under another name and rename it."""
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
        """The rows of this step and the weight of each of their tokens in the loss."""
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

        Only copying predicts them. Without these rows the model does not learn to look back at its prompt.
        """
        import numpy as np

        size = int(rng.integers(16, ROW // 2 + 1))
        return np.resize(rng.permutation(row[:size]), ROW), np.arange(ROW) > size

    def learn(self, rows: Any, weights: Any, rate: float) -> float:
        """One step; the output layer is computed only for tokens that count."""
        from torch.nn.functional import cross_entropy

        hidden = self.body(input_ids=rows, use_cache=False).last_hidden_state
        weights = weights[:, 1:]
        counted = weights > 0
        logits = hidden[:, :-1][counted] @ self.model.lm_head.weight.T
        each = cross_entropy(logits, rows[:, 1:][counted], reduction="none")
        loss = (each * weights[counted]).sum() / weights.sum()
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
    """Train. The schedule follows the wall clock (--minutes), or the number of steps (--steps), which is repeatable."""
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
