"""l2 rm-train and l2 score as people call them: what is left out, what is mixed, and what is refused."""

from __future__ import annotations

import json

import pytest

from cmds.app import main
from l2.files.jsonl import read_records
from tests.conftest import sentences

LABELS = ["both_safe", "chosen_safe", "rejected_safe", "both_unsafe", "chosen_safe"]
TAGS = [("helpful", "human"), ("safe", "hh"), ("safe", "human"), ("helpful", "hh"), ("safe", "human")]


@pytest.fixture
def tagged(tmp_path):
    """20 pairs: 4 helpful and 4 safe of people, 4 of each from elsewhere, and 4 that nobody should learn from."""
    lines = sentences(60)
    rows = [
        {"prompt": lines[i], "chosen": lines[i + 20][:20], "rejected": lines[i + 40][:20], "rating": "better"}
        | {"safety": LABELS[i % 5], "kind": TAGS[i % 5][0], "source": TAGS[i % 5][1]}
        for i in range(20)
    ]
    path = tmp_path / "tagged.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def train(model_dir, *more):
    return main(["rm-train", "--model", str(model_dir), "--batch", "4", "--dtype", "float32", *map(str, more)])


def test_pairs_left_out_and_the_mix_are_counted(model_dir, tagged, tmp_path, capsys):
    out, margins = tmp_path / "rm", tmp_path / "m.json"
    margins.write_text('{"better": 0.5}')
    settings = ["--data", tagged, "--eval-data", tagged, "--mix-preset", "helpful", "--margin", margins, "--out", out]
    assert train(model_dir, *settings) == 0
    told = capsys.readouterr()
    assert told.out == f"{out}\n"
    assert "--data: 4 of 20 pairs left out" in told.err and "--eval-data: 4 of 20 pairs left out" in told.err
    assert "4 helpful of human" in told.err and "8 pairs, 2 steps" in told.err
    run = json.loads((out / "run.json").read_text())
    assert run["settings"]["left_out"] == 4 and run["settings"]["mix_preset"] == "helpful"
    assert run["inputs"]["margin"][0][0] == str(margins)
    assert train(model_dir, *settings[:4], "--out", out) == 2


@pytest.mark.parametrize(
    ("changes", "more", "status", "sentence"),
    [
        ({"safety": "rejected_safe"}, [], 65, "found 1 pairs, none of them to learn from"),
        ({"kind": None}, ["--mix-preset", "safe"], 65, "found kind None; expected helpful or safe"),
        ({"source": {"a": 1}}, ["--mix-preset", "helpful"], 2, "no pair of kind helpful of your own"),
        ({}, ["--margin", "huge"], 2, "neither one of none, small, large nor a file"),
        ({}, ["--lr", "inf"], 1, "weights that are no numbers"),
    ],
)
def test_what_can_not_be_learned_from(model_dir, tmp_path, capsys, changes, more, status, sentence):
    pair = {"prompt": "who", "chosen": "the cat", "rejected": "the dog", "rating": "better", "kind": "helpful"}
    data = tmp_path / "p.jsonl"
    data.write_text(json.dumps(pair | changes))
    assert train(model_dir, "--data", data, "--out", tmp_path / "rm", *more) == status
    assert sentence in capsys.readouterr().err


def test_a_source_that_is_no_name(rm_dir, tmp_path, capsys):
    data = tmp_path / "p.jsonl"
    data.write_text(json.dumps({"prompt": "who", "chosen": "the cat", "rejected": "the dog", "source": {"a": 1}}))
    assert main(["evaluate", "--model", str(rm_dir), "--task", f"p={data}", "-o", str(tmp_path / "r.jsonl")]) == 65
    assert "found 'source' of type dict" in capsys.readouterr().err


def test_scores_never_replace_what_was_scored(rm_dir, tmp_path, capsys):
    samples = tmp_path / "s.jsonl"
    samples.write_text('{"prompt": "who", "response": "the cat"}\n')
    assert main(["score", str(samples), "--rm", str(rm_dir), "-o", str(samples)]) == 2
    assert "is an input too" in capsys.readouterr().err
    scored = []
    for more in ([], ["--sigmoid"]):
        assert main(["score", str(samples), "--rm", str(rm_dir), "-o", str(tmp_path / "o.jsonl"), *more]) == 0
        scored.append(next(iter(read_records([tmp_path / "o.jsonl"])))["rewards"]["reward"])
    assert 0 < scored[1] < 1 and (scored[1] > 0.5) == (scored[0] > 0)
