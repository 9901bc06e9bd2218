"""One LoRA training by TRL's trainer: loss on the answer only, byte-identical when repeated on one machine's CPUs."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import orjson
import torch
from accelerate import DistributedType, PartialState
from datasets import Dataset
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from academy.adapters.adapter import (
    CONFIG,
    FILES,
    MANIFEST,
    Canary,
    Manifest,
    canonical_config,
    digest_of_adapter,
    digests_of_files,
)
from academy.errors import TrainingError
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.memory import split_batch
from academy.habitat.trainer.canaries import canaries
from academy.habitat.trainer.checkpoints import CHECKPOINTS, DRAFT, whole_checkpoint
from academy.habitat.trainer.events import EventWriter, NullEventWriter
from academy.habitat.trainer.model import Library, load, refuse_leaks
from academy.habitat.trainer.rows import Rows, packed, read_rows, request_of
from academy.models.chat_template import FILE as TEMPLATE_FILE
from academy.models.chat_template import ChatTemplate
from academy.store.files import publish_folder, write_file
from academy.system.processes import peak_memory

REPORT_SECONDS = 60.0
"""Maximum time between two step events; steps may be slow."""
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "safetensors", "tokenizers")


def train(order: TrainingOrder, events: EventWriter | NullEventWriter, library: Library) -> tuple[str, float]:
    """Train, publish the adapter, and return its digest and the last logged loss.

    With evaluations, the adapter with the best evaluation loss is published. Raises TrainingError, TemplateError,
    HomeError.
    """
    recipe = order.recipe
    # equal bytes are promised only on CPUs; on GPUs determinism is slow, and not all of them support it
    torch.use_deterministic_algorithms(not library.on_gpu, warn_only=True)
    set_seed(recipe.seed)
    template = order.base.open_template()
    with events.busy():
        rows = read_rows(order, template)
    note = f" with the day {template.day}" if template.day else ""
    split = f", {len(rows.dev)} of them to evaluate on" if rows.dev else ""
    events.write(
        "contract",
        message=f"{len(rows.train) + len(rows.dev)} rows in and out{split}, {rows.supervised} supervised tokens, "
        f"template {template.digest[:12]}{note}; {library.sentence}",
    )
    with events.busy():
        model = load(order, library)
        train_rows: list[Any] = packed(rows.train, recipe.max_length) if recipe.packing else rows.train
        if recipe.packing:
            refuse_leaks(model, max(train_rows, key=lambda row: len(row["seq_lengths"])), library)
    steps = math.ceil(len(train_rows) / (recipe.batch_size * recipe.accumulation)) * recipe.epochs
    reporter = _Reporter(events, steps)
    arguments = _arguments(order, steps, library)
    if library.plan.shared and not library.on_gpu:
        # accelerate shards only on accelerators, although torch can shard on CPUs: make it treat the CPUs as such
        _ = arguments.device
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    with events.busy():
        trainer = _Repeatable(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(train_rows),
            eval_dataset=Dataset.from_list(rows.dev) if rows.dev else None,
            processing_class=template.tokenizer,
            callbacks=[reporter, *([EarlyStoppingCallback(recipe.patience)] if recipe.patience else [])],
        )
    if library.dtype is torch.float16:
        # TRL makes adapters of quantised models bfloat16, and float16's gradient scaler does not support that
        for weights in trainer.model.parameters():
            if weights.requires_grad:
                weights.data = weights.data.float()
    if library.plan.shared and library.on_gpu:
        # accelerate's default would also compute the loss and sum the gradients in bfloat16
        policy = MixedPrecisionPolicy(param_dtype=library.dtype, reduce_dtype=torch.float32)
        trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = policy
    if library.plan.processes > 1 and not library.on_gpu:
        # several processes on CPUs have the device "cpu:0", on which torch cannot read a checkpoint's states
        trainer.args.__dict__["_setup_devices"] = torch.device("cpu")
    trainer.train(resume_from_checkpoint=whole_checkpoint(order.folder / CHECKPOINTS, library.plan))
    # from the trainer's history, which a checkpoint contains: after the last checkpoint there may be no step left
    reporter.loss = next((row["loss"] for row in reversed(trainer.state.log_history) if "loss" in row), math.nan)
    if not math.isfinite(reporter.loss):
        raise diverged(reporter.loss, trainer.state.global_step)
    with events.busy():
        return _finish(order, trainer, template, rows, library, reporter), reporter.loss


def _finish(
    order: TrainingOrder, trainer: Any, template: ChatTemplate, rows: Rows, library: Library, reporter: _Reporter
) -> str:
    """Publish the adapter and return its digest. Of several processes only the first does; the others return ""."""
    is_first = trainer.is_world_process_zero()
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    weights = None
    if library.plan.shared:  # all processes take part, because the weights are gathered for each answer
        if not isinstance(model, FSDPModule):
            raise TrainingError(
                "The processes did not share the weights.", "Set ACADEMY_TRAINING_SHARDED=false.", cause="unknown"
            )
        weights = get_model_state_dict(
            model, options=StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        )
    if not is_first and not library.plan.shared:
        return ""
    recorded_canaries = canaries(model, template, [request_of(conversation) for conversation in rows.messages])
    if not is_first:
        return ""
    shutil.rmtree(order.folder / DRAFT, ignore_errors=True)
    model.save_pretrained(order.folder / DRAFT, state_dict=weights, safe_serialization=True)
    digest = _publish(order, recorded_canaries, template, rows, library, reporter)
    shutil.rmtree(order.folder / CHECKPOINTS, ignore_errors=True)
    return digest


def _arguments(order: TrainingOrder, steps: int, library: Library) -> SFTConfig:
    recipe = order.recipe
    interval = max(1, steps // 6)
    batch, accumulation = split_batch(recipe, library.plan.processes)
    return SFTConfig(
        output_dir=str(order.folder / CHECKPOINTS),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=round(recipe.warmup * steps),
        weight_decay=recipe.weight_decay,
        max_length=None,  # no row is longer than the recipe allows
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=not library.on_gpu,
        bf16=library.dtype is torch.bfloat16,
        fp16=library.dtype is torch.float16,
        gradient_checkpointing=library.plan.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        packing=False,  # rows are already packed if the recipe says so
        # None leaves it to Unsloth, which then trains without padding where it can
        padding_free=True if recipe.packing else None if library.name == "unsloth" else False,
        train_sampling_strategy="group_by_length",
        logging_steps=max(1, steps // 60),
        logging_nan_inf_filter=False,  # it would log the mean of earlier losses instead of a loss that is not finite
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=1,
        save_only_model=False,
        eval_strategy="steps" if recipe.dev_share else "no",
        eval_steps=interval,
        per_device_eval_batch_size=batch,
        load_best_model_at_end=bool(recipe.dev_share),
        metric_for_best_model="eval_loss" if recipe.dev_share else None,
        greater_is_better=False if recipe.dev_share else None,
        restore_callback_states_from_checkpoint=bool(recipe.patience),
        # Unsloth's trainer lacks TRL's token count
        include_num_input_tokens_seen="non_padding" if library.name == "unsloth" else "no",
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=library.on_gpu,
    )


def _publish(
    order: TrainingOrder,
    recorded_canaries: tuple[Canary, ...],
    template: ChatTemplate,
    rows: Rows,
    library: Library,
    reporter: _Reporter,
) -> str:
    """Convert the draft to canonical form and publish it under its digest."""
    draft = order.folder / DRAFT
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
        day=template.day,
        system_in_request=template.rendering.system_in_request,
        special_tokens=template.special_tokens,
        recipe=order.recipe,
        trainer=library.name,
        versions={name: version(name) for name in LIBRARIES},
        threads=torch.get_num_threads(),
        examples=len(rows.messages),
        supervised_tokens=rows.supervised,
        steps=reporter.steps,
        loss=reporter.loss,
        canaries=recorded_canaries,
    )
    with publish_folder(order.adapters / manifest.adapter[:16]) as folder:
        for name in FILES:
            shutil.copyfile(draft / name, folder / name)
        write_file(folder / MANIFEST, orjson.dumps(manifest.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
    shutil.rmtree(draft)
    return manifest.adapter


class _SameOrder(LengthGroupedSampler):  # type: ignore[misc]
    """Batches of similar length in an order that depends only on seed and epoch, so a resumed epoch is the same epoch.

    The library's own sampler uses the process's generator, whose state a checkpoint inside an epoch does not have.
    """

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from super().__iter__()


class _Repeatable(SFTTrainer):  # type: ignore[misc]
    """The trainer with this order of examples."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        # the examples of a whole step, over all processes
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        sampler = _SameOrder(size, lengths=[len(row) for row in rows["input_ids"]])
        sampler.seed = self.args.data_seed
        return sampler


def diverged(loss: float, step: int, what: str = "loss") -> TrainingError:
    """The error for a loss that is not a finite number."""
    return TrainingError(f"The {what} became {loss} at step {step}.", "Use a smaller learning rate.", cause="loss")


def _finite(value: Any) -> float | None:
    """A figure of the log, which may be a tensor; None if it is missing or not a finite number."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


class _Reporter(TrainerCallback):  # type: ignore[misc]
    """Writes the trainer's log as events."""

    def __init__(self, events: EventWriter | NullEventWriter, steps: int) -> None:
        self.events = events
        self.steps = steps
        self.loss = math.nan
        self._since = (time.monotonic(), 0)
        self._last_report = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Start this attempt's speed measurement: tokens before its checkpoint do not count."""
        self._since = (time.monotonic(), int(state.num_input_tokens_seen))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Write one step event per logging step. A loss that is not finite ends the training."""
        if not logs or "loss" not in logs:
            return
        self.loss = float(logs["loss"])
        if not math.isfinite(self.loss):
            raise diverged(self.loss, state.global_step)
        now, tokens = time.monotonic(), int(logs.get("num_tokens") or logs.get("num_input_tokens_seen") or 0)
        seconds = now - self._since[0]
        rate = (tokens - self._since[1]) / seconds if seconds > 0 and tokens else None
        self._since = (now, tokens)
        self._write_step(
            state, loss=self.loss, learning_rate=float(logs.get("learning_rate") or 0.0), rate=rate,
            accuracy=_finite(logs.get("mean_token_accuracy")), grad_norm=_finite(logs.get("grad_norm")),
        )  # fmt: skip

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Write the evaluation loss. A loss that is not finite ends the training."""
        if metrics and "eval_loss" in metrics:
            loss = float(metrics["eval_loss"])
            if not math.isfinite(loss):
                raise diverged(loss, state.global_step, "evaluation loss")
            self._write_step(state, eval_loss=loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Show activity after each step, and write an event each minute if steps are slow."""
        self.events.pulse()
        if not control.should_log and time.monotonic() - self._last_report > REPORT_SECONDS:
            self._write_step(state)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Show activity after a part of a step."""
        self.events.pulse()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Show activity after a part of an evaluation."""
        self.events.pulse()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Write an event for a new checkpoint."""
        self.events.write("checkpoint", step=state.global_step, steps=state.max_steps)

    def _write_step(self, state: Any, **figures: float | None) -> None:
        self._last_report = time.monotonic()
        self.events.write(
            "step",
            step=state.global_step,
            steps=state.max_steps,
            epoch=float(state.epoch or 0.0),
            memory=peak_memory(),
            **figures,
        )
