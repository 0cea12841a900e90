"""The TensorBoard files of a run, read record by record as their format says, against its log."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest

from cmds.app import main
from l2.files.jsonl import Record
from l2.tokens.shards import write_shards
from tests.conftest import sentences


@pytest.fixture(scope="module")
def shards(tokenizer, tmp_path_factory) -> list[Path]:
    documents = (Record({"text": text}) for text in sentences(100))
    return write_shards(documents, tokenizer, tmp_path_factory.mktemp("shards"))


def pretrain(out: Path, shards: list[Path], *more: str) -> int:
    small = ["--seq-len", "16", "--batch-tokens", "64", "--steps", "6", "--save-every", "3", "--keep", "9", "--quiet"]
    return main(["pretrain", "--shards", *map(str, shards), "--out", str(out), *small, *more])


def scalars(board: Path) -> dict[tuple[str, int], float]:
    """(tag, step): value, of all event files in turn; a start at a step makes those from there on forgotten.

    A record is its length in 8 bytes, a checksum of 4, an Event, and another checksum of 4.
    """
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found: dict[tuple[str, int], float] = {}
    for file in sorted(board.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            if event.session_log.status == event_pb2.SessionLog.START:
                found = {key: value for key, value in found.items() if key[1] < event.step}
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def logged(out: Path) -> dict[tuple[str, int], float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {(tag, line["step"]): value for line in lines for tag, value in line.items() if tag != "step"}


def undo(out: Path, *steps: int) -> None:
    """As if the run had been killed before it saved these steps."""
    manifest = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(manifest | {"status": "running"}))
    for step in steps:
        (out / "checkpoints" / f"step-{step:06d}").rename(out / f"gone-{step}")


def test_a_board_is_its_log_after_kills_and_begun_late(shards, tmp_path):
    """Every number of every step, to fp32; of a run that lost steps 4 to 6, and of one that had no board so far."""
    on_time, late = tmp_path / "on-time", tmp_path / "late"
    assert pretrain(on_time, shards, "--val-shards", str(shards[0]), "--eval-every", "2", "--tensorboard") == 0
    assert scalars(on_time / "tensorboard") == pytest.approx(logged(on_time))
    assert ("val_loss", 4) in scalars(on_time / "tensorboard")
    assert pretrain(late, shards) == 0 and not (late / "tensorboard").exists()
    for out in (on_time, late):
        undo(out, 6)
    assert pretrain(on_time, shards, "--val-shards", str(shards[0]), "--eval-every", "2", "--tensorboard") == 0
    assert pretrain(late, shards, "--tensorboard") == 0
    for out in (on_time, late):
        assert scalars(out / "tensorboard") == pytest.approx(logged(out))


def test_without_tensorboardx_it_says_what_to_install(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    assert pretrain(tmp_path / "run", shards, "--tensorboard") == 2
    assert "--tensorboard needs tensorboardX: pip install 'l2[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
