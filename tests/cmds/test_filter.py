"""l2 filter as people run it: files, pipes, exit statuses, one sentence for each way to fail."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmds.app import main
from l2.files.jsonl import read_records, write_records

COMMAND = [sys.executable, "-m", "cmds.app", "filter"]
SYLLABLES = ["ka", "lo", "mi", "tu", "se", "ra", "no", "vi", "da", "pe", "bo", "fi"]
ROOT = Path(__file__).parents[2]


def page(number: int) -> str:
    """A page of five sentences and 60 words that breaks no rule and resembles no other page."""
    rng = random.Random(number)
    names = ["".join(rng.choices(SYLLABLES, k=3)) for _ in range(50)]
    return " ".join(f"The {' '.join(names[i : i + 9])} of {names[i + 9]}." for i in range(0, 50, 10))


def l2_filter(*argv: object, stdin: str | bytes = b"") -> subprocess.CompletedProcess[bytes]:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    return subprocess.run([*COMMAND, *map(str, argv)], input=data, capture_output=True, cwd=ROOT)


@pytest.fixture
def documents(tmp_path) -> Path:
    """Three good pages, a copy of the first, and one that is too short."""
    path = tmp_path / "docs.jsonl"
    texts = [page(0), page(1), page(0).upper(), "too short", page(2)]
    write_records(path, ({"id": str(i), "text": text} for i, text in enumerate(texts)))
    return path


def test_stdin_to_stdout_with_a_ledger_and_a_report(documents, tmp_path):
    rejects, report = tmp_path / "rejects.jsonl", tmp_path / "report.json"
    done = l2_filter("--rejects", rejects, "--report", report, stdin=documents.read_bytes())
    assert done.returncode == 0
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["0", "1", "4"]
    assert [(row["id"], row["source"], row["line"], row["rule"]) for row in read_records([rejects])] == [
        ("2", "stdin", 3, "exact_duplicate"),
        ("3", "stdin", 4, "gopher_words"),
    ]
    counts = json.loads(report.read_text())
    assert (counts["in"], counts["kept"], counts["rejected"]) == (5, 3, 2)
    assert counts["rules"] == {"exact_duplicate": 1, "gopher_words": 1}
    assert b"5 documents, 3 kept" in done.stderr
    assert l2_filter("--quiet", stdin=documents.read_bytes()).stderr == b""


def test_private_information_and_blocked_sites(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"{name}.example\n")
    sites = ["a.example", "x.b.example", "c.example"]
    documents = [{"text": f"{page(i)} Mail me at me@site.org.", "url": f"https://{s}/"} for i, s in enumerate(sites)]
    write_records(tmp_path / "docs.jsonl", documents)
    blocks = ["--url-blocklist", tmp_path / "a", "--url-blocklist", tmp_path / "b"]
    done = l2_filter(tmp_path / "docs.jsonl", *blocks, "--pii", "replace")
    (document,) = map(json.loads, done.stdout.splitlines())
    assert document["text"] == f"{page(2)} Mail me at <EMAIL>."
    assert b"3 documents, 1 kept; rejected: url_blocklist 2" in done.stderr


def test_the_same_command_writes_the_same_bytes(documents, tmp_path):
    for name in ("a", "b"):
        assert (
            main(["filter", str(documents), "-o", str(tmp_path / name), "--rejects", str(tmp_path / f"{name}.r")]) == 0
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != b""
    assert (tmp_path / "a.r").read_bytes() == (tmp_path / "b.r").read_bytes() != b""


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_in_and_out(documents, tmp_path, ending):
    packed, out = tmp_path / f"in.jsonl{ending}", tmp_path / f"out.jsonl{ending}"
    write_records(packed, read_records([documents]))
    assert main(["filter", str(packed), "-o", str(out)]) == 0
    assert out.read_bytes()[:2] in (b"\x1f\x8b", b"\x28\xb5")
    assert [record["id"] for record in read_records([out])] == ["0", "1", "4"]


@pytest.mark.parametrize("dedup", ["none", "exact", "minhash"])
def test_head_ends_it_early_and_silently(tmp_path, dedup):
    """A megabyte would follow; the reader wants one line."""
    path = tmp_path / "docs.jsonl"
    write_records(path, ({"text": page(i)} for i in range(3000)))
    script = f"'{sys.executable}' -m cmds.app filter '{path}' --dedup {dedup} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT)
    line, status = done.stdout.splitlines()
    assert json.loads(line) == {"text": page(0), "id": f"{path}:1"}
    assert (status, done.stderr) == ("141", "")


@pytest.mark.parametrize("dedup", ["none", "exact"])
def test_documents_come_out_while_others_still_come_in(dedup):
    process = subprocess.Popen(
        [*COMMAND, "--dedup", dedup], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    with process:
        for i in range(200):
            process.stdin.write(json.dumps({"text": page(i)}).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == "stdin:1"  # stdin is still open
        process.communicate()


def test_a_torn_line_is_65_and_can_be_skipped(documents, tmp_path):
    torn = documents.read_text() + '{"text": "torn\n' + json.dumps({"text": page(9)}) + "\n"
    done = l2_filter(stdin=torn)
    assert done.returncode == 65 and done.stderr.startswith(b"l2 filter: stdin:6: found no valid JSON")
    done = l2_filter("--on-bad", "skip", "--rejects", tmp_path / "r.jsonl", stdin=torn)
    assert done.returncode == 0
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["0", "1", "4", "stdin:7"]
    assert [row["line"] for row in read_records([tmp_path / "r.jsonl"]) if row["rule"] == "bad_line"] == [6]


def test_a_failed_run_leaves_no_output(documents, tmp_path):
    documents.write_bytes(documents.read_bytes() + b"\xff\n")
    assert main(["filter", str(documents), "-o", str(tmp_path / "out"), "--rejects", str(tmp_path / "r")]) == 65
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs.jsonl"]


@pytest.mark.parametrize(
    ("argv", "status", "sentence"),
    [
        (["none.jsonl"], 1, "none.jsonl: no such file"),
        (["empty.jsonl"], 65, "empty.jsonl: found no records"),
        (["docs.jsonl", "--on-bad", "ignore"], 2, "'ignore' is not one of 'stop', 'skip'"),
        (["docs.jsonl", "--rejects", "x", "-o", "x"], 2, "--output and --rejects are both x"),
        (["docs.jsonl", "-o", "./docs.jsonl"], 2, "docs.jsonl is an input too; choose another name"),
        (["docs.jsonl", "--url-blocklist", "empty.jsonl", "-o", "empty.jsonl"], 2, "empty.jsonl is an input too"),
        (
            ["docs.jsonl", "--explain", "1", "--report", "r"],
            2,
            "--explain drops nothing: it goes without",
        ),
        (["docs.jsonl", "--report", "-"], 2, "--report -: documents go to stdout; name a file"),
        (["docs.jsonl", "--work", "w", "--shard", "1/2", "-o", "x"], 2, "a shard writes into --work alone"),
        (["docs.jsonl", "--lang", "en", "--lid-model", "none.ftz"], 1, "none.ftz: no such file"),
        (["docs.jsonl", "--quality", "c4,c5"], 2, "no set of quality rules 'c5'; there are gopher, c4, fineweb"),
        (["docs.jsonl", "--url-blocklist", "none.txt"], 1, "none.txt: no such file"),
        (["docs.jsonl", "--url-blocklist", "docs.jsonl"], 65, "docs.jsonl:1: found"),
        (["docs.jsonl", "--quality-model", "docs.jsonl"], 65, "docs.jsonl: found no fastText model"),
        (["--train-quality", "docs.jsonl", "docs.jsonl"], 2, "ends in .ftz or .bin, not to -"),
        (["--train-quality", "docs.jsonl", "none.jsonl", "-o", "q.bin"], 1, "none.jsonl: no such file"),
        (["--train-quality", "docs.jsonl", "empty.jsonl", "-o", "q.bin"], 65, "empty.jsonl: found no records"),
        (["x", "--train-quality", "docs.jsonl", "docs.jsonl", "-o", "q.bin"], 2, "filters none, but x is named"),
        (["docs.jsonl", "--dedup", "fuzzy"], 2, "fuzzy"),
        (
            ["docs.jsonl", "--where", "__import__('os') < 1"],
            2,
            "a condition is FIELD OP VALUE, as scores.toxicity < 0.5",
        ),
        (["docs.jsonl", "--where", "a < 1", "--where", "b < c"], 2, "'b < c' has no number or double-quoted string"),
        (["docs.jsonl", "--where", "a < 1", "--score-only"], 2, "a condition is asked for too"),
        (["docs.jsonl", "--score-only", "--dedup", "exact"], 2, "dropping copies is asked for too"),
        (["docs.jsonl", "--score-only", "--explain", "1"], 2, "nothing to explain"),
        (["docs.jsonl", "--threshold", "toxicity=0.5"], 2, "a threshold of toxicity needs --toxicity"),
        (["docs.jsonl", "--toxicity", "none.txt"], 1, "none.txt: no such file"),
        (["docs.jsonl", "--lang", "en", "--threshold", "lang=2"], 2, "lang is a number from 0 to 1, not 2"),
        (["docs.jsonl", "--threshold", "gopher_words"], 2, "'gopher_words' is no threshold; one is NAME=NUMBER"),
        (["docs.jsonl", "--threshold", "gopher_word=2"], 2, "nothing called 'gopher_word' has a threshold"),
        (["docs.jsonl", "--decontaminate", "none.jsonl"], 1, "none.jsonl: no such file"),
        (["docs.jsonl", "--decontaminate", "docs.jsonl", "empty.jsonl"], 65, "empty.jsonl: found no items"),
        (["docs.jsonl", "--lines", "c4,c5"], 2, "no rules about lines 'c5'"),
        (["docs.jsonl", "--shard", "1/2"], 2, "a shard needs a --work directory"),
        (["docs.jsonl", "--shard", "0/2", "--work", "w"], 2, "there is no shard 0 of 2"),
        (["docs.jsonl", "--shard", "two", "--work", "w"], 2, "--shard 'two': give I/N"),
        (["-", "--work", "w"], 2, "can't be read again; --work needs files"),
        (["docs.jsonl", "--work", "."], 2, "not empty, and no run of l2 filter made it"),
        (["docs.jsonl", "--memory", "inf"], 2, "'--memory'"),
        (["docs.jsonl", "--memory", "0.01"], 2, "--memory 0.01 GB is not enough"),
        (["docs.jsonl", "--jobs", "2", "--lid-model", "none.ftz", "--lang", "en"], 1, "none.ftz: no such file"),
    ],
)
def test_each_failure_is_one_sentence(documents, tmp_path, monkeypatch, capfd, argv, status, sentence):
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text("\n")
    assert main(["filter", *argv]) == status
    out, err = capfd.readouterr()
    assert sentence in err and "Traceback" not in err and out == ""


def test_languages_are_told_apart(lid_model, tmp_path):
    path = tmp_path / "docs.jsonl"
    texts = [
        "Nobody on the quay waved to the ferry when it left the harbour.",
        "Personne sur le quai n'a salué le bateau quand il a quitté le port.",
        "Nadie en el muelle saludó al barco cuando salió del puerto.",
    ]
    write_records(path, ({"id": str(i), "text": text} for i, text in enumerate(texts)))
    argv = ["filter", str(path), "--lid-model", str(lid_model), "--quality", "none", "-o", str(tmp_path / "out.jsonl")]
    assert main([*argv, "--lang", "en,es", "--rejects", str(tmp_path / "r.jsonl")]) == 0
    assert [(d["id"], d["scores"]["lang"]) for d in read_records([tmp_path / "out.jsonl"])] == [
        ("0", "en"),
        ("2", "es"),
    ]
    (row,) = read_records([tmp_path / "r.jsonl"])
    assert (row["id"], row["rule"], row["value"]["lang"]) == ("1", "language", "fr")
    assert main([*argv, "--lang", "english"]) == 2


def test_lines_that_go_are_rows_of_the_ledger(tmp_path):
    path, out, rejects = tmp_path / "docs.jsonl", tmp_path / "out.jsonl", tmp_path / "r.jsonl"
    write_records(
        path, ({"id": str(i), "text": f"Home | News\n{page(i)}\nSeen {i} times today, friends."} for i in range(2))
    )
    done = l2_filter(path, "-o", out, "--lines", "c4,dedup", "--rejects", rejects)
    assert done.returncode == 0, done.stderr
    assert [d["text"] for d in read_records([out])] == [f"{page(0)}\nSeen 0 times today, friends.", page(1)]
    assert [(row["id"], row["text_line"], row["rule"]) for row in read_records([rejects])] == [
        ("0", 1, "c4_line_end"),
        ("1", 1, "c4_line_end"),
        ("1", 3, "duplicate_line"),
    ]
    assert b"2 documents, 2 kept; of 6 lines 3 dropped" in done.stderr


def test_a_classifier_is_trained_and_then_asked(tmp_path):
    good, other, path = (tmp_path / name for name in ("good.jsonl", "other.jsonl", "docs.jsonl"))
    write_records(good, ({"text": page(i)} for i in range(50)))
    write_records(other, ({"text": f"Click now to buy {i} cheap and best pills! " * 10} for i in range(50)))
    done = l2_filter("--train-quality", good, other, "-o", tmp_path / "q.bin")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.endswith(b"q.bin: learned from 50 good and 50 other documents\n")
    write_records(path, [{"id": "a", "text": page(99)}, {"id": "b", "text": "Click now to buy cheap pills."}])
    rejects = tmp_path / "r.jsonl"
    done = l2_filter(path, "--quality", "none", "--quality-model", tmp_path / "q.bin", "--rejects", rejects)
    (document,) = map(json.loads, done.stdout.splitlines())
    assert document["id"] == "a" and document["scores"]["quality"] > 0.5
    (row,) = read_records([rejects])
    assert (row["id"], row["rule"], row["threshold"]) == ("b", "quality_model", 0.5) and row["value"] < 0.5


def test_a_document_is_explained(documents, tmp_path):
    done = l2_filter(documents, "--explain", "3", "--quality", "gopher,fineweb")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[0] == {"id": "3", "rule": "gopher_words", "value": 2, "threshold": 50, "verdict": "reject"}
    assert (rows[-1]["rule"], rows[-1]["verdict"], done.stderr) == ("near_duplicate", "pass", b"")
    done = l2_filter("--explain", "stdin:1", stdin=json.dumps({"text": page(0)}))
    assert {json.loads(line)["verdict"] for line in done.stdout.splitlines()} == {"pass"}
    done = l2_filter(documents, "--explain", "9")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"l2 filter: no document has the id '9'\n")


def test_scores_first_and_the_decision_later(documents, tmp_path):
    words, rejects = tmp_path / "words.txt", tmp_path / "r.jsonl"
    words.write_text("short\n")
    scored = l2_filter(documents, "--score-only", "--toxicity", words)
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    assert [(row["id"], row["scores"]["toxicity"]) for row in rows] == [
        ("0", 0.0), ("1", 0.0), ("2", 0.0), ("3", 1.0), ("4", 0.0)
    ]  # fmt: skip
    assert all(row["scores"]["gopher_words"] == len(row["text"].split()) for row in rows)
    done = l2_filter("--where", "scores.gopher_words < 9", "--rejects", rejects, stdin=scored.stdout)
    assert done.stdout == scored.stdout.splitlines(keepends=True)[3]  # no default rule is asked, no byte is changed
    assert b"5 documents, 1 kept; rejected: scores.gopher_words 4" in done.stderr
    assert {row["threshold"] for row in read_records([rejects])} == {"scores.gopher_words < 9"}
    conditions = ["--where", "scores.toxicity <= 0.5", "--where", 'id != "1"']
    done = l2_filter(*conditions, "--dedup", "exact", stdin=scored.stdout)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["0", "4"]


def test_shards_and_then_the_rest_as_the_help_has_it(documents, tmp_path):
    alone, out, work = (tmp_path / name for name in ("alone.jsonl", "out.jsonl", "w"))
    assert l2_filter(documents, "-o", alone, "--rejects", f"{alone}.r", "--report", f"{alone}.json").returncode == 0
    for i in range(1, 5):
        done = l2_filter(documents, "--work", work, "--shard", f"{i}/4")
        assert (done.returncode, done.stdout) == (0, b"")
    assert b"shard 4/4: its 1 of all 1 parts are checked; when all are, run it without --shard" in done.stderr
    done = l2_filter(documents, "--work", work, "-o", out, "--rejects", f"{out}.r", "--report", f"{out}.json")
    assert b"expecting about" in done.stderr and b"of memory" in done.stderr
    for end in ("", ".r", ".json"):
        assert Path(f"{out}{end}").read_bytes() == Path(f"{alone}{end}").read_bytes() != b""


def test_an_open_file_is_read_by_any_number_of_jobs(documents):
    outs = []
    with open(documents, "rb") as opened:
        name = f"/dev/fd/{opened.fileno()}"
        for jobs in (1, 2):
            done = subprocess.run(
                [*COMMAND, name, "--jobs", str(jobs)], pass_fds=[opened.fileno()], capture_output=True, cwd=ROOT
            )
            assert done.returncode == 0, done.stderr
            outs.append(done.stdout)
    assert outs[0] == outs[1] and len(outs[0].splitlines()) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_half_made(documents, tmp_path, number):
    (tmp_path / "tmp").mkdir()
    output = tmp_path / "out" / "kept.jsonl"
    process = subprocess.Popen(
        [*COMMAND, "-o", output], stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # which nohup, around the tests, would have ignored
    )  # fmt: skip
    process.stdin.write(documents.read_bytes())  # and more may come
    process.stdin.flush()
    while not (list(output.parent.glob(".*")) and list((tmp_path / "tmp").glob("l2-filter-*"))):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate()
    assert (process.returncode, err) == (128 + number, b"")
    assert not [*output.parent.iterdir(), *(tmp_path / "tmp").iterdir()]


def test_jobs_share_what_comes_through_a_pipe(documents, tmp_path):
    data = documents.read_bytes()
    alone = l2_filter("--rejects", tmp_path / "a", stdin=data)
    two = l2_filter("--rejects", tmp_path / "b", "--jobs", 2, "--lines", "dedup", "--quiet", stdin=data)
    one = l2_filter("--rejects", tmp_path / "c", "--lines", "dedup", stdin=data)
    assert (two.returncode, two.stderr) == (0, b"")
    assert two.stdout == one.stdout and (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes() != b""
    assert alone.stdout == l2_filter("--memory", 4, "--dedup", "minhash", stdin=data).stdout != b""
