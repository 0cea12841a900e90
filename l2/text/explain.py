"""Why is this document kept, or dropped? Every rule asked of it, none skipped because an earlier one failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from l2.files.errors import L2Error, UsageError
from l2.files.jsonl import Record, read_records
from l2.files.ledger import Ledger
from l2.text.copies import find_copies, repeated
from l2.text.mapped import MappedPart, PartWriter, corpus_of, forget_open_parts
from l2.text.pipeline import Dedup, FilterSettings, Reader, Tally, judged, load_checks
from l2.text.quality import Finding

COPIES = {"none": (), "exact": ("exact_duplicate",), "minhash": ("exact_duplicate", "near_duplicate")}


class _RowsOf:
    """A ledger's writer that keeps the rows of one document."""

    def __init__(self, identity: str) -> None:
        self.identity, self.rows = identity, list[Mapping[str, Any]]()

    def write(self, record: Mapping[str, Any]) -> None:
        if str(record["id"]) == self.identity:
            self.rows.append(record)


def explain(paths: Sequence[str | Path], identity: str, settings: FilterSettings) -> list[dict[str, Any]]:
    """One row {id, rule, value, threshold, verdict} for each rule that `settings` ask of the document `identity`.

    Verdicts are "pass" and "reject", and "drop line" in rows with a `text_line`. The first "reject" is the row that the
    ledger of `filter_documents` would have. What depends on other documents is measured against those before this one
    that would be kept; nothing is read beyond it, and of an exact copy it is not asked whether it is a near one. So
    the row of a near copy says nothing of clusters that are held back, which only the whole corpus tells.

    Raises L2Error when there is no such document, UsageError where `settings` only score, and what
    `filter_documents` raises.
    """
    if settings.score_only:
        raise UsageError("scoring only drops no document, so that there is nothing to explain")
    writer = _RowsOf(identity)
    ledger = Ledger(writer)
    reader = Reader(ledger, settings.skip_bad)
    checks = load_checks(settings, ledger, Tally())
    rows: list[dict[str, Any]] = []

    def until_found() -> Iterator[Record]:
        """Documents that would be kept, then the one in question whatever is found."""
        for document in reader.documents(read_records(paths, on_bad=reader.on_bad)):
            if str(document["id"]) != identity:
                yield from judged((document,), checks, ledger)
                continue
            found = [finding for check in checks for finding in check(document)]
            rows.extend(_row(identity, row, "drop line") for row in writer.rows)
            rows.extend(_row(identity, finding._asdict(), _verdict(finding)) for finding in found)
            writer.rows.clear()
            yield document
            return
        raise L2Error(f"no document has the id {identity!r}")

    copy = _copy(until_found(), settings.dedup)
    for rule in COPIES[settings.dedup]:
        if copy is not None and copy["rule"] == rule:
            return [*rows, _row(identity, copy, "reject")]
        rows.append(_row(identity, {"rule": rule, "value": None, "threshold": None}, "pass"))
    return rows


def _copy(documents: Iterable[Record], dedup: Dedup) -> dict[str, Any] | None:
    """{rule, value, threshold} of the last of `documents` where it is a copy of an earlier one."""
    with TemporaryDirectory(prefix="l2-filter-") as directory:
        part = Path(directory, "part")
        part.mkdir()
        writer = PartWriter(part, dedup)
        for document in documents:
            writer.keep(document)
        writer.finish({"shown": ""})
        if dedup == "none":
            return None
        corpus = corpus_of([MappedPart(part)])
        copies = find_copies(corpus, dedup == "minhash", Path(directory, "copies"), _here, 1)
        found = None
        for number, rule, of, likeness in copies.in_order():
            if number == len(corpus) - 1:
                found = dict(zip(("rule", "value", "threshold"), repeated(corpus, rule, of, likeness), strict=True))
        forget_open_parts()
        return found


def _here(make: Callable[[], Callable[[Any], Any]], tasks: Iterable[Any]) -> Iterable[Any]:
    return map(make(), tasks)


def _verdict(finding: Finding) -> str:
    return "pass" if finding.passes else "reject"


def _row(identity: str, found: Mapping[str, Any], verdict: str) -> dict[str, Any]:
    shown = {key: found[key] for key in ("text_line", "rule", "value", "threshold") if key in found}
    return {"id": identity, **shown, "verdict": verdict}
