"""Reading whole texts without gradients: no padding, common beginnings once, the last block for what is asked alone.

All tokens of a batch stand in one long row; the compiled attention (kernels.py) knows who follows whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, takewhile

import numpy as np
import torch
from torch import Tensor

from l2.generate.kernels import ASKED, COUNT, HELD, PAGE, PARENT, Kernels, Pair, paged, spans_of
from l2.generate.layers import angles, layers_of
from l2.model.cache import KVCache
from l2.model.transformer import LanguageModel, ScalarModel

SHARED = 16  # tokens that several texts must begin with, for these to be read once


def common_prefix(rows: Sequence[Sequence[int]]) -> Sequence[int]:
    """What all rows begin with, up to the last but one token of the shortest."""
    least, most = min(rows, key=tuple), max(rows, key=tuple)  # where these two agree, so do those between
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(least, most, strict=False)))
    return least[: min(same, min(map(len, rows)) - 1)]


def shared_with_previous(texts: Sequence[Sequence[int]]) -> list[int]:
    """How many tokens each of the sorted `texts` shares with the one before it, less than all of that one; 0 first."""
    rows = [np.array(text) for text in texts]
    shared = [0] * len(rows)
    for i in range(1, len(rows)):
        length = min(len(rows[i - 1]) - 1, len(rows[i]))
        differ = rows[i - 1][:length] != rows[i][:length]
        shared[i] = int(differ.argmax()) if differ.any() else length
    return shared


class Plan:
    """Texts as spans, the last of each being what it shares with no other (kernels.py: spans_of)."""

    def __init__(self, texts: Sequence[Sequence[int]], wanted: Sequence[int] | None = None) -> None:
        """texts: sorted, all different, none empty. wanted: the states of how many last tokens are asked for; 1."""
        self.texts, self.wanted = texts, wanted or [1] * len(texts)
        self.shared = shared_with_previous(texts)
        self.tokens: list[int] = []
        self.counts: list[int] = []
        self.asked: list[int] = []  # of how many tokens of each span, the last ones
        self.parents: list[int] = []
        self.parts: list[list[tuple[int, int]]] = [[] for _ in texts]  # spans that hold what is asked of a text
        self._grow(0, len(texts), 0, -1)

    def _grow(self, low: int, high: int, start: int, parent: int) -> None:
        """Spans for the texts from `low` to `high` from token `start` on, which is the end of `parent`."""
        cuts = [low, *(i for i in range(low + 1, high) if self.shared[i] < start + SHARED), high]
        for first, end in pairwise(cuts):
            one = end - first == 1
            stop = len(self.texts[first]) if one else min(self.shared[first + 1 : end])
            span = len(self.counts)
            self._add(first, end, start, stop, parent)
            if not one:
                self._grow(first, end, stop, span)

    def _add(self, first: int, end: int, start: int, stop: int, parent: int) -> None:
        """The span of tokens `start` to `stop` of all texts from `first` to `end`."""
        span, most = len(self.counts), 0
        for i in range(first, end):
            count = min(stop - start, stop - (len(self.texts[i]) - self.wanted[i]))
            if count > 0:
                self.parts[i].append((span, count))
                most = max(most, count)
        self.tokens.extend(self.texts[first][start:stop])
        self.counts.append(stop - start)
        self.asked.append(most)
        self.parents.append(parent)

    def places(self) -> list[np.ndarray]:
        """For each text, where its states stand among all that are asked for, in the order of its tokens."""
        ends = np.cumsum(self.asked)
        return [np.concatenate([np.arange(ends[span] - n, ends[span]) for span, n in part]) for part in self.parts]


def read(
    model: LanguageModel | ScalarModel, kernels: Kernels, tokens: Sequence[int], spans: np.ndarray, cache: KVCache
) -> Tensor:
    """Hidden states [A, D] after the final norm, of the last tokens of `spans`, as many of each as it asks for.

    The keys and values of all of them go to the pages that `spans` name of `cache`; one of a single layer is used for
    each layer in turn.
    """
    config = model.config
    reach: list[int] = []  # tokens up to the end of each span
    for count, held, parent in spans[:, [COUNT, HELD, PARENT]].tolist():
        reach.append(held + count + (reach[parent] if parent >= 0 else 0))
    table = angles(config, max(reach), model.device)
    asked = spans[:, ASKED]
    back = np.repeat(asked.cumsum(), asked) - np.arange(asked.sum())  # each counted from the end of its span
    asked_A = torch.from_numpy(np.repeat(spans[:, COUNT].cumsum(), asked) - back)
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


def read_plan(model: LanguageModel | ScalarModel, kernels: Kernels, plan: Plan) -> Tensor:
    """Hidden states [A, D] of all that is asked of the texts of `plan`; what several begin with is read once."""
    pages = -(-np.array(plan.counts) // PAGE)
    spans = spans_of(plan.counts, pages, model.config.n_kv_heads, plan.asked, plan.parents)
    scratch = KVCache(replace(model.config, n_layers=1), 1, int(pages.sum()) * PAGE, model.dtype)
    return read(model, kernels, plan.tokens, spans, scratch)


def read_ends(model: LanguageModel | ScalarModel, kernels: Kernels, texts: Sequence[Sequence[int]]) -> Tensor:
    """Hidden states [B, D] at the last token of each text."""
    each = sorted({tuple(text) for text in texts})
    plan = Plan(each)
    place = {text: int(where[0]) for text, where in zip(each, plan.places(), strict=True)}
    return read_plan(model, kernels, plan)[[place[tuple(text)] for text in texts]]
