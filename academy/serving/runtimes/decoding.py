"""Generates the answers to many prompts token by token; rows join and leave the batch between two steps.

Most answers are short and few are long, so a row that has ended makes room for the next prompt at once. The greedy
tokens are those of transformers' own `generate`, which keeps every row until the last row has ended.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad as filled

NEEDED = frozenset(("position_ids", "past_key_values", "logits_to_keep"))
HARMLESS = frozenset((
    "_from_model_config", "bos_token_id", "cache_implementation", "do_sample", "eos_token_id", "max_length",
    "max_new_tokens", "pad_token_id", "temperature", "top_k", "top_p", "transformers_version", "use_cache",
))  # fmt: skip
"""Settings of a model that do not change a greedy answer. A repetition penalty, for example, does."""
BATCH = 64
CACHE_TOKENS = 32_768
"""Most tokens of a batch, prompts and answers together; long conversations get smaller batches."""
DROPPED_AT = 0.8
"""Ended rows are dropped once at most this share is active, because dropping copies the rest of the cache."""
REFILLED_AT = BATCH // 4
"""Prompts join once there is room for this many, because joining copies the cache, too."""


def is_plain(model: Any) -> bool:
    """Whether this module can generate a model's answers; otherwise `generate` does."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    settings = model.generation_config.to_diff_dict() if model.generation_config else {}
    if not (inspect.signature(model.forward).parameters.keys() >= NEEDED and settings.keys() <= HARMLESS):
        return False
    layers = DynamicCache(config=model.config).layers
    return all(
        type(layer) is DynamicLayer for layer in layers
    )  # a sliding window drops tokens by their place in the cache


class Rows:
    """The rows of a batch and their cache."""

    def __init__(self, model: Any, pad: int) -> None:
        self._model = model
        self._pad = pad
        self._cache: Any = None
        self._mask: torch.Tensor = torch.empty(0, 0)
        self._positions: torch.Tensor = torch.empty(0, 1)

    def __len__(self) -> int:
        return len(self._mask)

    @property
    def width(self) -> int:
        """Tokens of each row in the cache, including padding."""
        return int(self._mask.shape[1])

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def join(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append rows. Returns the logits of their first tokens: prompts x vocabulary."""
        ids, mask = padded(prompts, self._pad, self._model.device, left=True)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits, cache = self._pass(ids, mask, positions, None)
        positions = positions[:, -1:]
        if self._cache is None:
            self._cache, self._mask, self._positions = cache, mask, positions
            return logits
        width = max(self.width, mask.shape[1])
        for old, new in zip(self._cache.layers, cache.layers, strict=True):
            old.keys = torch.cat((_widened(old.keys, width), _widened(new.keys, width)))
            old.values = torch.cat((_widened(old.values, width), _widened(new.values, width)))
        self._mask = torch.cat([filled(part, (width - part.shape[1], 0)) for part in (self._mask, mask)])
        self._positions = torch.cat((self._positions, positions))
        return logits

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Feed each row its last token. Returns the logits of the next ones: rows x vocabulary."""
        ids = torch.tensor(tokens, device=self._mask.device)[:, None]
        self._mask = torch.cat((self._mask, torch.ones_like(ids)), dim=1)
        self._positions = self._positions + 1
        logits, self._cache = self._pass(ids, self._mask, self._positions, self._cache)
        return logits

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, and the padding that they no longer need."""
        if not rows:
            self._cache, self._mask, self._positions = None, torch.empty(0, 0), torch.empty(0, 1)
            return
        indices = torch.tensor(rows, device=self._mask.device)
        mask = self._mask[indices]
        gap = int(mask.argmax(dim=1).min())
        self._mask, self._positions = mask[:, gap:], self._positions[indices]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[indices, :, gap:], layer.values[indices, :, gap:]

    def _pass(self, ids: Any, mask: Any, positions: Any, cache: Any) -> tuple[torch.Tensor, Any]:
        out = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        return out.logits[:, -1], out.past_key_values


def greedy(
    model: Any, prompts: Sequence[Sequence[int]], pad: int, end: int, limit: int
) -> tuple[list[list[int]], list[float]]:
    """The tokens of each answer, including the end token where it ended, and seconds to its first token.

    Prompts of similar length should follow each other.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    firsts = [0.0] * len(prompts)
    rows = Rows(model, pad)
    prompt_of: list[int] = []  # the prompt of each row
    waiting = 0
    while waiting < len(prompts) or prompt_of:
        active = [n for n, i in enumerate(prompt_of) if answers[i][-1] != end and len(answers[i]) < limit]
        joining = _joining(
            [len(prompt) for prompt in prompts[waiting : waiting + BATCH]], len(active), rows.width, limit
        )
        if len(active) <= DROPPED_AT * len(prompt_of) or (joining and len(active) < len(prompt_of)):
            rows.keep(active)
            prompt_of = [prompt_of[n] for n in active]
        if joining:
            began = time.perf_counter()
            new = range(waiting, waiting + joining)
            for i, token in zip(new, rows.join([prompts[i] for i in new]).argmax(-1).tolist(), strict=True):
                answers[i].append(token)
                firsts[i] = time.perf_counter() - began
            prompt_of += new
            waiting += joining
        elif prompt_of:
            tokens = rows.step([answers[i][-1] for i in prompt_of]).argmax(-1).tolist()
            for i, token in zip(prompt_of, tokens, strict=True):
                if answers[i][-1] != end and len(answers[i]) < limit:
                    answers[i].append(token)
    return answers, firsts


def _joining(lengths: Sequence[int], active: int, width: int, limit: int) -> int:
    """How many of the next prompts join the active rows; 0 where joining is not worth the copy."""
    room = BATCH - active
    if active and room < min(REFILLED_AT, len(lengths)):
        return 0
    count = 0
    for length in lengths[:room]:
        width = max(width if active else 0, length)
        if active + count and (active + count + 1) * (width + limit) > CACHE_TOKENS:
            break
        count += 1
    return count


def _widened(states: torch.Tensor, width: int) -> torch.Tensor:
    """Keys or values (rows x heads x tokens x size), padded on the left to `width` tokens."""
    return filled(states, (0, 0, width - states.shape[2], 0))


def padded(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device | str, *, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded to one length, and a mask that is 1 where a token is not padding."""
    width = max(map(len, rows))
    gaps = [width - len(row) for row in rows]
    ids = [[pad] * gap + list(row) if left else [*row, *[pad] * gap] for row, gap in zip(rows, gaps, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) if left else [1] * (width - gap) + [0] * gap for gap in gaps]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
