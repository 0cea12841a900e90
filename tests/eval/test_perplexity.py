"""Perplexity of documents: transformers' log-likelihoods, window by window, and CCNet's buckets by brute force."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch

from cmds.app import main
from cmds.filter import load_perplexity as load_in_command
from l2.eval.perplexity import WORST, load_perplexity
from l2.eval.scored import score_documents
from l2.eval.subject import Subject
from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.jsonl import Record, read_records
from l2.files.ledger import Ledger
from l2.model.checkpoint import load_language_model
from l2.text.filtering import filter_documents, percentiles
from l2.text.pipeline import FilterSettings
from l2.tokens.tokenizer import load_tokenizer

TEXTS = ["", "a", "The cat sat.", "naïve 猫 \U0001f600\0 " * 9, "A longer text about nothing at all.\n" * 12]


def test_it_is_transformers_loss_on_a_short_text(model_dir):
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32), load_tokenizer(model_dir)
    score = load_perplexity(str(model_dir), "cpu")
    for text in TEXTS[:3]:
        row = torch.tensor([[1, *tokenizer.encode(text), 2]])
        with torch.inference_mode():
            nats = float(model(row, labels=row).loss) * (row.shape[1] - 1)
        assert score(text) == pytest.approx(min(WORST, math.exp(nats / max(1, len(text.encode())))), rel=1e-3)


def test_it_is_two_to_the_bits_per_byte_of_evaluate(model_dir):
    subject = Subject("m", load_language_model(model_dir), load_tokenizer(model_dir))
    score = load_perplexity(str(model_dir), "cpu")
    items = score_documents(subject, [Record({"text": text}) for text in TEXTS], lambda *_: None)
    for text, item in zip(TEXTS, items, strict=True):
        assert score(text) == pytest.approx(min(WORST, 2 ** (item["bits"] / max(1, item["bytes"]))), rel=1e-3)
        assert 1 <= score(text) <= WORST


def test_what_is_no_language_model(rm_dir, tmp_path):
    with pytest.raises(BadInput, match="found a reward model"):
        load_perplexity(str(rm_dir), "cpu")
    with pytest.raises(L2Error):
        load_perplexity(str(tmp_path / "none"), "cpu")


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 11, 100])
def test_percentiles_by_brute_force(count):
    values = random.Random(count).choices(range(50), k=count)
    found = percentiles({v: values.count(v) for v in values})
    for percent in (30, 60):
        assert found[f"p{percent}"] == min(v for v in values if 100 * sum(w <= v for w in values) >= percent * count)


class Rows(list):
    def write(self, record):
        self.append(dict(record))


def _halves(path):
    """A perplexity that anyone can tell."""
    return lambda text: len(text) / 2


def run(path, **changes):
    kept, rows = Rows(), Rows()
    asked = {"quality": (), "dedup": "none", "perplexity_model": "m", "load_perplexity": _halves}
    report = filter_documents([path], kept, Ledger(rows), FilterSettings(**asked | changes))
    return kept, rows, report


def test_buckets_by_cuts_that_the_first_pass_finds(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": "x" * n}) + "\n" for n in range(10)))
    kept, rows, report = run(path, score_only=True)
    assert [d["scores"] for d in kept] == [{"perplexity": n / 2} for n in range(10)]
    assert report["perplexity"] == {"p30": 1.0, "p60": 2.5}
    cuts = {"perplexity": tuple(report["perplexity"].values())}
    buckets = ["head"] * 2 + ["middle"] * 3 + ["tail"] * 5
    scored, rows, _ = run(path, score_only=True, thresholds=cuts)
    assert [d["scores"]["bucket"] for d in scored] == buckets and not rows
    kept, rows, _ = run(path, thresholds=cuts)
    assert [d["id"] for d in kept] == list(range(5))
    assert [(r["id"], r["rule"], r["value"], r["threshold"]) for r in rows] == [
        (n, "perplexity", n / 2, 2.5) for n in range(5, 10)
    ]
    heads, _, _ = run(path, thresholds=cuts, where=('scores.bucket == "head"',))
    assert [d["id"] for d in heads] == [0, 1]


def test_contradictions(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text('{"text": "x"}\n')
    with pytest.raises(UsageError, match=r"perplexity is cut in two places, as perplexity=LOW:HIGH, not at 3 alone"):
        run(path, thresholds={"perplexity": 3})
    with pytest.raises(UsageError, match="a threshold of perplexity needs --perplexity-model"):
        run(path, perplexity_model=None, thresholds={"perplexity": (1, 2)})
    with pytest.raises(UsageError, match="who scores perplexity must be given"):
        filter_documents([path], Rows(), Ledger(Rows()), FilterSettings(perplexity_model="m"))


def test_the_command_scores_with_a_checkpoint(model_dir, tmp_path, capfd):
    path, out, report = tmp_path / "docs.jsonl", tmp_path / "out.jsonl", tmp_path / "report.json"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    argv = ["filter", str(path), "--score-only", "--quality", "none", "--perplexity-model", str(model_dir)]
    assert main([*argv, "-o", str(out), "--report", str(report)]) == 0
    score = load_in_command(str(model_dir))
    assert [r["scores"]["perplexity"] for r in read_records([out])] == [score(text) for text in TEXTS]
    cuts = json.loads(report.read_text())["perplexity"]
    assert f"perplexity: 30 % up to {cuts['p30']}, 60 % up to {cuts['p60']}" in capfd.readouterr().err
    other, again = tmp_path / "other.jsonl", tmp_path / "again.json"
    assert main([*argv, "-o", str(other), "--report", str(again), "--jobs", "2"]) == 0
    assert (other.read_bytes(), again.read_bytes()) == (out.read_bytes(), report.read_bytes())
