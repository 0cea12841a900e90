"""The report as one HTML page that needs nothing else: no script, no network, light and dark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count

from l2.report.form import Block, Figure, Report, Table, compact
from l2.report.svg import clean, draw, picture

NUMBER = re.compile(r"[–−+]?[\d.,  /]*( ?(%|t|kg|g|[MGT]))?")
SENTENCE = 48  # characters of a cell that is one


def render(report: Report) -> str:
    """The page. Every text is escaped by the template."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("l2.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    numbers, runs = count(1), dict[str, str]()
    environment.globals |= {
        "draw": lambda figure: draw(figure, f"f{next(numbers)}"),
        "kind": lambda block: type(block).__name__.lower(),
        "anchor": anchor,
        "run_id": lambda name: runs.setdefault(name, f"run-{len(runs) + 1}"),
        "grouped": grouped,
        "numbers": figure_table,
        "numeric": numeric,
        "wordy": wordy,
    }
    environment.filters["clean"] = lambda text: clean(text).replace(" ± ", "\u00a0±\u00a0")  # never at a line's end
    return environment.get_template("page.html").render(report=report)


def pictures(report: Report) -> dict[str, str]:
    """Every figure of the report as a file of its own (see `picture`), by a name made of its title."""
    found: dict[str, str] = {}
    for figure in (block for section in report.sections for block in section.blocks if isinstance(block, Figure)):
        stem = re.sub(r"\W+", "-", figure.title.casefold()).strip("-") or "figure"
        name = next(name for n in count(1) if (name := f"{stem}{f'-{n}' * (n > 1)}.svg") not in found)
        found[name] = picture(figure)
    return found


def anchor(title: str) -> str:
    """The id of a section."""
    return title.casefold().replace(" ", "-")


def grouped(blocks: Sequence[Block]) -> list[list[Block]]:
    """Figures that follow one another stand side by side; every other block by itself."""
    groups: list[list[Block]] = []
    for block in blocks:
        if isinstance(block, Figure) and groups and isinstance(groups[-1][0], Figure):
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def numeric(table: Table) -> list[bool]:
    """Whether a column holds counts, to be set flush right."""
    return [all(NUMBER.fullmatch(row[i]) for row in table.rows) for i in range(len(table.header))]


def wordy(table: Table) -> bool:
    """Whether it has sentences in it, so that a narrow window shows its rows one under another."""
    return any(len(cell) > SENTENCE for row in table.rows for cell in row)


def figure_table(figure: Figure) -> Table:
    """The numbers of a figure: a row for each x (of a histogram each bin), a column for each series."""
    rows: dict[float | str, dict[int, str]] = {}
    for number, series in enumerate(figure.series):
        for i, value in enumerate(series.y):
            cell = "–" if value is None else f"{value:.4g}"
            if value is not None and series.low and series.low[i] is not None and series.high[i] is not None:
                cell += f" [{series.low[i]:.4g}, {series.high[i]:.4g}]"
            rows.setdefault(series.x[i], {})[number] = cell
    shown = [
        [x if isinstance(x, str) else compact(x), *(cells.get(n, "") for n in range(len(figure.series)))]
        for x, cells in rows.items()
    ]
    first = f"{figure.x}, from" if figure.kind == "histogram" else figure.x
    return Table(figure.title, [first, *(series.name or figure.y for series in figure.series)], shown)
