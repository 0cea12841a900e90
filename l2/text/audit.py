"""What a corpus is made of: languages, pronouns, identity terms, toxicity, sources (paper §4.1, §A.4.3, Tables 9, 10).

One pass over the documents. Everything is a count of documents in one flat `Tally`, so that parts of a corpus, counted
apart, add up to the same whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

from l2.files.jsonl import Record, good, read_records
from l2.files.ledger import MAX_SOURCES, OTHER_SOURCES, Ledger, source_of
from l2.files.parallel import ordered_map
from l2.files.progress import OnProgress, ignore
from l2.text.demographics import AMBIGUOUS, PRONOUNS, load_descriptors
from l2.text.language import Identify, load_identifier
from l2.text.terms import Terms, Words
from l2.text.toxicity import TOXIC, load_toxicity

ENGLISH, UNKNOWN = "en", "unknown"
EDGES = [i / 10 for i in range(1, 10)]  # of the histogram of toxicity; one of them is TOXIC
CHUNK_DOCUMENTS, CHUNK_CHARACTERS = 256, 1 << 20  # of what a process gets at a time
TOP = 5  # terms of an axis in paper Table 9b

Item = tuple[str, str]  # a document's text and source
Tally = Counter[tuple[Any, ...]]


@dataclass(frozen=True)
class AuditSettings:
    """What `audit_documents` looks at.

    lid_model None: languages are not identified, and every document counts as English. descriptors None: a list of
    ours. toxicity None: it is not scored (see `load_toxicity`). token_counter makes a function from a text to its
    number of tokens.
    """

    lid_model: str | None = None
    lang_threshold: float = 0.5  # paper Table 10
    descriptors: str | None = None
    toxicity: str | None = None
    token_counter: Callable[[], Callable[[str], int]] | None = None
    skip_bad: bool = False


class Auditor:
    """Counts documents. Each key of its tally is the path of a number in the report."""

    def __init__(self, settings: AuditSettings) -> None:
        """Load what `settings` name; raises what the loaders do."""
        self.threshold = settings.lang_threshold
        self.identify: Identify | None = None
        if settings.lid_model is not None:
            self.identify = load_identifier(settings.lid_model, threshold=self.threshold)
        self.axes = {axis: Terms(terms) for axis, terms in load_descriptors(settings.descriptors).items()}
        asked = settings.toxicity
        self.toxicity = load_toxicity(asked) if asked is not None else None
        self.tokens = settings.token_counter and settings.token_counter()

    def __call__(self, items: Sequence[Item]) -> Tally:
        """The tally of some documents."""
        tally: Tally = Counter()
        for text, source in items:
            words = Words(text)
            tally["documents",] += 1
            self._source(tally, source, text, words)
            if self._english(tally, text):
                tally["english",] += 1
                self._pronouns(tally, words)
                self._identity(tally, words)
                if self.toxicity is not None:
                    tally["toxicity", bisect_right(EDGES, self.toxicity(text))] += 1
        return tally

    def _source(self, tally: Tally, source: str, text: str, words: Words) -> None:
        tally["source", source, "documents"] += 1
        tally["source", source, "words"] += words.count
        tally["source", source, "bytes"] += len(text.encode())
        if self.tokens is not None:
            tally["source", source, "tokens"] += self.tokens(text)

    def _english(self, tally: Tally, text: str) -> bool:
        if self.identify is None:
            return True
        language, probability = self.identify(text)
        language = language if probability >= self.threshold else UNKNOWN
        tally["language", language] += 1
        return language == ENGLISH

    def _pronouns(self, tally: Tally, words: Words) -> None:
        for group, rows in PRONOUNS.items():
            met = [row for row, pronouns in rows.items() if not words.unique.isdisjoint(pronouns)]
            tally.update(("pronoun", group, row) for row in met)
            tally["pronoun", group] += bool(met)

    def _identity(self, tally: Tally, words: Words) -> None:
        for axis, terms in self.axes.items():
            met = terms.found(words)
            tally.update(("identity", axis, term) for term in met)
            tally["identity", axis] += bool(met)


def _item(document: Record) -> Item:
    if document.get("source") is not None:
        document.need("source")
    return document.need("text"), source_of(document)


def _chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    characters = 0
    for item in items:
        chunk.append(item)
        characters += len(item[0])
        if len(chunk) == CHUNK_DOCUMENTS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _add(total: Tally, part: Tally, sources: set[str]) -> None:
    """total += part, with at most MAX_SOURCES of the `sources` met first."""
    for key, count in part.items():
        if key[0] == "source":
            if len(sources) < MAX_SOURCES:
                sources.add(key[1])
            key = key if key[1] in sources else (key[0], OTHER_SOURCES, key[2])
        total[key] += count


def audit_documents(
    paths: Sequence[str | Path],
    settings: AuditSettings,
    ledger: Ledger,
    *,
    jobs: int = 1,
    on_progress: OnProgress = ignore,
) -> dict[str, Any]:
    """The report (see `report_of`) on the documents of `paths` (none: stdin), the same for any number of `jobs`.

    Memory is some ten times the largest document's bytes for each job. Raises BadInput for a line that is no document,
    which goes to `ledger` instead with `settings.skip_bad`; what the loaders of `settings` raise; and L2Error when a
    process dies.
    """
    auditor = Auditor(settings)  # in this process too, so that what can't be loaded is said here
    on_bad = ledger.bad_line if settings.skip_bad else None
    items = good(read_records(paths, on_bad=on_bad), _item, on_bad)
    make = partial(Auditor, settings) if jobs > 1 else lambda: auditor
    total: Tally = Counter()
    sources: set[str] = set()
    for part in ordered_map(make, _chunks(items), jobs):
        _add(total, part, sources)
        on_progress(total["documents",] + ledger.total, None, f"{ledger.total:,} rejected")
    return report_of(total, settings, list(auditor.axes), ledger.total)


def share(count: int, of: int) -> dict[str, Any]:
    """{count, of, share, stderr}: the standard error is that of a share p of n documents, sqrt(p (1 - p) / n)."""
    if not of:
        return {"count": count, "of": of, "share": None, "stderr": None}
    p = count / of
    return {"count": count, "of": of, "share": p, "stderr": sqrt(p * (1 - p) / of)}


def _ranked(tally: Tally, *path: str) -> list[tuple[str, int]]:
    """The keys one step below `path`, most frequent first, then by name."""
    depth = len(path)
    found = [(key[depth], n) for key, n in tally.items() if key[:depth] == path and len(key) == depth + 1]
    return sorted(found, key=lambda pair: (-pair[1], str(pair[0])))


def report_of(tally: Tally, settings: AuditSettings, axes: Sequence[str], rejected: int) -> dict[str, Any]:
    """The report, ready for JSON.

    {in, audited, rejected, scope, documents, languages, pronouns, identity, toxicity, sources, settings}, where
    in = audited + rejected, and `documents` are those that pronouns, identity terms and toxicity are counted in: the
    English ones, as in the paper, or all where languages are not identified; `scope` says which. Then `languages` is
    None, and so is `toxicity` where nothing scores it. Shares are those of `share`.
    """
    audited, documents = tally["documents",], tally["english",]
    known = settings.lid_model is not None
    return {
        "in": audited + rejected,
        "audited": audited,
        "rejected": rejected,
        "scope": "English documents" if known else "documents",
        "documents": documents,
        "languages": {code: share(n, audited) for code, n in _ranked(tally, "language")} if known else None,
        "pronouns": {group: _pronouns(tally, group, documents) for group in PRONOUNS},
        "identity": {axis: _identity(tally, axis, documents) for axis in axes},
        "toxicity": _toxicity(tally, documents) if settings.toxicity is not None else None,
        "sources": _sources(tally, audited),
        "settings": {name: value for name, value in vars(settings).items() if name != "token_counter"},
    }


def _pronouns(tally: Tally, group: str, documents: int) -> dict[str, Any]:
    """Documents with any pronoun of the group, of all; and for each row of those (`rows`) and of all (`of_all`).

    The paper tells the gendered rows of Table 9a as shares of the documents with a gendered pronoun. It doesn't say
    how it tells persons; its layout suggests the same.
    """
    met = tally["pronoun", group]
    return share(met, documents) | {
        "rows": {row: share(tally["pronoun", group, row], met) for row in PRONOUNS[group]},
        "of_all": {row: share(tally["pronoun", group, row], documents) for row in PRONOUNS[group]},
    }


def _identity(tally: Tally, axis: str, documents: int) -> dict[str, Any]:
    """Documents with any term of the axis, of all; and for each term met the share of those (Table 9b)."""
    met = tally["identity", axis]
    terms = {term: share(n, met) for term, n in _ranked(tally, "identity", axis)}
    return share(met, documents) | {"terms": terms, "top": [term for term in terms if term not in AMBIGUOUS][:TOP]}


def _toxicity(tally: Tally, documents: int) -> dict[str, Any]:
    """Documents by score (Figure 13), and those at or above TOXIC."""
    bins = [tally["toxicity", i] for i in range(len(EDGES) + 1)]
    ends = zip([0.0, *EDGES], [*EDGES, 1.0], strict=True)
    histogram = [{"from": low, "to": high} | share(n, documents) for (low, high), n in zip(ends, bins, strict=True)]
    return share(sum(bins[EDGES.index(TOXIC) + 1 :]), documents) | {"threshold": TOXIC, "histogram": histogram}


def _sources(tally: Tally, audited: int) -> dict[str, Any]:
    """{source: {documents, words, bytes, tokens}}, most documents first; no tokens where nothing counts them."""
    rows: dict[str, dict[str, Any]] = {}
    for key, n in tally.items():
        if key[0] == "source":
            rows.setdefault(key[1], {})[key[2]] = n
    ranked = sorted(rows.items(), key=lambda pair: (-pair[1]["documents"], pair[0]))
    return {source: row | {"documents": share(row["documents"], audited)} for source, row in ranked}
