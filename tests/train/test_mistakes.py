"""What people get wrong with `l2 pretrain`: a sentence that names it, an exit status, and nothing left behind."""

from __future__ import annotations

import json
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from cmds.app import main
from l2.files.errors import UsageError
from l2.files.jsonl import Record
from l2.model.checkpoint import load_model, save_model
from l2.tokens.shards import write_shards
from l2.tokens.tokenizer import load_tokenizer, train_tokenizer
from l2.train.plan import check_room
from tests.conftest import sentences

HEADER = np.array([20240520, 1, 900] + [0] * 253, "<i4").tobytes()  # llm.c's, of 900 tokens
SMALL = {"--seq-len": "16", "--batch-tokens": "64", "--steps": "3", "--dtype": "float32"}


@pytest.fixture(scope="module")
def data(tokenizer, tmp_path_factory) -> Path:
    """good.bin and its tokenizer.model; other/: of another tokenizer; and shards that are broken in several ways."""
    out = tmp_path_factory.mktemp("data")
    (shard,) = write_shards((Record({"text": text}) for text in sentences(200)), tokenizer, out)
    another = train_tokenizer(sentences(1000), 360, out / "other.model")
    (foreign,) = write_shards((Record({"text": text}) for text in sentences(9)), another, out / "other")
    whole = shard.read_bytes()
    empty = np.frombuffer(whole[:1024], "<i4").copy()
    empty[2] = empty[16] = empty[17] = 0  # tokens and their checksum
    flipped = bytearray(whole)
    flipped[2000] ^= 1
    made = {
        "good": whole,
        "text": b"hello world\n" * 200,
        "cut": whole[:-100],
        "stub": whole[:700],
        "empty": empty.tobytes(),
        "foreign": foreign.read_bytes(),
        "flipped": bytes(flipped),
        "newer": whole[:12] + struct.pack("<i", 9) + whole[16:],
        "starts": HEADER + np.ones(900, "<u2").tobytes(),
        "beyond": HEADER + np.full(900, 5000, "<u2").tobytes(),
    }
    for name, data in made.items():
        (out / f"{name}.bin").write_bytes(data)
    return out


def pretrain(data: Path, out: Path, *argv: str) -> int:
    options = [word for flag, value in SMALL.items() if flag not in argv for word in (flag, value)]
    words = [str(data / word) if word.endswith((".bin", ".model")) else word for word in argv]
    return main(["pretrain", *words, "--out", str(out), *options])


@pytest.mark.parametrize(
    ("argv", "status", "told"),
    [
        (["text.bin"], 65, "text.bin: found a file of 2,400 bytes that starts with"),
        (["cut.bin"], 65, "bytes (truncated); expected"),
        (["stub.bin"], 65, "stub.bin: found a file of 700 bytes"),
        (["empty.bin"], 65, "empty.bin: found fewer than 2 tokens; expected tokens to train on"),
        (["good.bin", "foreign.bin"], 65, "foreign.bin: found tokens of the tokenizer"),
        (["good.bin", "--val-shards", "foreign.bin"], 65, "foreign.bin: found tokens of the tokenizer"),
        (["good.bin", "--val-shards", "empty.bin"], 65, "found fewer than 2 tokens; expected tokens to validate on"),
        (["flipped.bin"], 65, "flipped.bin: found tokens with checksum"),
        (["newer.bin"], 65, "newer.bin: found header version 9; expected 1; a newer l2 wrote it"),
        (["beyond.bin"], 65, "beyond.bin: found the id 5000; expected ids of a tokenizer of 380 pieces"),
        (["starts.bin"], 1, "a batch holds nothing to predict: the data are starts of documents alone"),
        (["none.bin"], 1, "none.bin: no such file"),
        (["."], 2, ".: a directory; name the shards in it, as in ./*.bin"),
        (["good.bin", "--raw-uint16"], 2, "good.bin: it has a header, so that --raw-uint16 is wrong"),
        (["good.bin", "good.bin"], 2, "good.bin is given 2 times; --mix reads a source more often"),
        (["good.bin", "--tokenizer", "other.model"], 65, "good.bin: found tokens of the tokenizer"),
        (["good.bin", "--tokenizer", "cut.bin"], 65, "cut.bin: found no SentencePiece model"),
        (["good.bin", "--val-shards", "starts.bin"], 65, "found nothing to predict, starts of documents alone"),
        (["good.bin", "--batch-tokens", "640000"], 2, "fewer than one batch of 40,000; lower --batch-tokens"),
        (["good.bin", "--batch-tokens", "10"], 2, "--batch-tokens 10 is less than one window of 16 tokens (--seq-len)"),
        (["good.bin", "--keep-every", "300"], 2, "--keep-every 300 is no multiple of --save-every 200"),
        (["good.bin", "--preset", "9b"], 2, "--preset 9b: choose one of nano,"),
        (["good.bin", "--seed", str(2**70)], 2, "--seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_a_sentence(data, tmp_path, capsys, argv, status, told):
    assert pretrain(data, tmp_path / "run", "--shards", *argv) == status
    said = capsys.readouterr()
    assert told in said.err and "Traceback" not in said.err and not said.out
    if "starts.bin" not in argv[:1]:  # which is seen when it is read
        assert not (tmp_path / "run").exists()


def test_a_rate_too_high_ends_with_the_step_and_a_hint(data, tmp_path, capsys):
    assert pretrain(data, tmp_path / "run", "--shards", "good.bin", "--lr", "1e9") == 1
    assert "step 2: the loss is nan; try a lower --lr (now 1e+09)" in capsys.readouterr().err


def test_what_is_trained_on_validates_nothing(data, tmp_path, capsys):
    assert pretrain(data, tmp_path / "run", "--shards", "good.bin", "--val-shards", "good.bin") == 0
    assert "good.bin is trained on too: its val_ numbers say nothing of what is new" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["a file", "below a file", "of another", "a copy", "read-only"])
def test_a_directory_that_can_not_be_taken(data, tmp_path, capsys, where):
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / ("run.json.bak" if where == "a copy" else "mine.txt")).write_text("x")
    out, status, told = {
        "a file": (tmp_path / "file", 1, "file: can't be an output directory (File exists)"),
        "below a file": (tmp_path / "file" / "x", 1, "can't be an output directory (Not a directory)"),
        "of another": (tmp_path / "dir", 2, "not empty, and no run of l2 made it; choose another --out"),
        "a copy": (tmp_path / "dir", 2, "not empty, and no run of l2 made it; choose another --out"),
        "read-only": (Path("/proc/l2"), 1, "/proc/l2: can't be an output directory ("),  # for root too
    }[where]
    assert pretrain(data, out, "--shards", "good.bin") == status
    assert told in capsys.readouterr().err


def test_a_run_that_something_broke(data, tmp_path, capsys):
    """Each file that a resume reads, torn: it is named. Whole again, the run goes on."""
    out = tmp_path / "run"
    assert pretrain(data, out, "--shards", "good.bin") == 0
    step = out / "checkpoints" / "step-000003"
    manifest = out / "run.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"status": "running"}))
    for path in (step / "state.json", step / "optimizer.safetensors", step / "model.safetensors", manifest):
        whole = path.read_bytes()
        path.write_bytes(whole[:30])
        assert pretrain(data, out, "--shards", "good.bin") == 65
        assert f"l2 pretrain: {path}: found " in capsys.readouterr().err
        path.write_bytes(whole)
    log = out / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(b"garbage\n" + whole)
    assert pretrain(data, out, "--shards", "good.bin") == 65
    assert "log.jsonl: found the line b'garbage\\n'" in capsys.readouterr().err
    log.write_bytes(whole)
    assert pretrain(data, out, "--shards", "good.bin") == 0


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"RANK": "0"}, "RANK is set in the environment, but not WORLD_SIZE, LOCAL_RANK"),
        ({"RANK": "one"}, "RANK is 'one' in the environment: expected a number, 0 or more"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE is '0' in the environment: expected a number, 1 or more"),
    ],
)
def test_half_an_environment_of_ranks(data, tmp_path, capsys, monkeypatch, environment, told):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert pretrain(data, tmp_path / "run", "--shards", "good.bin") in (1, 2)
    assert told in capsys.readouterr().err


def test_a_model_that_no_machine_holds_is_refused():
    with pytest.raises(UsageError, match=r"take 14,551.9 GiB, and this machine has [\d.]+; take a smaller"):
        check_room(10**15 // 1024, torch.device("cpu"), 1, 1)
    with pytest.raises(UsageError, match=r"take 116,415.3 GiB"):  # of 1,024 ranks eight are here
        check_room(10**15, torch.device("cpu"), 1024, 8)
    check_room(10**6, torch.device("cpu"), 1, 1)


def test_a_finished_model_that_finds_no_room_is_told(model_dir, tmp_path):
    """A limit on the size of files stands for a full disk. Python ignores the signal that comes with it."""
    model, tokenizer = load_model(model_dir), load_tokenizer(model_dir)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_model(model, tmp_path, tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()
