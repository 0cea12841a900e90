"""Samples of text while a model trains: what the checkpoint of that step writes, and no trace in the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmds.app import main
from l2.files.jsonl import Record
from l2.generate.engine import Sampling, generate, prompt_key
from l2.model.checkpoint import load_language_model
from l2.tokens.shards import write_shards
from tests.conftest import sentences

EVERY = ["--eval-every", "3", "--sample", "the cat", "--sample", ""]


@pytest.fixture(scope="module")
def shards(tokenizer, tmp_path_factory) -> list[Path]:
    documents = (Record({"text": text}) for text in sentences(100))
    return write_shards(documents, tokenizer, tmp_path_factory.mktemp("shards"))


def pretrain(out: Path, shards: list[Path], *more: str) -> int:
    small = ["--seq-len", "16", "--batch-tokens", "64", "--steps", "8", "--save-every", "3", "--keep", "9", "--quiet"]
    return main(["pretrain", "--shards", *map(str, shards), "--out", str(out), *small, *more])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_drawing_changes_nothing_and_draws_from_the_weights_as_they_are(shards, tokenizer, tmp_path, dtype):
    with_them, without = tmp_path / "with", tmp_path / "without"
    assert pretrain(without, shards, "--dtype", dtype) == 0
    assert pretrain(with_them, shards, "--dtype", dtype, *EVERY) == 0
    assert not (without / "samples.jsonl").exists()
    for name in ("model.safetensors", "checkpoints/step-000008/optimizer.safetensors"):
        assert (without / name).read_bytes() == (with_them / name).read_bytes()
    drawn = [json.loads(line) for line in (with_them / "samples.jsonl").read_text().splitlines()]
    assert [(line["step"], line["prompt"]) for line in drawn] == [(n, p) for n in (3, 6, 8) for p in ("the cat", "")]
    rows = [[1, *tokenizer.encode("the cat")], [1]]
    for step in (3, 6, 8):
        model = load_language_model(with_them / f"checkpoints/step-{step:06d}")
        answers = generate(model, rows, [prompt_key("0"), prompt_key("1")], Sampling(0.6, 0.9, 128, seed=0))
        assert [line["tokens"] for line in drawn if line["step"] == step] == [a.tokens for (a,) in answers]
    assert all(line["response"] == tokenizer.decode(line["tokens"]) for line in drawn if not line["prompt"])


def test_a_run_that_goes_on_draws_the_same_again(shards, tmp_path):
    """Killed after the samples of step 6 and before its checkpoint stood: from step 3 on, the same lines once."""
    out = tmp_path / "run"
    assert pretrain(out, shards, *EVERY) == 0
    before = (out / "samples.jsonl").read_bytes()
    manifest = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(manifest | {"status": "running"}))
    for step in (6, 8):
        (out / "checkpoints" / f"step-{step:06d}").rename(tmp_path / str(step))
    assert pretrain(out, shards, *EVERY) == 0
    assert (out / "samples.jsonl").read_bytes() == before


def test_what_can_not_be_drawn_is_told_before_the_first_step(shards, tmp_path, capsys):
    assert pretrain(tmp_path / "a", shards, "--sample", "the cat sat " * 9) == 65
    assert "--sample: found a prompt of" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
