"""Scoring given tokens: log-probabilities and rewards, batched by length, in fp32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from l2.files.errors import L2Error, UsageError
from l2.files.progress import OnProgress, ignore
from l2.model.transformer import LanguageModel, ScalarModel

CHUNK = 2048  # rows of logits held at once


def pad(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Rows of ids as tokens [B, T], padded on the right with 0, and their lengths [B]."""
    lengths_B = torch.tensor([len(row) for row in rows])
    tokens_BT = torch.zeros(len(rows), int(lengths_B.max()), dtype=torch.long)
    for tokens, row in zip(tokens_BT, rows, strict=True):
        tokens[: len(row)] = torch.tensor(row)
    return tokens_BT.to(device), lengths_B.to(device)


def chosen_logprobs(
    model: LanguageModel, hidden_ND: Tensor, targets_N: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability [N] of each target given its hidden state, and the entropy [N] there, both in nats, fp32.

    Logits are divided by `temperature`. The logits [N, vocab] are computed CHUNK rows at a time.
    """
    logprobs, entropies = [], []
    for hidden, targets in zip(hidden_ND.split(CHUNK), targets_N.split(CHUNK), strict=True):
        log_probs = (model.head(hidden) / temperature).log_softmax(-1)
        logprobs.append(log_probs.gather(1, targets[:, None]).squeeze(1))
        entropies.append(-(log_probs.exp() * log_probs).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies)


def token_logprobs(model: LanguageModel, tokens_BT: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability [B, T - 1] of every token but the first, given those before it."""
    hidden = model.hidden(tokens_BT)[:, :-1]
    targets = tokens_BT[:, 1:]
    logprobs, _ = chosen_logprobs(model, hidden.flatten(0, 1), targets.flatten(), temperature)
    return logprobs.view_as(targets)


def by_length(
    rows: Sequence[Sequence[int]],
    context: int,
    batch_size: int,
    score: Callable[[list[int]], list[float]],
    on_progress: OnProgress,
) -> list[float]:
    """`score` of batches of indices into `rows`, longest together, given back in the order of `rows`.

    Raises UsageError for a row of more than `context` tokens, and L2Error for a score that is no number.
    """
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    if order and len(rows[order[0]]) > context:
        raise UsageError(f"a text of {len(rows[order[0]])} tokens exceeds the model's context of {context}")
    scores = [0.0] * len(rows)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        for index, value in zip(part, score(part), strict=True):
            if not math.isfinite(value):
                raise L2Error(f"the model gives {value} as a score; its weights are broken")
            scores[index] = value
        on_progress(start + len(part), len(order), "")
    return scores


@torch.inference_mode()
def loglikelihood(
    model: LanguageModel,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    batch_size: int = 32,
    on_progress: OnProgress = ignore,
) -> list[float]:
    """Summed log-probability, in nats, of each continuation after its context; logits are computed for those alone.

    Raises UsageError for an empty context (give BOS at least) and for more tokens than the model's context.
    """
    if not all(map(len, contexts)):
        raise UsageError("a context has no tokens, not even BOS; nothing gives its first token a probability")
    rows = [[*context, *more] for context, more in zip(contexts, continuations, strict=True)]

    def score(part: list[int]) -> list[float]:
        tokens_BT, lengths_B = pad([rows[i] for i in part], model.device)
        starts_B = torch.tensor([len(contexts[i]) for i in part], device=model.device)
        at_T = torch.arange(1, tokens_BT.shape[1], device=model.device)
        asked_BT = (at_T >= starts_B[:, None]) & (at_T < lengths_B[:, None])
        targets_N = tokens_BT[:, 1:][asked_BT]
        logprobs_N, _ = chosen_logprobs(model, model.hidden(tokens_BT)[:, :-1][asked_BT], targets_N)
        sums: list[float] = asked_BT.double().masked_scatter(asked_BT, logprobs_N.double()).sum(1).tolist()
        return sums

    return by_length(rows, model.config.max_seq_len, batch_size, score, on_progress)


@torch.inference_mode()
def last_scores(
    model: ScalarModel, rows: Sequence[Sequence[int]], batch_size: int = 32, on_progress: OnProgress = ignore
) -> list[float]:
    """The reward model's raw score at the last token of each row: the EOS that ends an answer, where it has one.

    Raises UsageError for a row without tokens or of more than the model's context, L2Error for a score of no number.
    """
    if not all(map(len, rows)):
        raise UsageError("there are no tokens to score")

    def score(part: list[int]) -> list[float]:
        tokens_BT, lengths_B = pad([rows[i] for i in part], model.device)
        scores: list[float] = model(tokens_BT).gather(1, lengths_B[:, None] - 1).squeeze(1).tolist()
        return scores

    return by_length(rows, model.config.max_seq_len, batch_size, score, on_progress)
