"""A report of `l2.eval.preferences` as a table for people, with the paper's figures beside ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from l2.align.losses import RATINGS
from l2.files.columns import aligned, plain

# Paper Table 6, Meta's own data, and §3.2.1.
PAPER_SIZES = ("paper's Meta", "1,418,091", "3.9", "798.5", "31.4", "234.1")
PAPER_SAFETY = {"chosen_safe": "18", "both_safe": "47", "both_unsafe": "35"}
SHOWN_ANNOTATORS = 20
DRIFT = 2.0  # |Z| above which a share is said to drift (ours)


def preference_table(report: dict[str, Any]) -> str:
    """Lines for a terminal, each ended."""
    parts = [
        (f"Comparisons, in {report['unit']} (paper Tables 6 and 26)", _sizes(report)),
        ("Ratings by batch, % (paper Figure 25)", _ratings(report["ratings"])),
        ("Safety labels, % (paper §3.2.1)", _safety(report["safety"])),
        ("Pairs that teach nothing, or teach the opposite", _trouble(report)),
        ("What annotators lean to, % (50 is no leaning)", _leanings(report)),
    ]
    told = [(title, list(rows)) for title, rows in parts]
    return "\n".join(f"{title}\n{aligned(rows)}\n" for title, rows in told if rows)


def _sizes(report: dict[str, Any]) -> Iterator[Sequence[str]]:
    yield "", "comparisons", "turns", "per example", "per prompt", "per response"
    for kind, rows in ("source", report["sources"]), ("batch", report["batches"]):
        for name, row in rows.items():
            yield f"{kind} {plain(name)}", *_cells(row)
    yield "all", *_cells(report["all"])
    yield PAPER_SIZES


def _cells(row: dict[str, Any]) -> list[str]:
    return [f"{row['comparisons']:,}", *(f"{row[name]:.1f}" for name in ("turns", "example", "prompt", "response"))]


def _ratings(ratings: dict[str, Any] | None) -> Iterator[Sequence[str]]:
    if ratings is None:
        return
    yield "", "rated", *RATINGS
    for name, row in (*ratings["batches"].items(), ("all", ratings["all"])):
        rated = sum(found["count"] for found in row.values())
        yield plain(name), f"{rated:,}", *(_percent(row[rating]) for rating in RATINGS)
    if len(ratings["batches"]) > 1:
        drifts = [ratings["drift_z"][rating] for rating in RATINGS]
        yield "drift, Z", "", *("-" if z is None else f"{z:+.1f}{'!' if abs(z) > DRIFT else ''}" for z in drifts)


def _safety(safety: dict[str, Any] | None) -> Iterator[Sequence[str]]:
    for label, found in (safety or {}).items():
        yield plain(label), f"{found['count']:,}", _percent(found), PAPER_SAFETY.get(label, "")


def _trouble(report: dict[str, Any]) -> Iterator[Sequence[str]]:
    for name, says in (
        ("duplicate", "the same preference again"),
        ("contradictory", "the same answers, the other way round"),
        ("equal", "chosen equal to rejected"),
    ):
        found = report[name]
        where = f", first at {found['where'][0]}" if found["where"] else ""
        yield f"{says}{where}", f"{found['count']:,}", f"{100 * found['share']:.2f}"


def _leanings(report: dict[str, Any]) -> Iterator[Sequence[str]]:
    rows = sorted(report["annotators"].items(), key=lambda row: -row[1]["pairs"])
    yield "", "pairs", "chose the longer", "chose the first shown"
    for name, found in (*rows[:SHOWN_ANNOTATORS], ("all", report["leanings"])):
        told = ("-" if found[of] is None else _percent(found[of]) for of in ("chose_longer", "chose_first"))
        yield plain(name), f"{found['pairs']:,}", *told


def _percent(found: dict[str, Any]) -> str:
    error = found["stderr"]
    return f"{100 * found['share']:.1f}" + ("" if error is None else f" ± {100 * error:.1f}")
