"""What `l2 filter` asks of one document after another: settings, the checks they stand for, one ledger row a loss.

A check looks at one document alone (l2/text/checks.py); copies need all documents (l2/text/copies.py), and
l2/text/filtering.py does both to a whole corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from l2.files.errors import BadInput, UsageError
from l2.files.jsonl import OnBad, Record, expand, good
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
from l2.text.language import load_identifier
from l2.text.lines import SeenLines
from l2.text.private import read_blocklist
from l2.text.quality import DEFAULT_SETS, RULE_SETS, rule_set, rules
from l2.text.thresholds import Threshold, agree, cuts, share
from l2.text.toxicity import Score, load_toxicity, named_label

Privacy = Literal["keep", "replace", "drop"]
Load = Callable[[str], Score]  # what makes a score of a path
Dedup = Literal["minhash", "exact", "none"]
OPTIONAL: dict[str, type | tuple[type, ...]] = {"id": (str, int, float), "scores": dict, "url": str}


@dataclass(frozen=True)
class FilterSettings:
    """What `filter_documents` keeps. No languages: all, unidentified. minhash includes exact.

    thresholds are by name: lang and quality (each 0.5 or more, else), toxicity (else scored and left in, as the paper
    does, §4.1), perplexity (two that cut it into buckets, of which the tail goes; else scored and left in), and those
    of the quality rules. score_only: documents get the scores of every check, and all are kept; thresholds stand idle.
    load_perplexity makes a score of perplexity_model (models live in a room below); processes find it by its name.
    """

    url_blocklists: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    lid_model: str | None = None
    quality: tuple[str, ...] = DEFAULT_SETS
    quality_model: str | None = None
    decontaminate: tuple[str, ...] = ()
    toxicity: str | None = None
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    perplexity_model: str | None = None
    load_perplexity: Load | None = None
    pii: Privacy = "keep"
    where: tuple[str, ...] = ()
    score_only: bool = False
    dedup: Dedup = "minhash"
    skip_bad: bool = False

    def shown(self) -> dict[str, Any]:
        """All settings that are no function, for reports."""
        return {name: value for name, value in asdict(self).items() if name != "load_perplexity"}

    def files(self) -> list[str]:
        """The files that are read beside documents: lists, tasks, models, and what stands in models' directories."""
        toxicity = named_label(self.toxicity)[1] if self.toxicity is not None else None
        models = (self.lid_model, self.quality_model, toxicity, self.perplexity_model)
        named = map(Path, [*self.url_blocklists, *expand(self.decontaminate), *(model for model in models if model)])
        found = [file for path in named for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
        return [str(file) for file in found if file.is_file()]

    @property
    def needs_torch(self) -> bool:
        """Whether a check runs a neural network."""
        return self.perplexity_model is not None or (
            self.toxicity is not None and named_label(self.toxicity)[1].is_dir()
        )


def _document(record: Record) -> Record:
    record.need("text")
    for name, kind in OPTIONAL.items():
        if record.get(name) is not None:
            record.need(name, kind)
    if record.get("id") is None:
        record["id"] = record.where
    return record


def read_documents(records: Iterable[Record], on_bad: OnBad | None) -> Iterator[Record]:
    """Documents with a `text` and an `id`: where it is missing, "file:line". `scores` and `url` may be missing.

    Raises BadInput (or hands it to `on_bad`) for a record that is no document.
    """
    return good(records, _document, on_bad)


class Reader:
    """Reads documents; `count` has how many, with the bad ones that go to `ledger` where `skip_bad`."""

    def __init__(self, ledger: Ledger, skip_bad: bool, on_progress: OnProgress = ignore) -> None:
        self._ledger, self._on_progress = ledger, on_progress
        self.count = 0
        self.on_bad: OnBad | None = self._skip if skip_bad else None

    def _skip(self, error: BadInput) -> None:
        self.count += 1
        self._ledger.bad_line(error)

    def documents(self, records: Iterable[Record]) -> Iterator[Record]:
        """Those of `records`, which are read with our `on_bad` (see `read_documents`)."""
        for document in read_documents(records, self.on_bad):
            self.count += 1
            if self.count % 100 == 0:
                self._on_progress(self.count, None, f"{self._ledger.total:,} rejected")
            yield document


@dataclass
class Tally:
    """What checks count beside the ledger: lines {in, kept}, documents by language and perplexity."""

    languages: Counter[str] = field(default_factory=Counter)
    perplexity: Counter[float] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)


def load_checks(settings: FilterSettings, ledger: Ledger, tally: Tally, seen: SeenLines | None = None) -> list[Check]:
    """What is asked of each document, in order; lines, language, quality stand as in LLaMA-1's pipeline.

    `seen` tells whether a line was read before; by default it is what these checks themselves have read.
    Conditions come last, so that they see every score. Raises UsageError for settings that contradict one another,
    and what the readers and loaders of what they name raise.
    """
    _agree(settings)
    thresholds = settings.thresholds
    checks: list[Check] = []
    if settings.url_blocklists:
        checks.append(url_check(read_blocklist(settings.url_blocklists)))
    if settings.lines:
        checks.append(line_check(settings.lines, SeenLines() if seen is None else seen, ledger, tally.lines))
    if settings.languages:
        least = share(thresholds, "lang", 0.5)
        identify = load_identifier(settings.lid_model, settings.languages, least)
        checks.append(language_check(identify, settings.languages, least, tally.languages))
    if table := rules(settings.quality, thresholds):
        checks.append(measure_check(table) if settings.score_only else quality_check(table))
    if settings.decontaminate:
        checks.append(contamination_check(Contamination(read_items(settings.decontaminate))))
    checks += _model_checks(settings, tally)
    if settings.pii != "keep":
        checks.append(private_check(drop=settings.pii == "drop"))
    if settings.where:
        checks.append(condition_check(parse_conditions(settings.where)))
    return checks


def _model_checks(settings: FilterSettings, tally: Tally) -> Iterator[Check]:
    """What models are asked of documents, the fastest first."""
    thresholds = settings.thresholds
    if settings.quality_model is not None:
        yield classifier_check(load_quality(settings.quality_model), share(thresholds, "quality", 0.5))
    if settings.toxicity is not None:
        toxicity = load_toxicity(settings.toxicity)
        yield toxicity_check(toxicity, share(thresholds, "toxicity", None))
    if settings.perplexity_model is not None:
        if settings.load_perplexity is None:
            raise UsageError("who scores perplexity must be given, as l2.eval.perplexity.load_perplexity")
        perplexity = settings.load_perplexity(settings.perplexity_model)
        yield perplexity_check(perplexity, cuts(thresholds, "perplexity"), tally.perplexity)


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


def passed(
    documents: Iterable[Record], checks: Sequence[Check], ledger: Ledger, settings: FilterSettings
) -> Iterator[Record]:
    """Documents as `settings` want them after `checks`: all of them scored, or those that pass."""
    return scored(documents, checks) if settings.score_only else judged(documents, checks, ledger)
