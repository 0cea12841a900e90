"""MinHash against datasketch, shingles and similarity against plain sets, survivors against brute force."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from l2.text import duplicates
from l2.text.duplicates import (
    BANDS,
    ROWS,
    SIMILAR,
    band_keys,
    exact_key,
    jaccard,
    normalised,
    permutations,
    shingles,
    signature,
)
from tests.text.in_memory import near_duplicates


def grams(words: list[str]) -> set[tuple[str, ...]]:
    """The 5-grams of a list of words as plain tuples."""
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def true_jaccard(a: list[str], b: list[str]) -> float:
    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


def keys_of(texts: list[str]) -> np.ndarray:
    return np.stack([band_keys(signature(shingles(normalised(text)))) for text in texts])


@contextmanager
def no_compiler() -> Iterator[None]:
    """As it is where duplicates.cpp can't be compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "fast", lambda: None)
        yield


any_text = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.text(
        "aB \t\n\0\x1c\x85\xa0.-_é\u0301ÉİßΣ“”—\u1680\u3000東京กำ한\U0002000b\U0003ffff\U00040000\U0010ffff",
        max_size=80,
    ),
    st.lists(st.sampled_from(["the", "cat", "sat", "l'été", "हिन्दी", "NHK東京"]), max_size=40).map(" ".join),
)
some_words = st.lists(st.sampled_from(["red", "green", "blue", "grey"]), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The cat, the “CAT”!", "the cat the cat"),
        ("  don't\n\tstop --- it's_time 3.5", "don t stop it s time 3 5"),
        ("Cafe\u0301 CAFÉ", "café café"),
        ("हिन्दी में, लिखा", "हिन्दी में लिखा"),
        ("東京とNHK。", "東 京 と nhk"),
        ("?! --", "?! --"),
        ("", ""),
    ],
)
def test_normalisation(text, normal):
    assert normalised(text) == normal.encode()


def test_exact_copies_differ_in_case_and_punctuation_alone():
    assert exact_key(normalised("Hello, world")) == exact_key(normalised("hello  WORLD!"))
    assert exact_key(normalised("hello world")) != exact_key(normalised("helloworld"))
    assert exact_key(normalised("!!!")) != exact_key(normalised("???"))
    assert exact_key(b"abc") == xxhash.xxh3_128(b"abc").digest()


@settings(max_examples=300)
@given(some_words, some_words)
def test_similarity_is_that_of_plain_sets(a, b):
    A, B = (shingles(normalised(" ".join(words))) for words in (a, b))
    assert A.size == len(grams(a)) and B.size == len(grams(b))
    assert jaccard(A, B) == true_jaccard(a, b)


@settings(max_examples=500, deadline=None)  # it is compiled the first time
@given(any_text, any_text)
def test_compiled_and_not_the_same_comes_out(a, b):
    assert duplicates.fast(), "no C++ compiler"

    def everything():
        normals = [normalised(text) for text in (a, b)]
        sets = [shingles(normal) for normal in normals]
        return normals, [s.tolist() for s in sets], [signature(s).tolist() for s in sets], jaccard(*sets)

    with_it = everything()
    with no_compiler():
        assert everything() == with_it


@given(any_text)
def test_shingles_are_hashes_of_five_words_each(text):
    """The polynomial at an odd number modulo 2^64, one Python integer at a time."""

    def hash_of(shingle: bytes) -> int:
        x = sum((byte + 1) * 0x9E3779B97F4A7C15**k for k, byte in enumerate(shingle)) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    words = normalised(text).split(b" ")
    expected = {hash_of(b" ".join(words[i : i + 5])) for i in range(max(1, len(words) - 4))}
    assert shingles(normalised(text)).tolist() == sorted(expected)


@pytest.mark.parametrize("size", [1, 5, 1023, 1024, 1025, 5000])
def test_signatures_equal_datasketch_affine32(size):
    from datasketch import MinHash

    hashes = np.random.default_rng(size).integers(0, 1 << 64, size, dtype=np.uint64)
    theirs = MinHash(BANDS * ROWS, seed=1, scheme="affine32", hashfunc=lambda value: value)
    theirs.update_batch([int(value) >> 32 for value in hashes])
    ours = signature(hashes)
    assert ours.dtype == theirs.hashvalues.dtype == np.uint32
    assert np.array_equal(ours, theirs.hashvalues)
    with no_compiler():
        assert np.array_equal(signature(hashes), theirs.hashvalues)


def test_permutations_equal_datasketch_for_any_seed():
    from datasketch import MinHash

    for count, seed in ((1, 0), (112, 7), (256, 12345)):
        assert np.array_equal(permutations(count, seed), MinHash(count, seed=seed, scheme="affine32").permutations)


def test_band_keys_agree_exactly_where_all_rows_of_a_band_agree():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 1 << 32, BANDS * ROWS, dtype=np.uint32)
    for row in range(BANDS * ROWS):
        b = a.copy()
        b[row] += np.uint32(1)
        assert [i for i in range(BANDS) if band_keys(a)[i] != band_keys(b)[i]] == [row // ROWS]


@pytest.mark.parametrize(("common", "size"), [(80, 90), (60, 90)])  # of each set; J = 0.8 and 0.5
def test_candidates_come_as_often_as_the_banding_formula_says(common, size):
    rng = np.random.default_rng(1)
    J = common / (2 * size - common)
    hits, pairs = 0, 600
    for _ in range(pairs):
        values = rng.integers(0, 1 << 64, 2 * size - common, dtype=np.uint64)
        a, b = values[:size], values[size - common :]
        hits += bool(np.any(band_keys(signature(a)) == band_keys(signature(b))))
    expected = 1 - (1 - J**ROWS) ** BANDS
    assert hits / pairs == pytest.approx(expected, abs=4 * (expected * (1 - expected) / pairs) ** 0.5)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from("ab"), min_size=6, max_size=9), st.tuples(st.integers(0, 2), st.integers(0, 2))
        ),
        max_size=12,
    )
)
def test_survivors_equal_brute_force(documents):
    """In input order: drop what is 0.8 similar to an earlier kept document that shares a key; else keep."""
    words = [document for document, _ in documents]
    keys = [key for _, key in documents]
    kept: list[int] = []
    expected = {}
    for i in range(len(words)):
        for j in kept:
            candidate = any(a == b for a, b in zip(keys[i], keys[j], strict=True))
            if candidate and true_jaccard(words[i], words[j]) >= SIMILAR:
                expected[i] = (j, true_jaccard(words[i], words[j]))
                break
        else:
            kept.append(i)
    sets = [shingles(normalised(" ".join(document))) for document in words]
    assert near_duplicates(np.array(keys, np.uint64).reshape(-1, 2), sets.__getitem__) == expected


def test_a_chain_of_similar_pairs_is_no_cluster():
    """Each document resembles its neighbours, the ends have nothing in common: the ends must both survive."""
    words = [f"w{i}" for i in range(400)]
    texts = [" ".join(words[start : start + 104]) for start in range(0, 290, 10)]
    sets = [shingles(normalised(text)) for text in texts]
    assert all(jaccard(a, b) > SIMILAR for a, b in pairwise(sets))
    assert jaccard(sets[0], sets[-1]) == 0
    # One bucket for all: every pair is a candidate.
    dropped = near_duplicates(np.zeros((len(texts), 1), np.uint64), sets.__getitem__)
    assert sorted(dropped) == list(range(1, len(texts), 2))
    for number, (kept, likeness) in dropped.items():
        assert kept not in dropped and kept < number
        assert likeness == jaccard(sets[number], sets[kept]) >= SIMILAR


def test_near_copies_are_found_and_strangers_left_alone():
    """200 pages, 100 of them with a copy in which a word in a hundred changed (J about 0.9 and more)."""
    rng = random.Random(0)
    pages = [[f"w{rng.randrange(5000)}" for _ in range(300)] for _ in range(200)]
    copies = []
    for page in pages[:100]:
        copy = list(page)
        for _ in range(3):
            copy[rng.randrange(300)] = "changed"
        copies.append(copy)
    documents = pages + copies
    texts = [" ".join(document) for document in documents]
    dropped = near_duplicates(keys_of(texts), lambda i: shingles(normalised(texts[i])))
    assert dropped == {200 + i: (i, true_jaccard(pages[i], copies[i])) for i in range(100)}


def test_nothing_in_nothing_out():
    assert near_duplicates(np.zeros((0, BANDS), np.uint64), lambda i: np.zeros(0, np.uint64)) == {}
