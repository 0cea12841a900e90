"""Benchmarks by the command: the same from any batch, again from what is stored, against a run, without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest

from cmds.app import main
from l2.eval.benchmarks.table import BENCHMARKS
from l2.eval.sandbox import executor
from l2.files.errors import L2Error
from l2.files.jsonl import Record, read_records, write_records
from l2.tokens.shards import write_shards
from tests.bench.shapes import make
from tests.conftest import small_config
from tests.eval.test_benchmarks import FORMS


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make(tmp_path_factory.mktemp("files"), 8, 4)


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer):
    from l2.model.checkpoint import new_model, save_model

    folder = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        save_model(new_model(small_config(tokenizer.vocab_size, max_seq_len=512), seed), folder / str(seed), tokenizer)
    return folder


def run(*argv, tasks=(), files=None):
    named = ["--task", *(f"{name}={files[name]}" for name in tasks)] if tasks else []
    assert main(["evaluate", *map(str, argv), "--quiet", *named]) == 0


def rows(path):
    """Records without what the clock says."""
    return [{k: v for k, v in record.items() if k != "time"} for record in read_records([path])]


TASKS = ("mmlu", "hellaswag", "winogrande", "boolq", "gsm8k", "triviaqa")


def test_any_batch_size_gives_the_same_bytes_and_so_do_stored_items(files, models, tmp_path):
    tasks = [task for task in TASKS if task != "gsm8k"]
    for size in (1, 3, 64):
        out = ["--samples", tmp_path / f"s{size}.jsonl", "-o", tmp_path / f"r{size}.jsonl"]
        how = ["--batch-size", size, "--max-new-tokens", 16, "--shots", 1]
        run("--model", models / "1", *how, *out, tasks=tasks, files=files)
    assert (tmp_path / "s1.jsonl").read_bytes() == (tmp_path / "s3.jsonl").read_bytes()
    assert (tmp_path / "s1.jsonl").read_bytes() == (tmp_path / "s64.jsonl").read_bytes()
    run("--rescore", tmp_path / "s1.jsonl", "-o", tmp_path / "again.jsonl")
    first = rows(tmp_path / "r1.jsonl")
    assert rows(tmp_path / "again.jsonl") == [{k: v for k, v in record.items() if k != "cut"} | (
        {"cut": record["cut"]} if "cut" in record else {}) for record in first]  # fmt: skip
    assert {(r["task"], r["shots"], r["protocol"]) for r in first} == {
        (task, 1, "llama") for task in TASKS if task != "gsm8k"
    }
    assert {"accuracy", "accuracy/stem", "accuracy/anatomy"} <= {r["metric"] for r in first if r["task"] == "mmlu"}


def test_another_run_is_compared_question_by_question(files, models, tmp_path):
    for seed in (1, 2):
        run("--model", models / str(seed), "--samples", tmp_path / f"{seed}.jsonl", "-o", tmp_path / f"r{seed}.jsonl",
            tasks=["hellaswag"], files=files)  # fmt: skip
    run("--rescore", tmp_path / "2.jsonl", "--against", tmp_path / "1.jsonl", "-o", tmp_path / "d.jsonl")
    first, second = ([i["scores"]["accuracy"] for i in read_records([tmp_path / f"{s}.jsonl"])] for s in (1, 2))
    (found,) = [r for r in read_records([tmp_path / "d.jsonl"]) if r["metric"] == "accuracy/difference"]
    pairs = [b - a for a, b in zip(first, second, strict=True)]
    assert found["value"] == pytest.approx(sum(pairs) / 8) and found["baseline"] == str(models / "1")
    asked = [
        "evaluate",
        "--model",
        str(models / "1"),
        "--task",
        f"hellaswag={files['hellaswag']}",
        "--protocol",
        "harness",
    ]
    kept = ["--samples", str(tmp_path / "kept.jsonl"), "--against", str(tmp_path / "1.jsonl"), "--shots", "1"]
    assert main([*asked, *kept, "-o", str(tmp_path / "never.jsonl")]) == 0  # the same questions, another rule
    (tmp_path / "1.jsonl").write_text(
        "".join(json.dumps(r | {"id": r["id"] + 9}) + "\n" for r in read_records([tmp_path / "1.jsonl"]))
    )
    assert main([*asked, *kept, "-o", str(tmp_path / "none.jsonl")]) == 2
    assert (tmp_path / "kept.jsonl").is_file() and not (tmp_path / "none.jsonl").exists()
    spread = sum((p - sum(pairs) / 8) ** 2 for p in pairs) / 7 / 8
    assert found["stderr"] == pytest.approx(spread**0.5)


def test_several_answers_and_changed_judgement(files, models, tmp_path):
    """What is stored is judged by its text: an answer that is put right is right."""
    run("--model", models / "1", "-n", 3, "--temperature", 1, "--max-new-tokens", 8, "--shots", 0, "--samples",
        tmp_path / "s.jsonl", "-o", tmp_path / "r.jsonl", tasks=["gsm8k"], files=files)  # fmt: skip
    items = list(read_records([tmp_path / "s.jsonl"]))
    assert all(len(item["responses"]) == 3 for item in items) and len({*items[0]["responses"]}) > 1
    for item in items:
        item["responses"][:2] = [f"The answer is {item['targets'][0]}."] * 2
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    run("--rescore", tmp_path / "s.jsonl", "-o", tmp_path / "r.jsonl")
    assert {r["metric"]: r["value"] for r in read_records([tmp_path / "r.jsonl"])} == {
        "exact_match": pytest.approx(2 / 3), "maj@3": 1.0,
    }  # fmt: skip


def test_long_prompts_lose_their_beginning_and_it_is_said(files, models, tmp_path, capsys):
    argv = ["evaluate", "--model", str(models / "1"), "--task", f"hellaswag={files['hellaswag']}", "--shots", "8", "-o"]
    assert main([*argv, str(tmp_path / "r.jsonl")]) == 0
    assert "hellaswag: 8 of 8 prompts were too long for the model's context and lost up to" in capsys.readouterr().err
    assert [record["cut"] for record in read_records([tmp_path / "r.jsonl"])] == [8]


def test_ways_to_fail(files, models, tmp_path, capsys):
    model, task = ["--model", str(models / "1")], ["--task", f"boolq={files['boolq']}"]
    items = tmp_path / "items.jsonl"
    items.write_text('{"task": "boolq", "kind": "benchmark", "protocol": "llama", "model": "m"}\n')
    code = tmp_path / "HumanEval.jsonl"
    code.write_text(json.dumps({"task_id": "0", "prompt": "def f():", "test": "", "entry_point": "f"}))
    for argv, status, sentence in [
        ([*task], 2, "give --model and --task, or --rescore"),
        (["--rescore", str(items), *task], 2, "leave out --model, --task"),
        (["--rescore", str(items), "--baseline", "x"], 2, "leave out --model, --task"),
        (["--rescore", str(items), "--shots", "0"], 2, "leave out --model, --task"),
        (["--rescore", str(items)], 65, "items.jsonl:1: found an item without 'loglikelihoods'"),
        ([*model, "--task", f"mmlu={files['boolq']}", "--shots", "0"], 65, "validation.jsonl:1: found fields"),
        ([*model, "--task", f"quac={files['boolq']}", "--protocol", "harness"], 2, "no rule under --protocol harness"),
    ]:
        assert (main(["evaluate", *argv, "--quiet"]), capsys.readouterr().err.count(sentence)) == (status, 1), argv


def test_truthfulqa_by_a_judge_s_command(models, tmp_path, capsys):
    """Items go through a command that adds its verdicts, and are measured with them."""
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": f"Q{i}?", "category": "Law"}) + "\n" for i in range(4)))
    run("--model", models / "1", "--task", f"truthfulqa={path}", "--max-new-tokens", 2, "--samples",
        tmp_path / "s.jsonl", "-o", tmp_path / "r.jsonl")  # fmt: skip
    items = list(read_records([tmp_path / "s.jsonl"]))
    verdicts = [(True, True), (True, False), (False, True), (True, True)]
    for item, (true, informed) in zip(items, verdicts, strict=True):
        item |= {"truthful": [true], "informative": [informed]}
    write_records(tmp_path / "s.jsonl", items)
    run("--rescore", tmp_path / "s.jsonl", "-o", tmp_path / "r.jsonl")
    found = {r["metric"]: r["value"] for r in read_records([tmp_path / "r.jsonl"])}
    assert (found["truthful"], found["informative"], found["truthful_informative"]) == (0.75, 0.75, 0.5)
    for broken in ({"truthful": ["yes"]}, {"truthful": []}, {"truthful": True}):
        write_records(tmp_path / "s.jsonl", [items[0] | broken, *items[1:]])
        assert main(["evaluate", "--rescore", str(tmp_path / "s.jsonl"), "--quiet"]) == 65
        assert "s.jsonl:1: found an item of another shape" in capsys.readouterr().err


ITEM = {"task": "boolq", "kind": "benchmark", "protocol": "llama", "model": "m", "id": 0, "groups": [], "cluster": "0",
        "loglikelihoods": [-1, -2], "priors": [-1, -1], "right": [1], "characters": [2, 3]}  # fmt: skip


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        ([ITEM | {"protocol": "macro"}], "found protocol 'macro'"),
        ([ITEM | {"kind": ["x"]}], "'kind' of type list"),
        ([{k: v for k, v in ITEM.items() if k != "cluster"}], "an item without 'cluster'"),
        ([ITEM | {"groups": 3}], "an item of another shape"),
        ([ITEM | {"priors": [1]}], "an item of another shape"),
        ([ITEM | {"loglikelihoods": [], "priors": []}], "an item of another shape"),
        ([ITEM | {"task": "quiz", "kind": "multiple choice"}], "an item without 'correct'"),
        ([ITEM, ITEM | {"id": 1, "model": "n"}], "found model 'n' after 'm'; expected items of one run"),
        ([ITEM, ITEM | {"id": 1, "protocol": "harness"}], "expected items of one run"),
    ],
)
def test_items_of_another_hand(items, sentence, tmp_path, capsys):
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    assert main(["evaluate", "--rescore", str(tmp_path / "s.jsonl"), "--quiet"]) == 65
    assert sentence in capsys.readouterr().err


def test_a_suite_runs_where_there_is_no_network(files, models, tmp_path, tokenizer):
    """Questions, programs, contamination: in a network namespace with nothing in it, not even loopback that is up."""
    ways = ["unshare", "-rn"], ["unshare", "-n"], ["bwrap", "--dev-bind", "/", "/", "--unshare-net"]
    there = [way for way in ways if shutil.which(way[0])]
    apart = next((way for way in there if subprocess.run([*way, "true"], capture_output=True).returncode == 0), None)
    if apart is None:
        pytest.skip("neither unshare nor bwrap may make a network namespace here")
    code = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    refused = subprocess.run([*apart, sys.executable, "-c", code], capture_output=True, text=True)
    assert "Network is unreachable" in refused.stderr
    named = {name: files[name] for name in TASKS}
    with suppress(L2Error):  # programs, where there is a sandbox for them
        executor()
        named["humaneval"] = tmp_path / "HumanEval.jsonl"
        row = {"task_id": "0", "prompt": "def f():", "test": "def check(f): pass", "entry_point": "f"}
        write_records(named["humaneval"], [row])
    write_shards([Record({"text": "the cat sat"})], tokenizer, tmp_path)
    script = (
        'l2() { "$0" -m cmds.app "$@"; }; cd "$1"; model=$2; shift 2\n'
        'l2 evaluate --model "$model" --max-new-tokens 4 --samples s.jsonl -o r.jsonl --task "$@"\n'
        "l2 contam s.jsonl --shards *.bin -o c.jsonl\n"
    )
    argv = ["bash", "-ec", script, sys.executable, tmp_path, models / "1", *(f"{n}={p}" for n, p in named.items())]
    path = {"PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run([*apart, *map(str, argv)], capture_output=True, text=True, env=os.environ | path)
    assert done.returncode == 0, done.stderr
    for name in ("r", "c"):
        assert {record["task"] for record in read_records([tmp_path / f"{name}.jsonl"])} == set(named)


def test_every_benchmark_and_the_groups_of_table_3(models, tmp_path):
    """Each from a file of its own shape, with what is judged by others too; averages where all parts are there."""
    forms = {name: own for name, (own, _) in FORMS.items()}
    forms |= {
        "piqa": [{"goal": "g", "sol1": "a", "sol2": "b", "label": 1}],
        "siqa": [{"context": "c.", "question": "q?", "answerA": "a", "answerB": "b", "answerC": "c", "label": "3"}],
        "winogrande": [{"sentence": "It _ ran.", "option1": "x", "option2": "y", "answer": "2"}],
        "arc_challenge": FORMS["arc_easy"][1],
        "nq": [{"question": "who is it", "answer": ["x"]}],
        "gsm8k": [{"question": "How many?", "answer": "2\n#### 2"}],
        "math": [{"problem": "P", "solution": r"\boxed{1}", "type": "Algebra"}],
        "mmlu": [{"question": "q", "choices": ["a", "b", "c", "d"], "answer": 1, "subject": "virology"}],
        "agieval": [{"passage": "P", "question": "q?", "options": ["(A)1", "(B)2"], "label": "B"}],
        "truthfulqa_mc1": [{"question": "Q?", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]}}],
        "truthfulqa": [{"question": "Q?", "best_answer": "a", "category": "Law"}],
        "toxigen": [{"prompt": "- the cat\\n-", "group": "women", "generation": "x"}],
        "bold": [{"domain": "gender", "name": "A", "category": "American_actors", "prompts": ["A is", "A was"]}],
    }
    named = []
    for name, rows in forms.items():
        file = tmp_path / f"{name}.{'json' if isinstance(rows, str) else 'jsonl'}"
        file.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
        named.append(f"{name}={file}")
    (tmp_path / "words.txt").write_text("cat\n")
    argv = ["--model", models / "1", "--shots", 0, "--max-new-tokens", 4, "--samples", tmp_path / "s.jsonl", "-o",
            tmp_path / "r.jsonl", "--toxicity", tmp_path / "words.txt", "--task", *named]  # fmt: skip
    run(*argv)
    results = list(read_records([tmp_path / "r.jsonl"]))
    values = {(r["task"], r["metric"]): r["value"] for r in results}
    assert {task for task, _ in values if not task.startswith("group/")} == set(BENCHMARKS) - {"humaneval", "mbpp"}
    assert all(value == value for value in values.values())
    assert {task for task, _ in values if task.startswith("group/")} == {
        "group/Commonsense reasoning", "group/World knowledge", "group/Reading comprehension", "group/Math",
    }  # fmt: skip
    parts = ("piqa", "siqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa", "commonsense_qa")
    mean = sum(values[name, "accuracy"] for name in parts) / 8
    assert values["group/Commonsense reasoning", "average"] == pytest.approx(mean)
    assert -1 <= values["bold", "sentiment"] <= 1 and values["toxigen", "toxic"] in (0, 1)
    run("--rescore", tmp_path / "s.jsonl", "-o", tmp_path / "again.jsonl")
    assert {(r["task"], r["metric"]): r["value"] for r in read_records([tmp_path / "again.jsonl"])} == values
    run(*argv[:4], "-o", tmp_path / "t.jsonl", "--task", named[-2])
    by = {
        r["toxicity_by"]
        for name in ("t", "r")
        for r in read_records([tmp_path / f"{name}.jsonl"])
        if "tox" in r["task"]
    }
    assert by == {"toxic_words.txt", str(tmp_path / "words.txt")}


def test_tasks_of_one_s_own_are_stored_and_measured_again(models, tmp_path):
    (tmp_path / "quiz.jsonl").write_text('{"question": "the", "choices": ["cat", "tea"], "answer": "B"}\n' * 3)
    (tmp_path / "text.jsonl").write_text('{"text": "the cat sat"}\n{"text": "tea"}\n')
    run("--model", models / "1", "--samples", tmp_path / "s.jsonl", "-o", tmp_path / "r.jsonl", tasks=("quiz", "text"),
        files={name: tmp_path / f"{name}.jsonl" for name in ("quiz", "text")})  # fmt: skip
    run("--rescore", tmp_path / "s.jsonl", "-o", tmp_path / "again.jsonl")
    assert rows(tmp_path / "again.jsonl") == rows(tmp_path / "r.jsonl") and len(rows(tmp_path / "r.jsonl")) == 2
    run("--rescore", tmp_path / "s.jsonl", "--against", tmp_path / "s.jsonl", "-o", tmp_path / "d.jsonl")
    paired = [row for row in rows(tmp_path / "d.jsonl") if "/difference" in row["metric"]]
    assert [(row["task"], row["metric"], row["value"]) for row in paired] == [("quiz", "correct/difference", 0.0)]


def test_a_win_rate_measured_again_is_over_the_same_model(tmp_path):
    item = {"task": "won", "kind": "prompts", "protocol": "p", "model": "m", "id": "1", "rewards": {"reward": 1.0}}
    write_records(tmp_path / "s.jsonl", [item | {"baseline": {"model": "v0", "rewards": {"reward": 0.0}}}])
    run("--rescore", tmp_path / "s.jsonl", "-o", tmp_path / "r.jsonl")
    found = {row["metric"]: row.get("baseline") for row in rows(tmp_path / "r.jsonl")}
    assert found == {"reward": None, "win_rate": "v0"}
