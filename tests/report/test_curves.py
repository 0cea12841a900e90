"""Curves in the forms that other commands give them, and files that a stage of a plan made."""

from __future__ import annotations

import json
import math

import pytest

from l2.files.errors import BadInput
from l2.files.jsonl import Record
from l2.files.manifest import sha256_file
from l2.report import measures, training
from l2.report.curves import best_of, reward_models, versions
from l2.report.gather import gather
from l2.report.lineage import lineage
from l2.report.story import tell
from l2.report.terminal import show
from tests.report.conftest import lines, make_run, weights


def curve(temperature: float) -> dict:
    told = {"temperature": temperature, "n": [1, 2], "max": [0.0, temperature], "max_stderr": [0.1, None]}
    return told | {"median": [0.0, 0.1], "median_stderr": [0.1, 0.1]}


def test_best_of_n_and_temperatures(tmp_path):
    told = {"prompts": 9, "k": 2, "score": "R_c, a raw logit", "curves": [curve(0.5)]}
    (one,) = best_of(told, "f")
    assert [(s.name, list(s.y)) for s in one.series] == [("max", [0.0, 0.5]), ("median", [0.0, 0.1])]
    assert "9 prompts; R_c" in one.note and one.series[0].high == [pytest.approx(0.1959964), None]
    (several,) = best_of(told | {"curves": [curve(0.5), curve(1.2)]}, "f")
    assert [(s.name, list(s.y)) for s in several.series] == [("T 0.5", [0.0, 0.5]), ("T 1.2", [0.0, 1.2])]
    (tmp_path / "curve.json").write_text(json.dumps(told))
    (tmp_path / "broken.json").write_text(json.dumps(told | {"curves": [{"n": [1]}]}))
    found = gather([tmp_path])
    assert len(found.rewards) == 1 and "broken.json: found a curve without 'max'" in found.problems[0]


def test_versions_one_figure_a_measure(tmp_path):
    rows = [
        {"version": f"v{i}", "reward": {"mean": i, "stderr": 0.1, "n": 9}, "gold": None if i else {"mean": 1.0}}
        | {"wins": {"mean": 0.5, "stderr": 0.0}, "wins_by_reward": {"mean": 0.6, "stderr": 0.0}}
        for i in range(3)
    ]
    reward, gold, wins = versions(rows, "f")
    assert list(reward.series[0].x) == ["v0", "v1", "v2"] and list(reward.series[0].y) == [0.0, 1.0, 2.0]
    assert list(gold.series[0].y) == [1.0, None, None]
    assert wins.y == "win rate over v0" and [s.name for s in wins.series] == ["wins", "wins by reward"]
    (tmp_path / "versions.json").write_text(json.dumps(rows))
    assert "REWARDS AND VERSIONS" in show(tell(gather([tmp_path]), [tmp_path]))


def test_histograms_and_reliability_of_reward_models():
    row = {"task": "pairs", "model": "rm", "value": 0.5}
    rows = [
        Record(row | {"metric": f"score/{which}", "curve": {"edges": [0, 0.5, 1], "counts": counts}}, "r:1")
        for which, counts in (("chosen", [1, 3]), ("rejected", [2, 2]))
    ]
    rows.append(
        Record(
            row | {"metric": "calibration_error", "curve": {"sure": [0.6, 0.9], "right": [0.5, 1], "n": [5, 1]}}, "r:3"
        )
    )
    reliability, scores = reward_models(rows, lambda row: row["model"])
    assert [(s.name, list(s.y)) for s in scores.series] == [("chosen", [1.0, 3.0]), ("rejected", [2.0, 2.0])]
    assert scores.title == "Scores of rm (pairs)"
    assert reliability.series[0].high == [pytest.approx(0.5 + 1.959964 * math.sqrt(0.25 / 4)), None]
    with pytest.raises(BadInput, match="r:3"):
        reward_models([Record(row | {"metric": "m", "curve": {"a": 1}}, "r:3")], lambda row: "rm")


def test_lineage_goes_on_through_files_that_a_stage_made(tmp_path, tokenizer):
    make_run(tmp_path / "sft", "sft", {}, [], 1)
    ((_, sft),) = weights(tmp_path / "sft", tokenizer, 0)
    raw, best = (lines(tmp_path / name, [{"id": name}]) for name in ("raw.jsonl", "best.jsonl"))
    note = {"command": [], "inputs": {"sft": sft, "raw.jsonl": sha256_file(raw)}, "output": sha256_file(best)}
    (tmp_path / "best.jsonl.stage.json").write_text(json.dumps(note))
    make_run(tmp_path / "rs", "sft", {"data": [["best.jsonl", sha256_file(best)]]}, [], 2)
    runs = gather([tmp_path]).runs
    (root,) = lineage(runs).roots  # sft stands in its tree
    (file,) = root.children
    assert file.text == "data: best.jsonl" and [child.text for child in file.children] == [
        "by: sft (sft)",
        "of: raw.jsonl",
    ]
    (tmp_path / "best.jsonl.stage.json").write_text(json.dumps(note | {"output": "0"}))
    root, other = lineage(runs).roots
    assert not root.children[0].children and other.text == "sft (sft)"


def test_held_out_sources_and_the_newest_samples_of_a_training(tmp_path):
    log = [
        {"step": i, "tokens": i, "loss": 3, "val_loss": 2, "val_loss/wiki": i, "val_bits_per_byte/wiki": 1.5}
        for i in (1, 2)
    ]
    make_run(tmp_path / "base", "pretrain", {}, log, 1, status="running")
    drawn = [
        {"step": i, "id": "0", "prompt": "", "response": f"text {i}", "rewards": {"r": i}} for i in (1, 2) for _ in "ab"
    ]
    lines(tmp_path / "base" / "samples.jsonl", drawn)
    found = gather([tmp_path])
    (table,) = training.held_out(found.runs)
    assert table.rows == [["base", "wiki", "loss 2.0000, bits per byte 1.5000"]]
    (answers,) = measures.answers(found, found.runs)
    assert answers.said == [("base", "text 2", "r 2.00")]
    assert measures.judged(found) == [("base", "r", {"0": 2.0})]


def test_the_mean_of_reading_takes_quacs_f1_and_what_was_measured_last(tmp_path):
    row = {"value": 0.5, "stderr": None, "model": "m"}
    scores = [
        ("squad", "exact_match", 0.1),
        ("squad", "exact_match", 0.3),
        ("squad", "f1", 0.8),
        ("quac", "exact_match", 0.9),
        ("quac", "f1", 0.6),
        ("boolq", "accuracy", 0.6),
    ]
    rows = [row | {"task": task, "metric": metric, "value": value} for task, metric, value in scores]
    lines(tmp_path / "r.jsonl", [*rows, row | {"task": "group/Reading comprehension", "metric": "average"}])
    found = gather([tmp_path])
    (table,) = measures.benchmarks(found)
    assert {row[0]: row[3] for row in table.rows}["Reading comprehension (mean)"] == "50.0"
    assert [block.caption for block in measures.results(found)] == ["squad", "quac"]
