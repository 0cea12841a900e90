"""Token shards: NAME-00000.bin, a header of 256 little-endian int32 and then the tokens (design.md §2).

Words 0-2 are llm.c's, so that its readers read ours and ours reads its files; the words behind them, which
llm.c leaves zero, say what the tokens are.
"""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from l2.files.atomic import atomic_file, write_atomic
from l2.files.errors import BadInput, L2Error, UsageError
from l2.files.jsonl import Record
from l2.files.progress import OnProgress, ignore
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
BATCH = 256  # documents encoded at once


class Shard:
    """An opened shard. `tokens` [token_count] is mapped, not read.

    A file of llm.c says nothing of its origin: `documents`, `bos_id` and `vocab_size` are 0, the hashes empty.
    """

    def __init__(self, path: str | Path) -> None:
        """Check the header against the file's size. Raises L2Error when the file is missing, BadInput when broken."""
        self.path = Path(path)
        if not self.path.is_file():
            raise L2Error(f"{path}: no such file")
        words = np.fromfile(self.path, "<i4", HEADER_WORDS)
        dtype = next((dtype for *form, dtype in FORMATS.values() if words[:2].tolist() == form), None)
        if dtype is None or len(words) < HEADER_WORDS:
            found = f"a file of {self.path.stat().st_size:,} bytes that starts with {words[:2].tolist()}"
            raise BadInput(str(path), found, "a token shard (.bin)")
        version, count = int(words[W_VERSION]), int(words[2])
        if version not in (0, OUR_VERSION):
            raise BadInput(str(path), f"header version {version}", f"{OUR_VERSION}; a newer l2 wrote it")
        size, expected = self.path.stat().st_size, HEADER_BYTES + count * dtype.itemsize
        if size != expected:
            cut = " (truncated)" if size < expected else ""
            raise BadInput(str(path), f"{size:,} bytes{cut}", f"{expected:,} for the {count:,} tokens in its header")
        self.token_count = count
        self.documents, self.bos_id, self.vocab_size = (int(words[w]) for w in (W_DOCUMENTS, W_BOS, W_VOCAB))
        self.tokenizer_sha256 = words[W_TOKENIZER].tobytes().hex() if version else ""
        self.checksum = words[W_CHECKSUM].tobytes()[::-1].hex() if version else ""
        # An empty range of a file can't be mapped.
        self.tokens: np.ndarray = (
            np.memmap(self.path, dtype, "r", HEADER_BYTES, (count,)) if count else np.empty(0, dtype)
        )

    def verify(self, vocab_size: int) -> str:
        """Read all tokens; returns their checksum.

        Raises BadInput when it differs from the header's, where there is one, and for an id beyond the vocabulary.
        """
        found = checksum_of(self.tokens)
        if self.checksum and found != self.checksum:
            raise BadInput(str(self.path), f"tokens with checksum {found}", f"{self.checksum}, as in its header")
        if (highest := int(self.tokens.max(initial=0))) >= vocab_size:
            raise BadInput(str(self.path), f"the id {highest}", f"ids of a tokenizer of {vocab_size:,} pieces")
        return found


def documents(shard: Shard) -> np.ndarray:
    """Where each document starts in `shard.tokens`, int64 [documents]. Raises UsageError for a file of llm.c."""
    if not shard.bos_id:
        raise UsageError(f"{shard.path}: its header does not say which id starts a document")
    return np.flatnonzero(shard.tokens == shard.bos_id)


def checksum_of(tokens: np.ndarray) -> str:
    """xxh3_64 of the tokens' bytes, as 16 hex digits."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(tokens).data)


def check_tokenizer(shards: Sequence[Shard], sha256: str) -> None:
    """Raises BadInput for a shard that another tokenizer made."""
    for shard in shards:
        if shard.tokenizer_sha256 and shard.tokenizer_sha256 != sha256:
            found = f"tokens of the tokenizer {shard.tokenizer_sha256[:12]}"
            raise BadInput(str(shard.path), found, f"those of {sha256[:12]}, the tokenizer in use")


def _header(tokens: np.ndarray, documents: int, tokenizer: Tokenizer) -> bytes:
    size = tokens.dtype.itemsize
    magic, version, _ = FORMATS[size]
    words = np.zeros(HEADER_WORDS, "<i4")
    words[:3] = magic, version, len(tokens)
    words[W_VERSION], words[W_BYTES], words[W_DOCUMENTS] = OUR_VERSION, size, documents
    words[W_BOS], words[W_VOCAB] = tokenizer.bos_id, tokenizer.vocab_size
    words[W_TOKENIZER] = np.frombuffer(bytes.fromhex(tokenizer.sha256), "<i4")
    words[W_CHECKSUM] = np.frombuffer(bytes.fromhex(checksum_of(tokens))[::-1], "<i4")
    return words.tobytes()


def _write_shard(path: Path, held: Sequence[np.ndarray], tokenizer: Tokenizer) -> Path:
    tokens = np.concatenate(held)
    with atomic_file(path) as f:
        f.write(_header(tokens, len(held), tokenizer))
        f.write(tokens.data)
    return path


def _encode(
    documents: Iterable[Record], tokenizer: Tokenizer, threads: int, on_progress: OnProgress
) -> Iterable[np.ndarray]:
    """BOS, tokens, EOS of each document."""
    dtype = FORMATS[2 if tokenizer.vocab_size <= 2**16 else 4][2]
    records, done = iter(documents), 0
    while batch := list(islice(records, BATCH)):
        encoded = tokenizer.encode_batch([record.need("text") for record in batch], threads)
        for record, ids in zip(batch, encoded, strict=True):
            if len(ids) + 2 > MAX_TOKENS:
                raise BadInput(record.where, f"a document of {len(ids):,} tokens", f"at most {MAX_TOKENS - 2:,}")
            yield np.array([tokenizer.bos_id, *ids, tokenizer.eos_id], dtype)
        done += len(batch)
        on_progress(done, None, "")


def write_shards(
    documents: Iterable[Record],
    tokenizer: Tokenizer,
    out: str | Path,
    name: str = "train",
    *,
    shard_tokens: int = 100_000_000,
    threads: int = 1,
    on_progress: OnProgress = ignore,
) -> list[Path]:
    """Encode documents (BOS, tokens, EOS each) into OUT/NAME-00000.bin, ...; returns the paths.

    A document is never split: a shard ends before the one that would take it past `shard_tokens`, and a document
    longer than that has a shard of its own. The same bytes for any `threads`. Shards appear once the last is written,
    -00000 after all others, in the place of all older ones of that name; tokenizer.model is put beside them.
    Raises BadInput for a document without text and when there is none at all.
    """
    out, limit = Path(out), min(shard_tokens, MAX_TOKENS)
    if not name or Path(name).name != name:
        raise UsageError(f"shards can't be named {name!r}: give a file name without a directory")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as partial:
        written: list[Path] = []
        held: list[np.ndarray] = []
        count = 0
        for tokens in _encode(documents, tokenizer, threads, on_progress):
            if held and count + len(tokens) > limit:
                written.append(_write_shard(Path(partial, f"{name}-{len(written):05d}.bin"), held, tokenizer))
                held, count = [], 0
            held.append(tokens)
            count += len(tokens)
        if not held:
            raise BadInput("documents", "none", "at least one to tokenize")
        written.append(_write_shard(Path(partial, f"{name}-{len(written):05d}.bin"), held, tokenizer))
        for old in out.glob(f"{glob.escape(name)}-[0-9][0-9][0-9][0-9][0-9].bin"):
            old.unlink()
        write_atomic(out / MODEL_FILE, tokenizer.model_bytes)
        paths = [out / path.name for path in written]
        for path, final in reversed(list(zip(written, paths, strict=True))):
            os.replace(path, final)  # the first is the last to appear: where it is, all are
    return paths
