"""Documents in, documents worth training on out, one ledger row a loss.

What is asked of one document alone is a check (l2/text/checks.py); copies need all documents (l2/text/copies.py). Every
stage is a generator over records and rejects into the ledger, so that all but the last one stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import Record, RecordWriter, read_records
from l2.files.ledger import Ledger
from l2.files.progress import OnProgress, ignore
from l2.text.checks import (
    Check,
    classifier_check,
    condition_check,
    contamination_check,
    language_check,
    line_check,
    measure_check,
    perplexity_check,
    private_check,
    quality_check,
    toxicity_check,
    url_check,
)
from l2.text.classifier import load_quality
from l2.text.conditions import parse_conditions
from l2.text.contamination import Contamination, read_items
from l2.text.copies import without_copies, without_near_copies
from l2.text.duplicates import NORMALISATION
from l2.text.language import load_identifier
from l2.text.private import read_blocklist
from l2.text.quality import DEFAULT_SETS, RULE_SETS, rule_set, rules
from l2.text.thresholds import Threshold, agree, cuts, share
from l2.text.toxicity import Score, load_toxicity

Privacy = Literal["keep", "replace", "drop"]
Load = Callable[[str], Score]  # what makes a score of a path
Dedup = Literal["minhash", "exact", "none"]


@dataclass(frozen=True)
class FilterSettings:
    """What `filter_documents` keeps. No languages: all, unidentified. minhash includes exact.

    thresholds are by name: lang and quality (each 0.5 or more, else), toxicity (else scored and left in, as the paper
    does, §4.1), perplexity (two that cut it into buckets, of which the tail goes; else scored and left in), and those
    of the quality rules. score_only: documents get the scores of every check, and all are kept; thresholds stand idle.
    """

    url_blocklists: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    lid_model: str | None = None
    quality: tuple[str, ...] = DEFAULT_SETS
    quality_model: str | None = None
    decontaminate: tuple[str, ...] = ()
    toxicity: str | None = None
    toxicity_label: str = "toxic"
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    perplexity_model: str | None = None
    pii: Privacy = "keep"
    where: tuple[str, ...] = ()
    score_only: bool = False
    dedup: Dedup = "minhash"
    skip_bad: bool = False


def read_documents(paths: Sequence[str | Path], on_bad: Callable[[BadInput], None] | None) -> Iterator[Record]:
    """Documents with a `text` and an `id`: where it is missing, "file:line". `scores` and `url` may be missing too.

    Raises BadInput (or hands it to `on_bad`) for a line that is no document.
    """
    for record in read_records(paths, on_bad=on_bad):
        try:
            record.need("text")
            if record.get("scores") is not None:
                record.need("scores", dict)
            if record.get("url") is not None:
                record.need("url")
        except BadInput as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        if record.get("id") is None:
            record["id"] = record.where
        yield record


@dataclass
class Tally:
    """What checks count beside the ledger: lines {in, kept}, documents by language and perplexity."""

    languages: Counter[str] = field(default_factory=Counter)
    perplexity: Counter[float] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)


def load_checks(
    settings: FilterSettings, ledger: Ledger, tally: Tally, load_perplexity: Load | None = None
) -> list[Check]:
    """What is asked of each document, in order; lines, language, quality stand as in LLaMA-1's pipeline.

    Conditions come last, so that they see every score. Raises UsageError for settings that contradict one another,
    and what the readers and loaders of what they name raise.
    """
    _agree(settings)
    thresholds = settings.thresholds
    checks: list[Check] = []
    if settings.url_blocklists:
        checks.append(url_check(read_blocklist(settings.url_blocklists)))
    if settings.lines:
        checks.append(line_check(settings.lines, ledger, tally.lines))
    if settings.languages:
        least = share(thresholds, "lang", 0.5)
        identify = load_identifier(settings.lid_model, settings.languages, least)
        checks.append(language_check(identify, settings.languages, least, tally.languages))
    if table := rules(settings.quality, thresholds):
        checks.append(measure_check(table) if settings.score_only else quality_check(table))
    if settings.decontaminate:
        checks.append(contamination_check(Contamination(read_items(settings.decontaminate))))
    checks += _model_checks(settings, tally, load_perplexity)
    if settings.pii != "keep":
        checks.append(private_check(drop=settings.pii == "drop"))
    if settings.where:
        checks.append(condition_check(parse_conditions(settings.where)))
    return checks


def _model_checks(settings: FilterSettings, tally: Tally, load_perplexity: Load | None) -> Iterator[Check]:
    """What models are asked of documents, the fastest first."""
    thresholds = settings.thresholds
    if settings.quality_model is not None:
        yield classifier_check(load_quality(settings.quality_model), share(thresholds, "quality", 0.5))
    if settings.toxicity is not None:
        toxicity = load_toxicity(settings.toxicity, settings.toxicity_label)
        yield toxicity_check(toxicity, share(thresholds, "toxicity", None))
    if settings.perplexity_model is not None:
        if load_perplexity is None:
            raise UsageError("who scores perplexity must be given, as l2.eval.perplexity.load_perplexity")
        limits = cuts(thresholds, "perplexity")
        yield perplexity_check(load_perplexity(settings.perplexity_model), limits, tally.perplexity)


def _agree(settings: FilterSettings) -> None:
    """Raises UsageError where something that drops or changes a text is asked for together with `score_only`.

    And for a threshold that nothing is held against.
    """
    asked = {
        "a URL block list": settings.url_blocklists,
        "dropping lines": settings.lines,
        "replacing private information": settings.pii == "replace",
        "a condition": settings.where,
        "dropping copies": settings.dedup != "none",
    }
    if settings.score_only and (against := [what for what, is_asked in asked.items() if is_asked]):
        raise UsageError(f"scoring only leaves every document as it is; {against[0]} is asked for too")
    measured = {
        "lang": ("--lang", bool(settings.languages)),
        "quality": ("--quality-model", settings.quality_model is not None),
        "toxicity": ("--toxicity", settings.toxicity is not None),
        "perplexity": ("--perplexity-model", settings.perplexity_model is not None),
    } | {
        rule.name: (f"--quality {rule_set(rule.name)}", rule_set(rule.name) in settings.quality)
        for rule in rules(RULE_SETS)
    }
    agree(settings.thresholds, measured)


def scored(documents: Iterable[Record], checks: Sequence[Check]) -> Iterator[Record]:
    """All documents, with the scores that `checks` add; findings don't count."""
    for document in documents:
        for check in checks:
            for _ in check(document):
                pass
        yield document


def judged(documents: Iterable[Record], checks: Sequence[Check], ledger: Ledger) -> Iterator[Record]:
    """Documents that pass all `checks`. The first finding against a document is its row; no more is measured."""
    for document in documents:
        against = next((found for check in checks for found in check(document) if not found.passes), None)
        if against is None:
            yield document
        else:
            ledger.reject_record(document, against.rule, against.value, against.threshold)


def without_any_copies(documents: Iterable[Record], dedup: Dedup, ledger: Ledger) -> Iterator[Record]:
    """Documents that are no copy of an earlier one, in the sense of `dedup`."""
    if dedup != "none":
        documents = without_copies(documents, ledger)
    if dedup == "minhash":
        documents = without_near_copies(documents, ledger)
    yield from documents


def filter_documents(
    paths: Sequence[str | Path],
    writer: RecordWriter,
    ledger: Ledger,
    settings: FilterSettings,
    *,
    load_perplexity: Load | None = None,
    on_progress: OnProgress = ignore,
) -> dict[str, Any]:
    """Write to `writer` the documents of `paths` (none: stdin) worth training on; the rest goes to `ledger`.

    Copies come last, so that of those the survivor is always kept. Returns the report: {in, kept, rejected, rules,
    lines, languages, perplexity, settings, normalisation}, where in = kept + rejected, for lines too. Raises BadInput
    for a line that is no document unless `settings.skip_bad`, and what `load_checks` raises.
    """
    tally = Tally()
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

    checks = load_checks(settings, ledger, tally, load_perplexity)
    passed = scored(counted(), checks) if settings.score_only else judged(counted(), checks, ledger)
    documents = without_any_copies(passed, settings.dedup, ledger)
    for document in documents:
        writer.write(document)
        kept += 1
    on_progress(read, read, f"{ledger.total:,} rejected")
    assert read == kept + ledger.total, "every document is kept or in the ledger"
    assert tally.lines["in"] == tally.lines["kept"] + ledger.lines.total(), "so is every line"
    return _report(read, kept, ledger, tally, settings)


def percentiles(values: Mapping[float, int]) -> dict[str, float]:
    """Where CCNet cuts (§3.4): the least of the counted `values` that 30 %, and 60 %, do not exceed."""
    total, reached, found = sum(values.values()), 0, dict[str, float]()
    for value, count in sorted(values.items()):
        reached += count
        for percent in (30, 60):
            if 100 * reached >= percent * total:
                found.setdefault(f"p{percent}", value)
    return found


def _report(read: int, kept: int, ledger: Ledger, tally: Tally, settings: FilterSettings) -> dict[str, Any]:
    dropped = {"dropped": ledger.lines.total(), "rules": dict(ledger.lines.most_common())}
    return {
        "in": read,
        "kept": kept,
        "rejected": ledger.total,
        "rules": dict(ledger.counts.most_common()),
        "lines": {"in": tally.lines["in"], "kept": tally.lines["kept"]} | dropped,
        "languages": dict(tally.languages.most_common()),
        "perplexity": percentiles(tally.perplexity) if tally.perplexity else None,
        "settings": asdict(settings),
        "normalisation": NORMALISATION,
    }
