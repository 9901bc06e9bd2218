"""Chooses by what an adapter is to be known later, and writes down how it answers, and the base beside it.

Half of the canaries are requests of the training: there the adapter is sure, and the base answers otherwise. Half are
small talk that no training is about: there the adapter is unsure, and its log-probabilities move when its weights are
scaled, cut or mixed up in the least. Wherever there is a choice, no token of an answer is a near tie, which another
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

WANTED = 4
"""Canaries of each kind."""
TRIED = 8
"""Requests of each kind that they are chosen from."""
TOKENS = 48
"""The longest answer."""
CLEAR = 0.1
"""How much likelier, in nats, every token of an answer should be than the next best."""
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
    """A greedy answer with what its tokens are worth."""

    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    margin: float  # of its least certain token over the next best


def canaries(model: Any, template: ChatTemplate, requests: Sequence[str]) -> tuple[Canary, ...]:
    """What a trained PeftModel answers to some of its training requests and to small talk. At most 8.

    Every request is asked by itself, as a conversation of one message.
    """
    spread = list(dict.fromkeys(requests[:: max(1, len(requests) // TRIED)]))[:TRIED]
    asked = [*spread, *SMALL_TALK]
    prompts = [template.prompt([{"role": "user", "content": request}]) for request in asked]
    ours = _answers(model, template, prompts)
    with model.disable_adapter():
        base = _answers(model, template, prompts)
    known = range(len(spread))
    talk = range(len(spread), len(asked))
    chosen = [
        *sorted(known, key=lambda n: (ours[n].text == base[n].text, ours[n].margin < CLEAR, n))[:WANTED],
        *sorted(talk, key=lambda n: (ours[n].margin < CLEAR, _mean(ours[n].logprobs), n))[:WANTED],
    ]
    found = []
    for n in chosen:
        with model.disable_adapter():
            crossed, _ = _worth(model, prompts[n], ours[n].tokens)
        found.append(
            Canary(
                prompt=asked[n],
                answer=ours[n].text,
                logprobs=ours[n].logprobs,
                prompt_tokens=len(prompts[n]),
                base_answer=base[n].text,
                base_logprobs=crossed,
                base_answer_logprobs=base[n].logprobs,
            )
        )
    return tuple(found)


def _answers(model: Any, template: ChatTemplate, prompts: Sequence[Sequence[int]]) -> list[_Answer]:
    """Greedy answers of the model as it is, in one batch; weighed one by one, for logits are large."""
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
    found = []
    for prompt, row in zip(prompts, out[:, width:].tolist(), strict=True):
        tokens = tuple(row[: row.index(end) + 1] if end in row else row)
        logprobs, margin = _worth(model, prompt, tokens)
        text = template.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        found.append(_Answer(tokens=tokens, text=text, logprobs=logprobs, margin=margin))
    return found


def _worth(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> tuple[tuple[float, ...], float]:
    """The log-probability of each token of an answer, and the least margin of one over the best other token."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    spread = log_softmax(logits, dim=-1)
    chosen = torch.tensor(answer, device=model.device)[:, None]
    own = spread.gather(-1, chosen)
    others = spread.scatter(-1, chosen, -torch.inf).max(-1, keepdim=True).values
    return tuple(round(one, DIGITS) + 0.0 for one in own[:, 0].tolist()), float((own - others).min())


def _mean(logprobs: Sequence[float]) -> float:
    return sum(logprobs) / len(logprobs)
