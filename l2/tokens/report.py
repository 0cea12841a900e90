"""What a tokenizer makes of a text, by source: how tight, how often it spells bytes, whether the text comes back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from l2.tokens.sample import Line
from l2.tokens.tokenizer import Tokenizer

COUNTS = ("lines", "characters", "bytes", "tokens", "byte_tokens", "round_trips")
DIGITS = frozenset("0123456789")
TOKEN = np.dtype("<u4")


def digits_are_split(tokenizer: Tokenizer) -> bool:
    """Whether no piece holds a digit beside anything (paper §2.2)."""
    pieces = (piece for i, (piece, _) in enumerate(tokenizer.pieces()) if not tokenizer.is_byte(i))
    return not any(len(piece) > 1 and not DIGITS.isdisjoint(piece) for piece in pieces)


def measure_tokenizer(tokenizer: Tokenizer, lines: Iterable[Line]) -> dict[str, Any]:
    """How `tokenizer` encodes lines: {pieces, sha256, digits_split, all, sources {name: ...}}.

    all and each source: counts of lines, characters, bytes, tokens, byte_tokens (of characters that no piece has) and
    round_trips (lines that decode to themselves), characters_per_token, bytes_per_token, and byte_rate, the share of
    byte_tokens.
    """
    encoder = tokenizer.encoder(TOKEN)
    is_byte = np.array([tokenizer.is_byte(i) for i in range(tokenizer.vocab_size)])
    sources: dict[str, np.ndarray] = {}
    for source, text in lines:
        ids = np.frombuffer(b"".join(map(encoder.encode, encoder.parts(text, len(text) + 1))), TOKEN)
        round_trip = tokenizer.decode(ids.tolist()) == text
        found = 1, len(text), len(text.encode()), len(ids), int(is_byte[ids].sum()), round_trip
        sources.setdefault(source, np.zeros(len(COUNTS), np.int64))
        sources[source] += found
    return {
        "pieces": tokenizer.vocab_size,
        "sha256": tokenizer.sha256,
        "digits_split": digits_are_split(tokenizer),
        "all": _rates(sum(sources.values(), np.zeros(len(COUNTS), np.int64))),
        "sources": {name: _rates(sources[name]) for name in sorted(sources)},
    }


def _rates(counts: np.ndarray) -> dict[str, float]:
    row = dict(zip(COUNTS, counts.tolist(), strict=True))
    tokens = max(1, row["tokens"])
    return row | {
        "characters_per_token": row["characters"] / tokens,
        "bytes_per_token": row["bytes"] / tokens,
        "byte_rate": row["byte_tokens"] / tokens,
    }
