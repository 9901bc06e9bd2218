"""The untrained model and the optimizer of its matrices."""

from __future__ import annotations

from typing import Any

from academy.models.seed.make.shape import HEADS, HIDDEN, INTERMEDIATE, LAYERS, POSITIONS, VOCABULARY


def new_model(tokenizer: Any, seed: int) -> Any:
    """An untrained model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=INTERMEDIATE,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.04,
        )
    )


class Muon:
    """Muon for the matrices inside the model: momentum, orthogonalised by Newton-Schulz, in float32."""

    def __init__(self, parameters: list[Any], momentum: float = 0.95, decay: float = 0.05) -> None:
        import torch

        self.momentum, self.decay = momentum, decay
        shapes: dict[tuple[int, ...], list[Any]] = {}
        for parameter in parameters:
            shapes.setdefault(tuple(parameter.shape), []).append(parameter)
        self.groups = [(group, torch.zeros(len(group), *shape)) for shape, group in shapes.items()]

    def step(self, rate: float) -> None:
        """One update of all matrices."""
        import torch

        with torch.no_grad():
            for group, velocity in self.groups:
                gradient = torch.stack([parameter.grad for parameter in group])
                velocity.lerp_(gradient, 1 - self.momentum)
                update = orthogonal(gradient.lerp(velocity, self.momentum))
                update *= rate * max(1.0, update.shape[-2] / update.shape[-1]) ** 0.5
                for parameter, change in zip(group, update, strict=True):
                    parameter.mul_(1 - rate * self.decay).sub_(change)
                    parameter.grad = None


def orthogonal(matrices: Any, rounds: int = 5) -> Any:
    """For a stack of matrices, the nearest orthogonal ones, approximately."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x
