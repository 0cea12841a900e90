"""Win, tie and loss: by hand, by simulation, and unchanged by what must not matter."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.eval.compare import Measured, fifths, match, measure, outcomes, result_records, traits
from l2.eval.judges import by_command, by_rewards, read_verdict, request_text
from l2.eval.metrics import Estimate
from l2.eval.tables import metric_table
from l2.files.errors import BadInput, L2Error
from l2.files.jsonl import Record
from l2.generate.samples import answered_ids
from l2.generate.scoring import last_scores
from l2.model.checkpoint import load_reward_model

PROMPT = [
    {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "why so"},
]  # fmt: skip


def answers(name: str, *rows: tuple, **fields: object) -> list[Record]:
    """Samples of (id, prompt, response)."""
    return [
        Record({"id": i, "prompt": prompt, "response": response} | fields, f"{name}:{line}")
        for line, (i, prompt, response) in enumerate(rows, 1)
    ]


def test_answers_meet_by_id_and_prompt():
    ours = answers("a", (1, "who", "x y z"), ("p", PROMPT, "because"), category="c")
    pairs = match(
        ours, answers("b", ("p", PROMPT, "no reason at all"), ("1", [{"role": "user", "content": "who"}], "w"))
    )
    assert [(pair.id, pair.a["response"], pair.b["response"]) for pair in pairs] == [
        ("1", "x y z", "w"), ("p", "because", "no reason at all"),
    ]  # fmt: skip
    assert [traits(pair) for pair in pairs] == [
        {"id": "1", "category": "c", "turns": 1, "words": 5, "longer": "a"},
        {"id": "p", "category": "c", "turns": 2, "words": 9, "longer": "b"},
    ]


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ([("p", "who", "x")], "a:2: found an answer to 'q'; expected one to a prompt that --b answers, too"),
        ([("p", "who", "x"), ("q", "who", "x"), ("r", "who", "x")], "b:3: found an answer to 'r'; .* --a"),
        (
            [("p", "who", "x"), ("p", "who", "y")],
            "b:2: found a second answer to 'p'; expected one to a prompt .l2 generate -n 1., as in b:1",
        ),
        ([("q", "who", "x"), ("p", "what", "x")], "b:2: found another prompt under the id 'p'; expected that of a:1"),
    ],
)
def test_answers_that_do_not_meet(theirs, words):
    with pytest.raises(BadInput, match=words):
        match(answers("a", ("p", "who", "x"), ("q", "who", "x")), answers("b", *theirs))


def test_what_is_no_sample():
    with pytest.raises(BadInput, match=r"r:1: .*'response'"):
        match([Record({"id": "p", "prompt": "x"}, "r:1")], [])
    with pytest.raises(BadInput, match=r"r:1: .*'id'"):
        match([Record({"prompt": "x", "response": "x"}, "r:1")], [])


def item(winner: str, **fields: object) -> dict:
    return {"winner": winner, "category": None, "turns": 1, "words": 1, "longer": "tie"} | fields


def test_figures_by_hand():
    """36 % win, 31.5 % tie of 4,000 prompts: the paper's first comparison (§3.4.2), whose interval is 1 to 2 points."""
    found = outcomes([item("a")] * 1440 + [item("tie")] * 1260 + [item("b")] * 1300)
    assert [found[name].value for name in ("win", "tie", "loss")] == [0.36, 0.315, 0.325]
    assert found["win_rate"].value == pytest.approx(0.5175) and found["win_rate"].n == 4000
    assert found["win_without_ties"].value == pytest.approx(1440 / 2740) and found["win_without_ties"].n == 2740
    low, high = found["win"].interval
    assert 0.01 < (high - low) / 2 < 0.02
    # Wilson's by its defining equation: |p - t| = z √(t(1 - t)/n) at both ends
    for end in (low, high):
        assert abs(0.36 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 4000))


WINNERS = st.sampled_from(["a", "tie", "b"])
ITEMS = st.lists(
    st.builds(
        item,
        WINNERS,
        category=st.sampled_from(["x", "none", None]),
        turns=st.integers(1, 3),
        words=st.integers(1, 40),
        longer=WINNERS,
        verdicts=st.lists(st.sampled_from(["a", "tie", "b", None]), min_size=2, max_size=2),
    ),
    min_size=1,
    max_size=30,
)
OTHER = {"a": "b", "b": "a", "tie": "tie", None: None}


@given(ITEMS)
def test_swapping_the_models_swaps_wins_and_losses(items):
    there = [
        each | {"winner": OTHER[each["winner"]], "longer": OTHER[each["longer"]]}
        | {"verdicts": [OTHER[verdict] for verdict in each["verdicts"]][::-1]}
        for each in items
    ]  # fmt: skip
    here, swapped = measure(items), measure(there)
    assert here.keys() == swapped.keys()
    for name, found in here.items():
        metric, slash, group = name.partition("/")
        other = swapped[{"win": "loss", "loss": "win"}.get(metric, metric) + slash + group]
        mirrored = metric in ("win_rate", "win_without_ties")
        assert other.value == pytest.approx(1 - found.value if mirrored else found.value)
        if found.interval:
            expected = [1 - end for end in found.interval[::-1]] if mirrored else found.interval
            assert other.interval == pytest.approx(tuple(expected))


@given(ITEMS)
def test_every_item_is_in_one_group_of_each_field(items):
    found = measure(items)
    for field in ("category", "turns", "words"):
        groups = [each.n for name, each in found.items() if name.startswith(f"win/{field}=")]
        assert sum(groups) in (0, len(items)), "a category may be called none, too"


@given(ITEMS, st.randoms())
def test_order_of_lines_does_not_matter(items, random):
    here, there = measure(items), measure(random.sample(items, len(items)))
    assert list(here) == list(there)
    for name, found in here.items():
        assert there[name].value == pytest.approx(found.value) and there[name].n == found.n


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_fifths_part_the_values(values):
    found = fifths(values)
    assert all(least <= value <= most for value, (least, most) in zip(values, found, strict=True))
    bounds = sorted(set(found))
    assert len(bounds) <= 5 and all(a[1] < b[0] for a, b in pairwise(bounds))
    if len(set(values)) == len(values) >= 5:
        sizes = [found.count(each) for each in bounds]
        assert len(sizes) == 5 and max(sizes) - min(sizes) <= 1


def test_intervals_cover():
    """Of simulated comparisons of 60 prompts, about 95 % of Wilson's intervals hold the truth; of win_rate, more."""
    rng = np.random.default_rng(0)
    hits = {"win": 0, "win_rate": 0}
    for _ in range(1500):
        drawn = rng.choice(["a", "tie", "b"], 60, p=[0.36, 0.315, 0.325])
        found = outcomes([item(winner) for winner in drawn])
        for name, truth in (("win", 0.36), ("win_rate", 0.36 + 0.315 / 2)):
            low, high = found[name].interval
            hits[name] += low <= truth <= high
    assert 0.93 < hits["win"] / 1500 < 0.97 and hits["win_rate"] / 1500 > 0.96


def test_reward_models_decide_by_the_gate_and_a_margin(rm_dir, tokenizer):
    ours = answers("a", *((i, "who is the cat", f"the {w}") for i, w in enumerate(("dog", "mat", "hill", "tea"))))
    theirs = answers("b", *((i, "who is the cat", "a dog ran on") for i in range(4)), rewards={"old": 9.0})
    pairs, model = match(ours, theirs), load_reward_model(rm_dir)
    scores = [last_scores(model, [answered_ids(tokenizer, s) for s in side], 1) for side in (ours, theirs)]
    gaps = [a - b for a, b in zip(*scores, strict=True)]
    margin = sorted(map(abs, gaps))[1]
    found = by_rewards(pairs, {"reward": model}, tokenizer, margin + 1e-6)
    expected = ["tie" if abs(gap) <= margin + 1e-6 else "a" if gap > 0 else "b" for gap in gaps]
    assert [each["winner"] for each in found] == expected and expected.count("tie") == 2
    both = by_rewards(pairs, {"helpful": model, "safe": model}, tokenizer)
    assert [each["winner"] for each in both] == ["a" if gap > 0 else "b" for gap in gaps]
    same = by_rewards(match(ours, ours), {"reward": model}, tokenizer)
    assert {each["winner"] for each in same} == {"tie"}


def longest(tmp_path, body: str) -> str:
    """A judge in Python; `body` sees each line as `q`."""
    path = tmp_path / "judge.py"
    path.write_text(f"import json, sys\nfor line in sys.stdin:\n    q = json.loads(line)\n    {body}\n")
    return f"python {path}"


FAIR = (
    "print(json.dumps({'winner': 'a' if len(q['a']) > len(q['b']) else 'b' if len(q['b']) > len(q['a']) else 'tie'}))"
)


def test_a_command_sees_both_orders(tmp_path):
    pairs = match(
        answers("a", ("p", PROMPT, "longest of all"), ("q", "who", "same"), ("r", "who", "s")),
        answers("b", ("p", PROMPT, "short"), ("q", "who", "size"), ("r", "who", "longer")),
    )
    seen = tmp_path / "seen.jsonl"
    found = by_command(pairs, f"tee {seen} | {longest(tmp_path, FAIR)}")
    assert [each["winner"] for each in found] == ["a", "tie", "b"]
    assert [each["verdicts"] for each in found] == [["a", "a"], ["tie", "tie"], ["b", "b"]]
    asked = [json.loads(line) for line in seen.read_text().splitlines()]
    assert asked[0] == {"id": "p", "prompt": PROMPT, "a": "longest of all", "b": "short"}
    assert asked[1] == {"id": "p", "prompt": PROMPT, "a": "short", "b": "longest of all"}
    assert [one["id"] for one in asked] == ["p", "p", "q", "q", "r", "r"]
    habits = measure(found)
    assert [habits[name].value for name in ("consistent", "longer_wins", "first_wins")] == [1.0, 1.0, 0.5]
    # one that always takes the first: every pair is a tie, and the habit shows
    found = by_command(pairs, longest(tmp_path, 'print(\'{"winner": "a"}\')'))
    assert [each["winner"] for each in found] == ["tie"] * 3
    habits = measure(found)
    assert [habits[name].value for name in ("consistent", "first_wins", "unread")] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("sys.exit(3)", L2Error, "it ended with exit status 3"),
        ("pass", BadInput, "found 0 lines; expected 2, one for each line in"),
        ('print(\'{"winner": "c"}\')', BadInput, r"judge.py:1: found '\{\"winner\": \"c\"\}'; expected"),
        ("print('torn')", BadInput, "judge.py:1: found 'torn'"),
        ("print('[1]')", BadInput, "judge.py:1: found"),
        ("print('{\"winner\": [1]}')", BadInput, "judge.py:1: found"),
    ],
)
def test_commands_that_are_no_judge(tmp_path, body, error, words):
    pairs = match(answers("a", ("p", "who", "x")), answers("b", ("p", "who", "y")))
    with pytest.raises(error, match=words):
        by_command(pairs, longest(tmp_path, body))


def test_verdicts_are_read_from_the_end():
    assert [read_verdict(text) for text in ("[[A]] no, [[B]]", "so [[C]].", "[[D]]", "A")] == ["b", "tie", None, None]
    text = request_text({"prompt": PROMPT, "a": "{b} one", "b": "two"})
    assert "user: hi\n\nassistant: yes\n\nuser: why so" in text
    assert "<answer A>\n{b} one\n</answer A>" in text and "<answer B>\ntwo\n</answer B>" in text


def test_results_and_table():
    metrics = {
        "win": Estimate(0.5, 0.1, 10, (0.4, 0.6)),
        "win/turns=2": Estimate(0.25, None, 4),
        "ac2": Estimate(0.9, 0.05, 3),
    }
    record, _, last = result_records(Measured("answers", "m", "n", "p", [], metrics), [Record({"id": 1})])
    expected = {"task": "answers", "metric": "win", "value": 0.5, "stderr": 0.1, "n": 10, "interval": (0.4, 0.6)}
    assert record.items() >= (expected | {"protocol": "p", "model": "m", "baseline": "n"}).items()
    assert "interval" not in last and {"time", "l2_version", "task_version"} <= last.keys()
    assert metric_table(metrics).splitlines() == [
        "            n                 win",
        "  all      10  0.500 [0.40, 0.60]",
        "  turns=2   4               0.250",
        "  ac2  3  0.900 ± 0.050",
    ]
