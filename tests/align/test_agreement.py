"""Gwet's coefficients against irrCAC's figures and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.align.agreement import gwet

# Krippendorff's four raters, the example of Gwet (2014): AC1 = 0.77544 is printed there.
FOUR_RATERS = """1 1 - 1/2 2 3 2/3 3 3 3/3 3 3 3/2 2 2 2/1 2 3 4/4 4 4 4/1 1 2 1/2 2 2 2/- 5 5 5/- - 1 1/- - 3 -"""
# Seven points, twelve items.
SEVEN_POINTS = "4 5 4/4 6 5/5 4/3 1 1/3 4 2/5/2 7 2/5 6 2/2 4 2/7 2 7/6 6 1/3 5 4"


def counts(rows: list[list[int]], categories: int) -> np.ndarray:
    return np.array([[float(row.count(k)) for k in range(categories)] for row in rows])


@pytest.mark.parametrize(
    ("table", "points", "ordered", "value", "stderr"),  # of irrCAC 0.4.4
    [
        (FOUR_RATERS, 5, False, 0.775444068127, 0.142949950641),
        (FOUR_RATERS, 5, True, 0.914000723552, 0.103962244645),
        (SEVEN_POINTS, 7, False, 0.050491482997, 0.058815038949),
        (SEVEN_POINTS, 7, True, 0.267236278431, 0.274189780507),
    ],
)
def test_as_irrcac_has_it(table, points, ordered, value, stderr):
    rows = [[int(each) - 1 for each in row.split() if each != "-"] for row in table.split("/")]
    assert gwet(counts(rows, points), ordered=ordered) == pytest.approx((value, stderr, 12), abs=1e-10)


ROWS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=8)


@given(ROWS, st.booleans())
def test_every_pair_of_ratings_by_brute_force(rows, ordered):
    """The formula of paper.md §7, pair by pair."""
    several = [row for row in rows if len(row) > 1]
    found = gwet(counts(rows, 4), ordered=ordered)
    if not several:
        assert found is None
        return

    def agree(a: int, b: int) -> float:
        return 1 - (a - b) ** 2 / 9 if ordered else float(a == b)

    observed = np.mean([
        np.mean([agree(a, b) for i, a in enumerate(row) for j, b in enumerate(row) if i != j]) for row in several
    ])  # fmt: skip
    shares = np.array([np.mean([row.count(k) / len(row) for row in rows]) for k in range(4)])
    total = sum(agree(a, b) for a in range(4) for b in range(4))
    chance = total / 12 * (shares * (1 - shares)).sum()
    assert found.value == pytest.approx((observed - chance) / (1 - chance))


def test_ends_by_hand():
    assert gwet(np.array([[0, 0, 3.0]] * 5), ordered=True) == (1.0, 0.0, 5)
    assert gwet(np.array([[2.0, 0], [0, 2]])).value == 1.0
    # Two raters, one item of each kind they can disagree on: p_a = 0, p_e = 1/2.
    assert gwet(np.array([[1.0, 1], [1, 1]])).value == pytest.approx(-1.0)
    assert gwet(np.eye(3)) is None, "one rater agrees with nobody"
