"""Reads the text that trainers print into figures: for images that are not ours and write no events of their own.

Understood are the dictionaries of transformers, with plain and with quoted numbers, and JSON; tqdm's bars; lines of
words ("Epoch 1/3 - Loss: 0.45 - lr: 2e-4", "Step 100/1000"); and the banners of transformers and Unsloth. Whatever
else is printed gives nothing. What is looked at of a line is bounded, and so is every repetition in a pattern.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from academy.records import Record

LONGEST = 4000
"""Characters of a line that are looked at; no trainer's figures stand farther behind."""
LARGEST = 1e15
"""Counts beyond that are none, and losses beyond that have diverged."""


class Metrics(NamedTuple):
    """What one line says. `diverged`: it names a loss that is no finite number, and gives none.

    A tuple and no pydantic record: to make one of those takes longer than to read a line.
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
    def tells(self) -> bool:
        """Whether it says how the training goes, and not only where it stands."""
        return (
            self.loss is not None
            or self.eval_loss is not None
            or self.accuracy is not None
            or self.grad_norm is not None
            or self.diverged
        )


_new: Callable[[type[Metrics], Iterable[Any]], Metrics] = tuple.__new__  # quicker than the record's own


class Summary(Record):
    """A whole log: the latest of everything, and of the finite losses the smallest and their mean."""

    records: int
    losses: int
    diverged: int  # how often a loss was no finite number
    latest: dict[str, float | int | None]  # by the names of Metrics' fields
    best_loss: float | None
    average_loss: float | None
    best_eval_loss: float | None


EPOCH, EPOCHS, STEP, STEPS, LOSS, EVAL, RATE, ACCURACY, NORM, PERCENT, DIVERGED = range(11)
"""Places of Metrics' fields."""
KEYS = {
    "loss": LOSS, "train_loss": LOSS,
    "eval_loss": EVAL, "val_loss": EVAL, "validation_loss": EVAL, "test_loss": EVAL,
    "learning_rate": RATE, "lr": RATE,
    "accuracy": ACCURACY, "acc": ACCURACY, "mean_token_accuracy": ACCURACY, "eval_accuracy": ACCURACY,
    "eval_mean_token_accuracy": ACCURACY,
    "grad_norm": NORM, "epoch": EPOCH, "num_epochs": EPOCHS, "num_train_epochs": EPOCHS, "total_epochs": EPOCHS,
    "step": STEP, "global_step": STEP, "current_steps": STEP, "iter": STEP, "iteration": STEP,
    "max_steps": STEPS, "total_steps": STEPS, "percentage": PERCENT,
}  # fmt: skip
"""What dictionaries call them."""
_ESCAPE = re.compile(r"\x1b\[[0-9;?]{0,40}[A-Za-z]")
_BAR = re.compile(r"(\d{1,3})%\|[^|]{0,800}\| {0,20}(\d{1,15})/(\d{1,15}) \[", re.ASCII)
_NUMBER = r"[-+]?(?:\d{1,15}(?:,\d{3}){0,4}(?:\.\d{0,40})?|\.\d{1,40})(?:e[-+]?\d{1,4})?|[-+]?nan|[-+]?inf(?:inity)?"
_BEHIND = (
    r"(?:['\"]? {0,8}[:=] {0,8}['\"]?| {1,8}\[?|\[)"
    rf"({_NUMBER})(%|(?: ?/ ?| of )(\d{{1,15}}))?(?!\w)"
)
_WORDS = tuple(
    (hint, re.compile(f"({word}){_BEHIND}", re.ASCII).finditer)
    for hint, word in (
        ("loss", "loss"), ("lr", "lr"), ("rate", "learning[_ ]rate"), ("epoch", "epochs?"), ("step", "steps?"),
        ("acc", "acc(?:uracy)?"), ("grad", "grad(?:ient)?[_ ]norm"), ("iter", "iter(?:ation)?"),
    )
)  # fmt: skip
"""Each is searched only where its hint is found; they begin with what is plain text, which is found quickly."""
_EVALUATION = tuple(word + sign for word in ("eval", "val", "valid", "validation", "test") for sign in "_ ")
_TRAINING = ("train_", "training_", "mean_token_")
_ALL = ("num_", "num ", "num_train_", "total_", "total ", "max_", "max ", "optimization_", "optimization ")
_NOW = ("global_", "current_", "train_")
_BARE = re.compile(r": (-?(?:nan|inf|NaN|Infinity|None|True|False))\b")
"""What Python prints and JSON does not know."""
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
_OF_A_TRAINING = ("train", "epoch", "step", "iter")
"""Words before a bar; bars of downloads and of tokenising have others."""


class TrainingMetricsParser:
    """Reads line by line and remembers nothing, so its memory does not grow with the log."""

    def parse_line(self, line: str) -> Metrics | None:
        """The figures of one line; None where it says nothing of a training.

        Of parts that were written over each other (carriage returns) the last that says something counts. Progress is
        that of the steps; where only epochs are told, that of the epochs that began.
        """
        if (usual := _usual(line)) is not None:
            return usual
        if "\r" not in line:
            return _of_part(line)
        end = len(line)
        while end >= 0:
            start = line.rfind("\r", 0, end) + 1
            if start < end and (found := _of_part(line[start:end])) is not None:
                return found
            end = start - 1
        return None

    def aggregate_metrics(self, metrics: Iterable[Metrics]) -> Summary:
        """Latest, best and average of a list, or of an iterator, which is read once and not kept."""
        latest: list[Any] = [None] * len(Metrics._fields)
        records = losses = diverged = 0
        best = best_eval = math.inf
        average = 0.0
        for one in metrics:
            records += 1
            diverged += one.diverged
            for place, value in enumerate(one):
                if value is not None:
                    latest[place] = value
            if one.loss is not None:
                losses += 1
                best = min(best, one.loss)
                average += (one.loss - average) / losses
            if one.eval_loss is not None:
                best_eval = min(best_eval, one.eval_loss)
        return Summary(
            records=records,
            losses=losses,
            diverged=diverged,
            latest=dict(zip(Metrics._fields[:DIVERGED], latest, strict=False)),
            best_loss=best if losses else None,
            average_loss=average if losses else None,
            best_eval_loss=None if math.isinf(best_eval) else best_eval,
        )


def _usual(line: str) -> Metrics | None:
    """The most frequent lines, read in one go. Whatever is a little different is left to the longer way."""
    try:
        if line.find("%|", 0, 6) > 0:  # a bar without words before it
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
    if match is None or "\r" in line:
        return None
    done, of, told = match.groups()
    step, steps = int(done), int(of)
    loss = None if told is None else float(told)
    if step > steps or not (loss is None or -LARGEST < loss < LARGEST):
        return None
    return _new(Metrics, (None, None, step, steps, loss, None, None, None, None, 100 * step / steps, False))


def _usual_row(line: str) -> Metrics | None:
    if ": nan" in line:
        return None
    told = orjson.loads(line.replace("'", '"'))
    keys = tuple(told)
    share: Any = None
    if keys == _USUAL_ROW:
        loss, norm, rate, epoch = told.values()
    elif keys == _TRL_ROW:
        loss, norm, rate, _, _, share, epoch = told.values()
        share = float(share)
    else:
        return None
    if type(loss) is not float:
        loss, norm, rate, epoch = float(loss), float(norm), float(rate), float(epoch)
    if not -LARGEST < loss + rate + epoch + norm + (share or 0.0) < LARGEST:
        return None
    return _new(Metrics, (epoch, None, None, None, loss, None, rate, share, norm, None, False))


def _usual_words(line: str) -> Metrics | None:
    match = _USUAL_WORDS(line)
    if match is None:
        return None
    reached, many, done, of, told, pace = match.groups()
    ratio = int(done) / int(of) if done else float(reached) / int(many)
    loss = float(told) if told else None
    if ratio > 1 or not (loss is None or -LARGEST < loss < LARGEST):
        return None
    epoch, epochs = (float(reached), int(many)) if reached else (None, None)
    step, steps = (int(done), int(of)) if done else (None, None)
    rate = float(pace) if pace else None
    return _new(Metrics, (epoch, epochs, step, steps, loss, None, rate, None, None, 100 * ratio, False))


def _of_part(line: str) -> Metrics | None:
    if len(line) > LONGEST:
        line = line[:LONGEST]
    if "\x1b" in line:
        line = _ESCAPE.sub("", line)
    if "%|" in line:
        return _of_bar(line)
    if not line or line.isspace():
        return None
    if "oss'" in line or 'oss"' in line:
        start = line.find("{")
        if start >= 0:
            row = line[start : line.rfind("}") + 1].replace("'", '"')
            try:
                told = orjson.loads(_BARE.sub(r': "\1"', row))
            except ValueError:  # cut in the middle, or no row at all
                return _of_words(line.lower())
            return _of_mapping(told) if type(told) is dict else None
    return _of_words(line.lower())


def _of_mapping(told: Mapping[str, Any]) -> Metrics | None:
    found: list[Any] = [None, None, None, None, None, None, None, None, None, None, False]
    for key, value in told.items():
        place = KEYS.get(key)
        if place is not None:
            _put(found, place, value)
    if "train_runtime" in told:
        found[LOSS] = None  # the mean of the whole training, told at its end
    return _whole(found)


def _of_words(low: str) -> Metrics | None:
    found: list[Any] = [None, None, None, None, None, None, None, None, None, None, False]
    return _whole(found) if _put_words(found, low) else None


def _of_bar(line: str) -> Metrics | None:
    match = _BAR.search(line)
    if match is None:
        return None
    percent, step, steps = map(int, match.groups())
    before, behind = line[: match.start()].strip(), line[match.end() :]
    found: list[Any] = [None, None, None, None, None, None, None, None, None, None, False]
    if before or "=" in behind:
        before = before.lower()
        _put_words(found, f"{before} {behind.lower()}")
        if before and found[LOSS] is None and not any(word in before for word in _OF_A_TRAINING):
            return None
        if found[EPOCHS]:
            found[PERCENT] = min(100.0, (max(found[EPOCH] or 1, 1) * 100 - 100 + percent) / found[EPOCHS])
    found[STEP], found[STEPS] = step, steps
    return _whole(found)


def _put_words(found: list[Any], low: str) -> bool:
    """Whether there was anything."""
    any_at_all = False
    for hint, matches in _WORDS:
        if hint not in low:
            continue
        for match in matches(low):
            word, number, rest, total = match.groups()
            start = match.start()
            place = _place_of(word, low[start - 14 : start] if start > 14 else low[:start], counted=bool(total))
            if place is None or found[place] is not None:
                continue
            any_at_all = True
            value = float(number.replace(",", ""))
            _put(found, place, value / 100 if rest == "%" else value)
            if total and place in (EPOCH, STEP):
                _put(found, place + 1, int(total))
    return any_at_all


def _place_of(word: str, before: str, *, counted: bool) -> int | None:
    """Which field a word names, by what stands before it; `counted`: a total follows."""
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
        # "gradient accumulation steps = 4" is no place in a training
        alone = (last != "_" or before.endswith(_NOW)) and not of_evaluation
        return STEP if alone and (counted or word[-1] != "s") else None
    if last == "_" and not of_evaluation and not before.endswith(_TRAINING):
        return None  # "router_aux_loss"
    if word == "loss":
        return EVAL if of_evaluation else LOSS
    return ACCURACY if first == "a" else NORM if first == "g" else RATE


def _put(found: list[Any], place: int, value: Any) -> None:
    """A number into its place, or nothing where it is none; a loss that is not finite is told as such."""
    if type(value) is not float:
        if type(value) is not int and type(value) is not str:
            return
        try:
            value = float(value)
        except ValueError:
            return
    if -LARGEST < value < LARGEST:
        found[place] = int(value) if EPOCHS <= place <= STEPS else value
    elif place in (LOSS, EVAL):
        found[DIVERGED] = True


def _whole(found: list[Any]) -> Metrics | None:
    """The record, with its progress; None where nothing was found."""
    if found[PERCENT] is None:
        for done, of in ((STEP, STEPS), (EPOCH, EPOCHS)):
            if found[done] is not None and found[of]:
                found[PERCENT] = min(100.0, max(0.0, 100 * found[done] / found[of]))
                break
    one = _new(Metrics, found)
    return None if one == NOTHING else one


NOTHING = Metrics()
