"""Copies among documents, one ledger row each: the earliest of its like is kept."""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np
import orjson

from l2.files.jsonl import Record
from l2.files.ledger import Ledger
from l2.text.duplicates import (
    BANDS,
    SIMILAR,
    Hashes,
    band_keys,
    exact_key,
    near_duplicates,
    normalised,
    shingles,
    signature,
)


def without_copies(documents: Iterable[Record], ledger: Ledger) -> Iterator[Record]:
    """Documents whose normalised words equal no earlier document's."""
    first: dict[bytes, Any] = {}
    for document in documents:
        key = exact_key(normalised(document["text"]))
        if key in first:
            ledger.reject_record(document, "exact_duplicate", {"of": first[key]}, None)
        else:
            first[key] = document["id"]
            yield document


class Spill:
    """Records that wait on disk (in $TMPDIR) for a second look, by number."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ends = array("Q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, record: Record) -> None:
        """Put `record` at the end."""
        self._ends.append(self._ends[-1] + self._file.write(orjson.dumps([record.where, record])))

    def __getitem__(self, number: int) -> Record:
        if not 0 <= number < len(self):
            raise IndexError(number)
        self._file.flush()
        start = self._ends[number]
        where, fields = orjson.loads(os.pread(self._file.fileno(), self._ends[number + 1] - start, start))
        return Record(fields, where)


@contextmanager
def open_spill() -> Iterator[Spill]:
    """A spill whose file is gone when the block ends."""
    with tempfile.TemporaryFile() as file:
        yield Spill(file)


def without_near_copies(documents: Iterable[Record], ledger: Ledger) -> Iterator[Record]:
    """Documents less than 0.8 similar (Jaccard, word 5-grams) to every kept candidate before them.

    Reads all documents before the first comes out. Memory: 112 bytes a document; the texts wait on disk.
    """
    with open_spill() as spill:
        keys = bytearray()
        for document in documents:
            keys += band_keys(signature(shingles(normalised(document["text"])))).tobytes()
            spill.append(document)

        @lru_cache(maxsize=64)  # survivors of large clusters are asked for again and again
        def shingles_of(number: int) -> Hashes:
            return shingles(normalised(spill[number]["text"]))

        keys_DB = np.frombuffer(keys, np.uint64).reshape(-1, BANDS)
        copies = near_duplicates(keys_DB, shingles_of)
        for number in range(len(spill)):
            document = spill[number]
            if number in copies:
                kept, likeness = copies[number]
                value = {"of": spill[kept]["id"], "jaccard": likeness}
                ledger.reject_record(document, "near_duplicate", value, SIMILAR)
            else:
                yield document
