"""The scripts of the paper's figures, with an l2 that only takes notes."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest

SHELL = Path(__file__).parent.parent / "shell"
STUB = """#!/bin/bash
echo "$*" >> {notes}
case $1 in
    sft) for word; do [ "$last" != --out ] || { mkdir -p "$word"; echo "$word"; }; last=$word; done ;;
    generate) echo '{"id": "p", "prompt": "q", "response": "a"}' ;;
    score) cat > "${@: -1}" ;;
    survey) cat > /dev/null; echo '{"task": "'"$*"'"}' >> "${@: -1}" ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    stub = tmp_path / "l2"
    stub.write_text(STUB.replace("{notes}", str(tmp_path / "notes")))
    stub.chmod(0o755)

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{tmp_path}:/usr/local/bin:/usr/bin:/bin"}
        command = ["bash", str(SHELL / script), *arguments]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)

    return run


def notes(home: Path, command: str) -> list[str]:
    return [line for line in (home / "notes").read_text().splitlines() if line.startswith(command)]


def test_temperatures_of_figure_21(run, tmp_path):
    done = run("temperature.sh", "results.jsonl", "sft", "v1", "--", "--max-new-tokens", "64")
    assert done.returncode == 0, done.stderr
    asked = notes(tmp_path, "generate")
    assert [line.split("--temperature ")[1].split()[0] for line in asked[:15]] == [
        f"{k / 10:.1f}" for k in range(1, 16)
    ]
    assert [line.split()[2] for line in asked] == ["sft"] * 15 + ["v1"] * 15
    assert all("-n 25" in line and line.endswith("--max-new-tokens 64") for line in asked)
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 30
    kinds = [json.loads(line)["category"] for line in (SHELL / "prompts/temperature.jsonl").read_text().splitlines()]
    assert kinds == ["factual"] * 10 + ["creative"] * 10


def test_shares_of_figure_15_hold_one_another(run, tmp_path):
    for name in ("helpful", "safety"):
        lines = [json.dumps({"messages": [], "id": f"{name}-{i}"}) + "\n" for i in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    arguments = ["--base", "base", "--helpful", "helpful.jsonl", "--safety", "safety.jsonl"]
    arguments += ["--helpful-prompts", "hp.jsonl", "--safety-prompts", "sp.jsonl"]
    arguments += ["--helpful-rm", "hrm", "--safe-rm", "srm", "--out", "out", "--", "--lr", "1e-4"]
    done = run("safety-scaling.sh", *arguments)
    assert done.returncode == 0, done.stderr
    shares = [(tmp_path / f"out/safety-{share}.jsonl").read_text().splitlines() for share in (1, 10, 25, 50, 100)]
    assert [len(share) for share in shares] == [1, 6, 15, 30, 60]
    assert all(more[: len(less)] == less for less, more in itertools.pairwise(shares))
    assert sorted(shares[-1]) == sorted((tmp_path / "safety.jsonl").read_text().splitlines())
    trained = notes(tmp_path, "sft")
    assert len(trained) == 6 and "safety-1.jsonl" not in trained[0]
    assert all("--data helpful.jsonl" in line and line.endswith("--lr 1e-4") for line in trained)
    assert len(notes(tmp_path, "generate")) == 18
    results = (tmp_path / "out/results.jsonl").read_text().splitlines()
    assert len(results) == 3
    assert run("safety-scaling.sh", *arguments).returncode == 0
    assert len(notes(tmp_path, "generate")) == 18, "answers that are there are not written again"
    assert (tmp_path / "out/results.jsonl").read_text().splitlines() == results


@pytest.mark.parametrize(
    ("script", "arguments"), [("temperature.sh", ["x"]), ("safety-scaling.sh", ["--base"]), ("safety-scaling.sh", [])]
)
def test_usage(run, script, arguments):
    assert run(script, *arguments).returncode == 2


@pytest.mark.parametrize("script", ["quickstart.sh", "iterate.sh", "miniature.sh", "overoptimise.sh"])
def test_a_size_that_there_is_not_is_refused_before_anything_is_made(run, script):
    refused = run(script, "--preset", "huge")
    assert refused.returncode == 2 and "choose nano" in refused.stderr


@pytest.mark.parametrize("preset", ["nano", "small"])
def test_sizes_name_every_setting_of_the_story(preset):
    told = 'echo "$preset ${pretrain[*]}|${experiment[*]}|$chat_lr $further_lr $rm_lr $ppo_lr $widths"'
    script = f'set -eu; source {SHELL}/sizes.sh; preset={preset}; sizes "$preset"; {told}'
    sizes = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    pretrain, experiment, numbers = sizes.split("|")
    assert pretrain.startswith(f"{preset} --preset {preset} ") and "--preset" not in experiment
    assert len(numbers.split()) == 6 and all(float(number) > 0 for number in numbers.split())
