"""Fine-tuning and reward models by two ranks, and two nodes of two ranks each (HSDP), against one process alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmds.app import main
from l2.files.jsonl import Record, write_records
from l2.model.checkpoint import read_tensors
from l2.tokens.shards import write_shards
from tests.align.test_sft import dialog_records
from tests.conftest import sentences


def forks(world: int, local: int, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.train.forks", str(world), str(local), *argv]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def data(tokenizer, tmp_path_factory) -> Path:
    out, said = tmp_path_factory.mktemp("data"), sentences(60)
    write_records(out / "dialogs.jsonl", dialog_records(30))
    triples = zip(said[::3], said[1::3], said[2::3], strict=True)
    fields = [{"prompt": p, "chosen": c, "rejected": r, "safety": "chosen_safe"} for p, c, r in triples]
    write_records(out / "preferences.jsonl", fields)
    write_shards((Record({"text": text}) for text in sentences(100)), tokenizer, out)
    return out


def command(kind: str, data: Path, model: Path) -> list[str]:
    """Steps of an odd number of items in micro-batches of two, which ranks share unequally."""
    fp32 = ["--dtype", "float32", "--lr", "1e-3", "--micro-batch", "2", "--save-every", "3", "--eval-every", "2"]
    dialogs, pairs = str(data / "dialogs.jsonl"), str(data / "preferences.jsonl")
    return {
        "sft": ["sft", "--model", str(model), "--data", dialogs, "--eval-data", dialogs, "--batch", "5"],
        "rm-train": [
            "rm-train", "--model", str(model), "--data", pairs, "--eval-data", pairs, "--batch", "7",
            "--margin", "none", "--aux-weight", "0.5",
        ],
        "pretrain": [
            "pretrain", "--shards", str(data / "train-00000.bin"), "--val-shards", str(data / "train-00000.bin"),
            "--preset", "nano", "--seq-len", "16", "--batch-tokens", "112", "--steps", "6", "--sample", "",
        ],
    }[kind] + fp32  # fmt: skip


@pytest.mark.parametrize(("kind", "world", "local"), [("sft", 2, 2), ("rm-train", 2, 2), ("pretrain", 4, 2)])
def test_ranks_are_one(kind, world, local, data, model_dir, tmp_path, capfd):
    """Weights to 1e-6 in fp32, and what the log says of each step; one speaks and prints for all."""
    argv, one, many = command(kind, data, model_dir), tmp_path / "one", tmp_path / "many"
    assert main([*argv, "--out", str(one)]) == 0
    done = forks(world, local, *argv, "--out", str(many))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{many}\n" and capfd.readouterr().out == f"{one}\n"
    said = [line for line in done.stderr.splitlines() if line.startswith(f"l2 {kind}:")]
    assert len(said) == len(set(said))
    alone, among = (read_tensors(out / "model.safetensors") for out in (one, many))
    assert alone.keys() == among.keys()
    assert max(float((alone[name] - among[name]).abs().max()) for name in alone) < 1e-6
    lines, others = ([json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] for out in (one, many))
    assert len(lines) > 2
    for a, b in zip(lines, others, strict=True):
        assert a.keys() == b.keys() and a["tokens"] == b["tokens"]
        for name in ("loss", "grad_norm", *(name for name in a if name.startswith("val_"))):
            assert a[name] == pytest.approx(b[name], abs=1e-5), name
    if kind == "pretrain":  # from gathered weights, which differ by rounding: the steps and prompts at least
        drawn = [(json.loads(line)["step"]) for line in (many / "samples.jsonl").read_text().splitlines()]
        assert drawn == [2, 4, 6]


def test_what_several_processes_can_not_do_is_told(data, model_dir, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for kind in ("sft", "rm-train"):
        assert main([kind, "--model", str(model_dir), "--data", "-", "--out", "x"]) == 2
        assert "the processes that torchrun started can't share a pipe" in capsys.readouterr().err
