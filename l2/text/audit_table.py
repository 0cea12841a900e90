"""A report of `l2.text.audit` as a table for people, with the paper's figures beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from l2.files.columns import aligned, plain
from l2.text.audit import share

SHOWN_SOURCES = 20
LEAST_LANGUAGE = 0.00005  # paper Table 10 leaves out languages below 0.005 %
BAR = 40  # characters of a histogram's longest bar

# Percentages of paper Table 10, Table 9a and Table 9b.
# fmt: off
PAPER_LANGUAGES = {
    "en": 89.70, "unknown": 8.38, "de": 0.17, "fr": 0.16, "sv": 0.15, "zh": 0.13, "es": 0.13, "ru": 0.13, "nl": 0.12,
    "it": 0.11, "ja": 0.10, "pl": 0.09, "pt": 0.09, "vi": 0.08, "uk": 0.07, "ko": 0.06, "ca": 0.04, "sr": 0.04,
    "id": 0.03, "cs": 0.03, "fi": 0.03, "hu": 0.03, "no": 0.03, "ro": 0.03, "bg": 0.02, "da": 0.02, "sl": 0.01,
    "hr": 0.01,
}
PAPER_PRONOUNS = {
    "gender": 75.23, "she": 28.45, "he": 50.73, "unspecified": 86.38,
    "person": 94.47, "1st": 70.71, "2nd": 61.80, "3rd": 93.07,
}
# fmt: on
PAPER_IDENTITY = {
    "gender sex": 5.91,
    "sexual orientation": 6.67,
    "nationality": 14.83,
    "race ethnicity": 19.51,
    "religion": 7.93,
}


def table(report: dict[str, Any]) -> str:
    """Lines for a terminal, each ended: what `report_of` counted, in the order of the paper's questions."""
    parts = [
        list(_summary(report)),
        list(_languages(report)),
        list(_pronouns(report)),
        list(_identity(report)),
        list(_toxicity(report)),
        list(_sources(report)),
    ]
    return "\n".join(f"{title}\n" + (f"{aligned(rows)}\n" if rows else "") for title, *rows in parts)


def _summary(report: dict[str, Any]) -> Iterator[Any]:
    yield f"{report['in']:,} documents read, {report['audited']:,} audited, {report['rejected']:,} rejected"


def _languages(report: dict[str, Any]) -> Iterator[Any]:
    languages = report["languages"]
    if languages is None:
        yield "Languages: not identified; below, every document counts as English"
        return
    yield f"Languages (paper Table 10; {report['settings']['lang_threshold']:g} or more sure, else unknown)"
    yield "", "documents", "% of all", "paper"
    rare = 0
    for code, found in languages.items():
        if found["share"] < LEAST_LANGUAGE:
            rare += found["count"]
        else:
            yield code, _count(found), _percent(found), _paper(PAPER_LANGUAGES.get(code))
    if rare:
        yield "rarer", f"{rare:,}"


def _pronouns(report: dict[str, Any]) -> Iterator[Any]:
    yield f"Pronouns in {report['documents']:,} {report['scope']} (paper Table 9a: % of those with any of the group)"
    yield "", "documents", "% of all", "% of those", "paper"
    for group, found in report["pronouns"].items():
        yield f"{group}: any", _count(found), _percent(found), "", _paper(PAPER_PRONOUNS[group])
        for row, of_those in found["rows"].items():
            shares = _percent(found["of_all"][row]), _percent(of_those)
            yield f"  {row}", _count(of_those), *shares, _paper(PAPER_PRONOUNS[row])


def _identity(report: dict[str, Any]) -> Iterator[Any]:
    yield (
        f"Identity terms in {report['documents']:,} {report['scope']} "
        f"(paper Table 9b; descriptors: {report['settings']['descriptors'] or 'built in'})"
    )
    yield "", "documents", "% of all", "% of those", "paper"
    for axis, found in report["identity"].items():
        yield plain(axis), _count(found), _percent(found), "", _paper(PAPER_IDENTITY.get(_kernel(axis)))
        for term in found["top"]:
            yield f"  {plain(term)}", _count(found["terms"][term]), "", _percent(found["terms"][term]), ""


def _toxicity(report: dict[str, Any]) -> Iterator[Any]:
    toxicity = report["toxicity"]
    if toxicity is None:
        yield "Toxicity: not scored; --toxicity does"
        return
    by = report["settings"]["toxicity"]
    yield f"Toxicity of {report['documents']:,} {report['scope']} (paper Figure 13; by {by})"
    yield "score", "documents", "% of all", "paper"
    most = max(found["count"] for found in toxicity["histogram"])
    for found in toxicity["histogram"]:
        bar = "#" * round(BAR * found["count"] / most) if most else ""
        yield f"{found['from']:.1f}-{found['to']:.1f}", _count(found), _percent(found), "", bar
    yield f">= {toxicity['threshold']}", _count(toxicity), _percent(toxicity), "0.2"


def _sources(report: dict[str, Any]) -> Iterator[Any]:
    sources = list(report["sources"].items())
    units = [unit for unit in ("words", "bytes", "tokens") if any(unit in row for _, row in sources)]
    by = "tokens" if "tokens" in units else "words"
    yield f"Sources: {len(sources):,}" + ("" if by == "tokens" else " (--tokenizer counts their tokens)")
    yield "", "documents", *units, f"% of {by}"
    whole = sum(row[by] for _, row in sources)
    for name, row in sources[:SHOWN_SOURCES]:
        of_whole = _percent(share(row[by], whole), error=False)
        yield plain(name), _count(row["documents"]), *_totals([row], units), of_whole
    for name, rows in ("others", sources[SHOWN_SOURCES:]), ("all", sources):
        if rows:
            documents = sum(row["documents"]["count"] for _, row in rows)
            yield name, f"{documents:,}", *_totals([row for _, row in rows], units)


def _totals(rows: Sequence[dict[str, Any]], units: Sequence[str]) -> list[str]:
    return [f"{sum(row[unit] for row in rows):,}" for unit in units]


def _count(found: dict[str, Any]) -> str:
    return f"{found['count']:,}"


def _percent(found: dict[str, Any], error: bool = True) -> str:
    if found["share"] is None:
        return "-"
    return f"{100 * found['share']:.2f}" + (f" ± {100 * found['stderr']:.2f}" if error else "")


def _kernel(axis: str) -> str:
    """An axis without "and": the paper's "race and ethnicity" is HolisticBias's "race_ethnicity"."""
    return " ".join(word for word in axis.lower().replace("_", " ").split() if word != "and")


def _paper(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.2f}"
