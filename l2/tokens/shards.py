"""Token shards: NAME-00000.bin, a header of 256 little-endian int32 and then the tokens (design.md §2).

Words 0-2 are llm.c's, so that its readers read ours and ours reads its files; the words behind them, which
llm.c leaves zero, say what the tokens are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import xxhash

from l2.files.atomic import atomic_file, write_atomic
from l2.files.errors import BadInput, L2Error
from l2.files.jsonl import Record
from l2.files.progress import OnProgress, ignore
from l2.tokens.tokenizer import MODEL_FILE, Tokenizer

HEADER_WORDS = 256
HEADER_BYTES = 4 * HEADER_WORDS
MAX_TOKENS = 2**31 - 1  # the count is an int32
# (magic, version, numpy type) of the two llm.c formats.
FORMATS = {2: (20240520, 1, np.dtype("<u2")), 4: (20240801, 7, np.dtype("<u4"))}
OUR_VERSION = 1
# Our words: version, bytes a token, documents, BOS id, vocabulary size, SHA-256 of tokenizer.model, xxh3_64 of tokens.
W_VERSION, W_BYTES, W_DOCUMENTS, W_BOS, W_VOCAB, W_TOKENIZER, W_CHECKSUM = 3, 4, 5, 6, 7, 8, 16
BATCH = 256  # documents encoded at once


@dataclass(frozen=True)
class Shard:
    """An opened shard. `tokens` is mapped, not read; a llm.c file has an empty `tokenizer_sha256` and `checksum`."""

    path: Path
    tokens: np.ndarray
    documents: int
    vocab_size: int
    tokenizer_sha256: str
    checksum: str

    def __init__(self, path: str | Path) -> None:
        """Open and check the header against the file's size. Raises L2Error when missing, BadInput when broken."""
        path = Path(path)
        if not path.is_file():
            raise L2Error(f"{path}: no such file")
        size = path.stat().st_size
        words = np.fromfile(path, "<i4", HEADER_WORDS)
        form = next((f for f in FORMATS.values() if len(words) == HEADER_WORDS and tuple(words[:2]) == f[:2]), None)
        if form is None:
            raise BadInput(str(path), f"a file that starts with {words[:2].tolist()}", "a token shard (.bin)")
        count, dtype = int(words[2]), form[2]
        expected = HEADER_BYTES + count * dtype.itemsize
        if size != expected:
            raise BadInput(str(path), f"{size:,} bytes", f"{expected:,} for the {count:,} tokens its header counts")
        ours = int(words[W_VERSION]) == OUR_VERSION
        tokens = np.memmap(path, dtype, "r", HEADER_BYTES, (count,)) if count else np.empty(0, dtype)
        values = {
            "path": path,
            "tokens": tokens,
            "documents": int(words[W_DOCUMENTS]),
            "vocab_size": int(words[W_VOCAB]),
            "tokenizer_sha256": words[W_TOKENIZER : W_TOKENIZER + 8].tobytes().hex() if ours else "",
            "checksum": words[W_CHECKSUM : W_CHECKSUM + 2].tobytes().hex() if ours else "",
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def token_count(self) -> int:
        """How many tokens it holds."""
        return len(self.tokens)

    def verify(self) -> None:
        """Read all tokens and compare their checksum with the header's. Raises BadInput when they differ."""
        found = checksum_of(self.tokens)
        if self.checksum and found != self.checksum:
            raise BadInput(str(self.path), f"tokens with checksum {found}", f"{self.checksum}, as its header says")


def checksum_of(tokens: np.ndarray) -> str:
    """xxh3_64 of the tokens' bytes, as 16 hex digits."""
    return xxhash.xxh3_64(np.ascontiguousarray(tokens).data).digest()[::-1].hex()


def check_tokenizer(shards: Sequence[Shard], sha256: str) -> None:
    """Raises BadInput for a shard that another tokenizer made."""
    for shard in shards:
        if shard.tokenizer_sha256 and shard.tokenizer_sha256 != sha256:
            found = f"tokens of the tokenizer {shard.tokenizer_sha256[:12]}"
            raise BadInput(str(shard.path), found, f"those of {sha256[:12]}, the tokenizer in use")


def _header(tokens: np.ndarray, documents: int, tokenizer: Tokenizer) -> bytes:
    magic, version, _ = FORMATS[tokens.dtype.itemsize]
    words = np.zeros(HEADER_WORDS, "<i4")
    words[:3] = magic, version, len(tokens)
    words[W_VERSION : W_VOCAB + 1] = (
        OUR_VERSION,
        tokens.dtype.itemsize,
        documents,
        tokenizer.bos_id,
        tokenizer.vocab_size,
    )
    words[W_TOKENIZER : W_TOKENIZER + 8] = np.frombuffer(bytes.fromhex(tokenizer.sha256), "<i4")
    words[W_CHECKSUM : W_CHECKSUM + 2] = np.frombuffer(bytes.fromhex(checksum_of(tokens)), "<i4")
    return words.tobytes()


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

    A document is never split: a shard ends before the one that would take it past `shard_tokens`. The
    same bytes for any `threads`. tokenizer.model is put beside the shards; older shards of that name that
    this run did not write are removed.
    """
    out = Path(out)
    size = 2 if tokenizer.vocab_size <= 2**16 else 4
    dtype = FORMATS[size][2]
    paths: list[Path] = []
    held: list[np.ndarray] = []
    count = done = 0

    def flush() -> None:
        nonlocal count
        path = out / f"{name}-{len(paths):05d}.bin"
        tokens = np.concatenate(held)
        with atomic_file(path) as f:
            f.write(_header(tokens, len(held), tokenizer))
            f.write(tokens.tobytes())
        paths.append(path)
        held.clear()
        count = 0

    records = iter(documents)
    while batch := list(islice(records, BATCH)):
        texts = [record.need("text") for record in batch]
        for record, ids in zip(batch, tokenizer.encode_batch(texts, threads), strict=True):
            if len(ids) + 2 > MAX_TOKENS:
                raise BadInput(record.where, f"a document of {len(ids):,} tokens", f"at most {MAX_TOKENS - 2:,}")
            if held and count + len(ids) + 2 > min(shard_tokens, MAX_TOKENS):
                flush()
            held.append(np.array([tokenizer.bos_id, *ids, tokenizer.eos_id], dtype))
            count += len(ids) + 2
        done += len(batch)
        on_progress(done, None, "")
    flush()
    for old in set(out.glob(f"{name}-[0-9][0-9][0-9][0-9][0-9].bin")) - set(paths):
        old.unlink()
    write_atomic(out / MODEL_FILE, tokenizer.model_bytes)
    return paths
