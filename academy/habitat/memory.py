"""How much memory a training takes at its peak, from config.json alone: no weights are read and nothing is allocated.

Summed are weights, LoRA's parameters with their gradients and AdamW's two moments, what the layers keep for the way
back, the logits, and what the process takes before it trains anything. What layers keep is counted tensor by tensor
as transformers, PEFT and TRL make them (docs/design/training.md). On CPUs training is in float32 and a prediction is
the peak of the process's resident memory; on GPUs it is in 16 bits and of what torch reserves, with the CUDA context.

Known are the layouts of Llama, Mistral, Qwen, Phi and Gemma. Others that are built of the same parts are taken for the
widest of them, which is said; mixtures of experts and anything else are refused in a sentence.
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
"""Tokens whose logits TRL computes at once (loss_type chunked_nll)."""
LOGITS = 6
"""Float32 tensors of a chunk that are there at once: logits, their logarithm, its gradient, those of the entropy."""
NF4_BYTES = 0.5 + 1 / 16
"""A weight of 4 bits, and a float32 scale for 64 of them."""
CPU_OVERHEAD = 640 * 2**20
"""Python with torch, transformers, TRL and the tokenised rows."""
CPU_HEAP = 2.0
"""Resident memory of glibc's heap by what layers keep in it: freed places of large tensors stay with the process. Those
over 32 MiB do not, for they have mappings of their own; masks that weigh are such."""
CUDA_CONTEXT = 896 * 2**20
"""The driver's, with the kernels that were loaded. torch cannot tell it, and it was not measured here."""
CUDA_WORKSPACE = (3 * 32 + 32) * 2**20
"""What torch reserves for whatever model: cuBLAS's workspace (:4096:8) in the thread of the way there and in that of
the way back, cublasLt's, and begun segments of the allocator."""
ROOM = 0.8
"""Without checkpointing a training may take so much of what is free: no prediction was held against a GPU yet."""
CORRECTION = (0.5, 2.0)
"""Earlier trainings may change a prediction so far and no farther."""
GATED = frozenset(
    ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3", "gemma3_text", "smollm3", "granite")
)
PLAIN = frozenset(("phi",))
FUSED = frozenset(("phi3",))
FOUR_NORMS = frozenset(("gemma2", "gemma3", "gemma3_text"))
WRITTEN_OUT = frozenset(("gelu_new", "gelu_fast", "quick_gelu"))
"""Activations that transformers writes as several operations, each of which keeps its input."""
NORMED_HEADS = frozenset(("qwen3", "gemma3", "gemma3_text"))


class Plan(Record):
    """How a recipe is carried out; it decides the memory, not what is learned."""

    device: Device
    checkpointing: bool = False  # layers keep their input only, and are computed again on the way back
    library: Literal["", "trl", "unsloth"] = ""  # empty: Unsloth where a GPU and Unsloth are there
    processes: Annotated[int, Field(ge=1, le=64)] = 1  # each with a GPU or a share of the processors (DDP)
    sharded: bool = False  # each of them keeps a part of the weights only (FSDP)

    @property
    def shared(self) -> bool:
        """Whether there are several processes that share the weights."""
        return self.sharded and self.processes > 1


class Shape(Record):
    """What of a model's configuration decides its memory. `note` says what was not known of it."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    queries: int  # width of all query heads
    keys: int  # width of all key heads; the values' are as wide
    vocabulary: int
    tied: bool
    gated: bool
    fused: bool
    norms: int  # in a layer
    normed_heads: bool
    steps: int  # tensors that the activation function keeps: one where it is a kernel of its own
    eager: bool  # attention whose scores are kept
    quantised: bool  # the weights are there as 4 bits already
    note: str = ""

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of the linear maps of one layer, each of which gets a LoRA pair."""
        if self.fused:
            attention = ((self.hidden, self.queries + 2 * self.keys), (self.queries, self.hidden))
            return (*attention, (self.hidden, 2 * self.intermediate), (self.intermediate, self.hidden))
        values = keys = (self.hidden, self.keys)
        up = ((self.hidden, self.intermediate),) * (2 if self.gated else 1)
        around = (self.hidden, self.queries), keys, values, (self.queries, self.hidden)
        return (*around, *up, (self.intermediate, self.hidden))

    @property
    def linear_weights(self) -> int:
        """Weights of all layers' linear maps."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def other_weights(self) -> int:
        """Embeddings, head and norms."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden * (self.layers * self.norms + 1)

    def adapter_weights(self, rank: int) -> int:
        """LoRA's parameters on all linear maps of the layers; the head gets none."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.linears)


class Prediction(Record):
    """Bytes at the peak, by what takes them. `correction` is the factor that earlier trainings gave."""

    device: Device
    weights: int
    adapter: int  # parameters, gradients, moments
    activations: int
    logits: int
    overhead: int  # the process; on a GPU CUDA_CONTEXT and CUDA_WORKSPACE
    correction: float = 1.0
    note: str = ""

    @property
    def measurable(self) -> int:
        """What a trainer can measure of it, before any correction: torch knows nothing of its CUDA context."""
        own = self.weights + self.adapter + self.activations + self.logits + self.overhead
        return own - CUDA_CONTEXT if self.device == "cuda" else own

    @property
    def total(self) -> int:
        """What is reckoned with."""
        return round(self.measurable * self.correction) + (CUDA_CONTEXT if self.device == "cuda" else 0)


def read_shape(folder: Path) -> Shape:
    """The shape of the base model in a folder. Raises BaseModelError where its memory cannot be predicted."""
    try:
        config = orjson.loads((folder / "config.json").read_bytes())
    except (OSError, orjson.JSONDecodeError) as problem:
        raise BaseModelError(f"{folder}/config.json cannot be read ({problem}).", "Copy the model again.") from problem
    return shape_of(config)


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape that a config.json describes. Raises BaseModelError where its memory cannot be predicted."""
    kind = str(config.get("model_type", "unknown"))
    notes = []
    if isinstance(config.get("text_config"), dict):
        notes.append("only the text part is counted")
        outer, config = config, {**config["text_config"]}
        config.setdefault("tie_word_embeddings", outer.get("tie_word_embeddings", True))
        kind = str(config.get("model_type", kind))
    if any(config.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise BaseModelError(
            f"The memory of a mixture of experts ({kind}) cannot be predicted.", "Try it with --batch-size 1 first."
        )
    known = kind in GATED | PLAIN
    if not known:
        notes.append(f"the layout of {kind} is not known: it is taken for the widest that is")
    try:
        hidden = _count(config, "hidden_size")
        heads = _count(config, "num_attention_heads")
        width = int(config.get("head_dim") or hidden // heads)
        shape = Shape(
            hidden=hidden, intermediate=_count(config, "intermediate_size"), layers=_count(config, "num_hidden_layers"),
            heads=heads, queries=heads * width, keys=int(config.get("num_key_value_heads") or heads) * width,
            vocabulary=_count(config, "vocab_size"),
            tied=bool(config.get("tie_word_embeddings", known and kind.startswith("gemma"))),
            gated=kind not in PLAIN, fused=kind in FUSED,
            norms=4 if kind in FOUR_NORMS or not known else 1 if kind in PLAIN else 2,
            normed_heads=kind in NORMED_HEADS or not known,
            steps=4 if config.get("hidden_act") in WRITTEN_OUT or not known else 1, eager=not known,
            quantised=bool((config.get("quantization_config") or {}).get("load_in_4bit")),
            note="; ".join(notes),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as problem:
        raise BaseModelError(
            f"The memory of a {kind} model cannot be predicted: its configuration lacks {problem}.",
            "Llama, Mistral, Qwen, Phi and Gemma are known.",
        ) from problem
    return shape


def _count(config: Mapping[str, Any], name: str) -> int:
    value = int(config[name])
    if value < 1:
        raise ValueError(f"a {name} above zero")
    return value


def default_plan(device: Device) -> Plan:
    """How the trainer carries out a recipe where nothing else is asked for and nothing is known of the memory."""
    return Plan(device=device, checkpointing=device == "cuda")


def split_batch(recipe: Recipe, processes: int) -> tuple[int, int]:
    """Batch and accumulation of each of several processes, so that a step learns from as many examples as before.

    Raises TrainingError where that cannot be.
    """
    if recipe.accumulation % processes == 0:
        return recipe.batch_size, recipe.accumulation // processes
    if recipe.batch_size % processes == 0:
        return recipe.batch_size // processes, recipe.accumulation
    raise TrainingError(
        f"{recipe.batch_size * recipe.accumulation} examples a step cannot be shared by {processes} processes.",
        f"Use a batch size that {processes} divides.",
        cause="order",
    )


def predict(
    shape: Shape, recipe: Recipe, plan: Plan, *, longest: int | None = None, ratios: Sequence[float] = ()
) -> Prediction:
    """The peak of a training. `longest` is the longest example in tokens where that is known; the recipe bounds it.

    `ratios` are measurement by prediction of earlier trainings of the same base on the same kind of device; their
    median, bounded, corrects this one.
    """
    sequence = recipe.max_length if recipe.packing else min(recipe.max_length, longest or recipe.max_length)
    tokens = batch_per_process(recipe, plan.processes) * sequence
    wide = 2 if plan.device == "cuda" else 4  # bytes of a number in the base model and between its layers
    if recipe.four_bit or shape.quantised:
        weights = round(shape.linear_weights * NF4_BYTES) + shape.other_weights * wide
    else:
        weights = (shape.linear_weights + shape.other_weights) * wide
    adapter = shape.adapter_weights(recipe.rank) * (4 + 4 + 8)
    if plan.shared:
        # each has its part, and what is gathered for the moment: the layer at work, the next, and the embeddings
        gathered = 2 * shape.linear_weights // shape.layers + shape.vocabulary * shape.hidden
        # on processors each reads all of it first, and gives up the rest when every part is copied
        whole = weights if plan.device == "cpu" else gathered * wide
        weights, adapter = weights // plan.processes + whole, adapter // plan.processes
    # packed rows are trained as one row, whose examples a mask of all its tokens by all its tokens keeps apart
    seen = tokens if recipe.packing else sequence
    layer = tokens * _kept(shape, recipe, wide, seen)
    passing = tokens * wide * (3 * shape.intermediate + 4 * shape.hidden)  # gradients within the layer on the way back
    if plan.checkpointing:
        activations = tokens * wide * shape.hidden * shape.layers + layer + passing
    else:
        activations = layer * shape.layers + passing
    activations += tokens * wide * 3 * shape.hidden  # embeddings, the last norm and its input
    if plan.device == "cpu":
        activations = round(activations * CPU_HEAP)
    activations += _masks(shape, recipe, wide, tokens, seen, 1 if plan.checkpointing else shape.layers)
    return Prediction(
        device=plan.device,
        weights=weights,
        adapter=adapter,
        activations=activations,
        logits=min(tokens, CHUNK) * shape.vocabulary * 4 * LOGITS,
        overhead=CUDA_CONTEXT + CUDA_WORKSPACE if plan.device == "cuda" else CPU_OVERHEAD,
        correction=correction_of(ratios),
        note="; ".join(filter(None, (shape.note, "DoRA takes more than is counted" if recipe.use_dora else ""))),
    )


def without_checkpointing(
    shape: Shape, recipe: Recipe, plan: Plan, free: int, *, longest: int | None = None, ratios: Sequence[float] = ()
) -> Plan:
    """The plan without checkpointing, which takes up to a third of a GPU's time, where `free` bytes have room for it.

    Else, and on processors, the plan as it is.
    """
    whole = plan.model_copy(update={"checkpointing": False})
    room = ROOM * free >= predict(shape, recipe, whole, longest=longest, ratios=ratios).total
    return whole if plan.device == "cuda" and room else plan


def batch_per_process(recipe: Recipe, processes: int) -> int:
    """Examples of a batch of one process; all of them where they cannot be shared, which the trainer refuses."""
    try:
        return split_batch(recipe, processes)[0]
    except TrainingError:
        return recipe.batch_size


def _masks(shape: Shape, recipe: Recipe, wide: int, tokens: int, seen: int, layers: int) -> int:
    """Bytes of attention's masks, of so many tokens that each may see `seen`; `layers` keep theirs for the way back.

    There are none where no row is filled up or holds several examples: then attention is told that it is causal. The
    trainer uses transformers' own (sdpa); FlashAttention would need none either.
    """
    if not recipe.packing and recipe.batch_size == 1:
        return 0
    # all layers share one of a byte each, which sdpa makes numbers of, for each layer anew
    return tokens * seen * (1 + (0 if shape.eager else wide * layers))


def _kept(shape: Shape, recipe: Recipe, wide: int, seen: int) -> int:
    """Bytes that one layer keeps of one token for the way back. `seen`: tokens of the row that it stands in."""
    hidden, queries, inner = shape.hidden, shape.queries, shape.intermediate
    norms = 4 * (shape.norms * hidden + (queries + shape.keys if shape.normed_heads else 0))  # always in float32
    # queries, keys and values (repeated to as many heads), the output, and one sum of exponentials a head
    attention = wide * 4 * queries + 4 * shape.heads
    if shape.eager:
        attention += shape.heads * seen * (2 * wide + 4)
    between = wide * inner * (shape.steps + (2 if shape.gated else 0))
    inputs = sum(one for one, _ in shape.linears)
    if wide == 4 and not recipe.dropout:
        # maps of one input share it
        adapters = wide * (hidden + queries + hidden + inner)
    elif wide == 4:
        adapters = 2 * wide * inputs  # each drops of its own copy, by a mask that is as wide on CPUs
    else:
        adapters = (wide + (1 if recipe.dropout else 0)) * inputs  # autocast makes a copy for each; a mask is a byte
    return norms + attention + between + adapters + wide * len(shape.linears) * recipe.rank


def correction_of(ratios: Sequence[float]) -> float:
    """The factor that earlier trainings give: the median, within bounds; 1 where there are none."""
    return min(max(statistics.median(ratios), CORRECTION[0]), CORRECTION[1]) if ratios else 1.0
