"""SentencePiece's ids, word by word through a bounded cache: the same ids, several times as fast (ours).

BPE does nothing but join neighbours into longer pieces. Where no piece holds two characters side by side, nothing is
ever joined across them: a text may be cut there, and its ids are those of its parts, one after another. In Llama's
vocabularies no piece holds a newline beside anything, nor anything but a space before a space. So a text is cut into
its newlines and its words, each with the spaces before it, and most words have been seen before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import sentencepiece

SPACE = "\u2581"  # what stands for a space in pieces; in text it is one
# A normalizer_spec with add_dummy_prefix false: a message that follows another is merged into it.
NO_PREFIX = b"\x1a\x02\x18\x00"
LONGEST = 48  # characters of a word that is worth remembering
GENERATION = 2**19  # words; two generations are held, of about 150 bytes a word: 160 MB at most
BPE, NORMAL = 2, 1  # TrainerSpec.ModelType, SentencePiece.Type
PLAIN_KINDS = {NORMAL, 2, 3, 6}  # normal, unknown, control, byte: not user-defined, not unused


class Encoder(Protocol):
    """Texts to the bytes of their ids, by way of parts that may be encoded apart."""

    def parts(self, text: str, length: int) -> Iterator[str]:
        """`text` in parts of about `length` characters at least, for `encode`; one for an empty text."""

    def encode(self, part: str) -> bytes:
        """The ids of a part of `parts`, without BOS and EOS."""


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protobuf message, in order: integers, or the bytes of anything else."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
        else:
            size, at = _varint(message, at) if key & 7 == 2 else ({1: 8, 5: 4}.get(key & 7, 0), at)
            yield key >> 3, message[at : at + size]
            at += size


@dataclass(frozen=True)
class Rules:
    """What a tokenizer.model says of itself that decides where a text may be cut."""

    prefix: bool  # a space is put before every text (add_dummy_prefix)
    pairs: frozenset[str]  # every two characters that stand side by side in a piece, SPACE as a space
    why_plain: str | None  # the reason for which cutting is not known to be exact


def read_rules(model_bytes: bytes) -> Rules:
    """Read a valid tokenizer.model (sentencepiece_model.proto names the fields by these numbers)."""
    model: dict[int, list[Any]] = {1: [], 2: [], 3: []}
    for number, value in fields(model_bytes):
        model.setdefault(number, []).append(value)
    trainer, normalizer = (dict(fields(b"".join(model[number]))) for number in (2, 3))
    pieces = [{3: NORMAL, **dict(fields(piece))} for piece in model[1]]
    texts = [str(piece.get(1, b""), "utf-8", "replace").replace(SPACE, " ") for piece in pieces if piece[3] == NORMAL]
    pairs = frozenset(a + b for text in texts for a, b in pairwise(text))
    known = (
        (trainer.get(3) == BPE, "it is not BPE"),
        (trainer.get(35), "it has no byte fallback"),
        (not trainer.get(24), "its spaces end words"),
        (not normalizer.get(2), "it normalises text"),
        (not normalizer.get(4, True), "it removes spaces"),
        (normalizer.get(5, True), "its spaces stay spaces"),
        ({piece[3] for piece in pieces} <= PLAIN_KINDS, "it has user-defined or unused pieces"),
        (not any(pair[1] == " " != pair[0] for pair in pairs), "a piece reaches into the next word"),
        (not any("\n" in pair for pair in pairs), "a piece holds a newline"),
    )
    why_plain = next((reason for holds, reason in known if not holds), None)
    return Rules(bool(normalizer.get(3, True)), pairs, why_plain)


class PlainEncoder:
    """SentencePiece as it is: each text whole."""

    def __init__(self, model_bytes: bytes, dtype: np.dtype[Any]) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        self._dtype = dtype

    def parts(self, text: str, length: int) -> Iterator[str]:
        """The text: it can't be cut."""
        yield text

    def encode(self, part: str) -> bytes:
        """The ids of a text."""
        return np.asarray(self._pieces.encode(part), self._dtype).tobytes()


class CachedEncoder:
    """The same ids for a model whose `Rules.why_plain` is None."""

    def __init__(self, model_bytes: bytes, dtype: np.dtype[Any], rules: Rules) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model_bytes + NO_PREFIX)
        self._rules, self._dtype = rules, dtype
        self._newline = self._pieces.encode("\n")[0]
        self._always = {"": b"", "\n": np.asarray([self._newline], dtype).tobytes()}
        # Words that were met since the last turn, and those of the turn before it.
        self._young: dict[str, bytes] = dict(self._always)
        self._old: dict[str, bytes] = {}

    def parts(self, text: str, length: int) -> Iterator[str]:
        """Cut `text` where no piece can reach across; a run without such a place stays whole."""
        text = (" " + text if self._rules.prefix and text else text).replace(SPACE, " ")
        start = 0
        while len(text) - start > length:
            end = start + length
            while end < len(text) and text[end - 1 : end + 1] in self._rules.pairs:
                end += 1
            yield text[start:end]
            start = end
        if start < len(text) or not text:
            yield text[start:]

    def encode(self, part: str) -> bytes:
        """The ids of a part. Memory grows with its length and the cache's bound."""
        mark = next(c for c in map(chr, range(0x110000)) if c not in part)  # surrogates are in no valid text
        spaced = part.replace(" ", mark + " ").replace(" " + mark, " ")  # a mark before each run of spaces
        return self._join(spaced.replace("\n", f"{mark}\n{mark}").split(mark))

    def _join(self, words: list[str]) -> bytes:
        ids = list(map(self._young.get, words))
        try:
            return b"".join(ids)  # type: ignore[arg-type]
        except TypeError:  # None: a word that is new
            fresh = self._learn({word for word, known in zip(words, ids, strict=True) if known is None})
            return b"".join(fresh[word] if known is None else known for word, known in zip(words, ids, strict=True))

    def _learn(self, words: set[str]) -> dict[str, bytes]:
        """The ids of words that `_young` lacks; it has the short ones from now on."""
        fresh = {word: self._old[word] for word in words if word in self._old}
        new = [word for word in words if word not in fresh and len(word) <= LONGEST]
        if new:
            fresh |= zip(new, self._spell(new), strict=True)
        if len(self._young) + len(fresh) > GENERATION:
            self._old, self._young = self._young, dict(self._always)
        self._young |= fresh
        for word in words:
            if len(word) > LONGEST:
                fresh[word] = self._long(word)
        return fresh

    def _long(self, word: str) -> bytes:
        """A long word, of a script without spaces perhaps, cut wherever it may be."""
        cuts = [i for i in range(1, len(word)) if word[i - 1 : i + 1] not in self._rules.pairs]
        return self._join([word[a:b] for a, b in pairwise([0, *cuts, len(word)])]) if cuts else self._spell([word])[0]

    def _spell(self, words: Iterable[str]) -> list[bytes]:
        """What SentencePiece says of each word: one call, with newlines between them."""
        ids = self._pieces.encode("\n".join(words), return_type="numpy")
        ends, size, data = np.flatnonzero(ids == self._newline), self._dtype.itemsize, ids.astype(self._dtype).tobytes()
        edges = [-1, *ends.tolist(), len(ids)]
        return [data[(a + 1) * size : b * size] for a, b in pairwise(edges)]


def make_encoder(model_bytes: bytes, dtype: np.dtype[Any]) -> Encoder:
    """The fastest encoder that is exact for this model; its ids come as `dtype`."""
    rules = read_rules(model_bytes)
    return PlainEncoder(model_bytes, dtype) if rules.why_plain else CachedEncoder(model_bytes, dtype, rules)
