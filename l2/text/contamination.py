"""Does a document hold an item that a model will be evaluated on? Word 13-grams shared with task files.

Brown et al. 2020 (GPT-3, arXiv 2005.14165, §C) take word n-grams with n of 8 to 13 by the length of a task's items, and
ignore those so frequent that they are a template. Here each text of an item stands for itself (ours): one of 13 words
or more by all its 13-grams, one of 8 to 12 by all of its words, and a shorter one by nothing. Words are those of
`duplicates.normalised`.

`l2 contam` asks another question, by the paper's rule (§A.6): how much of each verbalised prompt stands in the shards,
in tokens. That rule can't serve here: filtering comes before there is a tokenizer, an item's fields before their
prompt, and a document is to be dropped for an item of its own, not for eleven tokens of a phrase that anybody writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from l2.files.errors import BadInput
from l2.files.jsonl import expand, open_input, parse_records
from l2.text.duplicates import normalised

MOST_WORDS, LEAST_WORDS = 13, 8  # of an n-gram: GPT-3 §C
COMMON = 10  # GPT-3 §C: an n-gram in more items than that is no item's own
FIELDS = ("question", "prompt", "messages", "choices", "answer", "target", "text", "chosen", "rejected")

_FACTORS = np.array([pow(0x9E3779B97F4A7C15, k, 1 << 64) for k in range(MOST_WORDS)], np.uint64)

Hashes = npt.NDArray[np.uint64]


class Item(NamedTuple):
    """One question of a task: the file's name, an id, and the texts that it is made of."""

    task: str
    id: str
    texts: list[str]


class Match(NamedTuple):
    """Words that a document shares with an item."""

    task: str
    item: str
    ngram: str


def _texts(value: Any) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def read_items(patterns: Iterable[str | Path]) -> Iterator[Item]:
    """The items of task files: each object of a JSONL file, with the texts in its FIELDS, or each line of a plain text.

    JSONL is what begins with a brace. Raises L2Error for a missing file; BadInput for a record with none of FIELDS, a
    line that is no UTF-8, and a file without items.
    """
    for path in expand(patterns):
        with open_input(path) as f:
            number, first = next(((number, line) for number, line in enumerate(f, 1) if line.strip()), (0, b""))
            if not first:
                raise BadInput(path, "no items", "records of a task, or lines of text")
            lines = chain([first], f)  # read but once: it may come through a pipe
            yield from (_records if first.lstrip().startswith(b"{") else _plain_lines)(path, lines, number)


def _records(path: str, lines: Iterable[bytes], first: int) -> Iterator[Item]:
    for record in parse_records(lines, path, first):
        if not any(field in record for field in FIELDS):
            raise BadInput(record.where, f"fields {', '.join(sorted(record))}", f"one of {', '.join(FIELDS)}")
        yield Item(path, record.identity, [text for field in FIELDS for text in _texts(record.get(field))])


def _plain_lines(path: str, lines: Iterable[bytes], first: int) -> Iterator[Item]:
    for number, line in enumerate(lines, first):
        where = f"{path}:{number}"
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            raise BadInput(where, "invalid UTF-8", "a line of text") from None
        if text:
            yield Item(path, where, [text])


def _rolled(words: Sequence[bytes]) -> Iterator[tuple[int, Hashes]]:
    """(n, hashes of all n-grams of `words` in order), for n = 1 to MOST_WORDS or the number of words."""
    hashes_W = np.fromiter(map(xxhash.xxh3_64_intdigest, words), np.uint64, len(words))
    sums = np.zeros(len(words), np.uint64)
    for k in range(min(MOST_WORDS, len(words))):
        sums = sums[: len(words) - k] + hashes_W[k:] * _FACTORS[k]
        yield k + 1, sums


class _Table:
    """The n-grams of one length, sorted by hash: 16 bytes each. Where they stand: which text, and from which word."""

    def __init__(self, hashes: Hashes, texts: npt.NDArray[np.uint32], starts: npt.NDArray[np.uint32]) -> None:
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.texts, self.starts = hashes[order], texts[order], starts[order]

    def candidates(self, asked_N: Hashes) -> Iterator[tuple[int, int, int]]:
        """(position in `asked_N`, text, start) of equal hashes, in order of position."""
        first_N = self.hashes.searchsorted(asked_N)
        hit_N = self.hashes[np.minimum(first_N, self.hashes.size - 1)] == asked_N
        for position in np.flatnonzero(hit_N).tolist():
            for i in count(int(first_N[position])):
                if i == self.hashes.size or self.hashes[i] != asked_N[position]:
                    break
                yield position, int(self.texts[i]), int(self.starts[i])


class Contamination:
    """Finds items in documents. Memory: the items' words, and 16 bytes for each of their n-grams."""

    def __init__(self, items: Iterable[Item]) -> None:
        """Raises BadInput where no item has a text of LEAST_WORDS words, or one of its own."""
        self._words: list[bytes] = []  # of each text
        self._owners: list[tuple[str, str]] = []
        parts: dict[int, list[tuple[Hashes, int, int]]] = {}  # by n: (hashes, text, number of the item)
        for number, item in enumerate(items):
            for normal in dict.fromkeys(map(normalised, item.texts)):
                words = normal.split(b" ")
                if len(words) >= LEAST_WORDS:
                    *_, (n, hashes) = _rolled(words)
                    parts.setdefault(n, []).append((hashes, len(self._words), number))
                    self._words.append(normal)
                    self._owners.append((item.task, item.id))
        tables = {n: _Table(*_own(rows)) for n, rows in sorted(parts.items())}
        self._tables = {n: table for n, table in tables.items() if table.hashes.size}
        if not self._tables:
            raise BadInput("the task files", "no item that could be told", f"texts of {LEAST_WORDS} words or more")

    def find(self, text: str) -> Match | None:
        """The first match of the shortest n-grams, or None."""
        words = normalised(text).split(b" ")
        for n, hashes_N in _rolled(words):
            if n in self._tables:
                for position, index, start in self._tables[n].candidates(hashes_N):
                    found = words[position : position + n]
                    if found == self._words[index].split(b" ")[start : start + n]:
                        return Match(*self._owners[index], b" ".join(found).decode())
        return None


def _own(
    parts: Sequence[tuple[Hashes, int, int]],
) -> tuple[Hashes, npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Hashes, texts and starts of the n-grams that stand in COMMON items or fewer."""
    hashes = np.concatenate([part for part, _, _ in parts])
    texts = np.repeat(np.array([text for _, text, _ in parts], np.uint32), [part.size for part, _, _ in parts])
    starts = np.concatenate([np.arange(part.size, dtype=np.uint32) for part, _, _ in parts])
    items = np.repeat(np.array([item for _, _, item in parts], np.uint64), [part.size for part, _, _ in parts])
    order = np.lexsort((items, hashes))
    first = np.ones(hashes.size, bool)  # in its item
    first[1:] = (np.diff(hashes[order]) != 0) | (np.diff(items[order]) != 0)
    known, counts = np.unique(hashes[order][first], return_counts=True)
    own = ~np.isin(hashes, known[counts > COMMON])
    return hashes[own], texts[own], starts[own]
