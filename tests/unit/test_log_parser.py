"""Parsing the output of trainers: figures become metrics, and other output gives nothing and costs little."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from academy.cli.habitat import metrics
from academy.errors import InputError
from academy.habitat.foreign_log import parse_events, split_lines
from academy.habitat.log_parser import LONGEST, Metrics, TrainingMetricsParser

PARSER = TrainingMetricsParser()
BAR = " 12%|█▏        | 12/100 [00:05<00:40,  2.20it/s{}]"


@pytest.mark.parametrize(
    ("line", "figures"),
    [
        (
            "{'loss': 0.45, 'grad_norm': 1.2, 'learning_rate': 2e-04, 'epoch': 0.5}",
            {"loss": 0.45, "grad_norm": 1.2, "learning_rate": 2e-4, "epoch": 0.5},
        ),
        (
            "{'loss': '0.45', 'grad_norm': '1.2', 'learning_rate': '0.0002', 'entropy': '2.1', 'num_tokens': '900', "
            "'mean_token_accuracy': '0.8', 'epoch': '0.5'}",
            {"loss": 0.45, "grad_norm": 1.2, "learning_rate": 2e-4, "accuracy": 0.8, "epoch": 0.5},
        ),
        ("{'eval_loss': 0.5, 'eval_runtime': 1.2, 'epoch': 1.0}", {"eval_loss": 0.5, "epoch": 1.0}),
        ("{'train_runtime': 12.3, 'train_loss': 0.6, 'epoch': 3.0}", {"epoch": 3.0}),
        ("INFO - {'loss': 0.45, 'step': 7, 'epoch': 1}", {"loss": 0.45, "step": 7, "epoch": 1.0}),
        (
            '{"current_steps": 10, "total_steps": 100, "loss": 0.5, "lr": 5e-05, "epoch": 0.1, "percentage": 10.0}',
            {"step": 10, "total_steps": 100, "loss": 0.5, "learning_rate": 5e-5, "epoch": 0.1, "progress_percent": 10},
        ),
        (BAR.format(""), {"step": 12, "total_steps": 100, "progress_percent": 12.0}),
        (BAR.format(", loss=0.3"), {"step": 12, "total_steps": 100, "progress_percent": 12.0, "loss": 0.3}),
        (
            "Epoch 2/5:  12%|#2  | 12/100 [00:05<00:40, 2.2it/s, v_num=0, train_loss=0.300]",
            {"epoch": 2.0, "total_epochs": 5, "step": 12, "total_steps": 100, "loss": 0.3, "progress_percent": 22.4},
        ),
        (
            "1|10|Loss: 0.45:  12%|#2  | 12/100 [00:05<00:40, 2.2it/s]",
            {"step": 12, "total_steps": 100, "loss": 0.45, "progress_percent": 12.0},
        ),
        ("Epoch 2/5", {"epoch": 2.0, "total_epochs": 5, "progress_percent": 40.0}),
        (
            "Epoch 3/3 - Loss: 0.45 - lr: 2e-4",
            {"epoch": 3.0, "total_epochs": 3, "loss": 0.45, "learning_rate": 2e-4, "progress_percent": 100.0},
        ),
        ("Step 100/1000", {"step": 100, "total_steps": 1000, "progress_percent": 10.0}),
        (
            "Epoch [1/5], Step [300/600], Loss: 0.1234, Accuracy: 92%",
            {"epoch": 1.0, "total_epochs": 5, "step": 300, "total_steps": 600, "loss": 0.1234, "accuracy": 0.92,
             "progress_percent": 50.0},
        ),
        ("step=5 loss=-0.2 grad norm 1.5", {"step": 5, "loss": -0.2, "grad_norm": 1.5}),
        ("EPOCH 1 of 4: validation loss 0.3", {"epoch": 1.0, "total_epochs": 4, "eval_loss": 0.3,
                                               "progress_percent": 25.0}),
        (
            "\\\\   /|    Num examples = 1,000 | Num Epochs = 3 | Total steps = 375",
            {"total_epochs": 3, "total_steps": 375},
        ),
        ("\\        /    Total batch size = 8 | Total steps = 1,375", {"total_steps": 1375}),
        ("  Total optimization steps = 375", {"total_steps": 375}),
        ("\x1b[32mEpoch 1/2\x1b[0m - loss: \x1b[1m0.5\x1b[0m",
         {"epoch": 1.0, "total_epochs": 2, "loss": 0.5, "progress_percent": 50.0}),
    ],
)  # fmt: skip
def test_trainer_output_is_parsed(line: str, figures: dict[str, float]) -> None:
    metrics = PARSER.parse_line(line)
    assert metrics is not None
    assert {name: value for name, value in metrics._asdict().items() if value not in (None, False)} == figures
    assert PARSER.parse_line(line + "\n") == metrics


@pytest.mark.parametrize(
    "line",
    [
        "",
        "   \n",
        "Map: 100%|██████████| 600/600 [00:00<00:00, 9000 examples/s]",
        "model.safetensors: 100%|██████████| 3/5 [00:01<00:00, 3.0it/s]",
        "O^O/ \\_/ \\    Batch size per device = 2 | Gradient accumulation steps = 4",
        "gradient_accumulation_steps: 8, logging_steps=5",
        "router_aux_loss: 0.01",
        "Saving model checkpoint to ./checkpoint-500",
        "the loss of precision is small",
        "{'loss': None}",
        "{'loss': ",
        "Traceback (most recent call last):",
    ],
)
def test_unrelated_output_gives_no_metrics(line: str) -> None:
    assert PARSER.parse_line(line) is None


@pytest.mark.parametrize(
    "line",
    [
        "{'loss': nan, 'grad_norm': nan, 'learning_rate': 2e-4, 'epoch': 0.5}",
        "{'loss': 'nan', 'grad_norm': 'inf', 'learning_rate': '0.0002', 'epoch': '0.5'}",
        "epoch 0.5 loss: inf",
        "{'loss': 1e999, 'grad_norm': 1.0, 'learning_rate': 2e-4, 'epoch': 0.5}",
    ],
)
def test_a_loss_that_is_not_finite_is_marked_as_diverged(line: str) -> None:
    metrics = PARSER.parse_line(line)
    assert metrics is not None
    assert (metrics.loss, metrics.diverged, metrics.epoch) == (None, True, 0.5)


def test_a_gradient_that_is_not_finite_leaves_other_figures() -> None:
    metrics = PARSER.parse_line("{'loss': '0.4', 'grad_norm': 'nan', 'learning_rate': '0.0002', 'epoch': '0.5'}")
    assert metrics == Metrics(loss=0.4, learning_rate=2e-4, epoch=0.5)


def test_overwritten_parts_of_a_line_are_ignored() -> None:
    line = "\r 11%|#1 | 11/100 [00:05<00:40, 2.2it/s]\r 12%|#2 | 12/100 [00:05<00:40, 2.2it/s]\r" + " " * 80 + "\r"
    metrics = PARSER.parse_line(line)
    assert metrics is not None
    assert metrics.step == 12
    assert PARSER.parse_line(line + "{'loss': 0.4, 'grad_norm': 1, 'learning_rate': 0, 'epoch': 1}") == Metrics(
        loss=0.4, grad_norm=1.0, learning_rate=0.0, epoch=1.0
    )


PIECES = st.sampled_from(
    ["loss", "'loss': ", "eval_", "epoch ", "step ", "12%|", "█", "| ", "12/100 [", "{", "}", "'", ":", "=", "nan",
     "1e9", "-", ".", "9" * 30, "1,000", "\r", "\x1b[", "\x1b[31m", " " * 9, "\udcff", "\x00", "lr", "/", "0.4",
     "['", "\n"]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)))
def test_parser_accepts_any_line_and_returns_finite_figures(line: str) -> None:
    metrics = PARSER.parse_line(line)
    if metrics is None:
        return
    assert metrics != Metrics()
    for value in metrics:
        assert value is None or isinstance(value, bool) or math.isfinite(value)
    counts = (metrics.step, metrics.total_steps, metrics.total_epochs)
    assert all(isinstance(count, int) for count in counts if count is not None)
    assert metrics.progress_percent is None or metrics.progress_percent >= 0


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_split_lines_accepts_any_bytes_in_any_pieces(pieces: list[bytes]) -> None:
    whole = b"".join(pieces).decode("latin-1").replace("\r", "\n")
    assert list(split_lines(pieces)) == whole.split("\n")[: None if whole[-1:] not in ("", "\n") else -1]
    assert all(event.phase == "step" for event in parse_events(split_lines(pieces)))


LINEAR_SECONDS = 2.0
"""CPU time within which a line of two megabytes is parsed; quadratic time would be hours."""
REPEATED_FIGURES = ["loss: 0.5 ", "Epoch 1/2 - Loss: 0.5 ", "epoch 1/"]


@pytest.mark.parametrize(
    "part",
    [*REPEATED_FIGURES, "1", " ", "loss ", "loss: ", "{'loss': ", "%|", "1%|", "\x1b[", "\x1b[1;", "\r", "\r1%|", "'",
     "| 1/1 [", "1,000", "eval_", "9" * 50 + "%|", "{", "step [1"],
)  # fmt: skip
def test_lines_of_megabytes_are_parsed_in_linear_time(part: str) -> None:
    line = part * (2_000_000 // len(part))
    start = time.process_time()
    metrics = PARSER.parse_line(line)
    assert time.process_time() - start < LINEAR_SECONDS
    if "\r" not in part:  # which separates parts with a limit of their own
        assert metrics == PARSER.parse_line(line[:LONGEST])
    assert (metrics is not None) == (part in REPEATED_FIGURES)


def test_figures_at_the_start_of_a_line_of_megabytes_are_read() -> None:
    metrics = PARSER.parse_line("Epoch 1/2 - loss: 0.5 " + "x" * 5_000_000)
    assert metrics is not None
    assert (metrics.loss, metrics.epoch) == (0.5, 1.0)


def test_an_endless_line_is_kept_only_up_to_the_limit() -> None:
    lines = list(split_lines([b"Epoch 1/2 ", *([b"x" * 65536] * 100)]))
    assert [len(line) for line in lines] == [LONGEST]


def test_metrics_are_summarised_from_a_list_or_an_iterator() -> None:
    log = ["Epoch 1/2 - Loss: 0.9", "loss: nan", "Epoch 2/2 - Loss: 0.3 - lr: 1e-4", "val loss: 0.4", "Loss: 0.6"]
    all_metrics = [metrics for line in log if (metrics := PARSER.parse_line(line))]
    summary = PARSER.aggregate_metrics(all_metrics)
    assert summary == PARSER.aggregate_metrics(iter(all_metrics))
    assert (summary.records, summary.losses, summary.diverged) == (5, 3, 1)
    assert (summary.best_loss, summary.best_eval_loss) == (0.3, 0.4)
    assert summary.average_loss == pytest.approx(0.6)
    assert summary.latest["loss"] == 0.6
    assert (summary.latest["epoch"], summary.latest["learning_rate"]) == (2.0, 1e-4)


def test_a_summary_of_no_metrics_is_empty() -> None:
    summary = PARSER.aggregate_metrics([])
    assert (summary.records, summary.best_loss, summary.average_loss) == (0, None, None)


def numbers() -> Iterator[float]:
    """A clock that advances one second with each call."""
    yield from (float(n) for n in range(10_000))


def test_trainer_output_becomes_numbered_events() -> None:
    log = [
        "***** Running training *****", "  Num Epochs = 1", "  Total optimization steps = 100",
        "\r  0%|          | 0/100 [00:00<?, ?it/s]\r 10%|#  | 10/100 [00:05<00:40, 2.2it/s]",
        "{'loss': 0.9, 'grad_norm': 1.0, 'learning_rate': 2e-4, 'epoch': 0.1}",
        "\r 50%|#####     | 1/2 [00:01<00:01, 1.0it/s]",  # an evaluation's
        "{'eval_loss': 0.8, 'eval_runtime': 1.0, 'epoch': 0.1}",
        "\r 20%|##  | 20/100 [00:09<00:36, 2.2it/s]", "{'loss': nan, 'epoch': 0.2}",
    ]  # fmt: skip
    ticks = numbers()
    events = list(parse_events(log, after=7, clock=lambda: next(ticks)))
    assert [event.n for event in events] == [8, 9, 10]
    assert [(event.step, event.steps) for event in events] == [(10, 100), (10, 100), (20, 100)]
    assert (events[0].loss, events[0].learning_rate, events[0].grad_norm) == (0.9, 2e-4, 1.0)
    assert (events[1].loss, events[1].eval_loss) == (None, 0.8)
    assert (events[2].loss, events[2].message) == (None, "the loss is not a finite number")
    assert all(event.phase == "step" for event in events)
    assert [event.at for event in events] == sorted(event.at for event in events)


def test_bars_without_figures_become_one_event_per_cent() -> None:
    log = [f"\r {n // 10}%|# | {n}/1000 [00:05<00:40, 2.2it/s]" for n in range(1001)]
    events = list(parse_events(log))
    assert [event.n for event in events] == list(range(1, len(events) + 1))
    assert 90 <= len(events) <= 101
    assert events[-1].step == 1000
    steps = [event.step for event in events]
    assert steps == sorted(set(steps))


def test_bars_that_restart_with_each_epoch_are_added_up() -> None:
    bar = "Epoch {}/2: {}%|# | {}/100 [00:05<00:40, 2.2it/s, loss=0.5]"
    log = [bar.format(epoch, step, step) for epoch in (1, 2) for step in (50, 100)]
    assert [(event.step, event.steps) for event in parse_events(log)] == [(50, 100), (100, 100), (150, 200), (200, 200)]


def test_metrics_command_summarises_the_log_of_any_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "trainer.log"
    log.write_bytes(
        b"\r 10%|\xe2\x96\x88  | 1/10 [00:00<00:02, 2it/s]\n\xff\xfe broken \x00\n"
        b"{'loss': '2.5', 'grad_norm': '1.0', 'learning_rate': '0.0002', 'epoch': '0.1'}\n{'loss': 'nan'}\n"
    )
    metrics(log, json=True)
    output = orjson.loads(capsys.readouterr().out)
    assert (output["lines"], output["records"], output["losses"], output["diverged"]) == (5, 3, 1, 1)
    assert (output["latest"]["step"], output["latest"]["total_steps"], output["best_loss"]) == (1, 10, 2.5)
    metrics(log, events=True)
    events = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event["n"], event["step"], event["loss"]) for event in events] == [(1, 1, 2.5), (2, 1, None)]
    metrics(log)
    assert "The loss was not a finite number 1 times." in capsys.readouterr().out


def test_a_missing_log_is_refused_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        metrics(tmp_path / "none.log")


def test_a_repeated_bar_is_not_a_new_event() -> None:
    bar = "\r 12%|# | 12/100 [00:0{}<00:40, 2.2it/s, loss=0.5]"
    assert len(list(parse_events(bar.format(second) for second in range(5)))) == 1
