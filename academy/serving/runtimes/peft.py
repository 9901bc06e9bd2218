"""A Runtime in this process for PEFT adapters, on a GPU or CPUs: batches of requests, for examinations."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria
from transformers.utils.logging import disable_progress_bar

from academy.adapters.adapter import Adapter, open_adapter
from academy.arena.suites.base import Reply, as_messages
from academy.errors import AdapterError
from academy.models.base_model import BaseModel
from academy.models.chat_template import ChatTemplate
from academy.serving.runtimes.base import Admit, Request
from academy.serving.runtimes.decoding import BATCH, CACHE_TOKENS, greedy, is_plain, padded
from academy.serving.runtimes.lora_layers import AdapterLayers
from academy.serving.runtimes.scoring import as_answers, as_texts, scores
from academy.store.ledger import BASE

CANARY_TOKENS = 48


class PeftRuntime:
    """A Runtime: one base model and any number of adapters."""

    def __init__(self, base: BaseModel, admit: Admit | None = None) -> None:
        """`admit` decides what may be loaded; without it the files are checked, but not who made them."""
        self.base = base
        self._admit = admit or partial(open_adapter, base_digest=base.digest)
        self._model, self.device = open_model(base)
        self._plain = is_plain(self._model)
        self._layers = AdapterLayers(self._model)
        self._adapters: dict[str, Adapter] = {}
        self._templates: dict[str, ChatTemplate] = {BASE: base.open_template()}

    def load(self, adapter: Path) -> str:
        """Check an adapter and load it, from the same bytes that were checked."""
        content = self._admit(adapter)
        record = content.adapter
        if record.digest not in self._adapters:
            self._layers.attach(record.digest, content.config, content.tensors)
            self._templates[record.digest] = ChatTemplate(self._templates[BASE].tokenizer, content.template)
            self._adapters[record.digest] = record
        return record.digest

    def generate(self, requests: Sequence[Request], adapter: str, max_new_tokens: int) -> list[str]:
        """The texts of `replies`."""
        return [reply.text for reply in self.replies(requests, adapter, max_new_tokens)]

    def replies(self, requests: Sequence[Request], adapter: str, max_new_tokens: int) -> list[Reply]:
        """Greedy answers, in the order of the requests."""
        template = self._template(adapter)
        prompts = [template.prompt(as_messages(request)) for request in requests]
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
        pad, end = template.tokenizer.pad_token_id, template.tokenizer.eos_token_id
        self._layers.active.adapter = self._name(adapter)
        answering = greedy if self._plain else _generated
        rows, firsts = answering(self._model, [prompts[i] for i in order], pad, end, max_new_tokens)
        replies = {}
        for i, row, first in zip(order, rows, firsts, strict=True):
            raw = template.raw_answer(row)
            text = template.visible(raw)
            replies[i] = Reply(
                text=text, tokens=len(row), stopped=row[-1:] == [end], first=first, raw=raw if raw != text else ""
            )
        return [replies[i] for i in range(len(prompts))]

    def loglikelihoods(self, pairs: Sequence[tuple[Request, str]], adapter: str, *, raw: bool = False) -> list[float]:
        """The log-probability of each continuation as the answer to a request, or after an unrendered text (`raw`).

        Raw pairs are encoded as in lm-eval. A continuation's end token is not counted.
        """
        template = self._template(adapter)
        if raw:
            token_pairs = as_texts(template, [(str(request), continuation) for request, continuation in pairs])
        else:
            token_pairs = as_answers(
                template, [(as_messages(request), continuation) for request, continuation in pairs]
            )
        self._layers.active.adapter = self._name(adapter)
        return scores(self._model, token_pairs, template.tokenizer.pad_token_id, self.base.context)

    def verify(self, adapter: str) -> None:
        """Answer the canaries of the adapter's manifest again. Raises AdapterError where an answer differs."""
        if adapter == BASE:
            return
        canaries = self._adapters[adapter].manifest.canaries
        replies = self.replies([canary.prompt for canary in canaries], adapter, CANARY_TOKENS)
        for canary, reply in zip(canaries, replies, strict=True):
            text = reply.raw or reply.text
            if text != canary.answer:
                raise AdapterError(
                    f"The adapter {adapter[:12]} does not answer as it did after its training: "
                    f"'{canary.prompt}' gave '{text}' instead of '{canary.answer}'.",
                    "It is not served. Check for another base model or chat template, or train again.",
                )

    def _template(self, adapter: str) -> ChatTemplate:
        if adapter not in self._templates:
            raise AdapterError(f"The adapter {adapter[:12]} is not loaded.", "Load it first.")
        return self._templates[adapter]

    @staticmethod
    def _name(adapter: str) -> str | None:
        return None if adapter == BASE else adapter


def open_model(base: BaseModel) -> tuple[Any, str]:
    """The base model in memory, and its device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    disable_progress_bar()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with base.unchanged() as folder:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, local_files_only=True, use_safetensors=True
        ).to(device)
    return model.eval(), device


def _generated(
    model: Any, prompts: list[list[int]], pad: int, end: int, limit: int
) -> tuple[list[list[int]], list[float | None]]:
    """The answers of `greedy`, by transformers' own generation with the model's own settings."""
    settings = GenerationConfig(max_new_tokens=limit, do_sample=False, pad_token_id=pad, eos_token_id=end)
    rows: list[list[int]] = []
    firsts: list[float | None] = []
    for batch in _in_batches(prompts, limit):
        clock = _FirstToken()
        ids, mask = padded(batch, pad, model.device, left=True)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=mask, generation_config=settings, stopping_criteria=[clock]
            )  # fmt: skip
        tokens = out[:, ids.shape[1] :].tolist()
        rows += [row[: row.index(end) + 1] if end in row else row for row in tokens]
        firsts += [clock.seconds] * len(batch)
    return rows, firsts


def _in_batches(prompts: list[list[int]], limit: int) -> Iterator[list[list[int]]]:
    """Split prompts in their order into batches of at most BATCH prompts and CACHE_TOKENS tokens."""
    batch: list[list[int]] = []
    for prompt in prompts:
        if batch and (len(batch) == BATCH or (len(batch) + 1) * (len(prompt) + limit) > CACHE_TOKENS):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


class _FirstToken(StoppingCriteria):  # type: ignore[misc]
    """Measures when a batch has its first token; never stops the generation."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.seconds: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        if self.seconds is None:
            self.seconds = time.perf_counter() - self._began
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
