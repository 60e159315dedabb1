"""Scales, labels and drawings."""

import math
import re

import pytest

from headwater.report.charts import Axis, Level, Line, Scale, chart, round_ticks, short, spread_apart, trace
from headwater.report.strips import bars, beside, clipped, intervals, ridges


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
    drawing += bars([(evil, [Line(evil, [0], [0.5], "water", [0.4], [0.6])])], evil, alt=evil, level=(evil, 0.5))
    drawing += beside(1.0, (0.5, 2.0), (0.0, -1.0, 1.0), alt=evil)
    assert "<script" not in drawing and "&lt;script&gt;" in drawing


def test_bars_are_as_long_as_their_values():
    lines = [Line("a", [0], [value], "water") for value in (0.2, 0.4, 0.8)]
    drawing = bars([("x", lines)], "share", alt="x")
    ends = [(float(a), float(b)) for a, b in re.findall(r'class="bars water" d="M(\d+) [\d.]+H([\d.]+)v', drawing)]
    lengths = [stop - start for start, stop in ends]
    assert lengths[1] / lengths[0] == pytest.approx(2, rel=0.01) and lengths[2] / lengths[0] == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize(
    ("value", "interval", "null"),
    [(1.0, None, (0.0, 0.0, 0.0)), (0.0, (0.0, 0.0), (0.0, 0.0, 0.0)), (3.0, (2.0, math.nan), (1.0, 0.5, 1.5))],
)
def test_a_value_beside_a_null_of_no_width_is_drawn(value, interval, null):
    assert "nan" not in beside(value, interval, null, alt="x")


def test_a_value_above_its_null_lies_to_the_right():
    drawing = beside(3.0, (2.5, 3.5), (0.0, -1.0, 1.0), alt="x")
    at = float(re.search(r'class="mark water" transform="translate\(([\d.]+)', drawing)[1])
    band = float(re.search(r'class="nullband" d="M[\d.]+ 4H([\d.]+)', drawing)[1])
    assert at > band > 0


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [1e-3, 1e3], [2, 3, 4]])
@pytest.mark.parametrize("log", [False, True])
def test_ridges_count_everything(values, log):
    drawing = ridges([("a", "b", values)], "x", alt="x", log=log)
    assert "nan" not in drawing and drawing.count("v-") == len(set(values))


def test_a_log_axis_has_ticks_within_one_power_of_ten():
    texts = [text for _, text in Scale(Axis("f", "log"), [0.04, 0.5], 0, 100).ticks]
    assert texts == ["0.05", "0.1", "0.2", "0.5"]
    assert [text for _, text in Scale(Axis("f", "log"), [1e-6, 1.0], 0, 100).ticks][0].startswith("10⁻")


def test_points_have_whiskers_and_no_curve():
    drawing = chart([Line("a", [1, 2], [3, 4], "water", [2, 3], [4, 5], "circle", joined=False)], Axis("x"), Axis("y"), alt="x")
    assert drawing.count('class="whisker water"') == 2 and 'class="curve' not in drawing and 'class="band' not in drawing


def test_a_name_may_stand_without_its_value():
    drawing = chart(
        [Line("a", [1, 2], [3, 4], "water", told=False)], Axis("x"), Axis("y"), alt="x", levels=[Level("b", 3.5, "ink")]
    )
    assert ">a<" in drawing and ">b 3.50<" in drawing


def test_a_long_text_keeps_both_ends():
    assert clipped("short", 9) == "short" and clipped("abcdefghijkl", 7) == "abc…jkl" and len(clipped("x" * 99, 12)) == 12
