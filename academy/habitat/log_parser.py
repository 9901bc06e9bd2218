"""Parses the output of trainers into metrics: for images that are not ours and write no events.

It understands the dictionaries of transformers, with plain, quoted and wrapped numbers, and JSON; bars of tqdm and
Keras, also with a row behind them; lines such as "Epoch 1/3 - Loss: 0.45 - lr: 2e-4" and "Step 1,000/10,000"; and the
banners of transformers and Unsloth. Other output gives nothing, nor does a figure with two readings ("loss 1,234").
The part of a line that is read is limited, and so is every repetition in a pattern.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from academy.habitat.log_values import GROUPS, NUMBER, read_number, read_row
from academy.records import Record

LONGEST = 4000
"""Characters of a line that are read; trainers print their figures before this limit."""
LARGEST = 1e15
"""Larger counts are ignored, and larger losses have diverged."""


class Metrics(NamedTuple):
    """The figures of one line. `diverged`: the line has a loss that is not a finite number; `loss` is then None.

    A tuple and not a pydantic record, because creating one of those takes longer than parsing a line.
    """

    epoch: float | None = None
    total_epochs: int | None = None
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    accuracy: float | None = None  # 0 to 1
    grad_norm: float | None = None
    progress_percent: float | None = None
    diverged: bool = False

    @property
    def has_measurements(self) -> bool:
        """Whether it has a loss, accuracy or gradient norm, and not only a position."""
        return (
            self.loss is not None
            or self.eval_loss is not None
            or self.accuracy is not None
            or self.grad_norm is not None
            or self.diverged
        )


_new: Callable[[type[Metrics], Iterable[Any]], Metrics] = tuple.__new__  # faster than Metrics(...)


class Summary(Record):
    """A whole log: the latest value of each field, and the smallest and the mean of the finite losses."""

    records: int
    losses: int
    diverged: int  # lines with a loss that is not a finite number
    latest: dict[str, float | int | None]  # by names of Metrics' fields
    best_loss: float | None
    average_loss: float | None
    best_eval_loss: float | None


EPOCH, EPOCHS, STEP, STEPS, LOSS, EVAL, RATE, ACCURACY, NORM, PERCENT, DIVERGED = range(11)
"""Indices of Metrics' fields."""
KEYS = {
    "loss": LOSS, "train_loss": LOSS,
    "eval_loss": EVAL, "val_loss": EVAL, "validation_loss": EVAL, "test_loss": EVAL,
    "learning_rate": RATE, "lr": RATE,
    "accuracy": ACCURACY, "acc": ACCURACY, "mean_token_accuracy": ACCURACY, "eval_accuracy": ACCURACY,
    "eval_mean_token_accuracy": ACCURACY,
    "grad_norm": NORM, "epoch": EPOCH, "num_epochs": EPOCHS, "num_train_epochs": EPOCHS, "total_epochs": EPOCHS,
    "step": STEP, "global_step": STEP, "current_steps": STEP, "iter": STEP, "iteration": STEP,
    "max_steps": STEPS, "total_steps": STEPS, "percentage": PERCENT, "token_acc": ACCURACY,
}  # fmt: skip
"""Keys of dictionaries, with the field that each fills."""
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]{0,40}[A-Za-z]|\][^\x07\x1b]{0,400}(?:\x07|\x1b\\)|[()][A-Z0-9])|\0|\A(?:ÿþ|þÿ)")
_BAR = re.compile(r"(\d{1,3})%\|[^|]{0,800}\| {0,20}(\d{1,15})/(\d{1,15}) \[", re.ASCII)
_BEHIND = (
    r"(?:['\"]? {0,8}[:=] {0,8}(?:['\"\[]|[a-z][\w.]{0,30}\(['\"]?)?| {1,8}(?:\[ {0,6})?|\[ {0,6})"
    rf"({NUMBER})(%|(?: ?/ {{0,8}}| of )(\d{{1,15}}{GROUPS}(?:\.\d{{3}}){{0,4}}))?(?!\w)"
)
_NARROW = re.compile("(?<=\\d)(?:â\x80[\x89¯]|Â\xa0|[\u2009\u202f\xa0])(?=\\d{3})", re.ASCII)
_KERAS = re.compile(r"\s{0,8}(\d{1,15})/(\d{1,15}) {1,4}[^\w ]", re.ASCII).match
_WORDS = tuple(
    (hint, re.compile(f"({word}){_BEHIND}", re.ASCII).finditer)
    for hint, word in (
        ("loss", "loss(?:_step)?"), ("lr", "lr"),
        ("rate", "learning[_ ]rate"), ("epoch", "epochs?"), ("step", "steps?"),
        ("acc", "acc(?:uracy)?"), ("grad", "grad(?:ient)?[_ ]norm"), ("iter", r"iter(?:ation)?(?:\(train\))?"),
    )
)  # fmt: skip
"""A pattern is searched only if the line contains its hint. Each begins with plain text, which is fast to find."""
_EVALUATION = tuple(word + sign for word in ("eval", "val", "valid", "validation", "test") for sign in "_ /")
_TRAINING = ("train_", "training_", "mean_token_", "train/", "training/")
_ALL = ("num_", "num ", "num_train_", "total_", "total ", "max_", "max ", "optimization_", "optimization ")
_NOW = ("global_", "current_", "train_")
_FLOAT = r"([-+.\de]{1,40})"
_USUAL_BAR = re.compile(
    rf"\| (\d{{1,15}})/(\d{{1,15}}) \[[^,\r]{{0,60}},[^,\r\]]{{0,60}}(?:, loss={_FLOAT})?\]\s{{0,4}}\Z", re.ASCII
).search
_USUAL_ROW = ("loss", "grad_norm", "learning_rate", "epoch")
_TRL_ROW = ("loss", "grad_norm", "learning_rate", "entropy", "num_tokens", "mean_token_accuracy", "epoch")
_USUAL_WORDS = re.compile(
    r"(?:Epoch:? \[?(\d{1,9})/(\d{1,9})\]?[ ,|-]{0,5})?(?:Step:? \[?(\d{1,9})/(\d{1,9})\]?[ ,|-]{0,5})?"
    rf"(?:[Ll]oss: ?{_FLOAT}[ ,|-]{{0,5}})?(?:(?:lr|LR): ?{_FLOAT})?\s{{0,4}}\Z",
    re.ASCII,
).match
_TRAINING_WORDS = ("train", "epoch", "step", "iter")
_PREPARING = re.compile(
    r"dataset|token|map|split|shard|download|load|fetch|filter|pack|truncat|extract|convert|format|template|generat|sav|"
    r"upload|cach|sanity|validat|evaluat|predict|test|quantiz|merg|example|\beos\b"
)
_OTHER_RATE = re.compile(r"(?:examples|files|rows|samples|tokens|[kmg]?i?b)/s")
"""Words and rates of other bars, also where they name the training's data: "Tokenizing train dataset"."""
_NESTED = ("train", "training", "eval", "val", "metrics", "logs", "log", "data")


class TrainingMetricsParser:
    """Parses line by line and keeps no state, so its memory does not grow with the log."""

    def parse_line(self, line: str) -> Metrics | None:
        """The figures of one line; None if it has none.

        Of parts that overwrite each other (carriage returns), the last one with figures counts. Progress is by steps;
        if the line gives only epochs, by the epochs that began.
        """
        if (usual := _usual(line)) is not None:
            return usual
        if "\r" not in line:
            return _of_part(line)
        end = len(line)
        while end >= 0:
            start = line.rfind("\r", 0, end) + 1
            if start < end and (metrics := _of_part(line[start:end])) is not None:
                return metrics
            end = start - 1
        return None

    def aggregate_metrics(self, metrics: Iterable[Metrics]) -> Summary:
        """Latest, best and average values of a list or an iterator; an iterator is read once and not stored."""
        latest: list[Any] = [None] * len(Metrics._fields)
        records = losses = lines_diverged = 0
        best = best_eval = math.inf
        average = 0.0
        for line in metrics:
            records += 1
            lines_diverged += line.diverged
            for index, value in enumerate(line):
                if value is not None:
                    latest[index] = value
            if line.loss is not None:
                losses += 1
                best = min(best, line.loss)
                average += (line.loss - average) / losses
            if line.eval_loss is not None:
                best_eval = min(best_eval, line.eval_loss)
        return Summary(
            records=records,
            losses=losses,
            diverged=lines_diverged,
            latest=dict(zip(Metrics._fields[:DIVERGED], latest, strict=False)),
            best_loss=best if losses else None,
            average_loss=average if losses else None,
            best_eval_loss=None if math.isinf(best_eval) else best_eval,
        )


def _usual(line: str) -> Metrics | None:
    """Parse the most frequent kinds of line in one step; None for a line that needs the slower general way."""
    try:
        if line.find("%|", 0, 6) > 0:  # a bar with no words before it
            return _usual_bar(line)
        if line.startswith("{'loss'"):
            return _usual_row(line)
        if line.startswith(("Epoch ", "Step ")):
            return _usual_words(line)
    except (ValueError, TypeError, ZeroDivisionError):
        pass
    return None


def _usual_bar(line: str) -> Metrics | None:
    match = _USUAL_BAR(line)
    if match is None or "\r" in line or "s/s" in line or "B/s" in line:
        return None
    step_text, steps_text, loss_text = match.groups()
    step, steps = int(step_text), int(steps_text)
    loss = None if loss_text is None else float(loss_text)
    if step > steps or not (loss is None or -LARGEST < loss < LARGEST):
        return None
    return _new(Metrics, (None, None, step, steps, loss, None, None, None, None, 100 * step / steps, False))


def _usual_row(line: str) -> Metrics | None:
    if ": nan" in line:
        return None
    row = orjson.loads(line.replace("'", '"'))
    keys = tuple(row)
    accuracy: Any = None
    if keys == _USUAL_ROW:
        loss, norm, rate, epoch = row.values()
    elif keys == _TRL_ROW:
        loss, norm, rate, _, _, accuracy, epoch = row.values()
        accuracy = float(accuracy)
    else:
        return None
    if type(loss) is not float:
        loss, norm, rate, epoch = float(loss), float(norm), float(rate), float(epoch)
    if not -LARGEST < loss + rate + epoch + norm + (accuracy or 0.0) < LARGEST:
        return None
    return _new(Metrics, (epoch, None, None, None, loss, None, rate, accuracy, norm, None, False))


def _usual_words(line: str) -> Metrics | None:
    match = _USUAL_WORDS(line)
    if match is None:
        return None
    epoch_text, epochs_text, step_text, steps_text, loss_text, rate_text = match.groups()
    ratio = int(step_text) / int(steps_text) if step_text else float(epoch_text) / int(epochs_text)
    loss = float(loss_text) if loss_text else None
    if ratio > 1 or not (loss is None or -LARGEST < loss < LARGEST):
        return None
    epoch, epochs = (float(epoch_text), int(epochs_text)) if epoch_text else (None, None)
    step, steps = (int(step_text), int(steps_text)) if step_text else (None, None)
    rate = float(rate_text) if rate_text else None
    return _new(Metrics, (epoch, epochs, step, steps, loss, None, rate, None, None, 100 * ratio, False))


def _of_part(line: str) -> Metrics | None:
    if len(line) > LONGEST:
        line = line[:LONGEST]
    if "\x1b" in line or "\0" in line:
        line = _ESCAPE.sub("", line)
    if not line.isascii():
        line = _NARROW.sub("_", line)
    if "\b" in line:
        line = line[line.rstrip("\b \n").rfind("\b") + 1 :]  # a bar that is written over itself
    if "%|" in line:
        return _of_bar(line)
    if not line or line.isspace():
        return None
    if "oss'" in line or 'oss"' in line:
        start = line.find("{")
        if start >= 0:
            mapping = read_row(line[start : line.rfind("}") + 1])
            if mapping is None:  # cut in the middle, or not a dictionary
                return _of_words(line.lower())
            return _of_mapping(mapping)
    return _of_words(line.lower())


def _of_mapping(mapping: Mapping[str, Any]) -> Metrics | None:
    fields: list[Any] = [None, None, None, None, None, None, None, None, None, None, False]
    _put_mapping(fields, mapping)
    return _metrics_of(fields)


def _put_mapping(fields: list[Any], mapping: Mapping[str, Any], prefix: str = "") -> None:
    for key, value in mapping.items():
        index = _index_of(prefix + key)
        if index is not None:
            _put(fields, index, value)
        elif key in _NESTED and type(value) is dict and not prefix:
            _put_mapping(fields, value, "eval_" if key in ("eval", "val") else "train_")
        elif key == "global_step/max_steps" and type(value) is str and value.replace("/", "", 1).isdecimal():
            step, _, steps = value.partition("/")
            _put(fields, STEP, step)
            _put(fields, STEPS, steps)
    if "train_runtime" in mapping or "train/train_runtime" in mapping:
        fields[LOSS] = None  # the last line of a training, whose loss is the mean of all steps


def _index_of(key: str) -> int | None:
    """The field of a dictionary's key, also with the prefixes of tracking tools: "train/loss"."""
    if (index := KEYS.get(key)) is not None:
        return index
    low = re.sub(r"[/. -]", "_", key.lower())
    return KEYS.get(low.removeprefix("train_").removeprefix("training_"))


def _of_words(low: str) -> Metrics | None:
    fields: list[Any] = [None, None, None, None, None, None, None, None, None, None, False]
    if not _put_words(fields, low):
        return None
    has_loss = fields[LOSS] is not None or fields[EVAL] is not None or fields[ACCURACY] is not None
    if has_loss and fields[STEP] is None and (match := _KERAS(low)) is not None and int(match[1]) <= int(match[2]):
        fields[STEP], fields[STEPS] = int(match[1]), int(match[2])
    return _metrics_of(fields)


def _of_bar(line: str) -> Metrics | None:
    match = _BAR.search(line)
    if match is None:
        return None
    percent, step, steps = map(int, match.groups())
    before, behind = line[: match.start()].strip(), line[match.end() :]
    if (start := behind.find("{")) >= 0 and (mapping := read_row(behind[start : behind.rfind("}") + 1])) is not None:
        behind = behind[:start]
    else:
        mapping = {}
    fields: list[Any] = [None, None, None, None, None, None, None, None, None, None, False]
    if before or "=" in behind or "/s" in behind:
        before, behind = before.lower(), behind.lower()
        _put_words(fields, f"{before} {behind}")
        prepares = _PREPARING.search(before) or not any(word in before for word in _TRAINING_WORDS)
        if not mapping and fields[LOSS] is None and ((before and prepares) or _OTHER_RATE.search(behind)):
            return None
        if fields[EPOCHS]:
            fields[PERCENT] = min(100.0, (max(fields[EPOCH] or 1, 1) * 100 - 100 + percent) / fields[EPOCHS])
    fields[STEP], fields[STEPS] = step, steps
    _put_mapping(fields, mapping)
    return _metrics_of(fields)


def _put_words(fields: list[Any], low: str) -> bool:
    """Fill the fields that a line in lower case names. Returns whether it names any."""
    has_figures = False
    for hint, matches in _WORDS:
        if hint not in low:
            continue
        for match in matches(low):
            (word, number, rest, total), start = match.groups(), match.start()
            index = _field_of(word, low[start - 14 : start] if start > 14 else low[:start], counted=bool(total))
            if index is None or fields[index] is not None or (rest == "%" and index in (LOSS, EVAL)):
                continue  # no trainer prints a loss in percent: "packet loss 0.3%"
            value = read_number(number, is_count=index <= STEPS, is_step=index in (STEP, STEPS))
            if value is None:
                continue
            has_figures = True
            _put(fields, index, value / 100 if rest == "%" else value)
            if total and index in (EPOCH, STEP):
                _put(fields, index + 1, read_number(total, is_count=True, is_step=index == STEP))
    return has_figures


def _field_of(word: str, before: str, *, counted: bool) -> int | None:
    """The field that a word names, by the text before it; `counted`: a total follows."""
    last = before[-1:]
    if last.isalpha():
        return None  # the end of another word
    first = word[0]
    if first == "e":
        if before.endswith(_ALL):
            return EPOCHS
        return None if last == "_" else EPOCH if counted or word == "epoch" else EPOCHS
    of_evaluation = before.endswith(_EVALUATION)
    if first in "si":
        if before.endswith(_ALL):
            return STEPS
        # "gradient accumulation steps = 4" is not a position in a training
        is_position = (last != "_" or before.endswith(_NOW)) and not of_evaluation
        return STEP if is_position and (counted or word[-1] != "s") else None
    if last == "_" and not of_evaluation and not before.endswith(_TRAINING):
        return None  # "router_aux_loss"
    if first == "l" and word[1] == "o":
        return EVAL if of_evaluation else LOSS
    return ACCURACY if first == "a" else NORM if first == "g" else RATE


def _put(fields: list[Any], index: int, value: Any) -> None:
    """Store a number in its field. Ignores other values; marks a loss that is not finite as diverged."""
    if type(value) is not float:
        if type(value) is not int and type(value) is not str:
            return
        try:
            value = float(value.removesuffix("%") if type(value) is str and index == PERCENT else value)
        except ValueError:
            return
    if index == ACCURACY and not 0 <= value <= 1:
        if not 1 < value <= 100:
            return
        value /= 100  # a percentage
    if -LARGEST < value < LARGEST:
        fields[index] = int(value) if EPOCHS <= index <= STEPS else value
    elif index in (LOSS, EVAL):
        fields[DIVERGED] = True


def _metrics_of(fields: list[Any]) -> Metrics | None:
    """The record with its progress; None if no field is set."""
    if fields[PERCENT] is None:
        for position, total in ((STEP, STEPS), (EPOCH, EPOCHS)):
            if fields[position] is not None and fields[total]:
                fields[PERCENT] = min(100.0, max(0.0, 100 * fields[position] / fields[total]))
                break
    metrics = _new(Metrics, fields)
    return None if metrics == EMPTY else metrics


EMPTY = Metrics()
