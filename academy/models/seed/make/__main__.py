"""The command line: `python -m academy.models.seed.make STAGE`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from academy.models.seed.make.corpus import make_corpus
from academy.models.seed.make.evaluation import evaluate
from academy.models.seed.make.export import export
from academy.models.seed.make.lora_check import check_lora
from academy.models.seed.make.tokenizer import make_tokenizer
from academy.models.seed.make.training import make_model

STAGES = ("corpus", "tokenizer", "train", "evaluate", "lora", "export")


def main() -> None:
    """Run one stage, or all stages."""
    parser = argparse.ArgumentParser(prog="python -m academy.models.seed.make", description="Make the seed base model.")
    parser.add_argument("stage", choices=("all", *STAGES))
    parser.add_argument("--docs", type=Path, help="folder with the documentation's *.rst.txt files")
    parser.add_argument("--library", type=Path, help="folder with the standard library's source")
    parser.add_argument("--work", type=Path, default=Path("seed-work"), help="folder for the results of the stages")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1], help="the model folder")
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
    parser.add_argument("--note", default="", help="a remark on this run for the model card")
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
