"""What is trained on: token ids and labels of every example, with the contract checked before the first step.

The prompt is not supervised, the answer is, its end token is inside the mask, and as many rows go in as are trained or
evaluated on. Raises TrainingError or TemplateError.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from academy.errors import TrainingError
from academy.habitat.backends.base import TrainingOrder
from academy.models.chat_template import ChatTemplate, Message
from academy.models.formats import read_row
from academy.store.files import digest_of_file

IGNORED = -100
"""The label of a token that is not supervised."""
LEAST = 2
"""Examples below which nothing is trained, whoever ordered it."""
Row = dict[str, list[int]]


class Rows(NamedTuple):
    """Rows to train on, rows to evaluate on, and the conversations of those that are trained on."""

    train: list[Row]
    dev: list[Row]
    messages: list[list[Message]]

    @property
    def supervised(self) -> int:
        """Tokens that the training is to learn."""
        return sum(1 for row in self.train for label in row["labels"] if label != IGNORED)


def read_rows(order: TrainingOrder, template: ChatTemplate) -> Rows:
    """Every example of the order's file, divided by its recipe's dev_share."""
    if digest_of_file(order.train_file) != order.train_digest:
        raise TrainingError(
            "The dataset was altered after it was ordered.", "Run `academy curate` again.", cause="data"
        )
    messages = [_messages(line) for line in order.train_file.read_bytes().splitlines()]
    rows = []
    for conversation in messages:
        prompt, answer = template.example(conversation)
        if len(prompt) + len(answer) <= order.recipe.max_length:
            rows.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    if len(messages) < LEAST:
        many = "one example" if messages else "no examples"
        raise TrainingError(f"The dataset has {many}: nothing can be learned of it.", "Add more.", cause="data")
    if len(rows) != len(messages):
        raise TrainingError(
            f"{len(messages) - len(rows)} of {len(messages)} examples have over {order.recipe.max_length} tokens.",
            "Give the recipe a larger max_length, or leave long examples out.",
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
    kept = [order.recipe.holds_back(conversation[-2]["content"]) for conversation in messages]
    found = Rows(
        [row for row, dev in zip(rows, kept, strict=True) if not dev],
        [row for row, dev in zip(rows, kept, strict=True) if dev],
        [one for one, dev in zip(messages, kept, strict=True) if not dev],
    )
    if not found.train or not found.dev:
        raise TrainingError(
            f"{len(rows)} examples cannot be divided into some to train on and some to evaluate on.",
            "Import more lessons, or set dev_share to 0.",
            cause="data",
        )
    return found


def _messages(line: bytes) -> list[Message]:
    """A line in any of the four formats as a conversation that ends with its last answer."""
    try:
        found = read_row(orjson.loads(line))
    except orjson.JSONDecodeError:
        found = "a line is no JSON"
    if isinstance(found, str):
        raise TrainingError(f"The dataset cannot be read: {found}.", "Run `academy curate` again.", cause="data")
    while found[-1]["role"] != "assistant":
        found.pop()
    if not any(one["role"] == "user" for one in found):
        raise TrainingError(
            "The dataset cannot be read: an answer has no request before it.", "Leave it out.", cause="data"
        )
    return found


def packed(rows: list[Row], length: int) -> list[dict[str, Any]]:
    """Rows of at most so many tokens, each of several examples; seq_lengths says where they end. Nothing is cut."""
    from datasets import Dataset
    from trl import pack_dataset

    found = pack_dataset(Dataset.from_list(rows), length, "bfd")
    if sum(len(row["seq_lengths"]) for row in found) != len(rows):
        raise TrainingError("Packing lost examples.", "Train without packing.", cause="data")
    return list(found)
