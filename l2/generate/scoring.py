"""Scoring given tokens: log-probabilities and rewards, batched by length, in fp32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from l2.files.errors import L2Error, UsageError
from l2.files.progress import OnProgress, ignore
from l2.generate.kernels import Kernels
from l2.generate.layers import kernels_of
from l2.generate.reading import Plan, common_prefix, read_ends, read_plan, shared_with_previous
from l2.model.cache import KVCache
from l2.model.transformer import LanguageModel, ScalarModel

TOGETHER = 2**15  # tokens read at once, with padding, unless one row alone has more: bounds the memory
CHUNK = 2048  # rows of logits held at once
PACKED = 2**13  # tokens of trees that are read at once, unless one text alone has more
SHARING = 0.75  # prefixes are shared where that leaves at most so many of the tokens to read

T = TypeVar("T", bound=Sequence[int])


def pad(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Rows of ids as tokens [B, T], padded on the right with 0, and their lengths [B]."""
    lengths_B = torch.tensor([len(row) for row in rows])
    tokens_BT = torch.zeros(len(rows), int(lengths_B.max()), dtype=torch.long)
    for tokens, row in zip(tokens_BT, rows, strict=True):
        tokens[: len(row)] = torch.tensor(row)
    return tokens_BT.to(device), lengths_B.to(device)


def chosen_logprobs(model: LanguageModel, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Log-probability [N], in nats, of each target given its hidden state [D]; logits stand CHUNK rows at a time."""
    pieces = zip(hidden_ND.split(CHUNK), targets_N.split(CHUNK), strict=True)
    return torch.cat([model.head(hidden).log_softmax(-1).gather(1, ids[:, None])[:, 0] for hidden, ids in pieces])


def by_length(
    rows: Sequence[Sequence[int]],
    context: int,
    batch_size: int,
    score: Callable[[list[int]], list[float]],
    on_progress: OnProgress,
    together: Callable[[int], Any] = lambda index: 0,
) -> list[float]:
    """`score` of batches of indices into `rows`, longest together, given back in the order of `rows`.

    `together` comes before length where some should stand side by side.
    Raises UsageError for a row of more than `context` tokens, and L2Error for a score that is no number.
    """
    order = sorted(range(len(rows)), key=lambda i: (together(i), -len(rows[i])))
    if (longest := max(map(len, rows), default=0)) > context:
        raise UsageError(f"a text of {longest} tokens exceeds the model's context of {context}")
    scores = [0.0] * len(rows)
    size = max(1, min(batch_size, TOGETHER // max(1, longest)))
    for start in range(0, len(order), size):
        part = order[start : start + size]
        for index, value in zip(part, score(part), strict=True):
            if not math.isfinite(value):
                raise L2Error(f"the model gives {value} as a score; its weights are broken")
            scores[index] = value
        on_progress(start + len(part), len(order), "")
    return scores


class _Prefixes:
    """Keys and values of contexts, all of each but its last token, with what all of them begin with read once."""

    def __init__(self, model: LanguageModel, contexts: Sequence[tuple[int, ...]], head: Sequence[int]) -> None:
        self.model, self.contexts, self.head = model, contexts, head
        self.cache = self._fill(self._room(1, len(head)), [head], 0)

    def _room(self, rows: int, length: int) -> KVCache:
        return KVCache(self.model.config, rows, length, self.model.dtype, self.model.device)

    def _fill(self, cache: KVCache, rows: Sequence[Sequence[int]], start: int) -> KVCache:
        """Read `rows` into a cache from slot `start` on; what padding leaves behind them is written over or unseen."""
        tokens_BT, _ = pad(rows, self.model.device)
        if tokens_BT.shape[1]:
            positions_T = start + torch.arange(tokens_BT.shape[1], device=self.model.device)
            self.model.hidden(tokens_BT, positions_T.expand_as(tokens_BT), cache=cache)
        return cache

    def of(self, part: Sequence[int], more: int) -> KVCache:
        """The cache of the contexts with indices `part`, one row each, with room for `more` tokens after each."""
        h = len(self.head)
        rows = {context: row for row, context in enumerate(dict.fromkeys(self.contexts[i] for i in part))}
        cache = self._room(len(rows), max(map(len, rows)) - 1 + more)
        cache.k[..., :h, :], cache.v[..., :h, :] = self.cache.k, self.cache.v
        self._fill(cache, [context[h:-1] for context in rows], h)
        return cache.take(torch.tensor([rows[self.contexts[i]] for i in part], device=self.model.device))


@torch.inference_mode()
def loglikelihood(
    model: LanguageModel,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    on_progress: OnProgress = ignore,
) -> list[float]:
    """Summed log-probability, in nats, of each continuation after its context; logits are computed for those alone.

    A context that several continuations share is read once, and so is what many contexts begin with, such as the
    examples of a few-shot prompt. What is read together depends on the texts alone, so that there is no batch size to
    change the last digit. Raises UsageError for an empty context (give BOS at least) and for more tokens than
    the model's context, of which the last is never read; L2Error when the model gives no numbers.
    """
    if not all(map(len, contexts)):
        raise UsageError("a context has no tokens, not even BOS; nothing gives its first token a probability")
    longest = max((len(a) + len(b) - 1 for a, b in zip(contexts, continuations, strict=True)), default=0)
    if longest > model.config.max_seq_len:
        raise UsageError(f"a text of {longest} tokens exceeds the model's context of {model.config.max_seq_len}")
    kernels = kernels_of(model)
    if kernels:
        return _read_as_trees(model, kernels, contexts, continuations, on_progress)
    return _read_padded(model, contexts, continuations, on_progress)


def _read_as_trees(
    model: LanguageModel,
    kernels: Kernels,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    on_progress: OnProgress,
) -> list[float]:
    """`loglikelihood` without padding, by what is compiled: all that texts begin with in common is read once."""
    rows: dict[tuple[int, ...], list[int]] = {}  # by the tokens that are read: many rows may ask about the same
    for i, (context, more) in enumerate(zip(contexts, continuations, strict=True)):
        if more:
            rows.setdefault((*context, *more[:-1]), []).append(i)
    texts = sorted(rows)
    sums, done = [0.0] * len(contexts), len(contexts) - sum(map(len, rows.values()))
    for part in portions(texts, shared_with_previous(texts), PACKED):
        plan = Plan(part, [max(len(continuations[i]) for i in rows[text]) for text in part])
        asked = [(i, where) for text, where in zip(part, plan.places(), strict=True) for i in rows[text]]
        at_N = np.concatenate([where[-len(continuations[i]) :] for i, where in asked])
        tokens_N = np.concatenate([continuations[i] for i, _ in asked])
        logprobs_N = _logprobs_at(model, read_plan(model, kernels, plan), at_N, tokens_N)
        ends = np.cumsum([len(continuations[i]) for i, _ in asked])
        for (i, _), values in zip(asked, np.split(logprobs_N, ends[:-1]), strict=True):
            sums[i] = _checked(float(values.sum()))
        done += len(asked)
        on_progress(done, len(contexts), "")
    return sums


def portions(texts: Sequence[T], shared: Sequence[int], most: int) -> Iterator[list[T]]:
    """Sorted texts in turn, as many as have `most` tokens together, what they share with the one before not counted."""
    part: list[T] = []
    tokens = 0
    for text, same in zip(texts, shared, strict=True):
        more = len(text) - same if part else len(text)
        if part and tokens + more > most:
            yield part
            part, tokens, more = [], 0, len(text)
        part.append(text)
        tokens += more
    if part:
        yield part


def _logprobs_at(model: LanguageModel, hidden_AD: Tensor, at_N: np.ndarray, tokens_N: np.ndarray) -> np.ndarray:
    """Log-probability [N], double, of each token after the hidden state it names; each state meets the head once."""
    logprobs_N = np.empty(len(at_N))
    for start in range(0, len(hidden_AD), CHUNK):
        (here,) = np.nonzero((at_N >= start) & (at_N < start + CHUNK))
        logits_CV = model.head(hidden_AD[start : start + CHUNK])
        at, tokens = torch.from_numpy(at_N[here] - start), torch.from_numpy(tokens_N[here])
        logprobs_N[here] = (logits_CV[at, tokens] - logits_CV.logsumexp(-1)[at]).double().numpy()
    return logprobs_N


def _checked(value: float) -> float:
    if not math.isfinite(value):
        raise L2Error(f"the model gives {value} as a score; its weights are broken")
    return value


def _read_padded(
    model: LanguageModel,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    on_progress: OnProgress,
) -> list[float]:
    """`loglikelihood` in batches of one length, by torch: on a GPU, or without a compiler."""
    if not contexts:
        return []
    rows = [[*context, *more[:-1]] for context, more in zip(contexts, continuations, strict=True)]
    each = [tuple(context) for context in contexts]
    head = common_prefix(each)
    once = len(head) + sum(len(context) - len(head) for context in set(each)) + sum(map(len, continuations))
    worth = once < SHARING * sum(map(len, rows))
    prefixes = _Prefixes(model, each, head) if worth else None
    begins = [len(context) - 1 if prefixes else 0 for context in each]

    def score(part: list[int]) -> list[float]:
        tokens_BT, _ = pad([rows[i][begins[i] :] for i in part], model.device)
        targets_BT, counts_B = pad([continuations[i] for i in part], model.device)
        first_B, begins_B = torch.tensor([(len(contexts[i]) - 1 - begins[i], begins[i]) for i in part]).T
        first_B, begins_B = first_B.to(model.device), begins_B.to(model.device)
        at_T = torch.arange(tokens_BT.shape[1], device=model.device)
        cache = prefixes.of(part, len(at_T)) if prefixes else None
        hidden_BTD = model.hidden(tokens_BT, begins_B[:, None] + at_T, cache=cache)
        asked_BT = (at_T >= first_B[:, None]) & (at_T < (first_B + counts_B)[:, None])
        wanted_BT = torch.arange(targets_BT.shape[1], device=model.device) < counts_B[:, None]
        logprobs_N = chosen_logprobs(model, hidden_BTD[asked_BT], targets_BT[wanted_BT])
        sums: list[float] = asked_BT.double().masked_scatter(asked_BT, logprobs_N.double()).sum(1).tolist()
        return sums

    def together(i: int) -> tuple[int, tuple[int, ...]]:
        return (-len(each[i]), each[i]) if prefixes else (0, ())

    return by_length(rows, model.config.max_seq_len, len(rows), score, on_progress, together)


@torch.inference_mode()
def last_scores(
    model: ScalarModel, rows: Sequence[Sequence[int]], batch_size: int = 32, on_progress: OnProgress = ignore
) -> list[float]:
    """The reward model's raw score at the last token of each row: the EOS that ends an answer, where it has one.

    Raises UsageError for a row without tokens or of more than the model's context, L2Error for a score of no number.
    """
    if not all(map(len, rows)):
        raise UsageError("there are no tokens to score")
    kernels = kernels_of(model)

    def score(part: list[int]) -> list[float]:
        texts = [rows[i] for i in part]
        if kernels:
            scores_B = model.score(read_ends(model, kernels, texts)).squeeze(1)
        else:
            tokens_BT, lengths_B = pad(texts, model.device)
            scores_B = model(tokens_BT).gather(1, lengths_B[:, None] - 1).squeeze(1)
        scores: list[float] = scores_B.tolist()
        return scores

    def alike(i: int) -> tuple[int, ...]:
        return tuple(rows[i]) if kernels else ()

    return by_length(rows, model.config.max_seq_len, batch_size, score, on_progress, alike)
