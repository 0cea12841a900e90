"""The best of K: expectations over subsets by brute force, and a world in which the chosen answers are known."""

from __future__ import annotations

from itertools import combinations, pairwise
from statistics import fmean, median, stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2.align.best_of import best_of_kl, curve, max_weights, median_weights, rank_weights, weighted
from l2.align.rejection import rejection_sample
from l2.files.jsonl import Record
from l2.generate.engine import Sampling
from l2.generate.samples import prompt_ids
from l2.generate.scoring import last_scores
from l2.model.checkpoint import new_model, scalar_from
from l2.train.optim import adamw, take_step
from l2.train.pretrain import token_losses
from tests.conftest import small_config
from tests.eval.scripted import bigram


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=7))
def test_the_mean_over_all_subsets(values):
    """Of the maximum, the median and each rank, for every size."""
    ordered, k = sorted(values), len(values)
    for n in range(1, k + 1):
        subsets = [sorted(s) for s in combinations(ordered, n)]
        assert weighted(max_weights(k, n), ordered) == pytest.approx(fmean(map(max, subsets)), abs=1e-9)
        assert weighted(median_weights(k, n), ordered) == pytest.approx(fmean(map(median, subsets)), abs=1e-9)
        for rank in range(1, n + 1):
            expected = fmean(s[rank - 1] for s in subsets)
            assert weighted(rank_weights(k, n, rank), ordered) == pytest.approx(expected, abs=1e-9)


def test_a_curve_is_the_mean_over_prompts_with_its_error():
    found = curve([[3.0, 1.0], [5.0, 5.0]])
    assert found["n"] == [1, 2] and found["max"] == [3.5, 4.0] and found["median"] == [3.5, 3.5]
    assert found["max_stderr"] == [pytest.approx(stdev([2, 5]) / 2**0.5), pytest.approx(stdev([3, 5]) / 2**0.5)]
    assert curve([[1.0]])["max_stderr"] == [None]
    assert max_weights(100, 100)[-1] == 1.0 and sum(median_weights(100, 40)) == pytest.approx(1.0)


def test_the_chosen_answers_follow_the_law_of_the_best_of_k(tokenizer):
    """A policy that says one of 24 words, and a judge whose score of each is known.

    The best of K is word i with the chance F_i^K - F_(i-1)^K, of F the distribution of scores: so are its mean score
    and its KL to the policy known, which log K - (K-1)/K bounds. A model that learned the chosen answers earns that.
    """
    size, prompts = tokenizer.vocab_size, [Record({"prompt": "how", "id": str(i)}, f"p:{i}") for i in range(100)]
    row = prompt_ids(tokenizer, prompts[0])
    words = [w for w in range(30, size) if w not in row and tokenizer.decode([w]).strip()][:24]
    logits = torch.full((size, size), -90.0)
    logits[:, 2] = 0.0  # after a word comes EOS
    logits[row[-1]] = -90.0
    logits[row[-1], words] = torch.randn(len(words), generator=torch.Generator().manual_seed(1))
    policy, judge = bigram(logits, max_seq_len=64), scalar_from(new_model(small_config(size), 1), seed=1).eval()
    scores = dict(zip(words, last_scores(judge, [[*row, w, 2] for w in words]), strict=True))
    ranked = sorted(words, key=scores.__getitem__)
    chances = torch.tensor([float(logits[row[-1], w].exp()) for w in ranked], dtype=torch.float64)
    chances /= chances.sum()
    below, worth = torch.cat([torch.zeros(1), chances.cumsum(0)]), torch.tensor([scores[w] for w in ranked]).double()
    earned = []
    for k in (1, 4, 16, 64):
        law = below[1:] ** k - below[:-1] ** k
        assert float((law * (law / chances).clamp(min=1e-300).log()).sum()) <= best_of_kl(k) + 1e-9
        rows = [row] * len(prompts)
        how = [Sampling(max_new_tokens=4, seed=k)]
        came = list(
            rejection_sample(policy, tokenizer, {"r": judge}, prompts, rows, how, name="m", k=k, batch_size=256)
        )
        found = [one.dialog["score"] for one in came]
        mean, spread = float((law * worth).sum()), float((law * worth**2).sum() - (law * worth).sum() ** 2) ** 0.5
        assert abs(fmean(found) - mean) <= 4 * spread / len(found) ** 0.5 + 1e-5
        earned.append(taught([[*row, *one.samples[fits(one)]["tokens"]] for one in came], len(row), scores))
    assert all(b > a for a, b in pairwise(earned)), earned


def fits(one) -> int:
    """The sample that was chosen."""
    return next(i for i, s in enumerate(one.samples) if s["rewards"]["r"] == one.dialog["score"])


def taught(rows, begins: int, scores) -> float:
    """The mean score of a fresh model's words after fine-tuning on `rows`, which all begin alike."""
    model = new_model(small_config(380), 5)
    optimizer, tokens = adamw(model), torch.tensor(rows)
    for _ in range(25):
        hidden = model.hidden(tokens)[:, begins - 1 : -1]
        token_losses(model, hidden.flatten(0, 1), tokens[:, begins:].flatten()).mean().backward()
        take_step(optimizer, model.parameters(), 1e-2)
    with torch.no_grad():
        chances = model(tokens[:1, :begins])[0, -1].softmax(-1)
    return sum(float(chances[word]) * score for word, score in scores.items())
