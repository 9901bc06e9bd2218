"""`python -m bench.loading`: the CPU time of loading one more adapter into a running model, compared with PEFT.

    ours      read, check (header, numbers, sha256, settings) and attach the adapter
    PEFT      `load_adapter` of the same folder into a model that already has one
    bytes     read the weights and copy them once: a lower bound

One thread, medians of several rounds. The adapters are random, on the seed model (rank 16) and on a wider random model
of the same layout.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from bench.machine import too_busy

ROUNDS = 7


def main() -> int:
    """Measure and print a table."""
    if too_busy():
        return 2
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    print(f"load {os.getloadavg()[0]:.1f}, one thread, CPU milliseconds, median of {ROUNDS}")
    print(f"{'adapter':>12}{'ours':>9}{'PEFT':>9}{'bytes':>9}{'PEFT/ours':>11}{'ours/bytes':>12}  goals 5 and 10")
    with tempfile.TemporaryDirectory(prefix="academy-bench-") as place:
        for name, wide in (("seed", 0), ("wider", 768)):
            row(Path(place) / name, wide)
    return 0


def row(place: Path, wide: int) -> None:
    """One size of adapter."""
    from peft import PeftModel

    from academy.adapters.adapter import WEIGHTS, open_adapter
    from academy.models.base_model import resolve
    from academy.models.chat_template import ChatTemplate
    from academy.serving.runtimes.lora_layers import AdapterLayers
    from academy.serving.runtimes.peft import open_model
    from tests.colours import publish_adapter

    base = resolve("seed") if not wide else resolve(str(random_model(place / "base", wide)))
    template = ChatTemplate.of(base.path)
    folders = [publish_adapter(random_adapter(base, n), base, template, place / f"a{n}", []) for n in range(ROUNDS + 1)]
    size = (folders[0] / WEIGHTS).stat().st_size
    model, _ = open_model(base)
    layers = AdapterLayers(model)

    def ours(folder: Path) -> None:
        content = open_adapter(folder, base_digest=base.digest)
        layers.attach(content.adapter.digest, content.config, content.tensors)

    peft_model = PeftModel.from_pretrained(open_model(base)[0], str(folders[0]), adapter_name="first")
    loads: dict[str, Callable[[Path], object]] = {
        "ours": ours,
        "theirs": lambda folder: peft_model.load_adapter(str(folder), adapter_name=folder.parent.name),
        "bytes": lambda folder: bytearray((folder / WEIGHTS).read_bytes()),
    }
    milliseconds = {}
    for name, load in loads.items():
        load(folders[0])  # warm up
        milliseconds[name] = 1000 * statistics.median(cpu(load, folder) for folder in folders[1:])
    academy, peft, least = (milliseconds[name] for name in ("ours", "theirs", "bytes"))
    print(
        f"{size / 1e6:>9.1f} MB{academy:>9.2f}{peft:>9.2f}{least:>9.2f}{peft / academy:>11.1f}{academy / least:>12.1f}",
        flush=True,
    )


def cpu(do: Callable[[Path], object], folder: Path) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    do(folder)
    return time.process_time() - began


def random_model(folder: Path, wide: int) -> Path:
    """An untrained model of the seed model's layout with wider layers."""
    import shutil

    from transformers import AutoConfig, AutoModelForCausalLM

    from academy.models.base_model import SEED_FOLDER

    shutil.copytree(SEED_FOLDER, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = orjson.loads((folder / "config.json").read_bytes())
    heads = settings["num_attention_heads"]
    settings |= {"hidden_size": wide, "intermediate_size": 3 * wide, "head_dim": wide // heads}
    (folder / "config.json").write_bytes(orjson.dumps(settings))
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def random_adapter(base: Any, seed: int) -> Any:
    """A PEFT model with an adapter that changes its outputs."""
    import torch
    from peft import LoraConfig, get_peft_model

    from academy.serving.runtimes.peft import open_model

    torch.manual_seed(seed)
    settings = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(open_model(base)[0], settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    return model


if __name__ == "__main__":
    sys.exit(main())
