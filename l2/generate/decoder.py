"""One token a row, fast: the mathematics of model/transformer.py with weights laid out for decoding.

The transformer is written to be read and trained; at one token a row its time goes to launching small operations and to
products that are repacked at every call. Here the projections of a layer are joined, their weights are packed once,
angles come from a table, and norms and attention are compiled (kernels.py); a single row is stepped in one call. Tests
hold every logit to the transformer's.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from l2.generate.kernels import Kernels, RowStep, attend, kernels
from l2.generate.scoring import pad
from l2.model.transformer import Block, KVCache, LanguageModel, rotary

COPIED_BYTES = 2**30  # larger weights are taken as they are on a CPU: a copy would cost more memory than it saves time


class Product:
    """x · Wᵀ, and what follows it in one operation where oneDNN has one."""

    def __init__(self, weight: Tensor, rows: int, pack: bool) -> None:
        """`rows`: of the x that is expected; it decides the layout alone."""
        self.weight = weight
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows) if pack else None

    def __call__(self, x: Tensor) -> Tensor:
        """[B, in] to [B, out]."""
        if self.packed is None:
            return F.linear(x, self.weight)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")
        return out

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x · Wᵀ + other."""
        if self.packed is None:
            return F.linear(x, self.weight) + other
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed, None, "add")
        return out

    def silu(self, x: Tensor) -> Tensor:
        """silu(x · Wᵀ)."""
        if self.packed is None:
            return F.silu(F.linear(x, self.weight))
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "swish", [], "")
        return out

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """(x · Wᵀ) ⊙ other."""
        if self.packed is None:
            return F.linear(x, self.weight) * other
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed, None, "mul")
        return out


@functools.cache
def packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of this kind on this CPU: bf16 and fp16 need instructions that not all have."""
    try:
        Product(torch.zeros(16, 16, dtype=dtype), 2, pack=True)(torch.zeros(2, 16, dtype=dtype))
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


class _Layer:
    """The products of one block; `copy` joins the projections of queries, keys and values into one."""

    def __init__(self, given: LayerWeights, rows: int, pack: bool, copy: bool) -> None:
        three = given.q, given.k, given.v
        joined = [torch.cat(three)] if copy else three
        self.projections = [Product(weight, rows, pack) for weight in joined]
        self.out, self.gate, self.up, self.down = (
            Product(weight, rows, pack) for weight in (given.out, given.gate, given.up, given.down)
        )
        self.norms = given.norm, given.mlp_norm

    def qkv(self, h_BD: Tensor) -> Tensor:
        """Queries, keys and values side by side, [B, (H + 2K) · C]."""
        parts = [product(h_BD) for product in self.projections]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class Weights:
    """A model's weights as they stand at this moment, laid out for decoding `rows` rows at once."""

    def __init__(self, model: LanguageModel, rows: int, length: int, copy: bool) -> None:
        trunk, config = model.model, model.config
        pack = copy and model.device.type == "cpu" and packs(model.dtype)
        self.layers = [_Layer(weights_of(cast(Block, block)), rows, pack, copy) for block in trunk.layers]
        self.embedding, self.norm = trunk.embed_tokens.weight, trunk.norm.weight
        self.head = Product(model.lm_head.weight, rows, pack)
        cos, sin = rotary(torch.arange(length, device=model.device)[None], config)
        half = config.head_dim // 2
        self.cos_SF, self.sin_SF = cos[0, 0, :, :half].contiguous(), sin[0, 0, :, :half].contiguous()


class Decoder:
    """Rows of a preallocated cache that are written token by token; the first `n` rows given are the live ones."""

    def __init__(self, model: LanguageModel, rows: int, length: int) -> None:
        """Memory for `rows` rows of `length` tokens is asked for here, once."""
        config, cpu = model.config, model.device.type == "cpu"
        self.model, self.eps = model, config.norm_eps
        self.kernels = kernels(model.dtype, config.head_dim, config.n_heads // config.n_kv_heads) if cpu else None
        size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        alone = rows == 1 and self.kernels is not None  # a single row is decoded from the weights as they are
        self.weights = Weights(model, rows, length, copy=not alone and (size <= COPIED_BYTES or not cpu))
        # torch multiplies small batches of bf16 matrices at half the speed of fp32 on a CPU
        kept = torch.float32 if cpu and not self.kernels else model.dtype
        self.cache = KVCache(config, rows, length, kept, model.device)
        self.row = self._row(self.kernels) if self.kernels else None

    def _row(self, kernels: Kernels) -> RowStep:
        """What steps a single row, from the model's own weights."""
        model, w, cache = self.model, self.weights, self.cache
        blocks = (weights_of(cast(Block, block)) for block in model.model.layers)
        layers = [(*block, k, v) for block, k, v in zip(blocks, cache.k, cache.v, strict=True)]
        return kernels.row(model.config, layers, (w.norm, model.lm_head.weight, w.cos_SF, w.sin_SF))

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[KVCache, Tensor]:
        """The keys and values of prompts, one row each, and the logits [rows, V] of what comes after them."""
        tokens_BT, lengths_B = pad(prompts, self.model.device)
        B, T = tokens_BT.shape
        cache = KVCache(self.model.config, B, T, self.model.dtype, self.model.device)
        positions_BT = torch.arange(T, device=self.model.device).expand(B, T)
        hidden_BTD = self.model.hidden(tokens_BT, positions_BT, cache=cache)
        last = hidden_BTD[torch.arange(B, device=self.model.device), lengths_B - 1]
        return cache, self.model.head(last)

    def fill(self, first: int, source: KVCache, rows: Tensor) -> None:
        """Copy `rows` of a prefilled cache into the rows of this one from `first` on."""
        to = slice(first, first + len(rows))
        self.cache.k[:, to, :, : source.length] = source.k[:, rows].to(self.cache.k.dtype)
        self.cache.v[:, to, :, : source.length] = source.v[:, rows].to(self.cache.v.dtype)

    def move(self, sources: Sequence[int], targets: Sequence[int], used: int) -> None:
        """Copy the first `used` slots of rows onto others."""
        self.cache.k[:, targets, :, :used] = self.cache.k[:, sources, :, :used]
        self.cache.v[:, targets, :, :used] = self.cache.v[:, sources, :, :used]

    def step(self, tokens_B: Tensor, lengths_B: Tensor) -> Tensor:
        """Write one token to each of the first B rows, which hold `lengths_B`; returns fp32 logits [B, V]."""
        w = self.weights
        x_BD = w.embedding[tokens_B]
        if self.kernels:
            longest = int(lengths_B.max())
            assert longest < self.cache.length, "no room for another token"
            if self.row and len(tokens_B) == 1:
                return self.row(x_BD.float(), longest)
        attend_ = self.kernels.attend if self.kernels else attend
        for number, layer in enumerate(w.layers):
            k_RKSC, v_RKSC = self.cache.k[number], self.cache.v[number]
            qkv_BX = layer.qkv(self._norm(x_BD, layer.norms[0]))
            x_BD = layer.out.plus(attend_(qkv_BX, w.cos_SF, w.sin_SF, k_RKSC, v_RKSC, lengths_B), x_BD)
            h_BD = self._norm(x_BD, layer.norms[1])
            x_BD = layer.down.plus(layer.up.times(h_BD, layer.gate.silu(h_BD)), x_BD)
        return w.head(self._norm(x_BD, w.norm)).float()

    def _norm(self, x_BD: Tensor, weight_D: Tensor) -> Tensor:
        if self.kernels:
            return self.kernels.norm(x_BD, weight_D, self.eps)
        return F.rms_norm(x_BD, x_BD.shape[1:], weight_D, self.eps)
