"""The JSON form of figures: what is one, and what is not."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2.files.errors import BadInput
from l2.report.form import Figure, Report, Section, Series, compact, duration, read_figure
from l2.report.svg import LETTER, WIDTH, draw, short, ticks
from l2.report.terminal import show, sparkline


def figure(kind: str = "lines", **series) -> dict:
    return {"kind": kind, "title": "t", "x": "x", "y": "y", "series": [{"name": "a", "x": [1], "y": [2]} | series]}


def test_a_standard_error_is_a_95_percent_interval():
    (series,) = read_figure(figure(x=[1, 2], y=[5, None], stderr=[0.5, None]), "f").series
    assert series.low == [pytest.approx(5 - 1.959964 * 0.5), None]
    assert series.high == [pytest.approx(5 + 1.959964 * 0.5), None]


@pytest.mark.parametrize(
    "broken",
    [
        None,
        {},
        figure("pie"),
        figure(x="ab"),
        figure(x=[1, "a"]),
        figure(x=[True]),
        figure(y=[1, 2]),
        figure(y=["1"]),
        figure(stderr=[0.1, 0.2]),
        figure(low=[0]),
        figure("histogram", x=[2, 1], y=[1]),
        figure("histogram", x=["a", "b"], y=[1]),
        figure("histogram", x=[1], y=[]),
        figure() | {"title": 3},
        figure() | {"series": []},
        figure() | {"series": [1]},
        figure() | {"series": [{"x": [1], "y": [1]}, {"x": ["a"], "y": [1]}]},
    ],
)
def test_what_is_no_figure_is_named(broken):
    with pytest.raises(BadInput, match=r"^file:3: found "):
        read_figure(broken, "file:3")


numbers = st.floats(-1e15, 1e15, allow_subnormal=False) | st.integers(-(2**53), 2**53)


@given(st.lists(st.tuples(numbers, st.none() | numbers), max_size=30), st.sampled_from(["lines", "bars"]))
def test_every_figure_can_be_drawn(points, kind):
    drawn = draw(read_figure(figure(kind, x=[x for x, _ in points], y=[y for _, y in points]), "f"), "f1")
    assert drawn.startswith("<svg") and "nan" not in drawn and "inf" not in drawn


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12), st.integers(2, 8))
def test_ticks_are_round_and_inside(low, spread, count):
    high = low + spread
    if spread < 1e-4 * abs(low):
        return  # rounding would show in the ticks' distances
    marks = ticks(low, high, count)
    slack = 1e-6 * spread
    assert all(low - slack <= mark <= high + slack for mark in marks) and len(marks) <= count + 1
    steps = {round(math.log10(b - a) % 1, 4) for a, b in pairwise(marks)}
    assert steps <= {0.0, 1.0, round(math.log10(2), 4), round(math.log10(5), 4)}


def test_bars_stand_by_the_names_of_their_own_series():
    """Two series that have other names in another order: each value stands in its name's row."""
    series = [{"name": "a", "x": ["p", "q"], "y": [11, 22]}, {"name": "b", "x": ["q", "r"], "y": [33, 44]}]
    drawn = draw(read_figure({"kind": "bars", "series": series}, "f"), "f1")
    texts = [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawn) if text]
    assert texts == ["p", "11  a", "q", "22", "33", "r", "44"]


def test_numbers_as_people_say_them():
    told = [compact(x) for x in (0, 12345, 1.79e6, 2e12, 0.25, 3.5e-7, -4e9)]
    assert told == ["0", "12,345", "1.79 M", "2 T", "0.25", "3.50e-07", "-4 G"]
    assert [duration(x) for x in (3.25, 75, 7380)] == ["3.2 s", "1 min 15 s", "2 h 03 min"]


def test_a_sparkline_rises_with_its_values():
    assert sparkline([0, 1, None, 7, 3.5], 0, 7) == "▁▂ █▅"


def test_names_are_drawn_so_that_they_tell_apart_and_stay_inside():
    runs = ["quickstart/seed-1/sft", *(f"iterate/seed-1/v{i}/{kind}" for i in (1, 2, 3) for kind in ("rs", "ppo"))]
    assert list(short(runs).values()) == ["sft", *(f"v{i}/{kind}" for i in (1, 2, 3) for kind in ("rs", "ppo"))]
    assert list(short(["a/b/rs", "a/c/rs", "a/c/rs, held out"]).values()) == ["b/rs", "c/rs", "c/rs, held out"]
    assert short(["runs/base/", "", "x" * 30]) == {"runs/base/": "base/", "": "", "x" * 30: f"{'x' * 21}…"}
    drawn = Figure("lines", "Versions", "version", "gold", [Series("gold", runs, [float(i) for i in range(7)])])
    labels = re.findall(r'<text x="([-\d.]+)" y="[\d.]+" class="tick" text-anchor="middle">([^<]+)', draw(drawn, "f"))
    assert [words for _, words in labels] == list(short(runs).values())
    assert all(float(x) - LETTER / 2 * len(words) >= 0 for x, words in labels)
    assert all(float(x) + LETTER / 2 * len(words) <= WIDTH for x, words in labels)


def test_text_tells_the_names_of_points():
    drawn = Figure("lines", "Versions", "version", "gold", [Series("gold", ["sft", "v1"], [1.0, 2.0])])
    told = show(Report("t", "", [Section("Rewards", [drawn])]))
    assert re.search(r"sft +1 +█+\n +v1 +2 +█+\n", told)
