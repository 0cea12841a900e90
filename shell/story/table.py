"""The table at the end of the story: what each stage gained on held-out data, each number with its standard error.

A gain is compared item by item wherever both sides answered the same items: the same prompts differ far less than two
samples of prompts would, so that a small model on a few hundred prompts can show what it learned.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Annotated, Any, NamedTuple

import typer
from gold import WEIGHTS
from scripts import run

from l2.files.errors import L2Error, UsageError
from l2.files.jsonl import Record, read_records

LOWER_IS_BETTER = {"bits_per_byte", "harm"}
AIMS = {"sft": ("gold",), "gatt": ()}  # of stages that aim at less than both more gold and less harm
CHANCE = {"score at EOS": 0.5}  # by protocol, what tossing coins would score: two answers of a pair

MOST = sum(weight for weight in WEIGHTS.values() if weight > 0)  # of gold
UNASKED = 0.05  # of the answers may obey what nobody asked
LEGEND = f"""
before: the stage before, an untrained model, or chance. gold: what the annotator thinks of an answer, {MOST:g} at best;
harm: 0 to 1. Of harm and bits per byte less is better. significantly to negligibly: how far one answer was preferred.
±: one standard error (se) over what was asked; another seed may differ by more."""


class Estimate(NamedTuple):
    """A mean, its standard error, and of how many items."""

    mean: float
    stderr: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.stderr:.3f}" if self.stderr else f"{self.mean:.3f}"


class Row(NamedTuple):
    """One line of the table. `sign` is what the gain should have: 1, -1, or 0 for a detail that isn't judged."""

    stage: str
    what: str
    before: Estimate
    after: Estimate
    gain: Estimate
    sign: int

    @property
    def verdict(self) -> str:
        """WRONG SIGN, or how many standard errors the gain is from nothing."""
        if self.sign and self.gain.mean * self.sign <= 0:
            return "WRONG SIGN"
        return f"{abs(self.gain.mean) / self.gain.stderr:.1f}" if self.gain.stderr else ""


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of `values` and its standard error s / √n."""
    spread = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Estimate(fmean(values), spread, len(values))


def means(values: Iterable[tuple[Any, float]]) -> dict[str, float]:
    """The mean of the values of each id."""
    of: dict[str, list[float]] = {}
    for name, value in values:
        of.setdefault(str(name), []).append(value)
    return {name: fmean(values) for name, values in of.items()}


def by_id(path: str, field: str, keep: Callable[[Record], bool] = lambda record: True) -> dict[str, float]:
    """Mean of `field` for each id in a file, over the records that `keep` is true of."""
    records = filter(keep, read_records((path,), required=("id", field)))
    return means((record["id"], float(record.need(field, (int, float, bool)))) for record in records)


def paired(stage: str, what: str, before: Mapping[str, float], after: Mapping[str, float], *, sign: int) -> Row:
    """A row of the ids that both sides have. Raises L2Error when there are none."""
    both = sorted(before.keys() & after.keys())
    if not both:
        raise L2Error(f"{stage}, {what}: the two files have no id in common")
    gain = estimate([after[name] - before[name] for name in both])
    return Row(stage, what, estimate([before[i] for i in both]), estimate([after[i] for i in both]), gain, sign)


def result_rows(paths: Sequence[str]) -> Iterator[Row]:
    """Rows of result records. Two of one task and metric are before and after; one alone is set against CHANCE.

    Pairs that people call negligibly different are not judged: there even they are hardly better than chance, and the
    paper's best reward model is right on 55 % of them (Table 8).
    """
    groups: dict[tuple[str, str, str], list[Estimate]] = {}
    for record in read_records(paths, required=("task", "metric", "value")):
        found = Estimate(float(record["value"]), float(record.get("stderr") or 0.0), int(record.get("n") or 0))
        key = record.need("task"), record.need("metric"), record.get("protocol", "")
        groups.setdefault(key, []).append(found)
    for (task, metric, protocol), both in groups.items():
        if len(both) == 1:
            if protocol not in CHANCE or not metric.startswith("accuracy") or "=" in metric:
                continue  # nothing to compare it with, or a part of the pairs
            both.insert(0, Estimate(CHANCE[protocol], 0.0, both[0].n))
        before, after = both[0], both[-1]
        gain = Estimate(after.mean - before.mean, math.hypot(before.stderr, after.stderr), after.n)
        sign = 0 if metric.endswith("/negligibly") else -1 if metric in LOWER_IS_BETTER else 1
        yield Row(task, metric.replace("_", " ").replace("/", ", "), before, after, gain, sign)


def score_rows(files: Mapping[str, str]) -> Iterator[Row]:
    """Rows of the annotator's scores, each stage against the one before it.

    Gold is compared on the ordinary prompts, harm on those that are tagged as safety prompts. What a stage doesn't aim
    at isn't judged.
    """
    for before, after in pairwise(files):
        for field, prompts, safety, sign in (("gold", "ordinary", False, 1), ("harm", "violent", True, -1)):
            sides = [by_id(files[name], field, lambda r: bool(r.get("safety")) == safety) for name in (before, after)]  # noqa: B023
            aimed = sign if field in AIMS.get(after, (field,)) else 0
            if any(sides):  # a set of prompts may hold no safety prompts
                yield paired(after, f"{field}, {prompts} prompts", *sides, sign=aimed)


def unasked_rows(files: Mapping[str, str], expected: Sequence[str]) -> Iterator[Row]:
    """A row of the share of answers that obey a constraint which nobody stated; more than UNASKED is judged a loss."""
    (_, without), (name, with_it) = _two(files, "--unasked").items()
    sides = [
        means(
            (r["id"], r.need("response").startswith(tuple(expected))) for r in read_records((path,), required=("id",))
        )
        for path in (without, with_it)
    ]
    row = paired(name, "answers that obey unasked", *sides, sign=0)
    yield row._replace(sign=-1) if row.after.mean > UNASKED else row


def _two(files: Mapping[str, str], option: str) -> Mapping[str, str]:
    if len(files) != 2:
        raise UsageError(f"{option} is given twice: without and with Ghost Attention")
    return files


def obeyed_rows(files: Mapping[str, str]) -> Iterator[Row]:
    """Rows of the share of turns that obey the instruction: all but the first, where it was given, then each alone."""
    (_, without), (name, with_it) = _two(files, "--obeyed").items()

    def compare(what: str, sign: int, keep: Callable[[Record], bool]) -> Row:
        return paired(name, what, by_id(without, "obeyed", keep), by_id(with_it, "obeyed", keep), sign=sign)

    yield compare("later turns that obey", 1, lambda record: record.need("turn", int) > 1)
    turns = {record.need("turn", int) for path in files.values() for record in read_records((path,))}
    for turn in sorted(turns):
        yield compare(f"  turn {turn}", 0, lambda record: record["turn"] == turn)  # noqa: B023


def cells(row: Row) -> tuple[str, ...]:
    """What a row shows in each column."""
    gain = f"{row.gain.mean:+.3f}" + (f" ± {row.gain.stderr:.3f}" if row.gain.stderr else "")
    return row.stage, row.what, str(row.before), str(row.after), gain, str(row.gain.n), row.verdict


def render(rows: Iterable[Row], markdown: bool) -> str:
    """The rows as aligned text, or as a Markdown table."""
    lines = [("stage", "held-out measure", "before", "after", "gain", "n", "gain in se"), *map(cells, rows)]
    if markdown:
        lines.insert(1, ("---",) * len(lines[0]))
        return "\n".join(f"| {' | '.join(cell.strip() for cell in line)} |" for line in lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in aligned)


def named(pairs: Iterable[str], option: str) -> dict[str, str]:
    """NAME=FILE arguments as a mapping, in order."""
    split = [pair.partition("=") for pair in pairs]
    if any(not (name and path) for name, _, path in split):
        raise UsageError(f"{option} is NAME=FILE")
    return {name: path for name, _, path in split}


def main(
    results: Annotated[list[str] | None, typer.Option(help="JSONL of results (repeatable).")] = None,
    scores: Annotated[list[str] | None, typer.Option(help="NAME=FILE of annotator.py score, in order.")] = None,
    obeyed: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE of evaluate --samples, without and with GAtt.")
    ] = None,
    unasked: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE of answers without an instruction, without and with GAtt.")
    ] = None,
    constraints: Annotated[str | None, typer.Option(help="JSONL of the instructions: are they obeyed unasked?")] = None,
    markdown: Annotated[bool, typer.Option(help="A Markdown table.")] = False,
    check: Annotated[bool, typer.Option(help="Exit 1 when a gain has the wrong sign.")] = False,
) -> None:
    """Print what each stage gained.

    Example: python table.py --results results.jsonl --scores sft=sft.jsonl --scores rs=rs.jsonl --check
    """
    rows = [*result_rows(results)] if results else []
    rows += score_rows(named(scores or (), "--scores"))
    rows += obeyed_rows(named(obeyed, "--obeyed")) if obeyed else []
    if unasked:
        if constraints is None:
            raise UsageError("--unasked needs --constraints")
        expected = [record.need("expect") for record in read_records((constraints,), required=("expect",))]
        rows += unasked_rows(named(unasked, "--unasked"), expected)
    print(render(rows, markdown))
    if not markdown:
        print(LEGEND)
    wrong = [f"{row.stage}: {row.what.strip()}" for row in rows if row.verdict == "WRONG SIGN"]
    if wrong:
        print(f"table.py: the gain has the wrong sign in {'; '.join(wrong)}", file=sys.stderr)
        raise typer.Exit(1 if check else 0)


if __name__ == "__main__":
    run(main)
