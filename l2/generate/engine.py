"""Batched sampling over a preallocated key/value cache: a draw depends on (seed, prompt, sample, position) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xxhash
from torch import Tensor

from l2.files.errors import UsageError
from l2.files.progress import OnProgress, ignore
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
    return x ^ (x >> np.uint64(31))


def uniform(seed: int, keys_B: np.ndarray, samples_B: np.ndarray, positions_B: np.ndarray) -> np.ndarray:
    """Uniform numbers [B] in [0, 1), a function of (seed, key, sample, position): no generator, no state."""
    state = np.full(len(keys_B), seed & (2**64 - 1), np.uint64)
    for part in (keys_B, samples_B, positions_B):
        state = _mix(state + np.uint64(0x9E3779B97F4A7C15)) ^ part.astype(np.uint64)
    return (_mix(state + np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)) * 2.0**-53


def draw(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Tokens [B] and the log-probabilities [B] they were drawn with, by inverting the cumulative distribution.

    With top_p < 1, tokens are kept while the mass of the likelier ones is at most top_p (paper.md §11), and the
    log-probability is that of the cut distribution. Greedy gives the log-probability at temperature 1.
    """
    if temperature == 0.0:
        tokens_B = logits_BV.argmax(-1)
        return tokens_B, logits_BV.log_softmax(-1).gather(1, tokens_B[:, None]).squeeze(1)
    probs_BV = (logits_BV / temperature).softmax(-1)
    if top_p < 1.0:
        ordered, order = probs_BV.sort(dim=-1, descending=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered > top_p, 0.0)
        probs_BV = torch.zeros_like(probs_BV).scatter(1, order, ordered)
    mass = probs_BV.cumsum(-1, dtype=torch.float64)
    target = uniform_B.to(mass.device)[:, None] * mass[:, -1:]
    tokens_B = torch.searchsorted(mass, target, right=True).squeeze(1).clamp(max=logits_BV.shape[1] - 1)
    picked = probs_BV.gather(1, tokens_B[:, None]).squeeze(1)
    return tokens_B, (picked / mass[:, -1]).log().float()


class _Rows:
    """The answers that are being written: one cache row each."""

    def __init__(self, keys: Sequence[int], k: int, lengths: Tensor, cache: KVCache, logits_BV: Tensor) -> None:
        rows = torch.arange(len(keys), device=logits_BV.device).repeat_interleave(k)
        self.keys = np.repeat(np.array(keys, dtype=np.uint64), k)
        self.samples = np.tile(np.arange(k), len(keys))
        self.out = [Completion() for _ in self.keys]
        self.live = list(range(len(self.out)))  # which answer each row writes
        self.lengths_B = lengths.to(logits_BV.device)[rows]
        self.cache = cache.take(rows) if k > 1 else cache
        self.logits_BV = logits_BV[rows]

    def keep(self, rows: list[int]) -> None:
        """Drop the rows of finished answers."""
        self.live = [self.live[row] for row in rows]
        index = torch.tensor(rows, dtype=torch.long, device=self.logits_BV.device)
        self.lengths_B, self.logits_BV = self.lengths_B[index], self.logits_BV[index]
        self.cache = self.cache.take(index)


def _write(model: LanguageModel, rows: _Rows, sampling: Sampling, eos_id: int) -> None:
    """Draw token after token until every answer has ended."""
    for position in range(sampling.max_new_tokens):
        at = np.full(len(rows.live), position)
        u = torch.from_numpy(uniform(sampling.seed, rows.keys[rows.live], rows.samples[rows.live], at))
        tokens_B, logprobs_B = draw(rows.logits_BV, u, sampling.temperature, sampling.top_p)
        going = []
        for row, (token, logprob) in enumerate(zip(tokens_B.tolist(), logprobs_B.tolist(), strict=True)):
            answer = rows.out[rows.live[row]]
            if answer.finish == "stop":
                continue
            answer.tokens.append(token)
            answer.logprobs.append(logprob)
            if token == eos_id:
                answer.finish = "stop"
            else:
                going.append(row)
        if not going or position + 1 == sampling.max_new_tokens:
            return
        if len(going) <= COMPACT * len(rows.live):
            tokens_B = tokens_B[torch.tensor(going, device=tokens_B.device)]
            rows.keep(going)
        rows.logits_BV = model(tokens_B[:, None], rows.lengths_B[:, None], cache=rows.cache)[:, 0]
        rows.lengths_B = rows.lengths_B + 1


def _batch(
    model: LanguageModel, prompts: Sequence[Sequence[int]], keys: Sequence[int], sampling: Sampling, k: int, eos_id: int
) -> list[list[Completion]]:
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    width = int(lengths.max())
    tokens_BT = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in zip(tokens_BT, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    cache = KVCache(model.config, len(prompts), width + sampling.max_new_tokens, model.dtype, model.device)
    positions = torch.arange(width, device=model.device).expand(len(prompts), width)
    hidden_BTD = model.hidden(tokens_BT.to(model.device), positions, cache=cache)
    last_BD = hidden_BTD[torch.arange(len(prompts)), lengths - 1]
    rows = _Rows(keys, k, lengths, cache, model.head(last_BD))
    _write(model, rows, sampling, eos_id)
    return [rows.out[i : i + k] for i in range(0, len(rows.out), k)]


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
    up to `batch_size` answers and prompts of like length. What is drawn does not depend on the batch.
    Raises UsageError when a prompt and its answer would not fit the model's context.
    """
    longest = max(map(len, prompts), default=0)
    if longest + sampling.max_new_tokens > model.config.max_seq_len:
        raise UsageError(
            f"a prompt of {longest} tokens and {sampling.max_new_tokens} new ones exceed the context of "
            f"{model.config.max_seq_len}; shorten the prompt or ask for fewer new tokens"
        )
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    each = max(1, batch_size // k)
    answers: list[list[Completion]] = [[] for _ in prompts]
    for start in range(0, len(order), each):
        part = order[start : start + each]
        written = _batch(model, [prompts[i] for i in part], [keys[i] for i in part], sampling, k, eos_id)
        for i, completions in zip(part, written, strict=True):
            answers[i] = completions
        on_progress(min(start + each, len(order)), len(order), "")
    return answers
