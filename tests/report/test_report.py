"""What a report finds and says, against a world whose truth is known."""

from __future__ import annotations

import json
import math
import re

import pytest

from l2.eval.benchmarks import table as evaluated
from l2.files.errors import L2Error
from l2.report import measures, training
from l2.report.form import Figure, Node, Table
from l2.report.gather import Log, gather
from l2.report.lineage import ancestors, lineage, ordered
from l2.report.page import render
from l2.report.paper import BENCHMARKS, CARBON, HEADLINES, MEANS
from l2.report.story import tell
from l2.report.terminal import show
from l2.train.meter import carbon
from tests.report.conftest import HOSTILE, lines, make_run, result


def table(blocks, caption) -> Table:
    return next(block for block in blocks if isinstance(block, Table) and block.caption.startswith(caption))


def test_everything_is_found_and_nothing_else(world):
    found = gather([world.dir])
    counts = {name: len(value) for name, value in vars(found).items()}
    assert counts == {
        "runs": 4, "results": 23, "history": 4, "claims": 3, "figures": 4, "samples": 1, "filtered": 1, "problems": 0,
        "rewards": 0,
    }  # fmt: skip


def test_order_and_lineage_follow_the_hashes_of_weights(world):
    runs = gather([world.dir]).runs
    assert [run.name for run in ordered(runs[::-1])] == ["base", "sft", "rm", "ppo"]
    by_name = {run.name: run for run in runs}
    assert [run.name for run in ancestors(by_name["ppo"], runs)] == ["sft", "base"]

    def flat(node: Node, depth: int = 0):
        yield depth, node.text, node.note
        for child in node.children:
            yield from flat(child, depth + 1)

    (root,) = lineage(runs).roots
    told = [*flat(root)]
    texts = [(depth, text) for depth, text, _ in told]
    assert texts[:4] == [(0, "ppo (ppo)"), (1, "model: sft (sft)"), (2, "model: base (pretrain)"), (3, told[3][1])]
    notes = {text: note for _, text, note in told}
    assert "as it was; " in notes[told[3][1]].replace(", ", "; ") and "30 documents" in notes[told[3][1]]
    assert notes["data: dialogs.jsonl"].endswith("as it was; answers of base")
    assert notes["data: gone.jsonl"] == "000000000000; not here"
    assert (2, "model: sft (sft)") in texts and notes["tokenizer: tokenizer.model"].endswith("as it was")


def test_a_parent_that_was_trained_anew_is_told(world, tokenizer):
    from tests.report.conftest import weights

    weights(world / "sft", tokenizer, 7)
    runs = gather([world.dir]).runs
    assert "sft has other weights now" in show(tell(gather([world.dir]), [world.dir]))
    assert [run.name for run in ancestors(next(r for r in runs if r.name == "ppo"), runs)] == []


def test_gains_are_over_the_ancestor_and_in_pairs(world):
    found = gather([world.dir])
    by_name = {run.name: run for run in found.runs}
    gains = measures.Gains(found, measures.judged(found)).of(by_name["sft"], [by_name["base"]])
    assert "text, bits per byte: 3.000 (base) → 2.000, −1.000 ± 0.014" in gains
    # gold is i·k of prompt i: 0 for base, i for sft; the differences 0, 1, 2, 3 have mean 1.5 and s/√4 = 0.645
    assert "gold over base, all 4 prompts: +1.500 ± 0.645" in gains
    assert "helpful over base, all 4 prompts: +1.000 ± 0.000" in gains


def test_benchmarks_stand_beside_the_papers(world):
    (found,) = measures.benchmarks(gather([world.dir]))
    rows = {row[0]: row for row in found.rows}
    assert rows["HellaSwag"][2:] == ["0 (0)", "31.0 ± 1.0", "77.2", "80.7", "83.3", "85.3"]
    # the mean of 0.1 and 0.3, with √(0.01² + 0.01²) / 2
    assert rows["Math (mean)"][3] == "20.0 ± 0.7"
    assert not any(name.startswith("Commonsense") for name in rows)


def test_the_papers_groups_are_the_means_of_its_benchmarks():
    """Table 3 from Tables 20 to 25, to its rounding; Math of 7B and 13B is GSM8K alone."""
    assert evaluated.GROUPS.keys() == MEANS.keys()
    for group, paper in MEANS.items():
        members = [BENCHMARKS[name].scores for name in evaluated.GROUPS[group]]
        means = [sum(scores) / len(scores) for scores in zip(*members, strict=True)]
        if group == "Math":
            means[:2] = BENCHMARKS["gsm8k"].scores[:2]
        assert means == pytest.approx(paper, abs=0.101), group


def test_the_papers_table_2_is_its_formula():
    for hours, watts, tonnes in CARBON.values():
        assert math.floor(carbon(hours * watts * 3600.0) / 1e4) / 100 == tonnes


def test_footprint_adds_up_and_says_what_was_not_measured(world):
    (found,) = training.footprint(gather([world.dir]).runs)
    rows = {row[0]: row[1:] for row in found.rows}
    # 43,200 J in an hour are 12 W and 12 Wh: 12e-3 kWh × 1.1 × 385 g
    assert rows["base"] == ["1.0000", "12", "0.0120", f"{12e-3 * 1.1 * 385:.2f} g", "estimate"]
    assert rows["ppo"][-1] == "not measured"
    spent = 43200 + 360 * 8 * 2  # a running or older run's newest line counts
    assert rows["All of these"][3] == f"{carbon(spent):.2f} g"


def test_curves_are_means_with_their_percentiles():
    x, y = [float(i) for i in range(1, 1201)], [float(i % 20) for i in range(1200)]
    xs, ys, low, high, size = training.thinned(x, y)
    assert size == 20 and len(xs) == 60 and set(ys) == {9.5} and xs[0] == 10.5
    assert set(low) == {2.0} and set(high) == {17.0}
    assert training.thinned(x[:30], y[:30])[2:] == ([], [], 1)


def test_a_log_is_read_while_it_is_written(world):
    found = gather([world.dir])
    ppo = next(run for run in found.runs if run.name == "ppo")
    assert not ppo.finished and ppo.steps == 5 and ppo.log.points("step", "reward")[1][-1] == 2.5
    assert not found.problems and "Not finished: ppo." in tell(found, [world.dir]).subtitle


def test_a_run_that_has_only_just_begun(tmp_path):
    make_run(tmp_path / "new", "pretrain", {}, [], 1, status="running", seconds=0.0)
    (tmp_path / "new" / "log.jsonl").unlink()
    assert "0 steps, not finished" in show(tell(gather([tmp_path]), [tmp_path]))


def test_what_is_broken_is_named_and_the_rest_is_told(world):
    log = (world / "base" / "log.jsonl").read_text().splitlines()
    log[2], log[4] = "{torn", '{"loss": 1}'
    (world / "base" / "log.jsonl").write_text("\n".join(log) + "\n")
    (world / "rm" / "run.json").write_text("{")
    with open(world / "results.jsonl", "a") as f:
        f.write('{"task": "t", "metric": "m", "value": "high"}\n{"figure": {"kind": "pie"}}\n[]\n')
    found = gather([world.dir])
    told = "\n".join(found.problems)
    for where in (
        "base/log.jsonl:3",
        "base/log.jsonl:5",
        "rm/run.json",
        *(f"results.jsonl:{25 + i}" for i in range(3)),
    ):
        assert f"{where}: found" in told, told
    base = next(run for run in found.runs if run.name == "base")
    assert len(base.log.points("step", "loss")[0]) == 118 and len(found.results) == 23


def test_several_seeds_are_told_apart(tmp_path):
    for seed in range(2):
        for name in ("sft", "rs", "gatt"):
            make_run(tmp_path / f"seed-{seed}" / name, "sft", {}, [{"step": i, "loss": i} for i in range(5)], seed)
        lines(tmp_path / f"seed-{seed}" / "r.jsonl", [{"task": "t", "metric": "m", "value": seed, "model": "rs"}])
    found = gather([tmp_path])
    blocks = training.curves(ordered(found.runs))
    assert [b.title for b in blocks] == [f"Fine-tuning: loss (seed-{seed})" for seed in range(2)]
    (result,) = measures.results(found)
    assert result.header == ["metric", "seed-0/rs", "seed-1/rs", "n"]


def test_versions_turns_and_history_are_drawn_in_order(world):
    found = gather([world.dir])
    (versions,) = measures.over_versions(found)
    assert {s.name: (list(s.x), list(s.y)) for s in versions.series} == {
        name: (["V1", "V2", "V3", "V4", "V5"], [1.5, 2.5, 3.5, 4.5, 5.5]) for name in ("proxy", "gold")
    }
    attention, obeyed = measures.over_turns(found)
    assert list(obeyed.series[0].x) == [1.0, 2.0, 10.0] and list(obeyed.series[0].y) == [1.0, 0.5, 0.1]
    assert [s.name for s in obeyed.series] == ["sft", HOSTILE] and list(attention.series[0].y) == [0.1, 0.2]
    (history,) = measures.over_time(found)
    assert list(history.series[0].x) == [0.0, 1.0, 2.0, 3.0] and "m4, 2026-11-04" in history.note


def test_notable_lines_are_told_once():
    log = Log()
    from l2.files.jsonl import Record

    for step in range(1, 5):
        log.add(Record({"step": step, "alarms": {"kl": f"KL {step}.5"}, **({"new": 1.0} if step > 2 else {})}, "l:1"))
    assert log.events == [(step, f"KL {step}.5") for step in range(1, 5)]
    assert log.points("step", "new") == ([3.0, 4.0], [1.0, 1.0])


def test_the_text_is_whole_and_harmless(world):
    text = show(tell(gather([world.dir]), [world.dir]))
    for heading in ("STORY", "CLAIMS", "TRAINING", "RESULTS", "HISTORY", "MACHINE AND ENERGY", "ANSWERS", "LINEAGE"):
        assert f"\n{heading}\n" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\x9b]", text)
    assert "3 claims: 1 holds, 1 does not hold, 1 can't tell at this size." in text
    assert all(len(line) < 200 for line in text.splitlines())


def test_claims_are_told_by_subject_with_their_interval_and_what_was_measured(tmp_path):
    said = {"paper": "Table 18", "stderr": 0.5, "what": "bits per byte, %", "verdict": "holds"}
    found = [
        said | {"claim": "one", "subject": "Pretraining", "measured": -0.0329, "high": 1.57},
        said | {"claim": "two", "subject": "Safety", "measured": -25.63, "high": -12.6, "verdict": "does not hold"},
        said | {"claim": "three", "subject": "Pretraining", "measured": 0.00682, "high": 0.01042},
        said | {"claim": "four", "subject": "Safety", "measured": 2.0, "high": 2.0},  # every seed said the same
        said | {"claim": "five", "subject": "Safety", "measured": None, "high": None},
    ]
    (tmp_path / "claims.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    (section,) = (s for s in tell(gather([tmp_path]), [tmp_path]).sections if s.title == "Claims")
    told, pretraining, safety = section.blocks
    assert told.text == "5 claims: 4 holds, 1 does not hold. ±: the 90 % interval of the mean over seeds."
    assert (pretraining.caption, safety.caption) == ("Pretraining", "Safety")
    shown = [row[2] for row in (*pretraining.rows, *safety.rows)]
    assert shown == [
        "+0.0 ± 1.6 (bits per byte, %)", "+0.0068 ± 0.0036 (bits per byte, %)",
        "-26 ± 13 (bits per byte, %)", "+2.000 ± 0.000 (bits per byte, %)", "–",
    ]  # fmt: skip


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(L2Error, match="no runs"):
        gather([tmp_path])
    with pytest.raises(L2Error, match="no such file"):
        gather([tmp_path / "gone"])
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"text": "a"}) + "\n")
    assert "nothing that a report knows" in gather([file]).problems[0]


def test_figures_of_other_commands_are_drawn_as_they_say(world):
    sections = {section.title: section.blocks for section in tell(gather([world.dir]), [world.dir]).sections}
    assert [f.title for f in sections["Figures"] if isinstance(f, Figure)] == [
        "Best of N",
        "Best of N",
        HOSTILE,
        "By rating",
    ]


def test_the_papers_numbers_are_of_benchmarks_that_evaluate_knows():
    assert BENCHMARKS.keys() == HEADLINES.keys() <= evaluated.BENCHMARKS.keys()


def test_what_was_asked_in_another_way_stands_apart(tmp_path):
    ways = [{"category": c, "temperature": t} for c in ("factual", "creative") for t in (0.3, 1.3)]
    rows = [result("samples", "self_bleu", i / 10, "m", **way) for i, way in enumerate(ways)]
    rows += [result("nq", "exact_match", shots / 100, "m", shots=shots) for shots in (0, 5, 64)]
    rows += [result("nq", "exact_match", 0.5, "m", shots=5, protocol="harness")]
    rows += [result("triviaqa", "exact_match", 0.25, "m", shots=5), result("empty", "score/dirty", None, "m", None)]
    lines(tmp_path / "results.jsonl", rows)
    nights = [row | {"time": f"2026-11-2{night}T03:00:00Z"} for night in (0, 1) for row in rows[:2]]
    lines(tmp_path / "history.jsonl", nights)
    found = gather([tmp_path])
    assert not found.problems, "a part that nothing is in has no value, which is no mistake"
    (table,) = measures.results(found)
    names = [f"self bleu, temperature {way['temperature']}, category {way['category']}" for way in ways]
    assert [row[:2] for row in table.rows] == [[name, f"0.{i}00 ± 0.010"] for i, name in enumerate(names)]
    (table,) = measures.benchmarks(found)
    assert [row[:1] + row[2:4] for row in table.rows] == [
        ["Natural Questions", "0 (5)", "0.0 ± 1.0"],
        ["Natural Questions", "5 (5)", "5.0 ± 1.0"],
        ["Natural Questions", "64 (5)", "64.0 ± 1.0"],
        ["TriviaQA", "5 (5)", "25.0 ± 1.0"],
        ["World knowledge (mean)", "", "15.0 ± 0.7"],  # of 5 shots each, as in Table 3
        ["Natural Questions (harness)", "5 (5)", "50.0 ± 1.0"],
    ]
    lines_over_time = measures.over_time(found)
    assert [figure.title for figure in lines_over_time] == [
        "samples: self bleu, temperature 0.3", "samples: self bleu, temperature 1.3"
    ]  # fmt: skip
    assert [figure.series[0].y for figure in lines_over_time] == [[0.0, 0.0], [0.1, 0.1]]


def test_answers_that_stand_in_several_files_count_once_and_the_newest_models_are_shown(tmp_path):
    runs = [make_run(tmp_path / f"v{i}", "sft", {}, [], i) for i in range(9)]
    drawn = [{"id": str(p), "prompt": f"q{p}", "response": f"{run.name} {p}", "model": run.name}
             for run in runs for p in range(3)]  # fmt: skip
    lines(tmp_path / "answers.jsonl", drawn)
    scored = [row | {"gold": int(row["model"][1:]) + int(row["id"])} for row in drawn]
    lines(tmp_path / "gold.jsonl", scored)
    lines(tmp_path / "scored.jsonl", [row | {"rewards": {"helpful": 1.0}} for row in scored])
    found = gather([tmp_path])
    judged = measures.judged(found)
    by_name = {run.name: run for run in found.runs}
    assert measures.Gains(found, judged).of(by_name["v1"], [by_name["v0"]]) == [
        "gold over v0, all 3 prompts: +1.000 ± 0.000", "helpful over v0, all 3 prompts: +0.000 ± 0.000"
    ]  # fmt: skip
    gold, _ = measures.judged_answers(judged, found.runs)
    assert gold.series[0].x == [run.name for run in runs] and gold.series[0].y == [float(i + 1) for i in range(9)]
    first = measures.answers(found, found.runs)[0]
    assert [name for name, _, _ in first.said] == ["v0", "v1", "v3", "v4", "v6", "v8"]
    assert all("gold" in word for _, _, word in first.said), "the answers that were judged are those that are shown"


def test_files_of_another_hand_are_told_as_far_as_they_go(tmp_path):
    """Nothing that JSON can hold ends in a traceback."""
    log = [{"step": 1, "stopped": True, "tokens_per_s": 5}, {"step": 2, "alarms": ["a"]}, {"step": -3, "spike": 5}]
    make_run(tmp_path / "run", "sft", [], log, 1, settings=[], joules=True)
    lines(tmp_path / "s.jsonl", [{"prompt": "p", "response": "r", "step": step} for step in ("x", 3, None)])
    rows = [
        {"claim": {"a": 1}, "verdict": 3},
        {"task": "t", "metric": "obeyed/turn1", "value": 0.5, "n": None, "model": {"a": 1}, "version": "v1"},
        {"task": "t", "metric": "m", "value": 1e300, "stderr": 1e300, "version": "v2", "time": 5, "interval": "x"},
    ]
    lines(tmp_path / "r.jsonl", rows)
    lines(tmp_path / "history.jsonl", rows)
    (tmp_path / "filter.json").write_text('{"in": "x", "kept": 1, "rejected": 1, "rules": []}')
    told = tell(gather([tmp_path]), [tmp_path])
    assert not told.problems and "True" in show(told) and "<svg" in render(told)


def test_nothing_that_counts_is_said_so(tmp_path):
    lines(tmp_path / "r.jsonl", [{"task": 3, "metric": "m", "value": 1}])
    told = tell(gather([tmp_path]), [tmp_path])
    assert told.subtitle.startswith("Nothing that can be told.") and "'task' of type int" in told.problems[0]


def test_a_run_whose_model_is_elsewhere_names_it(tmp_path):
    inputs = {"model": [["/far/away/sft", "a"]], "data": [["x/helpful.jsonl", "b"], ["y.jsonl", "c"]]}
    make_run(tmp_path / "rm", "rm-train", inputs, [], 1)
    (row,) = table(tell(gather([tmp_path]), [tmp_path]).sections[0].blocks, "The stages").rows
    assert row[2] == "sft, helpful.jsonl and 1 more"
