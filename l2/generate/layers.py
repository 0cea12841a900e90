"""The weights of a model laid out for products that are fast with few rows or many, and a block that uses them.

The transformer is written to be read and trained; without gradients a block is a handful of operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from l2.generate.kernels import Kernels, Pair, kernels
from l2.model.config import ModelConfig
from l2.model.transformer import Block, LanguageModel, ScalarModel, rotary


class Product:
    """x · Wᵀ, and what follows it in one operation where oneDNN has one."""

    def __init__(self, weight: Tensor, rows: int = 0) -> None:
        """rows: of the x that is expected, for which the weights are then copied into oneDNN's layout; 0: as they are.

        On CPUs that are not Intel's, oneDNN multiplies fp32 up to twice as fast as MKL, which torch's own product
        calls, and nowhere is it slower by much: so it is taken without measuring, and the same command computes with
        the same sums each time (LOG.md).
        """
        self.fused = weight.device.type == "cpu" and packs(weight.dtype)
        packed = self.fused and rows
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows) if packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """[B, in] to [B, out]."""
        return _alone(x, self.weight, "none") if self.fused else F.linear(x, self.weight)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x · Wᵀ + other."""
        return _with(x, other, self.weight, "add") if self.fused else F.linear(x, self.weight) + other

    def silu(self, x: Tensor) -> Tensor:
        """silu(x · Wᵀ)."""
        return _alone(x, self.weight, "swish") if self.fused else F.silu(F.linear(x, self.weight))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """(x · Wᵀ) ⊙ other."""
        return _with(x, other, self.weight, "mul") if self.fused else F.linear(x, self.weight) * other


def _alone(x: Tensor, weight: Tensor, then: str) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, then, [], "")
    return out


def _with(x: Tensor, other: Tensor, weight: Tensor, then: str) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, weight, None, then)
    return out


@functools.cache
def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies such weights on this CPU: bf16 and fp16 need instructions that not all have."""
    try:
        weight = torch.ops.mkldnn._reorder_linear_weight(torch.zeros(16, 16, dtype=dtype), 2)
        _alone(torch.zeros(2, 16, dtype=dtype), weight, "none")
    except (RuntimeError, AttributeError):  # without the instructions, or without oneDNN
        return False
    return True


class LayerWeights(NamedTuple):
    """The weights of a block, as `Layer` in decode.cpp orders them."""

    norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    mlp_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


def weights_of(block: Block) -> LayerWeights:
    """The weights of a block as they are, not copied."""
    attention, mlp = block.self_attn, block.mlp
    products = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
    q, k, v, out, gate, up, down = (part.weight for part in (*products, mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    norm, mlp_norm = block.input_layernorm.weight, block.post_attention_layernorm.weight
    return LayerWeights(norm, q, k, v, out, mlp_norm, gate, up, down)


Norm = Callable[[Tensor, Tensor], Tensor]
Attend = Callable[[Tensor, Pair], Tensor]


class Layer:
    """One block over any N tokens, whose attention is given."""

    def __init__(self, given: LayerWeights, rows: int = 0) -> None:
        """rows: as of `Product`; with it the projections of queries, keys and values are joined into one."""
        self.widths = [len(given.q), len(given.k), len(given.v)]
        three = given.q, given.k, given.v
        self.projections = [Product(weight, rows) for weight in ([torch.cat(three)] if rows else three)]
        self.out, self.gate, self.up, self.down = (
            Product(weight, rows) for weight in (given.out, given.gate, given.up, given.down)
        )
        self.norms = given.norm, given.mlp_norm

    def __call__(self, x_ND: Tensor, norm: Norm, attend: Attend, asked_A: Tensor | None = None) -> Tensor:
        """[N, D] to [N, D], or to [A, D] for those tokens alone that are asked for."""
        h_ND = norm(x_ND, self.norms[0])
        parts = [product(h_ND) for product in self.projections]
        q, k, v = parts[0].split(self.widths, dim=-1) if len(parts) == 1 else parts
        mixed = attend(q, (k, v))
        if asked_A is not None:
            x_ND, mixed = x_ND[asked_A], mixed[asked_A]
        x_ND = self.out.plus(mixed, x_ND)
        h_ND = norm(x_ND, self.norms[1])
        return self.down.plus(self.up.times(h_ND, self.gate.silu(h_ND)), x_ND)


def layers_of(model: LanguageModel | ScalarModel, rows: int = 0) -> list[Layer]:
    """The blocks of a model with its weights as they stand at this moment; rows: as of `Layer`."""
    return [Layer(weights_of(cast(Block, block)), rows) for block in model.model.layers]


def kernels_of(model: LanguageModel | ScalarModel) -> Kernels | None:
    """What is compiled for a model of this shape, on a CPU."""
    config = model.config
    return kernels(model.dtype, config.head_dim, config.n_heads // config.n_kv_heads) if on_cpu(model) else None


def on_cpu(model: LanguageModel | ScalarModel) -> bool:
    """Whether the weights are there."""
    return model.device.type == "cpu"


def angles(config: ModelConfig, length: int, device: torch.device) -> Pair:
    """cos and sin [length, C / 2] in fp32 of the angles of each position."""
    cos, sin = rotary(torch.arange(length, device=device)[None], config)
    half = config.head_dim // 2
    return cos[0, 0, :, :half].contiguous(), sin[0, 0, :, :half].contiguous()
