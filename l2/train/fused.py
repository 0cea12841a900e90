"""The transformer's mathematics as few walks through memory on a CPU, where a C++ compiler is at hand.

On a CPU, torch spends half of a training step beside the matrix products: casting, masking, rotating and norming, each
several walks through memory. Here each is one, in fused.cpp, and attention leaves out what the causal mask hides.
What is computed is what l2/model/transformer.py says; tests hold the two side by side.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from l2.files.compiled import compiled
from l2.model.checkpoint import AnyModel
from l2.model.transformer import Attention, LanguageModel, RMSNorm, SwiGLU, Where

SOURCE = Path(__file__).with_name("fused.cpp")
SCALARS = {torch.float32: "float", torch.bfloat16: "bf16"}
# sums may be taken in any order, so that they can be vectorised; -ffast-math would also flush denormals in all of torch
SUMS = ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]
BLOCK = 128  # queries whose scores are computed at once: the smaller, the more of the hidden half is left out
LONG = 2048  # context above which scores are too large to keep for the backward pass

POINTER, SIZE, INT, FLOAT = c_void_p, c_int64, c_int, c_float
ARGUMENTS = {
    "heads": [POINTER] * 4 + [SIZE] * 5 + [FLOAT, INT, INT],
    "softmax": [POINTER] * 3 + [SIZE] * 7 + [INT],
    "softmax_backward": [POINTER] * 3 + [SIZE] * 7 + [INT],
    "norm": [POINTER] * 4 + [SIZE] * 2 + [FLOAT, INT],
    "norm_backward": [POINTER] * 6 + [SIZE] * 2 + [INT],
    "swiglu": [POINTER] * 3 + [SIZE, INT],
    "swiglu_backward": [POINTER] * 5 + [SIZE, INT],
    "cross_entropy": [POINTER] * 3 + [SIZE] * 2 + [INT],
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
    """softmax(q·k / √C) · v from projections [B, T, heads · C] to [B, T, H · C].

    The queries of the heads that share a key/value head lie side by side, [B·K, T·G, C], so that a block of positions
    is one matrix, and a product with its keys serves all of them.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, where: Where, K: int, C: int) -> Tensor:
        B, T, X = q.shape
        G, dtype = X // C // K, q.dtype
        cos, sin = where.cos.contiguous(), where.sin.contiguous()
        fork_B2 = where.fork_B2
        first_BT = torch.arange(T) - where.positions_BT if fork_B2 is None else torch.zeros(B, T, dtype=torch.long)
        q_, k_, v_ = q.new_empty(B * K, T * G, C), k.new_empty(B * K, T, C), v.new_empty(B * K, T, C)
        call("heads", dtype, q, cos, sin, q_, B, T, K, G, C, C**-0.5, 0)
        call("heads", dtype, k, cos, sin, k_, B, T, K, 1, C, 1.0, 0)
        call("heads", dtype, v, None, None, v_, B, T, K, 1, C, 1.0, 0)
        out_, weights = torch.empty_like(q_), []
        for t in range(0, T, BLOCK):
            rows, end = slice(t * G, (t + BLOCK) * G), min(t + BLOCK, T)
            scores = torch.bmm(q_[:, rows], k_[:, :end].transpose(1, 2))
            call("softmax", dtype, scores, first_BT, fork_B2, B, T, K, G, (end - t) * G, end, t)
            torch.bmm(scores, v_[:, :end], out=out_[:, rows])
            weights.append(scores)
        out = torch.empty_like(q)
        call("heads", dtype, out_, None, None, out, B, T, K, G, C, 1.0, 1)
        ctx.save_for_backward(q_, k_, v_, cos, sin, first_BT, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        q_, k_, v_, cos, sin, first_BT, *weights = ctx.saved_tensors
        (B, T), (_, _, C), dtype = first_BT.shape, k_.shape, q_.dtype
        K, G = k_.shape[0] // B, q_.shape[1] // T
        dout_, dq_ = torch.empty_like(q_), torch.empty_like(q_)
        call("heads", dtype, dout.contiguous(), None, None, dout_, B, T, K, G, C, 1.0, 0)
        dk_, dv_ = torch.zeros_like(k_), torch.zeros_like(v_)
        for t, w in zip(range(0, T, BLOCK), weights, strict=True):
            rows, end = slice(t * G, (t + BLOCK) * G), min(t + BLOCK, T)
            dv_[:, :end].baddbmm_(w.transpose(1, 2), dout_[:, rows])
            dscores = torch.bmm(dout_[:, rows], v_[:, :end].transpose(1, 2))
            call("softmax_backward", dtype, w, dscores, first_BT, B, T, K, G, (end - t) * G, end, t)
            torch.bmm(dscores, k_[:, :end], out=dq_[:, rows])
            dk_[:, :end].baddbmm_(dscores.transpose(1, 2), q_[:, rows])
        dq, dk, dv = dout.new_empty(B, T, K * G * C), dout.new_empty(B, T, K * C), dout.new_empty(B, T, K * C)
        call("heads", dtype, dq_, cos, sin, dq, B, T, K, G, C, C**-0.5, 1)
        call("heads", dtype, dk_, cos, sin, dk, B, T, K, 1, C, 1.0, 1)
        call("heads", dtype, dv_, None, None, dv, B, T, K, 1, C, 1.0, 1)
        return dq, dk, dv, None, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        logits_NV, losses_N = hidden_ND @ weight_VD.T, hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        call("cross_entropy", logits_NV.dtype, logits_NV, targets_N, losses_N, *logits_NV.shape)
        ctx.save_for_backward(hidden_ND, weight_VD, logits_NV)  # which are their own gradient now
        return losses_N

    @staticmethod
    def backward(ctx: Any, dlosses_N: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_ND, weight_VD, grads_NV = ctx.saved_tensors
        scale_N1 = dlosses_N[:, None].to(hidden_ND.dtype)
        return (grads_NV @ weight_VD) * scale_N1, grads_NV.T @ (hidden_ND * scale_N1), None


class FusedNorm(RMSNorm):
    """RMSNorm, fused."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        out: Tensor = _Norm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return out


class FusedSwiGLU(SwiGLU):
    """SwiGLU, fused."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        gated = _Gated.apply(self.gate_proj(x_BTD), self.up_proj(x_BTD))  # type: ignore[no-untyped-call]
        out: Tensor = self.down_proj(gated)
        return out


class FusedAttention(Attention):
    """Attention, fused, for rows of whole documents; what else there is, torch does."""

    def forward(self, x_BTD: Tensor, where: Where) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        if not where.by_documents or where.asking(self.layer, x_BTD)[0] is not x_BTD or x_BTD.shape[1] > LONG:
            return super().forward(x_BTD, where)
        q, k, v = self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)
        mixed = _Attention.apply(q, k, v, where, self.kv_heads, self.head_dim)  # type: ignore[no-untyped-call]
        y_BTD: Tensor = self.o_proj(mixed)
        return y_BTD


class FusedLanguageModel(LanguageModel):
    """A LanguageModel whose losses are fused, see `cross_entropy`."""


def fuse(model: AnyModel) -> None:
    """Let `model` compute with fused.cpp from now on."""
    kinds = {
        RMSNorm: FusedNorm,
        SwiGLU: FusedSwiGLU,
        Attention: FusedAttention,
        LanguageModel: FusedLanguageModel,
    }
    for module in model.modules():
        module.__class__ = kinds.get(type(module), type(module))  # type: ignore[assignment]


def cross_entropy(model: LanguageModel, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Losses [N], in nats, of `targets_N` given hidden states [N, D]."""
    if isinstance(model, FusedLanguageModel):
        weight_VD = model.lm_head.weight
        losses: Tensor = _CrossEntropy.apply(hidden_ND, weight_VD, targets_N)  # type: ignore[no-untyped-call]
        return losses
    return F.cross_entropy(model.head(hidden_ND), targets_N, reduction="none")
