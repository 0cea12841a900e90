"""Which losses are drops: by hand, and by drawing models again and again."""

from __future__ import annotations

import numpy as np
import pytest

from cmds.app import main
from l2.eval.history import drops
from l2.files.errors import BadInput
from l2.files.jsonl import Record, write_records


def row(model: str, value: float | None, stderr: float | None = 0.01, **more: object) -> Record:
    fields = {"task": "quiz", "metric": "accuracy", "protocol": "llama", "task_version": "1-a", "model": model}
    return Record({**fields, "model_sha256": f"sha of {model}", "value": value, "stderr": stderr, **more})


@pytest.mark.parametrize(
    ("rows", "max_drop", "dropped"),
    [
        ([row("a", 0.7), row("b", 0.6)], 0.0, True),
        ([row("a", 0.7), row("b", 0.6)], 0.2, False),
        ([row("a", 0.7), row("b", 0.68)], 0.0, False),  # 2 · √2 · 0.01 is 0.028
        ([row("a", 0.7), row("b", 0.67)], 0.0, True),
        ([row("a", 0.7), row("b", 0.8)], 0.0, False),
        ([row("a", 0.7), row("b", 0.5), row("c", 0.6)], 0.0, True),  # against the best, not the last
        ([row("a", 0.7), row("a", 0.5)], 0.0, False),  # the same weights
        ([row("a", 0.7), row("b", 0.5, task_version="1-b")], 0.0, False),  # another file
        ([row("a", 0.7), row("b", 0.5, protocol="harness")], 0.0, False),
        ([row("a", 0.7, None), row("b", 0.69, None)], 0.0, True),  # no standard error: no noise is known
        ([row("a", None), row("b", 0.5)], 0.0, False),
        ([row("a", 1.1, metric="bits_per_byte"), row("b", 1.3, metric="bits_per_byte")], 0.0, True),
        ([row("a", 1.8, metric="gamma"), row("b", 0.45, metric="gamma")], 0.0, False),  # the paper's, a gain
        ([row("a", 0.2, metric="brier"), row("b", 0.1, metric="brier")], 0.0, False),
        ([row("a", 0.3, metric="loss"), row("b", 0.4, metric="loss")], 0.0, True),  # pairs lost
        ([row("a", 1.3, metric="bits_per_byte"), row("b", 1.1, metric="bits_per_byte")], 0.0, False),
    ],
)
def test_what_a_drop_is(rows, max_drop, dropped):
    assert bool(drops(rows, max_drop)) == dropped
    assert bool(drops([rows[-1]], max_drop, rows)) == dropped


@pytest.mark.parametrize(
    ("before", "after", "dropped"),
    [
        ({"metric": "words", "value": 12}, {"metric": "words", "value": 5}, False),
        ({"metric": "low_tail/safe", "value": 0.0}, {"metric": "low_tail/safe", "value": 0.4}, True),
        ({"metric": "contaminated", "value": 0.1}, {"metric": "contaminated", "value": 0.9}, True),
        ({"metric": "accuracy/difference", "value": 0.3}, {"metric": "accuracy/difference", "value": -0.3}, False),
        ({"value": 0.9, "temperature": 0.1}, {"value": 0.2, "temperature": 0.8}, False),
        ({"value": 0.9, "toxicity_by": "a"}, {"value": 0.2, "toxicity_by": "b"}, False),
        (
            {"metric": "win_rate", "value": 0.9, "baseline": "v0"},
            {"metric": "win_rate", "value": 0.6, "baseline": "v1"},
            False,
        ),
        (
            {"metric": "win_rate", "value": 0.9, "baseline": "v0"},
            {"metric": "win_rate", "value": 0.6, "baseline": "v0"},
            True,
        ),
        ({"metric": "longer_wins", "value": 0.9}, {"metric": "longer_wins", "value": 0.5}, False),  # a bias less
        ({"metric": "first_wins", "value": 0.9}, {"metric": "first_wins", "value": 0.5}, False),
        ({"metric": "tie/turns=1", "value": 0.6}, {"metric": "tie/turns=1", "value": 0.1}, False),
        ({"metric": "alone/length", "value": 0.8}, {"metric": "alone/length", "value": 0.5}, False),
        ({"metric": "correlation/length", "value": 0.8}, {"metric": "correlation/length", "value": 0.1}, False),
        ({"metric": "score/rejected", "value": 0.6}, {"metric": "score/rejected", "value": 0.2}, False),
    ],
)
def test_what_is_compared_and_which_way(before, after, dropped):
    assert bool(drops([row("a", **before), row("b", **after)])) == dropped


def test_two_equal_models_seldom_differ():
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(2000):
        right = random.binomial(400, 0.7, 2) / 400
        rows = [row(m, p, (p * (1 - p) / 399) ** 0.5) for m, p in zip("ab", right, strict=True)]
        alarms += bool(drops(rows))
    assert alarms / 2000 == pytest.approx(0.0228, abs=0.018), "one side of two standard errors, and five of the count's"


def test_a_row_that_is_no_result_is_named():
    with pytest.raises(BadInput, match="a field 'metric'"):
        drops([row("a", 0.5), Record({"task": "x", "value": 1}, "h.jsonl:2")])
    with pytest.raises(BadInput, match="'value' of type str"):
        drops([row("a", 0.5), row("b", "high")])  # type: ignore[arg-type]


def test_the_command_fails_in_one_sentence(tmp_path, capsys):
    history, tonight = tmp_path / "h.jsonl", tmp_path / "t.jsonl"
    write_records(history, [row("a", 0.7, time="2026-11-20T03:00:00Z")])
    write_records(tonight, [row("b", 0.5, time="2026-11-21T03:00:00Z")])
    assert main(["drops", str(tonight), "--baseline", str(history)]) == 1
    found = capsys.readouterr().err
    assert found == (
        "l2 drops: quiz accuracy went from 0.7000 ± 0.0100 (a, 2026-11-20) to 0.5000 ± 0.0100 (b, 2026-11-21)\n"
    )
    assert main(["drops", str(tonight), "--baseline", str(history), "--max-drop", "0.3"]) == 0
