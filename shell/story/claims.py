"""The paper's claims beside what the experiments of miniature.sh measured: claims.jsonl, figures, and a table.

A claim is a sentence, and a number with the interval where the sentence puts it: above nothing, below nothing, or
within so much of nothing where the paper says that two things are alike. The number is measured once for each seed,
both sides of a comparison with that seed; of seeds there are a mean and a standard error. One rule gives all verdicts:
the mean with two standard errors on either side lies in the claim's interval (holds), beside it (does not hold), or
across one of its ends (can't tell at this size). Of one seed there is no standard error, and nothing can be told. Two
standard errors of three seeds are an interval of 82 % (Student's t), so of claims at the edge some will be wrong.
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

from l2.eval.tables import aligned
from l2.files.atomic import write_atomic
from l2.files.errors import L2Error
from l2.files.jsonl import write_records

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "can't tell at this size"
ERRORS = 2.0  # standard errors on either side of a mean


class Measured(NamedTuple):
    """A mean over seeds, and its standard error: None of a single one."""

    mean: float
    stderr: float | None


def over_seeds(values: Sequence[float]) -> Measured:
    """Mean and s / √n of what the seeds measured; NaN where one of them could not."""
    if not all(map(math.isfinite, values)):
        return Measured(math.nan, None)
    found = estimate(values)
    return Measured(found.mean, found.stderr if math.isfinite(found.stderr) else None)


def verdict(found: Measured, low: float, high: float) -> str:
    """Whether a measurement lies in the open interval from `low` to `high`, by the rule above."""
    if found.stderr is None or not math.isfinite(found.mean):
        return UNKNOWN
    left, right = found.mean - ERRORS * found.stderr, found.mean + ERRORS * found.stderr
    if low < left and right < high:
        return HOLDS
    return FAILS if right <= low or high <= left else UNKNOWN


def claim_row(claim: Claim, seeds: Sequence[Seed]) -> dict[str, Any]:
    """A claim with its measurement, as l2 report reads it; null where a seed has too little to measure it."""
    found = over_seeds([claim.of(seed) for seed in seeds])
    row = {"claim": claim.says, "paper": claim.paper, "measured": _told(found.mean), "stderr": _told(found.stderr)}
    return row | {"what": claim.measure, "verdict": verdict(found, claim.low, claim.high), "seeds": len(seeds)}


def _told(value: float | None) -> float | None:
    return round(value, 6) if value is not None and math.isfinite(value) else None


def figure_row(curve: Curve, seeds: Sequence[Seed]) -> dict[str, Any]:
    """A curve's means over seeds, with their standard errors, as l2 report reads it."""
    drawn: dict[str, dict[Any, list[float]]] = {}
    for seed in seeds:
        for name, points in curve.of(seed).items():
            for x, y in points.items():
                drawn.setdefault(name, {}).setdefault(x, []).append(y)
    series = []
    for name, points in drawn.items():
        means = [over_seeds(values) for values in points.values()]
        ends = {"y": [_told(point.mean) for point in means], "stderr": [_told(point.stderr) for point in means]}
        series.append({"name": name, "x": list(points)} | ends)
    return {"figure": {"kind": curve.kind, "title": curve.title, "x": curve.x, "y": curve.y, "series": series}}


def cells(row: Mapping[str, Any]) -> list[str]:
    """What the table shows of a claim."""
    error = "" if row["stderr"] is None else f" ± {row['stderr']:.3g}"
    number = "not measured" if row["measured"] is None else f"{row['measured']:+.3g}{error}"
    return [row["claim"], row["paper"], f"{row['what']}: {number}", row["verdict"]]


HEADER = ["claim", "paper", "measured here", "verdict"]


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *map(cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(
    homes: Annotated[list[Path], typer.Argument(help="runs/miniature/seed-N of each seed.")],
    out: Annotated[Path, typer.Option(help="Directory of claims.jsonl, figures.jsonl and claims.md.")],
) -> None:
    """Weigh the claims.

    Example: python claims.py runs/miniature/seed-* --out runs/miniature/claims
    """
    seeds = [Seed(home.resolve()) for home in homes]
    if missing := [str(home) for home in homes if not home.is_dir()]:
        raise L2Error(f"{', '.join(missing)}: no such directory; shell/miniature.sh makes them")
    out.mkdir(parents=True, exist_ok=True)
    rows = [claim_row(claim, seeds) for claim in CLAIMS]
    write_records(str(out / "claims.jsonl"), rows)
    write_records(str(out / "figures.jsonl"), [figure_row(curve, seeds) for curve in CURVES])
    write_atomic(out / "claims.md", markdown(rows).encode())
    print(aligned([HEADER, *map(cells, rows)]))
    for name in (HOLDS, FAILS, UNKNOWN):
        print(f"{sum(row['verdict'] == name for row in rows)} {name}")


if __name__ == "__main__":
    run(main)
