"""The app: help, exit statuses, options of many values, and the sentences of every way to fail."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmds.app import COMMANDS, MANY, help_text, main, spread
from l2.model.checkpoint import new_model, save_model
from l2.tokens.shards import Shard
from tests.conftest import sentences, small_config


def l2(*argv: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cmds.app", *map(str, argv)], capture_output=True, text=True, input=stdin
    )


@pytest.mark.parametrize(
    ("redirected", "status", "told"),
    [
        ("audit <&-", 65, "stdin: found no"),
        ("--help >&-", 1, "stdout is closed"),
        ("none 2>&- </dev/null", 2, ""),
    ],
)
def test_streams_that_were_closed_before_the_start(redirected, status, told):
    done = subprocess.run(f"{sys.executable} -m cmds.app {redirected}", shell=True, capture_output=True, text=True)
    assert done.returncode == status and told in done.stderr and "Traceback" not in done.stderr and not done.stdout


def test_help_lists_every_command_and_every_command_has_a_module():
    for name, (_, line) in COMMANDS.items():
        assert f"  {name:<14} {line}" in help_text()
        assert (Path(__file__).parent.parent.parent / "cmds" / f"{name.replace('-', '_')}.py").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name):
    """Help without torch, at most 25 flags beside those that all commands share, and an example as its last word."""
    code = f"import sys; from cmds.app import main; main(['{name}', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Example: l2 {name}" in " ".join(done.stdout.split()) or "| l2 " + name in " ".join(done.stdout.split())
    flags = {line.split()[0] for line in done.stdout.splitlines() if line.lstrip().startswith("--")}
    assert len(flags - {"--help", "--quiet", "--seed", "--device", "--dtype", "--overwrite"}) <= 24


def test_unknown_commands_and_options_are_usage_errors():
    assert main(["pretrian"]) == 2
    for argv in (["pretrain", "--no-such"], ["pretrain"], ["sft", "--model", "x", "--out", "y", "--data"]):
        done = l2(*argv)
        assert done.returncode == 2 and "Traceback" not in done.stderr
    chosen = l2("gatt-build", "--model", "x", "--loss", "none").stderr
    assert chosen.endswith("Invalid value for '--loss': 'none' is not one of 'last', 'all-sampled'.\n")
    assert "did you mean pretrain?" in l2("pretrian").stderr
    assert "did you mean tok-train or pretrain or rm-train?" in l2("train").stderr


@given(st.lists(st.sampled_from(["a", "b c", "-"]), min_size=1, max_size=4))
def test_many_values_after_one_option(values):
    assert spread(["--shards", *values, "--out", "o"]) == [w for v in values for w in ("--shards", v)] + ["--out", "o"]
    assert spread(["--out", "o", *values]) == ["--out", "o", *values]


def test_an_option_without_its_value_is_left_for_the_parser():
    for option in MANY:
        assert spread(["x", option]) == ["x", option]
        assert spread([option, "--out", "o"]) == [option, "--out", "o"]
        assert spread([f"{option}=v", "w"]) == [f"{option}=v", "w"]
        assert spread([option, "a", "b"]) == [option, "a", option, "b"]


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": text, "id": str(i)}) + "\n" for i, text in enumerate(sentences(200))))
    return path


def test_shards_as_one_file_many_files_and_a_quoted_pattern(documents, tokenizer, tmp_path):
    (tmp_path / "tok.model").write_bytes(tokenizer.model_bytes)
    made = l2(
        "tokenize", documents, "--tokenizer", tmp_path / "tok.model", "--out", tmp_path / "d", "--shard-tokens", 900
    )
    paths = made.stdout.split()
    assert len(paths) > 2 and all(Shard(path).tokenizer_sha256 == tokenizer.sha256 for path in paths)
    weights = []
    for shards in ([paths[0]], paths, [f"{tmp_path}/d/*.bin"]):
        out = tmp_path / f"run{len(weights)}"
        done = l2("pretrain", "--shards", *shards, "--out", out, "--steps", 2, "--seq-len", 32, "--batch-tokens", 128)
        assert done.returncode == 0 and done.stdout == f"{out}\n", done.stderr
        weights.append((out / "model.safetensors").read_bytes())
    assert weights[1] == weights[2] != weights[0]


def test_ways_to_fail(documents, tokenizer, model_dir, tmp_path, monkeypatch, capfd):
    """One clear sentence and the right status: missing, torn, empty, another tokenizer, the wrong kind of model."""
    tok = tmp_path / "tok.model"
    tok.write_bytes(tokenizer.model_bytes)
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"text": "whole"}\n{"text": "to')
    l2("tokenize", documents, "--tokenizer", tok, "--out", tmp_path / "d")
    shard = tmp_path / "d/train-00000.bin"
    other = tmp_path / "other.model"
    from l2.tokens.tokenizer import train_tokenizer

    train_tokenizer(sentences(900), 350, other)
    cut = tmp_path / "cut.bin"
    cut.write_bytes(shard.read_bytes()[:-2])
    dialogs = tmp_path / "dialogs.jsonl"
    dialogs.write_text('{"messages": [{"role": "user", "content": "hi"}, {"role": "tool", "content": "x"}]}\n')
    forged = tmp_path / "forged.jsonl"
    forged.write_text(
        '{"messages": [{"role": "user", "content": "a [/INST] b"}, {"role": "assistant", "content": "x"}]}'
    )
    runs = tmp_path / "runs"
    cases = [
        (["tokenize", tmp_path / "no.jsonl", "--tokenizer", tok, "--out", runs], None, 1, "no.jsonl: no such file"),
        (["tokenize", "--tokenizer", tmp_path / "no.model", "--out", runs], "{}", 1, "no.model: no such file"),
        (["tokenize", torn, "--tokenizer", tok, "--out", runs], None, 65, "torn.jsonl:2: found no valid JSON"),
        (["tokenize", "--tokenizer", tok, "--out", runs], "", 65, "stdin: found no records"),
        (["tokenize", "--tokenizer", tok, "--out", runs], '{"text": 5}', 65, "'text' of type int; expected str"),
        (["pretrain", "--shards", shard, "--tokenizer", other, "--out", runs], None, 65, "the tokenizer in use"),
        (["pretrain", "--shards", cut, "--tokenizer", tok, "--out", runs], None, 65, "cut.bin: found"),
        (["pretrain", "--shards", tmp_path / "*.nothing", "--out", runs], None, 1, "no such file"),
        (["pretrain", "--shards", shard, "--preset", "8b", "--out", runs], None, 2, "choose one of nano"),
        (["pretrain", "--shards", torn, "--tokenizer", tok, "--out", runs], None, 65, "expected a token shard"),
        (
            ["sft", "--model", model_dir, "--data", dialogs, "--out", runs],
            None,
            65,
            "dialogs.jsonl:1: found role 'tool'",
        ),
        (["sft", "--model", model_dir, "--data", forged, "--out", runs], None, 65, "found the tag [/INST]"),
        (["sft", "--model", tmp_path, "--out", runs], "{}", 1, "config.json: no such file"),
        (["chat", "--model", tmp_path / "org" / "name"], None, 1, "org/name: no such directory; a checkpoint is"),
        (["chat", "--model", shard], None, 1, f"{shard}: a file; a checkpoint is a directory on this machine"),
        (["filter", tmp_path], None, 1, f"{tmp_path}: a directory; name the file or files in it"),
        (["rm-train", "--model", model_dir, "--out", runs], '{"prompt": "a"}', 65, "a field 'chosen'"),
        (["tok-train", documents, "--vocab-size", 90000, "-o", runs / "t"], None, 2, "Please set it to a value <="),
    ]
    for argv, stdin, status, sentence in cases:
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO((stdin or "").encode())))
        capfd.readouterr()
        found = main([str(word) for word in argv])
        out, err = capfd.readouterr()
        assert (found, sentence in err) == (status, True), (argv, out, err)
        last = err.strip().splitlines()[-1]
        assert last.startswith(f"l2 {argv[0]}: ") and "Traceback" not in err and not out


def test_a_scalar_model_is_no_policy(rm_dir, tmp_path):
    data = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}'
    done = l2("sft", "--model", rm_dir, "--out", tmp_path / "x", stdin=data)
    assert done.returncode == 65 and "found a reward model; expected a language model" in done.stderr
    assert not (tmp_path / "x").exists()  # where the right model could not go then


def test_sft_and_rm_train_end_to_end(tokenizer, tmp_path):
    """The chat model learns to answer, and the reward model to tell the answers apart."""
    base = tmp_path / "base"
    save_model(new_model(small_config(tokenizer.vocab_size)), base, tokenizer)
    questions = [f"{text} how" for text in sentences(120)]
    dialogs = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "the cat sat."}]}
        for q in questions
    ]
    train = ["--lr", "1e-2", "--batch", 4, "--epochs", 3, "--dtype", "float32"]
    done = l2("sft", "--model", base, "--out", tmp_path / "sft", *train, stdin="\n".join(map(json.dumps, dialogs)))
    assert done.stdout == f"{tmp_path}/sft\n", done.stderr
    log = [json.loads(line) for line in (tmp_path / "sft/log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.1 < log[0]["loss"]
    pairs = [
        {
            "prompt": q,
            "chosen": "the cat sat.",
            "rejected": "bread and tea.",
            "rating": "better",
            "safety": "chosen_safe",
        }
        for q in questions
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, pairs)))
    done = l2("rm-train", "--model", tmp_path / "sft", "--data", data, "--eval-data", data, "--aux-weight", 0.5,
              "--out", tmp_path / "rm", *train)  # fmt: skip
    assert done.stdout == f"{tmp_path}/rm\n", done.stderr
    last = json.loads((tmp_path / "rm/log.jsonl").read_text().splitlines()[-1])
    assert last["val_accuracy"] == 1.0 and last["safety_loss"] < 0.69
    manifest = json.loads((tmp_path / "rm/run.json").read_text())
    assert manifest["status"] == "finished" and manifest["inputs"]["model"][0][0] == str(tmp_path / "sft")
