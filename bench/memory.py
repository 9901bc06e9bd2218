"""`python -m bench.memory [--anyway] [CASE ...]`: predicted and measured peak memory of real, short trainings.

Each case is a training of three steps in the trainer's own process: the seed model, or a random model of a known
layout with the seed model's tokenizer (what is learned does not affect memory). The measurement is the peak that
the trainer reports in its events: resident memory on a CPU, memory reserved by torch on a GPU. Predictions in the
table are not corrected by earlier trainings.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from academy.habitat.backends.base import TrainingOrder
from academy.habitat.backends.process import ProcessBackend
from academy.habitat.memory import GIB, default_plan, predict, read_shape
from academy.models.base_model import SEED_FOLDER, resolve
from academy.models.chat_template import ChatTemplate
from academy.professor.recipe import Recipe
from academy.store.files import digest_of_file
from academy.system.hardware import take_inventory
from bench.machine import too_busy

STEPS = 3
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
CONTEXT = 8192
"""Context of the random models, in tokens."""


@dataclass(frozen=True)
class Case:
    """A model (empty: the seed model), examples of about so many tokens, and the recipe."""

    tokens: int
    batch: int
    rank: int = 16
    dropout: float = 0.0
    model: dict[str, Any] = field(default_factory=dict)


MIDDLE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 8,
          "num_key_value_heads": 2}  # fmt: skip
CASES = {
    "seed, 8 x 64": Case(64, 8),
    "seed, 8 x 512": Case(512, 8),
    "seed, 32 x 512": Case(512, 32),
    "seed, 32 x 512, dropout": Case(512, 32, dropout=0.05),
    "llama 41 M, 4 x 512": Case(512, 4, model={"model_type": "llama", **MIDDLE}),
    "llama 41 M, 16 x 512": Case(512, 16, model={"model_type": "llama", **MIDDLE}),
    "qwen2 41 M, 16 x 256, rank 64": Case(256, 16, rank=64, model={"model_type": "qwen2", **MIDDLE}),
    "phi 45 M, 8 x 512": Case(512, 8, model={"model_type": "phi", **MIDDLE}),
}


def main() -> int:
    """Train and print."""
    if too_busy():
        return 2
    wanted = [name for name in sys.argv[1:] if name != "--anyway"] or list(CASES)
    gpus = take_inventory()
    device = "cuda" if gpus.gpus and gpus.cuda else "cpu"
    print(f"device {device}; GiB predicted, measured, measured / predicted")
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            predicted, measured = train(CASES[name], Path(folder), device)
        print(f"{name}: {predicted / GIB:.3f} {measured / GIB:.3f} {measured / predicted:.2f}", flush=True)
    return 0


def train(case: Case, folder: Path, device: Any) -> tuple[int, int]:
    """Predicted and measured bytes."""
    base = resolve(str(make_model(case.model, folder / "model")) if case.model else "seed")
    rows = [
        {"messages": [
            {"role": "user", "content": f"{n} " + "word " * (case.tokens // 2 - 8)},
            {"role": "assistant", "content": "word " * (case.tokens // 2 - 8)},
        ]}
        for n in range(case.batch * STEPS)
    ]  # fmt: skip
    file = folder / "train.jsonl"
    file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    template = ChatTemplate.of(base.path)
    longest = max(sum(map(len, template.example(row["messages"]))) for row in rows)
    recipe = Recipe(
        rank=case.rank, dropout=case.dropout, epochs=1, batch_size=case.batch, accumulation=1,
        max_length=max(128, -(-longest // 64) * 64),
    )  # fmt: skip
    order = TrainingOrder(
        base=base, dataset="0" * 64, train_file=file, train_digest=digest_of_file(file), recipe=recipe,
        runs=folder / "runs", adapters=folder / "adapters",
    )  # fmt: skip
    events = list(ProcessBackend().train(order))
    assert events[-1].phase == "done", events[-1].message
    measured = max(event.memory or 0 for event in events)
    return predict(read_shape(base.path), recipe, default_plan(device), longest=longest).measurable, measured


def make_model(config: dict[str, Any], folder: Path) -> Path:
    """A random model with the seed's tokenizer, made on a GPU if there is one: on CPUs it can take minutes."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    seed = orjson.loads((SEED_FOLDER / "config.json").read_bytes())
    shared = {name: seed[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    kind = {name: value for name, value in config.items() if name != "model_type"}
    torch.manual_seed(0)
    made = CONFIG_MAPPING[config["model_type"]](**kind, **shared, max_position_embeddings=CONTEXT)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # leaves the whole GPU to the next measurement
    for name in TOKENIZER:
        shutil.copy(SEED_FOLDER / name, folder / name)
    return folder


if __name__ == "__main__":
    sys.exit(main())
