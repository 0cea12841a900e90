"""What `l2 filter` asks of one document after another: settings, the checks they stand for, one ledger row a loss.

A check looks at one document alone (l2/text/checks.py); copies need all documents (l2/text/copies.py), and
l2/text/filtering.py does both to a whole corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import OnBad, Record
from l2.files.ledger import Ledger
from l2.text.checks import (
    Check,
    classifier_check,
    condition_check,
    language_check,
    line_check,
    measure_check,
    private_check,
    quality_check,
    toxicity_check,
    url_check,
)
from l2.text.classifier import load_quality
from l2.text.conditions import parse_conditions
from l2.text.language import load_identifier
from l2.text.lines import SeenLines
from l2.text.private import read_blocklist
from l2.text.quality import DEFAULT_SETS, MIN_SENTENCES, MIN_WORDS, rules
from l2.text.toxicity import load_toxicity

Privacy = Literal["keep", "replace", "drop"]
Dedup = Literal["minhash", "exact", "none"]
OPTIONAL: dict[str, type | tuple[type, ...]] = {"id": (str, int, float), "scores": dict, "url": str}


@dataclass(frozen=True)
class FilterSettings:
    """What `filter_documents` keeps. No languages: all, unidentified. minhash includes exact.

    toxicity_threshold None: toxicity is scored and left in, as the paper does (§4.1). score_only: documents get the
    scores of every check, and all are kept; thresholds stand idle.
    """

    url_blocklists: tuple[str, ...] = ()
    c4_lines: bool = False
    dedup_lines: bool = False
    languages: tuple[str, ...] = ()
    lang_threshold: float = 0.5
    lid_model: str | None = None
    quality: tuple[str, ...] = DEFAULT_SETS
    min_words: int = MIN_WORDS
    min_sentences: int = MIN_SENTENCES
    quality_model: str | None = None
    quality_threshold: float = 0.5
    toxicity_words: str | None = None
    toxicity_model: str | None = None
    toxicity_threshold: float | None = None
    pii: Privacy = "keep"
    where: tuple[str, ...] = ()
    score_only: bool = False
    dedup: Dedup = "minhash"
    skip_bad: bool = False


def read_documents(records: Iterable[Record], on_bad: OnBad | None) -> Iterator[Record]:
    """Documents with a `text` and an `id`: where it is missing, "file:line". `scores` and `url` may be missing.

    Raises BadInput (or hands it to `on_bad`) for a record that is no document.
    """
    for record in records:
        try:
            record.need("text")
            for name, kind in OPTIONAL.items():
                if record.get(name) is not None:
                    record.need(name, kind)
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
    """What checks count beside the ledger: documents by language, lines {in, kept} where lines are dropped."""

    languages: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)


def load_checks(settings: FilterSettings, ledger: Ledger, tally: Tally, seen: SeenLines | None = None) -> list[Check]:
    """What is asked of each document, in order; lines, language, quality stand as in LLaMA-1's pipeline.

    `seen` tells whether a line was read before; by default it is what these checks themselves have read.
    Conditions come last, so that they see every score. Raises UsageError for settings that contradict one another,
    and what `read_blocklist`, `load_identifier`, `rules`, `load_quality`, `load_toxicity`, `parse_conditions` raise.
    """
    _agree(settings)
    checks: list[Check] = []
    if settings.url_blocklists:
        checks.append(url_check(read_blocklist(settings.url_blocklists)))
    if settings.c4_lines or settings.dedup_lines:
        repeated = (SeenLines() if seen is None else seen) if settings.dedup_lines else None
        checks.append(line_check(settings.c4_lines, repeated, ledger, tally.lines))
    if settings.languages:
        identify = load_identifier(settings.lid_model, settings.languages)
        checks.append(language_check(identify, settings.languages, settings.lang_threshold, tally.languages))
    if table := rules(settings.quality, settings.min_words, settings.min_sentences):
        checks.append(measure_check(table) if settings.score_only else quality_check(table))
    if settings.quality_model is not None:
        checks.append(classifier_check(load_quality(settings.quality_model), settings.quality_threshold))
    toxicity = load_toxicity(settings.toxicity_words, settings.toxicity_model)
    if toxicity is not None:
        checks.append(toxicity_check(toxicity, settings.toxicity_threshold))
    elif settings.toxicity_threshold is not None:
        raise UsageError("a threshold of toxicity needs words or a model to score by")
    if settings.pii != "keep":
        checks.append(private_check(drop=settings.pii == "drop"))
    if settings.where:
        checks.append(condition_check(parse_conditions(settings.where)))
    return checks


def _agree(settings: FilterSettings) -> None:
    """Raises UsageError where something that drops or changes a text is asked for together with `score_only`."""
    asked = {
        "a URL block list": settings.url_blocklists,
        "dropping lines": settings.c4_lines or settings.dedup_lines,
        "replacing private information": settings.pii == "replace",
        "a condition": settings.where,
        "dropping copies": settings.dedup != "none",
    }
    if settings.score_only and (against := [what for what, is_asked in asked.items() if is_asked]):
        raise UsageError(f"scoring only leaves every document as it is; {against[0]} is asked for too")


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


def passed(
    documents: Iterable[Record], checks: Sequence[Check], ledger: Ledger, settings: FilterSettings
) -> Iterator[Record]:
    """Documents as `settings` want them after `checks`: all of them scored, or those that pass."""
    return scored(documents, checks) if settings.score_only else judged(documents, checks, ledger)
