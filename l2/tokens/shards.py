"""Token shards: NAME-00000.bin, a header of 256 little-endian int32 and then the tokens (design.md §2).

Words 0-2 are llm.c's, so that its readers read ours and ours reads its files; the words behind them, which
llm.c leaves zero, say what the tokens are.
"""

from __future__ import annotations

import fcntl
import functools
import glob
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash

from l2.files.atomic import write_atomic
from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.jsonl import Record, shown_name
from l2.files.parallel import ordered_map
from l2.files.progress import OnProgress, ignore
from l2.tokens.cached import Encoder
from l2.tokens.tokenizer import MODEL_FILE, Tokenizer

HEADER_WORDS = 256
HEADER_BYTES = 4 * HEADER_WORDS
MAX_TOKENS = 2**31 - 1  # the count is an int32
# Bytes a token: (magic, version, numpy type) of the two llm.c formats, in words 0 and 1. Word 2 counts the tokens.
FORMATS: dict[int, tuple[int, int, np.dtype[Any]]] = {
    2: (20240520, 1, np.dtype("<u2")),
    4: (20240801, 7, np.dtype("<u4")),
}
W_VERSION = 3  # of the words from here on: OUR_VERSION, or 0 in a file of llm.c
W_BYTES = 4  # bytes a token
W_DOCUMENTS = 5  # how many
W_BOS = 6  # the id that starts each of them
W_VOCAB = 7  # vocabulary size
W_TOKENIZER = slice(8, 16)  # SHA-256 of tokenizer.model
W_CHECKSUM = slice(16, 18)  # xxh3_64 of the tokens' bytes
OUR_VERSION = 1
CHUNK = 2**18  # characters encoded at once
VERIFIED = 2**22  # tokens read at once


class Shard:
    """An opened shard. `tokens` [token_count] is mapped, not read.

    A file of llm.c, or a raw one, says nothing of its origin: `documents`, `bos_id` and `vocab_size` are 0, the
    hashes empty.
    """

    def __init__(self, path: str | Path, raw_uint16: bool = False) -> None:
        """Check the header against the file's size; `raw_uint16`: there is none, as in files of nanoGPT and llama2.c.

        Raises L2Error when the file is missing, BadInput when it is broken.
        """
        self.path = Path(path)
        if self.path.is_dir():
            raise UsageError(f"{path}: a directory; name the shards in it, as in {path}/*.bin")
        if not self.path.is_file():
            raise L2Error(f"{path}: no such file")
        size = self.path.stat().st_size
        if raw_uint16:
            if self._type_of(np.fromfile(self.path, "<i4", 2)) is not None:
                raise UsageError(f"{path}: it has a header, so that --raw-uint16 is wrong")
            self.format, words, dtype, start = "raw uint16", np.zeros(HEADER_WORDS, "<i4"), FORMATS[2][2], 0
            count, odd = divmod(size, 2)
            if odd:
                raise BadInput(str(path), f"{size:,} bytes", "an even number of them, two a token")
        else:
            words = np.fromfile(self.path, "<i4", HEADER_WORDS)
            dtype, start, count = self._check(words, size), HEADER_BYTES, int(words[2])
            self.format = "l2" if words[W_VERSION] else "llm.c"
        ours = self.format == "l2"
        self.token_count = count
        self.documents, self.bos_id, self.vocab_size = (int(words[w]) for w in (W_DOCUMENTS, W_BOS, W_VOCAB))
        self.tokenizer_sha256 = words[W_TOKENIZER].tobytes().hex() if ours else ""
        self.checksum = words[W_CHECKSUM].tobytes()[::-1].hex() if ours else ""
        self._start = start
        # An empty range of a file can't be mapped.
        self.tokens: np.ndarray = np.memmap(self.path, dtype, "r", start, (count,)) if count else np.empty(0, dtype)

    @staticmethod
    def _type_of(words: np.ndarray) -> np.dtype[Any] | None:
        """The tokens' type by the first two words of a file, None where they start no header."""
        return next((dtype for *form, dtype in FORMATS.values() if words[:2].tolist() == form), None)

    def _check(self, words: np.ndarray, size: int) -> np.dtype[Any]:
        """The tokens' type, of a file of `size` bytes with the header `words`."""
        dtype = self._type_of(words)
        if dtype is None or len(words) < HEADER_WORDS:
            found = f"a file of {size:,} bytes that starts with {words[:2].tolist()}"
            raise BadInput(str(self.path), found, "a token shard (.bin)")
        version, count = int(words[W_VERSION]), int(words[2])
        if version not in (0, OUR_VERSION):
            raise BadInput(str(self.path), f"header version {version}", f"{OUR_VERSION}; a newer l2 wrote it")
        if size != (expected := HEADER_BYTES + count * dtype.itemsize):
            cut = " (truncated)" if size < expected else ""
            found = f"{size:,} bytes{cut}"
            raise BadInput(str(self.path), found, f"{expected:,} for the {count:,} tokens in its header")
        return dtype

    def header(self) -> dict[str, Any]:
        """What the file says of itself, for people and JSON; what it does not say is None."""
        return {
            "path": shown_name(str(self.path)),
            "format": self.format,
            "dtype": self.tokens.dtype.name,
            "tokens": self.token_count,
            "documents": self.documents or None,
            "bos_id": self.bos_id or None,
            "vocab_size": self.vocab_size or None,
            "tokenizer_sha256": self.tokenizer_sha256 or None,
            "checksum": self.checksum or None,
        }

    def excerpt(self, tokenizer: Tokenizer, first: int, last: int) -> dict[str, Any]:
        """Tokens `first` to `last` (excluded): {range, ids, texts}, a text for each document they touch.

        Raises UsageError for a range that holds none.
        """
        if not 0 <= first < min(last, self.token_count):
            raise UsageError(f"{self.path}: no tokens {first:,} to {last:,}, of {self.token_count:,}")
        ids = self.tokens[first:last].astype(np.int64)
        starts = np.flatnonzero(ids == tokenizer.bos_id)
        texts = [tokenizer.decode(part.tolist()) for part in np.split(ids, starts[starts > 0])]
        return {"range": [first, first + len(ids)], "ids": ids.tolist(), "texts": texts}

    def read(self, first: int, last: int) -> np.ndarray:
        """Tokens `first` to `last` (excluded), or to the end. Read, not mapped: a walk through them takes no memory."""
        count = min(last, self.token_count) - first
        return np.fromfile(self.path, self.tokens.dtype, count, offset=self._start + first * self.tokens.itemsize)

    def verify(self, vocab_size: int) -> str:
        """Read all tokens; returns their checksum.

        Raises BadInput when it differs from the header's, where there is one, and for an id beyond the vocabulary.
        """
        digest, highest = xxhash.xxh3_64(), 0
        for first in range(0, self.token_count, VERIFIED):
            part = self.read(first, first + VERIFIED)
            digest.update(part.data)
            highest = max(highest, int(part.max()))
        found = digest.hexdigest()
        if self.checksum and found != self.checksum:
            raise BadInput(str(self.path), f"tokens with checksum {found}", f"{self.checksum}, as in its header")
        if highest >= vocab_size:
            raise BadInput(str(self.path), f"the id {highest}", f"ids of a tokenizer of {vocab_size:,} pieces")
        return found


def documents(shard: Shard) -> np.ndarray:
    """Where each document starts in `shard.tokens`, int64 [documents]. Raises UsageError for a file of llm.c."""
    if not shard.bos_id:
        raise UsageError(f"{shard.path}: its header does not say which id starts a document")
    return np.flatnonzero(shard.tokens == shard.bos_id)


def check_tokenizer(shards: Sequence[Shard], sha256: str) -> None:
    """Raises BadInput for a shard that another tokenizer made."""
    for shard in shards:
        if shard.tokenizer_sha256 and shard.tokenizer_sha256 != sha256:
            found = f"tokens of the tokenizer {shard.tokenizer_sha256[:12]}"
            raise BadInput(str(shard.path), found, f"those of {sha256[:12]}, the tokenizer in use")


# What a worker is given, and what it gives back: parts of texts, or their ids. The last part of a document brings where
# the document came from.
Texts = list[tuple[str, str | None]]
Ids = list[tuple[bytes, str | None]]


class _EncodeChunk:
    """Texts to ids: what each process does."""

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype[Any]) -> None:
        self._encoder = tokenizer.encoder(dtype)

    def __call__(self, chunk: Texts) -> Ids:
        return [(self._encoder.encode(part), where) for part, where in chunk]


def _chunks(documents: Iterable[Record], encoder: Encoder) -> Iterator[Texts]:
    """The texts of documents, cut and gathered to about CHUNK characters."""
    chunk: Texts = []
    size = 0
    for record in documents:
        *heads, tail = encoder.parts(_text(record), CHUNK)
        for part, where in [*((head, None) for head in heads), (tail, record.where)]:
            chunk.append((part, where))
            size += len(part)
            if size >= CHUNK:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def _text(record: Record) -> str:
    text: str = record.need("text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(record.where, "half a surrogate pair in 'text'", "text that UTF-8 can hold") from None
    return text


def _encode(
    documents: Iterable[Record], tokenizer: Tokenizer, dtype: np.dtype[Any], jobs: int, on_progress: OnProgress
) -> Iterator[list[bytes]]:
    """BOS, tokens, EOS of each document, in pieces."""
    bos, eos = (np.asarray([i], dtype).tobytes() for i in (tokenizer.bos_id, tokenizer.eos_id))
    make = functools.partial(_EncodeChunk, tokenizer, dtype)
    document, done = [bos], 0
    for chunk in ordered_map(make, _chunks(documents, tokenizer.encoder(dtype)), jobs):
        for ids, where in chunk:
            document.append(ids)
            if where is not None:
                document.append(eos)
                if (count := sum(map(len, document)) // dtype.itemsize) > MAX_TOKENS:
                    raise BadInput(where, f"a document of {count - 2:,} tokens", f"at most {MAX_TOKENS - 2:,}")
                yield document
                document, done = [bos], done + 1
        on_progress(done, None, "")


class _Writer:
    """Shards NAME-00000.bin, ... in a directory, token by token; the header comes last."""

    def __init__(self, directory: Path, name: str, tokenizer: Tokenizer, dtype: np.dtype[Any], limit: int) -> None:
        self._directory, self._name, self._limit = directory, name, limit
        self._tokenizer, self._dtype = tokenizer, dtype
        self.written: list[Path] = []
        self._file: BinaryIO | None = None
        self._tokens = self._documents = 0
        self._hash = xxhash.xxh3_64()

    def add(self, document: list[bytes]) -> None:
        """Append a document; to the next shard when it does not fit into this one."""
        count = sum(map(len, document)) // self._dtype.itemsize
        if self._file and self._tokens + count > self._limit:
            self.close()
        if self._file is None:
            self._file = open(self._directory / f"{self._name}-{len(self.written):05d}.bin", "wb")  # noqa: SIM115
            self._file.write(bytes(HEADER_BYTES))
            self._tokens = self._documents = 0
            self._hash.reset()
        for ids in document:
            self._file.write(ids)
            self._hash.update(ids)
        self._tokens += count
        self._documents += 1

    def close(self) -> None:
        """End the shard that is open."""
        if self._file is None:
            return
        with self._file as f:
            f.seek(0)
            f.write(self._header())
            f.flush()
            os.fsync(f.fileno())
        self.written.append(Path(f.name))
        self._file = None

    def _header(self) -> bytes:
        size = self._dtype.itemsize
        magic, version, _ = FORMATS[size]
        words = np.zeros(HEADER_WORDS, "<i4")
        words[:3] = magic, version, self._tokens
        words[W_VERSION], words[W_BYTES], words[W_DOCUMENTS] = OUR_VERSION, size, self._documents
        words[W_BOS], words[W_VOCAB] = self._tokenizer.bos_id, self._tokenizer.vocab_size
        words[W_TOKENIZER] = np.frombuffer(bytes.fromhex(self._tokenizer.sha256), "<i4")
        words[W_CHECKSUM] = np.frombuffer(self._hash.digest()[::-1], "<i4")
        return words.tobytes()


def _check_name(name: str) -> None:
    if not name or Path(name).name != name or name == "..":
        raise UsageError(f"shards can't be named {name!r}: give a file name without a directory")


def shards_named(out: str | Path, name: str) -> list[Path]:
    """OUT/NAME-00000.bin and on, those that are there, in order. Raises UsageError for a name that is no file's."""
    _check_name(name)
    return sorted(Path(out).glob(f"{glob.escape(name)}-[0-9][0-9][0-9][0-9][0-9].bin"))


@contextmanager
def _partial_directory(out: Path, name: str) -> Iterator[Path]:
    """Where shards grow until all are whole. What a killed run left there is removed.

    Raises L2Error while another process writes shards of that name to `out`.
    """
    path = out / f".{name}.partial"
    path.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise L2Error(f"{out}/{name}-*.bin: another process is writing them") from None
        for left in path.iterdir():
            left.unlink()
        try:
            yield path
        finally:
            shutil.rmtree(path)
    finally:
        os.close(lock)


def write_shards(
    documents: Iterable[Record],
    tokenizer: Tokenizer,
    out: str | Path,
    name: str = "train",
    *,
    shard_tokens: int = 100_000_000,
    jobs: int = 1,
    on_progress: OnProgress = ignore,
) -> list[Path]:
    """Encode documents (BOS, tokens, EOS each) into OUT/NAME-00000.bin, ...; returns the paths.

    A document is never split: a shard ends before the one that would take it past `shard_tokens`, and a document
    longer than that has a shard of its own. `jobs` processes encode, and one writes: the same bytes for any number.
    Memory: the longest document, its tokens, and about 200 MB a job. Shards appear once the last is written, -00000
    after all others, in the place of all older ones of that name; tokenizer.model is put beside them.
    Raises BadInput for a document without text and when there is none at all.
    """
    out, limit = Path(out), min(shard_tokens, MAX_TOKENS)
    _check_name(name)
    dtype = FORMATS[2 if tokenizer.vocab_size <= 2**16 else 4][2]
    with _partial_directory(out, name) as partial:
        writer = _Writer(partial, name, tokenizer, dtype, limit)
        for document in _encode(documents, tokenizer, dtype, jobs, on_progress):
            writer.add(document)
        writer.close()
        if not writer.written:
            raise BadInput("documents", "none", "at least one to tokenize")
        for old in shards_named(out, name):
            old.unlink()
        write_atomic(out / MODEL_FILE, tokenizer.model_bytes)
        paths = [out / path.name for path in writer.written]
        for path, final in reversed(list(zip(writer.written, paths, strict=True))):
            os.replace(path, final)  # the first is the last to appear: where it is, all are
    return paths
