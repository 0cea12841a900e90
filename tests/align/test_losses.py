"""Every loss against a closed form, a brute-force sum, scipy or plain autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from torch.distributions import Categorical, kl_divergence

from l2.align.losses import (
    GATE_LOGIT,
    MARGINS,
    RATINGS,
    gae,
    gate,
    kl_k1,
    kl_k3,
    ppo_policy_loss,
    ppo_value_loss,
    ranking_loss,
    safety_loss,
    whiten,
    whitening_std,
)

floats = st.floats(-5, 5, width=32)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_margins_are_table_27():
    assert [MARGINS["small"][r] for r in RATINGS] == [1, 2 / 3, 1 / 3, 0]
    assert [MARGINS["large"][r] for r in RATINGS] == [3, 2, 1, 0]
    assert set(MARGINS["none"].values()) == {0.0}


@given(floats, floats, st.sampled_from([0.0, 1 / 3, 1.0, 3.0]))
def test_ranking_loss_is_equation_2(chosen, rejected, margin):
    expected = -math.log(expit(chosen - rejected - margin))
    assert float(ranking_loss(t(chosen), t(rejected), t(margin))) == pytest.approx(expected, rel=1e-9)


def test_ranking_loss_wants_the_chosen_answer_higher_by_the_margin():
    chosen, rejected = t(0.3).requires_grad_(), t(-0.2).requires_grad_()
    ranking_loss(chosen, rejected, t(1.0)).sum().backward()
    slope = expit(-(0.3 + 0.2 - 1.0))
    assert float(chosen.grad) == pytest.approx(-slope) and float(rejected.grad) == pytest.approx(slope)
    # Scores far apart neither overflow nor vanish.
    assert ranking_loss(t(-400.0), t(400.0), t(3.0)).tolist() == [803.0]


def test_safety_loss_is_the_cross_entropy_of_the_label():
    scores, labels = t(-2.0, 0.0, 3.0, 3.0), t(0.0, 1.0, 1.0, 0.0)
    expected = [
        -math.log(expit(s) if y else 1 - expit(s)) for s, y in zip(scores.tolist(), labels.tolist(), strict=True)
    ]
    assert safety_loss(scores, labels).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("safe", "helpful", "tagged", "expected"),
    [
        (2.0, -1.0, False, -1.0),  # safe enough, not tagged: helpfulness counts
        (2.0, -1.0, True, 2.0),  # tagged: safety counts, however high
        (-2.0, 5.0, False, -2.0),  # σ(-2) = 0.12 < 0.15
        (-1.7, 5.0, False, 5.0),  # σ(-1.7) = 0.154
        (GATE_LOGIT, 5.0, False, 5.0),  # 0.15 itself is not below 0.15
        (math.nextafter(GATE_LOGIT, -9), 5.0, False, math.nextafter(GATE_LOGIT, -9)),
        (-40.0, 40.0, False, -40.0),  # where σ is 0 or 1 in fp32 and LOGIT of it infinite
        (40.0, -40.0, False, -40.0),
        (40.0, -40.0, True, 40.0),
        (-40.0, -40.0, True, -40.0),
    ],
)
def test_gate_table(safe, helpful, tagged, expected):
    assert gate(t(safe), t(helpful), torch.tensor([tagged])).tolist() == [expected]


@given(st.lists(st.tuples(st.floats(-12, 12), st.floats(-12, 12), st.booleans()), min_size=1))
def test_gate_is_the_papers_rule_on_probabilities(rows):
    """R_c = R_s if is_safety or R_s < 0.15 else R_h, then LOGIT (paper §3.2.3)."""
    safe, helpful, tagged = (np.array(column) for column in zip(*rows, strict=True))
    expected = logit(np.where(tagged | (expit(safe) < 0.15), expit(safe), expit(helpful)))
    found = gate(torch.tensor(safe), torch.tensor(helpful), torch.tensor(tagged))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert pytest.approx(logit(0.15)) == GATE_LOGIT


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=50))
def test_whitened_values_have_mean_0_and_std_1(values):
    x = np.array(values)
    found = whiten(torch.tensor(values, dtype=torch.float64)).numpy()
    if x.std() < 1e-6:
        np.testing.assert_allclose(found, 0, atol=1e-6)
    else:
        np.testing.assert_allclose(found, (x - x.mean()) / np.sqrt(x.var() + 1e-8), rtol=1e-9, atol=1e-7)


def test_whitening_at_its_edges():
    assert whiten(t(3.5)).tolist() == [0.0]  # one value: no spread to divide by
    assert whiten(t(2.0, 2.0, 2.0)).tolist() == [0.0, 0.0, 0.0]
    assert whiten(t(0.0, 1e-7)).abs().max() < 1e-6  # rounding noise stays noise
    # fp32 sums would lose the spread of large values.
    assert whiten(torch.tensor([1e7, 1e7 + 2.0])).tolist() == pytest.approx([-1.0, 1.0])
    assert whiten(t(4.0), 1.0, 2.0).tolist() == [1.5]
    assert whitening_std(1, 9.0) == 1.0 and whitening_std(5, 9.0) == pytest.approx(3.0)


def brute_force_gae(rewards, values, gamma, lam):
    """Σ_l (γλ)^l δ_(t+l) as it stands in Schulman et al. 2016, for one row without gaps."""
    later = [*values, 0.0][1:]
    delta = [r + gamma * v1 - v0 for r, v0, v1 in zip(rewards, values, later, strict=True)]
    return [sum((gamma * lam) ** (j - i) * delta[j] for j in range(i, len(delta))) for i in range(len(delta))]


@settings(deadline=None)
@given(st.data(), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_discounted_sum_of_td_errors(data, gamma, lam):
    """Whatever is masked, on either side or in between, is as if it were not there, and gets 0."""
    B, T = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 7))
    grid = st.lists(st.lists(floats, min_size=T, max_size=T), min_size=B, max_size=B)
    rewards, values = data.draw(grid), data.draw(grid)
    mask = data.draw(st.lists(st.lists(st.booleans(), min_size=T, max_size=T), min_size=B, max_size=B))
    found = gae(*(torch.tensor(x, dtype=torch.float64) for x in (rewards, values)), torch.tensor(mask), gamma, lam)
    for b in range(B):
        on = [i for i in range(T) if mask[b][i]]
        expected = brute_force_gae([rewards[b][i] for i in on], [values[b][i] for i in on], gamma, lam)
        assert found[b][on].tolist() == pytest.approx(expected, abs=1e-6)
        assert all(found[b, i] == 0 for i in range(T) if i not in on)


def test_gae_with_the_true_values_is_the_td_error_of_the_last_step():
    """On a chain whose V is known, only the step that reveals the reward has an advantage."""
    values = torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.5]])
    rewards = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])
    mask = torch.ones(1, 5, dtype=torch.bool)
    found = gae(rewards, values, mask, 1.0, 0.95)
    expected = [0.5 * 0.95**k for k in (4, 3, 2, 1, 0)]
    assert found[0].tolist() == pytest.approx(expected)
    assert gae(rewards, values, mask, 1.0, 0.0)[0].tolist() == pytest.approx([0, 0, 0, 0, 0.5])
    assert gae(rewards, values, mask, 1.0, 1.0)[0].tolist() == pytest.approx([0.5] * 5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [  # slope: of the loss by log π
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # far enough up: clipped
        (0.5, 2.0, -1.0, -1.0),  # wrong way: never clipped
        (0.5, -2.0, 1.6, 0.0),  # far enough down: clipped
        (1.5, -2.0, 3.0, 3.0),  # wrong way: never clipped
    ],
)
def test_ppo_policy_loss_table(ratio, advantage, loss, slope):
    logprob = t(math.log(ratio) - 1.0).requires_grad_()
    found = ppo_policy_loss(logprob, t(-1.0), t(advantage))
    found.sum().backward()
    assert found.tolist() == pytest.approx([loss]) and float(logprob.grad) == pytest.approx(slope)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss"),
    [
        (0.1, 0.0, 1.0, 0.405),  # within the clip: ½ (0.1 - 1)²
        (0.9, 0.0, 1.0, 0.32),  # clipped to 0.2: the larger error counts
        (-0.5, 0.0, 1.0, 1.125),  # away from the target: not clipped
    ],
)
def test_ppo_value_loss_table(value, old, target, loss):
    assert ppo_value_loss(t(value), t(old), t(target)).tolist() == pytest.approx([loss])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000))
def test_kl_estimators_are_unbiased(seed):
    """Summed over a small vocabulary with its probabilities, both give KL(π ‖ π_0); k3 is never negative."""
    logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    policy, reference = Categorical(logits=logits[0]), Categorical(logits=logits[1])
    expected = float(kl_divergence(policy, reference))
    k1, k3 = (f(policy.logits, reference.logits) for f in (kl_k1, kl_k3))
    assert float((policy.probs * k1).sum()) == pytest.approx(expected)
    assert float((policy.probs * k3).sum()) == pytest.approx(expected)
    assert bool((k3 >= 0).all()) and bool((k1 < 0).any())
