"""Thresholds by name: what is written is what is held, and what can't be held is told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.files.errors import UsageError
from l2.files.ledger import Ledger
from l2.text.filtering import filter_documents
from l2.text.pipeline import FilterSettings
from l2.text.quality import RULE_SETS, Page, findings, rules
from l2.text.thresholds import parse_thresholds


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_numbers_and_pairs_come_back(a, b):
    low, high = sorted((a, b))
    assert parse_thresholds([f"x={a!r}", f"y={low!r}:{high!r}"]) == {"x": a, "y": (low, high)}


@pytest.mark.parametrize("text", ["", "x", "=1", "x=", "x=a", "x=1:2:3", "x=nan", "x=1:", "x 1"])
def test_anything_else_is_refused(text):
    with pytest.raises(UsageError, match="is no threshold; one is NAME=NUMBER or NAME=LOW:HIGH"):
        parse_thresholds([text])


def test_the_later_holds_and_an_empty_range_is_refused():
    assert parse_thresholds(["x=1", "x=2"]) == {"x": 2.0}
    with pytest.raises(UsageError, match="leaves nothing between 2 and 1"):
        parse_thresholds(["x=2:1"])


def test_every_rule_can_be_moved_and_nothing_else_moves():
    for rule in rules(RULE_SETS):
        moved = {r.name: r for r in rules(RULE_SETS, {rule.name: 1.0})}
        for other in rules(RULE_SETS):
            least, most = moved[other.name].least, moved[other.name].most
            if other.name != rule.name:
                assert (least, most) == (other.least, other.most)
            elif other.least == float("-inf"):
                assert (least, most) == (float("-inf"), 1.0)
            else:
                assert (least, most) == (1.0, other.most)


def test_two_bounds_and_one():
    (words,) = (r for r in rules(RULE_SETS, {"gopher_words": (2, 3)}) if r.name == "gopher_words")
    found = [next(findings(Page("a " * n), [words])) for n in (1, 2, 3, 4)]
    assert [(f.threshold, f.passes) for f in found] == [(2, False), ([2, 3], True), ([2, 3], True), (3, False)]
    with pytest.raises(UsageError, match="c4_sentences has one bound, not 1 and 2"):
        rules(RULE_SETS, {"c4_sentences": (1, 2)})
    with pytest.raises(UsageError, match="at least 200000 and at most 100000 leaves nothing"):
        rules(RULE_SETS, {"gopher_words": 200_000})
    free = rules(RULE_SETS, {"gopher_words": (float("-inf"), float("inf"))})
    assert all(found.threshold is not None for found in findings(Page("a b"), free))


def test_a_moved_threshold_stands_in_the_ledger_and_the_report(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": "word " * n}) + "\n" for n in (19, 20, 21)))
    kept, rows = [], []
    writer, ledger = type("W", (), {"write": kept.append})(), type("W", (), {"write": rows.append})()
    loose = {rule.name: float("inf") for rule in rules(("gopher",)) if rule.least == float("-inf")}
    thresholds = parse_thresholds(["gopher_words=20:20", "gopher_stop_words=0"]) | loose
    settings = FilterSettings(quality=("gopher",), dedup="none", thresholds=thresholds)
    report = filter_documents([path], writer, Ledger(ledger), settings)
    assert [d["id"] for d in kept] == [20]
    assert [(row["id"], row["rule"], row["value"], row["threshold"]) for row in rows] == [
        (19, "gopher_words", 19, 20), (21, "gopher_words", 21, 20)
    ]  # fmt: skip
    assert report["settings"]["thresholds"]["gopher_words"] == (20, 20)
