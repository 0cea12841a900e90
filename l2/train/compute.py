"""What a step computes with: the weights as they are or cast once a step, on one device or shared out over ranks."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from l2.model.checkpoint import AnyModel
from l2.model.transformer import Attention, Block, SwiGLU, Where
from l2.train.fused import fuse
from l2.train.ranks import share_out

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Sums = dict[str, Tensor | float]


class HasSums(Protocol):
    """See `loop.Objective`."""

    def sums(self, model: Any, tensors: Any) -> Sums:
        """What a micro-batch sums up to."""


class Compute(nn.Module):
    """The objective on a copy of `model` in `dtype`, whose gradients go to the fp32 weights of `model`.

    In fp32 the copy holds the weights themselves. In bf16 they are cast once a step instead of once a product, the
    gradients of each micro-batch are added up in fp32, and the optimizer never sees a rounded weight.
    """

    def __init__(
        self,
        model: AnyModel,
        objective: HasSums,
        dtype: torch.dtype,
        recompute: str = "none",
        compiled: bool = False,
        mesh: DeviceMesh | None = None,
        fusing: bool = True,
    ) -> None:
        """recompute: what of a layer is computed again in the backward pass, see `recompute_layers`; compiled: each
        layer by torch.compile; mesh: of the ranks over which the weights of `model` are cut, which then has no copy;
        fusing: with fused.cpp on a CPU, where it can be compiled."""
        super().__init__()
        self.objective = objective
        memo = {id(w): w for w in model.parameters()} if dtype == model.dtype else {}
        self.model = model if mesh is not None else deepcopy(model, memo).to(dtype)
        if fusing and not compiled:
            fuse(self.model, dtype)
        recompute_layers(self.model, recompute)
        if compiled:
            self.model.model.register_forward_pre_hook(_build_mask)
            for layer in self.model.model.layers:
                layer.compile()
        if mesh is not None:
            share_out(self, list(model.model.layers), mesh, dtype)
        masters = dict(model.named_parameters())
        pairs = [(masters[name], weight) for name, weight in self.model.named_parameters()]
        self._pairs = [(master, weight) for master, weight in pairs if master is not weight]

    def forward(self, tensors: Any) -> Sums:
        """The objective's sums over a micro-batch."""
        return self.objective.sums(self.model, tensors)

    @torch.no_grad()
    def refresh(self) -> None:
        """Cast the weights: before a step, and before a validation."""
        if self._pairs:
            masters, weights = zip(*self._pairs, strict=True)
            torch._foreach_copy_(list(weights), list(masters))

    @torch.no_grad()
    def collect(self) -> None:
        """Add the gradients of a micro-batch to those of the fp32 weights."""
        for master, weight in self._pairs:
            if weight.grad is not None:
                master.grad = weight.grad.float() if master.grad is None else master.grad.add_(weight.grad)
                weight.grad = None


def _build_mask(trunk: nn.Module, given: tuple[Tensor, Where]) -> None:
    """Before the layers: the first, compiled, would stop to build it, and be another graph than the rest."""
    _ = given[1].mask


def recompute_layers(model: AnyModel, how: str) -> None:
    """Let layers forget what their backward pass needs and compute it again, for memory (Chen et al. 2016).

    "full" keeps a layer's input alone; "selective" forgets within attention and feed-forward (ours: the paper's L1
    kept what is costly to recompute, §2.2 there).
    """
    kinds: tuple[type[nn.Module], ...] = {"none": (), "selective": (Attention, SwiGLU), "full": (Block,)}[how]
    for module in _of(model, kinds):
        plain = module.forward
        module.forward = _forgetful(plain)  # type: ignore[method-assign]


def _of(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(module, kinds))


def _forgetful(forward: Any) -> Any:
    def again(*arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments)
        return checkpoint(forward, *arguments, use_reentrant=False)

    return again
