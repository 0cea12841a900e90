"""Documents that say the same: exact copies by hash, near copies by MinHash, each candidate compared in truth.

MinHash (Broder 1997) with 14 bands of 8 rows over word 5-grams, as in FineWeb (Penedo et al. 2024, arXiv 2406.17557):
a pair of Jaccard similarity J becomes a candidate with probability 1 - (1 - J^8)^14. The permutations are those of
datasketch 2's scheme "affine32". Names: D documents, W words, S distinct shingles, P permutations, B bands.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import xxhash

from l2.files.spills import Numbers, shared

Hashes = npt.NDArray[np.uint64]

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

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, 2^64 over the golden ratio
_POWERS = np.array([pow(_MULTIPLIER, k, 1 << 64) for k in range(SHINGLE_WORDS)], np.uint64)
_CHUNK = 1024  # shingles at a time: the table of permuted hashes stays in the cache


def normalised(text: str) -> bytes:
    """The words of `text` with one space between them, as UTF-8 (see NORMALISATION); a text without any as it is."""
    plain = text if text.isascii() else unicodedata.normalize("NFC", text)
    return (" ".join(_WORD.findall(plain.lower())) or text).encode()


def exact_key(normal: bytes) -> bytes:
    """16 bytes that two documents share when their normalised texts are the same."""
    return xxhash.xxh3_128_digest(normal)


def shingles(normal: bytes) -> Hashes:
    """64-bit hashes of the distinct word 5-grams of a normalised text, sorted [S]; up to five words make one."""
    words = normal.split(b" ")
    hashes_W = np.fromiter((xxhash.xxh3_64_intdigest(word) for word in words), np.uint64, len(words))
    n = min(SHINGLE_WORDS, len(words))
    count = len(words) - n + 1
    rolled = np.zeros(count, np.uint64)
    for k in range(n):
        rolled += hashes_W[k : k + count] * _POWERS[k]
    return np.unique(rolled)


def jaccard(a: Hashes, b: Hashes) -> float:
    """|a ∩ b| / |a ∪ b| of two shingle sets, both as `shingles` gives them and not empty."""
    common = np.intersect1d(a, b, assume_unique=True).size
    return common / (a.size + b.size - common)


def permutations(count: int, seed: int = 1) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The factors a (odd) and summands b, [P] each, that datasketch's MinHash(count, seed, scheme="affine32") draws."""
    random = np.random.RandomState(seed)
    a = random.randint(0, 1 << 31, count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return a, random.randint(0, 1 << 32, count, dtype=np.uint32)


_A, _B = permutations(BANDS * ROWS)


def signature(shingles_S: Hashes) -> npt.NDArray[np.uint32]:
    """The affine32 MinHash [P] of the upper 32 bits of each shingle: min over S of a·fmix32(h) + b mod 2^32."""
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


def band_keys(signature_P: npt.NDArray[np.uint32]) -> Hashes:
    """One 64-bit key for each band [B]; two documents with a key in common are candidates."""
    pairs = signature_P.view(np.uint64).reshape(BANDS, ROWS // 2)
    keys: Hashes = (pairs * _POWERS[: ROWS // 2]).sum(axis=1, dtype=np.uint64)
    return keys


def survivors(
    documents_E: Numbers, buckets_E: Numbers, shingles_of: Callable[[int], Hashes], similar: float = SIMILAR
) -> dict[int, tuple[int, float]]:
    """{dropped document: (the kept one that it repeats, their true Jaccard similarity)}, of E pairs (document, bucket).

    Documents are asked in input order, and each is compared with the kept ones before it that share a bucket with it,
    earliest first. So the earliest of its like survives, whatever is dropped is at least `similar` to something
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
            if likeness >= similar:
                dropped[number] = (other, likeness)
                break
        else:
            kept[last] = number
            filled[buckets] += 1
    return dropped


def near_duplicates(
    keys_DB: Hashes, shingles_of: Callable[[int], Hashes], similar: float = SIMILAR
) -> dict[int, tuple[int, float]]:
    """`survivors` among D documents by their band keys, where both fit into memory."""
    numbers = np.arange(len(keys_DB))
    pairs = [shared(key_D, numbers) for key_D in keys_DB.T]
    documents, firsts = (np.concatenate(column) for column in zip(*pairs, strict=True))
    bands = np.repeat(np.arange(len(pairs)), [members.size for members, _ in pairs])
    return survivors(documents, firsts * len(pairs) + bands, shingles_of, similar)
