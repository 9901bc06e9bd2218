"""Chooses the recipe: a pure function from figures of the model, the dataset and the device.

The constants of the seed model were chosen on a development split of the training side (docs/log.md), never on the
hold-out.
"""

from __future__ import annotations

import difflib
import hashlib
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from academy.errors import InputError
from academy.records import Record

SEED_RATE, SEED_EPOCHS, SEED_BATCH = 5e-3, 6, 8
"""Learning rate, epochs and batch size for models of millions of parameters."""
LARGE_MODEL = 1_000_000_000
"""Parameters from which a model memorises few examples."""
FEW_EXAMPLES, MANY_EXAMPLES, VERY_MANY_EXAMPLES = 1_000, 5_000, 20_000
"""Below the first a large model gets more dropout. From the second, and again from the third, it trains fewer epochs
without dropout."""
MUCH_SHORTER = 4
"""Examples of mean length that a row must hold for packing to pay."""


SHAPE = ("rank", "alpha", "use_rslora", "use_dora")
"""Fields of a recipe that an existing adapter fixes."""

Rank = Annotated[int, Field(ge=4, le=256)]
Alpha = Annotated[int, Field(ge=1, le=512)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float, Field(gt=0, le=1e-2)]
Epochs = Annotated[int, Field(ge=1, le=20)]
BatchSize = Annotated[int, Field(ge=1, le=128)]
Accumulation = Annotated[int, Field(ge=1, le=128)]
MaxLength = Annotated[int, Field(ge=128, le=32768)]
Warmup = Annotated[float, Field(ge=0, lt=1)]
Schedule = Literal["linear", "cosine", "constant"]
WeightDecay = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
DevShare = Annotated[float, Field(ge=0, le=0.5)]
Patience = Annotated[int, Field(ge=0, le=100)]


class Recipe(Record):
    """How to train a LoRA adapter: every field that affects the result. Unknown keys are rejected."""

    rank: Rank = 16
    alpha: Alpha = 32
    dropout: Dropout = 0.0
    learning_rate: LearningRate = 2e-4
    epochs: Epochs = 3
    batch_size: BatchSize = 4
    accumulation: Accumulation = 4
    max_length: MaxLength = 2048
    warmup: Warmup = 0.05  # share of the steps
    schedule: Schedule = "cosine"
    weight_decay: WeightDecay = 0.0
    seed: Seed = 42
    use_rslora: bool = False  # scale by alpha / sqrt(rank)
    use_dora: bool = False  # weight-decomposed LoRA: directions and magnitudes are separate
    four_bit: bool = False  # 4-bit weights (NF4) of the base model: QLoRA
    packing: bool = False  # several examples in a row of max_length tokens; a batch counts rows
    dev_share: DevShare = 0.0  # examples to evaluate on, not to train on
    patience: Patience = 0  # evaluations without improvement that stop it early; 0: never
    # digest of the adapter to continue; empty: a new adapter, which does not change the base model yet
    init_adapter: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    @model_validator(mode="after")
    def _patience_needs_dev_share(self) -> Recipe:
        if self.patience and not self.dev_share:
            raise ValueError("patience needs a dev_share above 0: without evaluations a training cannot stop early")
        return self

    def holds_back(self, request: str) -> bool:
        """Whether the examples of a request are evaluated on instead of trained on.

        It depends on the request alone, so the same request is never on both sides.
        """
        digest = hashlib.sha256(f"{self.seed}\n{request}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.dev_share * 2**64


def continue_adapter(recipe: Recipe, adapter_recipe: Recipe, adapter: str) -> Recipe:
    """The recipe for a training that continues an adapter (digest), with the rank and kind of that adapter."""
    shape = {name: getattr(adapter_recipe, name) for name in SHAPE}
    return recipe.model_copy(update=shape | {"init_adapter": adapter})


def refuse_other_shape(adapter_recipe: Recipe, fields: dict[str, Any]) -> None:
    """Raises InputError if fields of a recipe contradict the rank or kind of the adapter that is continued."""
    for name in SHAPE:
        value, shape = fields.get(name), getattr(adapter_recipe, name)
        if value not in (None, shape):
            setting = " (and ACADEMY_LORA_RANK)" if name == "rank" else ""
            raise InputError(
                f"The adapter to continue has {name} {shape}, but {name} {value} was requested.",
                f"Omit {name}{setting}, or train from the base model.",
            )


def validate_recipe(fields: dict[str, Any]) -> Recipe:
    """A recipe from JSON; missing fields have their defaults. Raises InputError with the key and its bounds."""
    try:
        return Recipe.model_validate(fields)
    except ValidationError as problem:
        first = problem.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, Recipe.model_fields, 1)
            hint = f"Did you mean {near[0]}?" if near else f"The fields are {', '.join(Recipe.model_fields)}."
            raise InputError(f"A recipe has the unknown field {name!r}.", hint) from None
        if not name:  # a rule about several fields
            message = first["msg"].removeprefix("Value error, ")
            raise InputError(f"The recipe is invalid: {message}.", "Correct the recipe.") from None
        value = repr(first["input"])[:50]
        raise InputError(
            f"The recipe's {name} is {value}; it must be {bounds_of(name)}.", "Correct the recipe."
        ) from None


def validate_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Some fields of a recipe, with values of the right types. Raises InputError as `validate_recipe` does."""
    recipe = validate_recipe(fields)
    return {name: getattr(recipe, name) for name in fields}


def bounds_of(name: str) -> str:
    """The values that a field of a recipe accepts, in words."""
    schema = Recipe.model_json_schema()["properties"][name]
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "string":
        return "the digest of an adapter (64 hexadecimal digits)"
    low = f"at least {schema['minimum']:,}" if "minimum" in schema else f"above {schema['exclusiveMinimum']:,}"
    high = f"at most {schema['maximum']:,}" if "maximum" in schema else f"below {schema['exclusiveMaximum']:,}"
    return f"a {'whole ' if schema['type'] == 'integer' else ''}number, {low} and {high}"


def choose_recipe(
    *,
    parameters: int,
    longest: int,
    context: int,
    examples: int | None = None,
    tokens: int | None = None,
    gpu: bool = False,
    pack: bool = True,
    rank: int | None = None,
    learning_rate: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
) -> Recipe:
    """A recipe for a base model, a dataset and a device. Values that the user fixed stay.

    `longest` is the longest example in tokens; `tokens` counts all `examples`, None before a dataset exists. `gpu`:
    the training runs on a GPU. Without `pack`, examples never share rows. Memory is not considered here but in
    academy.habitat.placement.

    Small models need large steps: a learning rate of 2e-4 suits billions of parameters and is far too small for
    millions.
    """
    row_length = max(128, min(context, 2048, -(-longest // 64) * 64))
    changes: dict[str, float] = {"max_length": row_length}
    if parameters < 50_000_000:
        recipe = Recipe(learning_rate=SEED_RATE, epochs=SEED_EPOCHS, batch_size=SEED_BATCH, accumulation=1)
    else:
        recipe = Recipe(learning_rate=5e-4, epochs=4) if parameters < LARGE_MODEL else Recipe()
        changes |= {"dropout": _dropout(parameters, examples), "epochs": _passes(recipe.epochs, examples)}
        if gpu and pack and examples and tokens and (per_row := row_length * examples // tokens) >= MUCH_SHORTER:
            # a batch counts rows, so fewer rows keep about the same number of examples in a step
            changes |= {"packing": True, "accumulation": max(1, round(recipe.accumulation / per_row))}
    overrides = {"rank": rank, "learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size}
    changes |= {name: value for name, value in overrides.items() if value is not None}
    if rank is not None:
        changes["alpha"] = 2 * rank
    return Recipe.model_validate({**recipe.model_dump(), **changes})


def _dropout(parameters: int, examples: int | None) -> float:
    """Dropout: most for a large model with few examples, none with many examples."""
    if examples is None:
        return 0.05
    if examples >= MANY_EXAMPLES:
        return 0.0
    return 0.1 if examples < FEW_EXAMPLES and parameters >= LARGE_MODEL else 0.05


def _passes(usual: int, examples: int | None) -> int:
    """Epochs: fewer with more examples."""
    if examples is None or examples < MANY_EXAMPLES:
        return usual
    return min(usual, 2) if examples < VERY_MANY_EXAMPLES else 1
