"""JSONL, atomic outputs, the ledger and the manifest."""

from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from l2.files.atomic import atomic_dir, atomic_file
from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.jsonl import expand, open_writer, read_records, write_records
from l2.files.ledger import open_ledger
from l2.files.manifest import open_run, read_manifest

SAFE_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.dictionaries(
    SAFE_TEXT, st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), SAFE_TEXT), max_size=4
)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
@given(records=st.lists(JSON, min_size=1, max_size=8))
def test_records_come_back_as_they_went(tmp_path_factory, suffix, records):
    path = tmp_path_factory.mktemp("j") / f"x.{suffix}"
    assert write_records(path, records) == len(records)
    back = list(read_records([path]))
    assert back == records
    assert [record.where for record in back] == [f"{path}:{n}" for n in range(1, len(records) + 1)]


def test_compressed_files_are_what_their_names_say(tmp_path):
    for suffix, opened in (
        ("gz", gzip.decompress),
        ("zst", lambda b: zstandard.ZstdDecompressor().decompressobj().decompress(b)),
    ):
        write_records(tmp_path / f"x.{suffix}", [{"a": 1}])
        assert opened((tmp_path / f"x.{suffix}").read_bytes()) == b'{"a":1}\n'
    first = (tmp_path / "x.gz").read_bytes()
    write_records(tmp_path / "x.gz", [{"a": 1}])
    assert (tmp_path / "x.gz").read_bytes() == first, "same records, same bytes"


@pytest.mark.parametrize(
    ("line", "found"),
    [(b'{"text": "a', "no valid JSON"), (b"[1]", "a JSON list"), (b'{"text": "\xff"}', "no valid JSON"),
     (b'{"text": "\x00"}', "no valid JSON"), (b'{"id": 1}', "fields id")],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path, line, found):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line + b"\n" + b'{"text": "also"}\n')
    with pytest.raises(BadInput) as error:
        list(read_records([path], required=["text"]))
    assert error.value.where == f"{path}:3" and found in str(error.value)

    with open_ledger(tmp_path / "rejects.jsonl") as ledger:
        kept = list(read_records([path], required=["text"], on_bad=ledger.bad_line))
    assert [r["text"] for r in kept] == ["fine", "also"] and ledger.total == 1
    row = json.loads((tmp_path / "rejects.jsonl").read_text())
    assert (row["rule"], row["line"], row["source"]) == ("bad_line", 3, str(path))


def test_cut_compressed_files_empty_files_and_missing_files(tmp_path):
    for suffix in ("gz", "zst"):
        path = tmp_path / f"x.{suffix}"
        write_records(path, [{"text": "hello" * n} for n in range(1000)])
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(BadInput):
            list(read_records([path]))
    (tmp_path / "empty").touch()
    with pytest.raises(BadInput, match="no records"):
        list(read_records([tmp_path / "empty"]))
    with pytest.raises(L2Error, match=r"nowhere\.jsonl: no such file"):
        list(read_records([tmp_path / "nowhere.jsonl"]))


def test_patterns_are_expanded_and_stdin_is_named_once(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.bin").touch()
    assert expand([f"{tmp_path}/*.bin"]) == [f"{tmp_path}/a.bin", f"{tmp_path}/b.bin"]
    with pytest.raises(UsageError):
        expand(["-", "-"])


def test_a_file_whose_name_is_no_utf8_is_read_like_any_other(tmp_path):
    path = os.fsdecode(bytes(tmp_path / "m") + b"\xff.jsonl")
    Path(path).write_text('{"a": 1}\n')
    (record,) = read_records([path])
    assert record.where == f"{tmp_path}/m\ufffd.jsonl:1" and record.file == f"{tmp_path}/m\ufffd.jsonl"
    with pytest.raises(BadInput, match="jsonl:1: found fields a"):
        list(read_records([path], required=["text"]))


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as f:
        f.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(RuntimeError), open_writer(tmp_path / "y.gz") as writer:
        writer.write({"a": 1})
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [path]

    directory = tmp_path / "d"
    with atomic_dir(directory) as d:
        (d / "one").write_text("1")
    with pytest.raises(RuntimeError), atomic_dir(directory) as d:
        (d / "two").write_text("2")
        raise RuntimeError
    assert [p.name for p in directory.iterdir()] == ["one"]
    with atomic_dir(directory) as d:
        (d / "three").write_text("3")
    assert [p.name for p in directory.iterdir()] == ["three"] and len(list(tmp_path.iterdir())) == 2

    (tmp_path / "link").symlink_to(directory)
    with atomic_dir(tmp_path / "link") as d:
        (d / "four").write_text("4")
    assert (tmp_path / "link").is_symlink() and [p.name for p in directory.iterdir()] == ["four"]
    (tmp_path / "link").unlink()
    assert len(list(tmp_path.iterdir())) == 2

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # as /dev/null is no directory either, and may be renamed by root
    with pytest.raises(L2Error, match="pipe: not a directory"), atomic_dir(pipe):
        pass
    assert pipe.is_fifo() and len(list(tmp_path.iterdir())) == 3


def test_run_directories(tmp_path):
    out = tmp_path / "run"
    with open_run(out, {"lr": 1.0}, {"data": "abc"}) as run:
        assert run.state == "new"
        with pytest.raises(L2Error, match="another process"), open_run(out, {"lr": 1.0}, {"data": "abc"}):
            pass
    with open_run(out, {"lr": 1.0}, {"data": "abc"}) as run:
        assert run.state == "unfinished"
        run.finish(tokens=5)
    with open_run(out, {"lr": 1.0}, {"data": "abc"}) as run:
        assert run.state == "finished"
    with pytest.raises(UsageError, match="data: abc there, abd asked"), open_run(out, {"lr": 1.0}, {"data": "abd"}):
        pass
    manifest = read_manifest(out)
    assert manifest["status"] == "finished" and manifest["tokens"] == 5
    with open_run(out, {"lr": 2.0}, {"data": "abc"}, overwrite=True) as run:
        assert run.state == "new"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    theirs = {"thesis.tex": "a", ".thesis.tex.tmp-12": "b", ".lock": "c", "notes/.draft.old-3": "d"}
    (foreign / "notes").mkdir()
    for name, text in theirs.items():
        (foreign / name).write_text(text)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="no run of l2"), open_run(foreign, {}, {}, overwrite=overwrite):
            pass
    assert {str(p.relative_to(foreign)): p.read_text() for p in foreign.rglob("*") if p.is_file()} == theirs
    (foreign / "thesis.tex").unlink()
    with pytest.raises(UsageError, match="no run of l2"), open_run(foreign, {}, {}):
        pass


def test_a_file_system_without_locks_says_so(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(L2Error, match=r"can't be locked \(No locks available\)"), open_run(tmp_path / "run", {}, {}):
        pass


def test_settings_that_are_lists_are_told_apart(tmp_path):
    with open_run(tmp_path / "r", {"betas": (0.9, 0.95)}, {}):
        pass
    with open_run(tmp_path / "r", {"betas": [0.9, 0.95]}, {}) as run:
        assert run.state == "unfinished"
    with (
        pytest.raises(UsageError, match=r"betas: 0\.9 0\.95 there, 0\.9 0\.99 asked"),
        open_run(tmp_path / "r", {"betas": (0.9, 0.99)}, {}),
    ):
        pass


def test_inputs_have_an_order_and_a_role(tmp_path):
    a, b = ("a.jsonl", "1" * 64), ("b.jsonl", "2" * 64)
    with open_run(tmp_path / "r", {}, {"data": [a, b], "eval_data": []}):
        pass
    for other in ({"data": [b, a]}, {"data": [a]}, {"data": [a, b, b]}, {"data": [b], "eval_data": [a]}):
        with (
            pytest.raises(UsageError, match=r"data: a\.jsonl \(11111111\) b\.jsonl \(22222222\) there"),
            open_run(tmp_path / "r", {}, {"eval_data": []} | other),
        ):
            pass


def test_killed_while_a_run_begins_or_is_emptied(tmp_path, monkeypatch):
    from l2.files import manifest

    out = tmp_path / "r"
    out.mkdir()
    (out / ".run.json.tmp-123").write_text("{")  # killed before the first manifest had its name
    with open_run(out, {"a": 1}, {}) as run:
        assert run.state == "new" and not (out / ".run.json.tmp-123").exists()
        run.finish()
    (out / "checkpoints").mkdir()
    (out / "checkpoints" / ".step-1.tmp-9").mkdir()
    (out / "model").write_text("old")

    def killed(directory):
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "_empty", killed)
    with pytest.raises(KeyboardInterrupt), open_run(out, {"a": 2}, {}, overwrite=True):
        pass
    monkeypatch.undo()
    with open_run(out, {"a": 2}, {}) as run:  # the old run is gone, whatever is left of it
        assert run.state == "new" and not (out / "model").exists() and not (out / "checkpoints").exists()


def test_what_is_no_file_is_written_as_it_is(tmp_path):
    import os
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_records(pipe, [{"a": 1}])
    reader.join()
    assert read == [b'{"a":1}\n'] and pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_a_flipped_byte_in_compressed_data(tmp_path):
    import random

    records = [{"text": str(random.Random(i).random())} for i in range(2000)]
    for suffix in ("gz", "zst"):
        path = tmp_path / f"x.{suffix}"
        write_records(path, records)
        whole = path.read_bytes()
        for at in range(40, len(whole), len(whole) // 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            with pytest.raises(BadInput):
                list(read_records([path]))


def test_a_link_is_followed_and_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "real.jsonl").touch()
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    write_records(tmp_path / "link.jsonl", [{"a": 1}])
    assert (tmp_path / "link.jsonl").is_symlink() and (tmp_path / "real.jsonl").read_text() == '{"a":1}\n'
    (tmp_path / "file").touch()
    with pytest.raises(L2Error, match=r"file: can't be made a directory"):
        write_records(tmp_path / "file" / "x.jsonl", [{"a": 1}])
    with pytest.raises(L2Error, match=r"file: can't be an output directory"), open_run(tmp_path / "file", {}, {}):
        pass


def test_an_open_file_is_written_through_and_keeps_its_place(tmp_path):
    import os

    with open(tmp_path / "log", "w+b") as log:
        log.write(b"before\n")
        log.flush()
        write_records(f"/dev/fd/{log.fileno()}", [{"a": 1}])
        assert os.fstat(log.fileno()).st_ino == (tmp_path / "log").stat().st_ino
    assert b'{"a":1}\n' in (tmp_path / "log").read_bytes() and os.listdir(tmp_path) == ["log"]
