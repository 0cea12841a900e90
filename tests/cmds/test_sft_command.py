"""l2 sft: the formats, the mix, what is shown, what is skipped, and the way back to the base model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmds.app import main
from l2.files.jsonl import read_records, write_records
from l2.model.checkpoint import base_of, new_model, save_model
from tests.conftest import small_config

TRAIN = ["--batch", "4", "--epochs", "1", "--dtype", "float32", "--quiet"]


def dialogs(count: int) -> list[dict]:
    turns = [{"role": "user", "content": "who ran"}, {"role": "assistant", "content": "the cat ran."}]
    return [{"messages": turns, "id": n} for n in range(count)]


@pytest.fixture
def base(tmp_path, tokenizer) -> str:
    save_model(new_model(small_config(tokenizer.vocab_size)), tmp_path / "base", tokenizer)
    return str(tmp_path / "base")


def manifest(directory: str | Path) -> dict:
    return json.loads((Path(directory) / "run.json").read_text())


def test_show_marks_what_is_learned_and_trains_nothing(base, tmp_path, capsys):
    write_records(tmp_path / "a.jsonl", [{"instruction": "who ran", "output": "the cat."}] * 3)
    argv = ["sft", "--model", base, "--data", str(tmp_path / "a.jsonl"), "--show", "2", "--out", str(tmp_path / "out")]
    assert main(argv) == 0
    assert capsys.readouterr().out == "<s>[INST] who ran [/INST]⟦ the cat. </s>⟧\n" * 2
    assert not (tmp_path / "out").exists()
    assert main([*argv, "--format", "messages"]) == 65
    assert "a.jsonl:1: found fields" in capsys.readouterr().err


def test_a_mix_and_what_it_needs(base, tmp_path, capsys):
    for name, count in (("gatt", 3), ("chat", 10)):
        write_records(tmp_path / f"{name}.jsonl", dialogs(count))
    data = ["--data", str(tmp_path / "gatt.jsonl"), str(tmp_path / "chat.jsonl")]
    argv = ["sft", "--model", base, *data, "--seq-len", "32", *TRAIN]
    assert main([*argv, "--mix", "gatt=2,*=0.5", "--out", str(tmp_path / "mixed")]) == 0
    assert main([*argv, "--out", str(tmp_path / "plain")]) == 0
    assert _tokens(tmp_path / "mixed") * 13 == _tokens(tmp_path / "plain") * 11  # 2 * 3 + 0.5 * 10 of 13 alike
    assert manifest(tmp_path / "mixed")["settings"]["mix"] == "gatt=2,*=0.5"
    capsys.readouterr()
    assert main([*argv, "--mix", "gatt=2", "--out", str(tmp_path / "x")]) == 2
    assert "chat.jsonl matches none of gatt" in capsys.readouterr().err
    assert main([*argv, "--mix", "*=0.01", "--out", str(tmp_path / "x")]) == 2
    assert "so small a share of 13 dialogs that none is read" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def _tokens(directory: Path) -> int:
    return json.loads((directory / "log.jsonl").read_text().splitlines()[-1])["tokens"]


def test_bad_dialogs_are_skipped_into_the_ledger(base, tmp_path, capsys):
    path = tmp_path / "d.jsonl"
    good = dialogs(2)
    forged = {"messages": [{"role": "user", "content": "[INST]"}, {"role": "assistant", "content": "x"}]}
    silent = {"messages": [{"role": "user", "content": "x"}]}
    lines = [
        json.dumps(good[0]),
        "torn {",
        json.dumps(forged),
        json.dumps(silent),
        json.dumps({"x": 1}),
        json.dumps(good[1]),
    ]
    path.write_text("\n".join(lines))
    argv = ["sft", "--model", base, "--data", str(path), *TRAIN, "--out", str(tmp_path / "out")]
    assert main(argv) == 65 and "d.jsonl:2: found no valid JSON" in capsys.readouterr().err
    assert main([*argv, "--on-bad", "skip", "--rejects", str(tmp_path / "r.jsonl")]) == 0
    assert [(row["line"], row["rule"]) for row in read_records([tmp_path / "r.jsonl"])] == [
        (n, "bad_line") for n in (2, 3, 4, 5)
    ]
    path.write_text(lines[2])
    assert main([*argv, "--on-bad", "skip", "--overwrite"]) == 65
    assert "no dialog to learn from" in capsys.readouterr().err


def test_the_manifest_counts_who_wrote_the_dialogs(base, tmp_path):
    for name, model in (("own", None), ("best", "runs/v1"), ("ghost", "runs/v2"), ("more", "runs/v1")):
        write_records(tmp_path / f"{name}.jsonl", [one | ({"model": model} if model else {}) for one in dialogs(2)])
    data = [word for name in ("own", "best", "ghost", "more") for word in ("--data", str(tmp_path / f"{name}.jsonl"))]
    assert main(["sft", "--model", base, *data, *TRAIN, "--out", str(tmp_path / "out")]) == 0
    assert manifest(tmp_path / "out")["settings"]["written_by"] == {"runs/v1": 4, "runs/v2": 2}
    assert main(["sft", "--model", base, *data[:2], *TRAIN, "--out", str(tmp_path / "plain")]) == 0
    assert "written_by" not in manifest(tmp_path / "plain")["settings"]


def test_from_base_goes_back_to_where_all_began(base, tmp_path, tokenizer, capsys):
    write_records(tmp_path / "d.jsonl", dialogs(4))
    argv = ["sft", "--data", str(tmp_path / "d.jsonl"), *TRAIN]
    first, second, third = (str(tmp_path / name) for name in ("v1", "v2", "v3"))
    assert main([*argv, "--model", base, "--out", first]) == 0
    assert main([*argv, "--model", first, "--out", second]) == 0
    assert base_of(second) == base_of(first) == base_of(base) == base
    assert main([*argv, "--model", second, "--from-base", "--out", third]) == 0
    assert manifest(third)["inputs"]["model"] == manifest(first)["inputs"]["model"]
    assert (Path(third) / "model.safetensors").read_bytes() == (Path(first) / "model.safetensors").read_bytes()
    capsys.readouterr()
    save_model(new_model(small_config(tokenizer.vocab_size), seed=1), base, tokenizer)
    assert main([*argv, "--model", second, "--from-base", "--out", str(tmp_path / "v4")]) == 65
    assert f"{base}: found weights" in capsys.readouterr().err
    Path(base).rename(tmp_path / "gone")
    assert main([*argv, "--model", second, "--from-base", "--out", str(tmp_path / "v4")]) == 1
    assert f"no such directory, though {first} was made from it" in capsys.readouterr().err
