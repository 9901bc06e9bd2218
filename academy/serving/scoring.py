"""How likely a model holds a continuation to be: one pass over each prompt, one over all that may follow it.

Prompts are padded on the left, so that all end at the same place and the logits of that place alone are computed;
what they left in the cache is then shared by their continuations, which are padded on the right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import log_softmax

from academy.errors import ExaminationError
from academy.template import ChatTemplate, Message

BATCH = 32
"""Prompts that go through the model at a time."""
TOKENS = 16_384
"""What the cache holds at most: the prompt's tokens, once for each continuation."""
Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens of a prompt, and of what may follow it."""


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
    found: dict[Pair, float] = {}
    with torch.inference_mode():
        for batch in _batches(fitting):
            found |= zip(batch, _scored(model, batch, pad), strict=True)
    return [found.get(pair, 0.0) for pair in fitting]  # nothing at all is certain to follow


def _fitting(prompt: Sequence[int], follower: Sequence[int], context: int) -> Pair:
    room = context + 1 - len(follower)  # the last token of all is never fed
    if room < 1:
        raise ExaminationError(
            f"A continuation of {len(follower)} tokens is longer than the model's context ({context}).",
            "Leave the question out.",
        )
    return tuple(prompt[-room:]), tuple(follower)


def _batches(pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
    """Prompts of similar length, each with its continuations beside it; the order depends on the pairs alone."""
    batch: list[Pair] = []
    prompts: set[tuple[int, ...]] = set()
    for pair in sorted({pair for pair in pairs if pair[1]}, key=lambda pair: (len(pair[0]), *pair)):
        full = len(prompts | {pair[0]}) > BATCH or (len(batch) + 1) * len(pair[0]) > TOKENS
        if full and batch:
            yield batch
            batch, prompts = [], set()
        batch.append(pair)
        prompts.add(pair[0])
    if batch:
        yield batch


def _scored(model: Any, batch: Sequence[Pair], pad: int) -> list[float]:
    """The same for pairs that go through the model together."""
    numbers = {prompt: n for n, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in batch))}
    longer = [n for n, (_, follower) in enumerate(batch) if len(follower) > 1]
    ids, mask = _padded(list(numbers), pad, left=True)
    ids, mask = ids.to(model.device), mask.to(model.device)
    out = model(
        input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        use_cache=bool(longer), logits_to_keep=1,
    )  # fmt: skip
    rows = torch.tensor([numbers[prompt] for prompt, _ in batch], device=model.device)
    firsts = torch.tensor([follower[0] for _, follower in batch], device=model.device)
    totals = log_softmax(out.logits[:, -1].float(), dim=-1)[rows, firsts].double()
    if longer:
        fed, real = _padded([batch[n][1] for n in longer], pad, left=False)
        fed, real = fed.to(model.device), real.to(model.device)
        rows = rows[longer]
        if len(rows) != len(numbers) or len(rows) != len(rows.unique()):
            out.past_key_values.batch_select_indices(rows)
        positions = mask.sum(-1)[rows, None] + torch.arange(fed.shape[1] - 1, device=model.device)
        out = model(
            input_ids=fed[:, :-1], attention_mask=torch.cat((mask[rows], real[:, 1:]), dim=1), position_ids=positions,
            past_key_values=out.past_key_values,
        )  # fmt: skip
        row, column = real[:, 1:].nonzero(as_tuple=True)
        found = log_softmax(out.logits[row, column].float(), dim=-1)
        said = found.gather(1, fed[row, column + 1, None])[:, 0].double()
        totals.index_add_(0, torch.tensor(longer, device=model.device)[row], said)
    return [float(total) for total in totals]


def _padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of one length, and a mask that is 1 where there is something."""
    width = max(map(len, rows))
    gaps = [width - len(row) for row in rows]
    ids = [[pad] * gap + list(row) if left else [*row, *[pad] * gap] for row, gap in zip(rows, gaps, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) if left else [1] * (width - gap) + [0] * gap for gap in gaps]
    return torch.tensor(ids), torch.tensor(mask)
