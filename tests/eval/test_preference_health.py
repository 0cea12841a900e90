"""Statistics of preferences: by hand, by brute force, and on annotators whose habits are known."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cmds.app import main
from l2.align.losses import RATINGS
from l2.eval.preference_table import preference_table
from l2.eval.preferences import preference_report, trend
from l2.files.errors import BadInput
from l2.files.jsonl import Record

USER, ANSWER = ({"role": role, "content": text} for role, text in (("user", "a b c"), ("assistant", "d e")))


def pair(chosen: str = "x y", rejected: str = "z", prompt: object = "who is", **fields: object) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected} | fields


def report(*rows: dict) -> dict:
    records = (Record(row, f"p:{line}") for line, row in enumerate(rows, 1))
    return preference_report(records, lambda text: len(text.split()), "words")


def test_sizes_by_hand():
    """A prompt is one user message, an example all of a dialog with one answer: Table 6's single turns add up so."""
    found = report(
        pair(source="s", batch=2), pair("x y z w", "z", [USER, ANSWER, USER], source="s", batch=10),
        pair([{"role": "user", "content": "who is"}, {"role": "assistant", "content": "q"}], source="r", batch=2),
    )  # fmt: skip
    assert found["sources"]["r"] == {"comparisons": 1, "turns": 1, "example": 3, "prompt": 2, "response": 1}
    assert found["sources"]["s"] == {"comparisons": 2, "turns": 1.5, "example": 7, "prompt": 2.5, "response": 2}
    assert list(found["batches"]) == ["2", "10"] and found["batches"]["2"]["comparisons"] == 2
    for prompt, response, example in ((336.0, 35.1, 371.1), (48.3, 188.9, 237.2), (200.1, 240.2, 440.2)):  # Table 6
        assert prompt + response == pytest.approx(example, abs=0.11)
    everything = found["all"]
    assert everything["comparisons"] == 3 and everything["example"] == pytest.approx(17 / 3)


ROWS = st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from("xyz"), st.sampled_from("xyz")), min_size=1)


@given(ROWS, st.randoms())
def test_repeats_and_contradictions_by_brute_force(rows, shuffle):
    """Repeats are what a set would drop; a contradiction is a pair met both ways; in any order."""
    kept = {row for row in rows if row[1] != row[2]}
    contradictions = {(p, *sorted((c, r))) for p, c, r in kept if (p, r, c) in kept}
    for each in (rows, shuffle.sample(rows, len(rows))):
        found = report(*(pair(c, r, p) for p, c, r in each))
        equal = sum(c == r for _, c, r in rows)
        assert found["equal"]["count"] == equal and found["contradictory"]["count"] == len(contradictions)
        assert found["duplicate"]["count"] == len(rows) - equal - len(kept)
        assert len(found["duplicate"]["where"]) == min(5, found["duplicate"]["count"])


def test_a_prompt_as_text_or_as_messages_is_the_same():
    found = report(pair(), pair(prompt=[{"role": "user", "content": "who is"}]), pair("z", "x y"))
    assert (found["duplicate"]["where"], found["contradictory"]["where"]) == (["p:2"], ["p:3"])


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=2, max_size=8).filter(
    lambda rows: sum(map(sum, rows)) > 1
))  # fmt: skip
def test_trend_is_the_correlation_with_the_batch(rows):
    sizes = [a + b for a, b in rows]
    x = np.repeat(np.arange(len(rows)), sizes)
    y = np.concatenate([[1.0] * a + [0.0] * b for a, b in rows])
    found = trend([a for a, _ in rows], sizes)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.pearsonr(x, y).statistic * math.sqrt(len(x)), abs=1e-9)


def test_habits_and_drift_are_found():
    """Figure 25 in small: unsure grows by batch; one annotator takes the first, one the longer, one neither."""
    rng, rows = random.Random(0), []
    for i in range(3000):
        texts = [f"{i} " + "w " * n for n in rng.sample(range(1, 9), 2)]
        who = ("first", "long", "fair")[i % 3]
        sure = rng.random() < (0.5 if who == "fair" else 0.9)
        best = 0 if who == "first" else texts.index(max(texts, key=len)) if who == "long" else int(rng.random() < 0.5)
        best = best if sure else 1 - best
        batch = i % 14
        weights = [4 - batch / 7, 2, 2, 2 + batch / 7]
        rows.append(pair(texts[best], texts[1 - best], annotator=who, first=("chosen", "rejected")[best], batch=batch)
                    | {"rating": rng.choices(RATINGS, weights)[0]})  # fmt: skip
    found = report(*rows)
    leanings = found["annotators"]
    for who, place, length in (("first", 0.9, 0.5), ("long", 0.5, 0.9), ("fair", 0.5, 0.5)):
        for share, truth in ((leanings[who]["chose_first"], place), (leanings[who]["chose_longer"], length)):
            assert abs(share["share"] - truth) < 4 * math.sqrt(0.25 / 1000)
            assert share["interval"][0] < share["share"] < share["interval"][1]
    drift = found["ratings"]["drift_z"]
    assert drift["significantly"] < -5 and drift["negligibly"] > 5 and abs(drift["better"]) < 3
    assert sum(row["share"] for row in found["ratings"]["all"].values()) == pytest.approx(1)
    table = preference_table(found)
    assert "13 " in table and "drift, Z" in table and "!" in table


def test_safety_shares_are_of_the_labelled():
    labels = ["chosen_safe"] * 18 + ["both_safe"] * 47 + ["both_unsafe"] * 35
    found = report(*(pair(f"{i}", safety=label) for i, label in enumerate(labels)), pair())
    assert [row["share"] for row in found["safety"].values()] == [0.18, 0.47, 0.35]
    assert report(pair())["safety"] is None and report(pair())["ratings"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rating": "great"}, "p:1: found rating 'great'; expected one of significantly"),
        ({"first": "a"}, "p:1: found first 'a'; expected one of chosen, rejected"),
        ({"batch": 1.5}, "'batch' of type float"),
        ({"chosen": 3}, "'chosen' of type int"),
        ({"prompt": []}, "expected a list of"),
    ],
)
def test_bad_preferences(change, words):
    with pytest.raises(BadInput, match=words):
        report(pair() | change)


def test_the_command(tmp_path, capfd, tokenizer):
    path, rejects, out = tmp_path / "p.jsonl", tmp_path / "r.jsonl", tmp_path / "out.json"
    path.write_text(json.dumps(pair("the cat", "a dog")) + '\n{"prompt": "x"}\n')
    assert main(["audit", "--preferences", str(path)]) == 65
    assert f"{path}:2: found" in capfd.readouterr().err
    skip = ["--on-bad", "skip", "--rejects", str(rejects), "--json", str(out)]
    assert main(["audit", "--preferences", str(path), *skip]) == 0
    shown = capfd.readouterr().out
    assert "Comparisons, in words" in shown and "paper's Meta" in shown
    assert json.loads(out.read_text())["comparisons"] == 1 and json.loads(rejects.read_text())["line"] == 2
    assert main(["audit", "--preferences", str(path), "--jobs", "2"]) == 2
    path.write_text(json.dumps(pair("the cat", "a dog")))
    model = tmp_path / "tokenizer.model"
    model.write_bytes(tokenizer.model_bytes)
    capfd.readouterr()
    assert main(["audit", "--preferences", str(path), "--tokenizer", str(model), "--json", "-"]) == 0
    lengths = [len(tokenizer.encode(text)) for text in ("who is", "the cat", "a dog")]
    row = json.loads(capfd.readouterr().out)["all"]
    assert (row["prompt"], row["response"]) == (lengths[0], (lengths[1] + lengths[2]) / 2)
