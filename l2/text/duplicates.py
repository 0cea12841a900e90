"""Documents that say the same: exact copies by hash, near copies by MinHash, each candidate compared in truth.

MinHash (Broder 1997) with 14 bands of 8 rows over word 5-grams, as in FineWeb (Penedo et al. 2024, arXiv 2406.17557):
a pair of Jaccard similarity J becomes a candidate with probability 1 - (1 - J^8)^14. The permutations are those of
datasketch 2's scheme "affine32". Names: D documents, W words, S distinct shingles, P permutations, B bands.

A shingle's hash (ours) is the polynomial of its bytes, words with one space between them, at an odd number mod 2^64,
each byte one more than it is, mixed by the finalizer of splitmix64. Where a C++ compiler is at hand duplicates.cpp does
the same in a tenth of the time.
"""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections.abc import Callable
from ctypes import c_char_p, c_int64, c_uint32, c_void_p
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from l2.files.compiled import compiled
from l2.files.spills import Numbers

Hashes = npt.NDArray[np.uint64]
Signature = npt.NDArray[np.uint32]

SOURCE = Path(__file__).with_name("duplicates.cpp")
SHINGLE_WORDS = 5
BANDS, ROWS = 14, 8
SIMILAR = 0.8
NORMALISATION = "NFC, lower case; spaces and punctuation separate words; in scripts without spaces each sign is a word"

# Thai, Lao, Burmese, Khmer, kana and CJK ideographs put no spaces between words. Spaces and punctuation: ASCII,
# Latin-1, general, CJK, full-width. A word is whatever else runs on, so that vowel signs stay with their letters.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_BREAKS = r"\s!-/:-@\[-`{-~\u00a1-\u00bf\u2000-\u206f\u3000-\u303f\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_WORD = re.compile(f"[{_UNSPACED}]|[^{_BREAKS}{_UNSPACED}]+")
_CLASSED = 0x40000  # characters above this are in neither class

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, 2^64 over the golden ratio
_INVERSE = pow(_MULTIPLIER, -1, 1 << 64)
_CHUNK = 1024  # shingles at a time: the table of permuted hashes stays in the cache


class Compiled:
    """The functions of duplicates.cpp; each gives what the function here that asks for it gives without."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._words, self._shingles, self._common = library.words, library.shingles, library.common
        self._signature = library.signature
        self._words.argtypes = [c_char_p, c_int64, c_void_p, c_uint32, c_void_p]
        self._shingles.argtypes = [c_char_p, c_int64, c_void_p]
        self._common.argtypes = [c_void_p, c_int64] * 2
        self._signature.argtypes = [c_void_p, c_int64, c_void_p, c_void_p, c_void_p, c_int64]
        for function in (self._words, self._shingles, self._common):
            function.restype = c_int64
        self._signature.restype = None
        characters = "".join(map(chr, range(_CLASSED)))
        self._kinds = np.zeros(_CLASSED, np.uint8)
        for kind, members in enumerate((_BREAKS, _UNSPACED), 1):
            for run in re.finditer(f"[{members}]+", characters):
                self._kinds[run.start() : run.end()] = kind
        self._kinds_at, self._a, self._b = self._kinds.ctypes.data, _A.ctypes.data, _B.ctypes.data

    def words(self, text: str) -> bytes:
        """The words of `text` with one space between them."""
        given = text.encode()
        out = np.empty(2 * len(given), np.uint8)
        size = self._words(given, len(given), self._kinds_at, _CLASSED, out.ctypes.data)
        return out[:size].tobytes()

    def shingles(self, normal: bytes) -> Hashes:
        """See `shingles`."""
        hashes = np.empty(normal.count(b" ") + 1, np.uint64)
        return hashes[: self._shingles(normal, len(normal), hashes.ctypes.data)]

    def common(self, a: Hashes, b: Hashes) -> int:
        """The size of the intersection of two shingle sets."""
        count: int = self._common(a.ctypes.data, a.size, b.ctypes.data, b.size)
        return count

    def signature(self, shingles_S: Hashes) -> Signature:
        """See `signature`."""
        least = np.empty_like(_A)
        self._signature(shingles_S.ctypes.data, shingles_S.size, self._a, self._b, least.ctypes.data, _A.size)
        return least


@lru_cache(maxsize=1)
def fast() -> Compiled | None:
    """What there is of duplicates.cpp: None where it can't be compiled."""
    library = compiled(SOURCE)
    return Compiled(library) if library else None


def normalised(text: str) -> bytes:
    """The words of `text` with one space between them, as UTF-8 (see NORMALISATION); a text without any as it is."""
    plain = (text if text.isascii() else unicodedata.normalize("NFC", text)).lower()
    words = library.words(plain) if (library := fast()) else " ".join(_WORD.findall(plain)).encode()
    return words or text.encode()


def exact_key(normal: bytes) -> bytes:
    """16 bytes that two documents share when their normalised texts are the same."""
    return xxhash.xxh3_128_digest(normal)


def _mixed(x: Hashes) -> Hashes:
    """The finalizer of splitmix64."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def _powers(base: int, count: int) -> Hashes:
    """`base` to the power of 0, 1, ..., mod 2^64 [count]."""
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers, out=powers)


def shingles(normal: bytes) -> Hashes:
    """64-bit hashes of the distinct word 5-grams of a normalised text, sorted [S]; up to five words make one."""
    if library := fast():
        return library.shingles(normal)
    letters = np.frombuffer(normal, np.uint8)
    spaces = np.flatnonzero(letters == ord(" "))
    starts_W, ends_W = np.append(0, spaces + 1), np.append(spaces, letters.size)
    n = min(SHINGLE_WORDS, starts_W.size)
    starts, ends = starts_W[: starts_W.size - n + 1], ends_W[n - 1 :]
    sums = np.zeros(letters.size + 1, np.uint64)  # of the bytes before each place
    np.cumsum(_powers(_MULTIPLIER, letters.size) * (letters + np.uint64(1)), out=sums[1:])
    return np.unique(_mixed((sums[ends] - sums[starts]) * _powers(_INVERSE, letters.size + 1)[starts]))


def jaccard(a: Hashes, b: Hashes) -> float:
    """|a ∩ b| / |a ∪ b| of two shingle sets, both as `shingles` gives them and not empty."""
    common = library.common(a, b) if (library := fast()) else np.intersect1d(a, b, assume_unique=True).size
    return common / (a.size + b.size - common)


def permutations(count: int, seed: int = 1) -> tuple[Signature, Signature]:
    """The factors a (odd) and summands b, [P] each, that datasketch's MinHash(count, seed, scheme="affine32") draws."""
    random = np.random.RandomState(seed)
    a = random.randint(0, 1 << 31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return a, random.randint(0, 1 << 32, count, dtype=np.uint32)


_A, _B = permutations(BANDS * ROWS)
_BAND_POWERS = _powers(_MULTIPLIER, ROWS // 2)


def signature(shingles_S: Hashes) -> Signature:
    """The affine32 MinHash [P] of the upper 32 bits of each shingle: min over S of a·fmix32(h) + b mod 2^32."""
    if library := fast():
        return library.signature(shingles_S)
    h = (shingles_S >> np.uint64(32)).astype(np.uint32)
    h ^= h >> np.uint32(16)  # MurmurHash3's finalizer
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    least = np.full(_A.size, 0xFFFFFFFF, np.uint32)
    for start in range(0, h.size, _CHUNK):
        permuted_SP = h[start : start + _CHUNK, None] * _A
        permuted_SP += _B
        np.minimum(least, permuted_SP.min(axis=0), out=least)
    return least


def band_keys(signature_P: Signature) -> Hashes:
    """One 64-bit key for each band [B]; two documents with a key in common are candidates."""
    pairs = signature_P.view(np.uint64).reshape(BANDS, ROWS // 2)
    keys: Hashes = (pairs * _BAND_POWERS).sum(axis=1, dtype=np.uint64)
    return keys


def survivors(
    documents_E: Numbers, buckets_E: Numbers, shingles_of: Callable[[int], Hashes]
) -> dict[int, tuple[int, float]]:
    """{dropped document: (the kept one that it repeats, their true Jaccard similarity)}, of E pairs (document, bucket).

    Documents are asked in input order, and each is compared with the kept ones before it that share a bucket with it,
    earliest first. So the earliest of its like survives, whatever is dropped is at least SIMILAR to something
    kept, and no chain of pairs can draw unlike documents into one cluster. Memory: 56 bytes a pair.
    """
    _, bucket_E, size = np.unique(buckets_E, return_inverse=True, return_counts=True)
    order = np.argsort(documents_E, kind="stable")
    numbers, starts = np.unique(documents_E[order], return_index=True)
    bucket_E = bucket_E[order]
    kept = np.empty(order.size, np.int64)  # of each bucket, in its own stretch
    stretch = np.cumsum(size) - size
    filled = np.zeros_like(size)
    dropped: dict[int, tuple[int, float]] = {}
    for number, start, end in zip(numbers.tolist(), starts, np.append(starts, order.size)[1:], strict=True):
        buckets = bucket_E[start:end]
        first, last = stretch[buckets], stretch[buckets] + filled[buckets]
        before = np.unique(np.concatenate([kept[a:b] for a, b in zip(first, last, strict=True)]))
        own = shingles_of(number)
        for other in before.tolist():
            likeness = jaccard(own, shingles_of(other))
            if likeness >= SIMILAR:
                dropped[number] = (other, likeness)
                break
        else:
            kept[last] = number
            filled[buckets] += 1
    return dropped
