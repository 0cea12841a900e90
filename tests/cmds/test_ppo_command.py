"""l2 ppo from the command line: killed and resumed, what it refuses, and what it leaves behind."""

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
from safetensors.torch import load_file

from cmds.app import main
from l2.model.checkpoint import load_language_model, load_model, new_model, save_model
from l2.model.transformer import ScalarModel
from l2.tokens.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from tests.conftest import WORDS, sentences, small_config


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    """40 prompts, every third tagged."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    words = WORDS.split()
    rows = [{"prompt": f"{words[i % 20]} {words[i % 7]}", "id": f"p{i}", "safety": i % 3 == 0} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(out: Path, model_dir: Path, rm_dir: Path, prompts: Path, *more: object) -> list[str]:
    given = [
        "ppo", "--model", model_dir, "--helpful-rm", rm_dir, "--prompts", prompts, "--out", out, "--preset", "tiny",
        "--batch", 16, "--mini-batch", 8, "--micro-batch", 4, "--iterations", 20, "--max-new-tokens", 16,
        "--device", "cpu", *more,
    ]  # fmt: skip
    return [str(word) for word in given]


METERS = ("nvml", "rapl", "estimate")
TIMINGS = ("tokens_per_s", "answers_per_s", "seconds", "joules")


def log(out: Path) -> list[dict]:
    lines = [json.loads(row) for row in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def test_kill_anywhere_and_run_again(tmp_path, model_dir, rm_dir, prompts):
    """SIGKILL and SIGTERM in the middle: log and weights equal those of an undisturbed run to the last bit.

    With running whitening, which has most to remember.
    """
    calm, killed = tmp_path / "calm", tmp_path / "killed"

    def command(out: Path) -> list[str]:
        options = ("--safety-rm", rm_dir, "--eval-prompts", prompts, "--eval-every", 8, "--whiten", "running")
        return [sys.executable, "-m", "cmds.app", *arguments(out, model_dir, rm_dir, prompts, *options)]

    assert main(command(calm)[3:]) == 0
    for name, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)):
        before = len(log(killed)) if killed.exists() else 0
        process = subprocess.Popen(command(killed), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (killed / "log.jsonl").exists() or (killed / "log.jsonl").read_bytes().count(b"\n") < before + 4:
            assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
            time.sleep(0.002)
        os.kill(process.pid, name)
        assert process.wait() == status
    assert main(command(killed)[3:]) == 0

    assert [line["step"] for line in log(calm)] == list(range(21)) and log(calm) == log(killed)
    assert [line["step"] for line in log(calm) if "val_reward" in line] == [0, 8, 16, 20]
    samples = [json.loads(row) for row in (calm / "samples.jsonl").read_text().splitlines()]
    assert [s["step"] for s in samples] == [step for step in (0, 8, 16, 20) for _ in range(40)]
    assert {"prompt", "response", "finish", "rewards", "kl"} <= samples[0].keys() and samples[0]["kl"] == 0.0
    last = [s for s in samples if s["step"] == 20]
    assert log(calm)[-1]["val_kl"] == pytest.approx(sum(s["kl"] for s in last) / 40, abs=1e-6)
    assert log(calm)[-1]["val_helpful"] == pytest.approx(sum(s["rewards"]["helpful"] for s in last) / 40, abs=1e-6)
    for file in (
        "samples.jsonl",
        "model.safetensors",
        "value/model.safetensors",
        "checkpoints/step-000020/optimizer.safetensors",
    ):
        assert (calm / file).read_bytes() == (killed / file).read_bytes()
    states = [json.loads((out / "checkpoints/step-000020/state.json").read_text()) for out in (calm, killed)]
    assert states[0] == states[1] and states[0]["whitening"]["count"] == 20 * 16


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_dir, rm_dir, prompts) -> Path:
    out = tmp_path_factory.mktemp("runs") / "ppo"
    assert main(arguments(out, model_dir, rm_dir, prompts, "--iterations", 3)) == 0
    return out


def test_what_a_run_leaves_behind(finished, model_dir, rm_dir, capsys, prompts):
    """A policy that transformers loads, a value model in its own directory, every field of the log, a manifest."""
    from transformers import AutoModelForCausalLM

    policy = load_language_model(finished)
    tokens = torch.tensor([[1, 5, 9, 30, 7]])
    theirs = AutoModelForCausalLM.from_pretrained(finished, dtype=torch.float32)
    torch.testing.assert_close(policy(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)
    start = load_file(model_dir / "model.safetensors")
    assert any(not torch.equal(weight, start[name]) for name, weight in policy.state_dict().items())
    value = load_model(finished / "value")
    assert isinstance(value, ScalarModel) and bool(value.score.weight.abs().sum() > 0)
    fields = {"step", "tokens", "loss", "value_loss", "lr", "grad_norm", "reward", "kl", "kl_k3", "entropy", "length"}
    fields |= {"eos_rate", "score_std", "whitening_std", "clip_fraction", "distinct_2", "helpful", "explained_variance"}
    assert all(fields <= line.keys() for line in log(finished)) and "safe" not in log(finished)[0]
    run = json.loads((finished / "run.json").read_text())
    named = {option: [path for path, _ in inputs] for option, inputs in run["inputs"].items()}
    assert run["status"] == "finished" and named["prompts"] == [str(prompts)] and named["eval_prompts"] == []
    assert named["model"] == [str(model_dir)] and named["helpful_rm"] == [str(rm_dir)]
    spent = [json.loads(line)["joules"] for line in (finished / "log.jsonl").read_text().splitlines()]
    assert 0 < spent[0] < spent[1] < spent[2] == run["joules"]
    assert run["gco2e"] == pytest.approx(spent[2] / 3.6e6 * 1.1 * 385, abs=1e-3) and run["energy"] in METERS

    assert main(arguments(finished, model_dir, rm_dir, prompts, "--iterations", 3, "--micro-batch", 2)) == 0
    assert "already finished" in capsys.readouterr().err  # the micro-batch is memory only
    assert main(arguments(finished, model_dir, rm_dir, prompts, "--iterations", 3, "--beta", 0.5)) == 2
    assert "beta: 0.01 there, 0.5 asked" in capsys.readouterr().err


def test_the_value_model_starts_on_the_reward_models_trunk_with_a_zero_head(tmp_path, model_dir, rm_dir, prompts):
    """One step at learning rate 0 moves nothing: what is saved is how it began. The first value of all is 0."""
    out = tmp_path / "out"
    assert main(arguments(out, model_dir, rm_dir, prompts, "--iterations", 1, "--lr", 0, "--quiet")) == 0
    value, rm = load_file(out / "value/model.safetensors"), load_file(rm_dir / "model.safetensors")
    assert not value.pop("score.weight").any() and rm.pop("score.weight").any()
    assert all(torch.equal(value[name], rm[name]) for name in rm)
    start, policy = load_file(model_dir / "model.safetensors"), load_file(out / "model.safetensors")
    assert all(torch.equal(start[name], policy[name]) for name in start)


def test_no_safety_model_no_gate_and_it_says_so(tmp_path, model_dir, rm_dir, prompts, capsys):
    for i, more in enumerate(([], ["--safety-rm", rm_dir])):
        assert main(arguments(tmp_path / str(i), model_dir, rm_dir, prompts, "--iterations", 1, *more)) == 0
        captured = capsys.readouterr()
        assert captured.out == f"{tmp_path / str(i)}\n"
        assert ("the safety gate is off" in captured.err) == (not more)
        assert "is trained on too" not in captured.err


def test_it_says_when_held_out_prompts_are_learned(tmp_path, model_dir, rm_dir, prompts, capsys):
    both = ("--iterations", 1, "--eval-prompts", prompts)
    assert main(arguments(tmp_path / "out", model_dir, rm_dir, prompts, *both)) == 0
    assert f"{prompts} is trained on too" in capsys.readouterr().err


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Path:
    """A policy with another tokenizer."""
    path = tmp_path_factory.mktemp("stranger")
    other: Tokenizer = train_tokenizer(sentences(900), 320, path / "tokenizer.model")
    save_model(new_model(small_config(320)), path, other)
    return path


def test_what_several_processes_can_not_do_is_told(tmp_path, model_dir, rm_dir, prompts, capsys, monkeypatch):
    """Before any of them waits for another."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "9")
    argv = arguments(tmp_path / "out", model_dir, rm_dir, prompts)
    assert main(argv) == 2
    assert "--mini-batch 8: fewer answers than the 9 ranks that share them" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("l2.model.device.pick_device", lambda name: torch.device("cuda"))
    assert main([*argv, "--offload"]) == 2
    assert "--offload is for one GPU alone" in capsys.readouterr().err
    assert main([*argv, "--prompts", "-"]) == 2
    assert "the processes that torchrun started can't share a pipe" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_selftest_needs_nothing_and_its_verdict_is_the_exit_status(capsys, monkeypatch):
    from l2.align import selftest

    for holds, status, word in ((True, 0, "holds"), (False, 1, "FAILS")):
        monkeypatch.setattr(selftest, "certify", lambda holds=holds: [selftest.Finding("this", "that", holds)])
        assert main(["ppo", "--selftest"]) == status
        assert capsys.readouterr().out == f"{word}  this: that\n"


def test_what_it_refuses(tmp_path, model_dir, rm_dir, stranger, prompts, capsys):
    """One sentence each, with the right status, before anything is computed."""
    long, torn, cramped = tmp_path / "long.jsonl", tmp_path / "torn.jsonl", tmp_path / "cramped"
    save_model(new_model(small_config(379)), cramped, load_tokenizer(model_dir))
    long.write_text(json.dumps({"prompt": "bread and tea " * 30}) + "\n")
    torn.write_text('{"prompt": "a"}\n{"prompt": \n')
    ends = tmp_path / "ends.jsonl"
    ends.write_text(json.dumps({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}))

    def refused(*more: object, model=model_dir, rm=rm_dir, data=prompts) -> tuple[int, str]:
        status = main(arguments(tmp_path / "out", model, rm, data, "--quiet", *more))
        captured = capsys.readouterr()
        assert not captured.out and captured.err.count("\n") == 1 and captured.err.startswith("l2 ppo: ")
        return status, captured.err

    for (status, sentence), expected, words in (
        (refused("--mini-batch", 7), 2, "--batch 16 must be a multiple of --mini-batch 7"),
        (refused("--preset", "7b"), 2, "paper, tiny"),
        (refused("--whiten", "all"), 2, "batch, running, frozen, off"),
        (refused("--stop-patience", 2), 2, "--eval-prompts"),
        (refused("--offload"), 2, "on a CPU there is none to free"),
        (refused("--max-new-tokens", 4096), 2, "--max-new-tokens 4096: the models see"),
        (refused(rm=tmp_path / "none"), 1, "none: no such directory"),
        (refused(data=tmp_path / "none.jsonl"), 1, "no such file"),
        (refused(rm=model_dir), 65, "found a language model; expected a reward model"),
        (refused(model=rm_dir), 65, "found a reward model; expected a language model"),
        (refused(model=stranger), 65, "found a tokenizer of SHA-256"),
        (refused(model=cramped), 65, "found a tokenizer of 380 pieces; expected at most 379"),
        (refused(data=long), 65, f"{long}:1: found a prompt of"),
        (refused(data=torn), 65, f"{torn}:2: found no valid JSON"),
        (refused(data=ends), 65, f"{ends}:1: found a prompt that ends with the assistant"),
    ):
        assert status == expected and words in sentence, sentence
