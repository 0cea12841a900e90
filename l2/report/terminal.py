"""The report as text for terminals: tables, sparklines, trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import indent, wrap

from l2.files.columns import aligned
from l2.report.form import Answers, Block, Figure, Node, Report, Series, Table, Text, Tree, compact

WIDTH = 100  # columns
SPARK = 48  # columns of a sparkline
LEVELS = "▁▂▃▄▅▆▇█"
BAR = 30  # columns of the longest bar


def show(report: Report) -> str:
    """The whole report. Nothing in it moves the cursor: signs that do are shown as U+FFFD."""
    lines = [report.title, report.subtitle]
    if report.problems:
        lines += ["", "What could not be read:", *(f"  {problem}" for problem in report.problems)]
    for section in report.sections:
        lines += ["", "", section.title.upper()]
        for block in section.blocks:
            lines += ["", *_block(block)]
    return "\n".join(harmless(line).rstrip() for line in lines) + "\n"


def harmless(text: str) -> str:
    """A text of which every sign is printed as itself, or as U+FFFD; line ends stay."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Table):
        yield block.caption
        yield _table([block.header, *block.rows])
        yield from _note(block.note)
    elif isinstance(block, Figure):
        named = block.kind == "bars" or any(isinstance(x, str) for one in block.series for x in one.x)
        yield f"{block.title} ({block.y})" if named else f"{block.title} ({block.y} over {block.x})"
        yield aligned([*(_bars(block) if named else _sparks(block))])
        yield from _note(block.note)
    elif isinstance(block, Text):
        yield from wrap(block.text, WIDTH)
    elif isinstance(block, Tree):
        yield block.caption
        for root in block.roots:
            yield from _tree(root, 1)
    elif isinstance(block, Answers):
        yield from wrap(f"> {block.prompt}", WIDTH)
        for model, said, word in block.said:
            yield f"  {model}{f' ({word})' if word else ''}"
            yield indent("\n".join(wrap(said, WIDTH - 4)), "    ")


def _note(note: str) -> Iterator[str]:
    yield from (f"  {line}" for line in wrap(note, WIDTH - 2))


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns where they fit, or else each row as a paragraph, with the header's words before its cells."""
    plain = [[harmless(cell).replace("\n", "; ") for cell in row] for row in rows]
    shown = aligned(plain)
    if max(map(len, shown.splitlines())) <= WIDTH:
        return shown
    paragraphs = []
    for row in plain[1:]:
        paragraphs.append(f"  {row[0]}")
        for name, cell in list(zip(plain[0], row, strict=True))[1:]:
            paragraphs += wrap(f"{name}: {cell}", WIDTH - 4, initial_indent="    ", subsequent_indent="      ")
    return "\n".join(paragraphs)


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """A sign for each value by its height from `low` to `high`; a blank where there is none."""
    top = len(LEVELS) - 1
    spread = (high - low) or 1.0
    return "".join(" " if value is None else LEVELS[round((value - low) / spread * top)] for value in values)


def _sparks(figure: Figure) -> Iterator[list[str]]:
    """A line for each series, all by one scale: its name, its course, its first, least, most and last value."""
    known = [value for one in figure.series for value in one.y if value is not None]
    if not known:
        yield ["no values yet"]
        return
    yield ["", "", "first", "least", "most", "last"]
    for one in figure.series:
        own = [value for value in one.y if value is not None]
        if own:
            numbers = [own[0], min(own), max(own), own[-1]]
            course = sparkline(_squeezed(one), min(known), max(known))
            yield [one.name or figure.y, course.ljust(SPARK), *(f"{value:.4g}" for value in numbers)]


def _squeezed(series: Series) -> list[float | None]:
    """At most SPARK of the values, evenly."""
    count = len(series.y)
    return list(series.y) if count <= SPARK else [series.y[i * (count - 1) // (SPARK - 1)] for i in range(SPARK)]


def _bars(figure: Figure) -> Iterator[list[str]]:
    longest = max((abs(value) for one in figure.series for value in one.y if value is not None), default=0.0) or 1.0
    for one in figure.series:
        for i, (x, value) in enumerate(zip(one.x, one.y, strict=True)):
            name = f"{x if isinstance(x, str) else compact(x)}{f', {one.name}' if len(figure.series) > 1 else ''}"
            if value is None:
                yield [name, "–"]
                continue
            ends = f" [{one.low[i]:.3g}, {one.high[i]:.3g}]" if one.low and one.low[i] is not None else ""
            yield [name, f"{value:.3g}{ends}", ("█" * round(abs(value) / longest * BAR)).ljust(BAR)]


def _tree(node: Node, depth: int) -> Iterator[str]:
    yield f"{'  ' * depth}{node.text}{f'  [{node.note}]' if node.note else ''}"
    for child in node.children:
        yield from _tree(child, depth + 1)
