"""Where runs of tokens stand in shards, found in suffix arrays, with a few mismatches allowed (paper §A.6).

A shard is read in pieces, each with a suffix array of its own: memory is that of one piece, whatever the corpus holds.
Suffixes stand in the order of their bytes as the file has them (ours): any order of tokens serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from l2.files.atomic import atomic_file
from l2.files.errors import L2Error
from l2.files.progress import OnProgress, ignore
from l2.tokens.shards import Shard

SEED = 10  # tokens at the start of a match that are all equal (paper §A.6)
MISMATCHES = 4  # in what follows them; the last token of a match is equal again (paper §A.6)
PIECE_BYTES = 1 << 27  # of tokens: their suffix array takes four times that while it is made, and twice that afterwards
MOST = 1000  # places in a piece that a run of SEED tokens is followed from (ours), see `longest_matches`
PAIRS = 1 << 20  # pairs of places that are compared at once
BLOCK = 1 << 22  # suffixes that are filtered at once

Tokens = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]


class Texts(NamedTuple):
    """Texts one after another: their tokens [T], and for each token where its text starts and ends, int64 [T]."""

    tokens: Tokens
    starts: Ints
    ends: Ints


def joined(rows: Sequence[Sequence[int]]) -> Texts:
    """`rows` of ids as Texts."""
    sizes = np.array([len(row) for row in rows], np.int64)
    ends = sizes.cumsum()
    tokens = np.fromiter((token for row in rows for token in row), np.uint32, int(sizes.sum()))
    return Texts(tokens, np.repeat(ends - sizes, sizes), np.repeat(ends, sizes))


class Piece:
    """Tokens [n] and their suffix array: int32 [n], where each suffix starts, in order."""

    def __init__(self, tokens: Tokens, kept: Path | None = None) -> None:
        """Sort the suffixes of `tokens`, or map them from the directory `kept`, where they are put otherwise."""
        size = tokens.itemsize
        # Room behind the end, so that the last suffixes can be read as far as the others. No byte is lower than 0.
        padded = np.concatenate([tokens.view(np.uint8), np.zeros(SEED * size, np.uint8)])
        self.tokens = padded[: tokens.nbytes].view(tokens.dtype)
        # Eight bytes from each token on, with the first as the highest: numbers in the order of the suffixes.
        self._words = np.ndarray(len(tokens) + SEED - 8 // size + 1, ">u8", padded, 0, (size,))
        self._skips = sorted({*range(0, SEED - 8 // size, 8 // size), SEED - 8 // size})  # words that make SEED tokens
        self.suffixes = _sorted(self.tokens) if kept is None else _mapped(self.tokens, kept)

    def find(self, seeds_QS: Tokens) -> tuple[Ints, Ints]:
        """Which suffixes start with the SEED tokens of each row: from [Q], and up to without [Q]. Rows in any order."""
        seeds = np.ascontiguousarray(seeds_QS, self.tokens.dtype)
        words = np.ndarray(
            (len(seeds), len(self._skips)),
            ">u8",
            np.stack([seeds[:, s : s + 8 // seeds.itemsize] for s in self._skips], 1).tobytes(),
        ).astype(np.uint64)
        first = self._bound(words, 1)
        found = np.flatnonzero(first < len(self.tokens))
        found = found[self._order(self.suffixes[first[found]], words[found]) == 0]
        last = first.copy()
        last[found] = self._bound(words[found], 0)
        return first, last

    def _bound(self, words_QW: npt.NDArray[np.uint64], least: int) -> Ints:
        """The first suffix of those whose order against each seed is not below 0, or 1 with a `least` of 0."""
        low = np.zeros(len(words_QW), np.int64)
        high = np.full(len(words_QW), len(self.suffixes), np.int64)
        for _ in range(len(self.suffixes).bit_length()):
            open_ = np.flatnonzero(low < high)
            middle = (low[open_] + high[open_]) // 2
            before = self._order(self.suffixes[middle], words_QW[open_]) < 1 - least
            low[open_[before]] = middle[before] + 1
            high[open_[~before]] = middle[~before]
        return low

    def among(self, first: Ints, last: Ints, length: int, token: Tokens, side: str) -> Ints:
        """Where in each range of suffixes that agree for `length` tokens those with `token` next begin, or end."""
        low, high, wanted = first.copy(), last.copy(), token.byteswap().astype(np.int64)
        while len(open_ := np.flatnonzero(low < high)):
            middle = (low[open_] + high[open_]) // 2
            place = self.suffixes[middle].astype(np.int64) + length
            inside = place < len(self.tokens)
            found = np.full(len(open_), -1, np.int64)  # the end comes before all tokens
            found[inside] = self.tokens[place[inside]].byteswap()
            before = found < wanted[open_] if side == "left" else found <= wanted[open_]
            low[open_[before]] = middle[before] + 1
            high[open_[~before]] = middle[~before]
        return low

    def _order(self, starts_Q: npt.NDArray[np.int32], words_QW: npt.NDArray[np.uint64]) -> npt.NDArray[np.int8]:
        """-1, 0 or 1: the suffix is before the seed, begins with it, or comes after."""
        order = np.zeros(len(starts_Q), np.int8)
        equal = np.arange(len(starts_Q))
        for skip, words_Q in zip(self._skips, words_QW.T, strict=True):
            ours, theirs = self._words[starts_Q[equal] + skip].astype(np.uint64), words_Q[equal]
            order[equal] = (ours > theirs).astype(np.int8) - (ours < theirs)
            equal = equal[ours == theirs]
        return order


def _sorted(tokens: Tokens) -> npt.NDArray[np.int32]:
    """The suffix array of tokens: of all suffixes of their bytes, those that begin with a token."""
    try:
        from pydivsufsort import divsufsort
    except ImportError:
        raise L2Error("suffix arrays need pydivsufsort: pip install 'l2[contam]'") from None
    size = tokens.itemsize
    of_bytes: npt.NDArray[np.int32] = divsufsort(tokens.view(np.uint8))
    suffixes, count = np.empty(len(tokens), np.int32), 0
    for first in range(0, len(of_bytes), BLOCK):
        block = of_bytes[first : first + BLOCK]
        block = block[block & (size - 1) == 0]
        suffixes[count : count + len(block)] = block // size
        count += len(block)
    return suffixes


def _mapped(tokens: Tokens, directory: Path) -> npt.NDArray[np.int32]:
    """The suffix array of tokens in `directory`, under their hash; made where it is not there."""
    path = directory / f"{xxhash.xxh3_128_hexdigest(tokens.data)}.suffixes.npy"
    if not path.exists():
        with atomic_file(path) as f:
            np.save(f, _sorted(tokens))
    suffixes: npt.NDArray[np.int32] = np.load(path, mmap_mode="r")
    return suffixes


def pieces(shard: Shard, overlap: int, kept: Path | None = None) -> Iterator[Piece]:
    """The shard in pieces of PIECE_BYTES, and `overlap` tokens more: a match is whole in the piece where it starts."""
    step = PIECE_BYTES // shard.tokens.itemsize
    for first in range(0, shard.token_count, step):
        yield Piece(shard.read(first, first + step + overlap), kept)


def longest_matches(
    texts: Texts, shards: Sequence[Shard], kept: Path | None = None, on_progress: OnProgress = ignore
) -> Ints:
    """For each token of `texts`, the length of the longest match with the shards' tokens that starts there, int64 [T].

    A match is SEED equal tokens, and then at most MISMATCHES that differ, the last token of it an equal one. 0 stands
    for no match, and also where a match one token longer to the left ends no earlier. Of SEED tokens that stand in more
    than MOST places of a piece, those MOST are followed that agree with the text the longest: a phrase that everybody
    writes costs no more than that, and only a match that differs early in a text so common could be found too short.
    `kept` is a directory where suffix arrays are found and put, 4 bytes a token. Memory: 9 times PIECE_BYTES, and 50
    bytes a token of `texts`.
    """
    longest = np.zeros(len(texts.tokens), np.int64)
    starts = np.flatnonzero(texts.ends - np.arange(len(texts.tokens)) >= SEED)
    if not len(starts):
        return longest
    overlap = int((texts.ends - texts.starts).max()) - 1
    seeds_QS, which = _distinct(texts.tokens, starts)
    done, total = 0, sum(shard.token_count for shard in shards)
    for shard in shards:
        for piece in pieces(shard, overlap, kept):
            first, last = (bound[which] for bound in piece.find(seeds_QS))
            crowded = np.flatnonzero(last - first > MOST)
            first[crowded], last[crowded] = _thinned(texts, starts[crowded], piece, first[crowded], last[crowded])
            for text, place in _pairs(starts, first, last - first, piece.suffixes):
                text, place = _leftmost(texts, text, piece.tokens, place)
                np.maximum.at(longest, text, _lengths(texts, text, piece.tokens, place))
            done += min(PIECE_BYTES // piece.tokens.itemsize, len(piece.tokens))
            on_progress(min(done, total), total, "")
    return longest


def _distinct(tokens: Tokens, starts: Ints) -> tuple[Tokens, Ints]:
    """The distinct runs of SEED tokens from `starts` on [Q, SEED], in order, and which of them starts where."""
    runs = np.lib.stride_tricks.sliding_window_view(tokens, SEED)[starts]
    order = np.lexsort(runs.T[::-1])
    new = np.ones(len(order), bool)
    new[1:] = (runs[order[1:]] != runs[order[:-1]]).any(axis=1)
    which = np.empty(len(order), np.int64)
    which[order] = new.cumsum() - 1
    return runs[order[new]], which


def _thinned(texts: Texts, text: Ints, piece: Piece, first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """Of each range of suffixes the MOST that agree with the text the longest, as a range; the first of equals."""
    first, last = first.copy(), last.copy()
    going = np.arange(len(text))
    length = SEED
    while len(going := going[(last[going] - first[going] > MOST) & (text[going] + length < texts.ends[text[going]])]):
        token = texts.tokens[text[going] + length].astype(piece.tokens.dtype)
        low = piece.among(first[going], last[going], length, token, "left")
        high = piece.among(low, last[going], length, token, "right")
        going, low, high = (each[high > low] for each in (going, low, high))
        first[going], last[going] = low, high
        length += 1
    return first, np.minimum(last, first + MOST)


def _pairs(starts: Ints, first: Ints, counts: Ints, suffixes: npt.NDArray[np.int32]) -> Iterator[tuple[Ints, Ints]]:
    """(position in the texts, position in the piece) of all equal seeds, PAIRS at a time."""
    ends = counts.cumsum()
    for begin in range(0, int(ends[-1]), PAIRS):
        number = np.arange(begin, min(begin + PAIRS, int(ends[-1])))
        at = ends.searchsorted(number, "right")
        yield starts[at], suffixes[first[at] + number - (ends - counts)[at]].astype(np.int64)


def _leftmost(texts: Texts, text: Ints, tokens: Tokens, place: Ints) -> tuple[Ints, Ints]:
    """The pairs that lie within the piece and differ in the token before; all others are part of a longer match.

    From one token earlier the first SEED are equal as well, and the same mismatches lead as far.
    """
    inside = place + SEED <= len(tokens)
    grows = (text > texts.starts[text]) & (place > 0)
    grows &= texts.tokens[text - 1] == tokens[place - 1]
    keep = inside & ~grows
    return text[keep], place[keep]


def _lengths(texts: Texts, text: Ints, tokens: Tokens, place: Ints) -> Ints:
    """The length of the longest match that starts at each pair of places."""
    lengths = np.full(len(text), SEED, np.int64)
    spent = np.zeros(len(text), np.int8)
    room = np.minimum(texts.ends[text] - text, len(tokens) - place)
    going = np.arange(len(text))
    length = SEED
    while len(going := going[room[going] > length]):
        equal = texts.tokens[text[going] + length] == tokens[place[going] + length]
        length += 1
        lengths[going[equal]] = length
        spent[going[~equal]] += 1
        going = going[spent[going] <= MISMATCHES]
    return lengths
