"""One token a row, fast: the mathematics of model/transformer.py with weights laid out for decoding.

The transformer is written to be read and trained; at one token a row its time goes to launching small operations and to
products that are repacked at every call. Here the projections of a layer are joined, their weights are packed once,
angles come from a table, and keys and values stand where a batched product reads them without a copy. Tests hold every
logit to the transformer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

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


class _Layer:
    """The weights of one block; `copy` joins the projections of queries, keys and values into one."""

    def __init__(self, block: Block, rows: int, pack: bool, copy: bool) -> None:
        attention, mlp = block.self_attn, block.mlp
        three = attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight
        joined = [torch.cat(three)] if copy else three
        self.projections = [Product(weight, rows, pack) for weight in joined]
        self.out = Product(attention.o_proj.weight, rows, pack)
        self.gate = Product(mlp.gate_proj.weight, rows, pack)
        self.up = Product(mlp.up_proj.weight, rows, pack)
        self.down = Product(mlp.down_proj.weight, rows, pack)
        self.norms = block.input_layernorm.weight, block.post_attention_layernorm.weight

    def qkv(self, h_BD: Tensor) -> Tensor:
        """Queries, keys and values side by side, [B, (H + 2K) · C]."""
        parts = [product(h_BD) for product in self.projections]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class Weights:
    """A model's weights as they stand at this moment, laid out for decoding `rows` rows at once."""

    def __init__(self, model: LanguageModel, rows: int) -> None:
        trunk, config = model.model, model.config
        size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        cpu, copy = model.device.type == "cpu", size <= COPIED_BYTES or model.device.type != "cpu"
        # a single row is faster from the weights as they are
        pack = cpu and copy and rows > 1 and torch.backends.mkldnn.is_available()
        self.layers = [_Layer(cast(Block, block), rows, pack, copy) for block in trunk.layers]
        self.embedding, self.norm = trunk.embed_tokens.weight, trunk.norm.weight
        self.head = Product(model.lm_head.weight, rows, pack)
        cos, sin = rotary(torch.arange(config.max_seq_len, device=model.device)[None], config)
        half = config.head_dim // 2
        # x · cos + roll(x) · sin turns each pair (i, i + C/2) when the first half of the sines is negative
        self.cos_SC = cos[0, 0].to(model.dtype)
        self.sin_SC = torch.cat((-sin[0, 0, :, :half], sin[0, 0, :, half:]), dim=-1).to(model.dtype)


class Decoder:
    """Rows of a preallocated cache that are written token by token; the first `n` rows given are the live ones."""

    def __init__(self, model: LanguageModel, rows: int, length: int) -> None:
        """Memory for `rows` rows of `length` tokens is asked for here, once."""
        config = model.config
        self.model, self.weights = model, Weights(model, rows)
        self.heads, self.kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        # torch multiplies small batches of bf16 matrices at half the speed of fp32 on a CPU
        kept = torch.float32 if model.device.type == "cpu" else model.dtype
        self.cache = KVCache(config, rows, length, kept, model.device)
        self.slots_S = torch.arange(length, device=model.device)
        # row r and head h of a layer's cache start at (r · K + h) · length of its flat view
        self.starts_BK = torch.arange(rows * self.kv_heads, device=model.device).view(rows, self.kv_heads) * length

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
        w, eps = self.weights, self.model.config.norm_eps
        B, H, K, C = len(tokens_B), self.heads, self.kv_heads, self.head_dim
        used = int(lengths_B.max()) + 1
        unseen_BS = self.slots_S[:used] > lengths_B[:, None]
        bias_B1S = torch.zeros(unseen_BS.shape, device=tokens_B.device).masked_fill_(unseen_BS, float("-inf"))[:, None]
        cos_B1C, sin_B1C = w.cos_SC[lengths_B][:, None], w.sin_SC[lengths_B][:, None]
        places = (self.starts_BK[:B] + lengths_B[:, None]).flatten()
        x_BD = w.embedding[tokens_B]
        for number, layer in enumerate(w.layers):
            h_BD = F.rms_norm(x_BD, x_BD.shape[1:], layer.norms[0], eps)
            qkv = layer.qkv(h_BD).view(B, H + 2 * K, C)
            qk = qkv[:, : H + K]
            qk = torch.addcmul(qk * cos_B1C, qk.roll(C // 2, -1), sin_B1C)
            k_LC, v_LC = self.cache.k[number].view(-1, C), self.cache.v[number].view(-1, C)
            k_LC.index_copy_(0, places, qk[:, H:].reshape(B * K, C).to(k_LC.dtype))
            v_LC.index_copy_(0, places, qkv[:, H + K :].reshape(B * K, C).to(v_LC.dtype))
            o_BD = self._attend(qk[:, :H], number, used, bias_B1S).to(x_BD.dtype)
            x_BD = layer.out.plus(o_BD, x_BD)
            h_BD = F.rms_norm(x_BD, x_BD.shape[1:], layer.norms[1], eps)
            x_BD = layer.down.plus(layer.up.times(h_BD, layer.gate.silu(h_BD)), x_BD)
        return w.head(F.rms_norm(x_BD, x_BD.shape[1:], w.norm, eps)).float()

    def _attend(self, q_BHC: Tensor, number: int, used: int, bias_B1S: Tensor) -> Tensor:
        """Attention of one query a row over the first `used` slots of layer `number`, [B, H · C]."""
        B, H, C = q_BHC.shape
        K = self.kv_heads
        k, v = self.cache.k[number, :B, :, :used], self.cache.v[number, :B, :, :used]
        if q_BHC.is_cuda:
            mask = bias_B1S[:, None].to(q_BHC.dtype)
            out = F.scaled_dot_product_attention(q_BHC[:, :, None], k, v, attn_mask=mask, enable_gqa=H != K)
            return out.reshape(B, H * C)
        q = (q_BHC.to(k.dtype) * C**-0.5).reshape(B * K, H // K, C)
        scores = torch.bmm(q, k.flatten(0, 1).transpose(1, 2))
        scores.view(B, H, used).add_(bias_B1S)
        return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(B, H * C)
