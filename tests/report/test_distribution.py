"""Plots and readings of the distribution."""

import copy
import math
import re
from dataclasses import asdict, replace

import numpy as np
import pytest

from headwater import runfolder
from headwater.report import distribution, read


@pytest.fixture
def looked(fabricate, tmp_path):
    return read(fabricate.looked(tmp_path / "run"))


def cards(record):
    return [card for _, _, part in distribution.section(record)["parts"] for card in part]


def test_what_was_not_measured_is_not_there(looked):
    assert distribution.section(replace(looked, distribution={})) is None


def test_every_plot_is_drawn_and_every_finding_told_once(looked):
    found = cards(looked)
    told = [reading.name for card in found for reading in card.readings]
    names = [finding["name"] for finding in looked.distribution["findings"]]
    assert sorted(told) == sorted(name[0].upper() + name[1:] for name in names)
    assert sum(card.figure is not None for card in found) == len(looked.distribution["plots"]) == 10
    for card in found:
        assert card.figure is None or not re.search(r'"[^"]*\b(nan|inf)\b[^"]*"', card.figure.drawing), card.title
    section = distribution.section(looked)
    assert "4,408 patches of 8 × 8 × 8 voxels from 48 of 60 scans" in section["looked"] and "14 %" in section["looked"]
    assert section["notes"] == ["2 of the scans drawn are left out: no contrast."]


def reading(record, name):
    return next(r for card in cards(record) for r in card.readings if r.name == name)


def test_a_number_stands_beside_its_null(looked):
    tails = reading(looked, "Tails of wavelet details")
    assert (tails.value, tails.interval, tails.null) == ("3", "2.70 to 3.30", "Gaussian draws: 0 (−0.10 to 0.10)")
    assert "Gaussian −0.1 to 0.1" in tails.sentence and "<svg" in tails.drawing
    gap = reading(looked, "Clone gap")
    assert (gap.value, gap.interval, gap.null) == ("20.0 %", "18.0 % to 22.0 %", "Gaussian draws: 0.0 % (−2.0 % to 2.0 %)")
    assert reading(looked, "Correlation length").value == "5 mm"
    assert reading(looked, "Correlation length").null == "Gaussian draws: 0.60"  # no range of no width
    assert reading(looked, "Slope of the power spectrum").value == "−3"


def test_what_has_no_null_or_no_value_says_so(looked):
    alone = reading(looked, "Probe accuracy")
    assert alone.value == "90.0 %" and alone.null == "" and alone.drawing == ""
    missing = reading(looked, "Components for 99% of the variance")
    assert missing.value == "" and missing.sentence == "It cannot be measured: too few patches."


def test_the_gaussian_ends_where_nothing_was_measured(looked):
    plot = next(p for p in looked.distribution["plots"] if p["name"] == "histogram wavelet")
    least = min(plot["series"][0]["y"])
    assert distribution._floor(plot["series"]) == pytest.approx(least / 2)
    assert min(plot["series"][1]["y"]) < least / 1000  # what would stretch the axis
    ticks = re.findall(r">10(⁻[^<]+)<", distribution.draw("histogram wavelet", plot, []).drawing)
    assert ticks and all(tick in ("⁻⁴", "⁻³") for tick in ticks)


def test_the_correlation_length_is_marked_where_1_over_e_is_crossed(looked):
    card = next(card for card in cards(looked) if "autocorrelation" in card.title)
    assert re.search(r"<title>, 5: 0\.37</title>", card.figure.drawing) and ">1/e<" in card.figure.drawing


def test_components_are_marked_on_the_curve(looked):
    card = next(card for card in cards(looked) if "linear code" in card.title)
    told = re.search(r"<title>90% of the variance, 46: (0\.\d+)</title>", card.figure.drawing)
    assert float(told[1]) == pytest.approx(1 - math.exp(-46 / 20), abs=0.005)


def test_what_is_new_is_shown_all_the_same(looked):
    told = copy.deepcopy(looked.distribution)
    told["plots"].append(
        {"name": "new", "title": "A new plot", "series": [{"name": "x", "x": [1, 2], "y": [3, 4], "marks": "line"}]}
    )
    told["findings"].append({"name": "new number", "value": 3, "unit": "u", "sentence": "It is three."})
    found = distribution.section(replace(looked, distribution=told))["parts"][-1]
    assert found[0] == "More" and [card.title for card in found[2]] == ["A new plot", "New number"]


@pytest.mark.parametrize("value", [None, [], {}, "text", 3, [None], [{}], [{"name": None, "series": [{"x": [1], "y": [None]}]}]])
def test_no_value_breaks_the_section(looked, value):
    for key in looked.distribution:
        distribution.section(replace(looked, distribution=looked.distribution | {key: value}))
    for key in ("title", "x_label", "series", "log_x", "log_y"):
        plots = [plot | {key: value} for plot in looked.distribution["plots"]]
        distribution.section(replace(looked, distribution=looked.distribution | {"plots": plots}))
    for key in ("name", "x", "y", "marks", "low", "labels"):
        plots = [plot | {"series": [row | {key: value} for row in plot["series"]]} for plot in looked.distribution["plots"]]
        distribution.section(replace(looked, distribution=looked.distribution | {"plots": plots}))
    for key in ("name", "value", "unit", "sentence", "interval", "null"):
        rows = [row | {key: value} for row in looked.distribution["findings"]]
        distribution.section(replace(looked, distribution=looked.distribution | {"findings": rows}))


@pytest.mark.slow
def test_the_page_knows_what_is_measured(looked):
    """The names this page asks for are the ones the measurement gives: nothing of a real one ends under More."""
    from headwater.scans.distribution import Sample, describe

    def sample(i):
        rng = np.random.Generator(np.random.Philox(i))
        noise = rng.standard_normal((64, 64)).cumsum(0).cumsum(1)
        mask = np.zeros((64, 64), int)
        mask[16:48, 16:48] = 1
        return Sample((noise + 40 * mask * rng.laplace(size=(64, 64)))[None], (1.0, 1.0), mask)

    found = runfolder.plain(asdict(describe(sample, 10)))
    section = distribution.section(replace(looked, distribution=found))
    assert "More" not in [heading for heading, _, _ in section["parts"]]
    drawn = [card for _, _, part in section["parts"] for card in part if card.figure]
    assert len(drawn) == len(found["plots"]) >= 9
