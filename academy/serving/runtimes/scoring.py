"""Log-probabilities of continuations, without feeding a token twice where that is avoidable.

A prompt with one continuation goes through the model together with it, in one pass. Several continuations of a prompt
share its cache; they follow in a second pass, grouped by length. Logits are computed only at the places of
continuations. The last token of a continuation is never fed, so continuations that differ only in it cost one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.nn.functional import log_softmax

from academy.errors import ExaminationError
from academy.models.chat_template import ChatTemplate, Message
from academy.serving.runtimes.decoding import padded

BATCH = 32
"""Rows of one pass through the model."""
Tokens = tuple[int, ...]
Pair = tuple[Tokens, Tokens]
"""Tokens of a prompt, and of a continuation."""
Target = tuple[int, Tokens]
"""The number of a pair, and the tokens whose log-probabilities are added up for it."""
Row = TypeVar("Row")


def as_answers(template: ChatTemplate, pairs: Sequence[tuple[Sequence[Message], str]]) -> list[Pair]:
    """Continuations as answers to conversations; prompt and answer are encoded separately, as in training."""
    keys = [tuple((turn["role"], turn["content"]) for turn in messages) for messages, _ in pairs]
    prompts = {key: template.prompt(messages) for key, (messages, _) in dict(zip(keys, pairs, strict=True)).items()}
    answers = _encoded(template, {(continuation, False) for _, continuation in pairs})
    return [(tuple(prompts[key]), answers[answer, False]) for key, (_, answer) in zip(keys, pairs, strict=True)]


def as_texts(template: ChatTemplate, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Continuations of raw texts, encoded as in lm-eval: both together, then split after the context's tokens.

    White space at a context's end belongs to the continuation. An empty context is the model's first token.
    """
    tokenizer: Any = template.tokenizer
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    mark = tokenizer.decode([first])  # a context that begins with it gets no second one
    bare = {context: (context.rstrip(), not context.startswith(mark) and bool(context)) for context, _ in pairs}
    wholes = [(context + continuation, bare[context][1]) for context, continuation in pairs]
    ids = _encoded(template, {*bare.values(), *wholes})
    encoded_pairs: list[Pair] = []
    for (context, _), whole in zip(pairs, wholes, strict=True):
        if context:
            prompt = ids[bare[context]]
            encoded_pairs.append((prompt, ids[whole][len(prompt) :]))
        else:
            encoded_pairs.append(((first,), ids[whole][ids[whole][:1] == (first,) :]))
    return encoded_pairs


def _encoded(template: ChatTemplate, texts: set[tuple[str, bool]]) -> dict[tuple[str, bool], tuple[int, ...]]:
    """Tokens of texts, each with or without the tokenizer's special tokens around it."""
    tokens: dict[tuple[str, bool], tuple[int, ...]] = {}
    for special in (False, True):
        batch = sorted(text for text, with_special in texts if with_special is special)
        ids = template.tokenizer(batch, add_special_tokens=special)["input_ids"] if batch else []
        tokens |= {(text, special): tuple(row) for text, row in zip(batch, ids, strict=True)}
    return tokens


def scores(model: Any, pairs: Sequence[Pair], pad: int, context: int) -> list[float]:
    """The sum of the log-probabilities of each continuation's tokens, in the order of the pairs.

    A pair that is longer than the model's context loses the beginning of its prompt. Raises ExaminationError for a
    continuation that alone is longer than the context.
    """
    fitting = [_fitting(prompt, follower, context) for prompt, follower in pairs]
    numbers = {
        pair: n for n, pair in enumerate(sorted(set(fitting)))
    }  # batches depend on the pairs, not on their order
    prompts: dict[Tokens, dict[Tokens, list[Target]]] = {}
    for (prompt, follower), n in numbers.items():
        if follower:  # the log-probability of an empty continuation is 0
            prompts.setdefault(prompt, {}).setdefault(follower[:-1], []).append((n, follower))
    totals = torch.zeros(len(numbers), dtype=torch.float64, device=model.device)
    with torch.inference_mode():
        single = [(prompt, *next(iter(prefixes.items()))) for prompt, prefixes in prompts.items() if len(prefixes) == 1]
        for batch in _by_length(single, lambda row: len(row[0]) + len(row[1])):
            _in_one_pass(model, batch, pad, totals)
        several = [(prompt, prefixes) for prompt, prefixes in prompts.items() if len(prefixes) > 1]
        for group in _by_length(several, lambda row: len(row[0])):
            _in_two_passes(model, group, pad, totals)
    sums = totals.tolist()
    return [sums[numbers[pair]] for pair in fitting]


def _fitting(prompt: Sequence[int], follower: Sequence[int], context: int) -> Pair:
    room = context + 1 - len(follower)  # the last token of a continuation is never fed
    if room < 1:
        raise ExaminationError(
            f"A continuation of {len(follower)} tokens is longer than the model's context ({context}).",
            "Remove the question.",
        )
    return tuple(prompt[-room:]), tuple(follower)


def _by_length(rows: Sequence[Row], length: Callable[[Row], int]) -> Iterator[Sequence[Row]]:
    by_length = sorted(rows, key=length)
    for start in range(0, len(by_length), BATCH):
        yield by_length[start : start + BATCH]


def _in_one_pass(
    model: Any, rows: Sequence[tuple[Tokens, Tokens, list[Target]]], pad: int, totals: torch.Tensor
) -> None:  # fmt: skip
    """Score prompts whose continuations share all but their last token. Left padding lets all rows end together."""
    ids, mask = padded([prompt + prefix for prompt, prefix, _ in rows], pad, totals.device, left=True)
    count = 1 + max(len(prefix) for _, prefix, _ in rows)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=count)
    _add(totals, out.logits, [(count - 1 - len(prefix), targets) for _, prefix, targets in rows])


def _in_two_passes(
    model: Any, rows: Sequence[tuple[Tokens, dict[Tokens, list[Target]]]], pad: int, totals: torch.Tensor
) -> None:  # fmt: skip
    """Score the first tokens of continuations from their prompts, and the others from the prompts' cache."""
    ids, mask = padded([prompt for prompt, _ in rows], pad, totals.device, left=True)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    _add(
        totals,
        out.logits,
        [(0, [(n, tokens[:1]) for targets in prefixes.values() for n, tokens in targets]) for _, prefixes in rows],
    )
    tails = [
        (row, tokens, targets)
        for row, (_, prefixes) in enumerate(rows)
        for tokens, targets in prefixes.items()
        if tokens
    ]
    for batch in _by_length(tails, lambda tail: len(tail[1])):
        prompt_rows = torch.tensor([row for row, _, _ in batch], device=totals.device)
        ids, tail_mask = padded([tokens for _, tokens, _ in batch], pad, totals.device, left=False)
        last = positions[prompt_rows, -1:]
        after = model(
            input_ids=ids, attention_mask=torch.cat((mask[prompt_rows], tail_mask), dim=1),
            position_ids=last + 1 + torch.arange(ids.shape[1], device=totals.device),
            past_key_values=_rows_of(out.past_key_values, prompt_rows),
        )  # fmt: skip
        _add(totals, after.logits, [(0, [(n, follower[1:]) for n, follower in targets]) for _, _, targets in batch])


def _rows_of(cache: Any, rows: torch.Tensor) -> Any:
    """A copy of some rows of a cache."""
    selection = copy.copy(cache)
    selection.layers = [copy.copy(layer) for layer in cache.layers]
    selection.batch_select_indices(rows)
    return selection


def _add(totals: torch.Tensor, logits: torch.Tensor, rows: Sequence[tuple[int, Sequence[Target]]]) -> None:
    """Add log-probabilities to the totals of their pairs. Each row gives its first column and its pairs' tokens."""
    row: list[int] = []
    column: list[int] = []
    place: list[int] = []
    token: list[int] = []
    number: list[int] = []
    for n, (first, targets) in enumerate(rows):
        width = max(len(tokens) for _, tokens in targets)
        for pair, tokens in targets:
            place += range(len(row), len(row) + len(tokens))
            token += tokens
            number += [pair] * len(tokens)
        row += [n] * width
        column += range(first, first + width)
    logprobs = log_softmax(logits[row, column].float(), dim=-1)[place, token]
    totals.index_add_(0, torch.tensor(number, device=totals.device), logprobs.double())
