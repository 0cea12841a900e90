"""Batched sampling over a preallocated key/value cache: a draw depends on (seed, prompt, sample, position) alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xxhash
from torch import Tensor

from l2.files.errors import L2Error, UsageError
from l2.files.progress import OnProgress, ignore
from l2.generate.scoring import pad
from l2.model.transformer import KVCache, LanguageModel

COMPACT = 0.75  # the cache is copied without its ended rows when no more than this share is still being written


@dataclass(frozen=True)
class Sampling:
    """How to draw. temperature 0 is greedy; top_p 1 is the whole distribution; max_new_tokens counts EOS."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0


@dataclass
class Completion:
    """One answer: its ids (with EOS when it came), the log-probability each was drawn with, and how it ended."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = "length"


def prompt_key(identity: str | int) -> int:
    """A stable 64-bit number for a prompt's id or text: the same prompt draws the same answers in any batch."""
    return xxhash.xxh3_64_intdigest(str(identity).encode())


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def uniform(seed: int, keys_B: np.ndarray, samples_B: np.ndarray, positions_B: np.ndarray) -> np.ndarray:
    """Uniform numbers [B] in [0, 1), a function of (seed, key, sample, position): no generator, no state."""
    state: np.ndarray = np.full(len(keys_B), seed & (2**64 - 1), np.uint64)
    for part in (keys_B, samples_B, positions_B):
        state = _mix(state + np.uint64(0x9E3779B97F4A7C15)) ^ part.astype(np.uint64)
    return (_mix(state + np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)) * 2.0**-53


def nucleus(probs_BV: Tensor, top_p: float) -> Tensor:
    """Probabilities [B, V], not normalised, of the tokens whose strictly likelier ones hold at most `top_p` together.

    Meta's rule (paper.md §11), but that equal tokens stay or go together: so it does not depend on how they are sorted.
    """
    if probs_BV.is_cuda:
        ordered_BV = probs_BV.sort(descending=True).values
    else:  # five times faster than torch's sort
        ordered_BV = torch.from_numpy(np.sort(probs_BV.numpy())).flip(-1)
    kept_B1 = (ordered_BV.cumsum(-1, dtype=torch.float64) - ordered_BV <= top_p).sum(-1, keepdim=True).clamp(min=1)
    return probs_BV.masked_fill(probs_BV < ordered_BV.gather(1, kept_B1 - 1), 0.0)


def draw(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Tokens [B] and the log-probabilities [B] they were drawn with, by inverting the cumulative distribution.

    With top_p < 1 that is the log-probability under the cut distribution (see `nucleus`); greedy gives the one at
    temperature 1.
    """
    if temperature == 0.0:
        tokens_B = logits_BV.argmax(-1)
        return tokens_B, logits_BV.log_softmax(-1).gather(1, tokens_B[:, None]).squeeze(1)
    probs_BV = (logits_BV / temperature).softmax(-1)
    if top_p < 1.0:
        probs_BV = nucleus(probs_BV, top_p)
    mass = probs_BV.cumsum(-1, dtype=torch.float64)
    target = uniform_B.to(mass.device)[:, None] * mass[:, -1:]
    tokens_B = torch.searchsorted(mass, target, right=True).squeeze(1).clamp(max=logits_BV.shape[1] - 1)
    picked = probs_BV.gather(1, tokens_B[:, None]).squeeze(1)
    return tokens_B, (picked / mass[:, -1]).log().float()


@dataclass
class _Start:
    """Prompts after prefill: one row each, and the logits of what comes next."""

    cache: KVCache
    lengths_B: Tensor
    logits_BV: Tensor


class _Rows:
    """The answers that are being written: one row of the cache each, `k` in a row to a prompt."""

    def __init__(self, keys: Sequence[int], samples: range, limits: Sequence[int], start: _Start) -> None:
        k = len(samples)
        rows = torch.arange(len(keys), device=start.logits_BV.device).repeat_interleave(k)
        self.keys = np.repeat(np.array(keys, dtype=np.uint64), k)
        self.samples = np.tile(np.array(samples), len(keys))
        self.limits = [limit for limit in limits for _ in samples]
        self.out = [Completion() for _ in self.keys]
        self.live = list(range(len(self.out)))  # which answer each row writes
        self.lengths_B, self.logits_BV = start.lengths_B[rows], start.logits_BV[rows]
        # One sample may write into the prompt's own cache: what it leaves behind is overwritten before it is seen.
        self.cache = start.cache.take(rows) if k > 1 else start.cache

    def append(self, tokens: Sequence[int], logprobs: Sequence[float], eos_id: int) -> list[int]:
        """Write one token to each answer that has not ended; returns the rows that go on."""
        going = []
        for row, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            which = self.live[row]
            answer = self.out[which]
            if answer.finish == "stop" or len(answer.tokens) == self.limits[which]:
                continue
            answer.tokens.append(token)
            answer.logprobs.append(logprob)
            if token == eos_id:
                answer.finish = "stop"
            elif len(answer.tokens) < self.limits[which]:
                going.append(row)
        return going

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.live = [self.live[row] for row in rows.tolist()]
        self.lengths_B, self.cache = self.lengths_B[rows], self.cache.take(rows)


def _write(model: LanguageModel, rows: _Rows, sampling: Sampling, eos_id: int) -> list[Completion]:
    """Draw token after token until every answer has ended. Rows that ended are computed until the cache is copied."""
    for position in range(sampling.max_new_tokens):
        at = np.full(len(rows.live), position)
        u = torch.from_numpy(uniform(sampling.seed, rows.keys[rows.live], rows.samples[rows.live], at))
        tokens_B, logprobs_B = draw(rows.logits_BV, u, sampling.temperature, sampling.top_p)
        logprobs = logprobs_B.tolist()
        if not all(map(math.isfinite, logprobs)):
            raise L2Error("the model gives logits that are no numbers; its weights are broken")
        going = rows.append(tokens_B.tolist(), logprobs, eos_id)
        if not going:
            break
        if len(going) <= COMPACT * len(rows.live):
            index = torch.tensor(going, device=tokens_B.device)
            tokens_B = tokens_B[index]
            rows.keep(index)
        rows.logits_BV = model(tokens_B[:, None], rows.lengths_B[:, None], cache=rows.cache)[:, 0]
        rows.lengths_B = (rows.lengths_B + 1).clamp(max=rows.cache.length - 1)
    return rows.out


def _prefill(model: LanguageModel, prompts: Sequence[Sequence[int]], longest: int) -> _Start:
    """Read the prompts into a cache of `longest` slots a row."""
    tokens_BT, lengths_B = pad(prompts, model.device)
    cache = KVCache(model.config, len(prompts), longest, model.dtype, model.device)
    positions_BT = torch.arange(tokens_BT.shape[1], device=model.device).expand_as(tokens_BT)
    hidden_BTD = model.hidden(tokens_BT, positions_BT, cache=cache)
    rows = torch.arange(len(prompts), device=model.device)
    return _Start(cache, lengths_B, model.head(hidden_BTD[rows, lengths_B - 1]))


def _batch(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    sampling: Sampling,
    k: int,
    eos_id: int,
    batch_size: int,
) -> list[list[Completion]]:
    """Answers to prompts that are prefilled together; more than `batch_size` to one prompt are written in turns."""
    context = model.config.max_seq_len
    limits = [min(sampling.max_new_tokens, context - len(prompt)) for prompt in prompts]
    start = _prefill(model, prompts, min(context, max(map(len, prompts)) + sampling.max_new_tokens))
    answers: list[list[Completion]] = [[] for _ in prompts]
    for first in range(0, k, batch_size):
        samples = range(first, min(first + batch_size, k))
        written = _write(model, _Rows(keys, samples, limits, start), sampling, eos_id)
        for i, completions in enumerate(answers):
            completions += written[i * len(samples) : (i + 1) * len(samples)]
    return answers


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    sampling: Sampling,
    *,
    k: int = 1,
    eos_id: int = 2,
    batch_size: int = 64,
    on_progress: OnProgress = ignore,
) -> list[list[Completion]]:
    """`k` answers to each prompt of ids, as [prompt][sample] in the order of `prompts`.

    keys: one number a prompt (`prompt_key`). Each prompt is prefilled once for all its samples; batches hold
    up to `batch_size` answers, of prompts of like length. What is drawn does not depend on the batch.
    An answer that reaches the end of the model's context finishes with "length" there. Raises UsageError for a
    prompt that is empty or leaves no room, and L2Error when the model gives no numbers.
    """
    lengths, context = [len(prompt) for prompt in prompts], model.config.max_seq_len
    if max(lengths, default=0) >= context:
        raise UsageError(f"a prompt of {max(lengths)} tokens leaves no room in the model's context of {context}")
    if not all(lengths):
        raise UsageError("a prompt has no tokens, not even BOS; there is nothing to go on from")
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    each = max(1, batch_size // k)
    answers: list[list[Completion]] = [[] for _ in prompts]
    for start in range(0, len(order), each):
        part = order[start : start + each]
        written = _batch(model, [prompts[i] for i in part], [keys[i] for i in part], sampling, k, eos_id, batch_size)
        for i, completions in zip(part, written, strict=True):
            answers[i] = completions
        on_progress(min(start + each, len(order)), len(order), "")
    return answers
