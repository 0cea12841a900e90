"""One token a row, fast: the mathematics of model/transformer.py with weights and cache laid out for decoding.

At one token a row the transformer's time goes to launching small operations and to products that are repacked at every
call. Here the projections of a layer are joined, their weights are packed once, angles come from a table, and norms and
attention are compiled (kernels.py); a single row is stepped in one call. On a GPU the step is captured as a graph
(graphs.py). Tests hold every logit to the transformer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from l2.generate.graphs import Graphs
from l2.generate.kernels import HELD, PAGE, Kernels, Pair, RowStep, attend, paged, spans_of
from l2.generate.layers import Product, angles, kernels_of, layers_of, on_cpu, weights_of
from l2.generate.reading import read_prompts
from l2.generate.scoring import pad
from l2.model.cache import KVCache
from l2.model.transformer import Block, LanguageModel

COPIED_BYTES = 2**30  # larger weights are taken as they are: a copy would cost more memory than it saves time


class Decoder:
    """Rows of a preallocated cache that are written token by token; the first `n` rows given are the live ones."""

    def __init__(self, model: LanguageModel, rows: int, length: int) -> None:
        """Memory for `rows` rows of `length` tokens is asked for here, once."""
        config, cpu = model.config, on_cpu(model)
        self.model, self.length = model, length
        self.kernels = kernels_of(model)
        size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        alone = rows == 1 and self.kernels is not None  # a single row is decoded from the weights as they are
        copied = rows if cpu and not alone and size <= COPIED_BYTES else 0
        self.layers, self.head = layers_of(model, copied), Product(model.lm_head.weight, copied)
        self.angles = angles(config, length, model.device)
        # torch multiplies small batches of bf16 matrices at half the speed of fp32 on a CPU
        kept = torch.float32 if cpu and not self.kernels else model.dtype
        slots = paged(length) if self.kernels else length
        self.cache = KVCache(config, rows, slots, kept, model.device)
        self.row = self._row(self.kernels) if self.kernels else None
        self.spans = spans_of([1] * rows, slots // PAGE, config.n_kv_heads)
        self.graphs = None if cpu else Graphs(self._written, rows, length, config.vocab_size, model.device)

    def _row(self, kernels: Kernels) -> RowStep:
        """What steps a single row, from the model's own weights."""
        model, cache = self.model, self.cache
        blocks = (weights_of(cast(Block, block)) for block in model.model.layers)
        layers = [(*block, k, v) for block, k, v in zip(blocks, cache.k, cache.v, strict=True)]
        others = model.model.embed_tokens.weight, model.model.norm.weight, model.lm_head.weight
        return kernels.row(model.config, layers, (*others, *self.angles))

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[KVCache, Tensor]:
        """The keys and values of prompts, one row each, and the logits [rows, V] of what comes after them."""
        if self.kernels:
            cache, last_BD = read_prompts(self.model, self.kernels, prompts)
            return cache, self.model.head(last_BD)
        tokens_BT, lengths_B = pad(prompts, self.model.device)
        B, T = tokens_BT.shape
        cache = KVCache(self.model.config, B, T, self.model.dtype, self.model.device)
        positions_BT = torch.arange(T, device=self.model.device).expand(B, T)
        hidden_BTD = self.model.hidden(tokens_BT, positions_BT, cache=cache)
        last_BD = hidden_BTD[torch.arange(B, device=self.model.device), lengths_B - 1]
        return cache, self.model.head(last_BD)

    def fill(self, first: int, count: int, source: KVCache, row: int) -> None:
        """Copy a row of a prefilled cache into `count` rows of this one from `first` on."""
        used, to = min(source.length, self.cache.length), slice(first, first + count)
        self.cache.k[:, to, :, :used] = source.k[:, row, None, :, :used]
        self.cache.v[:, to, :, :used] = source.v[:, row, None, :, :used]

    def move(self, source: int, target: int, used: int) -> None:
        """Copy the first `used` slots of a row onto another."""
        slots = paged(used) if self.kernels else used
        self.cache.k[:, target, :, :slots] = self.cache.k[:, source, :, :slots]
        self.cache.v[:, target, :, :slots] = self.cache.v[:, source, :, :slots]

    def step(self, tokens: Sequence[int], lengths_B: np.ndarray) -> Tensor:
        """Write one token to each of the first B rows, which hold `lengths_B`; returns fp32 logits [B, V]."""
        longest = int(max(lengths_B))
        assert longest < self.length, "no room for another token"
        if self.row and len(tokens) == 1:
            return self.row(int(tokens[0]), longest)
        if self.graphs:
            return self.graphs(tokens, lengths_B, longest + 1)
        return self._written(torch.tensor(tokens), torch.from_numpy(lengths_B), longest + 1)

    def _written(self, tokens_B: Tensor, lengths_B: Tensor, used: int) -> Tensor:
        """`step` of ids on the model's device, where the longest row has `used` tokens after it at most."""
        B, model = len(tokens_B), self.model
        if self.kernels:
            self.spans[:B, HELD] = lengths_B
        x_BD = model.model.embed_tokens.weight[tokens_B]
        for number, layer in enumerate(self.layers):
            kept = self.cache.k[number], self.cache.v[number]

            def attend_(q_BX: Tensor, kv_BY: Pair, kept: Pair = kept) -> Tensor:
                if self.kernels:
                    heads = model.config.n_kv_heads
                    return self.kernels.attend(q_BX, kv_BY, self.angles, kept, heads, self.spans[:B])
                q, k, v = (part.unflatten(1, (-1, model.config.head_dim)) for part in (q_BX, *kv_BY))
                return attend(q, (k, v), self.angles, kept, lengths_B, used)

            x_BD = layer(x_BD, self._norm, attend_)
        return self.head(self._norm(x_BD, model.model.norm.weight)).float()

    def _norm(self, x_BD: Tensor, weight_D: Tensor) -> Tensor:
        eps = self.model.config.norm_eps
        return (
            self.kernels.norm(x_BD, weight_D, eps) if self.kernels else F.rms_norm(x_BD, x_BD.shape[1:], weight_D, eps)
        )
