"""What is said of a reward model's pairs: against transformers, numpy, and worlds whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2.eval.metrics import wilson
from l2.eval.pairs import left_out, measure_pairs, suspicions
from l2.eval.subject import Subject
from l2.eval.tasks import result_records, run_task
from l2.files.errors import BadInput
from l2.model.checkpoint import load_model, scalar_from
from l2.tokens.chat import encode_dialog
from tests.conftest import sentences
from tests.eval.scripted import task

scores = st.floats(-60, 60, width=32)


def pair(i, **fields):
    lines = sentences(99)
    return {"prompt": lines[i], "chosen": lines[i + 1], "rejected": lines[i + 9]} | fields


def item(chosen, rejected, longer=0.0, **fields):
    """One as `score_pairs` makes it; the chosen answer has `longer` tokens more."""
    correct = 0.5 if chosen == rejected else float(chosen > rejected)
    traits = {"chosen_traits": {"length": 20 + longer}, "rejected_traits": {"length": 20}}
    known = {"id": "x", "rating": None, "chosen_reward": chosen, "rejected_reward": rejected, "correct": correct}
    return known | traits | fields


def test_preferences_are_transformers(rm_dir, tokenizer):
    from transformers import AutoModelForSequenceClassification

    ratings = ["slightly", "significantly", None, "slightly"] * 4
    records = [pair(i, rating=rating) for i, rating in enumerate(ratings)]
    model = AutoModelForSequenceClassification.from_pretrained(rm_dir).eval()
    right = []
    for record in records:
        both = []
        for field in ("chosen", "rejected"):
            messages = [{"role": "user", "content": record["prompt"]}, {"role": "assistant", "content": record[field]}]
            with torch.no_grad():
                both.append(float(model(torch.tensor([encode_dialog(tokenizer, messages).ids])).logits))
        right.append(float(both[0] > both[1]))
    _, metrics = run_task(Subject("rm", load_model(rm_dir), tokenizer, batch_size=5), task(*records))
    assert [name for name in metrics if name.startswith("accuracy")] == [
        "accuracy", "accuracy/significantly", "accuracy/slightly",
    ]  # fmt: skip
    slightly = [r for r, rating in zip(right, ratings, strict=True) if rating == "slightly"]
    assert metrics["accuracy"].value == sum(right) / 16 and 0 < sum(right) < 16
    assert metrics["accuracy"].interval == wilson(sum(right), 16)
    assert metrics["accuracy/slightly"].value == sum(slightly) / 8 and metrics["accuracy/slightly"].n == 8


def test_ties_are_half_right(rm_dir, tokenizer):
    level = scalar_from(load_model(rm_dir), zero_head=True)
    _, metrics = run_task(Subject("rm", level, tokenizer), task(pair(0), pair(1)))
    assert metrics["accuracy"][:3] == (0.5, 0.0, 2) and metrics["brier"].value == 0.25
    assert not any(name.startswith("correlation") for name in metrics)  # with nothing


def test_bins_of_safety_and_sources(rm_dir, tokenizer):
    """Tables 29 and 7, pairs that are left out, and results whose curves are plain numbers."""
    subject = Subject("rm", load_model(rm_dir), tokenizer)
    labels = ["both_safe", "chosen_safe", "rejected_safe", "both_unsafe", None]
    asked = task(*(pair(i, safety=labels[i % 5], source=["hh", "human"][i % 2]) for i in range(20)))
    items, metrics = run_task(subject, asked)
    assert len(items) == 16 and left_out(asked.records) == 4
    bins = {name: found.n for name, found in metrics.items() if "=" in name}
    safety = {f"accuracy/safety={label}": 4 for label in ("chosen_safe", "both_safe", "both_unsafe")}
    assert bins == safety | {"accuracy/source=hh": 8, "accuracy/source=human": 8}
    assert next(iter(bins)) == "accuracy/safety=chosen_safe"
    assert metrics["unsafe_recall"].n == 12  # one of chosen_safe, two of both_unsafe
    for result in result_records(subject, asked, metrics, None):
        for column in result.get("curve", {}).values():
            assert all(isinstance(number, (int, float)) for number in column)
    with pytest.raises(BadInput, match="no pair but those whose rejected answer alone is safe"):
        run_task(subject, task(pair(0, safety="rejected_safe")))


@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=60))
def test_calibration_is_the_textbooks(both):
    """Brier and the binned error by numpy, from logits in double precision; swapping the pair changes neither error."""
    items = [item(a, b) for a, b in both]
    found = measure_pairs(items)
    gap = np.array([a - b for a, b in both])
    right = np.array([i["correct"] for i in items])
    sure = 1 / (1 + np.exp(-np.abs(gap)))
    assert found["brier"].value == pytest.approx(np.mean((1 - 1 / (1 + np.exp(-gap))) ** 2), abs=1e-12)
    which = np.minimum(9, ((sure - 0.5) * 20).astype(int))
    error = sum(abs(sure[which == b].sum() - right[which == b].sum()) for b in set(which)) / len(both)
    assert found["calibration_error"].value == pytest.approx(error, abs=1e-9)
    curve = found["calibration_error"].curve
    assert sum(curve["n"]) == len(both) and len(curve["sure"]) == len(curve["right"]) == len(set(which))
    for which_one, column in (("chosen", 0), ("rejected", 1)):
        shown = found[f"score/{which_one}"]
        squashed = 1 / (1 + np.exp(-np.array([pair[column] for pair in both])))
        counts, edges = np.histogram(squashed, bins=20, range=(0, 1))
        assert np.allclose(shown.curve["edges"], edges) and sum(shown.curve["counts"]) == len(both)
        assert np.abs(np.array(shown.curve["counts"]) - counts).sum() <= 2 * np.sum(np.abs(squashed * 20 % 1) < 1e-6)
        assert shown.value == pytest.approx(squashed.mean())


def test_a_calibrated_judge_is_found_calibrated():
    draw = np.random.default_rng(0)
    gaps = draw.normal(0, 2, 20_000)
    flips = draw.random(20_000) < 1 / (1 + np.exp(-gaps))
    items = [item(g if first else -g, 0.0) for g, first in zip(gaps, flips, strict=True)]
    found = measure_pairs(items)
    assert found["calibration_error"].value < 0.015
    doubled = [item(2 * i["chosen_reward"], 0.0) for i in items]
    assert measure_pairs(doubled)["calibration_error"].value > 0.05
    assert measure_pairs(doubled)["brier"].value > found["brier"].value


def test_unsafe_recall_and_precision_by_hand():
    """Table 29 counts answers, not pairs: σ < 0.5 is a score below 0, the gate one below -1.7346."""
    items = [
        item(1.0, -1.0, safety="chosen_safe"),
        item(-2.0, 0.5, safety="both_unsafe"),
        item(3.0, -0.1, safety="both_safe"),
        item(-9.0, -9.0),
    ]
    found = measure_pairs(items)
    assert found["unsafe_recall"].value == pytest.approx(2 / 3) and found["unsafe_recall"].n == 3
    assert found["unsafe_precision"].value == pytest.approx(2 / 3)
    assert found["gate_recall"].value == pytest.approx(1 / 3) and found["gate_precision"][:3] == (1.0, None, 1)
    assert found["unsafe_recall"].interval == wilson(2, 3)
    assert "unsafe_recall" not in measure_pairs(items[-1:])


@given(st.lists(st.tuples(scores, st.integers(-9, 9), st.booleans()), min_size=2, max_size=30))
def test_correlation_does_not_ask_which_answer_comes_first(rows):
    """The correlation of all differences, each taken both ways round: then their mean is 0."""
    found = measure_pairs([item(gap, 0.0, longer) for gap, longer, _ in rows])
    other = measure_pairs([item(*((0.0, gap, -longer) if swap else (gap, 0.0, longer))) for gap, longer, swap in rows])
    gaps, more = np.array([(gap, longer) for gap, longer, _ in rows], float).T
    if "correlation/length" in found:
        with np.errstate(all="ignore"):
            expected = np.corrcoef(np.concatenate([gaps, -gaps]), np.concatenate([more, -more]))[0, 1]
        assert found["correlation/length"].value == pytest.approx(expected, abs=1e-6)
        if not any(swap for *_, swap in rows):
            assert found["correlation/length"] == other["correlation/length"]
    else:
        assert not more.any() or not gaps.any()


def test_length_that_predicts_as_well_is_told():
    draw = np.random.default_rng(1)
    longer = draw.choice([-3, 3], 400, p=[0.25, 0.75])
    by_length = [item(float(n), 0.0, n) for n in longer]
    assert measure_pairs(by_length)["correlation/length"].value == pytest.approx(1)
    (sentence,) = suspicions(by_length)
    share = float(np.mean(longer > 0))
    assert sentence == f"length alone predicts {share:.3f} of the choices, the model {share:.3f}"
    right = [item(1.0 if draw.random() < 0.9 else -1.0, 0.0, n) for n in longer]
    assert suspicions(right) == []
    assert measure_pairs(right)["alone/length"].value == pytest.approx(share)
    # where the shorter answer is chosen, that predicts as well
    shorter = [item(float(n), 0.0, -n) for n in longer]
    assert measure_pairs(shorter)["alone/length"].value == pytest.approx(share) and suspicions(shorter)
    assert math.isclose(measure_pairs(shorter)["correlation/length"].value, -1)


def test_giveaways_of_texts(rm_dir, tokenizer):
    record = {"prompt": "who sat?", "chosen": "I'm sorry, I cannot say who!\n- one\n2. two", "rejected": "the cat"}
    items, _ = run_task(Subject("rm", load_model(rm_dir), tokenizer), task(record))
    traits = items[0]["chosen_traits"]
    assert {name: traits[name] for name in ("lines", "list_items", "marks", "apologies")} == {
        "lines": 3, "list_items": 2, "marks": 1, "apologies": 2,
    }  # fmt: skip
    assert traits["echo"] == pytest.approx(1 / 10) and items[0]["rejected_traits"]["echo"] == 0
