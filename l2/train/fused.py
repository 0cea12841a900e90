"""The transformer's mathematics as few walks through memory on a CPU, where a C++ compiler is at hand.

On a CPU, torch spends half of a training step beside the matrix products: casting, masking, rotating and norming, each
several walks through memory. Here each is one, in fused.cpp; attention stays in the cache and leaves out what nobody
sees.
What is computed is what l2/model/transformer.py says; tests hold the two side by side.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from l2.files.compiled import SUMS, compiled
from l2.model.checkpoint import AnyModel
from l2.model.transformer import Attention, LanguageModel, Linear, RMSNorm, SwiGLU, Where

M = TypeVar("M", bound=AnyModel)

SOURCE = Path(__file__).with_name("fused.cpp")
SCALARS = {torch.float32: "float", torch.bfloat16: "bf16"}

POINTER, SIZE, INT, FLOAT = c_void_p, c_int64, c_int, c_float
ARGUMENTS = {
    "attention": [POINTER] * 11 + [SIZE] * 5 + [INT],
    "attention_backward": [POINTER] * 14 + [SIZE] * 5 + [INT],
    "norm": [POINTER] * 4 + [SIZE] * 2 + [FLOAT, INT],
    "norm_backward": [POINTER] * 6 + [SIZE] * 2 + [INT],
    "swiglu": [POINTER] * 3 + [SIZE, INT],
    "swiglu_backward": [POINTER] * 5 + [SIZE, INT],
    "cross_entropy": [POINTER] * 4 + [SIZE] * 2 + [INT],
}


@functools.cache
def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """fused.cpp compiled for `dtype`, or None where it can't be."""
    if dtype not in SCALARS:
        return None
    built = compiled(SOURCE, [*SUMS, "-fopenmp", f"-DSCALAR={SCALARS[dtype]}"])
    if built is not None:
        for name, types in ARGUMENTS.items():
            getattr(built, name).argtypes = types
    return built


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float | None) -> None:
    """Call a function of fused.cpp, with as many threads as torch has."""
    assert all(x.is_contiguous() for x in arguments if isinstance(x, Tensor))
    plain = (x.data_ptr() if isinstance(x, Tensor) else x for x in arguments)
    getattr(library(dtype), name)(*plain, torch.get_num_threads())


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x · Wᵀ, [..., in] to [..., out]. torch leaves fp32 to MKL, which oneDNN outruns on CPUs that are not Intel's."""
    if x.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return F.linear(x, weight)
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return product(dy, weight.T), dy.flatten(0, -2).T @ x.flatten(0, -2)  # the latter is no faster in oneDNN


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y, scales = torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=torch.float32)
        call("norm", x.dtype, x, weight, y, scales, scales.numel(), x.shape[-1], eps)
        ctx.save_for_backward(x, weight, scales)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scales = ctx.saved_tensors
        dx, dweights = torch.empty_like(x), weight.new_empty(torch.get_num_threads(), len(weight), dtype=torch.float32)
        call("norm_backward", x.dtype, x, weight, scales, dy.contiguous(), dx, dweights, scales.numel(), len(weight))
        return dx, dweights.sum(0).to(weight.dtype), None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        y = torch.empty_like(gate)
        call("swiglu", gate.dtype, gate, up, y, y.numel())
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        call("swiglu_backward", gate.dtype, gate, up, dy.contiguous(), dgate, dup, gate.numel())
        return dgate, dup


class _Attention(torch.autograd.Function):
    """softmax(q·k / √C) · v from projections [B, T, heads · C] to [B, T, H · C]; of queries [A, H · C] to the same."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, where: Where, K: int, C: int) -> Tensor:
        B, T, _ = k.shape
        heads = q.shape[-1] // C
        ctx.shape = B, T, K, heads // K, C
        places: tuple[Tensor | None, Tensor | None] = None, None
        if where.wanted_BT is not None and q.dim() == 2:
            places = where.places_A, where.wanted_BT.sum(1).cumsum(0)
        angles = where.cos.contiguous(), where.sin.contiguous()
        given = q, k, v, *angles, where.positions_BT.contiguous(), where.fork_B2, *places
        out, logs = torch.empty_like(q), q.new_empty(*q.shape[:-1], heads, dtype=torch.float32)
        call("attention", q.dtype, *given, out, logs, *ctx.shape)
        ctx.save_for_backward(*given, logs)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        saved = ctx.saved_tensors
        dq, dk, dv = (torch.empty_like(x) for x in saved[:3])
        call("attention_backward", dout.dtype, *saved, dout.contiguous(), dq, dk, dv, *ctx.shape)
        return dq, dk, dv, None, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        logits_NV, losses_N = product(hidden_ND, weight_VD), hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        call("cross_entropy", logits_NV.dtype, logits_NV, targets_N, losses_N, None, *logits_NV.shape)
        ctx.save_for_backward(hidden_ND, weight_VD, logits_NV)  # which are their own gradient now
        return losses_N

    @staticmethod
    def backward(ctx: Any, dlosses_N: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_ND, weight_VD, grads_NV = ctx.saved_tensors
        scale_N1 = dlosses_N[:, None].to(hidden_ND.dtype)
        return product(grads_NV, weight_VD.T) * scale_N1, grads_NV.T @ (hidden_ND * scale_N1), None


class FusedLinear(Linear):
    """Linear, by `product`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if x.dtype != torch.float32:
            return super().forward(x)
        out: Tensor = _Linear.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return out


class FusedNorm(RMSNorm):
    """RMSNorm, fused."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        out: Tensor = _Norm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return out


class FusedSwiGLU(SwiGLU):
    """SwiGLU, fused."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        gated = _Gated.apply(self.gate_proj(x), self.up_proj(x))  # type: ignore[no-untyped-call]
        out: Tensor = self.down_proj(gated)
        return out


class FusedAttention(Attention):
    """Attention, fused, for rows of whole documents; what else there is, torch does."""

    def forward(self, x_BTD: Tensor, where: Where) -> Tensor:
        """[B, T, D] to what is wanted of [B, T, D]."""
        if not where.by_documents:
            return super().forward(x_BTD, where)
        q, k, v = self.q_proj(where.wanted(self.layer, x_BTD)), self.k_proj(x_BTD), self.v_proj(x_BTD)
        mixed = _Attention.apply(q, k, v, where, self.kv_heads, self.head_dim)  # type: ignore[no-untyped-call]
        y: Tensor = self.o_proj(mixed)
        return y


class FusedLanguageModel(LanguageModel):
    """A LanguageModel whose losses are fused, see `cross_entropy`."""


def fuse(model: M, dtype: torch.dtype | None = None) -> M:
    """`model` itself, which computes with fused.cpp from now on, on a CPU where that can be compiled.

    dtype: in which it computes, where that is another than its weights' (those that FSDP or `gathered` cast).
    """
    if model.device.type != "cpu" or library(dtype or model.dtype) is None:
        return model
    kinds = {
        Linear: FusedLinear,
        RMSNorm: FusedNorm,
        SwiGLU: FusedSwiGLU,
        Attention: FusedAttention,
        LanguageModel: FusedLanguageModel,
    }
    for module in model.modules():
        module.__class__ = kinds.get(type(module), type(module))  # type: ignore[assignment]
    return model


def cross_entropy(model: LanguageModel, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Losses [N], in nats, of `targets_N` given hidden states [N, D]."""
    if isinstance(model, FusedLanguageModel):
        weight_VD = model.lm_head.weight
        losses: Tensor = _CrossEntropy.apply(hidden_ND, weight_VD, targets_N)  # type: ignore[no-untyped-call]
        return losses
    return F.cross_entropy(model.head(hidden_ND), targets_N, reduction="none")


@torch.no_grad()
def measured(model: LanguageModel, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """The losses [N] of `cross_entropy`, to the last bit, and the entropies [N] there, in nats; no gradient."""
    if isinstance(model, FusedLanguageModel):
        logits_NV = product(hidden_ND, model.lm_head.weight)
        losses_N, entropies_N = hidden_ND.new_empty(2, len(hidden_ND), dtype=torch.float32)
        call("cross_entropy", logits_NV.dtype, logits_NV, targets_N, losses_N, entropies_N, *logits_NV.shape)
        return losses_N, entropies_N
    logits_NV = model.head(hidden_ND)
    log_probs = logits_NV.log_softmax(-1)
    return F.cross_entropy(logits_NV, targets_N, reduction="none"), -(log_probs.exp() * log_probs).sum(-1)
