"""A small world of runs and results, as the commands write them: real weights, a torn log, hostile texts."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from l2.files.jsonl import Record
from l2.files.manifest import sha256_file
from l2.model.checkpoint import model_sha256, new_model, save_model, scalar_from
from l2.tokens.shards import write_shards
from tests.conftest import small_config

HOSTILE = '<script>document.title="broken"</script><img src=x onerror="document.title=1"> & "quotes" \x07\x1b[31m\ufffe'
COMMON = {"l2_version": "0.1.0", "device": "cpu", "threads": 1, "ranks": 1}


def lines(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_run(path: Path, command: str, inputs: dict, log: list, minute: int, **fields) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    manifest = {"status": "finished", "command": ["l2", command], "started": f"2026-11-21T10:{minute:02d}:00Z"}
    manifest |= {"seconds": 3600.0, "settings": {"dtype": "float32", "seed": 0}, "inputs": inputs} | COMMON | fields
    (path / "run.json").write_text(json.dumps(manifest))
    lines(path / "log.jsonl", log)
    return path


def weights(path: Path, tokenizer, seed: int, scalar: bool = False) -> list:
    model = new_model(small_config(tokenizer.vocab_size), seed=seed)
    save_model(scalar_from(model, seed=seed) if scalar else model, path, tokenizer)
    return [[path.name, model_sha256(path)]]


def falling(steps: int, **more: float) -> list[dict]:
    return [
        {"step": i, "tokens": 100 * i, "loss": 4 / i + 0.1 * (i % 3), "tokens_per_s": 1000.0, "mfu": 0.4}
        | {"mfu_common": 0.5, "joules": 360.0 * i, **more}
        for i in range(1, steps + 1)
    ]


def result(task: str, metric: str, value: float, model: str, stderr: float | None = 0.01, **more) -> dict:
    row = {"task": task, "metric": metric, "value": value, "stderr": stderr, "n": 50, "shots": 0, "protocol": "llama"}
    return row | {"task_version": "1-a", "model": model, "time": "2026-11-20T03:00:00Z", "l2_version": "0.1.0"} | more


@dataclass
class World:
    """Where everything is."""

    dir: Path

    def __truediv__(self, name: str) -> Path:
        return self.dir / name


@pytest.fixture
def world(tmp_path: Path, template: Path) -> World:
    """A copy of `template`, to be changed."""
    return World(Path(shutil.copytree(template, tmp_path / template.name)))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    """base → sft → ppo (still running), a reward model, and files of every kind that a report knows."""
    at = tmp_path_factory.mktemp("world") / "story & <b>"
    at.mkdir()
    shards = write_shards([Record({"text": "the cat sat"})] * 30, tokenizer, at / "data", "train")
    dialogs = lines(at / "dialogs.jsonl", [{"messages": [], "model": "base"}])
    checksum = shards[0].read_bytes()[64:72][::-1].hex()  # words 16 and 17 of the header
    inputs = {"shards": [[f"data/{shards[0].name}", checksum]], "tokenizer": [["tokenizer.model", tokenizer.sha256]]}
    make_run(at / "base", "pretrain", inputs, falling(120), 1, joules=43200.0, energy="estimate", peak_flops=1e11)
    base = weights(at / "base", tokenizer, 0)
    data = [["dialogs.jsonl", sha256_file(dialogs)], ["gone.jsonl", "0" * 64]]
    make_run(at / "sft", "sft", {"data": data, "model": base}, [*falling(8), {"step": 9, "loss": 1, "val_loss": 2}], 2)
    sft = weights(at / "sft", tokenizer, 1)
    make_run(at / "rm", "rm-train", {"model": sft}, falling(8, accuracy=0.7), 3)
    rm = weights(at / "rm", tokenizer, 2, scalar=True)
    rewards = [{"step": i, "tokens": 9 * i, "reward": i / 2, "kl": i / 3} for i in range(1, 6)]
    rewards[-1]["alarms"] = {"kl": f"the KL is {HOSTILE}"}
    ppo = {"model": sft, "reference": sft, "helpful_rm": rm}
    make_run(at / "ppo", "ppo", ppo, rewards, 4, status="running")
    with open(at / "ppo" / "log.jsonl", "a") as log:
        log.write('{"step": 6, "rew')  # is being written
    rows = [
        result("text", "bits_per_byte", 3.0, "base"),
        result("text", "bits_per_byte", 2.0, "sft", model_sha256=sft[0][1]),
        result("hellaswag", "accuracy", 0.31, "sft"),
        result("gsm8k", "exact_match", 0.1, "sft", shots=8),
        result("math", "exact_match", 0.3, "sft", shots=4),
        *(result("ghost", f"obeyed/turn{t}", 1 / t, m) for t in (1, 2, 10) for m in ("sft", HOSTILE)),
        *(result("ghost", f"attention/turn{t}", 0.1 * t, "sft") for t in (1, 2)),
        *(result("rlhf", m, i + 0.5, f"v{i}", version=f"V{i}") for i in range(1, 6) for m in ("proxy", "gold")),
    ]
    lines(at / "results.jsonl", [*rows, rows[0]])
    days = (result("text", "bits_per_byte", 2 - i / 9, f"m{i}", time=f"2026-11-{i:02d}T03:00:00Z") for i in range(1, 5))
    lines(at / "history.jsonl", [*days])
    verdicts = ["holds", "does not hold", "can't tell at this size"]
    claim = {"claim": "GQA is as good as MHA", "paper": "Table 18", "measured": 0.5, "stderr": 0.1}
    lines(at / "claims.jsonl", [claim | {"verdict": verdict} for verdict in verdicts])
    curve = {"name": "max", "x": [1, 2, 4], "y": [0.1, None, 0.7], "stderr": [0.1, None, 0.1]}
    histogram = {"name": HOSTILE, "x": [0, 0.5, 1], "y": [3, 4]}
    bars = {"name": "unsafe", "x": ["better", HOSTILE], "y": [-1, 2], "low": [-2, 1], "high": [0, 3]}
    figures = [
        {"kind": "lines", "title": "Best of N", "x": "N", "y": "reward", "series": [curve]},
        {"kind": "histogram", "title": HOSTILE, "x": "score", "y": "answers", "series": [histogram]},
        {"kind": "bars", "title": "By rating", "x": "rating", "y": "accuracy", "series": [bars, bars | {"name": "b"}]},
    ]
    lines(at / "figures.jsonl", [{"figure": figure} for figure in figures])
    (at / "curve.json").write_text(json.dumps({"anything": 1, "figure": figures[0]}))
    samples = [
        {"prompt": f"p{i} {HOSTILE}", "id": f"p{i}", "response": f"{m} says {HOSTILE}", "finish": "length", "model": m}
        | {"rewards": {"helpful": i + k}, "gold": i * k}
        for i in range(4)
        for k, m in enumerate(("base", "sft"))
    ]
    lines(at / "samples.jsonl", samples)
    (at / "filter.json").write_text(json.dumps({"in": 10, "kept": 4, "rejected": 6, "rules": {"language": 6}}))
    (at / "notes.jsonl").write_text('{"text": "a document"}\n')
    (at / "config.json").write_text("[]")
    return at
