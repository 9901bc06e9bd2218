"""One LoRA training with TRL and PEFT: loss on the answer only, byte-identical when repeated on one machine.

Before the first step the contract is checked on every row: the prompt is not supervised, the answer is, its end token
is inside the mask, and as many rows go in as are trained on.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainerCallback, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from academy.artifacts import digest_of_file, publish_folder, write_file
from academy.errors import TrainingError
from academy.formats import read_row
from academy.habitat.adapter import (
    CONFIG,
    FILES,
    MANIFEST,
    Manifest,
    canonical_config,
    digest_of_adapter,
    digests_of_files,
)
from academy.habitat.backend import TrainingOrder
from academy.habitat.trainer.canaries import canaries
from academy.habitat.trainer.events import EventWriter
from academy.processes import peak_memory
from academy.template import FILE as TEMPLATE_FILE
from academy.template import ChatTemplate, Message

LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "safetensors", "tokenizers")
IGNORED = -100
"""The label of a token that is not supervised."""
CHECKPOINTS = "checkpoints"


def train(order: TrainingOrder, events: EventWriter) -> tuple[str, float]:
    """Train, publish the adapter, and return its digest and the last logged loss.

    Raises TrainingError (cause data or loss), TemplateError, HomeError.
    """
    recipe = order.recipe
    torch.use_deterministic_algorithms(True, warn_only=True)
    set_seed(recipe.seed)
    template = ChatTemplate.of(order.base.path)
    rows, messages = _rows(order, template)
    supervised = sum(1 for row in rows for label in row["labels"] if label != IGNORED)
    events.write(
        "contract",
        message=f"{len(rows)} rows in and out, {supervised} supervised tokens, template {template.digest[:12]}",
    )

    on_gpu = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        order.base.path,
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model = get_peft_model(
        model,
        LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    steps = math.ceil(len(rows) / (recipe.batch_size * recipe.accumulation)) * recipe.epochs
    report = _Report(events, steps)
    trainer = _Repeatable(
        model=model,
        args=_arguments(order, steps, on_gpu=on_gpu),
        train_dataset=Dataset.from_list(rows),
        processing_class=template.tokenizer,
        callbacks=[report],
    )
    trainer.train(resume_from_checkpoint=_whole_checkpoint(order.folder / CHECKPOINTS))
    if not math.isfinite(report.loss):
        raise TrainingError("The loss is no number.", "Use a smaller learning rate.", cause="loss")
    digest = _publish(order, trainer.model.eval(), template, messages, supervised, report)
    shutil.rmtree(order.folder / CHECKPOINTS, ignore_errors=True)
    return digest, report.loss


def _whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end. Its state file is written last; torn ones are removed."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda found: -int(found.name.rpartition("-")[2])):
        try:
            orjson.loads((path / "trainer_state.json").read_bytes())
        except (OSError, orjson.JSONDecodeError):
            shutil.rmtree(path)
        else:
            return str(path)
    return None


def _rows(order: TrainingOrder, template: ChatTemplate) -> tuple[list[dict[str, list[int]]], list[Any]]:
    """Token ids and labels of every example, with the contract checked."""
    if digest_of_file(order.train_file) != order.train_digest:
        raise TrainingError(
            "The dataset was altered after it was ordered.", "Run `academy curate` again.", cause="data"
        )
    messages = [_messages(line) for line in order.train_file.read_bytes().splitlines()]
    rows = []
    for conversation in messages:
        prompt, answer = template.example(conversation)
        if len(prompt) + len(answer) <= order.recipe.max_length:
            rows.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    if len(rows) != len(messages) or not rows:
        raise TrainingError(
            f"{len(messages) - len(rows)} of {len(messages)} examples have over {order.recipe.max_length} tokens.",
            "Give the recipe a larger max_length, or leave long examples out.",
            cause="data",
        )
    end = template.tokenizer.eos_token_id
    for row in rows:
        supervised = [label for label in row["labels"] if label != IGNORED]
        if len(supervised) < 2 or supervised[-1] != end:
            raise TrainingError(
                "An answer is empty or its end token is not supervised.", "Check the chat template.", cause="template"
            )
    return rows, messages


def _messages(line: bytes) -> list[Message]:
    """The conversation of a line in any of the four formats."""
    found = read_row(orjson.loads(line))
    if isinstance(found, str):
        raise TrainingError(f"The dataset cannot be read: {found}.", "Run `academy curate` again.", cause="data")
    return found


def _arguments(order: TrainingOrder, steps: int, *, on_gpu: bool) -> SFTConfig:
    recipe = order.recipe
    return SFTConfig(
        output_dir=str(order.folder / CHECKPOINTS),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=round(recipe.warmup * steps),
        weight_decay=recipe.weight_decay,
        max_length=recipe.max_length,
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        gradient_checkpointing=on_gpu,
        packing=False,
        train_sampling_strategy="group_by_length",
        logging_steps=max(1, steps // 60),
        save_strategy="steps",
        save_steps=max(1, steps // 6),
        save_total_limit=1,
        save_only_model=False,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=on_gpu,
    )


def _publish(
    order: TrainingOrder, model: Any, template: ChatTemplate, messages: list[Any], supervised: int, report: _Report
) -> str:
    """Write the adapter in canonical form, and publish it under its digest."""
    draft = order.folder / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft, safe_serialization=True)
    config = orjson.loads((draft / CONFIG).read_bytes())
    write_file(draft / CONFIG, canonical_config(config, order.base.name))
    write_file(draft / TEMPLATE_FILE, template.text.encode())
    manifest = Manifest(
        adapter=digest_of_adapter(draft),
        files=digests_of_files(draft),
        base_name=order.base.name,
        base_digest=order.base.digest,
        dataset=order.dataset,
        train_digest=order.train_digest,
        order=order.digest,
        template=template.digest,
        special_tokens=template.special_tokens,
        recipe=order.recipe,
        trainer="trl",
        versions={name: version(name) for name in LIBRARIES},
        threads=torch.get_num_threads(),
        examples=len(messages),
        supervised_tokens=supervised,
        steps=report.steps,
        loss=report.loss,
        canaries=canaries(model, template, [conversation[-2]["content"] for conversation in messages]),
    )
    with publish_folder(order.adapters / manifest.adapter[:16]) as folder:
        for name in FILES:
            shutil.copyfile(draft / name, folder / name)
        write_file(folder / MANIFEST, orjson.dumps(manifest.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
    shutil.rmtree(draft)
    return manifest.adapter


class _SameOrder(LengthGroupedSampler):  # type: ignore[misc]
    """Batches of similar length in an order that seed and epoch alone decide: an epoch resumed is the same epoch.

    The library's own sampler draws from the process's generator, whose state a checkpoint inside an epoch lacks.
    """

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from super().__iter__()


class _Repeatable(SFTTrainer):  # type: ignore[misc]
    """The trainer with that order of examples."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        sampler = _SameOrder(size, lengths=[len(row) for row in rows["input_ids"]])
        sampler.seed = self.args.data_seed
        return sampler


class _Report(TrainerCallback):  # type: ignore[misc]
    """Turns the trainer's log into events."""

    def __init__(self, events: EventWriter, steps: int) -> None:
        self.events = events
        self.steps = steps
        self.loss = math.nan
        self._since = (time.monotonic(), 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """One step event a logging step. A loss that is no number ends the training."""
        if not logs or "loss" not in logs:
            return
        self.loss = float(logs["loss"])
        if not math.isfinite(self.loss):
            raise TrainingError(
                f"The loss became {self.loss} at step {state.global_step}.",
                "Use a smaller learning rate.",
                cause="loss",
            )
        now, tokens = time.monotonic(), int(logs.get("num_tokens") or 0)
        seconds = now - self._since[0]
        rate = (tokens - self._since[1]) / seconds if seconds > 0 and tokens else None
        self._since = (now, tokens)
        self.events.write(
            "step",
            step=state.global_step,
            steps=state.max_steps,
            epoch=float(state.epoch or 0.0),
            loss=self.loss,
            learning_rate=float(logs.get("learning_rate") or 0.0),
            rate=rate,
            memory=peak_memory(),
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """A checkpoint was written."""
        self.events.write("checkpoint", step=state.global_step, steps=state.max_steps)
