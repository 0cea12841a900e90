"""The truth that dedup is measured by: all pairs by brute force over plain sets, verdicts by hand."""

from __future__ import annotations

import itertools

import pytest

from l2.text.duplicates import normalised
from tests.bench.corpus import LEAST, SIZE, corpus, similar_pairs
from tests.bench.dedup import judged
from tests.conftest import sentences


@pytest.fixture(scope="module")
def made():
    texts = [" ".join(f"{word}{i % 50}" for word in sentences(40)[i % 40].split()) for i in range(4000)]
    return list(corpus(texts, 200_000, seed=3))


def test_the_truth_is_that_of_plain_sets(made):
    words = [normalised(document["text"]).decode().split() for document in made]
    sets = [{tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in words]
    pairs = itertools.combinations(range(len(sets)), 2)
    expected = [(a, b, len(sets[a] & sets[b]) / len(sets[a] | sets[b])) for a, b in pairs]
    found = list(similar_pairs(document["text"] for document in made))
    assert found == [pair for pair in expected if pair[2] >= LEAST]
    assert len(found) > 5


def test_the_corpus_is_as_large_as_asked_and_the_same_again(made):
    sizes = [len(document["text"].encode()) for document in made]
    assert 190_000 < sum(sizes) < 210_000
    originals = [size for document, size in zip(made, sizes, strict=True) if document["of"] is None]
    assert all(abs(size - SIZE) < 200 for size in originals)
    assert len(originals) == pytest.approx(len(made) * 6 / 7, abs=2)
    texts = [" ".join(f"{word}{i % 50}" for word in sentences(40)[i % 40].split()) for i in range(4000)]
    assert list(corpus(texts, 200_000, seed=3)) == made


def test_verdicts():
    """0 ~ 1 ~ 2 (0 and 2 less alike), 3 ~ 4, 5 alone."""
    pairs = [(0, 1, 0.9), (0, 2, 0.7), (1, 2, 0.8), (3, 4, 1.0)]
    best = judged(pairs, {0, 2, 3, 5}, 6)
    assert (best.right, best.false, best.missed) == (2, 0, 0)
    worst = judged(pairs, {0, 1, 3, 4}, 6)  # 2 rightly goes for 1; 1 and 4 should have, 5 should not
    assert (worst.right, worst.false, worst.missed) == (1, 1, 2)
    assert worst.both_kept == {0.7: (0, 1), 0.8: (0, 1), 0.9: (1, 1), 1.0: (1, 1)}
    chained = judged(pairs, {0, 3, 5}, 6)  # 2 was dropped for 1, which was dropped for 0
    assert (chained.right, chained.false, chained.missed) == (2, 1, 0)
