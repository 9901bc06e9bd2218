"""PEFT in this process, on a GPU or on CPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria
from transformers.utils.logging import disable_progress_bar

from academy.arena.suite import Reply
from academy.base_model import BaseModel
from academy.errors import AdapterError
from academy.habitat.adapter import Adapter, Opened, open_adapter
from academy.ledger import BASE
from academy.serving.greedy import greedy, is_plain, padded
from academy.serving.runtime import Request
from academy.serving.scoring import as_answers, as_texts, scores
from academy.template import ChatTemplate, Message

BATCH = 64
CACHE_TOKENS = 32_768
"""What a batch may hold at most, prompts and answers together: long conversations go in smaller batches."""
CANARY_TOKENS = 48


class PeftRuntime:
    """A Runtime: one base model, any number of adapters, each request answered by the one it names."""

    def __init__(self, base: BaseModel, admit: Callable[[Path], Opened] | None = None) -> None:
        """`admit` reads and checks what is loaded; without it the files are checked, and not who made them."""
        self.base = base
        self._admit = admit or partial(open_adapter, base_digest=base.digest)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        disable_progress_bar()
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            base.path, dtype=dtype, trust_remote_code=False, use_safetensors=True
        ).to(self.device)
        self._model.eval()
        self._plain = is_plain(self._model)
        self._adapters: dict[str, Adapter] = {}
        self._templates: dict[str, ChatTemplate] = {BASE: ChatTemplate.of(base.path)}

    def load(self, adapter: Path) -> str:
        """Check an adapter's files and load it beside the others, from the very bytes that were checked."""
        opened = self._admit(adapter)
        found = opened.adapter
        if found.digest not in self._adapters:
            config = LoraConfig(**{**opened.config, "inference_mode": True})
            try:
                if isinstance(self._model, PeftModel):
                    self._model.add_adapter(found.digest, config)
                else:
                    self._model = PeftModel(self._model, config, adapter_name=found.digest)
                set_peft_model_state_dict(self._model, dict(opened.tensors), adapter_name=found.digest)
            except (RuntimeError, ValueError) as problem:  # PEFT's words for modules and shapes that are not there
                raise AdapterError(
                    f"The adapter {found.digest[:12]} does not fit the base model.", "Train it on this one."
                ) from problem
            self._model.eval()
            self._templates[found.digest] = ChatTemplate.of(self.base.path, text=opened.template)
            self._adapters[found.digest] = found
        return found.digest

    def generate(self, requests: Sequence[Request], adapter: str, max_new_tokens: int) -> list[str]:
        """The texts of `replies`."""
        return [reply.text for reply in self.replies(requests, adapter, max_new_tokens)]

    def replies(self, requests: Sequence[Request], adapter: str, max_new_tokens: int) -> list[Reply]:
        """Greedy answers in batches of similar length. A request is a text, or a conversation that ends with one."""
        template = self._template(adapter)
        prompts = [template.prompt(as_messages(request)) for request in requests]
        found: list[Reply | None] = [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
        for batch in _in_batches(order, [len(prompt) + max_new_tokens for prompt in prompts]):
            for i, reply in zip(
                batch, self._batch([prompts[i] for i in batch], adapter, template, max_new_tokens), strict=True
            ):
                found[i] = reply
        return [reply for reply in found if reply is not None]

    def loglikelihoods(self, pairs: Sequence[tuple[Request, str]], adapter: str, *, raw: bool = False) -> list[float]:
        """The log-probability of each continuation: as the answer to a request, or after a text as it stands (`raw`).

        Raw pairs are encoded as lm-eval encodes them. A continuation's end token is not counted.
        """
        template = self._template(adapter)
        if raw:
            encoded = as_texts(template, [(str(request), continuation) for request, continuation in pairs])
        else:
            encoded = as_answers(template, [(as_messages(request), continuation) for request, continuation in pairs])
        with self._as(adapter):
            return scores(self._model, encoded, template.tokenizer.pad_token_id, self.base.context)

    def verify(self, adapter: str) -> None:
        """The canaries of the adapter's manifest, answered again here."""
        if adapter == BASE:
            return
        canaries = self._adapters[adapter].manifest.canaries
        said = self.generate([canary.prompt for canary in canaries], adapter, CANARY_TOKENS)
        for canary, text in zip(canaries, said, strict=True):
            if text != canary.answer:
                raise AdapterError(
                    f"The adapter {adapter[:12]} does not answer as it did when it was trained: "
                    f"'{canary.prompt}' gave '{text}' instead of '{canary.answer}'.",
                    "It is not served. Train again, or look for another base model or template.",
                )

    def _template(self, adapter: str) -> ChatTemplate:
        if adapter not in self._templates:
            raise AdapterError(f"The adapter {adapter[:12]} is not loaded.", "Load it first.")
        return self._templates[adapter]

    @contextmanager
    def _as(self, adapter: str) -> Iterator[None]:
        """Let the model be what the name says."""
        if isinstance(self._model, PeftModel) and adapter == BASE:
            with self._model.disable_adapter():
                yield
            return
        if adapter != BASE:
            self._model.set_adapter(adapter)
        yield

    def _batch(self, prompts: list[list[int]], adapter: str, template: ChatTemplate, limit: int) -> list[Reply]:
        pad, end = template.tokenizer.pad_token_id, template.tokenizer.eos_token_id
        with self._as(adapter):
            rows, first = (greedy if self._plain else _generated)(self._model, prompts, pad, end, limit)
        texts = template.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [
            Reply(text=text.strip(), tokens=len(row), stopped=row[-1:] == [end], first=first)
            for row, text in zip(rows, texts, strict=True)
        ]


def as_messages(request: Request) -> list[Message]:
    """A request as a conversation."""
    return [{"role": "user", "content": request}] if isinstance(request, str) else list(request)


def _in_batches(order: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Numbers in their order, from the shortest on: at most BATCH at a time, and of CACHE_TOKENS together."""
    batch: list[int] = []
    for n in order:
        if batch and (len(batch) == BATCH or (len(batch) + 1) * sizes[n] > CACHE_TOKENS):
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch


def _generated(
    model: Any, prompts: list[list[int]], pad: int, end: int, limit: int
) -> tuple[list[list[int]], float | None]:
    """The same as `greedy`, by transformers' own generation with the model's own settings."""
    clock = _FirstToken()
    ids, mask = padded(prompts, pad, model.device, left=True)
    settings = GenerationConfig(max_new_tokens=limit, do_sample=False, pad_token_id=pad, eos_token_id=end)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=settings, stopping_criteria=[clock]
        )  # fmt: skip
    rows = out[:, ids.shape[1] :].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows], clock.seconds


class _FirstToken(StoppingCriteria):  # type: ignore[misc]
    """Stops nothing; notes when a batch had its first token."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.seconds: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        if self.seconds is None:
            self.seconds = time.perf_counter() - self._began
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
