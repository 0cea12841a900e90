"""PPO by two gloo ranks, and by two nodes of two, against one process alone: the same rollouts, the same updates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cmds.app import main
from l2.model.checkpoint import read_tensors
from tests.conftest import WORDS
from tests.train.test_all_ranks import forks

TIMINGS = ("tokens_per_s", "answers_per_s", "seconds", "joules")
DRAWN = ("step", "tokens", "length", "eos_rate", "distinct_2", "gated")  # what the answers alone decide


def command(out: Path, model: Path, rm: Path, prompts: Path) -> list[str]:
    """Mini-batches of 5 in micro-batches of 2, which ranks share unequally; of 3 held-out prompts a fourth has none."""
    given = [
        "ppo", "--model", model, "--helpful-rm", rm, "--safety-rm", rm, "--prompts", prompts, "--eval-prompts", prompts,
        "--out", out, "--preset", "tiny", "--batch", 10, "--mini-batch", 5, "--micro-batch", 2, "--iterations", 2,
        "--max-new-tokens", 12, "--eval-every", 1, "--whiten", "running", "--dtype", "float32", "--device", "cpu",
    ]  # fmt: skip
    return [str(word) for word in given]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path, words = tmp_path_factory.mktemp("prompts") / "prompts.jsonl", WORDS.split()
    rows = [{"prompt": " ".join(words[i : 2 * i + 1]), "id": f"p{i}", "safety": i % 3 == 0} for i in (1, 3, 5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(out: Path, name: str = "log.jsonl") -> list[dict]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def same(one: Path, many: Path) -> None:
    """Every token, every number of the log, and weights to 1e-6 in fp32.

    AdamW's ε of 1e-5 bounds what a gradient's rounding, 1e-9 here, moves in a step: lr · 1e-9 / ε, 3e-8.
    """
    for a, b in zip(lines(one), lines(many), strict=True):
        assert a.keys() == b.keys() and a.get("alarms", {}).keys() == b.get("alarms", {}).keys()
        for field in a.keys() - {"alarms", *TIMINGS}:
            exact = field.removeprefix("val_") in DRAWN
            assert a[field] == (b[field] if exact else pytest.approx(b[field], rel=1e-4, abs=1e-5)), (a["step"], field)
    for a, b in zip(lines(one, "samples.jsonl"), lines(many, "samples.jsonl"), strict=True):
        assert (a["step"], a["id"], a["tokens"]) == (b["step"], b["id"], b["tokens"])
    for file in ("model.safetensors", "value/model.safetensors"):
        alone, among = (read_tensors(out / file) for out in (one, many))
        assert alone.keys() == among.keys()
        assert max(float((alone[name] - among[name]).abs().max()) for name in alone) < 1e-6, file


def undo(out: Path, other: Path) -> None:
    """A copy of a run as if it had been killed after iteration 1."""
    shutil.copytree(out, other)
    manifest = json.loads((out / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(manifest | {"status": "running"}))
    shutil.rmtree(other / "checkpoints/step-000002")
    for file in ("model.safetensors", "value/model.safetensors"):
        (other / file).unlink()


def test_ranks_are_one_and_go_on_from_one_another(model_dir, rm_dir, prompts, tmp_path, capfd):
    """One alone, two together; one that goes on from what two began, and two nodes of two from what one began."""
    one, two, one_more, four_more = (tmp_path / name for name in ("one", "two", "one-more", "four-more"))
    assert main(command(one, model_dir, rm_dir, prompts)) == 0
    done = forks(2, 2, *command(two, model_dir, rm_dir, prompts))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{two}\n" and capfd.readouterr().out == f"{one}\n"
    assert len(said := done.stderr.splitlines()) == len(set(said)), done.stderr
    same(one, two)
    start, end = (read_tensors(path / "model.safetensors") for path in (model_dir, one))
    assert max(float((start[name] - end[name]).abs().max()) for name in start) > 1e-3  # far beyond what may differ

    undo(two, one_more)
    undo(one, four_more)
    assert main(command(one_more, model_dir, rm_dir, prompts)) == 0
    done = forks(4, 2, *command(four_more, model_dir, rm_dir, prompts))
    assert done.returncode == 0, done.stderr
    same(one, one_more)
    same(one, four_more)
