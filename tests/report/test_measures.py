"""Sizes, intensities and volumes from the entries of a passport."""

import itertools
from dataclasses import replace

import pytest

from headwater.report import measures, read


def entry(shape=(30, 40, 50), spacing=(1.0, 1.0, 1.0), orientation="RAS", labels=None, low=(0.0,), high=(9.0,), **more):
    facts = {"shape": list(shape), "spacing": list(spacing), "orientation": orientation, "low": list(low), "high": list(high)}
    return {"facts": facts | more, "labels": labels, "mask": "m" if labels else None}


@pytest.fixture
def record(fabricate, tmp_path):
    """Makes records of a passport with given entries."""
    whole = read(fabricate.looked(tmp_path / "run"))

    def make(*entries, **more):
        return replace(whole, passport=whole.passport | {"entries": list(entries)} | more)

    return make


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_axes_are_told_in_the_usual_order(order):
    letters, shape, spacing = "RAS", (30, 40, 50), (0.5, 1.0, 2.0)
    stored = entry([shape[i] for i in order], [spacing[i] for i in order], "".join(letters[i] for i in order))
    assert measures.turned(stored, "RAS") == (list(shape), list(spacing))
    flipped = entry([shape[i] for i in order], [spacing[i] for i in order], "".join("LPI"[i] for i in order))
    assert measures.turned(flipped, "RAS") == (list(shape), list(spacing))


@pytest.mark.parametrize(("own", "way"), [("", "RAS"), ("RAS", ""), ("RA?", "RAS"), ("RAS", "RRS"), ("RA", "RAS")])
def test_an_unknown_orientation_turns_nothing(own, way):
    assert measures.turned(entry(orientation=own), way) == ([30, 40, 50], [1, 1, 1])


def test_axes_have_the_names_people_use():
    assert measures.axes({"orientation": "PSR"}, 3) == ["front-back", "up-down", "left-right"]
    assert measures.axes({"orientation": ""}, 2) == ["rows", "columns"]
    assert measures.axes({"orientation": "RAS"}, 2) == ["rows", "columns"]
    assert measures.axes({}, 3) == ["axis 1", "axis 2", "axis 3"]


def test_sizes_are_drawn_where_scans_differ(record):
    assert measures.sizes(record(entry(), entry())) == []
    (size,) = measures.sizes(record(entry(), entry((32, 40, 50))))
    assert size.rows == (("left-right", "30", "32", "32"), ("front-back", "40", "40", "40"), ("up-down", "50", "50", "50"))
    both = measures.sizes(record(entry(), entry((32, 40, 900), (1.0, 1.0, 3.0))))
    assert [figure.title.split()[0] for figure in both] == ["Size", "Spacing"] and "log scale" not in both[1].drawing
    wide = measures.sizes(record(entry((30, 40, 50)), entry((32, 40, 1600))))[0]
    assert "voxels, log scale" in wide.drawing


def test_a_spacing_nobody_stated_is_not_drawn(record):
    bare = [entry(spacing=(float(i), 1.0, 1.0), spaced=False) for i in (1, 2)]
    assert measures.sizes(record(*bare)) == []


def test_every_channel_has_its_intensities(record):
    scans = [entry(low=(0, 10), high=(100 + i, 20 + i)) for i in range(5)] + [entry(low=(0,), high=(300,))]
    figures = measures.intensity(record(*scans, channels=2, channel_names=["T1", "T2"]))
    assert [figure.title for figure in figures] == ["Intensity of each scan, T1", "Intensity of each scan, T2"]
    assert figures[0].rows[-1] == ("6", "0", "300") and figures[1].rows[-1] == ("5", "10", "24")
    levels = measures.levels({"entries": scans, "channels": 2})
    assert [row[:2] for row in levels] == [("channel 1", "6"), ("channel 2", "5")]
    assert levels[1][3] == "10" and levels[1][-2] == "22" and levels[1][2] == "–"


def test_scales_far_apart_are_drawn_on_a_log_scale(record):
    (figure,) = measures.intensity(record(*(entry(high=(10.0**i,)) for i in range(1, 5)), channels=1))
    assert "log scale" in figure.drawing
    (figure,) = measures.intensity(record(*(entry(low=(-1000.0,), high=(10.0**i,)) for i in range(1, 5)), channels=1))
    assert "nan" not in figure.drawing
    assert measures.intensity(record(entry())) == []


def test_volumes_come_from_spacing(record):
    scans = [entry(spacing=(1.0, 1.0, 2.5), labels={"0": 10, "1": 2000 * i, "3": 4}) for i in (1, 2, 3)]
    passport = record(*scans, ignore=3, label_names={"1": "liver"}).passport
    assert measures.held(passport) == {"1": [(2000, 5000), (4000, 10000), (6000, 15000)]}
    (figure,) = measures.volumes(record(*scans, ignore=3, label_names={"1": "liver"}))
    assert figure.rows == (("liver", "5", "10", "15"),) and ">ml<" in figure.drawing
    small = [entry(labels={"1": 20 + i}) for i in range(3)]
    assert (
        measures.volumes(record(*small))[0].rows[0][1:] == ("20", "21", "22")
        and "mm³" in measures.volumes(record(*small))[0].drawing
    )


def test_no_volume_is_invented(record):
    bare = [entry(labels={"1": 100 + i}, spaced=False) for i in range(4)]
    assert measures.volumes(record(*bare)) == [] and all(mm != mm for _, mm in measures.held(record(*bare).passport)["1"])
    assert measures.volumes(record(*(entry(labels={"1": 100 + i}) for i in range(4)), instances=True)) == []
