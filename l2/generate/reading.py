"""Reading whole texts without gradients: no padding, common beginnings once, the last block for what is asked alone.

All tokens of a batch stand in one long row; the compiled attention (kernels.py) knows who follows whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, takewhile

import numpy as np
import torch
from torch import Tensor

from l2.generate.kernels import ASKED, COUNT, HELD, PAGE, PARENT, Kernels, Pair, paged, spans_of
from l2.generate.layers import angles, layers_of
from l2.model.transformer import KVCache, LanguageModel, ScalarModel

SHARED = 16  # tokens that several texts must begin with, for these to be read once


def common_prefix(rows: Sequence[Sequence[int]]) -> Sequence[int]:
    """What all rows begin with, up to the last but one token of the shortest."""
    least, most = min(rows, key=tuple), max(rows, key=tuple)  # where these two agree, so do those between
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(least, most, strict=False)))
    return least[: min(same, min(map(len, rows)) - 1)]


class Plan:
    """Texts as spans, the last of each being what it shares with no other (kernels.py: spans_of)."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        """texts: sorted, so that those which begin alike stand side by side; each has a token at least."""
        self.tokens: list[int] = []
        self.counts: list[int] = []
        self.asked: list[int] = []  # the end of each text
        self.parents: list[int] = []
        self._grow(texts, 0, 0, -1)

    def _grow(self, texts: Sequence[Sequence[int]], start: int, depth: int, parent: int) -> None:
        """Spans for `texts` from `start` on, which is the end of `parent`; they begin with the same `depth` tokens."""
        for _, alike in groupby(texts, key=lambda text: text[depth]):
            some = list(alike)
            same = len(common_prefix(some))
            if len(some) > 1 and same - start >= SHARED:
                self._add(some[0][start:same], parent, asked=0)
                self._grow(some, same, same, len(self.counts) - 1)
            else:
                going = [text for text in some if len(some) > 1 and len(text) > depth + 1]
                for text in some[: len(some) - len(going)]:
                    self._add(text[start:], parent, asked=1)
                if going:
                    self._grow(going, start, depth + 1, parent)

    def _add(self, tokens: Sequence[int], parent: int, asked: int) -> None:
        self.tokens.extend(tokens)
        self.counts.append(len(tokens))
        self.asked.append(asked)
        self.parents.append(parent)


def read(
    model: LanguageModel | ScalarModel, kernels: Kernels, tokens: Sequence[int], spans: np.ndarray, cache: KVCache
) -> Tensor:
    """Hidden states [A, D] after the final norm, of the last token of each of the `spans` that ask for it.

    The keys and values of all of them go to the pages that `spans` name of `cache`; one of a single layer is used for
    each layer in turn.
    """
    config = model.config
    reach: list[int] = []  # tokens up to the end of each span
    for count, held, parent in spans[:, [COUNT, HELD, PARENT]].tolist():
        reach.append(held + count + (reach[parent] if parent >= 0 else 0))
    table = angles(config, max(reach), model.device)
    asked_A = torch.from_numpy(spans[:, COUNT].cumsum()[spans[:, ASKED] > 0] - 1)
    every = spans.copy()
    every[:, ASKED] = every[:, COUNT]
    x_ND = model.model.embed_tokens.weight[torch.tensor(tokens)]
    layers = layers_of(model)
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        kept = cache.k[number % len(cache.k)], cache.v[number % len(cache.v)]

        def attend(q_NX: Tensor, kv_NY: Pair, kept: Pair = kept, last: bool = last) -> Tensor:
            return kernels.attend(q_NX, kv_NY, table, kept, config.n_kv_heads, spans if last else every)

        x_ND = layer(x_ND, lambda x, w: kernels.norm(x, w, config.norm_eps), attend, asked_A if last else None)
    if not layers:
        x_ND = x_ND[asked_A]
    return kernels.norm(x_ND, model.model.norm.weight, config.norm_eps)


def read_prompts(model: LanguageModel, kernels: Kernels, prompts: Sequence[Sequence[int]]) -> tuple[KVCache, Tensor]:
    """The keys and values of prompts, one row each, in whole pages, and the hidden states [B, D] at their ends."""
    config, lengths = model.config, [len(prompt) for prompt in prompts]
    slots = paged(max(lengths))
    spans = spans_of(lengths, slots // PAGE, config.n_kv_heads)
    cache = KVCache(config, len(prompts), slots, model.dtype, model.device)
    return cache, read(model, kernels, [token for prompt in prompts for token in prompt], spans, cache)


def read_ends(model: LanguageModel | ScalarModel, kernels: Kernels, texts: Sequence[Sequence[int]]) -> Tensor:
    """Hidden states [B, D] at the last token of each text; what several begin with is read once."""
    order = sorted(range(len(texts)), key=lambda i: tuple(texts[i]))
    plan = Plan([texts[i] for i in order])
    pages = -(-np.array(plan.counts) // PAGE)
    spans = spans_of(plan.counts, pages, model.config.n_kv_heads, plan.asked, plan.parents)
    scratch = KVCache(replace(model.config, n_layers=1), 1, int(pages.sum()) * PAGE, model.dtype)
    hidden_BD = read(model, kernels, plan.tokens, spans, scratch)
    return hidden_BD[torch.tensor(order).argsort()]
