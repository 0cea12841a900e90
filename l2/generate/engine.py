"""Continuous batching over a preallocated key/value cache: ended rows leave, waiting prompts enter.

What is drawn depends on (seed, prompt, sample, position) alone, never on the batch or the order: exactly so in fp32; in
bf16 a row alone and a row among others round differently, and now and then that tips a draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
import xxhash
from torch import Tensor

from l2.files.errors import L2Error, UsageError
from l2.files.progress import OnProgress, ignore
from l2.generate.decoder import Decoder
from l2.model.cache import KVCache
from l2.model.config import ModelConfig
from l2.model.transformer import LanguageModel
from l2.train.order import mixed

PREFILL = 2**14  # tokens of prompts read at once, with padding, unless one prompt alone has more: bounds the memory
ADMIT = 0.25  # prompts enter when this share of the rows is free: prefilling one alone wastes the machine


@dataclass(frozen=True)
class Sampling:
    """How to draw. temperature 0 is greedy; top_p 1 and top_k 0 are the whole distribution; max_new_tokens counts EOS.

    repetition_penalty divides the positive, and multiplies the negative, logits of tokens that stand in the prompt or
    the answer (Keskar et al. 2019); 1 is off. Raises UsageError for numbers that make no sense.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0
    top_k: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens {self.max_new_tokens}: an answer has one token at least")
        for name in ("temperature", "top_p", "repetition_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise UsageError(f"{name} {getattr(self, name)}: not a finite number")


@dataclass
class Completion:
    """One answer: its ids (with EOS when it came), the log-probability each was drawn with, and how it ended."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str = "length"


def prompt_key(identity: str | int) -> int:
    """A stable 64-bit number for a prompt's id or text: the same prompt draws the same answers in any batch."""
    return xxhash.xxh3_64_intdigest(str(identity).encode())


def uniform(seed: int, keys_B: np.ndarray, samples_B: np.ndarray, positions_B: np.ndarray) -> np.ndarray:
    """Uniform numbers [B] in [0, 1), a function of (seed, key, sample, position): no generator, no state."""
    state: np.ndarray = np.full(len(keys_B), seed & (2**64 - 1), np.uint64)
    for part in (keys_B, samples_B, positions_B):
        state = mixed(state + np.uint64(0x9E3779B97F4A7C15)) ^ part.astype(np.uint64)
    return (mixed(state + np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)) * 2.0**-53


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


def top(logits_BV: Tensor, k: int) -> Tensor:
    """Logits [B, V] with -inf below the k-th largest of each row; those equal to it stay."""
    least_B1 = logits_BV.topk(min(k, logits_BV.shape[1])).values[:, -1:]
    return logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))


def penalise(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Logits [B, V] with those of `seen_BV` (bool) made less likely, see `Sampling`."""
    return torch.where(seen_BV, torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty), logits_BV)


def draw(
    logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float, top_k: int = 0
) -> tuple[Tensor, Tensor]:
    """Tokens [B] and the log-probabilities [B] they were drawn with, by inverting the cumulative distribution.

    With top_k or top_p that is the log-probability under the cut distribution, top_k first (see `top`, `nucleus`);
    greedy gives the one at temperature 1.
    """
    if top_k:
        logits_BV = top(logits_BV, top_k)
    if temperature == 0.0:
        tokens_B = logits_BV.argmax(-1)
        return tokens_B, logits_BV.log_softmax(-1).gather(1, tokens_B[:, None]).squeeze(1)
    likeliest_B1 = logits_BV.max(-1, keepdim=True).values  # so that the least temperature divides without overflow
    probs_BV = ((logits_BV - likeliest_B1) / temperature).softmax(-1)
    if top_p < 1.0:
        probs_BV = nucleus(probs_BV, top_p)
    mass = probs_BV.cumsum(-1, dtype=torch.float64)
    target = uniform_B.to(mass.device)[:, None] * mass[:, -1:]
    tokens_B = torch.searchsorted(mass, target, right=True).squeeze(1).clamp(max=logits_BV.shape[1] - 1)
    picked = probs_BV.gather(1, tokens_B[:, None]).squeeze(1)
    return tokens_B, (picked / mass[:, -1]).log().float()


Stop = Callable[[Sequence[int]], bool]
OnToken = Callable[[int, int, int], None]


@dataclass
class _Waiting:
    """Prompts that are prefilled but not all of whose samples have entered yet, one row each."""

    cache: KVCache
    logits_BV: Tensor
    prompts: list[int]  # which prompt each row holds
    next: list[int]  # the sample of each that enters next


class _Rows:
    """The answers that are being written: row r of the decoder's cache writes sample `samples[r]` of `prompts[r]`."""

    def __init__(self, decoder: Decoder, size: int, vocab: int, penalised: bool) -> None:
        device = decoder.model.device
        self.decoder, self.size, self.n = decoder, size, 0
        self.prompts, self.samples, self.written, self.lengths = (np.zeros(size, dtype=np.int64) for _ in range(4))
        self.keys = np.zeros(size, dtype=np.uint64)
        self.logits = torch.zeros(size, vocab, device=device)
        self.seen = torch.zeros(size, vocab, dtype=torch.bool, device=device) if penalised else None

    def enter(self, waiting: _Waiting, row: int, k: int, key: int, prompt: Sequence[int]) -> None:
        """Give as many rows as there are to samples of the prompt in `row` of `waiting`."""
        which, first = waiting.prompts[row], waiting.next[row]
        count = min(k - first, self.size - self.n)
        to = slice(self.n, self.n + count)
        self.decoder.fill(self.n, count, waiting.cache, row)
        self.prompts[to], self.samples[to], self.written[to] = which, np.arange(first, first + count), 0
        self.keys[to], self.lengths[to], self.logits[to] = key, len(prompt), waiting.logits_BV[row]
        if self.seen is not None:
            self.seen[to] = False
            self.seen[to, list(prompt)] = True
        waiting.next[row] += count
        self.n += count

    def draw(self, sampling: Sampling) -> tuple[list[int], list[float]]:
        """One token for each row and the log-probability it was drawn with."""
        n, logits, kernels = self.n, self.logits[: self.n], self.decoder.kernels
        seen = None if self.seen is None else self.seen[:n]
        where = self.keys[:n], self.samples[:n], self.written[:n]
        if kernels:
            how = sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty
            drawn, chances = kernels.draw(logits, seen, where, sampling.seed, how)
            self.written[:n] += 1
            return drawn.tolist(), chances.tolist()
        if seen is not None:
            logits = penalise(logits, seen, sampling.repetition_penalty)
        u = torch.from_numpy(uniform(sampling.seed, *where))
        tokens_B, logprobs_B = draw(logits, u, sampling.temperature, sampling.top_p, sampling.top_k)
        if seen is not None:
            seen[torch.arange(n), tokens_B] = True
        self.written[:n] += 1
        return tokens_B.tolist(), logprobs_B.tolist()

    def leave(self, ended: list[int], tokens: list[int]) -> None:
        """Drop rows: the last of those that go on take their places, in the cache and in `tokens`."""
        going, gone = self.n - len(ended), set(ended)
        targets = [row for row in ended if row < going]
        sources = [row for row in range(going, self.n) if row not in gone]
        for source, target in zip(sources, targets, strict=True):
            self.decoder.move(source, target, int(self.lengths[source]))
            for array in (self.prompts, self.samples, self.written, self.keys, self.lengths):
                array[target] = array[source]
            if self.seen is not None:
                self.seen[target] = self.seen[source]
            tokens[target] = tokens[source]
        del tokens[going:]
        self.n = going

    def step(self, tokens: list[int]) -> None:
        """Write the drawn tokens, which gives the logits of the next."""
        self.logits[: self.n] = self.decoder.step(tokens, self.lengths[: self.n])
        self.lengths[: self.n] += 1


def rows_for(longest: int, answers: int, batch_size: int, max_batch_tokens: int | None) -> int:
    """Rows of the cache: as many as there are answers, at most `batch_size`, of `longest` tokens in the memory given.

    Raises UsageError when not even one row fits into `max_batch_tokens`.
    """
    if max_batch_tokens is not None:
        batch_size = min(batch_size, max_batch_tokens // longest)
        if not batch_size:
            raise UsageError(f"--max-batch-tokens {max_batch_tokens}: one answer alone needs room for {longest} tokens")
    return max(1, min(batch_size, answers))


@dataclass
class _Work:
    """Everything that is to be written, and what has been."""

    prompts: Sequence[Sequence[int]]
    keys: Sequence[int]
    limits: Sequence[int]
    sampling: Sampling
    k: int
    stop: Stop
    on_token: OnToken
    rows: _Rows
    answers: list[list[Completion]]
    queue: list[int]  # prompts that are not prefilled yet, the next at the end
    waiting: _Waiting | None = None
    done: int = 0  # answers that have ended

    def admit(self) -> None:
        """Let waiting prompts enter while enough rows are free, prefilling as many as there is room for."""
        rows = self.rows
        while (self.waiting or self.queue) and (not rows.n or rows.size - rows.n >= ADMIT * rows.size):
            if self.waiting is None:
                part = self._next(max(1, (rows.size - rows.n) // self.k))
                prefilled = rows.decoder.prefill([self.prompts[i] for i in part])
                self.waiting = _Waiting(*prefilled, part, [0] * len(part))
            for row, which in enumerate(self.waiting.prompts):
                if self.waiting.next[row] < self.k and rows.n < rows.size:
                    rows.enter(self.waiting, row, self.k, self.keys[which], self.prompts[which])
            if min(self.waiting.next) == self.k:
                self.waiting = None

    def _next(self, count: int) -> list[int]:
        """Take up to `count` prompts from the queue, the longest first, of PREFILL tokens together."""
        count = min(count, len(self.queue), max(1, PREFILL // len(self.prompts[self.queue[-1]])))
        return [self.queue.pop() for _ in range(count)]

    def advance(self) -> None:
        """Draw one token for each row; answers that end with it leave, the others are stepped on."""
        tokens, logprobs = self.rows.draw(self.sampling)
        if not all(map(math.isfinite, logprobs)):
            raise L2Error("the model gives logits that are no numbers; its weights are broken")
        over = [row for row, drawn in enumerate(zip(tokens, logprobs, strict=True)) if self._append(row, *drawn)]
        if over:
            self.rows.leave(over, tokens)
            self.done += len(over)
        if self.rows.n:
            self.rows.step(tokens)

    def _append(self, row: int, token: int, logprob: float) -> bool:
        """Whether the answer of `row` ends with this token."""
        which, sample = int(self.rows.prompts[row]), int(self.rows.samples[row])
        answer = self.answers[which][sample]
        answer.tokens.append(token)
        answer.logprobs.append(logprob)
        self.on_token(which, sample, token)
        if self.stop(answer.tokens):
            answer.finish = "stop"
        return answer.finish == "stop" or len(answer.tokens) >= self.limits[which]


class Server(Protocol):
    """What writes answers elsewhere, in a language model's place (`l2.generate.endpoint`)."""

    @property
    def config(self) -> ModelConfig:
        """The shape of the model; answers end with its context."""
        ...

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        limits: Sequence[int],
        sampling: Sampling,
        k: int,
        at_once: int,
        hear: Callable[[int, int, Completion], None],
    ) -> None:
        """Call hear(prompt, sample, answer) for `k` answers to each prompt, of at most its limit, in any order."""
        ...


Sampler = LanguageModel | Server


@dataclass
class _Heard:
    """Answers that were written elsewhere: each is cut where it ends, and told of."""

    answers: list[list[Completion]]
    stop: Stop
    on_token: OnToken
    on_progress: OnProgress
    done: int = 0

    def __call__(self, which: int, sample: int, answer: Completion) -> None:
        tokens, k = answer.tokens, len(self.answers[which])
        ends = (end for end in range(1, len(tokens) + 1) if self.stop(tokens[:end]))
        if end := next(ends, 0):
            answer = Completion(tokens[:end], answer.logprobs[:end], "stop")
        self.answers[which][sample] = answer
        for token in answer.tokens:
            self.on_token(which, sample, token)
        self.done += 1
        if self.done % k == 0:
            self.on_progress(self.done // k, len(self.answers), "")


@torch.inference_mode()
def generate(
    model: Sampler,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    sampling: Sampling,
    *,
    k: int = 1,
    eos_id: int = 2,
    batch_size: int = 64,
    max_batch_tokens: int | None = None,
    ended: Stop | None = None,
    on_token: OnToken = lambda prompt, sample, token: None,
    on_progress: OnProgress = ignore,
) -> list[list[Completion]]:
    """`k` answers to each prompt of ids, as [prompt][sample] in the order of `prompts`.

    keys: one number a prompt (`prompt_key`). Up to `batch_size` answers are written at once, fewer where
    `max_batch_tokens` slots of the cache are all that may be asked for; memory is asked for before the first token.
    Each prompt is prefilled once for all its samples; an answer that has ended makes room for the next. An answer ends
    at EOS, or after a token for which `ended`, given the ids so far, is true (both "stop"), or at max_new_tokens or
    the end of the model's context ("length"). on_token(prompt, sample, token) hears of each token; of a Server's, when
    the answer is there. Raises UsageError for a prompt that is empty or leaves no room, and for `max_batch_tokens`
    with a Server, which has its own cache; L2Error when the model gives no numbers.
    """
    lengths, context = [len(prompt) for prompt in prompts], model.config.max_seq_len
    if max(lengths, default=0) >= context:
        raise UsageError(f"a prompt of {max(lengths)} tokens leaves no room in the model's context of {context}")
    if not all(lengths):
        raise UsageError("a prompt has no tokens, not even BOS; there is nothing to go on from")
    assert len(keys) == len(prompts)
    answers = [[Completion() for _ in range(k)] for _ in prompts]
    if not answers:
        return answers

    def stop(tokens: Sequence[int]) -> bool:
        return tokens[-1] == eos_id or (ended is not None and ended(tokens))

    limits = [min(sampling.max_new_tokens, context - length) for length in lengths]
    if not isinstance(model, LanguageModel):
        if max_batch_tokens is not None:
            raise UsageError(
                "--max-batch-tokens bounds the cache of this machine, and the answers are written elsewhere"
            )
        heard = _Heard(answers, stop, on_token, on_progress)
        model.answer(prompts, keys, limits, sampling, k, batch_size, heard)
        return answers
    longest = max(length + limit for length, limit in zip(lengths, limits, strict=True))
    size = rows_for(longest, len(prompts) * k, batch_size, max_batch_tokens)
    rows = _Rows(Decoder(model, size, longest), size, model.config.vocab_size, sampling.repetition_penalty != 1.0)
    queue = sorted(range(len(prompts)), key=lengths.__getitem__)
    work = _Work(prompts, keys, limits, sampling, k, stop, on_token, rows, answers, queue)
    told = 0
    while work.done < len(prompts) * k:
        work.admit()
        work.advance()
        if work.done // k > told:
            told = work.done // k
            on_progress(told, len(prompts), "")
    return answers
