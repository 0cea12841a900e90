"""Golden vectors of lm-evaluation-harness 0.4.13 (tests/bench/harness.py made them): picks, scores, log-likelihoods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l2.tokens.tokenizer import load_tokenizer
from tests.bench.harness import GOLDEN, SHOTS, TINY, checkpoint, compared, judgements, ours
from tests.bench.shapes import make

FOLDER = Path(__file__).with_name("golden")


@pytest.fixture(scope="module")
def found():
    return json.loads((FOLDER / "harness.json").read_text())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make(tmp_path_factory.mktemp("files"), *GOLDEN)


def test_questions_are_chosen_and_answered_as_by_the_harness(found, files, tmp_path):
    """Item by item: log-likelihoods to 1e-4 nats, every score, every text, 0-shot and 5-shot."""
    model = checkpoint(tmp_path, TINY, load_tokenizer(FOLDER / "tokenizer.model"))
    rows = compared(ours(model, files, SHOTS), found["asked"])
    assert len(rows) == 7
    for name, (n, worst, scores, texts) in rows.items():
        assert n >= 8 and worst < 1e-4 and not scores and not texts, (name, worst, scores, texts)
    right = [item["scores"]["accuracy"] for name in rows for item in found["asked"][name] if item["loglikelihoods"]]
    assert 0 < sum(right) < len(right)


def test_answers_are_judged_as_by_the_harness(found, files):
    rows = compared(judgements(files, found["said"]), found["said"])
    assert all(not scores for _, _, scores, _ in rows.values()) and set(rows) == {"gsm8k", "triviaqa"}
    for items in found["said"].values():
        assert 0 < sum(item["scores"]["exact_match"] for item in items) < len(items)
