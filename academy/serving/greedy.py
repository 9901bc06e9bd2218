"""Greedy answers of a batch, token by token. Rows that have ended leave the batch: most answers are short, one is long.

The tokens are those of transformers' own `generate`, which keeps every row until the last one has ended.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from typing import Any

import torch

NEEDED = frozenset(("position_ids", "past_key_values", "logits_to_keep"))
HARMLESS = frozenset((
    "_from_model_config", "bos_token_id", "cache_implementation", "do_sample", "eos_token_id", "max_length",
    "max_new_tokens", "pad_token_id", "temperature", "top_k", "top_p", "transformers_version", "use_cache",
))  # fmt: skip
"""Settings of a model that change nothing of a greedy answer; a penalty for repeating, for instance, would."""
DROPPED_AT = 0.8
"""Rows are dropped once so few of them go on: dropping copies what is left of the cache."""


def is_plain(model: Any) -> bool:
    """Whether a model's greedy answers are those of `greedy`; where not, it is left to `generate`."""
    known = model.get_base_model() if hasattr(model, "get_base_model") else model
    settings = known.generation_config.to_diff_dict() if known.generation_config else {}
    return inspect.signature(known.forward).parameters.keys() >= NEEDED and settings.keys() <= HARMLESS


@torch.inference_mode()  # type: ignore[untyped-decorator]
def greedy(
    model: Any, prompts: Sequence[Sequence[int]], pad: int, end: int, limit: int
) -> tuple[list[list[int]], float]:
    """The tokens of each answer, its end token among them if it ended, and seconds until the first tokens."""
    began = time.perf_counter()
    fed, mask = padded(prompts, pad, model.device, left=True)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    answers: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))  # which prompt each row of the batch belongs to
    cache: Any = None
    first = 0.0
    for step in range(limit):
        out = model(
            input_ids=fed, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        fed, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
        for row, token in zip(alive, fed[:, 0].tolist(), strict=True):
            if answers[row][-1:] != [end]:
                answers[row].append(token)
        first = first or time.perf_counter() - began
        going = [n for n, row in enumerate(alive) if answers[row][-1] != end]
        if not going or step + 1 == limit:
            break
        positions = positions[:, -1:] + 1
        if len(going) <= DROPPED_AT * len(alive):
            kept = torch.tensor(going, device=fed.device)
            cache.batch_select_indices(kept)
            fed, mask, positions, alive = fed[kept], mask[kept], positions[kept], [alive[n] for n in going]
        mask = torch.cat((mask, torch.ones_like(fed)), dim=1)
    return answers, first


def padded(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device | str, *, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of one length, and a mask that is 1 where there is something."""
    width = max(map(len, rows))
    gaps = [width - len(row) for row in rows]
    ids = [[pad] * gap + list(row) if left else [*row, *[pad] * gap] for row, gap in zip(rows, gaps, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) if left else [1] * (width - gap) + [0] * gap for gap in gaps]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
