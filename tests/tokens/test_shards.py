"""Shards against the bytes that design.md §2 promises, read here with struct, and against every kind of damage."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.jsonl import Record
from l2.tokens.shards import Shard, check_tokenizer, documents, write_shards
from tests.conftest import sentences


@dataclass
class Numbers:
    """Stands in for a tokenizer of any size: the words of a text are its ids."""

    vocab_size: int
    sha256: str = "00ff" * 16
    model_bytes: bytes = b"model"
    bos_id: int = 1
    eos_id: int = 2

    def encoder(self, dtype: np.dtype) -> Words:
        return Words(dtype)


@dataclass
class Words:
    dtype: np.dtype

    def parts(self, text: str, length: int) -> list[str]:
        half = len(text) // 2 + 1
        cut = text.find(" ", half)
        return [text[:cut], text[cut:]] if cut > 0 else [text]

    def encode(self, part: str) -> bytes:
        return np.array([int(word) for word in part.split()], self.dtype).tobytes()


def records(texts: list[str]) -> list[Record]:
    return [Record({"text": text}, f"docs.jsonl:{i}") for i, text in enumerate(texts, 1)]


def test_every_word_of_the_header(tmp_path):
    numbers = Numbers(50_000)
    (path,) = write_shards(records(["3 4 49999", "", "5"]), numbers, tmp_path, "val")
    data = path.read_bytes()
    tokens = struct.pack("<10H", 1, 3, 4, 49999, 2, 1, 2, 1, 5, 2)
    assert path.name == "val-00000.bin" and data[1024:] == tokens
    words = struct.unpack("<256i", data[:1024])
    assert words[:8] == (20240520, 1, 10, 1, 2, 3, 1, 50_000)
    assert data[32:64] == bytes.fromhex(numbers.sha256)
    assert data[64:72] == struct.pack("<Q", xxhash.xxh3_64_intdigest(tokens))
    assert not any(data[72:1024])
    assert (tmp_path / "tokenizer.model").read_bytes() == b"model"
    shard = Shard(path)
    assert (shard.token_count, shard.documents, shard.bos_id, shard.vocab_size) == (10, 3, 1, 50_000)
    assert (shard.tokenizer_sha256, shard.checksum) == (numbers.sha256, xxhash.xxh3_64_hexdigest(tokens))
    assert isinstance(shard.tokens, np.memmap)
    assert documents(shard).tolist() == [0, 5, 7]


@pytest.mark.parametrize("size, magic", [(2**16, (20240520, 1, "H")), (2**16 + 1, (20240801, 7, "I"))])
def test_large_vocabularies_take_four_bytes(tmp_path, size, magic):
    (path,) = write_shards(records([f"{size - 1}"]), Numbers(size), tmp_path)
    data = path.read_bytes()
    assert struct.unpack("<5i", data[:20]) == (*magic[:2], 3, 1, struct.calcsize(magic[2]))
    assert struct.unpack(f"<3{magic[2]}", data[1024:]) == (1, size - 1, 2)
    assert Shard(path).tokens.tolist() == [1, size - 1, 2]
    Shard(path).verify(2**32)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 20))
def test_documents_stay_whole_and_in_order(tmp_path_factory, lengths, limit):
    out = tmp_path_factory.mktemp("shards")
    texts = [" ".join(str(10 + i) for _ in range(n)) for i, n in enumerate(lengths)]
    shards = [Shard(path) for path in write_shards(records(texts), Numbers(1000), out, shard_tokens=limit)]
    expected = [[1, *map(int, text.split()), 2] for text in texts]
    found = []
    for shard in shards:
        starts = documents(shard)
        assert len(starts) == shard.documents and (shard.token_count <= limit or shard.documents == 1)
        found += [part.tolist() for part in np.split(shard.tokens, starts[1:])]
    assert found == expected
    for shard, after in pairwise(shards):  # none ends before it must
        first = documents(after)[1] if after.documents > 1 else after.token_count
        assert shard.token_count + first > limit


def test_what_a_real_tokenizer_says(tokenizer, tmp_path):
    texts = [*sentences(600), "", "<s> is text </s>", "a\0b", "🧿"]
    paths = write_shards(records(texts), tokenizer, tmp_path / "a", shard_tokens=2000)
    assert len(paths) > 2
    shards = [Shard(path) for path in paths]
    parts = [part for shard in shards for part in np.split(shard.tokens, documents(shard)[1:])]
    assert [tokenizer.decode(part.tolist()) for part in parts] == texts
    assert all(part[0] == 1 and part[-1] == 2 and not {1, 2} & set(part[1:-1].tolist()) for part in parts)
    again = write_shards(records(texts), tokenizer, tmp_path / "b", shard_tokens=2000, jobs=2)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    check_tokenizer(shards, tokenizer.sha256)
    for shard in shards:
        shard.verify(2**32)
    with pytest.raises(BadInput, match=f"train-00000.bin: found .*{tokenizer.sha256[:12]}.* those of abababababab"):
        check_tokenizer(shards, "ab" * 32)


@pytest.fixture
def shard(tmp_path) -> Path:
    return write_shards(records(["3 4 5", "6"]), Numbers(1000), tmp_path)[0]


def test_any_changed_byte_of_the_tokens_is_found(shard):
    data = shard.read_bytes()
    for at in range(1024, len(data)):
        shard.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(
            BadInput, match=rf"train-00000.bin: found tokens with checksum .* expected {data[64:72][::-1].hex()}"
        ):
            Shard(shard).verify(2**32)


@pytest.mark.parametrize(
    "damage, found",
    [
        (lambda data: data[:-2], r"found 1,038 bytes \(truncated\); expected 1,040 for the 8 tokens"),
        (lambda data: data + b"\0", "found 1,041 bytes; expected 1,040 for the 8 tokens"),
        (lambda data: data[:1024], r"found 1,024 bytes \(truncated\)"),
        (lambda data: data[:1000], "expected a token shard"),
        (lambda data: b"", r"found a file of 0 bytes that starts with \[\]"),
        (lambda data: b"{}", "expected a token shard"),
        (lambda data: b"\0" * 1024, "expected a token shard"),
        (lambda data: data[:4] + struct.pack("<i", 7) + data[8:], "expected a token shard"),
        (lambda data: data[:8] + struct.pack("<i", -1) + data[12:], "found 1,040 bytes"),
        (lambda data: data[:12] + struct.pack("<i", 2) + data[16:], "found header version 2; expected 1"),
    ],
)
def test_damage_is_named_with_both_values(shard, damage, found):
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(BadInput, match=f"train-00000.bin: .*{found}"):
        Shard(shard)


def test_a_missing_shard(tmp_path):
    with pytest.raises(L2Error, match=r"no\.bin: no such file"):
        Shard(tmp_path / "no.bin")


@pytest.mark.parametrize("magic, version, kind", [(20240520, 1, "<u2"), (20240801, 7, "<u4")])
def test_files_of_llm_c(tmp_path, magic, version, kind):
    """As its data scripts write them: three words, zeros, tokens."""
    header = np.zeros(256, dtype=np.int32)
    header[:3] = magic, version, 4
    path = tmp_path / "tinyshakespeare_val.bin"
    path.write_bytes(header.tobytes() + np.array([50256, 5962, 22307, 25], dtype=kind).tobytes())
    shard = Shard(path)
    assert shard.tokens.tolist() == [50256, 5962, 22307, 25]
    assert (shard.documents, shard.bos_id, shard.tokenizer_sha256, shard.checksum) == (0, 0, "", "")
    shard.verify(2**32)
    check_tokenizer([shard], "ab" * 32)
    with pytest.raises(UsageError, match="does not say which id"):
        documents(shard)


def test_files_without_a_header(tmp_path):
    """nanoGPT writes uint16 with numpy's tofile, and nothing else."""
    path = tmp_path / "train.bin"
    np.array([1, 5962, 2, 65535], dtype=np.uint16).tofile(path)
    shard = Shard(path, raw_uint16=True)
    assert shard.tokens.tolist() == [1, 5962, 2, 65535] and shard.header()["format"] == "raw uint16"
    with pytest.raises(BadInput, match="found the id 65535"):
        shard.verify(32000)
    with pytest.raises(BadInput, match="expected a token shard"):
        Shard(path)
    path.write_bytes(b"abc")
    with pytest.raises(BadInput, match="found 3 bytes; expected an even number"):
        Shard(path, raw_uint16=True)
    path.write_bytes(b"")
    assert Shard(path, raw_uint16=True).token_count == 0


def test_one_process_writes_a_name(tmp_path):
    def documents_while_another_writes():
        yield from records(["3"])
        with pytest.raises(L2Error, match=r"train-\*\.bin: another process"):
            write_shards(records(["5"]), Numbers(1000), tmp_path)
        write_shards(records(["6"]), Numbers(1000), tmp_path, "val")

    (path,) = write_shards(documents_while_another_writes(), Numbers(1000), tmp_path)
    assert Shard(path).tokens.tolist() == [1, 3, 2] and Shard(tmp_path / "val-00000.bin").tokens.tolist() == [1, 6, 2]


def test_text_that_is_no_text(tokenizer, tmp_path):
    with pytest.raises(BadInput, match=r"docs\.jsonl:1: found half a surrogate pair"):
        write_shards(records(["a\ud800"]), tokenizer, tmp_path)


def test_a_long_document_is_cut_for_its_workers(tokenizer, tmp_path, monkeypatch):
    """Its ids are those of the whole, wherever it is cut."""
    monkeypatch.setattr("l2.tokens.shards.CHUNK", 50)
    texts = ["\n".join(sentences(60)), "", " " * 300, "漢字" * 100]
    (path,) = write_shards(records(texts), tokenizer, tmp_path, jobs=2)
    shard = Shard(path)
    parts = np.split(shard.tokens, documents(shard)[1:])
    assert [part.tolist() for part in parts] == [[1, *tokenizer.encode(text), 2] for text in texts]


def test_a_run_that_fails_leaves_what_was_there(tmp_path):
    before = write_shards(records(["3"] * 9), Numbers(1000), tmp_path, shard_tokens=9)
    other = [
        path
        for name in ("train-val", "trai[n]")
        for path in write_shards(records(["4"]), Numbers(1000), tmp_path, name)
    ]
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 3
    bad = [*records(["5"] * 600), Record({"text": None}, "docs.jsonl:601")]
    with pytest.raises(BadInput, match=r"docs\.jsonl:601"):
        write_shards(bad, Numbers(1000), tmp_path, shard_tokens=9)
    with pytest.raises(BadInput, match="documents: found none"):
        write_shards([], Numbers(1000), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept
    (after,) = write_shards(records(["5"]), Numbers(1000), tmp_path)  # and one that does not, replaces it
    assert set(tmp_path.iterdir()) == {after, *other, tmp_path / "tokenizer.model"}
    assert after == before[0] and Shard(after).tokens.tolist() == [1, 5, 2]


@pytest.mark.parametrize("name", ["", "a/b", "../a", "."])
def test_names_stay_in_their_directory(tmp_path, name):
    with pytest.raises(UsageError, match="without a directory"):
        write_shards(records(["3"]), Numbers(1000), tmp_path / "out", name)


def test_progress_counts_documents(tmp_path, monkeypatch):
    calls: list[tuple] = []
    monkeypatch.setattr("l2.tokens.shards.CHUNK", 100)
    write_shards(records(["3"] * 300), Numbers(1000), tmp_path, on_progress=lambda *call: calls.append(call))
    assert calls == [(100, None, ""), (200, None, ""), (300, None, "")]
