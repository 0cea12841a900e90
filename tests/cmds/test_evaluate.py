"""evaluate and gatt-build as commands: result records, files, sentences."""

from __future__ import annotations

import json

import pytest

from cmds.app import main
from l2.align.examples import encode_examples
from l2.eval.tasks import KINDS
from l2.files.jsonl import append_records, read_records
from l2.files.manifest import sha256_file, version
from tests.conftest import sentences
from tests.eval.scripted import saved, saying


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def files(tmp_path):
    lines = sentences(20)
    user = {"role": "user", "content": "mat"}
    constraint = {"instruction": "start with Ahoy", "kind": "prefix", "expect": "Ahoy"}
    return {
        "val": write(tmp_path / "val.jsonl", *({"text": line, "id": str(i)} for i, line in enumerate(lines))),
        "quiz": write(tmp_path / "quiz.jsonl", {"question": lines[0], "choices": ["the cat", "tea"], "answer": "B"}),
        "qa": write(tmp_path / "qa.jsonl", {"prompt": "who x [/INST]", "target": "ahoy cat"}),
        "gatt": write(tmp_path / "gatt.jsonl", {"messages": [user] * 2, "constraint": constraint}),
        "asked": write(tmp_path / "asked.jsonl", *({"prompt": line, "id": i} for i, line in enumerate(lines[:4]))),
        "pairs": write(tmp_path / "pairs.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c", "rating": "better"}),
    }


@pytest.fixture(scope="module")
def sailor(tmp_path_factory, tokenizer):
    """A model that says "Ahoy cat" to every prompt."""
    return saved(saying(tokenizer, "Ahoy cat", max_seq_len=180), tmp_path_factory.mktemp("sailor"), tokenizer)


def test_every_kind_of_task_in_one_run(files, sailor, model_dir, rm_dir, tmp_path, capsys):
    argv = ["evaluate", "--model", str(sailor), "--rm", str(rm_dir), "--baseline", str(model_dir), "--max-new-tokens",
            "9", "--append", str(tmp_path / "all.jsonl"), "--samples", str(tmp_path / "items.jsonl"), "--show",
            "-o", str(tmp_path / "results.jsonl"), "--task"]  # fmt: skip
    argv += [f"{name}={path}" for name, path in files.items() if name != "pairs"]
    assert main(argv) == 0
    results = list(read_records([tmp_path / "results.jsonl"]))
    values = {(r["task"], r["metric"]): r["value"] for r in results}
    assert list(values) == [
        ("val", "bits_per_byte"),
        ("quiz", "accuracy"),
        ("qa", "exact_match"),
        ("gatt", "obeyed"),
        ("gatt", "obeyed/turn1"),
        ("gatt", "obeyed/turn2"),
        ("asked", "reward"),
        ("asked", "win_rate"),
    ]
    assert values["qa", "exact_match"] == values["gatt", "obeyed"] == 1.0
    sha256 = sha256_file(sailor / "model.safetensors")
    for r in results:
        assert (r["model"], r["model_sha256"], r["shots"], r["l2_version"]) == (str(sailor), sha256, 0, version())
        assert {"stderr", "n", "protocol", "task_version", "time"} < r.keys()
        assert ("baseline" in r) == ("interval" in r) == (r["metric"] == "win_rate")
    assert len({r["task_version"] for r in results}) == 5
    said = capsys.readouterr().err
    assert "bits_per_byte" in said and "'[INST] mat" not in said and "mat [/INST]' is [1, " in said
    # The items alone give the metrics again.
    items = list(read_records([tmp_path / "items.jsonl"]))
    for task, kind in (("val", "documents"), ("gatt", "instructions"), ("asked", "prompts")):
        again = KINDS[kind].measure([item for item in items if item["task"] == task])
        assert {metric: e.value for metric, e in again.items()} == {m: v for (t, m), v in values.items() if t == task}
    appended = (tmp_path / "all.jsonl").read_bytes()
    assert appended == (tmp_path / "results.jsonl").read_bytes()
    assert main([*argv[:-5], f"asked={files['asked']}", "--quiet"]) == 0
    assert (tmp_path / "all.jsonl").read_bytes().startswith(appended)
    assert len(list(read_records([tmp_path / "all.jsonl"]))) == len(results) + 2


def test_appending_after_a_torn_line(tmp_path):
    path = tmp_path / "new" / "all.jsonl"
    append_records(str(path), [{"a": 1}])
    path.write_bytes(path.read_bytes() + b'{"torn')
    append_records(str(path), [{"a": 2}, {"a": 3}])
    assert path.read_bytes() == b'{"a":1}\n{"torn\n{"a":2}\n{"a":3}\n'


def test_a_reward_model_on_preferences(files, rm_dir, tmp_path):
    out = tmp_path / "r.jsonl"
    assert main(["evaluate", "--model", str(rm_dir), "--task", f"pairs={files['pairs']}", "-o", str(out)]) == 0
    found = list(read_records([out]))
    assert [(r["metric"], r["n"], r["stderr"]) for r in found[:2]] == [
        ("accuracy", 1, None),
        ("accuracy/better", 1, None),
    ]
    curves = {r["metric"]: r["curve"] for r in found if "curve" in r}
    assert set(curves) == {"calibration_error", "score/chosen", "score/rejected"}
    assert sum(curves["score/chosen"]["counts"]) == 1


def test_ways_to_fail(files, model_dir, rm_dir, tmp_path, capsys):
    odd = write(tmp_path / "odd.jsonl", {"question": "a", "choices": ["b"]})
    mixed = write(tmp_path / "mixed.jsonl", {"text": "a"}, {"question": "a"})
    for argv, status, sentence in [
        (["--task", files["val"]], 2, "write NAME=FILE"),
        (["--task", f"a={files['val']}", f"a={files['val']}"], 2, "--task a is given twice"),
        (["--task", "a=nowhere.jsonl"], 1, "nowhere.jsonl: no such file"),
        (["--task", f"a={odd}"], 65, "question, choices, answer (multiple choice)"),
        (["--task", f"a={mixed}"], 65, "mixed.jsonl:2: found fields"),
        (["--task", f"a={files['pairs']}"], 2, "asks a reward model"),
        (["--task", f"a={files['asked']}"], 2, "give --rm NAME=DIR"),
        (["--task", f"a={files['val']}", "--rm", str(rm_dir)], 2, "no task has prompts alone"),
        (["--task", f"a={files['pairs']}", "--model", str(rm_dir), "--rm", str(rm_dir)], 2, "which gives none"),
    ]:
        given = argv if "--model" in argv else [*argv, "--model", str(model_dir)]
        assert (main(["evaluate", *given, "--quiet"]), capsys.readouterr().err.count(sentence)) == (status, 1), argv


def test_gatt_build_makes_dialogs_for_sft(sailor, tokenizer, tmp_path, capsys):
    lines = sentences(6)
    records = [
        {"messages": [{"role": r, "content": c} for c in lines[:n] for r in ("user", "assistant")], "id": f"d{n}"}
        for n in (1, 2, 3)
    ]
    long = {"messages": [{"role": "user", "content": line} for line in lines * 2], "id": "long"}
    data = write(tmp_path / "dialogs.jsonl", *records, long)
    constraints = write(tmp_path / "c.jsonl", {"instruction": "be a sailor", "short": "sailor", "kind": "x"})
    argv = ["gatt-build", data, "--model", str(sailor), "--constraints", constraints, "--max-new-tokens", "9"]
    made = []
    for name in ("a", "b"):
        out, rejects = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.rejects"
        assert main([*argv, "-o", str(out), "--rejects", str(rejects)]) == 0
        made.append((out.read_bytes(), rejects.read_bytes()))
    assert made[0] == made[1]
    dialogs = list(read_records([out]))
    (reject,) = read_records([rejects])
    assert (reject["id"], reject["rule"]) == ("long", "context") and len(dialogs) == 3
    assert "4 dialogs, 3 kept; rejected: context 1" in capsys.readouterr().err
    assert {dialog["model"] for dialog in dialogs} == {str(sailor)}
    assert [m["content"] for m in dialogs[1]["messages"]][1:] == [lines[0], "Ahoy cat", lines[1], "Ahoy cat"]
    examples = encode_examples(dialogs, tokenizer, 180)
    assert examples.cut_turns == examples.cut_answers == 0
    for example in examples:
        learned = example.ids[example.learn].tolist()
        assert tokenizer.decode(learned).strip() == "Ahoy cat"
    assert main([*argv, "-o", "x", "--rejects", "x"]) == 2
    assert main([*argv, "--max-new-tokens", "999"]) == 1
    assert "(context 4)" in (told := capsys.readouterr().err) and "where they leave the context a smaller one" in told
    bad = write(tmp_path / "bad.jsonl", {"short": "x"})
    assert main(["gatt-build", data, "--model", str(sailor), "--constraints", bad]) == 65
