"""Estimates a training's peak memory from config.json alone: no weights are read and nothing is allocated.

The sum has the weights, LoRA's parameters with their gradients and AdamW's two moments, the activations that layers
keep for the backward pass, the logits, and what the process needs before it trains anything. Activations are counted
tensor by tensor as transformers, PEFT and TRL create them (docs/design/training.md). On CPUs training is in float32 and
the estimate is the peak of the process's resident memory; on GPUs it is in 16 bits and the estimate is what torch
reserves plus the CUDA context.

The layouts of Llama, Mistral, Qwen, Phi and Gemma are supported. Other models with the same parts are estimated like
the widest of these, and a note says so. Mixtures of experts and all other models are rejected.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from academy.errors import BaseModelError, TrainingError
from academy.professor.recipe import Recipe
from academy.records import Record

Device = Literal["cuda", "cpu"]
GIB = 2**30
CHUNK = 256
"""Tokens for which TRL computes logits at once (loss_type chunked_nll)."""
LOGITS = 6
"""Float32 tensors of a chunk that exist at once: logits, their logarithm, its gradient, those of the entropy."""
NF4_BYTES = 0.5 + 1 / 16
"""A 4-bit weight, and a float32 scale for each 64 of them."""
CPU_OVERHEAD = 640 * 2**20
"""Python with torch, transformers, TRL and the tokenised rows."""
CPU_HEAP = 2.0
"""Resident memory of glibc's heap per byte that layers keep in it: the process keeps the space of freed large tensors.
Tensors over 32 MiB, such as large masks, have their own mappings and are returned."""
CUDA_CONTEXT = 896 * 2**20
"""Memory of the driver and its loaded kernels. torch does not report it, and it was not measured here."""
CUDA_WORKSPACE = (3 * 32 + 32) * 2**20
"""What torch reserves for any model: cuBLAS's workspace (:4096:8) in the thread of the forward pass and in that of the
backward pass, cublasLt's workspace, and partly used segments of the allocator."""
ROOM = 0.8
"""Part of the free memory that a training without checkpointing may use: no estimate was compared with a GPU yet."""
CORRECTION = (0.5, 2.0)
"""Limits of the factor by which earlier trainings correct an estimate."""
GATED = frozenset(
    ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3", "gemma3_text", "smollm3", "granite")
)
PLAIN = frozenset(("phi",))
FUSED = frozenset(("phi3",))
FOUR_NORMS = frozenset(("gemma2", "gemma3", "gemma3_text"))
WRITTEN_OUT = frozenset(("gelu_new", "gelu_fast", "quick_gelu"))
"""Activation functions that transformers computes in several operations, each of which keeps its input."""
NORMED_HEADS = frozenset(("qwen3", "gemma3", "gemma3_text"))


class Plan(Record):
    """How a recipe is carried out. It changes memory and speed, not what is learned."""

    device: Device
    checkpointing: bool = False  # layers keep only their input and are computed again in the backward pass
    library: Literal["", "trl", "unsloth"] = ""  # empty: Unsloth if a GPU and Unsloth are available
    processes: Annotated[int, Field(ge=1, le=64)] = 1  # each with a GPU or a part of the CPUs (DDP)
    sharded: bool = False  # each process keeps only a part of the weights (FSDP)

    @property
    def shared(self) -> bool:
        """Whether several processes share the weights."""
        return self.sharded and self.processes > 1


class Shape(Record):
    """The parts of a model's configuration that decide its memory. `note` says what is assumed."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    queries: int  # width of all query heads
    keys: int  # width of all key heads; value heads have the same width
    vocabulary: int
    tied: bool
    gated: bool
    fused: bool
    norms: int  # per layer
    normed_heads: bool
    steps: int  # tensors that the activation function keeps: one if it is a single kernel
    eager: bool  # attention keeps its scores
    quantised: bool  # the model's files have 4-bit weights
    note: str = ""

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """Input and output widths of one layer's linear maps, each of which gets a LoRA pair."""
        if self.fused:
            attention = ((self.hidden, self.queries + 2 * self.keys), (self.queries, self.hidden))
            return (*attention, (self.hidden, 2 * self.intermediate), (self.intermediate, self.hidden))
        values = keys = (self.hidden, self.keys)
        up = ((self.hidden, self.intermediate),) * (2 if self.gated else 1)
        attention_maps = (self.hidden, self.queries), keys, values, (self.queries, self.hidden)
        return (*attention_maps, *up, (self.intermediate, self.hidden))

    @property
    def linear_weights(self) -> int:
        """Weights of all layers' linear maps."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def other_weights(self) -> int:
        """Embeddings, head and norms."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden * (self.layers * self.norms + 1)

    def adapter_weights(self, rank: int) -> int:
        """LoRA parameters on all linear maps of the layers, without the head."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.linears)


class Prediction(Record):
    """Estimated bytes at the peak, by purpose. `correction`: the factor from earlier trainings."""

    device: Device
    weights: int
    adapter: int  # parameters, gradients, moments
    activations: int
    logits: int
    overhead: int  # of the process; on a GPU, CUDA_CONTEXT and CUDA_WORKSPACE
    correction: float = 1.0
    note: str = ""

    @property
    def measurable(self) -> int:
        """The part that a trainer can measure, uncorrected: torch does not know the size of its CUDA context."""
        size = self.weights + self.adapter + self.activations + self.logits + self.overhead
        return size - CUDA_CONTEXT if self.device == "cuda" else size

    @property
    def total(self) -> int:
        """The corrected estimate."""
        return round(self.measurable * self.correction) + (CUDA_CONTEXT if self.device == "cuda" else 0)


def read_shape(folder: Path) -> Shape:
    """The shape of the base model in a folder. Raises BaseModelError if its memory cannot be predicted."""
    try:
        config = orjson.loads((folder / "config.json").read_bytes())
    except (OSError, orjson.JSONDecodeError) as problem:
        raise BaseModelError(f"{folder}/config.json cannot be read ({problem}).", "Copy the model again.") from problem
    return shape_of(config)


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape that a config.json describes. Raises BaseModelError if its memory cannot be predicted."""
    kind = str(config.get("model_type", "unknown"))
    notes = []
    if isinstance(config.get("text_config"), dict):
        notes.append("only the text part is counted")
        outer, config = config, {**config["text_config"]}
        config.setdefault("tie_word_embeddings", outer.get("tie_word_embeddings", True))
        kind = str(config.get("model_type", kind))
    if any(config.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise BaseModelError(
            f"The memory of a mixture of experts ({kind}) cannot be predicted.",
            "Try --batch-size 1 first.",
        )
    is_known = kind in GATED | PLAIN
    if not is_known:
        notes.append(f"the layout of {kind} is unknown: it is estimated like the widest known layout")
    try:
        hidden = _count(config, "hidden_size")
        heads = _count(config, "num_attention_heads")
        width = int(config.get("head_dim") or hidden // heads)
        shape = Shape(
            hidden=hidden, intermediate=_count(config, "intermediate_size"), layers=_count(config, "num_hidden_layers"),
            heads=heads, queries=heads * width, keys=int(config.get("num_key_value_heads") or heads) * width,
            vocabulary=_count(config, "vocab_size"),
            tied=bool(config.get("tie_word_embeddings", is_known and kind.startswith("gemma"))),
            gated=kind not in PLAIN, fused=kind in FUSED,
            norms=4 if kind in FOUR_NORMS or not is_known else 1 if kind in PLAIN else 2,
            normed_heads=kind in NORMED_HEADS or not is_known,
            steps=4 if config.get("hidden_act") in WRITTEN_OUT or not is_known else 1, eager=not is_known,
            quantised=bool((config.get("quantization_config") or {}).get("load_in_4bit")),
            note="; ".join(notes),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as problem:
        raise BaseModelError(
            f"The memory of a {kind} model cannot be predicted: its configuration lacks {problem}.",
            "Use a Llama, Mistral, Qwen, Phi or Gemma model.",
        ) from problem
    return shape


def _count(config: Mapping[str, Any], name: str) -> int:
    value = int(config[name])
    if value < 1:
        raise ValueError(f"a {name} above zero")
    return value


def default_plan(device: Device) -> Plan:
    """The plan of a training if no setting changes it and its memory is unknown."""
    return Plan(device=device, checkpointing=device == "cuda")


def split_batch(recipe: Recipe, processes: int) -> tuple[int, int]:
    """Batch size and accumulation of each of several processes, so that a step learns from as many examples as before.

    Raises TrainingError if that is not possible.
    """
    if recipe.accumulation % processes == 0:
        return recipe.batch_size, recipe.accumulation // processes
    if recipe.batch_size % processes == 0:
        return recipe.batch_size // processes, recipe.accumulation
    raise TrainingError(
        f"{recipe.batch_size * recipe.accumulation} examples per step cannot be split over {processes} processes.",
        f"Use a batch size that is a multiple of {processes}.",
        cause="order",
    )


def predict(
    shape: Shape, recipe: Recipe, plan: Plan, *, longest: int | None = None, ratios: Sequence[float] = ()
) -> Prediction:
    """Estimate the peak of a training. `longest`: tokens of the longest example if known; the recipe limits it.

    `ratios`: measured by predicted memory of earlier trainings of the same base on the same kind of device. Their
    median, within limits, corrects this estimate.
    """
    sequence = recipe.max_length if recipe.packing else min(recipe.max_length, longest or recipe.max_length)
    tokens = batch_per_process(recipe, plan.processes) * sequence
    wide = 2 if plan.device == "cuda" else 4  # bytes per number in the base model and between its layers
    if recipe.four_bit or shape.quantised:
        weights = round(shape.linear_weights * NF4_BYTES) + shape.other_weights * wide
    else:
        weights = (shape.linear_weights + shape.other_weights) * wide
    adapter = shape.adapter_weights(recipe.rank) * (4 + 4 + 8)
    if plan.shared:
        # each process has its part and what is gathered at the moment: the current layer, the next, the embeddings
        gathered_weights = 2 * shape.linear_weights // shape.layers + shape.vocabulary * shape.hidden
        # on CPUs each process reads all weights first, and frees the rest after every part is copied
        temporary = weights if plan.device == "cpu" else gathered_weights * wide
        weights, adapter = weights // plan.processes + temporary, adapter // plan.processes
    # a packed row is trained as one row; a mask of all tokens by all tokens separates its examples
    row = tokens if recipe.packing else sequence
    layer = tokens * _bytes_per_token(shape, recipe, wide, row)
    gradients = tokens * wide * (3 * shape.intermediate + 4 * shape.hidden)  # within the layer, in the backward pass
    if plan.checkpointing:
        activations = tokens * wide * shape.hidden * shape.layers + layer + gradients
    else:
        activations = layer * shape.layers + gradients
    activations += tokens * wide * 3 * shape.hidden  # embeddings, the last norm and its input
    if plan.device == "cpu":
        activations = round(activations * CPU_HEAP)
    activations += _masks(shape, recipe, wide, tokens, row, 1 if plan.checkpointing else shape.layers)
    return Prediction(
        device=plan.device,
        weights=weights,
        adapter=adapter,
        activations=activations,
        logits=min(tokens, CHUNK) * shape.vocabulary * 4 * LOGITS,
        overhead=CUDA_CONTEXT + CUDA_WORKSPACE if plan.device == "cuda" else CPU_OVERHEAD,
        correction=correction_factor(ratios),
        note="; ".join(filter(None, (shape.note, "DoRA needs more than this estimate" if recipe.use_dora else ""))),
    )


def without_checkpointing(
    shape: Shape, recipe: Recipe, plan: Plan, free: int, *, longest: int | None = None, ratios: Sequence[float] = ()
) -> Plan:
    """The plan without checkpointing, which costs up to a third of a GPU's time, if `free` bytes have room for it.

    Otherwise, and on CPUs, the plan as it is.
    """
    faster = plan.model_copy(update={"checkpointing": False})
    room = ROOM * free >= predict(shape, recipe, faster, longest=longest, ratios=ratios).total
    return faster if plan.device == "cuda" and room else plan


def batch_per_process(recipe: Recipe, processes: int) -> int:
    """Examples in one process's batch; all of them if they cannot be split, which the trainer rejects."""
    try:
        return split_batch(recipe, processes)[0]
    except TrainingError:
        return recipe.batch_size


def _masks(shape: Shape, recipe: Recipe, wide: int, tokens: int, row: int, layers: int) -> int:
    """Bytes of attention masks for so many tokens in rows of `row` tokens; `layers` keep theirs for the backward pass.

    Attention needs no mask if no row is padded or has several examples: it is simply causal then. The trainer uses
    transformers' own attention (sdpa); FlashAttention would need no mask either.
    """
    if not recipe.packing and recipe.batch_size == 1:
        return 0
    # all layers share one mask of bytes, which sdpa converts to numbers for each layer
    return tokens * row * (1 + (0 if shape.eager else wide * layers))


def _bytes_per_token(shape: Shape, recipe: Recipe, wide: int, row: int) -> int:
    """Bytes that one layer keeps of one token for the backward pass. `row`: tokens of the token's row."""
    hidden, queries, inner = shape.hidden, shape.queries, shape.intermediate
    norms = 4 * (shape.norms * hidden + (queries + shape.keys if shape.normed_heads else 0))  # always in float32
    # queries, keys and values (repeated to as many heads), the output, and one sum of exponentials per head
    attention = wide * 4 * queries + 4 * shape.heads
    if shape.eager:
        attention += shape.heads * row * (2 * wide + 4)
    between = wide * inner * (shape.steps + (2 if shape.gated else 0))
    inputs = sum(width for width, _ in shape.linears)
    if wide == 4 and not recipe.dropout:
        # maps with the same input share it
        adapters = wide * (hidden + queries + hidden + inner)
    elif wide == 4:
        adapters = 2 * wide * inputs  # each has its own copy for dropout, and on CPUs a mask of the same width
    else:
        adapters = (wide + (1 if recipe.dropout else 0)) * inputs  # autocast copies for each map; a mask is a byte
    return norms + attention + between + adapters + wide * len(shape.linears) * recipe.rank


def correction_factor(ratios: Sequence[float]) -> float:
    """The factor from earlier trainings: their median, within limits; 1 if there are none."""
    return min(max(statistics.median(ratios), CORRECTION[0]), CORRECTION[1]) if ratios else 1.0
