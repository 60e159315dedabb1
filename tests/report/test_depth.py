"""Drawings along depth: as many marks as numbers, bars as long as shares, discs as wide as chance."""

import re

import observed
import pytest

from headwater.report import depth


def test_curves_of_what_is_there():
    figures = {figure.title: figure for figure in depth.curves(observed.found())}
    assert set(figures) == {depth.CURVES["similarity"][0], depth.CURVES["speed"][0]}, (
        "heads that never look at one token: no chart"
    )
    alike = figures[depth.CURVES["similarity"][0]]
    assert len(alike.rows) == 5 and alike.rows[4] == ("4", "0.50", "0.10") and "untrained" in alike.drawing
    assert depth.curves({}) == [] and depth.curves({"look": {"layers": {"similarity": [None, 0.2]}}}) == []


def test_growth_has_whiskers_of_two_errors_and_separability_its_chance():
    figures = {figure.title: figure for figure in depth.ways(observed.found())}
    stretch, divergence = (figures[words[0]] for words in depth.GROWN.values())
    whiskers = re.findall(r'class="whisker water" d="M\S+ ([\d.]+)V([\d.]+)"', stretch.drawing)
    assert len(whiskers) == 4 and stretch.drawing.count('class="whisker') == 8
    points = [float(y) for y in re.findall(r'class="mark water" transform="translate\(\S+ ([\d.]+)\)', stretch.drawing)]
    unit = (points[1] - points[0]) / 0.1
    for low, high in whiskers:
        assert float(low) - float(high) == pytest.approx(0.04 * unit, abs=0.21)
    assert stretch.rows[3] == ("3", "−0.10 ± 0.010", "−0.10 ± 0.010") and "two standard errors" in stretch.caption
    assert divergence.drawing.count('class="whisker water"') == 3, "a gap where there is no number"
    told = next(figure for title, figure in figures.items() if "classes" in title)
    assert told.rows[4] == ("4", "0.45 ± 0.030", "0.80 ± 0.030") and 'class="chance"' in told.drawing
    assert "24 images of 4 classes" in told.caption and told.drawing.count('class="band') == 2


def test_without_growth_and_classes_there_is_no_chart():
    assert depth.ways({}) == [] == depth.ways({"growth": {"words": ["no"]}, "separability": {"words": ["no"]}})
    odd = {"growth": {"trained": {"stretch": [1.0, None], "stretch_error": [0.1]}}, "separability": {"trained": 3}}
    assert depth.ways(odd) == []
    one = observed.found()
    del one["growth"]["untrained"]
    assert depth.ways(one)[0].head == ("layer", "trained")


def heights(drawing, layer):
    """Signed lengths of a layer's bars, by part: those above the line of no change are positive."""
    line = float(re.search(r'class="zero" d="M\S+ (\S+?)H', drawing)[1])
    found = {}
    for top, bottom, where, part in re.findall(
        r'd="M\S+ ([\d.]+)h[\d.]+V([\d.]+)h-[\d.]+z"><title>layer (\d+), ([^:]+):', drawing
    ):
        if int(where) == layer:
            found[part] = (float(bottom) - float(top)) * (1 if float(bottom) <= line + 0.11 else -1)
    return found


def test_bars_are_as_long_as_the_shares():
    told = observed.found()
    figure = depth.attribution(told)
    layer = told["explanation"]["layers"][1]
    long = heights(figure.drawing, 1)
    unit = long["mlp"] / 0.03
    for part, share in layer["parts"].items():
        assert long[part] == pytest.approx(share["share"] * unit, abs=0.25), part
    assert len(figure.rows) == 4 and figure.rows[1][3] == max(layer["parts"], key=lambda name: layer["parts"][name]["share"])
    assert depth.attribution({}) is None and depth.attribution({"explanation": {"layers": [{"parts": {}}]}}) is None


def test_a_disc_is_as_wide_as_its_radius():
    figure = depth.discs(observed.found())[0]
    random, chance = (float(r) for r in re.findall(r'r="([\d.]+)"/>', figure.drawing)[:2])
    assert random / chance == pytest.approx(0.2 / 0.25, rel=0.01)
    assert figure.drawing.count('class="mark') == 4, "a complex pair is two points"
    places = [float(x) for x in re.findall(r"translate\(([\d.]+) ", figure.drawing)]
    assert (max(places) - 124) / random == pytest.approx(0.5 / 0.2, rel=0.01)
    assert depth.discs({"eigenvalues": [{"real": [], "radius": 1}, {"real": [1], "imaginary": [0], "radius": 0}]}) == []
