"""Statistics against scipy, brute force and the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from l2.eval.metrics import Estimate, exact_match, likeliest, mean, normalised, probability, ratio, wilson, win_rate

values = st.lists(st.floats(-50, 50), min_size=2, max_size=30)


@given(values)
def test_mean_is_scipys(given_values):
    found = mean(given_values)
    assert found.n == len(given_values)
    assert found.value == pytest.approx(np.mean(given_values), abs=1e-9)
    assert found.stderr == pytest.approx(stats.sem(given_values), abs=1e-9)


def test_one_item_has_no_standard_error():
    assert mean([3.0]) == Estimate(3.0, None, 1)
    with pytest.raises(ValueError, match="nothing"):
        ratio([1.0], [0.0])


@given(st.lists(st.booleans(), min_size=2, max_size=50))
def test_outcomes_have_the_binomial_error(outcomes):
    p, n = sum(outcomes) / len(outcomes), len(outcomes)
    assert mean(outcomes).stderr == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)), abs=1e-12)


def test_ratio_error_is_that_of_resampled_items():
    """Against the bootstrap, on documents of very different lengths whose rate depends on the length."""
    rng = np.random.default_rng(0)
    x = rng.lognormal(3, 1, 300)
    y = x * rng.normal(2, 0.5, 300) + 5
    found = ratio(y.tolist(), x.tolist())
    assert found.value == pytest.approx(y.sum() / x.sum())
    picks = rng.integers(0, 300, (4000, 300))
    resampled = y[picks].sum(1) / x[picks].sum(1)
    assert found.stderr == pytest.approx(resampled.std(), rel=0.05)


def test_alike_turns_of_a_dialog_count_once():
    """Turns that always agree inside a dialog tell no more than one turn would."""
    outcomes = [True, False, True, True, False, False, True, False]
    one = mean(outcomes)
    ten = ratio([10 * o for o in outcomes], [10] * len(outcomes))
    assert (ten.value, ten.stderr) == pytest.approx((one.value, one.stderr))


@given(st.integers(1, 200), st.data())
def test_wilson_is_scipys(n, data):
    successes = data.draw(st.integers(0, n))
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40))
@example([(1, 0)] * 3)
@example([(0, 1)] * 11)
def test_win_rate(pairs):
    ours, theirs = zip(*pairs, strict=True)
    wins, ties = sum(a > b for a, b in pairs), sum(a == b for a, b in pairs)
    found = win_rate(ours, theirs)
    assert found.value == pytest.approx((wins + ties / 2) / len(pairs))
    assert 0.0 <= found.interval[0] <= found.value <= found.interval[1] <= 1.0
    assert found.value + win_rate(theirs, ours).value == pytest.approx(1.0)


def test_likeliest_is_by_character():
    assert likeliest([-4.0, -6.0], ["ab", "abcd"]) == 1  # -2 against -1.5 a character
    assert likeliest([-4.0, -8.0], ["ab", "abcd"]) == 0  # level: the first


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("The  U.S.A.", "usa"),
        ("an apple, a day", "apple day"),
        ("theatre", "theatre"),
        (" 1,000\n", "1000"),
        ("a", "a"),
        ("The", "the"),
    ],
)
def test_normalised_as_squad_does(answer, plain):
    assert normalised(answer) == plain


def test_exact_match_takes_any_target():
    assert exact_match("The Nile.", ["Amazon", "nile"])
    assert not exact_match("Nile river", ["nile"])


def test_probabilities_of_any_score():
    for logit in (-800.0, -40.0, -1.5, 0.0, 0.3, 36.0, 800.0):
        assert probability(logit) == pytest.approx(expit(logit), rel=1e-12)
    assert probability(-700.0) > 0 and probability(800.0) == 1.0
