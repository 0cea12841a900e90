"""What is said of held-out data, source by source, against the model on each document alone and the bytes of texts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmds.app import main
from l2.align.examples import encode_examples
from l2.align.sft import FineTuning, Source
from l2.files.errors import BadInput
from l2.files.jsonl import Record, write_records
from l2.model.checkpoint import new_model
from l2.tokens.shards import Shard, write_shards
from l2.train.loop import Settings, prepare, validate
from l2.train.mix import name_of, parse_mix
from l2.train.pretrain import HELD_OUT, Pretraining
from tests.align.test_sft import dialog_records
from tests.conftest import sentences, small_config

LENGTH = 16
TEXTS = {"wiki": ["naïve — 東京 🦙", *sentences(40)], "web": sentences(90)[40:]}


@pytest.fixture(scope="module")
def shards(tokenizer, tmp_path_factory) -> list[Path]:
    out = tmp_path_factory.mktemp("shards")
    written = [
        write_shards((Record({"text": text}) for text in texts), tokenizer, out, name, shard_tokens=300)
        for name, texts in TEXTS.items()
    ]
    assert all(len(paths) > 1 for paths in written)
    return [path for paths in written for path in paths]


@settings(deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"])), min_size=1))
def test_ids_tell_the_bytes_of_their_texts(tokenizer, texts):
    """Whatever the texts: spaces in front, none at all, characters without a piece."""
    rows = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    ids = np.array([i for row in rows for i in row])
    counted = tokenizer.byte_counter()(ids[1:], ids[:-1])
    assert counted == sum(len(text.encode()) for text in texts)


@torch.no_grad()
def nats(model, windows: list[np.ndarray], bos_id: int) -> tuple[float, int]:
    """Of all targets, each document part of a window by itself; and how many there are."""
    total, count = 0.0, 0
    for window in windows:
        starts = sorted({0, *np.flatnonzero(window == bos_id).tolist()})
        for part in np.split(window, starts[1:]):
            ids = torch.from_numpy(part)[None]
            if len(part) > 1:
                total += float(torch.nn.functional.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:], reduction="sum"))
                count += len(part) - 1
    return total, count


def test_each_source_and_all_together(shards, tokenizer):
    opened = [Shard(path) for path in shards]
    objective = Pretraining(
        opened, LENGTH, 4, 3, 0, tokenizer.bos_id, held_out=opened, count_bytes=tokenizer.byte_counter()
    )
    model = new_model(small_config(tokenizer.vocab_size, max_seq_len=LENGTH))
    found = validate(prepare(model, objective, Settings(steps=1, lr=1.0, warmup=1)), objective)
    sums = {}
    for name, texts in TEXTS.items():
        rows = [np.asarray(s.tokens, np.int64) for s in opened if s.path.name.startswith(name)]
        windows = [row[i : i + LENGTH + 1] for row in rows for i in range(0, len(row) - 1, LENGTH)]
        assert len(windows) < HELD_OUT
        sums[name] = (*nats(model, windows, tokenizer.bos_id), sum(len(text.encode()) for text in texts))
    total = [sum(of) for of in zip(*sums.values(), strict=True)]
    for suffix, (loss, count, size) in {"": total, **{f"/{name}": of for name, of in sums.items()}}.items():
        assert found[f"loss{suffix}"] == pytest.approx(loss / count, rel=1e-5)
        assert found[f"bits_per_byte{suffix}"] == pytest.approx(loss / math.log(2) / size, rel=1e-5)
    assert len(found) == 6


def test_windows_are_taken_from_all_over_a_source(shards, tokenizer, monkeypatch):
    monkeypatch.setattr("l2.train.pretrain.HELD_OUT", 5)
    opened = [Shard(path) for path in shards if path.name.startswith("web")]
    objective = Pretraining(opened, LENGTH, 4, 2, 0, tokenizer.bos_id, held_out=opened)
    ((name, micros),) = objective.validation()
    rows = np.concatenate([micro.tensors["tokens_BT"] for micro in micros])
    each = len(objective.windows) / 5
    for i, row in enumerate(rows):
        window = objective.windows[int(i * each)]
        assert (row[: len(window) - 1] == window[:-1]).all()
    assert name == "web" and len(rows) == 5 and not any(micro.bytes for micro in micros)


def test_held_out_shards_have_the_name_of_their_pattern_or_their_own():
    mix = parse_mix("web-cc*=1,wiki=2")
    names = ["web-cc1-00000.bin", "web-cc2-00003.bin", "wiki-val-00000.bin", "books.bin"]
    assert [name_of(Path(name), mix) for name in names] == ["web-cc*", "web-cc*", "wiki-val", "books"]


def test_dialogs_are_judged_file_by_file(tokenizer):
    records = dialog_records(9)
    examples = {"a": encode_examples(records[:3], tokenizer, 64), "b": encode_examples(records[3:], tokenizer, 64)}
    objective = FineTuning([Source(examples["a"])], 64, 2, 2, 1, 0, {name: [*of] for name, of in examples.items()})
    model = new_model(small_config(tokenizer.vocab_size))
    found = validate(prepare(model, objective, Settings(steps=1, lr=1.0, warmup=1)), objective)
    sums = {}
    for name, dialogs in examples.items():
        losses = []
        for example in dialogs:
            ids, learn = torch.from_numpy(example.ids.astype(np.int64)), torch.from_numpy(example.learn)
            each = torch.nn.functional.cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="none")
            losses.append(each[learn[1:]].detach())
        sums[name] = torch.cat(losses)
    assert found["loss/a"] == pytest.approx(float(sums["a"].mean()), rel=1e-5)
    assert found["loss/b"] == pytest.approx(float(sums["b"].mean()), rel=1e-5)
    assert found["loss"] == pytest.approx(float(torch.cat([*sums.values()]).mean()), rel=1e-5)
    assert len(found) == 3  # dialogs have no bytes


def test_every_file_of_dialogs_has_its_loss_whatever_the_mix(model_dir, tmp_path):
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("a", "b", "val-a", "val-b")}
    for path in files.values():
        write_records(path, dialog_records(3))
    data = ["--data", files["a"], files["b"], "--mix", "a=2,*=1", "--eval-data", files["val-a"], files["val-b"]]
    assert main(["sft", "--model", str(model_dir), *data, "--epochs", "1", "--out", str(tmp_path / "out")]) == 0
    line = json.loads((tmp_path / "out" / "log.jsonl").read_text().splitlines()[-1])
    assert line.keys() >= {"val_loss", "val_loss/val-a", "val_loss/val-b"}


def pretrain(out: Path, shards: list[Path], *more: str) -> list[str]:
    small = ["--seq-len", "16", "--batch-tokens", "64", "--steps", "2", "--dtype", "float32"]
    return ["pretrain", "--shards", *map(str, shards), "--out", str(out), *small, *more]


def test_the_command_logs_and_says_it(shards, tmp_path, capsys):
    held_out = ["--val-shards", *(str(path) for path in shards)]
    assert main(pretrain(tmp_path / "run", shards, *held_out, "--mix", "wi*=1,*=1", "--eval-every", "1")) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    fields = {f"val_{what}{of}" for what in ("loss", "bits_per_byte") for of in ("", "/wi*", "/*")}
    assert all(fields <= line.keys() for line in lines)
    last = lines[-1]
    said = f"step 2: val_loss {last['val_loss']:.4f} (wi* {last['val_loss/wi*']:.4f}, * {last['val_loss/*']:.4f}), "
    assert said + f"val_bits_per_byte {last['val_bits_per_byte']:.4f} (" in capsys.readouterr().err


def test_an_empty_validation_set_is_told(shards, model_dir, tokenizer, tmp_path, capsys):
    """Of pretraining, one source among others; of dialogs, a file of which nothing is left."""
    empty = tmp_path / "none-00000.bin"
    empty.write_bytes(b"")
    opened = [Shard(path) for path in shards]
    with pytest.raises(BadInput, match=r"none-00000.bin: found fewer than 2 tokens; expected tokens to validate on"):
        Pretraining(opened, LENGTH, 4, 2, 0, 1, held_out=[*opened, Shard(empty, raw_uint16=True)])
    write_records(tmp_path / "d.jsonl", dialog_records(3))
    (tmp_path / "blank.jsonl").write_text("\n")
    (tmp_path / "torn.jsonl").write_text("{\n")
    data = ["sft", "--model", str(model_dir), "--data", str(tmp_path / "d.jsonl"), "--out", str(tmp_path / "out")]
    assert main([*data, "--eval-data", str(tmp_path / "blank.jsonl")]) == 65
    assert "blank.jsonl: found no records" in capsys.readouterr().err
    assert main([*data, "--eval-data", str(tmp_path / "torn.jsonl"), "--on-bad", "skip"]) == 65
    assert "torn.jsonl: found no dialog to validate on; expected at least one" in capsys.readouterr().err
