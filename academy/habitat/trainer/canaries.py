"""Chooses the canaries by which an adapter is recognised later, and records how it and the base answer them.

Half of the canaries are requests of the training: there the adapter is certain, and the base answers differently. Half
are small talk that no training is about: there the adapter is uncertain, and its log-probabilities move with the
smallest scaling, cut or mix-up of its weights. Where possible, no token of an answer is a near tie, which another
engine might break the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import log_softmax

from academy.adapters.adapter import Canary
from academy.models.chat_template import ChatTemplate
from academy.records import Record

COUNT = 4
"""Canaries of each kind."""
CANDIDATES = 8
"""Requests of each kind to choose from."""
TOKENS = 48
"""Length limit of an answer."""
CLEAR_MARGIN = 0.1
"""Every token of an answer should be more likely than the next best by this margin, in nats."""
DIGITS = 4
SMALL_TALK = (
    "Hello.",
    "What can you do?",
    "Tell me something new.",
    "And then?",
    "Which one would you choose, and why?",
    "I am not sure about this.",
    "Write a short list.",
    "Thank you, that is all for today.",
)


class _Answer(Record):
    """A greedy answer with the log-probabilities of its tokens."""

    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    margin: float  # smallest, of a token over the next best one


def canaries(model: Any, template: ChatTemplate, requests: Sequence[str]) -> tuple[Canary, ...]:
    """What a trained PeftModel answers to some of its training requests and to small talk (at most 8).

    Every request is its own conversation of one message.
    """
    # engines that tokenize a text themselves see control tokens in it otherwise
    plain = [request for request in requests if not template.rendering.has_control_tokens(request)]
    sample = list(dict.fromkeys(plain[:: max(1, len(plain) // CANDIDATES)]))[:CANDIDATES]
    all_requests = [*sample, *SMALL_TALK]
    prompts = [template.prompt([{"role": "user", "content": request}]) for request in all_requests]
    adapted = _answers(model, template, prompts)
    with model.disable_adapter():
        base = _answers(model, template, prompts)
    training = range(len(sample))
    talk = range(len(sample), len(all_requests))
    selection = [
        *sorted(training, key=lambda n: (adapted[n].text == base[n].text, adapted[n].margin < CLEAR_MARGIN, n))[:COUNT],
        *sorted(talk, key=lambda n: (adapted[n].margin < CLEAR_MARGIN, _mean(adapted[n].logprobs), n))[:COUNT],
    ]
    result = []
    for n in selection:
        with model.disable_adapter():
            base_logprobs, _ = _score(model, prompts[n], adapted[n].tokens)
        result.append(
            Canary(
                prompt=all_requests[n],
                answer=adapted[n].text,
                logprobs=adapted[n].logprobs,
                prompt_tokens=len(prompts[n]),
                base_answer=base[n].text,
                base_logprobs=base_logprobs,
                base_answer_logprobs=base[n].logprobs,
            )
        )
    return tuple(result)


def _answers(model: Any, template: ChatTemplate, prompts: Sequence[Sequence[int]]) -> list[_Answer]:
    """Greedy answers of the model, generated in one batch and scored one by one, because logits are large."""
    pad, end = template.tokenizer.pad_token_id, template.tokenizer.eos_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=end,
        )
    answers = []
    for prompt, row in zip(prompts, out[:, width:].tolist(), strict=True):
        tokens = tuple(row[: row.index(end) + 1] if end in row else row)
        logprobs, margin = _score(model, prompt, tokens)
        answers.append(_Answer(tokens=tokens, text=template.raw_answer(tokens), logprobs=logprobs, margin=margin))
    return answers


def _score(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> tuple[tuple[float, ...], float]:
    """The log-probability of each token of an answer, and the smallest margin of one over the next best token."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    all_logprobs = log_softmax(logits, dim=-1)
    indices = torch.tensor(answer, device=model.device)[:, None]
    logprobs = all_logprobs.gather(-1, indices)
    next_best = all_logprobs.scatter(-1, indices, -torch.inf).max(-1, keepdim=True).values
    values = tuple(round(value, DIGITS) + 0.0 for value in logprobs[:, 0].tolist())
    return values, float((logprobs - next_best).min())


def _mean(logprobs: Sequence[float]) -> float:
    return sum(logprobs) / len(logprobs)
