"""The four subsets and Z of Table 51: the paper's printed rows, resampling, and the command."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from cmds.app import main
from l2.eval.contamination import SUBSETS, Subset, affected, subsets
from l2.files.jsonl import Record
from l2.tokens.shards import write_shards
from l2.tokens.tokenizer import Tokenizer
from tests.conftest import sentences

# Table 51, 70B: (n, X̄ %, μ %, Z) of clean, not clean, not dirty and dirty samples.
PRINTED = {
    "HellaSwag": [
        (7391, 80.0, 82.5, -5.73),
        (2651, 89.5, 82.4, 9.56),
        (9194, 81.6, 82.5, -2.27),
        (848, 92.2, 82.5, 7.42),
    ],
    "MMLU-Humanities": [
        (3996, 62.2, 65.3, -4.08),
        (709, 82.7, 65.3, 9.71),
        (4185, 62.7, 65.3, -3.50),
        (520, 85.8, 65.3, 9.80),
    ],
    "MMLU": [
        (11862, 68.0, 68.9, -2.00),
        (2180, 73.5, 68.9, 4.64),
        (12506, 67.7, 68.9, -2.75),
        (1536, 78.2, 68.9, 7.87),
    ],
}


def z_of(n: int, value: float, expected: float) -> float:
    """Z of n samples of which the share `value` is right, among very many of which `expected` is."""
    others = 40 * n
    right = round(expected * (n + others)) - round(value * n)
    scores = np.zeros(n + others)
    scores[: round(value * n)] = 1
    scores[n : n + right] = 1
    share = np.zeros(n + others)
    share[:n] = 1
    z = subsets(share, scores)["dirty"].z
    assert z is not None
    return z


@pytest.mark.parametrize(
    ("task", "row"), [(task, row) for task, rows in PRINTED.items() for row in rows], ids=lambda x: str(x)
)
def test_z_is_the_printed_one(task, row):
    n, value, expected, printed = row
    # Both shares are rounded to 0.05 % either way, and the paper's own μ wavers by another 0.05 % (82.4, 82.5).
    corners = [z_of(n, (value + dv) / 100, (expected + de) / 100) for dv in (-0.05, 0.05) for de in (-0.1, 0.1)]
    assert min(corners) <= printed <= max(corners)


def test_the_paper_calls_its_first_two_tasks_affected_and_the_third_nearly():
    def table(rows):
        return {name: Subset(None, n, x, m, z) for name, (n, x, m, z) in zip(SUBSETS, rows, strict=True)}

    assert affected(table(PRINTED["HellaSwag"])) and affected(table(PRINTED["MMLU-Humanities"]))
    assert not affected(table(PRINTED["MMLU"])), "a Z of -2.00 is not beyond 2"
    turned = [(n, x, m, -z) for n, x, m, z in PRINTED["HellaSwag"]]
    assert not affected(table(turned)), "contamination that makes worse is not what is asked"


def test_z_against_drawing_as_many_samples_again_and_again():
    random = np.random.default_rng(1)
    share = random.random(600)
    score = random.random(600) + 0.3 * share  # no mere 0 and 1
    found = subsets(share, score)
    for name, of in zip(SUBSETS, (share < 0.2, share >= 0.2, share < 0.8, share >= 0.8), strict=True):
        draws = score[random.integers(0, 600, (4000, of.sum()))].mean(axis=1)
        z = (score[of].mean() - draws.mean()) / draws.std()
        # 4,000 draws tell their mean to σ/63 and their deviation to 1.1 %: five of each.
        assert found[name].z == pytest.approx(z, abs=5 / 63, rel=0.06)
        assert found[name].n == of.sum()
        assert found[name].share == pytest.approx(share[of].mean())


def test_a_subset_without_samples_has_no_z():
    found = subsets(np.zeros(5), np.array([0, 1, 1, 0, 1.0]))
    assert found["dirty"] == Subset(None, 0, None, 0.6, None)
    assert not affected(found)
    assert subsets(np.array([0, 1.0]), np.ones(2))["clean"].z is None, "all the same: nothing deviates"


@pytest.fixture
def corpus(tmp_path, tokenizer: Tokenizer):
    texts = [" ".join(sentences(400)[i : i + 20]) for i in range(0, 400, 20)]
    write_shards([Record({"text": text}) for text in texts], tokenizer, tmp_path, shard_tokens=2000)
    seen = [{"task": "quiz", "id": f"s{i}", "prompt": texts[i][:120], "correct": True} for i in range(5)]
    fresh = ["salt tea " * 9 + "bread", "how how how what what what " * 4, "mat mat who you you who " * 4]
    unseen = [{"task": "quiz", "id": f"u{i}", "prompt": text, "correct": False} for i, text in enumerate(fresh)]
    (tmp_path / "samples.jsonl").write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in seen + unseen))
    return tmp_path


def test_the_command_tells_the_seen_from_the_unseen(corpus, capsys):
    args = ["contam", str(corpus / "samples.jsonl"), "--shards", str(corpus / "*.bin")]
    more = ["--index", str(corpus / "index"), "--samples", str(corpus / "out.jsonl"), "-o", str(corpus / "table.jsonl")]
    assert main(args + more) == 0
    items = [orjson.loads(line) for line in (corpus / "out.jsonl").read_bytes().splitlines()]
    assert [item["contaminated"]["10"] > 0.8 for item in items] == [True] * 5 + [False] * 3
    rows = [orjson.loads(line) for line in (corpus / "table.jsonl").read_bytes().splitlines()]
    assert len(rows) == 5 * (1 + 4)
    clean, dirty = (
        next(r for r in rows if r["metric"] == f"correct/{s}" and r["length"] == 10) for s in ("clean", "dirty")
    )
    assert (clean["n"], clean["value"], dirty["n"], dirty["value"]) == (3, 0.0, 5, 1.0)
    # p = 5/8: Z = (1 - p) / √(p (1 - p) / 5)
    assert dirty["z"] == pytest.approx(0.375 / (0.625 * 0.375 / 5) ** 0.5)
    assert "quiz: 8 samples" in capsys.readouterr().err
    assert len(list((corpus / "index").iterdir())) == len(list(corpus.glob("*.bin")))


def test_questions_that_nobody_has_answered(corpus, capsys):
    """A benchmark's own file and tasks of one's own: what stands in the shards, by hand, and no Z."""
    seen = orjson.loads((corpus / "samples.jsonl").read_bytes().splitlines()[0])["prompt"]
    boolq = [{"passage": seen, "question": "is it", "answer": True},
             {"passage": "how who mat " * 9, "question": "is it", "answer": False}]  # fmt: skip
    own = {
        "boolq": boolq,
        "quiz": [{"question": seen, "choices": ["tea", "mat"], "answer": 1}],
        "write": [{"prompt": "Go on:", "target": seen}],
        "text": [{"text": seen}],
        "sums": [{"problem": seen, "number": 2}],
        "obey": [{"messages": [{"role": "user", "content": seen}], "constraint": {"kind": "x"}}],
        "pairs": [{"prompt": "Go on:", "chosen": seen, "rejected": "no"}],
    }
    named = []
    for name, records in own.items():
        (corpus / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in records))
        named.append(f"{name}={corpus / name}.jsonl")
    out, table = corpus / "asked.jsonl", corpus / "asked-table.jsonl"
    argv = ["--shards", str(corpus / "*.bin"), "--samples", str(out), "-o", str(table)]
    assert main(["contam", "--task", *named, *argv]) == 0
    items = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    assert [(item["task"], item["contaminated"]["10"] > 0.5) for item in items] == [
        ("boolq", True), ("boolq", False), *[(name, True) for name in own if name != "boolq"],
    ]  # fmt: skip
    rows = [orjson.loads(line) for line in table.read_bytes().splitlines()]
    found = {r["metric"]: r["value"] for r in rows if r["task"] == "boolq" and r["length"] == 10}
    assert found["samples/clean"] == found["samples/not clean"] == 0.5
    assert {r["z"] for r in rows if "z" in r} == {None}
    assert "without results: what is contaminated" in capsys.readouterr().err
    assert main(["contam", str(corpus / "samples.jsonl"), "--task", named[0], *argv, "--quiet"]) == 0
    assert len(out.read_bytes().splitlines()) == 10


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": 1, "correct": True}, "a field 'prompt'"),
        ({"prompt": [1], "correct": True}, "messages with their contents"),
        ({"prompt": "x"}, "a field 'correct'"),
        ({"prompt": "x", "correct": "yes"}, "'correct' of type str"),
        ({"prompt": "x", "correct": 1, "targets": 3}, "'targets' of type int"),
        ({"prompt": "x", "correct": 1, "scores": 3}, "'scores' of type int"),
    ],
)
def test_bad_samples_are_named(corpus, capsys, line, message):
    samples = corpus / "bad.jsonl"
    samples.write_bytes(orjson.dumps({"prompt": "a", "correct": 1}) + b"\n" + orjson.dumps(line) + b"\n")
    assert main(["contam", str(samples), "--shards", str(corpus / "*.bin")]) == 65
    err = capsys.readouterr().err
    assert "bad.jsonl:2" in err and message in err


def test_a_metric_that_no_sample_has_is_no_result(corpus, capsys):
    argv = ["contam", str(corpus / "samples.jsonl"), "--shards", str(corpus / "*.bin"), "--metric", "corect"]
    assert main(argv) == 2
    assert "no sample has the metric 'corect'" in capsys.readouterr().err
