"""Matches with mismatches against brute force, across pieces, for both widths of tokens; and planted ones."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2.eval.contamination import covered, shares
from l2.tokens import suffixes
from l2.tokens.suffixes import MISMATCHES, SEED, Piece, joined, longest_matches


class Memory:
    """What a Shard is to the search."""

    def __init__(self, tokens: list[int], dtype: str) -> None:
        self.tokens = np.array(tokens, dtype)
        self.token_count = len(tokens)

    def read(self, first: int, last: int) -> np.ndarray:
        return self.tokens[first:last].copy()


def matches(text: list[int], corpus: list[int]) -> set[tuple[int, int]]:
    """(start, end) in `text` of all matches with a place of `corpus`, by the words of the definition."""
    found = set()
    for i in range(len(text)):
        for p in range(len(corpus)):
            for length in range(SEED, min(len(text) - i, len(corpus) - p) + 1):
                differs = [a != b for a, b in zip(text[i : i + length], corpus[p : p + length], strict=True)]
                if not any(differs[:SEED]) and sum(differs) <= MISMATCHES and not differs[-1]:
                    found.add((i, i + length))
    return found


# Few different tokens, so that runs of ten are met again; those at the ends of each byte try the order of the suffixes.
few = st.sampled_from([0, 1, 255, 256])


def corpus_of(seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Texts, and shards that hold parts of them with a few tokens changed, most of them behind the first ten."""
    random = np.random.default_rng(seed)
    alphabet = [(0, 1), (0, 1, 255, 256)][seed % 2]
    texts = [random.choice(alphabet, random.integers(0, 45)) for _ in range(random.integers(1, 4))]
    shards = []
    for _ in range(random.integers(1, 3)):
        parts = []
        for text in random.permuted(np.arange(len(texts)))[: random.integers(0, 3)]:
            begin = random.integers(0, 6)
            part = texts[text][begin : begin + random.integers(8, 45)].copy()
            at = random.integers(min(SEED, len(part)), len(part) + 1, random.integers(0, 7))
            part[at[at < len(part)]] = 7
            parts += [random.choice(alphabet, random.integers(0, 6)), part]
        shards.append([int(token) for part in parts for token in part])
    return [text.tolist() for text in texts], shards


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(["<u2", "<u4"]),
    st.sampled_from([32, 64, 1 << 20]),
    st.sampled_from([1, 7, 1000]),
)
def test_as_brute_force_has_it(seed, dtype, piece_bytes, pairs):
    texts, shards = corpus_of(seed)
    with patch.multiple(suffixes, PIECE_BYTES=piece_bytes, PAIRS=pairs):
        all_ = joined(texts)
        longest = longest_matches(all_, [Memory(shard, dtype) for shard in shards])
    expected = {length: [] for length in (10, 13, 20)}
    for text in texts:
        spans = {span for shard in shards for span in matches(text, shard)}
        for length, tokens in expected.items():
            tokens += [any(i <= j < end and end - i > length for i, end in spans) for j in range(len(text))]
    for length, tokens in expected.items():
        assert covered(longest, length).tolist() == tokens


@settings(max_examples=50, deadline=None)
@given(st.lists(few, min_size=1, max_size=60), st.sampled_from(["<u2", "<u4"]))
def test_suffixes_stand_in_the_order_of_their_bytes(tokens, dtype):
    piece = Piece(np.array(tokens, dtype))
    assert piece.suffixes.tolist() == sorted(range(len(tokens)), key=lambda i: piece.tokens[i:].tobytes())


def test_what_was_planted_is_found_and_nothing_else(tmp_path):
    random = np.random.default_rng(0)
    corpus = random.integers(0, 30_000, 200_000)  # no ten tokens of chance are equal
    texts, expected = [], []
    for _ in range(200):
        text, truth = random.integers(30_000, 60_000, 120), np.zeros(120, bool)
        length = int(random.integers(8, 100))
        start, place = int(random.integers(0, 121 - length)), int(random.integers(0, 130_000 - length))
        text[start : start + length] = corpus[place : place + length]
        wrong = random.choice(length, int(random.integers(0, 5)), replace=False)
        wrong = wrong[(wrong >= SEED) & (wrong < length - 1)]
        text[start + wrong] = 60_001
        if length > SEED:
            truth[start : start + length] = True
        texts.append(text.tolist())
        expected.append(truth.mean())
    shards = [Memory(part.tolist(), "<u2") for part in np.split(corpus, [130_000])]
    with patch.object(suffixes, "PIECE_BYTES", 1 << 16):
        found = shares(texts, shards, tmp_path)[10]
        again = shares(texts, shards, tmp_path)[10]
    assert np.array_equal(found, again), "the kept suffix arrays tell the same"
    assert np.allclose(found, expected)


def test_a_phrase_in_too_many_places_is_followed_where_it_goes_on_the_longest():
    random = np.random.default_rng(2)
    phrase, rest = random.integers(3, 300, 15), random.integers(300, 600, 30)
    places = [np.concatenate([phrase, rest[: random.integers(0, 5)], random.integers(600, 900, 9)]) for _ in range(300)]
    places[random.integers(0, 300)] = np.concatenate([phrase, rest])
    text = np.concatenate([random.integers(900, 950, 5), phrase, rest])
    with patch.object(suffixes, "MOST", 10):
        for dtype in ("<u2", "<u4"):
            longest = longest_matches(joined([text.tolist()]), [Memory(np.concatenate(places).tolist(), dtype)])
            assert longest.tolist() == [0] * 5 + [45] + [0] * 44


def test_a_missing_library_is_named():
    with (
        patch.dict("sys.modules", {"pydivsufsort": None}),
        pytest.raises(Exception, match=r"pip install 'l2\[contam\]'"),
    ):
        Piece(np.zeros(3, "<u2"))
