"""What is asked of one document at a time. A check looks at a document, may edit it, and tells its findings.

Findings come one by one, so that whoever stops at the first that fails measures nothing beyond it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from l2.files.errors import UsageError
from l2.files.jsonl import Record
from l2.files.ledger import Ledger
from l2.text.conditions import Condition, look_up
from l2.text.contamination import Contamination
from l2.text.language import Identify
from l2.text.lines import LINE_SETS, SeenLines, edited
from l2.text.private import blocked, replaced
from l2.text.quality import Finding, Page, Rule, findings
from l2.text.toxicity import Score

BUCKETS = ("head", "middle", "tail")  # CCNet §3.4

Check = Callable[[Record], Iterator[Finding]]


def _add_scores(document: Record, scores: dict[str, Any]) -> None:
    document["scores"] = (document.get("scores") or {}) | scores


def url_check(domains: frozenset[str]) -> Check:
    """A document comes from none of `domains`; one without a url passes."""

    def check(document: Record) -> Iterator[Finding]:
        domain = blocked(document.get("url") or "", domains)
        yield Finding("url_blocklist", domain, None, domain is None)

    return check


def line_check(sets: Collection[str], seen: SeenLines, ledger: Ledger, lines: Counter[str]) -> Check:
    """Something is left of a document without its faulty lines (see `edited`), which go to `ledger`.

    `sets` are of LINE_SETS; `seen` is asked for dedup alone. `lines` counts those {in, kept}. Raises UsageError for
    another set.
    """
    if unknown := sorted(set(sets) - set(LINE_SETS)):
        raise UsageError(f"no rules about lines {', '.join(unknown)!r}; there are {', '.join(LINE_SETS)}")
    c4, asked = "c4" in sets, seen if "dedup" in sets else None

    def check(document: Record) -> Iterator[Finding]:
        edit = edited(document["text"], c4, asked)
        document["text"] = edit.text
        for number, fault in edit.faults.items():
            ledger.drop_line(document, number, *fault)
        left = edit.were - len(edit.faults)
        lines.update({"in": edit.were, "kept": left})
        yield Finding("lines_left", left, 1, left >= 1)

    return check


def language_check(identify: Identify, languages: Sequence[str], threshold: float, seen: Counter[str]) -> Check:
    """A document is in one of `languages`, surely enough; scores {lang, lang_p}. `seen` counts the languages met."""
    asked = {"lang": list(languages), "lang_p": threshold}

    def check(document: Record) -> Iterator[Finding]:
        lang, lang_p = identify(document["text"])
        found = {"lang": lang, "lang_p": lang_p}
        sure = lang_p >= threshold
        seen[lang if sure else "unknown"] += 1
        _add_scores(document, found)
        yield Finding("language", found, asked, sure and lang in languages)

    return check


def quality_check(table: Sequence[Rule]) -> Check:
    """A document breaks no rule of `table`."""

    def check(document: Record) -> Iterator[Finding]:
        return findings(Page(document["text"]), table, (document.get("scores") or {}).get("lang"))

    return check


def measure_check(table: Sequence[Rule]) -> Check:
    """What the rules of `table` measure, whatever the language, as scores {rule: value}; nothing is held against it."""

    def check(document: Record) -> Iterator[Finding]:
        page = Page(document["text"])
        measures = {rule.name: rule.measure(page) for rule in table}
        _add_scores(document, measures)
        yield from (Finding(name, value, None, True) for name, value in measures.items())

    return check


def classifier_check(quality: Callable[[str], float], threshold: float) -> Check:
    """A document is good with a probability of at least `threshold`; scores {quality}."""

    def check(document: Record) -> Iterator[Finding]:
        score = quality(document["text"])
        _add_scores(document, {"quality": score})
        yield Finding("quality_model", score, threshold, score >= threshold)

    return check


def toxicity_check(toxicity: Score, threshold: float | None) -> Check:
    """A document is at most as toxic as `threshold`, if there is one; scores {toxicity}."""

    def check(document: Record) -> Iterator[Finding]:
        score = toxicity(document["text"])
        _add_scores(document, {"toxicity": score})
        yield Finding("toxicity", score, threshold, threshold is None or score <= threshold)

    return check


def perplexity_check(perplexity: Score, cuts: tuple[float, float] | None, seen: Counter[float]) -> Check:
    """A document's perplexity is below the upper of `cuts`, if there are any; scores {perplexity, bucket}.

    The bucket is head below the lower cut, middle, or tail (CCNet). `seen` counts the values.
    """

    def check(document: Record) -> Iterator[Finding]:
        value = perplexity(document["text"])
        seen[value] += 1
        _add_scores(document, {"perplexity": value})
        if cuts is not None:
            _add_scores(document, {"bucket": BUCKETS[sum(value >= cut for cut in cuts)]})
        yield Finding("perplexity", value, cuts and cuts[1], cuts is None or value < cuts[1])

    return check


def contamination_check(contamination: Contamination) -> Check:
    """A document shares no n-gram with an evaluation item; scores {contaminated: 0 or 1}."""

    def check(document: Record) -> Iterator[Finding]:
        match = contamination.find(document["text"])
        _add_scores(document, {"contaminated": int(match is not None)})
        yield Finding("contaminated", match and match._asdict(), None, match is None)

    return check


def private_check(drop: bool) -> Check:
    """Private information is replaced or, with `drop`, a document has none; scores {pii: {email, ip, phone}}."""

    def check(document: Record) -> Iterator[Finding]:
        text, counts = replaced(document["text"])
        if not drop:
            document["text"] = text
        _add_scores(document, {"pii": counts})
        yield Finding("pii", counts, 0 if drop else None, not (drop and any(counts.values())))

    return check


def condition_check(conditions: Sequence[Condition]) -> Check:
    """All `conditions` hold for a document's fields; the rule is the field, the threshold the condition's text."""

    def check(document: Record) -> Iterator[Finding]:
        for condition in conditions:
            value = look_up(document, condition.field)
            yield Finding(condition.field, value, condition.text, condition.holds(value))

    return check
