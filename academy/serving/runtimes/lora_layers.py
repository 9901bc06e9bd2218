"""Linear layers with any number of LoRA adapters beside them; which one speaks is one attribute.

PEFT's own layers do the same sums. They are not used for answering because putting a new adapter in costs them fresh
random matrices first, and choosing among those that are there walks over all layers. The sums and their order are
PEFT's, so the answers are bit for bit the same (plain LoRA, rsLoRA and DoRA; tests compare them).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from academy.errors import AdapterError

PREFIX = "base_model.model."
KEY = re.compile(r"(?P<module>.+)\.lora_(?P<part>A|B|magnitude_vector)(?:\.weight)?")
PARTS = frozenset("AB")


class ActiveAdapter:
    """Which adapter speaks; None is the base model."""

    def __init__(self) -> None:
        self.adapter: str | None = None


class LoraLinear(nn.Module):  # type: ignore[misc]
    """A linear layer and what the adapters add to it."""

    def __init__(self, base: nn.Module, active: ActiveAdapter) -> None:
        super().__init__()
        self.base = base
        self.active = active
        self.parts: dict[str, LoraUpdate] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's own output and the chosen adapter's part."""
        out: torch.Tensor = self.base(x)
        part = self.parts.get(self.active.adapter) if self.active.adapter else None
        return out if part is None else part.added(x, out, getattr(self.base, "bias", None))


class LoraUpdate:
    """What one adapter adds to one layer: A (rank x in), B (out x rank), their scale, and DoRA's stretch (out)."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor, scale: float, stretch: torch.Tensor | None) -> None:
        self.a, self.b, self.scale, self.stretch = a, b, scale, stretch

    def added(self, x: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The output with this part in it, in the output's own type."""
        part = linear(linear(x.to(self.a.dtype), self.a), self.b)
        if self.stretch is None:
            return (out + part * self.scale).to(out.dtype)
        bare = out if bias is None else out - bias
        return (out + ((self.stretch - 1) * bare + self.stretch * part * self.scale)).to(out.dtype)


class AdapterLayers:
    """The adapters of one model. Only the thread that runs the model may attach, detach and choose."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.active = ActiveAdapter()
        self._layers: dict[str, LoraLinear] = {}
        self._of: dict[str, list[LoraLinear]] = {}

    def attach(self, name: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Put an adapter beside the others. Raises AdapterError, and changes nothing, where it does not fit."""
        found: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            match = KEY.fullmatch(key.removeprefix(PREFIX))
            if match is None:
                raise AdapterError(f"The adapter holds {key}, which is no part of a LoRA.", "Train it again.")
            found.setdefault(match["module"], {})[match["part"]] = tensor
        parts = {module: self._part(module, given, config) for module, given in found.items()}
        self._of[name] = [self._layer(module) for module in parts]
        for module, part in parts.items():
            self._layers[module].parts[name] = part

    def detach(self, name: str) -> None:
        """Take an adapter away; one that is not there is no error."""
        for layer in self._of.pop(name, ()):
            layer.parts.pop(name, None)

    def _part(self, module: str, given: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> LoraUpdate:
        base = self._base(module)
        weight: torch.Tensor = getattr(base, "weight", torch.empty(0))
        # by its own account, since quantised weights are packed; transformers' Conv1D has them the other way round
        plain = isinstance(base, nn.Linear)
        shape = (base.out_features, base.in_features) if plain else tuple(reversed(weight.shape))
        if not given.keys() >= PARTS or shape != (given["B"].shape[0], given["A"].shape[1]):
            raise AdapterError(f"The adapter does not fit the base model's layer {module}.", "Train it on this one.")
        rank = given["A"].shape[0]
        alpha = _of_module(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        # half precision is widened, as PEFT does: sums of small parts lose their ends otherwise
        a, b = (_on(given[part], weight.device) for part in "AB")
        stretch = None
        if "magnitude_vector" in given:
            if type(base) is not nn.Linear:
                raise AdapterError(f"The adapter has DoRA on {module}, which is no plain layer.", "Train it without.")
            whole = weight.to(a.dtype) + scale * (b @ a)
            stretch = _on(given["magnitude_vector"], weight.device).flatten() / torch.linalg.norm(whole, dim=1)
        return LoraUpdate(a, b, scale, stretch)

    def _base(self, module: str) -> nn.Module:
        if module in self._layers:
            return self._layers[module].base
        try:
            return self.model.get_submodule(module)
        except AttributeError as problem:
            raise AdapterError(f"The base model has no layer {module}.", "Train the adapter on this one.") from problem

    def _layer(self, module: str) -> LoraLinear:
        if module not in self._layers:
            layer = LoraLinear(self._base(module), self.active)
            self.model.set_submodule(module, layer)
            self._layers[module] = layer
        return self._layers[module]


def _on(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    kind = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
    return tensor.to(device=device, dtype=kind)


def _of_module(pattern: Mapping[str, float], module: str, otherwise: float) -> float:
    """A value for some modules, by the end of their names. PEFT reads patterns; a file's patterns are not run here."""
    return next((value for name, value in pattern.items() if f".{module}".endswith(f".{name}")), otherwise)
