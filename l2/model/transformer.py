"""The Llama 2 transformer (paper §2.2): pre-norm RMSNorm, RoPE, grouped-query attention, SwiGLU, no biases.

Shape letters: B batch, T query positions, S key positions, D model width, H query heads, K key/value heads,
G query heads per key/value head (H = K·G), C channels of one head, F feed-forward width, V vocabulary,
A places whose output is wanted, of all rows.
Sub-modules carry the names of the Hugging Face layout, so a state dict is a checkpoint without renaming.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2.model.cache import KVCache
from l2.model.config import ModelConfig


class Linear(nn.Linear):
    """x · Wᵀ. The weight is zero until it is loaded, or drawn by `new_model`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """No draw: torch's own costs a second of imports on the meta device, where `load_model` builds."""
        self.weight.detach().zero_()


class Embedding(nn.Embedding):
    """A vector for each id, zero until it is loaded, or drawn by `new_model`."""

    def reset_parameters(self) -> None:
        """No draw, see `Linear`."""
        self.weight.detach().zero_()


class RMSNorm(nn.Module):
    """x / rms(x) · w, computed in fp32 (Zhang & Sennrich 2019)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D] in the same dtype."""
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight


def frequencies(config: ModelConfig, device: torch.device | str = "cpu") -> Tensor:
    """Radians a position [C/2] of each pair of channels: theta^(-2i/C) (Su et al. 2021), scaled as the config asks."""
    exponents = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.int64).float() / config.head_dim
    plain, scaling = 1.0 / config.rope_theta**exponents, config.rope_scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    waves = scaling.original_context * plain / (2 * math.pi)  # in the original context
    kept = ((waves - scaling.low) / (scaling.high - scaling.low)).clamp(0.0, 1.0)
    return (1.0 - kept) * plain / scaling.factor + kept * plain


def rotary(positions_BT: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and sin [B, 1, T, C] in fp32 of the angle of each pair of channels, told twice: see `rotate`."""
    angles = (positions_BT.float()[:, None, :, None] * frequencies(config, positions_BT.device)).repeat(1, 1, 1, 2)
    return angles.cos(), angles.sin()


def rotate(x_BHTC: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + C/2) of a head by its angle: the Hugging Face order of channels."""
    first, second = x_BHTC.chunk(2, dim=-1)
    return (x_BHTC * cos + torch.cat((-second, first), dim=-1) * sin).to(x_BHTC.dtype)


LONG = 512 * 512  # scores of a head, above which they are never held all at once


def attend(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, mask: Tensor) -> Tensor:
    """softmax(q·k / √C) · v with G query heads sharing each key/value head; mask [B or 1, 1, T, S] bool.

    Two plain products: on CPUs faster to train than the fused kernel, until the table of scores is too large to hold.
    """
    B, H, T, C = q_BHTC.shape
    K, S = k_BKSC.shape[1:3]
    if q_BHTC.is_cuda or T * S > LONG:
        return F.scaled_dot_product_attention(q_BHTC, k_BKSC, v_BKSC, attn_mask=mask, enable_gqa=H != K)
    q = (q_BHTC * C**-0.5).reshape(B, K, (H // K) * T, C)
    scores = torch.matmul(q, k_BKSC.mT).view(B, K, H // K, T, S).masked_fill(~mask[:, :, None], -math.inf)
    weights = scores.float().softmax(dim=-1).to(v_BKSC.dtype).view(B, K, (H // K) * T, S)
    return torch.matmul(weights, v_BKSC).view(B, H, T, C)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions (paper §2.2, A.2.1)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.kv_heads, self.head_dim = layer, config.n_heads, config.n_kv_heads, config.head_dim
        self.q_proj = Linear(config.dim, self.heads * self.head_dim)
        self.k_proj = Linear(config.dim, self.kv_heads * self.head_dim)
        self.v_proj = Linear(config.dim, self.kv_heads * self.head_dim)
        self.o_proj = Linear(self.heads * self.head_dim, config.dim)

    def forward(self, x_BTD: Tensor, where: Where) -> Tensor:
        """[B, T, D] to what is wanted of [B, T, D]."""
        k, v = (x.unflatten(2, (self.kv_heads, -1)).transpose(1, 2) for x in (self.k_proj(x_BTD), self.v_proj(x_BTD)))
        k = rotate(k, where.cos, where.sin)
        if where.cache is not None:
            k, v = where.cache.put(self.layer, k, v, where.positions_BT, where.mask.shape[-1])
        q_BTX = where.spread(self.layer, self.q_proj(where.wanted(self.layer, x_BTD)))
        q = q_BTX.unflatten(2, (self.heads, self.head_dim)).transpose(1, 2)
        out = attend(rotate(q, where.cos, where.sin), k, v, where.mask)
        y: Tensor = self.o_proj(where.wanted(self.layer, out.transpose(1, 2).flatten(2)))
        return y


class SwiGLU(nn.Module):
    """down(silu(gate(x)) ⊙ up(x)) (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.dim, config.ffn_dim)
        self.up_proj = Linear(config.dim, config.ffn_dim)
        self.down_proj = Linear(config.ffn_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """h = x + attention(norm(x)); out = h + feed-forward(norm(h))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x_BTD: Tensor, where: Where) -> Tensor:
        """[B, T, D] to what is wanted of [B, T, D]."""
        h = where.wanted(self.self_attn.layer, x_BTD) + self.self_attn(self.input_layernorm(x_BTD), where)
        out: Tensor = h + self.mlp(self.post_attention_layernorm(h))
        return out


class Where:
    """What every layer needs to know of the positions: their angles, who sees whom, the cache, and what is wanted."""

    def __init__(
        self,
        config: ModelConfig,
        positions_BT: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
        wanted_BT: Tensor | None = None,
    ) -> None:
        self.positions_BT, self.cache, self.by_documents = positions_BT, cache, mask is None and cache is None
        self.cos, self.sin = rotary(positions_BT, config)
        self.fork_B2: Tensor | None = None  # see forks.py
        self.wanted_BT, self.last = wanted_BT, config.n_layers - 1
        self.places_A = None if wanted_BT is None else wanted_BT.flatten().nonzero().flatten()
        if mask is not None:
            self.mask = mask

    @cached_property
    def mask(self) -> Tensor:
        """bool [B or 1, 1, T, S], True where a query may look: built when first asked for, and fused.cpp never asks."""
        at = torch.arange(self.positions_BT.shape[1], device=self.positions_BT.device)
        if self.cache is not None:
            slots = torch.arange(int(self.positions_BT.max()) + 1, device=at.device)
            return (slots <= self.positions_BT[:, :, None])[:, None]
        back_TT = at[:, None] - at  # how far a query looks back: to the start of its document
        return ((back_TT >= 0) & (back_TT <= self.positions_BT[:, :, None]))[:, None]

    def wanted(self, layer: int, x_BTD: Tensor) -> Tensor:
        """What of x a layer goes on with: the last with the wanted places alone, [A, D], the others with all."""
        if self.places_A is None or layer != self.last:
            return x_BTD
        return x_BTD.flatten(0, 1).index_select(0, self.places_A)

    def spread(self, layer: int, x: Tensor) -> Tensor:
        """What `wanted` gave at its places among zeros, [B, T, D]."""
        if self.places_A is None or layer != self.last:
            return x
        B, T = self.positions_BT.shape
        return x.new_zeros(B * T, x.shape[1]).index_copy(0, self.places_A, x).view(B, T, -1)


class Trunk(nn.Module):
    """Embedding, blocks and the final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, tokens_BT: Tensor, where: Where) -> Tensor:
        """Token ids [B, T] to hidden states [B, T, D], or of the wanted places [A, D]."""
        x = where.wanted(-1, self.embed_tokens(tokens_BT))  # all, but in a model without layers
        for layer in self.layers:
            x = layer(x, where)
        out: Tensor = self.norm(x)
        return out


class _Headed(nn.Module):
    """The trunk and how to call it; the two kinds of head below differ in their last layer alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return self.model.norm.weight.dtype

    def hidden(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        wanted_BT: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] after the final norm; with wanted_BT (bool) those of its places alone, [A, D].

        positions_BT: 0, 1, 2, ... in every row unless given; required with a cache, whose slots they are.
        mask: bool [B or 1, 1, T, S], True where a query may look; unless given, back to position 0, where its document
        starts. Padding on the right needs no mask: a causal model never looks there.
        wanted_BT spares the last layer all but keys and values of the other places.
        """
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
        out: Tensor = self.model(tokens_BT, Where(self.config, positions_BT, mask, cache, wanted_BT))
        return out


class LanguageModel(_Headed):
    """The policy: a distribution over the next token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.lm_head = Linear(config.dim, config.vocab_size)
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] to fp32 logits [..., V]."""
        logits: Tensor = self.lm_head(hidden)
        return logits.float()

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Token ids [B, T] to fp32 logits [B, T, V]. Arguments as in `hidden`."""
        return self.head(self.hidden(tokens_BT, positions_BT, mask, cache))


class ScalarModel(_Headed):
    """A reward or value model: the head gives one number a position (paper §3.2.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.score = Linear(config.dim, 1)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Token ids [B, T] to fp32 scores [B, T]; the reward of an answer is the score at its last token."""
        scores: Tensor = self.score(self.hidden(tokens_BT, positions_BT, mask, cache))
        return scores.float().squeeze(-1)
