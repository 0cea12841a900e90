"""Whole words and terms, against a scan character by character."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.text import terms
from l2.text.terms import Terms, Words, canonical, fold


def letter(c: str) -> bool:
    variation = 0xFE00 <= ord(c) <= 0xFE0F or 0xE0100 <= ord(c) <= 0xE01EF
    marked = unicodedata.category(c) in ("Mn", "Mc") and not variation
    return c.isalnum() or c == "_" or marked


def scan(text: str) -> list[tuple[str, str]]:
    """(word, what stands between it and the word before) of a folded text."""
    pairs, word, gap = [], "", ""
    for c in fold(text) + " ":
        if letter(c):
            word += c
        elif word:
            pairs.append((word, gap))
            word, gap = "", c
        else:
            gap += c
    return pairs


def holds(text: str, term: str) -> bool:
    """Do the words of `term` follow one another in `text`, joined by white space, hyphens and apostrophes?"""
    wanted = [word for word, _ in scan(term)]
    pairs = scan(text)
    joined = [gap != "" and all(c.isspace() or c in "'’‐-" for c in gap) for _, gap in pairs]
    return any(
        [word for word, _ in pairs[i : i + len(wanted)]] == wanted and all(joined[i + 1 : i + len(wanted)])
        for i in range(len(pairs) - len(wanted) + 1)
    )


TERMS = ["ab", "A b", "b-a", "a'b a", "é", "हिन्दू", "ﬁ", "a_b", "Straße b", "+a b+"]
LISTED = Terms(TERMS)
texts = st.lists(
    st.sampled_from(["a", "b", "A", "B", " ", "  ", "-", "\u2011", "'", "’", ".", "\n", "_", "1", "e\u0301", "É",
                     "\u0301", "हिन्दू", "fi", "STRASSE", "straße", "\ufe0f", "\U000e0100", "\xa0", "\0", "😀"]),
    max_size=14,
).map("".join)  # fmt: skip


@given(texts | st.text(max_size=30))
def test_words_and_terms_are_those_of_a_scan(text):
    words = Words(text)
    assert words.count == len(scan(text)) and words.unique == {word for word, _ in scan(text)}
    assert LISTED.found(words) == {canonical(term) for term in TERMS if holds(text, term)}


@pytest.mark.parametrize("size", [1, 7, 64])
def test_blocks_cut_no_word(monkeypatch, size):
    text = "She's gone, हिन्दू and all; " * 40 + "x" * 200
    whole = Words(text)
    monkeypatch.setattr(terms, "BLOCK", size)
    again = Words(text)
    assert (again.count, again.unique) == (whole.count, whole.unique) and whole.count == 40 * 6 + 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("TWO SPIRIT people", {"two spirit"}),
        ("a two-spirit,", {"two spirit"}),
        ("two. Spirit", set()),
        ("two spirits", set()),
        ("a Québe\u0301cois; QUE\u0301BE\u0301COIS", {"québécois"}),
        ("Jehovah’s\nWitness", {"jehovah s witness"}),
        ("the gayest", set()),
        ("'gay'", {"gay"}),
        ("gay_", set()),
        ("ｇａｙ", {"gay"}),
    ],
)
def test_what_a_whole_word_is(text, found):
    assert Terms(["Two-Spirit", "gay", "Québécois", "Jehovah's Witness"]).found(Words(text)) == found
