"""The professor decides whether to train, with numbers, and chooses a recipe within bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from academy.errors import InputError
from academy.professor.decision import SMALLEST_DATASET, Decision, should_train
from academy.professor.recipe import (
    Recipe,
    bounds_of,
    choose_recipe,
    refuse_other_shape,
    validate_fields,
    validate_recipe,
)

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def decide(**changes: Any) -> Decision:
    """The decision where every condition is met, except for these changes."""
    facts: dict[str, Any] = {
        "lessons": 1000, "new_lessons": 200, "last_verdict": NOW - timedelta(hours=30), "now": NOW,
        "min_lessons": 100, "min_new_lessons": 50, "interval_hours": 24, "examples": 800,
    }  # fmt: skip
    return should_train(**{**facts, **changes})


def test_training_starts_when_every_condition_is_met() -> None:
    decision = decide()
    assert (decision.train, decision.forced) == (True, False)
    assert [reason.name for reason in decision.reasons] == ["lessons", "new lessons", "hours", "examples"]
    assert decision.because == (
        "1,000 lessons (minimum 100); 200 new lessons since the champion was examined (50 required); "
        "30.0 hours since the last verdict (minimum 24); 800 training examples (minimum 50)."
    )


@pytest.mark.parametrize(
    ("changes", "name", "numbers"),
    [
        ({"lessons": 99}, "lessons", ("99", "100")),
        ({"new_lessons": 49}, "new lessons", ("49", "50")),
        ({"last_verdict": NOW - timedelta(hours=23)}, "hours", ("23.0", "24")),
        ({"examples": SMALLEST_DATASET - 1}, "examples", ("49", "50")),
        ({"examined": "HOLD"}, "not examined yet", ("HOLD",)),
        (
            {"held_out": (0, "no question is held out")},
            "held-out questions",
            ("no challenger could be promoted: no q",),
        ),
    ],
)
def test_a_single_unmet_condition_prevents_training_and_shows_its_numbers(
    changes: dict[str, Any], name: str, numbers: tuple[str, ...]
) -> None:
    decision = decide(**changes)
    unmet = [reason for reason in decision.reasons if not reason.met]
    assert not decision.train
    assert [reason.name for reason in unmet] == [name]
    assert all(number in unmet[0].sentence for number in numbers)
    assert decision.because == f"{unmet[0].sentence}."


@pytest.mark.parametrize(
    "changes",
    [
        {"lessons": 100},
        {"new_lessons": 50},
        {"last_verdict": NOW - timedelta(hours=24)},
        {"examples": SMALLEST_DATASET},
        {"last_verdict": None},
        {"last_verdict": NOW, "interval_hours": 0},
    ],
)
def test_a_condition_is_met_at_its_limit(changes: dict[str, Any]) -> None:
    assert decide(**changes).train


@pytest.mark.parametrize(
    "changes", [{"lessons": 1}, {"new_lessons": 0}, {"last_verdict": NOW}, {"held_out": (3, "too few")}]
)
def test_force_overrides_conditions_and_the_reason_says_so(changes: dict[str, Any]) -> None:
    decision = decide(**changes, force=True)
    assert (decision.train, decision.forced) == (True, True)
    assert decision.because.endswith("(overridden by --force).")


@pytest.mark.parametrize("changes", [{"examples": 49}, {"examined": "REJECT"}])
def test_force_does_not_override_too_few_examples_or_an_earlier_verdict(changes: dict[str, Any]) -> None:
    for other_changes in ({}, {"lessons": 1}):
        decision = decide(**changes, **other_changes, force=True)
        assert (decision.train, decision.forced) == (False, False)


def test_an_unneeded_force_is_not_reported_as_forced() -> None:
    assert not decide(force=True).forced


def test_hours_are_counted_across_time_zones() -> None:
    verdict = datetime.fromisoformat("2026-06-30T14:00:00+02:00")
    assert decide(last_verdict=verdict).train


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 3},
        {"rank": 257},
        {"learning_rate": 0},
        {"learning_rate": 0.011},
        {"epochs": 0},
        {"epochs": 21},
        {"batch_size": 129},
        {"dropout": 1},
        {"max_length": 64},
        {"seed": -1},
        {"schedule": "wild"},
        {"learning_rate": float("nan")},
        {"epoch": 3},
        {"lora_alpha": 16},
    ],
)
def test_a_recipe_out_of_bounds_or_with_an_unknown_field_is_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(changes)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"epochs": 21}, "The recipe's epochs is 21; it must be a whole number, at least 1 and at most 20."),
        ({"rank": "many"}, "rank is 'many'; it must be a whole number, at least 4 and at most 256."),
        ({"learning_rate": 0}, "learning_rate is 0; it must be a number, above 0 and at most 0.01."),
        ({"dropout": 1}, "dropout is 1; it must be a number, at least 0 and below 1."),
        ({"schedule": "wild"}, "schedule is 'wild'; it must be one of linear, cosine, constant."),
        ({"use_dora": 7}, "use_dora is 7; it must be true or false."),
        ({"init_adapter": "v1"}, "init_adapter is 'v1'; it must be the digest of an adapter"),
        ({"epoch": 3}, "A recipe has the unknown field 'epoch'. Did you mean epochs?"),
        ({"zzz": 3}, "A recipe has the unknown field 'zzz'. The fields are rank, alpha, "),
        ({"patience": 2}, "The recipe is invalid: patience needs a dev_share above 0"),
    ],
)
def test_a_rejected_recipe_names_the_field_and_its_bounds(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        validate_recipe(given)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_continued_adapter_keeps_its_rank_and_kind() -> None:
    adapter_recipe = Recipe(rank=8, alpha=16, use_dora=True)
    refuse_other_shape(adapter_recipe, {"rank": 8, "use_dora": True, "use_rslora": None, "epochs": 3})
    with pytest.raises(
        InputError, match=r"has rank 8, but rank 16 was requested\. Omit rank \(and ACADEMY_LORA_RANK\)"
    ):
        refuse_other_shape(adapter_recipe, {"rank": 16})
    with pytest.raises(InputError, match=r"has use_dora True, but use_dora False was requested\. Omit use_dora"):
        refuse_other_shape(adapter_recipe, {"rank": None, "use_dora": False})


def test_every_field_of_a_recipe_has_bounds_in_words() -> None:
    words = {name: bounds_of(name) for name in Recipe.model_fields}
    assert words["rank"] == "a whole number, at least 4 and at most 256"
    assert words["learning_rate"] == "a number, above 0 and at most 0.01"
    assert words["schedule"] == "one of linear, cosine, constant"
    assert all(words.values())


def test_validate_fields_returns_only_the_given_fields_with_their_types() -> None:
    assert validate_fields({"epochs": "2", "patience": 3, "dev_share": 0.1}) == {
        "epochs": 2, "patience": 3, "dev_share": 0.1,
    }  # fmt: skip
    assert validate_fields({}) == {}


def test_a_recipe_cannot_be_changed() -> None:
    recipe = Recipe()
    with pytest.raises(ValidationError):
        recipe.rank = 8  # type: ignore[misc]


def test_small_models_have_large_learning_rates() -> None:
    rates = [choose_recipe(parameters=n, longest=100, context=2048).learning_rate for n in (3_000_000, 5e8, 7e9)]  # type: ignore[arg-type]
    assert rates == [5e-3, 5e-4, 2e-4]


SEED = Recipe(learning_rate=5e-3, epochs=6, batch_size=8, accumulation=1, max_length=128)


@given(st.integers(1, 10**6), st.integers(1, 10**8), st.booleans())
def test_the_seed_models_recipe_depends_on_neither_dataset_nor_device(examples: int, tokens: int, gpu: bool) -> None:
    recipe = choose_recipe(
        parameters=3_000_000, longest=100, context=2048, examples=examples, tokens=tokens, gpu=gpu
    )  # fmt: skip
    assert recipe == SEED


@pytest.mark.parametrize(
    ("parameters", "examples", "dropout", "epochs"),
    [
        (5e8, None, 0.05, 4),
        (5e8, 500, 0.05, 4),
        (5e8, 4_999, 0.05, 4),
        (5e8, 5_000, 0.0, 2),
        (5e8, 20_000, 0.0, 1),
        (7e9, None, 0.05, 3),
        (7e9, 999, 0.1, 3),
        (7e9, 1_000, 0.05, 3),
        (7e9, 5_000, 0.0, 2),
        (7e9, 20_000, 0.0, 1),
    ],
)
def test_few_examples_have_more_dropout_and_many_have_fewer_epochs(
    parameters: float, examples: int | None, dropout: float, epochs: int
) -> None:
    recipe = choose_recipe(parameters=int(parameters), longest=600, context=2048, examples=examples)
    assert (recipe.dropout, recipe.epochs) == (dropout, epochs)


def test_short_examples_share_rows_only_on_a_gpu() -> None:
    facts: dict[str, Any] = {"parameters": 7_000_000_000, "longest": 2000, "context": 4096, "examples": 1000}
    packed = choose_recipe(**facts, tokens=200_000, gpu=True)  # 10 a row
    assert (packed.packing, packed.max_length, packed.batch_size, packed.accumulation) == (True, 2048, 4, 1)
    least_packed = choose_recipe(**facts, tokens=512_000, gpu=True)  # 4 a row
    assert (least_packed.packing, least_packed.accumulation) == (True, 1)
    for unpackable in (
        {"tokens": 200_000, "gpu": False},
        {"tokens": 200_000, "gpu": True, "pack": False},
        {"tokens": 600_000, "gpu": True},
        {"gpu": True},
    ):
        plain = choose_recipe(**facts, **unpackable)
        assert (plain.packing, plain.accumulation) == (False, 4)


def test_fixed_values_stay_with_any_dataset() -> None:
    recipe = choose_recipe(
        parameters=7_000_000_000, longest=100, context=2048, examples=50_000, tokens=1_000_000, epochs=5, rank=8
    )
    assert (recipe.epochs, recipe.rank, recipe.alpha) == (5, 8, 16)


def test_fixed_values_stay() -> None:
    recipe = choose_recipe(
        parameters=3_000_000, longest=100, context=2048, rank=64, learning_rate=1e-3, epochs=2, batch_size=8
    )
    assert (recipe.rank, recipe.alpha, recipe.learning_rate) == (64, 128, 1e-3)
    assert (recipe.epochs, recipe.batch_size) == (2, 8)


def test_fixed_values_out_of_bounds_are_rejected() -> None:
    for fixed in ({"rank": 2}, {"learning_rate": 0.0}, {"epochs": 0}, {"batch_size": 0}):
        with pytest.raises(ValidationError):
            choose_recipe(parameters=3_000_000, longest=100, context=2048, **fixed)  # type: ignore[arg-type]


@given(st.integers(1, 10**11), st.integers(0, 4000), st.sampled_from([256, 512, 1024, 2048, 32768]))
def test_a_recipe_has_room_for_the_longest_example_that_fits(parameters: int, longest: int, context: int) -> None:
    recipe = choose_recipe(parameters=parameters, longest=longest, context=context)
    assert recipe.max_length <= min(context, 2048)
    assert recipe.max_length >= min(longest, context, 2048)


def test_force_does_not_override_a_training_that_does_not_fit() -> None:
    decision = decide(placement=(False, "it does not fit here: 1.0 GiB of memory is free"), force=True)
    assert (decision.train, decision.forced) == (False, False)
    assert decision.because == "it does not fit here: 1.0 GiB of memory is free."


def test_the_placement_is_among_the_reasons() -> None:
    assert decide(placement=(True, "it would train on 2 CPUs: about 1.0 GiB of 8.0 GiB free")).because.endswith(
        "; it would train on 2 CPUs: about 1.0 GiB of 8.0 GiB free."
    )
