"""l2 tok-train and l2 tokenize as they are called: pipes, exit statuses, and the same bytes however they run."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from l2.tokens.shards import Shard, documents
from l2.tokens.tokenizer import load_tokenizer
from tests.conftest import sentences


@pytest.fixture
def docs(tmp_path) -> Path:
    path = tmp_path / "docs.jsonl"
    texts = [*sentences(700), "", "<s> [INST] </s>"]
    path.write_text("".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts)))
    return path


@pytest.fixture
def model(tokenizer, tmp_path) -> Path:
    path = tmp_path / "tok.model"
    path.write_bytes(tokenizer.model_bytes)
    return path


def test_from_documents_to_shards(l2, docs, tmp_path):
    status, out, err = l2("tok-train", docs, "--vocab-size", 350, "-o", tmp_path / "t.model")
    assert (status, out) == (0, f"{tmp_path}/t.model\n") and "350 pieces" in err
    trained = load_tokenizer(tmp_path / "t.model")
    assert trained.vocab_size == 350
    status, out, _ = l2("tokenize", docs, "--tokenizer", tmp_path / "t.model", "--out", tmp_path / "d", "--name", "val")
    assert (status, out) == (0, f"{tmp_path}/d/val-00000.bin\n")
    shard = Shard(out.strip())
    texts = [json.loads(line)["text"] for line in docs.read_text().splitlines()]
    found = [trained.decode(part.tolist()) for part in np.split(shard.tokens, documents(shard)[1:])]
    assert found == texts and load_tokenizer(tmp_path / "d").sha256 == trained.sha256 == shard.tokenizer_sha256


def test_the_same_bytes_from_files_pipes_and_any_jobs(l2, docs, model, tmp_path):
    data = docs.read_bytes()
    packed = tmp_path / "docs.jsonl.gz"
    packed.write_bytes(gzip.compress(data))
    common = ["--tokenizer", model, "--shard-tokens", 3000, "--quiet"]
    runs = [
        l2("tokenize", docs, "--out", tmp_path / "0", *common),
        l2("tokenize", "--out", tmp_path / "1", *common, stdin=data),
        l2("tokenize", "-", "--out", tmp_path / "2", "--jobs", 3, *common, stdin=data),
        l2("tokenize", packed, "--out", tmp_path / "3", "--jobs", 2, *common),
        l2("tokenize", docs, "--out", tmp_path / "0", *common),  # again
    ]
    contents = []
    for status, out, err in runs:
        paths = [Path(line) for line in out.splitlines()]
        assert (status, err) == (0, "") and [p.name for p in paths] == [f"train-{i:05d}.bin" for i in range(len(paths))]
        contents.append([path.read_bytes() for path in paths])
    assert len(contents[0]) > 2 and all(content == contents[0] for content in contents)


def test_looking_into_shards(l2, docs, model, tmp_path):
    _, out, _ = l2("tokenize", docs, "--tokenizer", model, "--out", tmp_path / "d", "--shard-tokens", 4000, "--quiet")
    paths = out.splitlines()
    status, out, err = l2("tokenize", "--verify", *paths)
    lines = [json.loads(line) for line in out.splitlines()]
    assert (status, err, [line["path"] for line in lines]) == (0, "", paths) and len(paths) > 1
    assert all(line["verified"] == line["checksum"] and line["format"] == "l2" for line in lines)
    texts = [json.loads(line)["text"] for line in docs.read_text().splitlines()]
    first = Shard(paths[0])
    end = int(documents(first)[2])
    for asked in (f"0:{end}", f":{end}"):
        status, out, _ = l2("tokenize", "--inspect", paths[0], "--range", asked)
        shown = json.loads(out)
        assert (status, shown["texts"], shown["range"]) == (0, texts[:2], [0, end])
        assert shown["ids"] == first.tokens[:end].tolist() and shown["tokens"] == first.token_count
    assert json.loads(l2("tokenize", "--inspect", paths[0], "--range", "3:")[1])["range"] == [3, first.token_count]

    raw = tmp_path / "raw.bin"
    raw.write_bytes(Path(paths[0]).read_bytes()[1024:])
    _, out, _ = l2("tokenize", "--inspect", raw, "--raw-uint16", "--tokenizer", model, "--range", f"0:{end}")
    assert json.loads(out)["texts"] == texts[:2] and json.loads(out)["checksum"] is None
    broken = tmp_path / "d" / "broken.bin"
    broken.write_bytes(Path(paths[0]).read_bytes()[:-2] + b"\1\0")
    for argv, expected, sentence in (
        (["--verify", broken], 65, "broken.bin: found tokens with checksum"),
        (["--inspect", model], 65, "expected a token shard"),
        (["--inspect"], 2, "name the shards"),
        (["--inspect", "-"], 2, "name the shards"),
        (["--inspect", paths[0], "--range", "5"], 2, "give A:B"),
        (["--inspect", paths[0], "--range", "5:5"], 2, "no tokens 5 to 5"),
        (["--inspect", raw, "--raw-uint16", "--range", "0:5"], 2, "say with --tokenizer"),
        ([docs, "--range", "0:5"], 2, "--range goes with --inspect"),
        ([docs, "--raw-uint16"], 2, "--raw-uint16 goes with --inspect"),
    ):
        status, out, err = l2("tokenize", *argv)
        assert (status, out) == (expected, "") and sentence in err and "Traceback" not in err


def test_kill_anywhere_and_run_again(docs, model, tmp_path):
    """SIGKILL while shards are being written: nothing of that name is there, and the next run's bytes are the same."""
    lines = docs.read_bytes() * 150

    def command(out: str) -> list[str]:
        argv = ["tokenize", "--tokenizer", model, "--out", tmp_path / out, "--shard-tokens", "100000", "--jobs", "2"]
        return [sys.executable, "-m", "cmds.app", *map(str, argv), "--quiet"]

    def shards(out: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / out).iterdir()}

    whole = subprocess.run(command("whole"), input=lines, capture_output=True, check=True)
    killed = subprocess.Popen(command("killed"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    killed.stdin.write(lines)  # and no end
    killed.stdin.flush()
    for _ in range(400):
        if len(list((tmp_path / "killed").glob(".train.partial/*"))) > 1:
            break
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [".train.partial"]
    assert any((tmp_path / "killed/.train.partial").iterdir())
    again = subprocess.run(command("killed"), input=lines, capture_output=True, check=True)
    assert shards("killed") == shards("whole") and len(shards("whole")) > 3
    assert again.stdout.replace(b"killed", b"whole") == whole.stdout and again.stderr == b""


def test_shards_of_other_names_are_not_replaced_nor_said_to_be(l2, docs, model, tmp_path):
    common = ["tokenize", docs, "--tokenizer", model, "--out", tmp_path / "d", "--name"]
    assert l2(*common, "a-b")[0] == 0
    status, out, err = l2(*common, "a**")
    assert (status, out) == (0, f"{tmp_path}/d/a**-00000.bin\n") and "replaced" not in err
    assert "replaced" not in l2(*common, "a")[2]
    assert "1 shards a-*.bin in" in l2(*common, "a")[2]
    assert sorted(path.name for path in (tmp_path / "d").glob("*.bin")) == [
        f"{name}-00000.bin" for name in ("a**", "a", "a-b")
    ]


def test_the_same_model_from_files_and_pipes(l2, docs, tmp_path):
    for name, files, stdin in (("a", [docs], b""), ("b", [], docs.read_bytes()), ("c", ["-"], docs.read_bytes())):
        assert l2("tok-train", *files, "--vocab-size", 340, "-o", tmp_path / name, "--quiet", stdin=stdin)[0::2] == (
            0,
            "",
        )
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1


def test_a_sample_and_its_report(l2, docs, model, tmp_path):
    common = ["--vocab-size", 320, "--sample-bytes", 9000, "--seed", 1]
    halves = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    lines = docs.read_bytes().splitlines(keepends=True)
    for half, part in zip(halves, (lines[:100], lines[100:]), strict=True):
        half.write_bytes(b"".join(part))
    report = ["--report", tmp_path / "r.json", "--reference", model]
    status, _, err = l2("tok-train", docs, *common, "-o", tmp_path / "whole", *report)
    assert status == 0 and "learning from 8,9" in err and "characters a token" in err
    assert l2("tok-train", *halves, *common, "-o", tmp_path / "halves")[0] == 0
    assert l2("tok-train", docs, *common[:-1], 2, "-o", tmp_path / "other")[0] == 0
    whole, cut, other = ((tmp_path / name).read_bytes() for name in ("whole", "halves", "other"))
    assert whole == cut != other
    found = json.loads((tmp_path / "r.json").read_text())
    trained, reference = (found["tokenizers"][name] for name in ("trained", "reference"))
    assert found["sample"]["bytes"] <= 9000 < found["sample"]["bytes_read"] and found["sample"]["seed"] == 1
    assert (trained["pieces"], reference["pieces"]) == (320, 380) and trained["digits_split"]
    assert trained["all"]["lines"] == trained["all"]["round_trips"] == found["sample"]["lines"]
    assert reference["all"]["characters_per_token"] > trained["all"]["characters_per_token"] > 1
    status, out, err = l2("tok-train", docs, *common, "-o", "-")
    assert (status, out) == (2, "") and "--output -: the path of the model goes to stdout" in err
    status, _, err = l2("tok-train", docs, *common, "--reference", model, "-o", tmp_path / "x")
    assert status == 2 and "--reference goes with --report" in err


@pytest.mark.parametrize(
    "argv, stdin, status, sentence",
    [
        (["tok-train", "no.jsonl"], b"", 1, "no.jsonl: no such file"),
        (["tok-train"], b"", 65, "stdin: found no records"),
        (["tok-train"], b'{"text": "a b c"}\n{"text": "to', 65, "stdin:2: found no valid JSON"),
        (["tok-train"], b'{"text": "a"}\n{"txt": "b"}', 65, "stdin:2: found fields txt; expected a field 'text'"),
        (["tok-train"], b'{"text": 5}', 65, "stdin:1: found 'text' of type int; expected str"),
        (["tok-train"], b'{"text": ""}', 65, "expected text to learn from"),
        (["tok-train"], b'{"text": "a b c"}', 2, "--vocab-size 32000: SentencePiece can't (Vocabulary size too high"),
        (["tok-train", "--vocab-size", "259"], b"", 2, "'--vocab-size'"),
        (["tok-train", "--sample-bytes", "4191"], b"", 2, "'--sample-bytes'"),
        (["tok-train", "--report", "-"], b"", 2, "--report -: the path of the model goes to stdout"),
        (["tok-train", "--reference", "tok.model", "--report", "tok.model"], b"", 2, "tok.model is an input too"),
        (["tokenize", "--tokenizer", "no.model"], b"", 1, "no.model: no such file; a SentencePiece tokenizer.model"),
        (["tokenize", "--tokenizer", "."], b"", 1, "tokenizer.model: no such file"),
        (["tokenize", "--tokenizer", "broken.model"], b"", 65, "broken.model: found no SentencePiece model"),
        (["tokenize", "--tokenizer", "tok.model"], b"", 65, "stdin: found no records"),
        (["tokenize", "--tokenizer", "tok.model"], b'{"text": "\xff"}', 65, "stdin:1: found no valid JSON"),
        (["tokenize", "--tokenizer", "tok.model"], b'{"text": null}', 65, "'text' of type NoneType; expected str"),
        (["tokenize", "--tokenizer", "tok.model", "--name", "a/b"], b'{"text": "a"}', 2, "without a directory"),
        (["tokenize", "--tokenizer", "tok.model", "--name", "/a"], b'{"text": "a"}', 2, "without a directory"),
        (["tokenize", "--tokenizer", "tok.model", "--name", ".."], b'{"text": "a"}', 2, "without a directory"),
        (["tokenize", "--tokenizer", "tok.model", "--jobs", "0"], b"", 2, "'--jobs'"),
        (["tokenize", "--tokenizer", "tok.model", "--shard-tokens", "2147483648"], b"", 2, "'--shard-tokens'"),
        (["tokenize", "--out", "x"], b"", 2, "--tokenizer"),
    ],
)  # fmt: skip
def test_ways_to_fail_leave_nothing(l2, model, tmp_path, monkeypatch, argv, stdin, status, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.model").write_bytes(b"no model")
    made = ["-o", "out/t.model"] if argv[0] == "tok-train" else ["--out", "out"]
    found, out, err = l2(*argv, *made, stdin=stdin)
    assert (found, out) == (status, "") and sentence in err and "Traceback" not in err
    assert not [path for path in tmp_path.glob("out/**/*") if path.is_file()]
