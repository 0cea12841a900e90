"""Documents in, documents worth training on out: language, quality, exact and near copies, one ledger row a loss.

Every stage is a generator over records and rejects into the ledger, so that all but the last one stream.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import orjson

from l2.files.errors import BadInput
from l2.files.jsonl import Record, RecordWriter, read_records
from l2.files.ledger import Ledger
from l2.files.progress import OnProgress, ignore
from l2.text.duplicates import (
    BANDS,
    NORMALISATION,
    SIMILAR,
    Hashes,
    band_keys,
    exact_key,
    near_duplicates,
    normalised,
    shingles,
    signature,
)
from l2.text.language import Identify, load_identifier
from l2.text.quality import MIN_SENTENCES, MIN_WORDS, Page, Rule, first_failing, rules

Dedup = Literal["minhash", "exact", "none"]


@dataclass(frozen=True)
class FilterSettings:
    """What `filter_documents` keeps. No languages: all, unidentified. minhash includes exact."""

    languages: tuple[str, ...] = ()
    lang_threshold: float = 0.5
    lid_model: str | None = None
    quality: bool = True
    min_words: int = MIN_WORDS
    min_sentences: int = MIN_SENTENCES
    dedup: Dedup = "minhash"
    skip_bad: bool = False


def _reject(ledger: Ledger, record: Record, rule: str, value: Any, threshold: Any) -> None:
    place, _, line = record.where.rpartition(":")
    row = {"id": record["id"], "source": record.get("source") or place}
    ledger.reject(row, rule, value, threshold, int(line))


def read_documents(paths: Sequence[str | Path], on_bad: Callable[[BadInput], None] | None) -> Iterator[Record]:
    """Documents with a `text`, a `scores` object and an `id`: where it is missing, "file:line".

    Raises BadInput (or hands it to `on_bad`) for a line that is no document.
    """
    for record in read_records(paths, on_bad=on_bad):
        try:
            record.need("text")
            if record.get("scores") is not None:
                record.need("scores", dict)
        except BadInput as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        if record.get("id") is None:
            record["id"] = record.where
        yield record


def by_language(
    documents: Iterable[Record], identify: Identify, settings: FilterSettings, ledger: Ledger, seen: Counter[str]
) -> Iterator[Record]:
    """Documents in one of the languages asked for, with scores {lang, lang_p}. `seen` counts the languages met."""
    asked = {"lang": list(settings.languages), "lang_p": settings.lang_threshold}
    for document in documents:
        lang, lang_p = identify(document["text"])
        found = {"lang": lang, "lang_p": lang_p}
        sure = lang_p >= settings.lang_threshold
        seen[lang if sure else "unknown"] += 1
        if sure and lang in settings.languages:
            document["scores"] = (document.get("scores") or {}) | found
            yield document
        else:
            _reject(ledger, document, "language", found, asked)


def by_quality(documents: Iterable[Record], table: Sequence[Rule], ledger: Ledger) -> Iterator[Record]:
    """Documents that break none of the rules in `table`."""
    for document in documents:
        failing = first_failing(Page(document["text"]), table, (document.get("scores") or {}).get("lang"))
        if failing is None:
            yield document
        else:
            rule, value, bound = failing
            _reject(ledger, document, rule.name, value, bound)


def without_copies(documents: Iterable[Record], ledger: Ledger) -> Iterator[Record]:
    """Documents whose normalised words equal no earlier document's."""
    first: dict[bytes, Any] = {}
    for document in documents:
        key = exact_key(normalised(document["text"]))
        if key in first:
            _reject(ledger, document, "exact_duplicate", {"of": first[key]}, None)
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
                _reject(ledger, document, "near_duplicate", value, SIMILAR)
            else:
                yield document


def filter_documents(
    paths: Sequence[str | Path],
    writer: RecordWriter,
    ledger: Ledger,
    settings: FilterSettings,
    *,
    on_progress: OnProgress = ignore,
) -> dict[str, Any]:
    """Write to `writer` the documents of `paths` (none: stdin) worth training on; the rest goes to `ledger`.

    Language comes first, then quality, then copies, so that a survivor is always kept. Returns the report:
    {in, kept, rejected, rules, languages, settings, normalisation}, where in = kept + rejected. Raises BadInput
    for a line that is no document unless `settings.skip_bad`, and what `load_identifier` raises.
    """
    languages: Counter[str] = Counter()
    read = kept = 0

    def bad_line(error: BadInput) -> None:
        nonlocal read
        read += 1
        ledger.bad_line(error)

    def counted() -> Iterator[Record]:
        nonlocal read
        for document in read_documents(paths, bad_line if settings.skip_bad else None):
            read += 1
            if read % 100 == 0:
                on_progress(read, None, f"{ledger.total:,} rejected")
            yield document

    documents = counted()
    if settings.languages:
        identify = load_identifier(settings.lid_model, settings.languages)
        documents = by_language(documents, identify, settings, ledger, languages)
    if settings.quality:
        documents = by_quality(documents, rules(settings.min_words, settings.min_sentences), ledger)
    if settings.dedup != "none":
        documents = without_copies(documents, ledger)
    if settings.dedup == "minhash":
        documents = without_near_copies(documents, ledger)
    for document in documents:
        writer.write(document)
        kept += 1
    on_progress(read, read, f"{ledger.total:,} rejected")
    assert read == kept + ledger.total, "every document is kept or in the ledger"
    return _report(read, kept, ledger, languages, settings)


def _report(read: int, kept: int, ledger: Ledger, languages: Counter[str], settings: FilterSettings) -> dict[str, Any]:
    return {
        "in": read,
        "kept": kept,
        "rejected": ledger.total,
        "rules": dict(ledger.counts.most_common()),
        "languages": dict(languages.most_common()),
        "settings": asdict(settings),
        "normalisation": NORMALISATION,
    }
