"""The paper's claims beside what the experiments of miniature.sh measured: claims.jsonl, figures.jsonl, and tables.

A claim is a sentence, and a number with the interval where the sentence puts it: above nothing, below nothing, or
within so much of nothing where the paper says that two things are alike. The number is measured once for each seed,
both sides of a comparison with that seed; of seeds there are a mean and a standard error. One rule gives all verdicts:
the 90 % interval of the mean (Student's t; of three seeds, 2.92 standard errors on either side) lies in the claim's
interval (holds), beside it (does not hold), or across one of its ends (can't tell at this size). So of twenty claims at
the very edge one is said to hold that doesn't. Of one seed there is no standard error, and nothing can be told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from experiment_results import Seed
from paper_claims import CLAIMS, CURVES, Claim, Curve
from scripts import run
from table import estimate

from l2.files.atomic import write_atomic
from l2.files.errors import L2Error
from l2.files.jsonl import write_records
from l2.report.form import within

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "can't tell at this size"
# Student's t at 95 % of two seeds, three and so on to ten; of more, that of ten (wider than need be).
STUDENT = (6.3138, 2.9200, 2.3534, 2.1318, 2.0150, 1.9432, 1.8946, 1.8595, 1.8331)
WIDTH = 112  # columns of the table on a terminal


class Measured(NamedTuple):
    """A mean over seeds, its standard error, None of a single one, and the 90 % interval."""

    mean: float
    stderr: float | None
    low: float = math.nan
    high: float = math.nan


def over_seeds(values: Sequence[float]) -> Measured:
    """Mean, s / √n and t · s / √n on either side of what the seeds measured; NaN where one of them could not."""
    if not all(map(math.isfinite, values)):
        return Measured(math.nan, None)
    mean, stderr, n = estimate(values)
    if n == 1:
        return Measured(mean, None)
    reach = STUDENT[min(n, 10) - 2] * stderr
    return Measured(mean, stderr, mean - reach, mean + reach)


def verdict(found: Measured, low: float, high: float) -> str:
    """Whether a measurement lies in the open interval from `low` to `high`, by the rule above."""
    if low < found.low and found.high < high:
        return HOLDS
    return FAILS if found.high <= low or high <= found.low else UNKNOWN


def claim_row(claim: Claim, subject: str, seeds: Sequence[Seed]) -> dict[str, Any]:
    """A claim with its measurement, as l2 report reads it; null where a seed has too little to measure it."""
    found = over_seeds([claim.of(seed) for seed in seeds])
    measured = {"measured": found.mean, "stderr": found.stderr, "low": found.low, "high": found.high}
    told = {name: _told(value) for name, value in measured.items()}
    judged = {"verdict": verdict(found, claim.low, claim.high), "seeds": len(seeds)}
    said = {"claim": claim.says, "subject": subject, "paper": claim.paper, "what": claim.measure}
    return said | told | judged | {"telling": claim.telling}


def _told(value: float | None) -> float | None:
    return round(value, 6) if value is not None and math.isfinite(value) else None


def figure_row(curve: Curve, seeds: Sequence[Seed]) -> dict[str, Any]:
    """A curve's means over seeds, with their 90 % intervals, as l2 report reads it."""
    drawn: dict[str, dict[Any, list[float]]] = {}
    for seed in seeds:
        for name, points in curve.of(seed).items():
            for x, y in points.items():
                drawn.setdefault(name, {}).setdefault(x, []).append(y)
    series = []
    for name, points in drawn.items():
        means = [over_seeds(values) for values in points.values()]
        told = {"y": [point.mean for point in means]}
        told |= {end: [getattr(point, end) for point in means] for end in ("low", "high")}
        series.append({"name": name, "x": list(points)} | {key: list(map(_told, of)) for key, of in told.items()})
    note = {"note": f"Means of {len(seeds)} seeds, and their 90 % intervals."} if len(seeds) > 1 else {}
    return {"figure": {"kind": curve.kind, "title": curve.title, "x": curve.x, "y": curve.y, "series": series} | note}


HEADER = ("claim", "paper", "measured here", "verdict")


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a table shows of a claim."""
    measured, high = row["measured"], row["high"]
    if measured is None:
        number = "not measured"
    else:
        number = f"{measured:+.3g}" if high is None else within(measured, high - measured)
    return row["claim"], row["paper"], f"{number} ({row['what']})", row["verdict"].removesuffix(" at this size")


def by_subject(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by what they are about, in order."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["subject"], []).append(row)
    return groups


def counts(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """How many claims there are of each verdict."""
    said = [row["verdict"] for row in rows]
    return tuple(str(said.count(name)) for name in (HOLDS, FAILS, UNKNOWN))


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, ["---"] * len(header), *lines))


def whole(rows: Sequence[Mapping[str, Any]]) -> str:
    """All claims in Markdown, by subject."""
    parts = [f"## {name}\n\n{table(HEADER, map(cells, group))}" for name, group in by_subject(rows).items()]
    return f"# The paper's claims at this size\n\n{rule(rows)}\n\n" + "\n".join(parts)


def brief(rows: Sequence[Mapping[str, Any]]) -> str:
    """The README's part: how many claims of each subject hold, and those that tell the most."""
    groups = {"**all**": rows, **by_subject(rows)}
    numbers = table(("claims about", HOLDS, FAILS, UNKNOWN), ((name, *counts(of)) for name, of in groups.items()))
    return f"{numbers}\n{table(HEADER, (cells(row) for row in rows if row['telling']))}"


def rule(rows: Sequence[Mapping[str, Any]]) -> str:
    """How the verdicts came about."""
    return (
        f"Means over seeds ({rows[0]['seeds']}) ± their 90 % interval (Student's t). A claim holds where the interval\n"
        "lies where the claim puts the number, does not hold where it lies beside, and can't be told at this size\n"
        "where it lies across. `bash shell/miniature.sh` measures it again."
    )


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """All claims on a terminal, wrapped, by subject."""
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    widths = (34, 25, 31, 13)
    shown = Table(*(Column(name, width=width) for name, width in zip(HEADER, widths, strict=True)), box=box.SIMPLE_HEAD)
    for name, group in by_subject(rows).items():
        shown.add_row(name, style="bold")
        for row in group:
            shown.add_row(*cells(row))
        shown.add_section()
    Console(width=WIDTH, highlight=False, markup=False).print(shown)
    print("; ".join(f"{n} {name}" for n, name in zip(counts(rows), (HOLDS, FAILS, UNKNOWN), strict=True)))


def main(
    homes: Annotated[list[Path], typer.Argument(help="runs/miniature/seed-N of each seed.")],
    out: Annotated[
        Path, typer.Option(help="Directory of claims.jsonl, figures.jsonl, claims.md and, for a README, brief.md.")
    ],
) -> None:
    """Weigh the claims.

    Example: python claims.py runs/miniature/seed-* --out runs/miniature/claims
    """
    seeds = [Seed(home.resolve()) for home in homes]
    if missing := [str(home) for home in homes if not home.is_dir()]:
        raise L2Error(f"{', '.join(missing)}: no such directory; shell/miniature.sh makes them")
    out.mkdir(parents=True, exist_ok=True)
    rows = [claim_row(claim, subject, seeds) for subject, claims in CLAIMS.items() for claim in claims]
    write_records(str(out / "claims.jsonl"), rows)
    write_records(str(out / "figures.jsonl"), [figure_row(curve, seeds) for curve in CURVES])
    write_atomic(out / "claims.md", whole(rows).encode())
    write_atomic(out / "brief.md", brief(rows).encode())
    show(rows)


if __name__ == "__main__":
    run(main)
