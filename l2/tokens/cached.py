"""SentencePiece's ids, word by word through a bounded cache: the same ids, several times as fast (ours).

BPE does nothing but join neighbours into longer pieces. Where no piece holds two characters side by side, nothing is
ever joined across them: a text may be cut there, and its ids are those of its parts, one after another. In Llama's
vocabularies no piece holds a newline beside anything, nor anything but a space before a space. So a text is cut into
its newlines and its words, each with the spaces before it, and most words have been seen before.
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Iterator
from ctypes import c_char_p, c_int64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sentencepiece

from l2.files.compiled import compiled
from l2.files.errors import L2Error

SOURCE = Path(__file__).with_name("words.cpp")
SPACE = "\u2581"  # what stands for a space in pieces; in text it is one
# A normalizer_spec with add_dummy_prefix false: a message that follows another is merged into it.
NO_PREFIX = b"\x1a\x02\x18\x00"
LONGEST = 48  # characters of a word that is worth remembering
GENERATION = 2**19  # words; two generations are held, of about 150 bytes a word: 160 MB at most
BPE, NORMAL, BYTE = 2, 1, 6  # TrainerSpec.ModelType, SentencePiece.Type
PLAIN_KINDS = {NORMAL, 2, 3, BYTE}  # 2, 3: unknown, control; not user-defined, not unused


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
    pieces: tuple[tuple[bytes, int, float], ...]  # text with spaces, id and score of each that can be joined
    bytes: tuple[int, ...]  # the ids of the 256 bytes
    pairs: frozenset[str]  # every two characters that stand side by side in a piece, SPACE as a space
    why_plain: str | None  # the reason for which cutting is not known to be exact


@lru_cache(maxsize=4)
def read_rules(model_bytes: bytes) -> Rules:
    """Read a valid tokenizer.model (sentencepiece_model.proto names the fields by these numbers)."""
    model: dict[int, list[Any]] = {1: [], 2: [], 3: []}
    for number, value in fields(model_bytes):
        model.setdefault(number, []).append(value)
    trainer, normalizer = (dict(fields(b"".join(model[number]))) for number in (2, 3))
    pieces = [{1: b"", 2: b"\0\0\0\0", 3: NORMAL, **dict(fields(piece))} for piece in model[1]]
    spaced = [piece[1].replace(SPACE.encode(), b" ") for piece in pieces]
    normal = [
        (text, i, struct.unpack("<f", piece[2])[0])
        for i, (text, piece) in enumerate(zip(spaced, pieces, strict=True))
        if piece[3] == NORMAL
    ]
    ids = {piece[1]: i for i, piece in enumerate(pieces) if piece[3] == BYTE}
    pairs = frozenset(a + b for text, _, _ in normal for a, b in pairwise(str(text, "utf-8", "replace")))
    known = (
        (trainer.get(3) == BPE, "it is not BPE"),
        (trainer.get(35), "it has no byte fallback"),
        (not trainer.get(24), "its spaces end words"),
        (not normalizer.get(2), "it normalises text"),
        (not normalizer.get(4, True), "it removes spaces"),
        (normalizer.get(5, True), "its spaces stay spaces"),
        ({piece[3] for piece in pieces} <= PLAIN_KINDS, "it has user-defined or unused pieces"),
        (
            all(len(str(piece[1], "utf-8", "replace")) > 1 for piece in pieces if piece[3] != NORMAL),
            "a control piece is a character",
        ),
        (not any(b" " in piece[1] for piece in pieces), "a piece holds a space"),
        (not any(pair[1] == " " != pair[0] for pair in pairs), "a piece reaches into the next word"),
        (not any("\n" in pair for pair in pairs), "a piece holds a newline"),
    )
    why_plain = next((reason for holds, reason in known if not holds), None)
    byte_ids = tuple(ids.get(b"<0x%02X>" % byte, 0) for byte in range(256))
    return Rules(bool(normalizer.get(3, True)), tuple(normal), byte_ids, pairs, why_plain)


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
    """The ids of words, found out when they are first asked for: where there is no compiler for words.cpp."""

    def __init__(self, model_bytes: bytes, rules: Rules, dtype: np.dtype[Any]) -> None:
        self._encode = sentencepiece.SentencePieceProcessor(model_proto=model_bytes + NO_PREFIX).encode
        self._code, self._pairs = dtype.char, rules.pairs
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

    def encode(self, part: str) -> bytes:
        """The ids of all words of a part."""
        if len(self) > GENERATION:  # a new generation; a word of the last one is not spelled again
            self._old = dict(self)
            self.clear()
        mark = next(c for c in map(chr, range(0x110000)) if c not in part)  # surrogates are in no valid text
        spaced = part.replace(" ", mark + " ").replace(" " + mark, " ")  # a mark before each run of spaces
        return b"".join(map(self.__getitem__, spaced.replace("\n", f"{mark}\n{mark}").split(mark)))


class CompiledWords:
    """The same in C++."""

    def __init__(self, library: ctypes.CDLL, rules: Rules, dtype: np.dtype[Any]) -> None:
        texts = [text for text, _, _ in rules.pieces]
        sizes = np.array([len(text) for text in texts], np.uint32)
        ids = np.array([i for _, i, _ in rules.pieces], np.uint32)
        scores = np.array([score for _, _, score in rules.pieces], np.float32)
        byte_ids = np.array(rules.bytes, np.uint32)
        self._free, self._encode, self._size = library.coder_free, library.coder_encode, dtype.itemsize
        library.coder_new.argtypes = [c_char_p, c_void_p, c_void_p, c_void_p, c_int64, c_void_p]
        library.coder_new.restype = c_void_p
        self._free.argtypes = [c_void_p]
        self._encode.argtypes, self._encode.restype = [c_void_p, c_char_p, c_int64, c_void_p], c_int64
        pointers = [row.ctypes.data for row in (sizes, ids, scores, byte_ids)]
        self._coder = library.coder_new(b"".join(texts), *pointers[:3], len(texts), pointers[3])
        self._ids = c_void_p()

    def encode(self, part: str) -> bytes:
        """The ids of all words of a part. Raises L2Error for 2 GB in which there is no place to cut."""
        text = part.encode()
        if len(text) >= 2**31:
            raise L2Error(f"{len(text):,} bytes without a place to cut them")
        count = self._encode(self._coder, text, len(text), ctypes.byref(self._ids))
        return ctypes.string_at(self._ids, count * self._size) if count else b""

    def __del__(self) -> None:
        self._free(self._coder)


class CachedEncoder:
    """The same ids for a model whose `Rules.why_plain` is None. Memory grows with a part, and the cache's bound."""

    def __init__(self, rules: Rules, words: Words | CompiledWords) -> None:
        self._rules, self.words, self.encode = rules, words, words.encode

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


def make_encoder(model_bytes: bytes, dtype: np.dtype[Any], rules: Rules | None = None) -> Encoder:
    """The fastest encoder that is exact for this model; its ids come as `dtype`, an unsigned type of 2 or 4 bytes.

    `rules`: those of the model, for a process that was given them, since reading them takes a tenth of a second.
    """
    rules = rules or read_rules(model_bytes)
    if rules.why_plain:
        return PlainEncoder(model_bytes, dtype)
    library = compiled(SOURCE, [f"-DID=uint{8 * dtype.itemsize}_t"])
    words = CompiledWords(library, rules, dtype) if library else Words(model_bytes, rules, dtype)
    return CachedEncoder(rules, words)
