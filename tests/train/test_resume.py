"""Kill anywhere, run again: the same bytes (design.md §4.1); and what happens when nothing can be saved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cmds.app import main
from l2.files.errors import L2Error
from l2.files.jsonl import Record
from l2.tokens.shards import write_shards
from l2.train.checkpoints import latest_step, load_step, save_step
from tests.conftest import sentences

STEPS = 120
TIMINGS = ("tokens_per_s", "mfu", "mfu_common", "joules")  # fields of a line in which two equal runs differ


@pytest.fixture(scope="module")
def shards(tokenizer, tmp_path_factory):
    documents = (Record({"text": text}) for text in sentences(300))
    return write_shards(documents, tokenizer, tmp_path_factory.mktemp("shards"), "train", shard_tokens=1500)


def pretrain(out: Path, shards: list[Path], *more: str) -> list[str]:
    return [
        "pretrain", "--shards", *map(str, shards), "--val-shards", str(shards[-1]), "--out", str(out),
        "--preset", "nano", "--seq-len", "16", "--batch-tokens", "64", "--steps", str(STEPS), "--save-every", "7",
        "--eval-every", "50", "--sample", "the cat", "--dtype", "bfloat16", *more,
    ]  # fmt: skip


def lived(kills: int, longest: float, command: list[str]) -> list[int]:
    process = [sys.executable, "-m", "tests.train.lives", str(kills), "0", str(longest), *command]
    return [int(end) for end in subprocess.run(process, capture_output=True, text=True, check=True).stdout.split()]


def untimed(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def test_twenty_kills_leave_no_trace(shards, tmp_path):
    """SIGKILL at 24 random moments, starting, training and saving; then SIGTERM: weights and log equal to the bit."""
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert lived(0, 0, pretrain(calm, shards)) == [0]
    assert [line["step"] for line in untimed(calm)] == list(range(1, STEPS + 1))

    process = subprocess.Popen([sys.executable, "-m", "cmds.app", *pretrain(killed, shards)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (killed / "log.jsonl").exists() or (killed / "log.jsonl").read_bytes().count(b"\n") < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    assert latest_step(killed)

    ends = lived(24, 0.6, pretrain(killed, shards))
    assert ends.count(-signal.SIGKILL) >= 20 and ends[-1] == 0
    assert (calm / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert untimed(calm) == untimed(killed)
    drawn = [(out / "samples.jsonl").read_text().replace(str(out), "run") for out in (calm, killed)]
    assert drawn[0] == drawn[1] and drawn[0].count("\n") == 3
    assert not [path for path in (killed / "checkpoints").iterdir() if path.name.startswith(".")]

    again, other = (
        subprocess.run(
            [sys.executable, "-m", "cmds.app", *pretrain(killed, shards, *more)], capture_output=True, text=True
        )
        for more in ((), ("--seed", "9"))
    )
    assert "already finished" in again.stderr and again.stdout == f"{killed}\n"
    assert other.returncode == 2 and "seed: 0 there, 9 asked" in other.stderr


def save(out: Path, step: int, numbers: int = 10, **keep: int) -> Path:
    def models(path: Path) -> None:
        (path / "model.safetensors").write_bytes(bytes(numbers))

    return save_step(out, step, models, {"w.exp_avg": torch.zeros(numbers)}, {"tokens": step}, **keep)


def test_the_newest_and_every_so_many_checkpoints_are_kept(tmp_path):
    for step in range(10, 101, 10):
        save(tmp_path, step, keep=2, keep_every=40)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-000040", "step-000080", "step-000090", "step-000100",
    ]  # fmt: skip


@pytest.mark.parametrize("numbers", [10, 100_000])
def test_a_full_disk_is_told_and_costs_no_earlier_checkpoint(tmp_path, numbers):
    """A limit on the size of files stands for the disk: it stops the models' file, or the optimizer's."""
    script = (
        "import resource, signal, sys; from pathlib import Path; from tests.train.test_resume import save; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); out = Path(sys.argv[1]); save(out, 5); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({50_000 if numbers > 10 else 20},) * 2); "
        f"save(out, 10, {numbers})"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert f"{tmp_path}/checkpoints/step-000010: can't be saved (File too large" in done.stderr
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000005"]
    tensors, state = load_step(latest_step(tmp_path))
    assert state == {"tokens": 5, "step": 5} and tensors["w.exp_avg"].tolist() == [0.0] * 10


def test_a_directory_that_cant_be_written_is_told(tmp_path, monkeypatch):
    """As root nothing is read-only, so the system's answer is played."""
    save(tmp_path, 5)
    real = os.mkdir

    def refuse(path: object, *more: object) -> None:
        if "step-000010" in str(path):
            raise OSError(30, "Read-only file system", str(path))
        real(path, *more)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(L2Error, match=r"step-000010: can't be saved \(Read-only file system\)"):
        save(tmp_path, 10)
    assert latest_step(tmp_path).name == "step-000005"


def test_a_second_process_on_one_directory_is_refused(shards, tmp_path):
    from l2.files.manifest import open_run

    with open_run(tmp_path / "run", {}, {}):
        command = [sys.executable, "-m", "cmds.app", *pretrain(tmp_path / "run", shards)]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "another process is writing here" in done.stderr


def test_a_run_goes_on_with_what_changes_no_step(shards, tmp_path, capsys, monkeypatch):
    """Stopped at a spike, it goes on as the message says; and with other memory, micro-batches and times to save."""
    short = ["--steps", "6", "--save-every", "2", "--quiet"]
    monkeypatch.setattr("l2.train.loop.SPIKE", -1.0)  # every step is one
    assert main(pretrain(tmp_path / "run", shards, *short, "--on-spike", "stop")) == 1
    assert "step 1: a spike" in capsys.readouterr().err
    monkeypatch.undo()
    other = ["--on-spike", "warn", "--recompute", "full", "--micro-batch", "1", "--save-every", "3", "--keep", "1"]
    assert main(pretrain(tmp_path / "run", shards, *short, *other)) == 0
    assert [line["step"] for line in untimed(tmp_path / "run")] == list(range(1, 7))
