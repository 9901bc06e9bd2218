"""How likely a model holds a continuation to be, with no token fed twice where that can be helped.

A prompt with one continuation goes through the model in one pass with it. What a prompt with several left in the cache
is shared by them; they follow in a second pass, grouped by length. Logits are computed where a continuation stands and
nowhere else. The last token of a continuation is never fed, so those that differ in it alone cost as much as one.
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
"""Rows that go through the model at a time."""
Tokens = tuple[int, ...]
Pair = tuple[Tokens, Tokens]
"""Tokens of a prompt, and of what may follow it."""
Wanted = tuple[int, Tokens]
"""The number of a pair, and tokens whose log-probabilities are added up for it."""
Row = TypeVar("Row")


def as_answers(template: ChatTemplate, pairs: Sequence[tuple[Sequence[Message], str]]) -> list[Pair]:
    """Continuations as answers to conversations: prompt and answer are encoded each by itself, as in training."""
    keys = [tuple((turn["role"], turn["content"]) for turn in messages) for messages, _ in pairs]
    prompts = {key: template.prompt(messages) for key, (messages, _) in dict(zip(keys, pairs, strict=True)).items()}
    answers = _encoded(template, {(continuation, False) for _, continuation in pairs})
    return [(tuple(prompts[key]), answers[said, False]) for key, (_, said) in zip(keys, pairs, strict=True)]


def as_texts(template: ChatTemplate, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Continuations of raw texts: both are encoded together, and what is more than the context's tokens continues it.

    White space at a context's end belongs to the continuation; an empty context is the model's first token. This is
    what lm-eval does.
    """
    tokenizer: Any = template.tokenizer
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    mark = tokenizer.decode([first])  # where it is written out, there is no second one
    bare = {context: (context.rstrip(), not context.startswith(mark) and bool(context)) for context, _ in pairs}
    wholes = [(context + continuation, bare[context][1]) for context, continuation in pairs]
    ids = _encoded(template, {*bare.values(), *wholes})
    found: list[Pair] = []
    for (context, _), whole in zip(pairs, wholes, strict=True):
        if context:
            known = ids[bare[context]]
            found.append((known, ids[whole][len(known) :]))
        else:
            found.append(((first,), ids[whole][ids[whole][:1] == (first,) :]))
    return found


def _encoded(template: ChatTemplate, texts: set[tuple[str, bool]]) -> dict[tuple[str, bool], tuple[int, ...]]:
    """Tokens of texts, each with or without the tokens that the tokenizer sets around it."""
    found: dict[tuple[str, bool], tuple[int, ...]] = {}
    for special in (False, True):
        some = sorted(text for text, wanted in texts if wanted is special)
        ids = template.tokenizer(some, add_special_tokens=special)["input_ids"] if some else []
        found |= {(text, special): tuple(one) for text, one in zip(some, ids, strict=True)}
    return found


def scores(model: Any, pairs: Sequence[Pair], pad: int, context: int) -> list[float]:
    """The sum of the log-probabilities of each continuation's tokens, in the order of the pairs.

    Where both are longer than the model's context, the prompt loses its beginning. Raises ExaminationError for a
    continuation that is longer than the context by itself.
    """
    fitting = [_fitting(prompt, follower, context) for prompt, follower in pairs]
    numbers = {
        pair: n for n, pair in enumerate(sorted(set(fitting)))
    }  # batches depend on the pairs, not on their order
    prompts: dict[Tokens, dict[Tokens, list[Wanted]]] = {}
    for (prompt, follower), n in numbers.items():
        if follower:  # nothing at all is certain to follow
            prompts.setdefault(prompt, {}).setdefault(follower[:-1], []).append((n, follower))
    totals = torch.zeros(len(numbers), dtype=torch.float64, device=model.device)
    with torch.inference_mode():
        single = [(prompt, *next(iter(fed.items()))) for prompt, fed in prompts.items() if len(fed) == 1]
        for some in _by_length(single, lambda one: len(one[0]) + len(one[1])):
            _in_one_pass(model, some, pad, totals)
        several = [(prompt, fed) for prompt, fed in prompts.items() if len(fed) > 1]
        for more in _by_length(several, lambda one: len(one[0])):
            _in_two_passes(model, more, pad, totals)
    found = totals.tolist()
    return [found[numbers[pair]] for pair in fitting]


def _fitting(prompt: Sequence[int], follower: Sequence[int], context: int) -> Pair:
    room = context + 1 - len(follower)  # the last token of all is never fed
    if room < 1:
        raise ExaminationError(
            f"A continuation of {len(follower)} tokens is longer than the model's context ({context}).",
            "Leave the question out.",
        )
    return tuple(prompt[-room:]), tuple(follower)


def _by_length(rows: Sequence[Row], length: Callable[[Row], int]) -> Iterator[Sequence[Row]]:
    ordered = sorted(rows, key=length)
    for start in range(0, len(ordered), BATCH):
        yield ordered[start : start + BATCH]


def _in_one_pass(
    model: Any, rows: Sequence[tuple[Tokens, Tokens, list[Wanted]]], pad: int, totals: torch.Tensor
) -> None:  # fmt: skip
    """Prompts with what is fed behind them; the end of every row is at the same place."""
    ids, mask = padded([prompt + fed for prompt, fed, _ in rows], pad, totals.device, left=True)
    kept = 1 + max(len(fed) for _, fed, _ in rows)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=kept)
    _add(totals, out.logits, [(kept - 1 - len(fed), wanted) for _, fed, wanted in rows])


def _in_two_passes(
    model: Any, rows: Sequence[tuple[Tokens, dict[Tokens, list[Wanted]]]], pad: int, totals: torch.Tensor
) -> None:  # fmt: skip
    """Prompts, whose last place tells of the first tokens; then what follows each, from the prompts' cache."""
    ids, mask = padded([prompt for prompt, _ in rows], pad, totals.device, left=True)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
    _add(totals, out.logits, [(0, [(n, all_[:1]) for one in fed.values() for n, all_ in one]) for _, fed in rows])
    behind = [(row, tokens, wanted) for row, (_, fed) in enumerate(rows) for tokens, wanted in fed.items() if tokens]
    for some in _by_length(behind, lambda one: len(one[1])):
        chosen = torch.tensor([row for row, _, _ in some], device=totals.device)
        ids, real = padded([tokens for _, tokens, _ in some], pad, totals.device, left=False)
        last = positions[chosen, -1:]
        after = model(
            input_ids=ids, attention_mask=torch.cat((mask[chosen], real), dim=1),
            position_ids=last + 1 + torch.arange(ids.shape[1], device=totals.device),
            past_key_values=_rows_of(out.past_key_values, chosen),
        )  # fmt: skip
        _add(totals, after.logits, [(0, [(n, follower[1:]) for n, follower in wanted]) for _, _, wanted in some])


def _rows_of(cache: Any, rows: torch.Tensor) -> Any:
    """Some rows of a cache, which itself stays as it is."""
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) for layer in cache.layers]
    found.batch_select_indices(rows)
    return found


def _add(totals: torch.Tensor, logits: torch.Tensor, rows: Sequence[tuple[int, Sequence[Wanted]]]) -> None:
    """For each row the column where its tokens begin, and for each of its pairs the tokens; added up by the pair."""
    row: list[int] = []
    column: list[int] = []
    place: list[int] = []
    token: list[int] = []
    number: list[int] = []
    for n, (first, wanted) in enumerate(rows):
        most = max(len(tokens) for _, tokens in wanted)
        for pair, tokens in wanted:
            place += range(len(row), len(row) + len(tokens))
            token += tokens
            number += [pair] * len(tokens)
        row += [n] * most
        column += range(first, first + most)
    found = log_softmax(logits[row, column].float(), dim=-1)[place, token]
    totals.index_add_(0, torch.tensor(number, device=totals.device), found.double())
