"""C4's line rules at their edges, CCNet's line hash against a plain set, and texts that lose lines but no order."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2.text.lines import SeenLines, c4_fault, edited, normalised_line

KEPT = "This line has quite enough words."


def plain(line: str) -> str:
    """CCNet §3.1, one character at a time."""
    out = ""
    for char in unicodedata.normalize("NFD", line.lower()):
        kind = unicodedata.category(char)
        if kind == "Nd":
            out += "0"
        elif not kind.startswith(("P", "C")) and kind != "Mn":
            out += char
    return out


@pytest.mark.parametrize(
    ("line", "rule", "value"),
    [
        ("One two three four five", "c4_line_end", "e"),
        ("One two three four five...", "c4_line_end", "..."),
        ("One two three four five…", "c4_line_end", "…"),
        ("One two three four.", "c4_line_words", 4),
        ("Please enable JavaScript in your browser.", "c4_line_notice", "javascript"),
        ("Read our Privacy Policy before you go.", "c4_line_notice", "privacy policy"),
        ("This site uses cookies to serve you!", "c4_line_notice", "uses cookies"),
    ],
)
def test_lines_that_c4_drops(line, rule, value):
    assert c4_fault(line)[:2] == (rule, value)


@pytest.mark.parametrize("end", [".", "!", "?", '"', "”"])
def test_lines_that_c4_keeps(end):
    assert c4_fault("He baked cookies for five people" + end) is None


@pytest.mark.parametrize(
    ("line", "normal"),
    [
        ("© 2019 Café-Bar, Tel. 555", "© 0000 cafebar tel 000"),
        ("Read more… (12)", "read more 00"),
        ("١٢ नमस्ते «हिन्दी»", "00 नमसत हिनदी"),
        ("tab\there", "tabhere"),
        ("* * *", "  "),
    ],
)
def test_normal_lines(line, normal):
    assert normalised_line(line) == normal.encode()


@settings(max_examples=300)
@given(st.one_of(st.text(), st.text(st.characters(codec="ascii"))))
def test_normal_lines_equal_one_character_at_a_time(line):
    assert normalised_line(line) == plain(line).encode()


@settings(max_examples=200)
@given(st.lists(st.lists(st.integers(0, 40), max_size=6), max_size=40), st.integers(1, 9))
def test_first_times_equal_a_plain_set(documents, latest):
    seen, known = SeenLines(), set()
    seen.LATEST = latest
    for keys in documents:
        expected = []
        for key in keys:
            expected.append(key not in known)
            known.add(key)
        assert seen.first_time(keys) == expected
        assert len(seen) == len(known)


def test_a_million_lines_take_8_bytes_each_in_few_runs():
    seen, rng = SeenLines(), np.random.default_rng(0)
    keys = rng.integers(0, 1 << 64, 1_000_000, dtype=np.uint64)
    for part in np.split(keys, 200):
        assert all(seen.first_time(part.tolist()))
    assert len(seen._runs) <= 4 and len(seen._latest) < SeenLines.LATEST
    assert all(np.all(run[1:] > run[:-1]) for run in seen._runs)
    assert not any(seen.first_time(keys[::1000].tolist()))


def test_a_text_that_loses_nothing_is_the_same_to_the_byte():
    for text in ("", "\r\n \n", f" {KEPT}\r\n\n\nNot quite {KEPT}\n"):
        assert edited(text, c4=True, seen=SeenLines())[::2] == (text, {})


def test_lines_go_with_their_numbers_and_paragraphs_stay_apart():
    text = f"Menu\n\n{KEPT}\nShare this\n\nHome\n\n  {KEPT.upper()}\nNext\n"
    edit = edited(text, c4=True)
    assert edit.text == f"{KEPT}\n\n  {KEPT.upper()}"
    assert (edit.were, [(number, fault.rule) for number, fault in edit.faults.items()]) == (
        6,
        [(1, "c4_line_end"), (4, "c4_line_end"), (6, "c4_line_end"), (9, "c4_line_end")],
    )
    # A line that C4 drops is not asked for again: of the two alike the second is the copy.
    edit = edited(text, c4=True, seen=SeenLines())
    assert edit.text == KEPT
    assert edit.faults[8] == ("duplicate_line", "this line has quite enough words", None)
    assert list(edit.faults) == [1, 4, 6, 8, 9]


def test_repeated_lines_of_many_documents_equal_brute_force():
    rng = random.Random(0)
    stock = [f"Line {chr(97 + i)} {'x' * i}" for i in range(20)] + [""]
    seen, known = SeenLines(), set()
    seen.LATEST = 4
    for _ in range(200):
        rows = rng.choices(stock, k=rng.randrange(8))
        stock.append(f"New line {'y' * len(stock)}.")
        kept, dropped = [], []
        for number, row in enumerate(rows, 1):
            if row and plain(row) in known:
                dropped.append(number)
            elif row:
                known.add(plain(row))
                kept.append(row)
        edit = edited("\n".join(rows), seen=seen)
        assert [line for line in edit.text.splitlines() if line] == kept
        assert list(edit.faults) == dropped
        assert edit.were == len(kept) + len(dropped)
