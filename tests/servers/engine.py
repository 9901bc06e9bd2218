"""The seed model with adapters, token by token: the engine behind the test servers.

It loads any adapter, as an engine that knows no digests does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar


@dataclass(frozen=True)
class Token:
    """One token of an answer; `finish` on the last one."""

    text: str
    logprob: float
    finish: str = ""


class Engine:
    """One base model and any adapters. Weights may be perturbed by a share of their spread, or cut to a few bits."""

    def __init__(self, base: Path, *, perturbed: float = 0.0, bits: int = 0) -> None:
        disable_progress_bar()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        self.model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        self._lock = threading.Lock()
        if perturbed:
            torch.manual_seed(1)
            with torch.no_grad():
                for weight in self.model.parameters():
                    weight.add_(torch.randn_like(weight) * weight.std() * perturbed)

        if bits:
            with torch.no_grad():
                for weight in self.model.parameters():
                    if weight.ndim == 2:  # blocks of 32, as GGUF has them
                        blocks = weight.view(-1, 32)
                        step = blocks.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
                        blocks.copy_((blocks / step.clamp(min=1e-9)).round() * step)

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter's files as they are."""
        with self._lock:
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(str(folder), adapter_name=name)
            else:
                self.model = PeftModel.from_pretrained(self.model, str(folder), adapter_name=name)
            self.model.eval()

    def unload(self, name: str) -> None:
        """Forget an adapter."""
        with self._lock:
            names = [adapter for adapter in self.model.peft_config if adapter != name]
            if names:
                self.model.set_adapter(names[0])
                self.model.delete_adapter(name)
            else:
                self.model = self.model.unload()

    def stream(
        self, adapter: str | None, prompt: Sequence[int], limit: int, temperature: float = 0.0, top_p: float = 1.0,
        seed: int | None = None, stop: Sequence[str] = (),
    ) -> Iterator[Token]:  # fmt: skip
        """Tokens with their text and natural log-probability; text after a stop string is cut."""
        dice = torch.Generator().manual_seed(seed) if seed is not None else torch.Generator()
        end, cache, inputs = self.tokenizer.eos_token_id, None, torch.tensor([list(prompt)])
        tokens: list[int] = []
        sent = ""
        for n in range(limit):
            with self._lock, torch.inference_mode(), self._as(adapter):
                out = self.model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, logits = out.past_key_values, out.logits[0, -1].float()
            token = _drawn(logits, temperature, top_p, dice)
            logprob = float(torch.log_softmax(logits, dim=-1)[token])
            tokens.append(token)
            inputs = torch.tensor([[token]])
            whole = self.tokenizer.decode(tokens, skip_special_tokens=True)
            cut = min((place for text in stop if (place := whole.find(text)) >= 0), default=-1)
            finish = "stop" if cut >= 0 or token == end else "length" if n + 1 == limit else ""
            sure = cut if cut >= 0 else len(whole) - (0 if finish else _held_back(whole, stop))
            text, sent = whole[len(sent) : sure], whole[: max(sure, len(sent))]
            yield Token(text, logprob, finish)
            if finish:
                return

    def _as(self, adapter: str | None) -> Any:
        if not isinstance(self.model, PeftModel):
            return nullcontext()
        if adapter is None:
            return self.model.disable_adapter()
        self.model.set_adapter(adapter)
        return nullcontext()


def _held_back(answer: str, stop: Sequence[str]) -> int:
    """The number of characters at the end that may begin a stop string, which engines do not send yet."""
    return max((n for text in stop for n in range(1, len(text)) if answer.endswith(text[:n])), default=0)


def _drawn(logits: torch.Tensor, temperature: float, top_p: float, dice: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    chances, order = torch.softmax(logits / temperature, dim=-1).sort(descending=True)
    nucleus = chances.cumsum(0) - chances < top_p
    return int(order[torch.multinomial(chances * nucleus, 1, generator=dice)])
