"""Gwet's coefficients against irrCAC's figures and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.eval.agreement import gwet, ordinal

# Krippendorff's four raters, the example of Gwet (2014): AC1 = 0.77544 is printed there.
FOUR_RATERS = """1 1 - 1/2 2 3 2/3 3 3 3/3 3 3 3/2 2 2 2/1 2 3 4/4 4 4 4/1 1 2 1/2 2 2 2/- 5 5 5/- - 1 1/- - 3 -"""
FOUR = [[int(each) - 1 for each in row.split() if each != "-"] for row in FOUR_RATERS.split("/")]
K = np.arange(5)


@pytest.mark.parametrize(
    ("weights", "value", "stderr"),  # of irrCAC 0.4.4
    [
        (np.eye(5), 0.775444068127, 0.142949950641),
        (ordinal(5), 0.898939769908, 0.106903523815),
        (1 - np.abs(K[:, None] - K) / 4, 0.858739136433, 0.117329021881),
        (1 - (K[:, None] - K) ** 2 / 16, 0.914000723552, 0.103962244645),
    ],
)
def test_four_raters_as_irrcac_has_them(weights, value, stderr):
    found = gwet(FOUR, weights)
    assert (found.value, found.stderr, found.n) == pytest.approx((value, stderr, 12), abs=1e-10)


def test_seven_points_three_raters_some_missing():
    rows = ["4 5 4", "4 6 5", "5 4", "3 1 1", "3 4 2", "5", "2 7 2", "5 6 2", "2 4 2", "7 2 7", "6 6 1", "3 5 4"]
    given_rows = [[int(each) - 1 for each in row.split()] for row in rows]
    assert gwet(given_rows, np.eye(7))[:2] == pytest.approx((0.050491482997, 0.058815038949), abs=1e-10)
    assert gwet(given_rows, ordinal(7))[:2] == pytest.approx((0.254170975044, 0.248103522857), abs=1e-10)


rows_of = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=8)


@given(rows_of, st.sampled_from([np.eye(4), ordinal(4)]))
def test_every_pair_of_ratings_by_brute_force(rows, weights):
    """The formula of paper.md §7, pair by pair."""
    several = [row for row in rows if len(row) > 1]
    found = gwet(rows, weights)
    if not several:
        assert found is None
        return
    observed = np.mean(
        [np.mean([weights[a, b] for i, a in enumerate(row) for j, b in enumerate(row) if i != j]) for row in several]
    )
    shares = np.array([np.mean([row.count(k) / len(row) for row in rows]) for k in range(4)])
    chance = weights.sum() / 12 * (shares * (1 - shares)).sum()
    assert found.value == pytest.approx((observed - chance) / (1 - chance))


@given(rows_of, st.randoms())
def test_order_does_not_matter(rows, random):
    shuffled = [random.sample(row, len(row)) for row in random.sample(rows, len(rows))]
    assert gwet(shuffled, ordinal(4)) == (pytest.approx(gwet(rows, ordinal(4))) if gwet(rows, np.eye(4)) else None)


def test_full_agreement_is_one_even_on_one_category():
    assert gwet([[2, 2, 2]] * 5, ordinal(5))[:2] == (1.0, 0.0)
    assert gwet([[0, 0], [3, 3]], np.eye(4)).value == pytest.approx(1.0)
