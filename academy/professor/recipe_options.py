"""What a person sets of a recipe. The command line, the flows and Prefect's form take this one type."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from academy.professor import recipe as bounds
from academy.records import Record


class RecipeOptions(Record):
    """Fields of a recipe that a person sets. The professor chooses each field that is empty."""

    rank: bounds.Rank | None = Field(None, description="LoRA rank.")
    alpha: bounds.Alpha | None = Field(None, description="LoRA alpha; twice the rank if only the rank is set.")
    dropout: bounds.Dropout | None = Field(None, description="Share of the adapter's inputs that is dropped.")
    learning_rate: bounds.LearningRate | None = Field(None, description="Learning rate.")
    epochs: bounds.Epochs | None = Field(None, description="Passes over the dataset.")
    batch_size: bounds.BatchSize | None = Field(None, description="Examples in a batch.")
    accumulation: bounds.Accumulation | None = Field(None, description="Batches in a step.")
    max_length: bounds.MaxLength | None = Field(None, description="Tokens of an example, at most.")
    warmup: bounds.Warmup | None = Field(None, description="Share of the steps in which the learning rate rises.")
    schedule: bounds.Schedule | None = Field(None, description="How the learning rate falls.")
    weight_decay: bounds.WeightDecay | None = Field(None, description="Weight decay.")
    seed: bounds.Seed | None = Field(None, description="Seed of the random numbers.")
    use_rslora: bool | None = Field(None, description="Scale by alpha / sqrt(rank).")
    use_dora: bool | None = Field(None, description="Train directions and magnitudes separately (DoRA).")
    four_bit: bool | None = Field(None, description="Train on 4-bit weights of the base model (QLoRA).")
    packing: bool | None = Field(None, description="Put several examples in one row.")
    dev_share: bounds.DevShare | None = Field(None, description="Share of the examples to evaluate on.")
    patience: bounds.Patience | None = Field(None, description="Stop after so many evaluations without a gain.")
    init_adapter: str | None = Field(
        None, description="Version (v3) or 'champion' whose adapter training starts from; empty for the base model."
    )

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that are set, without `init_adapter`, which names a version and not yet an adapter."""
        return self.model_dump(exclude_none=True, exclude={"init_adapter"})
