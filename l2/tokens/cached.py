"""SentencePiece's ids, word by word through a bounded cache: the same ids, several times as fast (ours).

BPE does nothing but join neighbours into longer pieces. Where no piece holds two characters side by side, nothing is
ever joined across them: a text may be cut there, and its ids are those of its parts, one after another. In Llama's
vocabularies no piece holds a newline beside anything, nor anything but a space before a space. So a text is cut into
its newlines and its words, each with the spaces before it, and most words have been seen before.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
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


@lru_cache(maxsize=4)
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


class Words(dict[str, bytes]):
    """The ids of words, found out when they are first asked for."""

    def __init__(self, model_bytes: bytes, dtype: np.dtype[Any], pairs: frozenset[str]) -> None:
        """`pairs` as in `Rules`."""
        self._encode = sentencepiece.SentencePieceProcessor(model_proto=model_bytes + NO_PREFIX).encode
        self._code, self._pairs = dtype.char, pairs
        self._old: dict[str, bytes] = {}

    def __missing__(self, word: str) -> bytes:
        if len(word) > LONGEST:
            return self._long(word)
        self[word] = ids = self._old.get(word) or self._spell(word)
        return ids

    def _spell(self, word: str) -> bytes:
        return array(self._code, self._encode(word)).tobytes()

    def _long(self, word: str) -> bytes:
        """A long word, of a script without spaces perhaps, cut wherever it may be."""
        cuts = [i for i in range(1, len(word)) if word[i - 1 : i + 1] not in self._pairs]
        return b"".join([self[word[a:b]] for a, b in pairwise([0, *cuts, len(word)])]) if cuts else self._spell(word)

    def turn(self) -> None:
        """Start a new generation once this one is full; a word of the last one is not spelled again."""
        if len(self) > GENERATION:
            self._old = dict(self)
            self.clear()


class CachedEncoder:
    """The same ids for a model whose `Rules.why_plain` is None."""

    def __init__(self, model_bytes: bytes, dtype: np.dtype[Any], rules: Rules) -> None:
        self._words, self._rules = Words(model_bytes, dtype, rules.pairs), rules

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
        self._words.turn()
        mark = next(c for c in map(chr, range(0x110000)) if c not in part)  # surrogates are in no valid text
        spaced = part.replace(" ", mark + " ").replace(" " + mark, " ")  # a mark before each run of spaces
        return b"".join(map(self._words.__getitem__, spaced.replace("\n", f"{mark}\n{mark}").split(mark)))


def make_encoder(model_bytes: bytes, dtype: np.dtype[Any]) -> Encoder:
    """The fastest encoder that is exact for this model; its ids come as `dtype`."""
    rules = read_rules(model_bytes)
    return PlainEncoder(model_bytes, dtype) if rules.why_plain else CachedEncoder(model_bytes, dtype, rules)
