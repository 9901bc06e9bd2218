"""The base model with a LoRA on it, a new one or the adapter that training begins with.

By Unsloth where a GPU and Unsloth are there, one process trains and begins anew; else by transformers and PEFT.

Unsloth changes transformers and TRL as it is imported, so `prepare` comes before either of them is.
"""

from __future__ import annotations

import importlib
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from academy.adapters.adapter import read_adapter
from academy.errors import AdapterError, TrainingError
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.memory import Plan, default_plan
from academy.professor.recipe import SHAPE

if TYPE_CHECKING:
    import torch

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""What Unsloth is told to train; it knows no "all-linear"."""


class Library:
    """Which library trains, and how the order is carried out on the device that is there."""

    def __init__(self, name: str, plan: Plan) -> None:
        self.name = name
        self.plan = plan

    @property
    def on_gpu(self) -> bool:
        return self.plan.device == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """What the base model's weights are loaded as."""
        return dtype_on(self.plan.device)

    @property
    def sentence(self) -> str:
        """For people."""
        told = f"Unsloth {version('unsloth')}" if self.name == "unsloth" else f"TRL {version('trl')} and PEFT"
        more = " with checkpointing" if self.plan.checkpointing else ""
        if self.plan.processes > 1:
            more += f", in {self.plan.processes} processes" + (" that share the weights" if self.plan.shared else "")
        return f"{told} on the {'GPU' if self.on_gpu else 'CPU'}{more}"


def dtype_on(device: str) -> torch.dtype:
    """What is trained in: GPUs before Ampere have no bfloat16."""
    import torch

    if device != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def prepare(order: TrainingOrder) -> Library:
    """Choose the library, and import Unsloth if it is that. Raises TrainingError for what cannot be done here."""
    import torch

    there = torch.cuda.is_available()
    plan = order.plan or default_plan("cuda" if there else "cpu")
    if plan.device == "cuda" and not there:
        raise TrainingError("The order is for a GPU, and torch sees none.", "Look at `academy doctor`.", cause="gpu")
    if order.recipe.four_bit:
        if plan.shared:
            raise TrainingError(
                "Weights of 4 bits cannot be shared by several processes.",
                "Set ACADEMY_TRAINING_SHARDED=false, or train without four_bit.",
                cause="order",
            )
        if find_spec("bitsandbytes") is None:
            raise TrainingError(
                "Weights of 4 bits need bitsandbytes, which is not installed.",
                "pip install -c constraints.txt '.[four-bit]', or train without four_bit.",
                cause="gpu",
            )
        # to try a packed row is an evaluation, too
        if plan.device == "cpu" and (order.recipe.dev_share or order.recipe.packing):
            raise TrainingError(
                "On processors, weights of 4 bits give wrong gradients after an evaluation.",
                "Train without dev_share and packing, or without four_bit.",
                cause="gpu",
            )
    usable = plan.device == "cuda" and find_spec("unsloth") is not None
    if plan.library == "unsloth" and not usable:
        raise TrainingError(
            "Unsloth was asked for, and needs a GPU and to be installed.",
            "Set ACADEMY_TRAINING_LIBRARY=trl.",
            cause="gpu",
        )
    # its several GPUs are not for everybody, and how it goes on with an adapter was never tried
    if not usable or plan.library == "trl" or plan.processes > 1 or order.recipe.init_adapter:
        return Library("trl", plan)
    importlib.import_module("unsloth")

    return Library("unsloth", plan)


def load(order: TrainingOrder, library: Library) -> Any:
    """A PeftModel to train."""
    if library.name == "unsloth":
        return _by_unsloth(order, library)
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    recipe = order.recipe
    quantised: dict[str, Any] = {}
    if recipe.four_bit:
        from transformers import BitsAndBytesConfig

        quantised["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=library.dtype,
        )
        quantised["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0")) if library.on_gpu else "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        order.base.path,
        dtype=library.dtype,
        trust_remote_code=False,
        use_safetensors=True,
        **quantised,
    )
    model.config.use_cache = False
    if recipe.init_adapter:
        first = _first(order)
        config = LoraConfig.from_pretrained(first)
        config.lora_dropout = recipe.dropout
        # onto the CPU first: of several processes each would load it onto the first GPU
        return PeftModel.from_pretrained(model, first, is_trainable=True, config=config, torch_device="cpu")
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _first(order: TrainingOrder) -> Path:
    """The folder of the adapter to begin with, whose files were checked. Raises TrainingError."""
    recipe = order.recipe
    folder = order.init_adapter
    if folder is None:
        raise TrainingError("The order names no folder of the adapter to begin with.", "Order it again.", cause="order")
    try:
        found = read_adapter(folder, base_digest=order.base.digest)
    except AdapterError as problem:
        raise TrainingError(
            f"The adapter to begin with cannot be used: {problem.message}", problem.remedy, cause="order"
        ) from problem
    theirs = found.manifest.recipe
    if found.digest != recipe.init_adapter or any(getattr(theirs, name) != getattr(recipe, name) for name in SHAPE):
        raise TrainingError(
            f"The adapter to begin with is {found.digest[:12]} of rank {theirs.rank}; ordered were "
            f"{recipe.init_adapter[:12]} and rank {recipe.rank}.",
            "Leave the rank and its like to that adapter.",
            cause="order",
        )
    return folder


def _by_unsloth(order: TrainingOrder, library: Library) -> Any:
    recipe = order.recipe
    by: Any = importlib.import_module("unsloth").FastLanguageModel
    model, _ = by.from_pretrained(
        model_name=str(order.base.path),
        max_seq_length=recipe.max_length,
        dtype=library.dtype,
        load_in_4bit=recipe.four_bit,
        trust_remote_code=False,
    )
    return by.get_peft_model(
        model,
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        target_modules=list(LINEAR),
        bias="none",
        use_gradient_checkpointing="unsloth" if library.plan.checkpointing else False,
        random_state=recipe.seed,
        max_seq_length=recipe.max_length,
    )


def refuse_leaks(model: Any, row: dict[str, Any], library: Library) -> None:
    """Examples that share a row must not see each other: another first one leaves the last one's logits as they are.

    Where they end is told as in the training: by their places, and to Unsloth, which looks at others, by lengths.
    Raises TrainingError where they do: attention of that kind cannot be used with packing.
    """
    import torch

    lengths = row["seq_lengths"][:2]  # the first two tell it, and a whole row takes long before the model is on a GPU
    if len(lengths) < 2:
        return
    ids = torch.tensor([row["input_ids"][: sum(lengths)]], device=model.device)
    places = torch.cat([torch.arange(length) for length in lengths])[None].to(model.device)
    ends = {"packed_seq_lengths": torch.tensor(lengths, dtype=torch.int32)} if library.name == "unsloth" else {}
    other = ids.clone()
    other[0, : lengths[0]] = ids[0, : lengths[0]].flip(0)
    model.eval()
    with torch.inference_mode():
        seen = [model(input_ids=one, position_ids=places, use_cache=False, **ends).logits for one in (ids, other)]
    model.train()
    ours, theirs = (one[0, lengths[0] :].float() for one in seen)
    if not torch.equal(ids, other) and float((ours - theirs).abs().max()) > 1e-3 * float(ours.abs().max()):
        raise TrainingError(
            "With this model's attention, examples that are packed into one row see each other.",
            "Train without packing: ACADEMY_PACKING=0, and none in a recipe by hand.",
            cause="template",
        )
