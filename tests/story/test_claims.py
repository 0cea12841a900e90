"""Verdicts over seeds, by hand; and what the experiments' data are made of."""

import json
import math

import pytest
from claims import FAILS, HOLDS, UNKNOWN, Measured, claim_row, figure_row, markdown, over_seeds, verdict
from experiment_results import Seed, name_of, share_won
from experiments import declines, is_planted
from paper_claims import BELOW, CLAIMS, CURVES, Claim, Curve, contaminated, flatness, relative, within

from l2.files.jsonl import Record
from l2.report.form import read_figure


@pytest.fixture
def seed(tmp_path):
    home = tmp_path / "miniature" / "seed-0"
    home.mkdir(parents=True)
    return Seed(home)


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_seeds_have_a_mean_and_its_standard_error():
    assert over_seeds([1.0, 2.0, 6.0]) == Measured(3.0, pytest.approx(math.sqrt(7 / 3)))  # variance 7
    assert over_seeds([1.0]) == Measured(1.0, None)


@pytest.mark.parametrize(
    ("mean", "stderr", "interval", "expected"),
    [
        (0.3, 0.1, {}, HOLDS),
        (0.2, 0.1, {}, UNKNOWN),  # exactly two standard errors from nothing are not beyond them
        (-0.1, 0.1, {}, UNKNOWN),
        (-0.3, 0.1, {}, FAILS),
        (-0.3, 0.1, BELOW, HOLDS),
        (0.3, 0.1, BELOW, FAILS),
        (0.1, 0.1, within(0.5), HOLDS),
        (0.4, 0.1, within(0.5), UNKNOWN),
        (0.8, 0.1, within(0.5), FAILS),
        (-0.8, 0.1, within(0.5), FAILS),
        (0.1, 0.9, within(0.5), UNKNOWN),
        (-50.0, 0.0, BELOW, HOLDS),  # exact, the same with every seed
        (0.0, 0.0, BELOW, FAILS),
        (9.0, None, {}, UNKNOWN),  # one seed
        (math.nan, math.nan, {}, UNKNOWN),
    ],
)
def test_a_verdict_is_where_two_standard_errors_lie(mean, stderr, interval, expected):
    interval = {"low": 0.0, "high": math.inf} | interval
    assert verdict(Measured(mean, stderr), **interval) == expected


def test_a_claim_is_a_row_of_the_report_and_of_the_table():
    claim = Claim("More is more", "Figure 0", "pieces", float)
    row = claim_row(claim, [1.0, 2.0, 3.0])
    assert row == {
        "claim": "More is more", "paper": "Figure 0", "what": "pieces", "measured": 2.0,
        "stderr": pytest.approx(1 / math.sqrt(3), abs=1e-6), "verdict": HOLDS, "seeds": 3,
    }  # fmt: skip
    assert markdown([row]).splitlines()[2] == "| More is more | Figure 0 | pieces: +2 ± 0.577 | holds |"


def test_what_a_seed_could_not_measure_is_told_as_nothing_known():
    row = claim_row(Claim("More is more", "Figure 0", "pieces", float), [1.0, math.nan])
    assert row["measured"] is None and row["stderr"] is None and row["verdict"] == UNKNOWN
    assert "not measured" in markdown([row])


def test_a_figure_has_means_over_seeds():
    curve = Curve("Title", "x", "y", lambda seed: {"line": {1: seed, 2: 2 * seed}})
    row = figure_row(curve, [1.0, 3.0])
    (series,) = read_figure(row["figure"], "here").series
    assert list(series.x) == [1.0, 2.0] and list(series.y) == [2.0, 4.0]
    assert series.low[0] == pytest.approx(2.0 - 1.959964)


def test_claims_and_figures_have_names_of_their_own():
    assert len({claim.says for claim in CLAIMS}) == len(CLAIMS)
    assert len({curve.title for curve in CURVES}) == len(CURVES)
    assert all(claim.low < claim.high for claim in CLAIMS)


def test_planting_is_weighed_against_a_model_without_and_items_without(seed):
    for model, planted, other in (("gqa", 1.0, 1.5), ("base", 2.0, 2.2)):
        items = [{"id": "a", "planted": True, "bytes": 10, "score": -planted}]
        items += [{"id": "b", "planted": False, "bytes": 30, "score": -other}]
        write(seed.home / f"{model}.items.jsonl", [*items, items[1] | {"id": "c"}])
    assert seed.bits("gqa") == 1.5
    assert contaminated(seed) == pytest.approx((1.0 - 2.0) - (1.5 - 2.2))


def test_best_of_n_and_sizes_are_read_in_order(seed):
    curves = [{"temperature": t, "n": [1, 2], "max": [1.0, top], "median": [1.0, 1.1]} for t, top in ((1, 3), (1.2, 4))]
    (seed.home / "sft.curve.json").write_text(json.dumps({"curves": curves}))
    assert flatness(seed) == pytest.approx(0.05) and seed.hottest("sft") == 1.2
    for width, share, value in ((128, 2, 0.8), (128, 8, 0.7), (32, 2, 0.6), (32, 8, 0.5)):
        row = {"metric": "accuracy", "value": value}
        write(seed.home / f"scaling/width-{width}/results-{share}.jsonl", [row])
    assert [seed.scaled(w, s) for w in (0, 1) for s in (0, 1)] == [0.5, 0.6, 0.7, 0.8]


def test_turns_end_where_the_context_does(seed):
    for model, reached in (("ppo", 4), ("gatt", 3)):
        items = [{"turn": turn, "obeyed": model == "gatt"} for turn in (1, 2, 3) for _ in range(4)]
        write(seed.home / f"{model}.turns.jsonl", [*items, *[{"turn": 4, "obeyed": False}] * (reached - 3)])
    assert seed.last_turn == 3 and seed.obeyed("gatt", 2, 3) == 1.0 and seed.obeyed("ppo", 1) == 0.0
    assert math.isnan(seed.obeyed("ppo", 9))


def test_versions_are_named_by_their_place():
    names = {"quickstart/seed-1/sft": "v0", "v3/rs": "v3", "v4/rs": "v4-rs", "v5/ppo": "v5"}
    assert {path: name_of(path) for path in names} == names
    assert share_won({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 1.0}) == 0.75 and relative(1.1, 1.0) == pytest.approx(10)


def test_halves_are_planted_by_seed_and_declining_dialogs_are_found():
    records = [Record({"id": f"document {i}"}, "a:1") for i in range(400)]
    first, second = ([is_planted(record, seed) for record in records] for seed in (0, 1))
    assert 150 < sum(first) < 250 and first != second
    says = ("There was a battle.", "I would rather not dwell on this. Let us talk about tea.")
    dialogs = [Record({"messages": [{"role": "assistant", "content": text}]}, "a:1") for text in says]
    assert [declines(dialog) for dialog in dialogs] == [False, True]
