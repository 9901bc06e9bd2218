"""The progress of a training, from its events alone. Pure, so every course of a training can be tested."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from academy.habitat.backends.base import TrainingEvent
from academy.habitat.progress import KILLED, attempts, log_line, progress


def events(*told: dict[str, Any]) -> list[TrainingEvent]:
    """Events numbered from 1; `at` is one second after the previous event unless it is given."""
    found: list[TrainingEvent] = []
    for n, one in enumerate(told, 1):
        at = found[-1].at + 1 if found else 1000.0
        found.append(TrainingEvent.model_validate({"n": n, "at": at, **one}))
    return found


def step(number: int, at: float, loss: float | None = 1.0, **more: Any) -> dict[str, Any]:
    return {"phase": "step", "step": number, "steps": 10, "at": at, "loss": loss, "epoch": number / 5, **more}


STARTED: dict[str, Any] = {"phase": "started", "at": 1000.0}


def test_a_running_training_shows_position_and_remaining_time() -> None:
    found = progress(
        events(
            STARTED,
            {"phase": "contract", "at": 1010.0},
            step(1, 1020, 3.0, rate=90.0, memory=50),
            step(2, 1024, 2.0, rate=100.0, memory=80),
            {"phase": "step", "step": 2, "steps": 10, "at": 1030.0, "eval_loss": 2.5, "memory": 70},
            step(4, 1034, 2.5, rate=300.0, memory=80),
        ),
        followed=True,
    )
    assert (found.status, found.phase, found.attempts) == ("running", "step", 1)
    assert (found.step, found.steps, found.percent, found.epoch) == (4, 10, 40.0, 0.8)
    assert (found.loss, found.best_loss, found.average_loss, found.best_eval_loss) == (2.5, 2.0, 2.5, 2.5)
    assert (found.rate, found.memory) == (100.0, 80)
    assert found.eta == 6 * 4.5  # steps took 4 s, and 5 s each
    assert (found.began, found.told, found.seconds) == (1000.0, 1034.0, 34.0)
    assert (found.energy, found.cost, found.error) == (None, None, None)


def test_slow_steps_show_position_and_speed() -> None:
    """Between two logged steps, an event has no loss."""
    told = events(STARTED, step(1, 1100), step(2, 1200, loss=None), step(3, 1300, loss=None))
    found = progress(told, followed=True)
    assert (found.step, found.loss, found.eta) == (3, 1.0, 700.0)
    assert log_line(told[-1]).text == "step 3 of 10, epoch 0.60"


def test_a_gap_between_attempts_counts_in_no_sum_or_median() -> None:
    told = events(
        STARTED,
        step(1, 1010, rate=100.0),
        step(2, 1012, rate=100.0),
        {"phase": "started", "at": 90_000.0},
        step(2, 90_010, 5.0, rate=7.0),
        step(3, 90_013, 1.0, rate=80.0),
        step(4, 90_016, 1.0, rate=90.0),
    )
    found = progress(told, followed=True, price=3600.0)
    assert [len(one) for one in attempts(told)] == [3, 4]
    assert found.seconds == 12 + 16
    assert found.cost == 28.0
    assert found.eta == 6 * 3.0
    assert found.rate == 80.0
    assert found.average_loss == pytest.approx((1 + 5 + 1 + 1) / 4)  # step 2 was repeated and counts once
    just_resumed = progress(told[:5], followed=True)
    assert just_resumed.eta is None  # one report gives no time per step
    assert just_resumed.step == 2


def test_peak_memory_is_that_of_the_last_attempt() -> None:
    gpu, cpu = (
        [STARTED, step(1, 1010, memory=200)],
        [STARTED, step(1, 2010, memory=90), {"phase": "done", "memory": 110}],
    )
    assert progress(events(*gpu), followed=True).memory == 200
    assert progress(events(*gpu, *cpu), followed=False).memory == 110
    assert progress(events(*gpu, STARTED, {"phase": "done", "memory": 7}), followed=False).memory is None, "no step"


def test_remaining_time_ignores_one_slow_step() -> None:
    steady = [step(number, 1000 + 2 * number) for number in range(1, 7)]
    slept = [*steady, step(7, 9000), step(8, 9002)]
    assert progress(events(*slept), followed=True).eta == 2 * 2.0


@pytest.mark.parametrize(
    ("last", "followed", "status", "error"),
    [
        ({"phase": "done", "adapter": "a" * 64}, False, "finished", None),
        ({"phase": "failed", "message": "no", "cause": "disk"}, False, "failed", "no"),
        ({"phase": "failed", "message": "no", "cause": "disk"}, True, "running", None),
        ({"phase": "failed", "message": "by a person", "cause": "cancelled"}, False, "cancelled", "by a person"),
        ({"phase": "checkpoint", "step": 3, "steps": 10}, False, "failed", KILLED),
        ({"phase": "checkpoint", "step": 3, "steps": 10}, True, "running", None),
    ],
)
def test_a_status_follows_from_last_event_and_follower(
    last: dict[str, Any], followed: bool, status: str, error: str | None
) -> None:
    found = progress(events(STARTED, last), followed=followed)
    assert (found.status, found.error) == (status, error)
    assert found.eta is None
    assert bool(found.adapter) == (status == "finished")


def test_a_run_without_events_is_preparing_or_killed() -> None:
    assert progress([], followed=True).status == "preparing"
    assert progress([], followed=False).error == KILLED


def test_energy_is_summed_over_attempts_and_never_estimated() -> None:
    first = [STARTED, step(1, 1010, energy=100.0), step(2, 1012, energy=250.0)]
    unreported: dict[str, Any] = {"phase": "started", "at": 2000.0}
    second = [{"phase": "started", "at": 3000.0}, step(3, 3010, energy=40.0), {"phase": "done", "energy": 60.0}]
    ended: dict[str, Any] = {"phase": "failed", "cause": "killed"}  # written by a backend, which has no counter
    assert progress(events(*first), followed=True).energy == 250.0
    assert progress(events(*first, ended, unreported, ended, *second), followed=False).energy == 310.0
    uncounted = [STARTED, step(1, 1010)]
    assert progress(events(*uncounted), followed=True).energy is None
    assert progress(events(*first, *uncounted), followed=True).energy is None


def test_a_foreign_trainers_events_are_one_attempt() -> None:
    found = progress(events(step(1, 1000), step(2, 1003)), followed=True)
    assert (found.attempts, found.seconds, found.eta) == (1, 3.0, 24.0)


def test_log_lines_have_number_time_and_text() -> None:
    told = events(
        {"phase": "started", "message": "order abc", "at": 0.5}, step(1, 1.25, 2.0),
        {"phase": "step", "step": 1, "steps": 10, "eval_loss": 1.5}, {"phase": "checkpoint", "step": 1},
    )  # fmt: skip
    assert [(one.line, one.text) for one in map(log_line, told)] == [
        (1, "started order abc"),
        (2, "step 1 of 10, epoch 0.20, loss 2.0000"),
        (3, "step 1 of 10, epoch 0.00, evaluation loss 1.5000"),
        (4, "checkpoint 1"),
    ]
    assert log_line(told[1]).time == "1970-01-01T00:00:01.250+00:00"


@given(
    st.lists(
        st.builds(
            TrainingEvent,
            n=st.integers(0, 99),
            at=st.floats(0, 1e10),
            phase=st.sampled_from(["started", "contract", "step", "checkpoint", "done", "failed"]),
            step=st.integers(0, 99),
            steps=st.integers(0, 99),
            loss=st.none() | st.floats(-1e6, 1e6),
            energy=st.none() | st.floats(0, 1e9),
        )
    ),
    st.booleans(),
)
def test_progress_accepts_any_events(told: list[TrainingEvent], followed: bool) -> None:
    """Clocks can be set back and files edited: figures stay finite, and times and costs are never negative."""
    found = progress(told, followed=followed, price=2.0)
    assert found.seconds >= 0
    assert found.cost is None or found.cost >= 0
    assert found.eta is None or found.eta >= 0
