"""Chooses how to train. Pure: figures of model, dataset and device in, a recipe out.

The constants of the seed model were chosen on a development split of the training side (docs/log.md); the hold-out
is never looked at for them.
"""

from __future__ import annotations

import difflib
import hashlib
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from academy.errors import InputError
from academy.records import Record

SEED_RATE, SEED_EPOCHS, SEED_BATCH = 5e-3, 6, 8
"""For models of millions of parameters."""
LARGE_MODEL = 1_000_000_000
"""Parameters from which few examples are learned by heart."""
FEW_EXAMPLES, MANY_EXAMPLES, VERY_MANY_EXAMPLES = 1_000, 5_000, 20_000
"""Below the first a large model is held back by more dropout; from the second on, and again from the third, fewer
passes are enough and nothing has to be dropped."""
MUCH_SHORTER = 4
"""Packing pays where a row holds so many examples of mean length."""


SHAPE = ("rank", "alpha", "use_rslora", "use_dora")
"""What of a recipe an adapter has for good."""


class Recipe(Record):
    """How to train a LoRA adapter: all that decides what is learned. Bounded; unknown keys are refused."""

    rank: Annotated[int, Field(ge=4, le=256)] = 16
    alpha: Annotated[int, Field(ge=1, le=512)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    learning_rate: Annotated[float, Field(gt=0, le=1e-2)] = 2e-4
    epochs: Annotated[int, Field(ge=1, le=20)] = 3
    batch_size: Annotated[int, Field(ge=1, le=128)] = 4
    accumulation: Annotated[int, Field(ge=1, le=128)] = 4
    max_length: Annotated[int, Field(ge=128, le=32768)] = 2048
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05  # share of the steps
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    use_rslora: bool = False  # scaled by alpha over the root of the rank
    use_dora: bool = False  # directions and magnitudes apart
    four_bit: bool = False  # on a base model whose weights are NF4 (QLoRA)
    packing: bool = False  # rows of max_length tokens, each of several examples; a batch counts rows
    dev_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # of the examples: not trained on, but evaluated on
    patience: Annotated[int, Field(ge=0, le=100)] = 0  # evaluations without a gain that end it early; 0: none do
    # digest of the adapter that training begins with; empty: a new one, that changes nothing of the base yet
    init_adapter: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        if self.patience and not self.dev_share:
            raise ValueError("patience needs a dev_share above 0: without evaluations nothing can end early")
        return self

    def holds_back(self, request: str) -> bool:
        """Whether the examples of a request are evaluated on, and not trained on.

        By the request alone: the same request is never on both sides, whatever else is in the file.
        """
        asked = hashlib.sha256(f"{self.seed}\n{request}".encode()).digest()
        return int.from_bytes(asked[:8], "big") < self.dev_share * 2**64


def continue_adapter(recipe: Recipe, first: Recipe, adapter: str) -> Recipe:
    """The recipe for a training that begins with an adapter, whose rank and kind are given."""
    given = {name: getattr(first, name) for name in SHAPE}
    return recipe.model_copy(update=given | {"init_adapter": adapter})


def refuse_other_shape(theirs: Recipe, given: dict[str, Any]) -> None:
    """Raises InputError where fields of a recipe ask another rank or kind of an adapter that is to be gone on with."""
    for name in SHAPE:
        asked, has = given.get(name), getattr(theirs, name)
        if asked not in (None, has):
            also = " (and ACADEMY_LORA_RANK)" if name == "rank" else ""
            raise InputError(
                f"The adapter that training is to begin with has {name} {has}, and {name} {asked} was asked for.",
                f"Leave out the {name}{also}, or train from the base model.",
            )


def validate_recipe(given: dict[str, Any]) -> Recipe:
    """A recipe from JSON; what it leaves out is as by default. Raises InputError, naming the key and its bounds."""
    try:
        return Recipe.model_validate(given)
    except ValidationError as problem:
        first = problem.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, Recipe.model_fields, 1)
            hint = f"Write {near[0]}, if that was meant." if near else f"It has {', '.join(Recipe.model_fields)}."
            raise InputError(f"A recipe has no {name!r}.", hint) from None
        if not name:  # of several keys together
            raise InputError(f"In a recipe {first['msg'].removeprefix('Value error, ')}.", "Correct it.") from None
        raise InputError(
            f"{name} is {repr(first['input'])[:50]} in the recipe, and must be {bounds_of(name)}.", "Correct it."
        ) from None


def validate_fields(given: dict[str, Any]) -> dict[str, Any]:
    """Some fields of a recipe, as a recipe has them. Raises InputError as `validate_recipe` does."""
    found = validate_recipe(given)
    return {name: getattr(found, name) for name in given}


def bounds_of(name: str) -> str:
    """What a field of a recipe may be, in words."""
    known = Recipe.model_json_schema()["properties"][name]
    if "enum" in known:
        return f"one of {', '.join(known['enum'])}"
    if known["type"] == "boolean":
        return "true or false"
    if known["type"] == "string":
        return "the digest of an adapter, of 64 digits"
    least = f"from {known['minimum']:,}" if "minimum" in known else f"above {known['exclusiveMinimum']:,}"
    most = f"up to {known['maximum']:,}" if "maximum" in known else f"below {known['exclusiveMaximum']:,}"
    return f"a {'whole ' if known['type'] == 'integer' else ''}number {least} and {most}"


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
    """A recipe for a base model, a dataset and a device; what is given by hand stays.

    `longest` is of one example in tokens, `tokens` of all `examples` together, both None where there is no dataset
    yet. `gpu` says that it is trained on one; without `pack` examples never share rows. How much of it fits is no
    question here: academy.loop.placement asks it.

    Small models need large steps: 2e-4 is right for billions of parameters and teaches a model of millions nothing.
    """
    fitting = max(128, min(context, 2048, -(-longest // 64) * 64))
    changes: dict[str, float] = {"max_length": fitting}
    if parameters < 50_000_000:
        recipe = Recipe(learning_rate=SEED_RATE, epochs=SEED_EPOCHS, batch_size=SEED_BATCH, accumulation=1)
    else:
        recipe = Recipe(learning_rate=5e-4, epochs=4) if parameters < LARGE_MODEL else Recipe()
        changes |= {"dropout": _dropout(parameters, examples), "epochs": _passes(recipe.epochs, examples)}
        if gpu and pack and examples and tokens and (in_a_row := fitting * examples // tokens) >= MUCH_SHORTER:
            # a batch counts rows then, so a step keeps about as many examples as it had
            changes |= {"packing": True, "accumulation": max(1, round(recipe.accumulation / in_a_row))}
    given = {"rank": rank, "learning_rate": learning_rate, "epochs": epochs, "batch_size": batch_size}
    changes |= {name: value for name, value in given.items() if value is not None}
    if rank is not None:
        changes["alpha"] = 2 * rank
    return Recipe.model_validate({**recipe.model_dump(), **changes})


def _dropout(parameters: int, examples: int | None) -> float:
    """The share that is dropped: most where few examples meet a large model, none where there are many."""
    if examples is None:
        return 0.05
    if examples >= MANY_EXAMPLES:
        return 0.0
    return 0.1 if examples < FEW_EXAMPLES and parameters >= LARGE_MODEL else 0.05


def _passes(usual: int, examples: int | None) -> int:
    """Epochs: the more examples there are, the fewer."""
    if examples is None or examples < MANY_EXAMPLES:
        return usual
    return min(usual, 2) if examples < VERY_MANY_EXAMPLES else 1
