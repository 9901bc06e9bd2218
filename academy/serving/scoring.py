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
from academy.template import ChatTemplate

BATCH = 32
"""Prompts, and continuations, that go through the model at a time."""
Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens of a prompt, and of what may follow it."""


def as_answer(template: ChatTemplate, prompt: list[int], continuation: str) -> Pair:
    """A continuation as the answer to a rendered prompt: each encoded by itself, as in training."""
    return tuple(prompt), tuple(template.tokenizer(continuation, add_special_tokens=False)["input_ids"])


def as_text(template: ChatTemplate, context: str, continuation: str) -> Pair:
    """A continuation of raw text: the whole is encoded, and what is more than the context's tokens is the continuation.

    White space at the context's end belongs to the continuation; an empty context is the model's first token. This
    is what lm-eval does.
    """
    tokenizer: Any = template.tokenizer
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not context:
        ids = tokenizer.encode(continuation, add_special_tokens=False)
        return ((first,), tuple(ids)) if ids[:1] != [first] else (tuple(ids[:1]), tuple(ids[1:]))
    bare = context.rstrip()
    begun = bare.startswith(tokenizer.decode([first]))  # its first token is written out: no second one
    whole, known = (
        tokenizer.encode(text, add_special_tokens=not begun) for text in (context + continuation, bare)
    )  # fmt: skip
    return tuple(known), tuple(whole[len(known) :])


def scores(model: Any, pairs: Sequence[Pair], pad: int, context: int) -> list[float]:
    """The sum of the log-probabilities of each continuation's tokens, in the order of the pairs.

    Where both are longer than the model's context, the prompt loses its beginning. Raises ExaminationError for a
    continuation that is longer than the context by itself.
    """
    fitting = [_fitting(prompt, follower, context) for prompt, follower in pairs]
    found: dict[Pair, float] = {}
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
    order = sorted({pair for pair in pairs if pair[1]}, key=lambda pair: (len(pair[0]), pair[0], len(pair[1]), pair[1]))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


@torch.inference_mode()
def _scored(model: Any, batch: Sequence[Pair], pad: int) -> list[float]:
    """The same for pairs that go through the model together."""
    numbers = {prompt: n for n, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in batch))}
    rows = torch.tensor([numbers[prompt] for prompt, _ in batch], device=model.device)
    lengths = torch.tensor([len(prompt) for prompt in numbers], device=model.device)
    width, rest = int(lengths.max()), max(len(follower) for _, follower in batch) - 1
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in numbers], device=model.device)
    mask = (torch.arange(width, device=model.device) >= (width - lengths)[:, None]).long()
    out = model(
        input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        use_cache=rest > 0, logits_to_keep=1,
    )  # fmt: skip
    wanted = torch.tensor([[*follower, *[pad] * (rest + 1 - len(follower))] for _, follower in batch])
    wanted = wanted.to(model.device)
    totals = log_softmax(out.logits[:, -1].float(), dim=-1)[rows, wanted[:, 0]]
    if rest:
        cache = out.past_key_values
        cache.batch_select_indices(rows)
        out = model(
            input_ids=wanted[:, :-1], attention_mask=torch.cat((mask[rows], torch.ones_like(wanted[:, 1:])), dim=1),
            position_ids=lengths[rows, None] + torch.arange(rest, device=model.device), past_key_values=cache,
        )  # fmt: skip
        sizes = torch.tensor([len(follower) for _, follower in batch], device=model.device)
        row, column = (torch.arange(rest, device=model.device) < (sizes - 1)[:, None]).nonzero(as_tuple=True)
        found = log_softmax(out.logits[row, column].float(), dim=-1)
        totals.index_add_(0, row, found[torch.arange(len(row)), wanted[row, column + 1]])
    return [float(total) for total in totals]
