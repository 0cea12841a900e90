"""Reward-model training: both answers in one row against each alone, and against transformers and the formula."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from l2.align.preferences import SAFE, UNLABELLED, Pair
from l2.align.reward import Ranking, final_scores, pair_micro, shared
from l2.model.checkpoint import load_reward_model, new_model, save_model, scalar_from
from l2.model.forks import Forked
from l2.train import fused
from l2.train.loop import Settings, prepare, update
from tests.conftest import small_config

DIM = 32


def some_pairs(shapes, seed=0):
    """A pair for each (tokens shared, chosen alone, rejected alone), of random ids, BOS first and EOS last."""
    draw = random.Random(seed)
    pairs = []
    for same, *own in shapes:
        start = [1, *(draw.randrange(3, 60) for _ in range(same - 1))]
        # ids that differ where the answers begin
        both = [[*start, 60 + i, *(draw.randrange(3, 60) for _ in range(n - 2)), 2] for i, n in enumerate(own)]
        label = draw.choice([*SAFE.values(), UNLABELLED])
        pairs.append(Pair(*both, draw.choice([0.0, 1 / 3, 3.0]), label, None))
    return pairs


def sharp(seed, **shape):
    """A model whose attention chooses, so that a token that is seen by mistake shows."""
    model = scalar_from(new_model(small_config(62, **shape), seed), seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    return model


def alone(model, pairs):
    """Scores [P, 2] of the answers one at a time, each a row of its own without padding."""
    rows = [[pair.chosen, pair.rejected] for pair in pairs]
    return torch.stack([torch.stack([model(torch.tensor([row]))[0, -1] for row in both]) for both in rows])


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.double() for name, weight in model.named_parameters()}


def formula(scores_P2, pairs, aux):
    """The loss as the paper and our docstrings write it, spelt out; summed over pairs."""
    margin = torch.tensor([pair.margin for pair in pairs], dtype=scores_P2.dtype)
    total = torch.log1p(torch.exp(-(scores_P2[:, 0] - scores_P2[:, 1] - margin))).sum()
    for pair, both in zip(pairs, scores_P2, strict=True):
        for label, score in zip(pair.safe, both, strict=True):
            if label >= 0:
                total = total - aux * torch.log(torch.sigmoid(score if label else -score))
    return total


@pytest.mark.parametrize("compiled", [True, False])
@settings(max_examples=15, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 60), st.integers(2, 50), st.integers(2, 50)), min_size=1, max_size=4),
    heads=st.sampled_from([(4, 4), (4, 2), (4, 1)]),
    seed=st.integers(0, 99),
)
@example(shapes=[(150, 120, 90), (100, 2, 200)], heads=(4, 2), seed=0)  # several blocks of queries
@example(shapes=[(2, 50, 60), (30, 50, 60)], heads=(4, 2), seed=0)
def test_both_answers_in_one_row_are_each_alone(compiled, shapes, heads, seed):
    """Loss and every gradient, to 1e-5 of the answers alone in double precision."""
    pairs = some_pairs(shapes, seed)
    model = sharp(seed, n_heads=heads[0], n_kv_heads=heads[1], max_seq_len=512)
    exact = deepcopy(model).double()
    truth = formula(alone(exact, pairs), pairs, 0.7)
    expected = gradients(exact, truth)
    if compiled:
        fused.fuse(model)
    objective = Ranking(pairs, len(pairs), len(pairs), 1, 0, DIM, aux_weight=0.7)
    sums = objective.sums(model, pair_micro(pairs, DIM).tensors)
    assert sums["loss"].item() == pytest.approx(truth.item(), rel=1e-5)
    for name, found in gradients(model, sums["loss"]).items():
        assert float((found - expected[name]).norm()) <= 1e-5 * (1 + float(expected[name].norm())), name


@pytest.mark.skipif(fused.library(torch.float32) is None, reason="no C++ compiler")
def test_fused_pairs_build_no_mask(monkeypatch):
    model = sharp(0)
    fused.fuse(model)
    micro = pair_micro(some_pairs([(20, 9, 14)]), DIM)
    expected = final_scores(sharp(0), micro.tensors)
    monkeypatch.setattr(Forked, "mask", None)
    torch.testing.assert_close(final_scores(model, micro.tensors), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError):
        final_scores(sharp(0), micro.tensors)


def test_what_two_answers_begin_with_is_read_once():
    pairs = some_pairs([(40, 8, 12), (30, 5, 5)])
    micro = pair_micro(pairs, DIM)
    assert micro.tokens == 40 + 8 + 12 + 30 + 5 + 5 and micro.tensors["tokens_BT"].shape == (2, 60)
    assert micro.tensors["fork_B2"].tolist() == [[40, 48], [30, 35]] and micro.count == 2
    longer = replace(pairs[0], rejected=[*pairs[0].chosen, 1, 9, 2])  # goes on after the other has ended
    assert shared(longer, DIM) == len(longer.chosen) - 1
    # long answers to a short prompt would look at one another for nothing: two rows
    assert pair_micro(some_pairs([(2, 60, 70)]), DIM).tensors["tokens_BT"].shape == (2, 72)
    model = sharp(3, max_seq_len=256)
    torch.testing.assert_close(
        final_scores(model, pair_micro([longer], DIM).tensors), alone(model, [longer]), rtol=1e-5, atol=1e-5
    )


def test_the_first_step_is_transformers_and_the_formula(tmp_path, tokenizer):
    """The loss and the gradients of LlamaForSequenceClassification on padded rows; and its scores are ours."""
    from transformers import LlamaForSequenceClassification

    model = scalar_from(new_model(small_config(tokenizer.vocab_size, max_seq_len=128)), seed=1)
    pairs = some_pairs([(20, 9, 14), (11, 30, 4), (5, 3, 3), (2, 40, 45)])
    save_model(model, tmp_path / "rm", tokenizer)
    theirs = LlamaForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    ids, mask = (torch.zeros(8, max(map(len, rows)), dtype=torch.long) for _ in range(2))
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    chosen, rejected = theirs(ids, attention_mask=mask).logits.squeeze(-1).chunk(2)
    loss = -F.logsigmoid(chosen - rejected - torch.tensor([pair.margin for pair in pairs])).mean()
    expected = gradients(theirs, loss)
    objective = Ranking(pairs, 4, 2, 1, 0, DIM)
    training = prepare(model.train(), objective, Settings(steps=1, lr=0.0, warmup=1, grad_clip=1e9))
    found: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters():
        weight.register_post_accumulate_grad_hook(lambda w, name=name: found.update({name: w.grad.double().clone()}))
    line = update(objective, training, Settings(steps=1, lr=0.0, warmup=1, grad_clip=1e9))
    assert line["loss"] == pytest.approx(loss.item(), abs=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-5)
    torch.testing.assert_close(final_scores(model, pair_micro(pairs, DIM).tensors)[:, 0], chosen)
    theirs.save_pretrained(tmp_path / "theirs")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (tmp_path / "theirs" / name).write_bytes((tmp_path / "rm" / name).read_bytes())
    back = load_reward_model(tmp_path / "theirs")
    torch.testing.assert_close(alone(back, pairs), alone(model, pairs), rtol=0, atol=0)
