import json
import math
import random
from statistics import stdev

import pytest
from table import Estimate, by_id, estimate, obeyed_rows, paired, render, result_rows, score_rows, unasked_rows

from l2.files.errors import L2Error, UsageError


@pytest.fixture
def write(tmp_path):
    def put(name, records):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(path)

    return put


def result(task, metric, value, stderr=0.01, **fields):
    told = {"task": task, "metric": metric, "value": value, "stderr": stderr, "n": 100, "protocol": "score at EOS"}
    return told | fields


def test_a_mean_and_its_standard_error():
    assert estimate([1.0, 2.0, 3.0, 4.0]) == Estimate(2.5, pytest.approx(math.sqrt(5 / 3) / 2), 4)
    assert estimate([1.0]).stderr == math.inf


def test_paired_gains_have_the_error_of_the_differences():
    draw = random.Random(0)
    hard = {str(number): draw.gauss(0, 5) for number in range(200)}  # prompts differ far more than models do
    old = {name: value + draw.gauss(0, 0.1) for name, value in hard.items()}
    new = {name: value + 0.3 + draw.gauss(0, 0.1) for name, value in hard.items()}
    row = paired("ppo", "gold", old | {"only here": 1.0}, new, sign=1)
    assert row.gain.n == 200 and row.gain.mean == pytest.approx(0.3, abs=0.04)
    assert row.gain.stderr == pytest.approx(stdev([new[i] - old[i] for i in hard]) / math.sqrt(200))
    assert row.gain.stderr < row.after.stderr / 10 and float(row.verdict) > 3
    with pytest.raises(L2Error, match="no id in common"):
        paired("ppo", "gold", {"a": 1.0}, {"b": 1.0}, sign=1)


def test_several_samples_of_a_prompt_count_as_one(write):
    path = write(
        "s.jsonl", [{"id": "a", "gold": 1.0}, {"id": "a", "gold": 2}, {"id": "b", "gold": 4.0, "safety": True}]
    )
    assert by_id(path, "gold") == {"a": 1.5, "b": 4.0}
    assert by_id(path, "gold", lambda record: bool(record.get("safety"))) == {"b": 4.0}


def test_results_are_set_against_what_stood_before_or_chance(write):
    path = write("r.jsonl", [
        result("text", "bits_per_byte", 3.0, 0.03),
        result("helpful", "accuracy/significantly", 0.7),
        result("helpful", "accuracy/slightly", 0.45),
        result("helpful", "accuracy/negligibly", 0.45),
        result("text", "bits_per_byte", 2.0, 0.04),
        result("text", "loss", 2.0),
    ])  # fmt: skip
    bits, significant, slight, negligible = result_rows([path])
    assert (bits.gain.mean, bits.gain.stderr) == (pytest.approx(-1.0), pytest.approx(0.05))
    assert bits.verdict == "20.0"
    assert significant.gain.mean == pytest.approx(0.2) and significant.gain.stderr == pytest.approx(0.01)
    assert slight.verdict == "WRONG SIGN" and negligible.verdict == "5.0"  # a toss-up is not judged


def test_gold_is_judged_on_helpful_prompts_and_harm_on_safety_prompts(write):
    def scores(gold, harm):
        few = [{"id": f"h{n}", "safety": False, "gold": gold + n / 100, "harm": 1.0} for n in range(5)]
        return few + [{"id": f"s{n}", "safety": True, "gold": 9.0, "harm": harm + n % 2 / 100} for n in range(4)]

    files = {"sft": scores(1.0, 0.6), "rs": scores(1.5, 0.4), "ppo": scores(2.0, 0.5)}
    rows = list(score_rows({name: write(f"{name}.jsonl", records) for name, records in files.items()}))
    assert [(row.stage, row.what) for row in rows] == [
        ("rs", "gold, ordinary prompts"),
        ("rs", "harm, violent prompts"),
        ("ppo", "gold, ordinary prompts"),
        ("ppo", "harm, violent prompts"),
    ]
    assert [row.gain.mean for row in rows] == [pytest.approx(x) for x in (0.5, -0.2, 0.5, 0.1)]
    assert [row.verdict == "WRONG SIGN" for row in rows] == [False, False, False, True]


def test_what_a_stage_does_not_aim_at_is_not_judged(write):
    worse = {name: [{"id": f"{n}", "safety": n > 2, "gold": g + n, "harm": h - n} for n in range(6)]
             for name, g, h in (("base", 9, 1), ("sft", 8, 2), ("ppo", 7, 3), ("gatt", 6, 4))}  # fmt: skip
    rows = list(score_rows({name: write(f"{name}.jsonl", records) for name, records in worse.items()}))
    judged = {(row.stage, row.what.partition(",")[0]) for row in rows if row.verdict == "WRONG SIGN"}
    assert len(rows) == 6 and judged == {("sft", "gold"), ("ppo", "gold"), ("ppo", "harm")}


def test_obeying_what_nobody_asked_is_counted_by_prompt_and_much_of_it_is_a_loss(write):
    def answers(name, *said):
        return write(f"{name}.jsonl", [{"id": f"p{n // 2}", "response": text} for n, text in enumerate(said)])

    ppo, plain = answers("ppo", "Hello.", "Yes.", "Yes.", "No."), answers("plain", "A", "Say Ahoy!", "Arr", "B")
    (kept,) = unasked_rows({"ppo": ppo, "gatt": plain}, ["Ahoy!", "Arr!"])
    assert (kept.stage, kept.before.mean, kept.after.mean, kept.gain.n, kept.verdict) == ("gatt", 0, 0, 2, "")
    (lost,) = unasked_rows({"ppo": ppo, "gatt": answers("gatt", "Ahoy! A", "B", "C", "Arr! D")}, ["Ahoy!", "Arr!"])
    assert lost.after.mean == 0.5 and lost.verdict == "WRONG SIGN"
    with pytest.raises(UsageError, match="--unasked is given twice"):
        list(unasked_rows({"ppo": ppo}, ["Ahoy!"]))


def test_talks_are_made_of_single_answers(write, script):
    turns = [[("user", f"q{n}"), ("assistant", f"a{n}")] for n in range(8)]
    said = [{"id": f"d{n}", "messages": [dict(zip(("role", "content"), turn, strict=True)) for turn in both]}
            for n, both in enumerate(turns)]  # fmt: skip
    samples = [{"id": f"d{n}", "prompt": f"q{n}", "response": f"a{n}"} for n in range(8)]
    talks, prompts = (
        [json.loads(line) for line in script("chain.py", *argv).stdout.splitlines()]
        for argv in ((write("d.jsonl", said),), (write("s.jsonl", samples), "--asking"))
    )
    words = [[message["content"] for message in talk["messages"]] for talk in talks]
    assert words == [
        ["q0", "a0"],
        ["q1", "a1", "q2", "a2"],
        ["q3", "a3", "q4", "a4", "q5", "a5"],
        ["q6", "a6", "q7", "a7"],
    ]
    assert [talk["id"] for talk in talks] == ["d0", "d1", "d3", "d6"] == [prompt["id"] for prompt in prompts]
    assert [prompt["prompt"] for prompt in prompts] == [talk["messages"][:-1] for talk in talks]


def test_obeyed_turns_are_clustered_by_dialog_and_single_turns_are_not_judged(write):
    def talk(shares):
        return [{"id": f"d{d}", "turn": t + 1, "obeyed": obeyed} for d in range(3) for t, obeyed in enumerate(shares)]

    plain, ghost = write("p.jsonl", talk((True, False, False))), write("g.jsonl", talk((True, True, True)))
    later, *turns = obeyed_rows({"sft": plain, "gatt": ghost})
    assert later.before.mean == 0 and later.after.mean == 1 and later.gain.n == 3
    assert [turn.gain.mean for turn in turns] == [0, 1, 1] and all(turn.verdict != "WRONG SIGN" for turn in turns)
    with pytest.raises(UsageError):
        list(obeyed_rows({"sft": plain}))


def test_both_renderings_hold_every_row(write):
    rows = list(result_rows([write("r.jsonl", [result("helpful", "accuracy/better", 0.7)])]))
    text, markdown = render(rows, False), render(rows, True)
    for shown in (text, markdown):
        assert "accuracy, better" in shown and "0.700 ± 0.010" in shown and "+0.200 ± 0.010" in shown
    assert len({line.count("|") for line in markdown.splitlines()}) == 1 and len(markdown.splitlines()) == 3


def test_what_is_always_so_has_no_error(write):
    (row,) = result_rows([write("r.jsonl", [result("safe", "accuracy/significantly", 1.0, 0.0)])])
    assert "±" not in render([row], True) and "| +0.500 |" in render([row], True)


def test_check_fails_on_a_wrong_sign_alone(script, write):
    right, wrong = (write(f"{v}.jsonl", [result("safe", "accuracy", v)]) for v in (0.6, 0.4))
    assert script("table.py", "--results", right, "--check").returncode == 0
    assert script("table.py", "--results", wrong).returncode == 0
    failed = script("table.py", "--results", wrong, "--check")
    assert failed.returncode == 1 and "WRONG SIGN" in failed.stdout and "safe: accuracy" in failed.stderr
    assert script("table.py", "--results", "nowhere.jsonl").returncode == 1
    assert script("table.py", "--scores", "nowhere.jsonl").returncode == 2
