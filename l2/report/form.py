"""What a report is made of, whoever draws it: sections of texts, tables, figures, answers and trees.

Any command may leave a figure for the report: one JSON object, in a .json file or a line of a .jsonl file, beside other
fields or alone:

    {"figure": {"kind": "lines", "title": "Best of N", "x": "N", "y": "mean reward", "note": "300 prompts",
                "series": [{"name": "max", "x": [1, 2, 4], "y": [0.1, 0.4, 0.7], "stderr": [0.02, 0.02, 0.03]}]}}

kind: "lines", "bars" or "histogram". x of a series: numbers, or names (of versions, ratings, ...), which are placed in
the order in which they first come; in a histogram the edges of the bins, one more than y. y: numbers, null where
there is none. stderr (of each y, null where unknown) is drawn as a 95 % band or whisker; `low` and `high` in its place
give the ends themselves. A reliability curve is two lines, one of them from (0, 0) to (1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from l2.files.errors import BadInput

KINDS = ("lines", "bars", "histogram")
HELD_OUT = ", held out"  # ends the name of a series that is drawn in the colour of the one it belongs to
NORMAL_95 = 1.959964
X = Sequence[float | str]  # all of one kind
Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    """Points of one thing, and the ends of the interval of each where they are known."""

    name: str
    x: X
    y: Values
    low: Values = ()
    high: Values = ()


@dataclass(frozen=True)
class Figure:
    """See the module's description of its JSON form."""

    kind: str
    title: str
    x: str
    y: str
    series: Sequence[Series]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; the first column names the row."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Node:
    """A line of a tree, and what hangs on it. `key` names it, where others may point at it; `to` points."""

    text: str
    note: str = ""
    children: Sequence[Node] = ()
    key: str = ""
    to: str = ""


@dataclass(frozen=True)
class Tree:
    """Lines under lines."""

    caption: str
    roots: Sequence[Node]


@dataclass(frozen=True)
class Answers:
    """What several models said to one prompt: (model, answer, a word about it)."""

    prompt: str
    said: Sequence[tuple[str, str, str]]


Block = Figure | Table | Text | Tree | Answers


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """Everything; `problems` are sentences about what could not be read."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    problems: Sequence[str] = field(default_factory=list)


def read_figure(found: Any, where: str) -> Figure:
    """The figure of a JSON value (see above). Raises BadInput, naming `where`, for anything else."""
    fields = _mapping(found, where, "a figure")
    kind, series = fields.get("kind"), fields.get("series")
    if kind not in KINDS:
        raise BadInput(where, f"a figure of kind {kind!r:.40}", f"one of {', '.join(KINDS)}")
    texts = {name: fields.get(name, "") for name in ("title", "x", "y", "note")}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise BadInput(where, f"a figure whose {name} is {value!r:.40}", "a text")
    if not isinstance(series, list) or not series:
        raise BadInput(where, "a figure without series", "a list of at least one")
    drawn = [_series(_mapping(one, where, "a series"), kind, where) for one in series]
    if len({_named(one) for one in drawn if one.x}) > 1:
        raise BadInput(where, "series with names and series with numbers as x", "the same in all")
    return Figure(kind, texts["title"], texts["x"], texts["y"], drawn, texts["note"])


def _mapping(found: Any, where: str, what: str) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise BadInput(where, f"{what} that is {found!r:.40}", "a JSON object")
    return found


def _named(series: Series) -> bool:
    return isinstance(series.x[0], str)


def _series(fields: Mapping[str, Any], kind: str, where: str) -> Series:
    name, x = str(fields.get("name", "")), fields.get("x")
    texts = isinstance(x, list) and all(isinstance(value, str) for value in x)
    if not isinstance(x, list) or not (texts or all(map(_is_number, x))):
        raise BadInput(where, f"a series {name!r:.40} with x {x!r:.40}", "a list of numbers, or one of names")
    count = len(x) - (kind == "histogram")
    if kind == "histogram" and (texts or count < 1 or sorted(set(x)) != x):
        raise BadInput(where, f"a histogram {name!r:.40} with x {x!r:.40}", "the edges of its bins, in order")
    y = _values(fields, "y", count, where)
    low, high = (_values(fields, end, count, where) if end in fields else [] for end in ("low", "high"))
    if "stderr" in fields:
        errors = _values(fields, "stderr", count, where)
        low, high = interval(y, errors)
    if len(low) != len(high):
        raise BadInput(where, f"a series {name!r:.40} with one end of its interval", "both low and high")
    return Series(name, [value if texts else float(value) for value in x], y, low, high)


def _values(fields: Mapping[str, Any], name: str, count: int, where: str) -> list[float | None]:
    """`count` numbers or nulls."""
    found = fields.get(name)
    if not isinstance(found, list) or len(found) != count or not all(v is None or _is_number(v) for v in found):
        raise BadInput(where, f"a series whose {name} is {found!r:.40}", f"{count} numbers, as x has it, or null")
    return [None if value is None else float(value) for value in found]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def interval(y: Values, errors: Values) -> tuple[list[float | None], list[float | None]]:
    """The ends of the 95 % intervals of values with these standard errors."""
    ends = [
        (None, None) if value is None or error is None else (value - NORMAL_95 * error, value + NORMAL_95 * error)
        for value, error in zip(y, errors, strict=True)
    ]
    return [low for low, _ in ends], [high for _, high in ends]


def compact(value: float) -> str:
    """A number as short as people say it: 1.79 M, 0.0003, 12,345, 3.5e-07."""
    size = abs(value)
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if size >= limit:
            return f"{value / limit:.3g} {unit}"
    if size >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if size >= 1e-4 else f"{value:.2e}"


def estimate(value: float, stderr: float | None = None) -> str:
    """A value with its standard error, three decimals, or what three decimals are to a large number."""
    digits = 3 if abs(value) < 100 else 1
    return f"{value:.{digits}f}" + ("" if stderr is None else f" ± {stderr:.{digits}f}")


def change(value: float, stderr: float | None) -> str:
    """A difference, with its sign."""
    return ("+" if value >= 0 else "−") + estimate(abs(value), stderr)


def within(value: float, reach: float) -> str:
    """A value with its sign and how far its interval reaches on either side, to the two digits of that which matter."""
    decimals = max(0, 1 - math.floor(math.log10(reach))) if reach > 0 else 3
    return f"{round(value, decimals) + 0.0:+.{decimals}f} ± {reach:.{decimals}f}"  # + 0.0: no minus before a zero


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as far as they matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
