"""Figures as inline SVG: text stays text, and the page's own style gives colours, so that they follow its scheme.

Ours, in some 200 lines, rather than a plotting library: those draw fixed colours and, to look the same anywhere,
letters as outlines, which can't follow a scheme, can't be selected and grow a page by megabytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import pairwise
from math import ceil, floor, isfinite, log10

from markupsafe import Markup, escape

from l2.report.form import HELD_OUT, Figure, Series, Values, compact

WIDTH, HEIGHT = 400.0, 235.0
LETTER = 6.1  # mean width of a letter of 11 pixels
TOP, BOTTOM, ROW = 26.0, 38.0, 14.0
STYLES = 6  # kinds of line that can be told apart
FEW = 20  # points, up to which each is marked
LONGEST = 22  # letters of a name

FORBIDDEN = re.compile(
    r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0001fffd\U00020000-\U0010fffd]"
)


def clean(words: object) -> str:
    """A text in which the signs that HTML forbids are shown as U+FFFD."""
    return FORBIDDEN.sub("\ufffd", str(words))


def element(name: str, *children: Markup, **attributes: object) -> Markup:
    """An SVG element; numbers are cut to a tenth of a pixel, `_` in names of attributes is `-`, texts are escaped."""
    told = "".join(
        f' {key.strip("_").replace("_", "-")}="{f"{value:.1f}" if isinstance(value, float) else escape(value)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{told}>{''.join(children)}</{name}>")


def text(words: str, x: float, y: float, style: str = "", anchor: str = "start") -> Markup:
    """Words that stand at (x, y)."""
    return element("text", escape(clean(words)), x=x, y=y, class_=style, text_anchor=anchor)


def short(names: Sequence[str], most: int = LONGEST) -> dict[str, str]:
    """Each name as it is drawn: of a path as many last parts as tell it from the others, cut where it is too long."""
    owners = {name: name.removesuffix(HELD_OUT) for name in names}
    tails = {one: ["/".join(one.split("/")[-n:]) for n in range(1, one.count("/") + 2)] for one in owners.values()}
    met = Counter(tail for of_one in tails.values() for tail in of_one)
    drawn = {
        name: next((tail for tail in tails[owner] if tail and met[tail] == 1), owner) + name[len(owner) :]
        for name, owner in owners.items()
    }
    return {name: tail if len(tail) <= most else f"{tail[: most - 1]}…" for name, tail in drawn.items()}


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** floor(log10(raw))
    step = next((times * power for times in (1, 2, 5) if times * power >= raw * 0.999), 10 * power)
    first = ceil(low / step - 1e-9)
    marks = (float(f"{i * step:.12g}") for i in range(first, floor(high / step + 1e-9) + 1))
    return list(dict.fromkeys(marks))


def _rounded(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis: the next tick where that is near, or else a little beyond the values."""
    marks = ticks(low, high)
    if len(marks) < 2:
        return low, high
    step, room = marks[1] - marks[0], 0.04 * (high - low)
    down, up = floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step
    return (down if low - down <= 0.3 * step else low - room), (up if up - high <= 0.3 * step else high + room)


def _styles(figure: Figure) -> list[str]:
    """A kind of line for each series; held-out values have that of the series they belong to."""
    owners = [one.name.removesuffix(HELD_OUT) for one in figure.series]
    order = list(dict.fromkeys(owners))
    if not all(order):  # without a name each is its own
        order = owners = [str(i) for i in range(len(owners))]
    return [
        f"s{order.index(owner) % STYLES}" + (" held" if one.name.endswith(HELD_OUT) else "")
        for owner, one in zip(owners, figure.series, strict=True)
    ]


class Scale:
    """From values to pixels; `names` are placed 0, 1, 2, ... in place of numbers."""

    def __init__(self, low: float, high: float, start: float, end: float, names: Sequence[str] = ()) -> None:
        spread = (high - low) or abs(high) or 1.0
        self.low, self.high = (low, high) if high > low else (low - spread / 2, high + spread / 2)
        self.start, self.end, self.places = start, end, {name: float(i) for i, name in enumerate(names)}

    def __call__(self, value: float | str) -> float:
        """Where a value stands."""
        at = self.places[value] if isinstance(value, str) else value
        return self.start + (at - self.low) / (self.high - self.low) * (self.end - self.start)


def draw(figure: Figure, ident: str) -> Markup:
    """The figure as an <svg> for the page, which has its numbers in a table below; ids begin with `ident`."""
    return _svg(figure, ident, " The numbers are in the table below.")


def picture(figure: Figure) -> str:
    """The figure as an SVG file of its own, with its colours for light and dark."""
    style = resources.files("l2.report").joinpath("figure.css").read_text(encoding="utf-8")
    size = {"xmlns": "http://www.w3.org/2000/svg", "width": f"{1.6 * WIDTH:.0f}"}
    return str(_svg(figure, "figure", "", element("style", Markup(style)), **size)) + "\n"


def _svg(figure: Figure, ident: str, more: str, *first: Markup, **attributes: str) -> Markup:
    """With the title, and a description for those who can't see it that ends in `more`."""
    height, shapes = _bars(figure) if figure.kind == "bars" else _plane(figure)
    names = ", ".join(series.name for series in figure.series if series.name)
    said = f"{figure.y} over {figure.x}" + (f": {names}." if names else ".") + more
    title = element("title", escape(clean(figure.title)), id=f"{ident}-t")
    told = element("desc", escape(clean(said)), id=f"{ident}-d")
    attributes |= {"viewBox": f"0 0 {WIDTH:.0f} {height:.0f}", "role": "img", "aria_labelledby": f"{ident}-t {ident}-d"}
    return element("svg", title, told, *first, *shapes, **attributes)


def _known(series: Sequence[Series]) -> list[float]:
    columns = [column for one in series for column in (one.y, one.low, one.high)]
    return [value for column in columns for value in column if value is not None and isfinite(value)]


def _plane(figure: Figure) -> tuple[float, list[Markup]]:
    """Lines and histograms: axes, then for each series its band, its line and its name at the line's end."""
    values = _known(figure.series)
    if not values:
        return 40.0, [text("No values yet.", 0.0, 24.0, "label")]
    low, high = min(values), max(values)
    if figure.kind == "histogram" or 0 < low < 0.35 * high:
        low = min(0.0, low)  # a line that starts near zero is read from zero
    low, high = _rounded(low, high)
    names = short([x for one in figure.series for x in one.x if isinstance(x, str)])
    xs = [float(i) for i in range(len(names))] or [x for one in figure.series for x in one.x if not isinstance(x, str)]
    marks = ticks(low, high)
    left = 8 + LETTER * max(len(compact(mark)) for mark in marks)
    right = WIDTH - 16 - LETTER * max(map(len, short([one.name for one in figure.series]).values()))
    half = LETTER / 2 * max(map(len, names.values()), default=0)  # of the first and the last name, beside their points
    x = Scale(min(xs), max(xs), max(left, half), right - half, list(names))
    y = Scale(low, high, HEIGHT - BOTTOM, TOP)
    shapes = [text(figure.y, 0.0, 11.0, "label"), text(figure.x, right, HEIGHT - 4, "label", "end")]
    shapes += _axes(x, y, marks, left, right, names, all(at == int(at) for at in xs))
    styles = _styles(figure)
    for number, one in enumerate(figure.series):
        style = styles[number]
        shapes += _steps(one, x, y, style) if figure.kind == "histogram" else _line(one, x, y, style)
    return HEIGHT, [*shapes, *_names(figure, y, right)]


def _axes(
    x: Scale, y: Scale, marks: Sequence[float], left: float, right: float, names: Mapping[str, str], whole: bool
) -> Iterator[Markup]:
    for mark in marks:
        yield element("line", x1=left, x2=right, y1=y(mark), y2=y(mark), class_="grid")
        yield text(compact(mark), left - 5, y(mark) + 4, "tick", "end")
    base = HEIGHT - BOTTOM
    yield element("line", x1=left, x2=right, y1=base, y2=base, class_="axis")
    if names:
        apart = LETTER * (max(map(len, names.values())) + 1)  # pixels from a name to the next
        every = max(1, ceil(apart * (len(names) - 1) / max(1.0, x.end - x.start)))
        placed = [(x(name), shown) for name, shown in list(names.items())[::every]]
    else:
        placed = [(x(mark), compact(mark)) for mark in ticks(x.low, x.high) if not whole or mark == int(mark)]
    for at, label in placed:
        yield element("line", x1=at, x2=at, y1=base, y2=base + 4, class_="axis")
        yield text(label, at, base + 16, "tick", "middle")


def _runs(series: Series, *columns: Values) -> Iterator[list[tuple[float | str, ...]]]:
    """Stretches of points whose values are all known, as (x, value of each column)."""
    stretch: list[tuple[float | str, ...]] = []
    for at, *values in zip(series.x, *columns, strict=False):
        if any(value is None for value in values):
            if stretch:
                yield stretch
            stretch = []
        else:
            stretch.append((at, *values))  # type: ignore[arg-type]
    if stretch:
        yield stretch


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)


def _line(series: Series, x: Scale, y: Scale, style: str) -> Iterator[Markup]:
    if series.low:
        for stretch in _runs(series, series.low, series.high):
            ring = [(x(at), y(low)) for at, low, _ in stretch] + [(x(at), y(high)) for at, _, high in reversed(stretch)]
            yield element("path", d=_path(ring) + "Z", class_=f"band {style}")
    for stretch in _runs(series, series.y):
        points = [(x(at), y(value)) for at, value in stretch]
        yield element("path", d=_path(points), class_=f"line {style}")
        if len(series.x) <= FEW:
            for cx, cy in points:
                yield element("circle", cx=cx, cy=cy, r=2.2, class_=f"dot {style}")


def _steps(series: Series, x: Scale, y: Scale, style: str) -> Iterator[Markup]:
    corners = [(x(series.x[0]), y(0.0))]
    for (low, high), value in zip(pairwise(series.x), series.y, strict=True):
        corners += [(x(low), y(value or 0.0)), (x(high), y(value or 0.0))]
    corners.append((x(series.x[-1]), y(0.0)))
    yield element("path", d=_path(corners) + "Z", class_=f"band {style}")
    yield element("path", d=_path(corners), class_=f"line {style}")


def _names(figure: Figure, y: Scale, right: float) -> Iterator[Markup]:
    """Each series' name beside its end, moved apart where they would meet."""
    last, styles = [], _styles(figure)
    for number, one in enumerate(figure.series):
        heights = [value for value in one.y if value is not None]
        at = max(heights) if figure.kind == "histogram" and heights else heights[-1] if heights else None
        if one.name and at is not None:
            last.append((y(at), number, one.name))
    last.sort()
    places = [at for at, _, _ in last]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + ROW)
    below = HEIGHT - BOTTOM + ROW
    for i in reversed(range(len(places))):
        below = places[i] = min(places[i], below - ROW)
    shown = short([one.name for one in figure.series])
    for place, (_, number, name) in zip(places, last, strict=True):
        yield text(shown[name], right + 6, place + 4, f"name {styles[number]}")


def _bars(figure: Figure) -> tuple[float, list[Markup]]:
    """A row for each name of x and series, from zero, with its value at the end and its interval as a whisker."""
    values = [*_known(figure.series), 0.0]
    places = [{x if isinstance(x, str) else compact(x): i for i, x in enumerate(one.x)} for one in figure.series]
    names = list(dict.fromkeys(name for of_one in places for name in of_one))
    shown = short(names)
    left = 8 + LETTER * max(map(len, shown.values()), default=1)
    x = Scale(min(values), max(values), left + 4, WIDTH - 52)
    shapes, at, several = [text(figure.y, 0.0, 11.0, "label")], TOP, len(figure.series) > 1
    for name in names:
        shapes.append(text(shown[name], left, at + 10, "tick", "end"))
        for number, one in enumerate(figure.series):
            place = places[number].get(name)
            if place is None or (value := one.y[place]) is None:
                continue
            style, start, end = f"s{number % STYLES}", x(0.0), x(value)
            shapes.append(
                element("rect", x=min(start, end), y=at + 1, width=abs(end - start), height=11.0, class_=f"bar {style}")
            )
            edge = end
            if one.low and (low := one.low[place]) is not None and (high := one.high[place]) is not None:
                shapes.append(element("line", x1=x(low), x2=x(high), y1=at + 6.5, y2=at + 6.5, class_="whisker"))
                edge = max(edge, x(high))
            tag = f"{compact(value)}{f'  {one.name}' if several and name == names[0] else ''}"
            shapes.append(text(tag, max(edge, start) + 5, at + 10, "tick"))
            at += ROW + 1
        at += 5
    shapes.append(element("line", x1=x(0.0), x2=x(0.0), y1=TOP - 3, y2=at - 3, class_="axis"))
    return at + 4, shapes
