"""AdamW as the paper sets it, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from l2.files.errors import L2Error
from l2.model.checkpoint import whole
from l2.train.ranks import slice_like


def adamw(model: nn.Module, *, weight_decay: float = 0.1) -> torch.optim.AdamW:
    """AdamW with β (0.9, 0.95) and ε 1e-5 (paper §2.2); weight decay on matrices only (ours: the paper is silent)."""
    weights = [w for w in model.parameters() if w.requires_grad]
    groups = [
        {"params": [w for w in weights if w.dim() >= 2], "weight_decay": weight_decay},
        {"params": [w for w in weights if w.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-5, fused=True)


def take_step(optimizer: torch.optim.Optimizer, weights: Iterable[Tensor], lr: float, clip: float = 1.0) -> float:
    """Clip the gradients to norm `clip` (paper §2.2), update, clear them; returns the norm before clipping.

    Raises L2Error, and leaves the weights as they are, for gradients that are no numbers.
    """
    norm = clip_gradients(weights, lr, clip)
    apply(optimizer, lr)
    return norm


def clip_gradients(weights: Iterable[Tensor], lr: float, clip: float) -> float:
    """Clip the gradients to norm `clip`; returns the norm before. Raises L2Error for gradients that are no numbers."""
    norm = float(whole(nn.utils.clip_grad_norm_(weights, clip)))
    if not math.isfinite(norm):
        raise L2Error(f"the norm of the gradients is {norm}: training has diverged; try a lower --lr (now {lr:g})")
    return norm


def apply(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Update the weights at learning rate `lr`, and clear the gradients."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as {weight.exp_avg: tensor, ...}, whole and on the CPU, for a safetensors file."""
    return {
        f"{name}.{key}": whole(value)
        for name, weight in model.named_parameters()
        for key, value in optimizer.state.get(weight, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    weights = dict(model.named_parameters())
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition(".")
        weight = weights[name]
        # fused AdamW keeps its step count beside the weight
        optimizer.state[weight][key] = slice_like(value, weight).clone()
