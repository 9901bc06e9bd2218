"""Linear layers with any number of LoRA adapters; one attribute selects the active adapter.

PEFT's own layers compute the same sums, but adding an adapter to them first creates random matrices, and selecting one
visits all layers. The sums here and their order are PEFT's, so the answers are bit for bit the same for plain LoRA and
rsLoRA, and equal within rounding for DoRA (tests compare them).
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
    """The adapter that answers; None is the base model."""

    def __init__(self) -> None:
        self.adapter: str | None = None


class LoraLinear(nn.Module):  # type: ignore[misc]
    """A linear layer and the updates that adapters add to it."""

    def __init__(self, base: nn.Module, active: ActiveAdapter) -> None:
        super().__init__()
        self.base = base
        self.active = active
        self.updates: dict[str, LoraUpdate] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's own output plus the active adapter's update."""
        out: torch.Tensor = self.base(x)
        update = self.updates.get(self.active.adapter) if self.active.adapter else None
        return out if update is None else update.added(x, out, getattr(self.base, "bias", None))


class LoraUpdate:
    """One adapter's update of one layer: A (rank x in), B (out x rank), their scale, and DoRA's stretch (out)."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor, scale: float, stretch: torch.Tensor | None) -> None:
        self.a, self.b, self.scale, self.stretch = a, b, scale, stretch

    def added(self, x: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The output plus this update, in the output's own type."""
        update = linear(linear(x.to(self.a.dtype), self.a), self.b)
        if self.stretch is None:
            return (out + update * self.scale).to(out.dtype)
        bare = out if bias is None else out - bias
        return (out + ((self.stretch - 1) * bare + self.stretch * update * self.scale)).to(out.dtype)


class AdapterLayers:
    """The adapters of one model. Only the thread that runs the model may attach, detach and select them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.active = ActiveAdapter()
        self._layers: dict[str, LoraLinear] = {}
        self._layers_of: dict[str, list[LoraLinear]] = {}

    def attach(self, name: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Add an adapter. Raises AdapterError, and changes nothing, where it does not fit the model."""
        matrices: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            match = KEY.fullmatch(key.removeprefix(PREFIX))
            if match is None:
                raise AdapterError(
                    f"The adapter holds the tensor {key}, which does not belong to a LoRA.", "Train it again."
                )
            matrices.setdefault(match["module"], {})[match["part"]] = tensor
        updates = {module: self._update(module, tensors_of, config) for module, tensors_of in matrices.items()}
        self._layers_of[name] = [self._layer(module) for module in updates]
        for module, update in updates.items():
            self._layers[module].updates[name] = update

    def detach(self, name: str) -> None:
        """Remove an adapter; removing one that is not attached is not an error."""
        for layer in self._layers_of.pop(name, ()):
            layer.updates.pop(name, None)

    def _update(self, module: str, matrices: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> LoraUpdate:
        base = self._base(module)
        weight: torch.Tensor = getattr(base, "weight", torch.empty(0))
        # not from the weight, which is packed where quantised; transformers' Conv1D has the two swapped
        plain = isinstance(base, nn.Linear)
        shape = (base.out_features, base.in_features) if plain else tuple(reversed(weight.shape))
        if not matrices.keys() >= PARTS or shape != (matrices["B"].shape[0], matrices["A"].shape[1]):
            raise AdapterError(
                f"The adapter does not fit the base model's layer {module}.", "Train the adapter on this base model."
            )
        rank = matrices["A"].shape[0]
        alpha = _of_module(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        # half precision is widened, as in PEFT: sums of small values would lose their last bits
        a, b = (_on(matrices[part], weight.device) for part in "AB")
        stretch = None
        if "magnitude_vector" in matrices:
            if type(base) is not nn.Linear:
                raise AdapterError(
                    f"The adapter has DoRA on {module}, which is not a plain linear layer.", "Train it without DoRA."
                )
            whole = weight.to(a.dtype) + scale * (b @ a)
            stretch = _on(matrices["magnitude_vector"], weight.device).flatten() / torch.linalg.norm(whole, dim=1)
        return LoraUpdate(a, b, scale, stretch)

    def _base(self, module: str) -> nn.Module:
        if module in self._layers:
            return self._layers[module].base
        try:
            return self.model.get_submodule(module)
        except AttributeError as problem:
            raise AdapterError(
                f"The base model has no layer {module}.", "Train the adapter on this base model."
            ) from problem

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
    """A module's own value, found by the end of its name. PEFT reads regular expressions; a file's are not run here."""
    return next((value for name, value in pattern.items() if f".{module}".endswith(f".{name}")), otherwise)
