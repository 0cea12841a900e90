"""Verdicts over seeds, by hand; and what the experiments' data are made of."""

import json
import math
import random

import pytest
from claims import FAILS, HOLDS, STUDENT, UNKNOWN, Measured, brief, claim_row, figure_row, over_seeds, verdict, whole
from experiment_results import Seed, name_of
from experiments import declines, is_planted
from paper_claims import (
    BELOW,
    CLAIMS,
    CURVES,
    Claim,
    Curve,
    contaminated,
    flatness,
    gain_by_score,
    heated,
    kept_to_the_end,
    relative,
    within,
)
from scipy.stats import t as student

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


EVERY = [claim for claims in CLAIMS.values() for claim in claims]


def test_intervals_are_students():
    assert pytest.approx([student.ppf(0.95, n - 1) for n in range(2, 11)], abs=1e-4) == STUDENT
    found = over_seeds([1.0, 2.0, 6.0])  # variance 7
    low, high = student.interval(0.9, 2, loc=3.0, scale=math.sqrt(7 / 3))
    assert found == pytest.approx((3.0, math.sqrt(7 / 3), low, high), abs=1e-4)
    assert over_seeds([1.0])[:2] == (1.0, None) and over_seeds([0.0, 1.0] * 8).high > 0.5


@pytest.mark.parametrize(
    ("low", "high", "interval", "expected"),
    [
        (0.1, 0.5, {}, HOLDS),
        (0.0, 0.4, {}, UNKNOWN),  # one that ends at nothing is not beyond it
        (-0.3, 0.1, {}, UNKNOWN),
        (-0.5, -0.1, {}, FAILS),
        (-0.5, -0.1, BELOW, HOLDS),
        (0.1, 0.5, BELOW, FAILS),
        (-0.1, 0.3, within(0.5), HOLDS),
        (0.2, 0.6, within(0.5), UNKNOWN),
        (0.6, 1.0, within(0.5), FAILS),
        (-1.0, -0.6, within(0.5), FAILS),
        (-1.7, 1.9, within(0.5), UNKNOWN),
        (-50.0, -50.0, BELOW, HOLDS),  # exact, the same with every seed
        (0.0, 0.0, BELOW, FAILS),
        (math.nan, math.nan, {}, UNKNOWN),  # one seed
    ],
)
def test_a_verdict_is_where_the_interval_lies(low, high, interval, expected):
    interval = {"low": 0.0, "high": math.inf} | interval
    assert verdict(Measured((low + high) / 2, 0.1, low, high), **interval) == expected


def test_a_claim_is_a_row_of_the_report_and_of_the_tables():
    row = claim_row(Claim("More is more", "Figure 0", "pieces", float, telling=True), "Pieces", [3.0, 4.0, 5.0])
    assert row == {
        "claim": "More is more", "subject": "Pieces", "paper": "Figure 0", "what": "pieces", "measured": 4.0,
        "stderr": pytest.approx(1 / math.sqrt(3), abs=1e-6), "low": pytest.approx(4 - 1.6859, abs=1e-4),
        "high": pytest.approx(4 + 1.6859, abs=1e-4), "verdict": HOLDS, "seeds": 3, "telling": True,
    }  # fmt: skip
    line = "| More is more | Figure 0 | +4.0 ± 1.7 (pieces) | holds |"
    silent = row | {"claim": "Less is less", "subject": "Others", "verdict": FAILS, "telling": False}
    assert line in brief([row, silent]).splitlines() and "Less is less" not in brief([row, silent])
    assert "| **all** | 1 | 1 | 0 |" in brief([row, silent]) and "| Others | 0 | 1 | 0 |" in brief([row, silent])
    assert line in whole([row, silent]).splitlines() and "## Others" in whole([row, silent])


def test_what_a_seed_could_not_measure_is_told_as_nothing_known():
    row = claim_row(Claim("More is more", "Figure 0", "pieces", float), "Pieces", [1.0, math.nan])
    assert row["measured"] is None and row["stderr"] is None and row["verdict"] == UNKNOWN
    assert "not measured (pieces)" in whole([row])


def test_a_figure_has_means_over_seeds():
    curve = Curve("Title", "x", "y", lambda seed: {"line": {1: seed, 2: 2 * seed}})
    row = figure_row(curve, [1.0, 3.0])
    (series,) = read_figure(row["figure"], "here").series
    assert list(series.x) == [1.0, 2.0] and list(series.y) == [2.0, 4.0]
    assert series.low[0] == pytest.approx(2.0 - STUDENT[0])
    assert "note" not in figure_row(curve, [1.0])["figure"], "one seed has no interval"


def test_claims_and_figures_have_names_of_their_own():
    assert len({claim.says for claim in EVERY}) == len(EVERY)
    assert len({curve.title for curve in CURVES}) == len(CURVES)
    assert all(claim.low < claim.high for claim in EVERY) and sum(claim.telling for claim in EVERY) == 10


def test_planting_is_weighed_against_a_model_without_and_items_without(seed):
    for model, planted, other in (("gqa", 1.0, 1.5), ("base", 2.0, 2.2)):
        items = [{"id": "a", "planted": True, "bytes": 10, "score": -planted}]
        items += [{"id": "b", "planted": False, "bytes": 30, "score": -other}]
        write(seed.home / f"{model}.items.jsonl", [*items, items[1] | {"id": "c"}])
    assert seed.bits("gqa") == 1.5
    assert contaminated(seed) == pytest.approx((1.0 - 2.0) - (1.5 - 2.2))


def test_best_of_n_and_sizes_are_read_in_order(seed):
    tops = {0.8: 2, 1: 3, 1.2: 4}
    curves = [{"temperature": t, "n": [1, 2], "max": [1.0, top], "median": [1.0, 1.1]} for t, top in tops.items()]
    (seed.home / "sft.curve.json").write_text(json.dumps({"curves": curves}))
    assert flatness(seed) == pytest.approx(0.05) and heated(seed, "sft") == 2.0
    for width, share, value in ((128, 2, 0.8), (128, 8, 0.7), (32, 2, 0.6), (32, 8, 0.5)):
        row = {"metric": "accuracy", "value": value}
        write(seed.home / f"scaling/width-{width}/results-{share}.jsonl", [row])
    assert [seed.scaled(w, s) for w in (0, 1) for s in (0, 1)] == [0.5, 0.6, 0.7, 0.8]


def test_turns_end_where_the_context_does(seed):
    for model, reached in (("ppo", 4), ("gatt", 3)):
        items = [{"turn": turn, "obeyed": model == "gatt"} for turn in (1, 2, 3) for _ in range(4)]
        write(seed.home / f"{model}.turns.jsonl", [*items, *[{"turn": 4, "obeyed": False}] * (reached - 3)])
    assert seed.last_turn == 3 and seed.obeyed("gatt", 2, 3) == 1.0 and seed.obeyed("ppo", 1) == 0.0
    assert math.isnan(seed.obeyed("ppo", 9)) and kept_to_the_end(seed) == 1.0
    write(seed.home / "gatt.turns.jsonl", [{"turn": turn, "obeyed": False} for turn in (1, 2, 3)])
    assert math.isnan(kept_to_the_end(seed)), "what never held does not hold to the end"


def test_a_preprompt_that_does_nothing_is_not_said_to_help_bad_answers(seed):
    """Of gain and the replaced answer's own score the correlation is -√½ here; of gain and others' score, none."""
    draw, pairs, tried = random.Random(0), [], []
    for name in map(str, range(2000)):
        before, after, other = (draw.gauss(0, 1) for _ in range(3))
        sides = {"original": {"response": "a", "rewards": {"safe": before}}, "distilled": {"rewards": {"safe": after}}}
        pairs.append({"id": name} | sides)
        # The answer itself is among those tried: it has to be left out.
        tried += [{"id": name, "response": word, "rewards": {"safe": s}} for word, s in (("a", before), ("b", other))]
    write(seed.home / "template.both.jsonl", pairs)
    write(seed.start / "tried.jsonl", tried)
    assert abs(gain_by_score(seed)) < 4.5 / math.sqrt(2000)  # the seed is fixed; 4.5 standard errors of a correlation


def test_versions_are_named_by_their_place():
    names = {"quickstart/seed-1/sft": "v0", "v3/rs": "v3", "v4/rs": "v4-rs", "v5/ppo": "v5"}
    assert {path: name_of(path) for path in names} == names
    assert relative(1.1, 1.0) == pytest.approx(10)


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
            {"temperature": t, "n": [1, 2], "max": [1.0, 3.0 - abs(t - best)], "median": [1.0, 1.01]}
            for t in (0.8, 1, 1.2)
        ]
        (home / f"{model}.curve.json").write_text(json.dumps({"curves": curves}))
        write(home / f"{model}.turns.jsonl", [
            {"turn": turn, "obeyed": (model == "ppo" and turn == 2) or model == "sft"} for turn in range(1, 7)
        ])  # fmt: skip
    write(home / "gatt.turns.jsonl", [{"turn": turn, "obeyed": True} for turn in range(1, 7)])
    for name, gold, harm in (
        *(("pool", 2.0, 0.1), ("alone", 1.0, 0.1), ("share-0", 2.0, 0.9), ("share-10", 2.0, 0.5)),
        *(("share-100", 2.0, 0.1), ("chat", 2.0, 0.9), ("distilled", 2.0, 0.1), ("distilled-ungated", 2.0, 0.3)),
        ("distilled-template", 2.0, 0.1),
    ):
        write(home / f"{name}.gold.jsonl", answers("plain", gold, harm))
        write(home / f"{name}.answers.jsonl", answers("plain", gold, harm))
        write(home / f"{name}.borderline.jsonl", answers("refusing" if name == "share-100" else "plain", gold, harm))
    for kind, gain in (("generic", 1.0), ("template", 2.0)):
        pairs = [(0.0, 0.5 + gain), (1.0, 0.7 + gain)]
        write(home / f"{kind}.both.jsonl", [
            {"id": str(i), "original": {"response": "a", "rewards": {"safe": a}}, "distilled": {"rewards": {"safe": b}}}
            for i, (a, b) in enumerate(pairs)
        ])  # fmt: skip
    write(home / "diversity.jsonl", [
        {"model": f"runs/{m}", "category": c, "temperature": t, "metric": "self_bleu"}
        | {"value": (0.5 if m == "sft" else 0.9) - t * (0.01 if (m, c) == ("ppo", "factual") else 0.3)}
        for m in ("sft", "ppo") for c in ("factual", "creative") for t in (0.3, 0.8, 1.3)
    ])  # fmt: skip


def made_up_versions(runs, name):
    """Eight versions, each better than the one before; and what rejection sampling tried."""
    names = ["runs/quickstart/seed-0/sft", *(f"v{v}/rs" for v in range(1, 6)), "v4/ppo", "v5/ppo"]
    scored = []
    for at, version in enumerate(names):
        rewards = {"helpful": float(at), "safe": float(at + 1)}
        told = answers("plain", float(at), 1 - at / 10)
        scored += [answer | {"model": version, "rewards": rewards} for answer in told]
    write(runs / f"iterate/{name}/scored.jsonl", scored)
    tried = [{"id": str(i), "response": "b", "rewards": {"safe": float(i)}} for i in range(2)]
    write(runs / f"quickstart/{name}/tried.jsonl", tried)


def test_every_claim_and_figure_finds_what_the_experiments_leave(tmp_path, script):
    homes = [tmp_path / "miniature" / f"seed-{n}" for n in (0, 1)]
    for home in homes:
        home.mkdir(parents=True)
        made_up(home)
        made_up_versions(tmp_path, home.name)
    done = script("claims.py", *map(str, homes), "--out", str(tmp_path / "claims"))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "claims/claims.jsonl").read_text().splitlines()]
    assert {row["claim"]: row["measured"] for row in rows if row["verdict"] != HOLDS} == {
        "Twice the context costs short texts nothing": pytest.approx(-5),  # it gains there as much as on long ones
        "What was trained on scores better": 0.0,  # the model without scores better there, too
        "PPO is truly better": 0.0,  # nothing wins more than always
    }
    figures = [json.loads(line) for line in (tmp_path / "claims/figures.jsonl").read_text().splitlines()]
    assert len(figures) == len(CURVES) and all(read_figure(row["figure"], "here") for row in figures)
    assert (tmp_path / "claims/claims.md").read_text().count("| holds |") == len(EVERY) - 3
    assert f"| **all** | {len(EVERY) - 3} | 3 | 0 |" in (tmp_path / "claims/brief.md").read_text()
    assert f"{len(EVERY) - 3} holds; 3 does not hold; 0 can't tell" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 112
    (drawn,) = (row["figure"] for row in figures if row["figure"]["title"] == "Versions")
    shown = {series["name"]: dict(zip(series["x"], series["y"], strict=True)) for series in drawn["series"]}
    assert shown["without PPO"] == {f"V{v}": v for v in range(6)} and shown["with PPO"] == {"V4": 6, "V5": 7}
    missing = script("claims.py", str(tmp_path / "none"), "--out", str(tmp_path / "claims"))
    assert missing.returncode == 1 and "no such directory" in missing.stderr
