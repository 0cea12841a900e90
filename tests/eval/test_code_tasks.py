"""HumanEval- and MBPP-shaped files from the prompt to the verdict, and their samples as l2 contam reads them."""

from __future__ import annotations

import json

import orjson
import pytest

from cmds.app import main
from l2.eval.contamination import measure_contamination
from l2.eval.sandbox import executor
from l2.files.errors import L2Error
from l2.files.jsonl import Record, read_records, write_records
from l2.tokens.shards import Shard, write_shards
from tests.eval.scripted import saved, saying


@pytest.fixture
def model(tmp_path, tokenizer):
    """Goes on with 1 after `return`."""
    return str(saved(saying(tokenizer, "1", after="return", max_seq_len=128), tmp_path / "model", tokenizer))


@pytest.fixture
def humaneval(tmp_path):
    file = tmp_path / "HumanEval.jsonl"
    write_records(file, [humaneval_row(number, f"assert candidate() == {number}") for number in range(3)])
    return file


def humaneval_row(number: int, test: str) -> dict:
    fields = {"task_id": f"HumanEval/{number}", "prompt": "def f():\n    return", "entry_point": "f"}
    return fields | {"canonical_solution": f" {number}\n", "test": f"def check(candidate):\n    {test}\n"}


def evaluate(model: str, file: object, *more: str) -> list[str]:
    return ["evaluate", "--model", model, "--task", f"humaneval={file}", "--temperature", "0", "--device", "cpu", *more]


def test_programs_are_run_and_judged(model, humaneval, tmp_path, tokenizer, capsysbinary):
    try:
        executor()
    except L2Error as error:
        pytest.skip(str(error))
    assert main(evaluate(model, humaneval, "--samples", str(tmp_path / "s.jsonl"), "--max-new-tokens", "8")) == 0
    (row,) = [orjson.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert (row["metric"], row["value"]) == ("pass@1", pytest.approx(1 / 3))
    samples = list(read_records([tmp_path / "s.jsonl"]))
    assert [sample["passed"] for sample in samples] == [[False], [True], [False]]
    (paths) = write_shards([Record({"text": samples[1]["prompt"]})], tokenizer, tmp_path)
    (found,) = measure_contamination(samples, [Shard(path) for path in paths], tokenizer)
    assert found.metric == "pass@1"
    assert found.tables is not None and found.tables[10]["dirty"].n + found.tables[10]["not dirty"].n == 3


def test_without_a_sandbox_it_says_so_before_the_model_is_read(humaneval, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(evaluate("nowhere", humaneval)) == 1
    assert "apt-get install bubblewrap" in capsys.readouterr().err


def test_unsafe_code_is_run_where_it_is_asked_for(model, humaneval, tmp_path, monkeypatch, capsysbinary):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(evaluate(model, humaneval, "--unsafe-code", "--max-new-tokens", "8")) == 0
    assert json.loads(capsysbinary.readouterr().out)["value"] == pytest.approx(1 / 3)
