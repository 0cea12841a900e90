"""Parts of inputs: wherever the cuts are, together they say what one reader of the whole says."""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmds.app import main
from l2.files import jsonl
from l2.files.errors import BadInput
from l2.files.jsonl import open_input, open_writer, read_records, write_records
from l2.files.parts import LEAST, MOST, data_bytes, extents, is_piped, lay_down, measure, part_size, parts_of, read_part

LINES = st.one_of(
    st.integers(0, 300).map(lambda n: json.dumps({"text": "x" * n}).encode()),
    st.sampled_from([b"", b" ", b"torn {", b"[1]", '{"text": "é 東京"}'.encode(), b"\xff"]),
)
SKIPPABLE = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"hello"


def told(records, bad):
    """What is read, and of what is said."""
    return [(record.where, dict(record)) for record in records], list(map(str, bad))


def whole(path):
    bad = []
    try:
        return told(read_records([path], on_bad=bad.append), bad)
    except BadInput as error:
        assert error.found == "no records"
        return [], []


def in_parts(path, part_bytes):
    bad, records = [], []
    cut = extents(str(path), part_bytes)
    for part in parts_of(cut, [measure(extent) for extent in cut]):
        records += read_part(part, bad.append)
    return told(records, bad), len(cut)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=30), st.booleans(), st.integers(1, 1000))
def test_byte_ranges(tmp_path, lines, ended, part_bytes):
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n" * ended)
    found, count = in_parts(path, part_bytes)
    assert found == whole(path)
    assert count == max(1, -(-path.stat().st_size // part_bytes))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(LINES, max_size=30), st.lists(st.integers(0, 500), min_size=1, max_size=9), st.integers(1, 500),
    st.booleans(), st.booleans(), st.booleans()
)  # fmt: skip
def test_frames_cut_anywhere(tmp_path, lines, cuts, part_bytes, checksum, sizes, skippable):
    path = tmp_path / "docs.jsonl.zst"
    compressor = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=sizes)
    data, packed = b"\n".join(lines), b""
    for cut in [*cuts, len(data)]:
        packed += compressor.compress(data[:cut]) + SKIPPABLE * skippable
        data = data[cut:]
    path.write_bytes(packed)
    found, count = in_parts(path, part_bytes)
    assert found == whole(path)
    assert count > 1 or part_bytes > 50


def test_what_we_write_has_frames_of_whole_records(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "FRAME_BYTES", 1000)
    path = tmp_path / "docs.jsonl.zst"
    with open_writer(path) as writer:
        for i in range(100):
            writer.write({"i": i, "text": "x" * 50})
    cut = extents(str(path), 4)
    assert len(cut) == 7  # 15 records of 68 or 69 bytes are the first over 1,000
    assert [measure(extent).newlines for extent in cut] == [15] * 6 + [10]
    assert all(measure(extent).ended for extent in cut)
    assert in_parts(path, 4)[0] == whole(path)
    assert [record["i"] for record in read_records([path])] == list(range(100))


def test_broken_frames_are_one_part_that_says_so(tmp_path):
    path = tmp_path / "docs.jsonl.zst"
    packed = zstandard.compress(b'{"text": "a"}\n' * 50)
    for broken in (packed + b"no frame" * 9, packed[:7] + b"\xff" * 20 + packed[7:]):
        path.write_bytes(broken)
        (cut,) = extents(str(path), 4)
        with pytest.raises(BadInput, match=r"docs\.jsonl\.zst: found broken compressed data"):
            list(read_part(parts_of([cut], [])[0]))


def test_a_pipe_is_laid_down_in_pieces_of_whole_lines(tmp_path, monkeypatch):
    pipe, copy = tmp_path / "pipe", tmp_path / "copy.jsonl"
    data = b"".join(json.dumps({"text": "x" * (i * 7 % 90)}).encode() + b"\n\n" for i in range(60)) + b'{"text": 1}'
    copy.write_bytes(data)
    os.mkfifo(pipe)
    monkeypatch.chdir(tmp_path)
    Path("-").touch()  # which is not stdin
    assert is_piped(str(pipe)) and is_piped("-") and not is_piped(str(copy))
    with open(copy) as opened:  # a number that means something else in another process
        assert is_piped(f"/dev/fd/{opened.fileno()}")
    writer = threading.Thread(target=pipe.write_bytes, args=[data])
    writer.start()
    parts = list(lay_down(str(pipe), tmp_path / "piped", 500))
    writer.join()
    assert len(parts) > 5
    found = [(record.where, dict(record)) for part in parts for record in read_part(part)]
    assert found == [(where.replace("copy.jsonl", "pipe"), record) for where, record in whole(copy)[0]]


def test_parts_are_neither_small_nor_large(tmp_path):
    assert (part_size(0), part_size(LEAST * 512), part_size(1 << 50)) == (LEAST, LEAST * 2, MOST)
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "b.zst").write_bytes(b"x" * 10)
    assert data_bytes([str(tmp_path / "a"), str(tmp_path / "b.zst"), "-"]) == 10 + 40


@pytest.mark.parametrize("options", [[], ["--jobs", "2"], ["--on-bad", "skip"]])
@pytest.mark.parametrize("ending", [".gz", ".zst", "-zeros.zst"])
def test_compressed_data_cut_short_are_bad_input(tmp_path, capsys, ending, options):
    """Wherever they are cut, inside a block or between two of a frame."""
    whole = tmp_path / f"whole{ending}"
    noise = random.Random(0)
    text = "" if "zeros" in ending else noise.randbytes(64).hex()
    write_records(whole, ({"text": text, "id": noise.randrange(10**9)} for _ in range(20_000)))
    data = whole.read_bytes()
    for cut in (len(data) // 3, len(data) - 1):
        part = tmp_path / f"part{ending}"
        part.write_bytes(data[:cut])
        argv = ["filter", str(part), "--quality", "none", "--dedup", "none", "-o", str(tmp_path / "out"), *options]
        assert main(argv) == 65
        assert f"part{ending}: found broken compressed data" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_frames_of_all_kinds_are_read_to_their_end(tmp_path):
    """Also with a frame to be skipped between them, and none at all."""
    path = tmp_path / "many.zst"
    frames = [zstandard.ZstdCompressor().compress(bytes([65 + n]) * n * 50_000) for n in range(4)]
    path.write_bytes(frames[1] + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + b"".join(frames[2:]) + frames[0])
    with open_input(path) as f:
        assert f.read() == b"B" * 50_000 + b"C" * 100_000 + b"D" * 150_000
    path.write_bytes(b"")
    with open_input(path) as f:
        assert f.read() == b""
