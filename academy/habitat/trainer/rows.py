"""Token ids and labels of every example, and the checks of the contract before the first step.

The prompt is not supervised; the answer is, including its end token; and no row is lost: as many rows are read as are
trained or evaluated on. Raises TrainingError or TemplateError.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from academy.errors import TemplateError, TrainingError
from academy.habitat.backends.base import TrainingOrder
from academy.models.chat_template import ChatTemplate
from academy.models.formats import read_row
from academy.models.messages import Transcript
from academy.store.files import digest_of_file

IGNORED = -100
"""The label of a token that is not supervised."""
LEAST = 2
"""Minimum number of examples in every training."""
Row = dict[str, list[int]]


class Rows(NamedTuple):
    """Rows to train on, rows to evaluate on, and the conversations of the rows to train on."""

    train: list[Row]
    dev: list[Row]
    messages: list[Transcript]

    @property
    def supervised(self) -> int:
        """Number of tokens that the training learns."""
        return sum(1 for row in self.train for label in row["labels"] if label != IGNORED)


def read_rows(order: TrainingOrder, template: ChatTemplate) -> Rows:
    """Every example of the order's file, split by its recipe's dev_share."""
    if digest_of_file(order.train_file) != order.train_digest:
        raise TrainingError(
            "The dataset changed after the training was ordered.", "Run `academy curate` again.", cause="data"
        )
    lines = order.train_file.read_bytes().splitlines()
    messages = [_messages(line, number) for number, line in enumerate(lines, start=1)]
    rows = []
    for number, conversation in enumerate(messages, start=1):
        try:
            prompt, answer = template.example_of(conversation)
        except TemplateError as problem:
            raise TemplateError(f"Line {number} of the dataset: {problem.message}", problem.remedy) from problem
        if len(prompt) + len(answer) <= order.recipe.max_length:
            rows.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    if len(messages) < LEAST:
        count = "one example" if messages else "no examples"
        raise TrainingError(f"The dataset has {count} (minimum {LEAST}).", "Add more.", cause="data")
    if len(rows) != len(messages):
        raise TrainingError(
            f"{len(messages) - len(rows)} of {len(messages)} examples have more than {order.recipe.max_length} tokens.",
            "Give the recipe a larger max_length, or remove long examples.",
            cause="data",
        )
    end = template.tokenizer.eos_token_id
    for row in rows:
        supervised = [label for label in row["labels"] if label != IGNORED]
        if len(supervised) < 2 or supervised[-1] != end:
            raise TrainingError(
                "An answer is empty or its end token is not supervised.", "Check the chat template.", cause="template"
            )
    if not order.recipe.dev_share:
        return Rows(rows, [], messages)
    is_dev = [order.recipe.holds_back(request_of(conversation)) for conversation in messages]
    split = Rows(
        [row for row, dev in zip(rows, is_dev, strict=True) if not dev],
        [row for row, dev in zip(rows, is_dev, strict=True) if dev],
        [conversation for conversation, dev in zip(messages, is_dev, strict=True) if not dev],
    )
    if not split.train or not split.dev:
        raise TrainingError(
            f"{len(rows)} examples cannot be split into some to train on and some to evaluate on.",
            "Import more lessons, or set dev_share to 0.",
            cause="data",
        )
    return split


def request_of(transcript: Transcript) -> str:
    """The last request of a conversation."""
    return next(message.content for message in reversed(transcript.messages) if message.role == "user")


def _messages(line: bytes, number: int) -> Transcript:
    """A line in any format that is imported, as a conversation that ends with its last answer."""
    try:
        conversation = read_row(orjson.loads(line))
    except orjson.JSONDecodeError:
        conversation = "not JSON"
    if isinstance(conversation, str):
        raise TrainingError(
            f"Line {number} of the dataset cannot be read: {conversation}.",
            "Correct the file, or run `academy curate` again.",
            cause="data",
        )
    return conversation


def packed(rows: list[Row], length: int) -> list[dict[str, Any]]:
    """Pack examples into rows of at most `length` tokens; seq_lengths has their lengths. No example is cut."""
    from datasets import Dataset
    from trl import pack_dataset

    dataset = pack_dataset(Dataset.from_list(rows), length, "bfd")
    if sum(len(row["seq_lengths"]) for row in dataset) != len(rows):
        raise TrainingError("Packing lost examples.", "Train without packing.", cause="data")
    return list(dataset)
