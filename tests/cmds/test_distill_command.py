"""l2 distill-build: what is kept, what is in the ledger, both answers in --all; files, sentences."""

from __future__ import annotations

from pathlib import Path

import torch

from cmds.app import main
from l2.align.dialogs import dialog_of
from l2.files.jsonl import read_records, write_records
from l2.model.checkpoint import new_model, save_model
from l2.tokens.tokenizer import Tokenizer
from tests.conftest import small_config


def save_talker(directory: Path, tokenizer: Tokenizer, **changes: object) -> None:
    """A random model, but for its answers: they end after about seven tokens."""
    model = new_model(small_config(tokenizer.vocab_size, **changes))
    with torch.no_grad():
        mean_D = model.hidden(torch.arange(60)[None]).mean((0, 1))
        model.lm_head.weight[tokenizer.eos_id] = 4 * mean_D / mean_D.square().sum()
    save_model(model, directory, tokenizer)


def test_every_prompt_is_kept_or_in_the_ledger(rm_dir, tokenizer, tmp_path, capsys):
    save_talker(tmp_path / "talker", tokenizer)
    path, kept, both, rejects = (str(tmp_path / f"{name}.jsonl") for name in ("prompts", "kept", "both", "rejects"))
    helpful = [{"prompt": "tea", "id": "h", "safety": False}]
    write_records(path, [{"prompt": f"who ran {n}", "id": n, "safety": True} for n in range(12)] + helpful)
    write_records(tmp_path / "own.jsonl", [{"preprompt": "the dog"}])
    argv = ["distill-build", path, "--model", str(tmp_path / "talker"), "--rm", str(rm_dir), "-o", kept]
    argv += [
        "--all",
        both,
        "--rejects",
        rejects,
        "--preprompts",
        str(tmp_path / "own.jsonl"),
        "--temperature",
        "2",
        "--max-new-tokens",
        "30",
    ]
    assert main(argv) == 0
    said = capsys.readouterr().err
    dialogs, pairs, rows = (list(read_records([name])) for name in (kept, both, rejects))
    assert f"13 prompts, {len(dialogs)} kept; rejected: helpful 1" in said
    assert len(dialogs) + len(rows) == 13 and len(pairs) == 12 and dialogs
    assert [row["id"] for row in rows if row["rule"] == "helpful"] == ["h"]
    assert [pair["id"] for pair in pairs if pair["kept"]] == [dialog["id"] for dialog in dialogs]
    scores = {pair["id"]: [pair[which]["rewards"]["safe"] for which in ("original", "distilled")] for pair in pairs}
    assert all(scores[dialog["id"]][0] < scores[dialog["id"]][1] == dialog["rewards"]["safe"] for dialog in dialogs)
    for row in rows:
        if row["rule"] == "not_safer":
            assert [row["threshold"], row["value"]] == scores[row["id"]] and row["value"] <= row["threshold"]
    assert [len(dialog_of(dialog)) for dialog in dialogs] == [2] * len(dialogs)
    first = [Path(name).read_bytes() for name in (kept, both, rejects)]
    assert main(argv) == 0 and first == [Path(name).read_bytes() for name in (kept, both, rejects)]


def test_each_failure_is_one_sentence(model_dir, rm_dir, tmp_path, capsys):
    write_records(tmp_path / "p.jsonl", [{"prompt": "tea", "safety": False}])
    argv = ["distill-build", str(tmp_path / "p.jsonl"), "--model", str(model_dir), "--rm"]
    assert main([*argv, str(rm_dir)]) == 1
    assert "no answer under a pre-prompt is worth learning (helpful 1)" in capsys.readouterr().err
    assert main([*argv, str(model_dir)]) == 65
    assert "found a language model; expected a reward model" in capsys.readouterr().err
    assert main([*argv, str(rm_dir), "-o", "x", "--all", "x"]) == 2
    write_records(tmp_path / "asked.jsonl", [{"prompt": "tea", "category": "illicit"}])
    assert main(["distill-build", str(tmp_path / "asked.jsonl"), *argv[2:], str(rm_dir)]) == 65
    assert "asked.jsonl:1 under its pre-prompt: found a prompt of" in capsys.readouterr().err
    write_records(tmp_path / "own.jsonl", [{"preprompt": "[INST]"}])
    assert main([*argv, str(rm_dir), "--preprompts", str(tmp_path / "own.jsonl")]) == 65
    assert "own.jsonl:1: found the tag [INST]" in capsys.readouterr().err
