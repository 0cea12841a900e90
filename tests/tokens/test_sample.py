"""The sample against its definition and its statistics; the report against counts by hand."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.tokens.report import digits_are_split, measure_tokenizer
from l2.tokens.sample import sample_lines
from l2.tokens.tokenizer import Tokenizer

words = st.text("ab é\n\0", max_size=12)


def records(texts, source="s") -> list[Record]:
    return [Record({"text": text, "source": source}, f"d.jsonl:{i}") for i, text in enumerate(texts, 1)]


def by_definition(lines: list[str], most: int, seed: int) -> list[str]:
    """The lines whose random numbers are smallest, as many as fit."""
    numbers = random.Random(seed)
    drawn = sorted((numbers.random(), i) for i in range(len(lines)))
    kept, held = [], 0
    for _, i in drawn:
        held += len(lines[i].encode())
        if held > most:
            break
        kept.append(i)
    return [lines[i] for i in sorted(kept)]


@given(st.lists(words, max_size=30), st.integers(1, 60), st.integers(0, 3))
def test_it_is_what_it_says(texts, most, seed):
    lines = [line for text in texts for line in text.replace("\0", " ").split("\n") if line]
    sample = sample_lines(records(texts), most, seed)
    assert [text for _, text in sample.lines] == by_definition(lines, most, seed)
    assert sample.bytes == sum(len(text.encode()) for _, text in sample.lines) <= most
    assert (sample.lines_read, sample.bytes_read) == (len(lines), sum(len(line.encode()) for line in lines))
    again = sample_lines(records(lines), most, seed)  # cut into documents otherwise
    assert again.lines == sample.lines


def test_every_line_is_as_likely_as_any_other():
    counts: Counter[str] = Counter()
    lines = [f"{i:02d}" for i in range(40)]
    for seed in range(600):
        counts.update(text for _, text in sample_lines(records(["\n".join(lines)]), 20, seed).lines)
    assert sum(counts.values()) == 600 * 10
    chi_squared = sum((counts[line] - 150) ** 2 / (150 * 0.75) for line in lines)
    assert chi_squared * 39 / 40 < 72  # p = 0.001 at 39 degrees of freedom


def test_what_is_left_out_is_counted():
    documents = [*records(["é" * 2097, "é" * 2096]), Record({"text": "x"})]
    sample = sample_lines(documents, 10**6)
    assert (sample.skipped, sample.lines_read) == (1, 2)
    assert sample.lines == [("s", "é" * 2096), ("", "x")]
    with pytest.raises(BadInput, match=r"d\.jsonl"):
        sample_lines([Record({"text": 5}, "d.jsonl:1")], 10)


def test_the_report_counts(mixed_tokenizer, published):
    lines = [("a", "the cat 1234"), ("b", "Où 漢字"), ("a", "x\u2581y")]
    found = measure_tokenizer(mixed_tokenizer, lines)
    ids = [mixed_tokenizer.encode(text) for _, text in lines]
    assert found["sources"]["a"]["tokens"] == len(ids[0]) + len(ids[2])
    assert found["sources"]["b"] == {
        "lines": 1, "characters": 5, "bytes": 10, "tokens": len(ids[1]), "byte_tokens": 6, "round_trips": 1,
        "characters_per_token": 5 / len(ids[1]), "bytes_per_token": 10 / len(ids[1]), "byte_rate": 6 / len(ids[1]),
    }  # fmt: skip
    assert found["all"]["tokens"] == sum(map(len, ids)) and found["all"]["round_trips"] == 2  # U+2581 is a space
    assert found["digits_split"] and digits_are_split(Tokenizer(published))
    assert measure_tokenizer(mixed_tokenizer, [])["all"]["characters_per_token"] == 0


def test_digits_that_are_joined(mixed_tokenizer, sentencepiece_model):
    model = sentencepiece_model.ModelProto()
    model.ParseFromString(mixed_tokenizer.model_bytes)
    model.pieces[400].piece = "12"
    assert not digits_are_split(Tokenizer(model.SerializeToString()))
