"""Findings are finite, survive JSON and speak in sentences."""

import json

import pytest

from headwater.scans.distribution.finding import Distribution, Finding, Null, Plot, Series, absent, beside, short


def distribution(**changes) -> Distribution:
    found = Finding("slope", -2.0, "per octave", "It falls.", (-2.1, -1.9), None, Null("noise", 0.0, -0.1, 0.1))
    plot = Plot("spectrum", "Power", "f", "power", (Series("scans", (1.0, 2.0), (4.0, 1.0)),))
    whole = dict(scans=3, of=9, patches=120, patch=(8, 8), channels=1, spacing=(1.0, 1.0), unit="mm", background=0.25)
    return Distribution(
        **whole | {"findings": (found, absent("tails", "kurtosis", "nothing is there")), "plots": (plot,)} | changes
    )


def test_json_holds_everything():
    value = json.loads(json.dumps(distribution().plain(), allow_nan=False))
    assert value["findings"][0]["null"] == {"of": "noise", "value": 0.0, "low": -0.1, "high": 0.1}
    assert value["findings"][1]["value"] is None
    assert value["sentences"] == distribution().sentences()
    assert value["plots"][0]["series"][0]["y"] == [4.0, 1.0]


def test_one_sentence_each():
    said = distribution(notes=("One was left out.",)).sentences()
    assert said[0] == "Looked at 120 patches of 8 x 8 voxels from 3 of 9 scans; 25% of the places were nearly constant, left out."
    assert said[1:] == ["One was left out.", "It falls.", "Tails cannot be measured: nothing is there."]
    assert distribution(patches=0, patch=()).sentences()[0] == "No patch with contrast in 3 of 9 scans."


def test_found_by_name():
    assert distribution().finding("slope").value == -2.0 and distribution().plot("spectrum").title == "Power"
    with pytest.raises(KeyError):
        distribution().finding("other")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_never_a_silent_nan(bad):
    for changes in ({"value": bad}, {"interval": (0.0, bad)}, {"error": bad}, {"null": Null("x", 0.0, bad, 1.0)}):
        with pytest.raises(AssertionError):
            Finding(**{"name": "a", "value": 1.0, "unit": "", "sentence": ""} | changes)


@pytest.mark.parametrize(
    "number, said",
    [(0.0, "0"), (-1e-12, "0"), (12.345, "12.3"), (-4.0071, "-4.01"), (128.0, "128"), (1000.0, "1000"), (0.000127, "0.000127"),
     (33343.4, "33343"), (0.1, "0.1"), (2e7, "2e+07")],
)  # fmt: skip
def test_short(number, said):
    assert short(number) == said


def test_sides_of_the_null():
    null = Null("x", 0.0, -1.0, 1.0)
    assert [beside(v, None, null) for v in (2.0, 0.5, -2.0, 1.0)] == [1, 0, -1, 0]
    assert beside(2.0, (0.9, 3.0), null) == 0 and beside(2.0, (1.1, 3.0), null) == 1
