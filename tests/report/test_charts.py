"""Scales, labels and drawings."""

import math
import re

import pytest

from headwater.report.charts import Axis, Level, Line, Scale, chart, round_ticks, short, spread_apart, trace
from headwater.report.strips import intervals, ridges


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (24.0, "24"),
        (24.31, "24.3"),
        (0.613, "0.61"),
        (0.0608, "0.061"),
        (1900, "1,900"),
        (-0.5, "−0.50"),
        (math.nan, "–"),
    ],
)
def test_a_number_is_short(value, text):
    assert short(value) == text


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 17), (0.02, 0.031), (100, 1e6)])
def test_ticks_are_round_and_inside(low, high):
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 9 and len({text for _, text in ticks}) == len(ticks)
    assert all(low - 1e-9 <= value <= high + 1e-9 for value, _ in ticks)


def test_a_log2_axis_spaces_doublings_evenly():
    scale = Scale(Axis("labels", "log2"), [1, 16], 0, 400)
    assert [round(scale(value)) for value in (1, 2, 4, 8, 16)] == [0, 100, 200, 300, 400]
    assert math.isnan(scale(0)) and math.isnan(scale(math.nan))


def test_labels_keep_their_order_and_distance():
    places = spread_apart([50.0, 51.0, 49.0, 10.0], 15, 0, 60)
    assert sorted(range(4), key=lambda i: places[i]) == [3, 2, 0, 1]
    ordered = sorted(places)
    assert all(b - a >= 15 - 1e-9 for a, b in zip(ordered, ordered[1:], strict=False)) and ordered[-1] <= 60


def test_a_curve_is_cut_at_nan():
    assert trace([(0, 0), (1, 1), (2, math.nan), (3, 3), (4, 4)]).count("M") == 2


@pytest.mark.parametrize("y", [[], [math.nan, math.nan], [1.0, 1.0], [0.0, 0.0], [1e-9, 2e9], [-5.0, 3.0]])
@pytest.mark.parametrize("kind", ["linear", "log", "log2"])
def test_no_values_break_a_chart_or_leave_nan_in_it(y, kind):
    line = Line("a", list(range(1, len(y) + 1)), y, "water", low=y, high=y, mark="square")
    drawing = chart(
        [line],
        Axis("x", kind),
        Axis("y", kind),
        alt="x",
        levels=[Level("l", math.nan, "before")],
        chance=Line("c", line.x, y, "chance"),
    )
    assert not re.search(r'"[^"]*\b(nan|inf)\b[^"]*"', drawing)


def test_names_are_escaped():
    evil = "<script>'\"&"
    drawing = chart([Line(evil, [1, 2], [1, 2], "water", mark="circle")], Axis(evil), Axis(evil), alt=evil)
    drawing += intervals([(evil, Line(evil, [1], [2.0], "water", [1.0], [3.0]))], evil, alt=evil)
    drawing += ridges([(evil, evil, [1.0, 2.0])], evil, alt=evil)
    assert "<script" not in drawing and "&lt;script&gt;" in drawing
