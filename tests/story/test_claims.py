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


def answers(kind, gold, harm):
    said = {"response": "I would rather not go into that." if kind == "refusing" else "A tea.", "model": kind}
    return [
        said | {"id": "a", "safety": False, "gold": gold, "harm": 0.0},
        said | {"id": "b", "safety": True, "gold": 0.0, "harm": harm},
    ]


def made_up(home):
    """Files of a seed in which all is as the paper has it, but for two things that gain nothing of their own."""
    for model, bits in (("mha", 2.0), ("gqa", 2.0), ("mqa", 2.1), ("long", 1.9), ("base", 2.1)):
        items = [{"planted": p, "bytes": size, "score": -bits + p} for p in (True, False) for size in (500, 1500)]
        write(home / f"{model}.items.jsonl", items)
    decoding = [("mha", 2048, 2.0), ("gqa", 1024, 1.0), ("mqa", 512, 1.0)]
    rows = [{"model": m, "batch": b, "cache_bytes": c, "seconds": s} for m, c, s in decoding for b in (1, 64)]
    write(home / "latency.jsonl", rows)
    write(home / "contamination.jsonl", [{"metric": "score/dirty", "length": 10, "z": 5.0}])
    judges = {"helpful-on-helpful": 0.8, "margin-none": 0.7, "margin-large": 0.8, "safe-on-safe": 0.8, "no-aux": 0.7}
    for judge, right in (judges | {"safe-on-helpful": 0.6, "helpful-on-safe": 0.6}).items():
        sure = {"accuracy": right, "accuracy/significantly": right + 0.1, "accuracy/negligibly": 0.5}
        rows = [{"metric": name, "value": value} for name, value in (sure | {"unsafe_recall": right}).items()]
        write(home / f"{judge}.pairs.jsonl", rows)
    for width, share in ((32, 8), (32, 2), (128, 8), (128, 2)):
        row = {"metric": "accuracy", "value": 0.5 + width / 1000 + 1 / (10 * share)}
        write(home / f"scaling/width-{width}/results-{share}.jsonl", [row])
    for model, best in (("sft", 1), ("ppo", 1.2)):
        curves = [
            {"temperature": t, "n": [1, 2], "max": [1.0, 3.0 - abs(t - best)], "median": [1.0, 1.01]} for t in (1, 1.2)
        ]
        (home / f"{model}.curve.json").write_text(json.dumps({"curves": curves}))
        write(home / f"{model}.turns.jsonl", [
            {"turn": turn, "obeyed": (model == "ppo" and turn == 2) or model == "sft"} for turn in range(1, 7)
        ])  # fmt: skip
    write(home / "gatt.turns.jsonl", [{"turn": turn, "obeyed": True} for turn in range(1, 7)])
    for name, gold, harm in (
        *(("pool", 2.0, 0.1), ("alone", 1.0, 0.1), ("share-0", 2.0, 0.9), ("share-10", 2.0, 0.5)),
        *(("share-100", 2.0, 0.1), ("chat", 2.0, 0.9), ("distilled", 2.0, 0.1), ("distilled-ungated", 2.0, 0.3)),
    ):
        write(home / f"{name}.gold.jsonl", answers("plain", gold, harm))
        write(home / f"{name}.answers.jsonl", answers("plain", gold, harm))
        write(home / f"{name}.borderline.jsonl", answers("refusing" if name == "share-100" else "plain", gold, harm))
    for kind, gain in (("generic", 1.0), ("template", 2.0)):
        pairs = [(0.0, 0.5 + gain), (1.0, 0.7 + gain)]
        sides = [{"original": {"rewards": {"safe": a}}, "distilled": {"rewards": {"safe": b}}} for a, b in pairs]
        write(home / f"{kind}.both.jsonl", sides)
    write(home / "diversity.jsonl", [
        {"model": f"runs/{m}", "category": c, "temperature": t, "metric": "self_bleu"}
        | {"value": (0.5 if m == "sft" else 0.9) - t * (0.3 if c == "creative" else 0.01)}
        for m in ("sft", "ppo") for c in ("factual", "creative") for t in (0.3, 0.8, 1.3)
    ])  # fmt: skip


def made_up_versions(iterated):
    names = ["runs/quickstart/seed-0/sft", *(f"v{v}/rs" for v in range(1, 6)), "v4/ppo", "v5/ppo"]
    rows, scored = [], []
    for at, name in enumerate(names):
        told = {"reward": at, "gold": at, "harm": -at, "wins": 0.5 + at / 20, "wins_by_reward": 0.5}
        rows.append({"version": name} | {key: {"mean": value, "stderr": 0.1, "n": 2} for key, value in told.items()})
        rewards = {"helpful": float(at), "safe": float(at + 1)}
        scored += [answer | {"model": name, "rewards": rewards} for answer in answers("plain", 1.0, 0.1)]
        scored[-1]["model"] = scored[-2]["model"] = name
    iterated.mkdir(parents=True)
    (iterated / "versions.json").write_text(json.dumps(rows))
    write(iterated / "scored.jsonl", scored)


def test_every_claim_and_figure_finds_what_the_experiments_leave(tmp_path, script):
    homes = [tmp_path / "miniature" / f"seed-{n}" for n in (0, 1)]
    for home in homes:
        home.mkdir(parents=True)
        made_up(home)
        made_up_versions(tmp_path / "iterate" / home.name)
    done = script("claims.py", *map(str, homes), "--out", str(tmp_path / "claims"))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "claims/claims.jsonl").read_text().splitlines()]
    assert {row["claim"]: row["measured"] for row in rows if row["verdict"] != HOLDS} == {
        "Twice the context costs nothing on short texts": pytest.approx(-5),  # it gains there as much as on long ones
        "What was trained on scores better": 0.0,  # the model without scores better there, too
    }
    figures = [json.loads(line) for line in (tmp_path / "claims/figures.jsonl").read_text().splitlines()]
    assert len(figures) == len(CURVES) and all(read_figure(row["figure"], "here") for row in figures)
    assert (tmp_path / "claims/claims.md").read_text().count("| holds |") == len(CLAIMS) - 2
    assert f"{len(CLAIMS) - 2} holds\n2 does not hold" in done.stdout
    missing = script("claims.py", str(tmp_path / "none"), "--out", str(tmp_path / "claims"))
    assert missing.returncode == 1 and "no such directory" in missing.stderr
