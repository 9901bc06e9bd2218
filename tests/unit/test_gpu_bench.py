"""What bench/gpu.py counts, and that a failure does not stop the next measurements. No GPU is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

import bench.gpu
from academy.habitat.backends.base import TrainingEvent
from academy.models.base_model import resolve
from academy.system.hardware import take_inventory
from bench.gpu import (
    NO_STEP,
    Clock,
    Told,
    failure,
    half_full,
    main,
    peak_of,
    rows_of,
    sentence,
    speeds,
    spread,
    table,
    throughput,
)
from bench.memory import CONTEXT, make_model

ROOT = Path(__file__).parents[2]
TINY = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
FOUND: dict[str, Any] = {
    "kind": "speed", "shape": "small", "way": "TRL", "rate": 1234.4, "mfu": 0.25, "measured": 3 * 2**30,
    "predicted": 2 * 2**30, "checkpointing": False, "failed": "",
    "counted": {"tokens": 100, "seconds": 2.0, "steps": 9, "cut": False},
}  # fmt: skip


def step(at: float, number: int, rate: float | None = None, **more: Any) -> TrainingEvent:
    """A step's event."""
    return TrainingEvent(n=1, at=at, phase="step", step=number, steps=9, rate=rate, **{"loss": 1.0, **more})


def other(at: float, phase: Any) -> TrainingEvent:
    """Any other event."""
    return TrainingEvent(n=1, at=at, phase=phase)


def test_token_rate_covers_all_steps_after_the_warm_up() -> None:
    events = [other(0, "started"), step(10, 1, 7), step(11, 2, 100), step(12, 3, 200), step(16, 5, 300)]
    found = throughput(events, 2, 0)
    assert (found.tokens, found.seconds, found.steps) == (200 * 1 + 300 * 4, 5, 3)


def test_token_rate_skips_steps_with_checkpoints_or_evaluations() -> None:
    events = [
        step(1, 1, 10), step(2, 2, 10), other(9, "checkpoint"), step(10, 3, 10), step(11, 4, 10),
        step(20, 4, None, loss=None, eval_loss=1.0), step(21, 5, 10), step(22, 6, 10), other(23, "done"),
    ]  # fmt: skip
    found = throughput(events, 0, 0)
    assert (found.seconds, found.steps) == (3, 3)
    assert found.tokens == 30


def test_a_step_without_a_rate_counts_as_an_average_one() -> None:
    found = throughput([step(1, 2), step(3, 4), step(4, 5)], 2, 50)
    assert (found.tokens, found.seconds, found.steps) == (150, 3, 3)
    assert throughput([step(1, 1), step(2, 2)], 5, 50).seconds == 0


def test_an_incomplete_result_is_printed() -> None:
    assert sentence(FOUND) == (
        "speed: small, TRL: 1,234 tokens/s, MFU 25.0%, 9 steps in 2.0 s, 3.00 GiB (2.00 predicted)"
    )
    assert "no counted step, 9 steps" in sentence(FOUND | {"rate": None, "mfu": None})
    assert sentence(FOUND | {"failed": "It broke."}) == "speed: small, TRL: failed: It broke."
    point = {"kind": "grid", "shape": "small", "way": "Unsloth", "batch": 4, "length": 512, "rank": 8}
    assert sentence(point | {"left_out": True}) == ("grid: small, Unsloth, 4 x 512, rank 8: skipped, no time left")
    assert sentence(FOUND | point) == "grid: small, Unsloth, 4 x 512, rank 8: 3.00 GiB (2.00 predicted)"
    rows = table([FOUND | point, point | {"failed": "x"}, point | {"left_out": True}, FOUND]).splitlines()
    assert rows[2:] == [
        "| small | Unsloth | 4 x 512, 8 | no | 2.00 | 3.00 | 1.50 |",
        "| small | TRL | speed | no | 2.00 | 3.00 | 1.50 |",
    ]  # fmt: skip


def test_an_interrupted_measurement_fails_only_without_results() -> None:
    cancelled = TrainingEvent(n=2, at=2, phase="failed", message="cancelled", cause="cancelled")
    assert failure([step(1, 1), cancelled], cut=True) == ""
    assert failure([other(1, "contract"), cancelled], cut=True) == NO_STEP
    assert failure([step(1, 1), other(2, "done")], cut=False) == ""
    assert failure([TrainingEvent(n=2, at=2, phase="failed", message="It broke.")], cut=False) == "It broke."


@pytest.mark.slow
def test_a_failure_is_one_line_and_the_next_measurement_runs(tmp_path: Path) -> None:
    """A model that cannot be made, a way that raises, and one that the trainer rejects here."""
    told = Told(tmp_path / "lines")
    shapes = {"broken": TINY | {"num_attention_heads": 0}, "tiny": TINY}
    machine = take_inventory(engine=False).model_copy(update={"gpus": ()})
    speeds(machine, shapes, ["magic", "Unsloth"], 1, 60, Clock(time.monotonic() + 100), told)
    lines = [orjson.loads(line) for line in (tmp_path / "lines").read_bytes().splitlines()]
    assert [(line["shape"], line["way"]) for line in lines] == [
        ("broken", "none"), ("tiny", "magic"), ("tiny", "Unsloth"),
    ]  # fmt: skip
    assert "ZeroDivisionError" in lines[0]["failed"]
    assert lines[1]["failed"] == "KeyError: 'magic'"
    assert lines[2]["failed"].startswith("ACADEMY_TRAINING_LIBRARY=unsloth needs a GPU")
    assert told.failed


def test_measurements_without_time_are_skipped_and_do_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lines"
    assert main(["--shapes", "seed", "--ways", "TRL;TRL, packing", "--budget", "-1", "--out", str(out)]) == 0
    lines = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    assert lines[0]["kind"] == "machine"
    assert {"torch", "trl"} <= lines[0]["versions"].keys()
    assert [line["way"] for line in lines[1:] if line["left_out"]] == ["TRL", "TRL, packing"]
    assert "seed, TRL, packing: skipped" in capsys.readouterr().out


@pytest.mark.parametrize("given", [["--shapes", "huge"], ["--ways", "TRL, packing;magic"]])
def test_an_unknown_shape_or_way_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(given)
    assert " is not one of " in capsys.readouterr().err


@pytest.mark.slow
def test_rows_have_the_requested_number_of_tokens() -> None:
    base = resolve("seed")
    found = rows_of(base, [64, 200, 1000])
    assert all(wanted - 3 <= size <= wanted for wanted, size in zip([64, 200, 1000], found.tokens, strict=True))
    grid = half_full(base, 4, 256)
    assert len(grid.rows) == 16
    assert sum(size > 250 for size in grid.tokens) == 8
    assert max(grid.tokens) <= 256


def test_the_rows_of_a_shape_fill_its_steps_and_its_longest_row() -> None:
    base = resolve("seed")
    found = spread(base, 8)
    assert sum(found.tokens) == pytest.approx(8 * bench.gpu.BATCH * 1024, rel=0.05)
    assert max(found.tokens) > 1000
    assert sorted(found.tokens)[len(found.tokens) // 2] < 200


def test_bench_models_accept_rows_of_any_trained_length(tmp_path: Path) -> None:
    base = resolve(str(make_model(TINY, tmp_path / "model")))
    assert base.context == CONTEXT > bench.gpu.LONGEST
    assert base.parameters == 16 * (2 * 3072 + 2 * 16 + 2 * 8 + 3 * 32 + 3), "the seed's vocabulary, untied head"


def test_the_peak_is_that_of_the_same_device() -> None:
    assert peak_of("NVIDIA H100 80GB HBM3") == peak_of("NVIDIA H200") == 989e12
    assert peak_of("NVIDIA H100 PCIe") == 756e12
    assert peak_of("2 CPUs") is None


def on_gpu(place: Path, *given: str, needed: str = "orjson", ends: tuple[int, int] = (0, 0)) -> tuple[int, list[str]]:
    """Exit code and lines of bench/on_gpu.sh, with a fake python3 that only imports packages."""
    python = place / "python3"
    python.write_text(
        f"""#!/usr/bin/env bash
case "$*" in
*"-m bench.gpu"*) echo "ran $*"; exit {ends[0]};;
*"-m pytest"*) echo "ran $*"; exit {ends[1]};;
-) sed 's/^NEEDED = .*/NEEDED = \"\"\"{needed}/' | {sys.executable} -;;
esac
""",
        encoding="utf-8",
    )
    python.chmod(0o755)
    ended = subprocess.run(
        [ROOT / "bench" / "on_gpu.sh", place / "out", *given],
        env={**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}, timeout=60, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout.splitlines()


@pytest.mark.parametrize(("ends", "code"), [((0, 0), 0), ((1, 0), 1), ((0, 5), 1), ((1, 1), 1)])
def test_the_exit_code_reports_failures_after_all_tests_ran(tmp_path: Path, ends: tuple[int, int], code: int) -> None:
    ended, lines = on_gpu(tmp_path, "", "--shapes", "small", "--grid", "9", ends=ends)
    assert ended == code
    ran = [line for line in lines if line.startswith("ran ")]
    assert ran[0] == f"ran -m bench.gpu --out {tmp_path}/out/gpu.jsonl --shapes small --grid 9"
    assert ran[1].endswith("tests/integration/test_gpu.py")
    assert len(ran) == 2
    assert (tmp_path / "out" / "gpu.txt").read_text(encoding="utf-8") == ran[0] + "\n"


def test_the_bench_runs_everything_without_arguments(tmp_path: Path) -> None:
    assert on_gpu(tmp_path)[0] == 0


def test_missing_requirements_are_named_before_measuring(tmp_path: Path) -> None:
    ended, lines = on_gpu(tmp_path, needed="orjson no_such_package")
    assert ended == 2
    assert lines[-1] == (
        "Nothing was measured, for these cannot be imported: "
        "no_such_package (ModuleNotFoundError: No module named 'no_such_package')."
    )
    assert not any(line.startswith("ran ") for line in lines)
