"""Packing against brute force, and masks against a loop over positions."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.files.errors import UsageError
from l2.tokens.packing import Rows, evened, pack, row_positions

CAPACITY = 12
lengths = st.lists(st.integers(0, CAPACITY), max_size=40)


def lists(rows: Rows) -> list[list[int]]:
    return [row.tolist() for row in rows]


def best_fit_decreasing(items: list[int], capacity: int) -> list[int]:
    """How full the rows are, by looking at every row for every item."""
    rows: list[int] = []
    for item in sorted(items, reverse=True):
        fits = [row for row in range(len(rows)) if rows[row] + item <= capacity]
        if fits:
            rows[max(fits, key=lambda row: rows[row])] += item
        else:
            rows.append(item)
    return rows


def fewest_rows(items: list[int], capacity: int) -> int:
    """The optimum, by trying everything."""

    def place(rest: tuple[int, ...], rows: tuple[int, ...]) -> int:
        if not rest:
            return len(rows)
        options = {(*rows, rest[0])}
        options |= {
            tuple(sorted((*rows[:i], rows[i] + rest[0], *rows[i + 1 :])))
            for i in range(len(rows))
            if rows[i] + rest[0] <= capacity
        }
        return min(place(rest[1:], option) for option in options)

    return place(tuple(sorted(items, reverse=True)), ())


@given(lengths)
def test_it_is_best_fit_decreasing(items):
    rows = lists(pack(items, CAPACITY))
    assert sorted(i for row in rows for i in row) == list(range(len(items)))  # each once
    sums = [sum(items[i] for i in row) for row in rows]
    assert sorted(sums) == sorted(best_fit_decreasing(items, CAPACITY))
    assert rows == lists(pack(items, CAPACITY))


@given(st.lists(st.integers(1, CAPACITY), max_size=6))
def test_it_is_near_the_optimum(items):
    """At most 11/9 of the optimum and 6/9 of a row more (Dosa 2007 for first fit; best fit decreasing is as good)."""
    assert 9 * len(pack(items, CAPACITY)) <= 11 * fewest_rows(items, CAPACITY) + 6


def test_a_case_by_hand():
    assert lists(pack([5, 8, 4, 2, 1], 10)) == [[1, 3], [0, 2, 4]]
    assert lists(pack([], 10)) == [] and lists(pack([10, 10], 10)) == [[0], [1]]


def test_what_does_not_fit():
    with pytest.raises(UsageError, match="a sequence of 11 tokens does not fit into 10"):
        pack([3, 11], 10)


def test_many_sequences_take_little_time():
    items = [1 + i * 7919 % 4096 for i in range(200_000)]
    start = time.monotonic()
    pack(items, 4096)
    assert time.monotonic() - start < 5


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_each_sequence_counts_from_zero(items):
    assert row_positions(items).tolist() == [p for n in items for p in range(n)]


@given(st.integers(1, 4), st.integers(1, 90), st.floats(0, 1), st.integers(0, 99))
def test_wanted_places_become_a_multiple_with_as_few_more_as_can_be(B, T, share, seed):
    wanted = np.random.default_rng(seed).random((B, T)) < share
    more = evened(wanted, 64)
    assert more.shape == wanted.shape and (more | ~wanted).all()
    assert more.sum() == min(-(-wanted.sum() // 64) * 64, wanted.size)
