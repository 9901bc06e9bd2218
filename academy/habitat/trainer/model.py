"""The base model with a LoRA on it: a new one, or the adapter that the training starts from.

Unsloth loads it if a GPU and Unsloth are available, one process trains and the adapter is new; otherwise transformers
and PEFT do.

Importing Unsloth changes transformers and TRL, so `prepare` runs before either of them is imported.
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
from academy.system.installation import install_remedy

if TYPE_CHECKING:
    import torch

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The modules that Unsloth trains; it does not support "all-linear"."""


class Library:
    """Which library trains, and how the order is carried out on the available device."""

    def __init__(self, name: str, plan: Plan) -> None:
        self.name = name
        self.plan = plan

    @property
    def on_gpu(self) -> bool:
        return self.plan.device == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the loaded base weights."""
        return dtype_on(self.plan.device)

    @property
    def sentence(self) -> str:
        """For people."""
        libraries = f"Unsloth {version('unsloth')}" if self.name == "unsloth" else f"TRL {version('trl')} and PEFT"
        options = " with checkpointing" if self.plan.checkpointing else ""
        if self.plan.processes > 1:
            options += f", in {self.plan.processes} processes" + (" that share the weights" if self.plan.shared else "")
        return f"{libraries} on the {'GPU' if self.on_gpu else 'CPU'}{options}"


def dtype_on(device: str) -> torch.dtype:
    """Data type of the training: GPUs before Ampere do not support bfloat16."""
    import torch

    if device != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def prepare(order: TrainingOrder) -> Library:
    """Choose the library, and import Unsloth if it is chosen. Raises TrainingError for an impossible order."""
    import torch

    has_gpu = torch.cuda.is_available()
    plan = order.plan or default_plan("cuda" if has_gpu else "cpu")
    if plan.device == "cuda" and not has_gpu:
        raise TrainingError("The order needs a GPU, but torch sees none.", "Run `academy doctor`.", cause="gpu")
    if order.recipe.four_bit:
        if plan.shared:
            raise TrainingError(
                "Several processes cannot share 4-bit weights.",
                "Set ACADEMY_TRAINING_SHARDED=false, or train without four_bit.",
                cause="order",
            )
        if find_spec("bitsandbytes") is None:
            raise TrainingError(
                "4-bit weights need bitsandbytes, which is not installed.",
                f"{install_remedy('four-bit')} Or train without four_bit.",
                cause="gpu",
            )
        # checking a packed row is an evaluation, too
        if plan.device == "cpu" and (order.recipe.dev_share or order.recipe.packing):
            raise TrainingError(
                "On CPUs, 4-bit weights give wrong gradients after an evaluation.",
                "Train without dev_share and packing, or without four_bit.",
                cause="gpu",
            )
    usable = plan.device == "cuda" and find_spec("unsloth") is not None
    if plan.library == "unsloth" and not usable:
        raise TrainingError(
            "ACADEMY_TRAINING_LIBRARY=unsloth needs a GPU and an installed Unsloth.",
            "Set ACADEMY_TRAINING_LIBRARY=trl.",
            cause="gpu",
        )
    # its support of several GPUs is not free for all users, and continuing an adapter with it was never tested
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
    with order.base.unchanged() as base_folder:
        model = AutoModelForCausalLM.from_pretrained(
            base_folder,
            dtype=library.dtype,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            **quantised,
        )
    model.config.use_cache = False
    if recipe.init_adapter:
        adapter_folder = _init_adapter(order)
        config = LoraConfig.from_pretrained(adapter_folder)
        config.lora_dropout = recipe.dropout
        # onto the CPU first: otherwise each of several processes would load it onto the first GPU
        return PeftModel.from_pretrained(model, adapter_folder, is_trainable=True, config=config, torch_device="cpu")
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


def _init_adapter(order: TrainingOrder) -> Path:
    """The folder of the adapter to start from, after checking its files. Raises TrainingError."""
    recipe = order.recipe
    folder = order.init_adapter
    if folder is None:
        raise TrainingError(
            "The order has no folder of the adapter to start from.", "Start the training again.", cause="order"
        )
    try:
        adapter = read_adapter(folder, base_digest=order.base.digest)
    except AdapterError as problem:
        raise TrainingError(
            f"The adapter to start from cannot be used: {problem.message}", problem.remedy, cause="order"
        ) from problem
    earlier = adapter.manifest.recipe
    if adapter.digest != recipe.init_adapter or any(getattr(earlier, name) != getattr(recipe, name) for name in SHAPE):
        raise TrainingError(
            f"The adapter to start from is {adapter.digest[:12]} with rank {earlier.rank}, but the order names "
            f"{recipe.init_adapter[:12]} with rank {recipe.rank}.",
            f"Do not set {', '.join(SHAPE)}: they are those of that adapter.",
            cause="order",
        )
    return folder


def _by_unsloth(order: TrainingOrder, library: Library) -> Any:
    recipe = order.recipe
    loader: Any = importlib.import_module("unsloth").FastLanguageModel
    with order.base.unchanged() as base_folder:
        model, _ = loader.from_pretrained(
            model_name=str(base_folder),
            max_seq_length=recipe.max_length,
            dtype=library.dtype,
            load_in_4bit=recipe.four_bit,
            trust_remote_code=False,
        )
    return loader.get_peft_model(
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
    """Check that examples in one packed row do not see each other.

    If the first example is replaced, the second one's logits must stay the same. The boundaries are given as in the
    training: by position ids, and for Unsloth by lengths. Raises TrainingError if the model's attention mixes them.
    """
    import torch

    lengths = row["seq_lengths"][:2]  # two are enough, and a whole row takes long before the model is on a GPU
    if len(lengths) < 2:
        return
    ids = torch.tensor([row["input_ids"][: sum(lengths)]], device=model.device)
    position_ids = torch.cat([torch.arange(length) for length in lengths])[None].to(model.device)
    ends = {"packed_seq_lengths": torch.tensor(lengths, dtype=torch.int32)} if library.name == "unsloth" else {}
    changed_ids = ids.clone()
    changed_ids[0, : lengths[0]] = ids[0, : lengths[0]].flip(0)
    model.eval()
    with torch.inference_mode():
        logits = [
            model(input_ids=row_ids, position_ids=position_ids, use_cache=False, **ends).logits
            for row_ids in (ids, changed_ids)
        ]
    model.train()
    before, after = (row_logits[0, lengths[0] :].float() for row_logits in logits)
    if not torch.equal(ids, changed_ids) and float((before - after).abs().max()) > 1e-3 * float(before.abs().max()):
        raise TrainingError(
            "With this model's attention, examples that are packed into one row see each other.",
            "Train without packing: set ACADEMY_PACKING=0, and remove packing from a recipe of your own.",
            cause="template",
        )
