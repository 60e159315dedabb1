"""Tables of an observation: every number beside its null, absences explained, nothing of what nobody sought."""

import observed

from headwater.report import panel


def test_values_nulls_and_reasons():
    groups = dict(panel.groups(observed.found()))
    assert set(groups) == {"Tokens", "Attention", "Shortcuts"}, "no theme without numbers"
    assert groups["Tokens"][0] == ("variance of tokens: which image it is", "0.30", "0.10", "the same network, untrained")
    rows = {row[0]: row[1:] for row in groups["Attention"]}
    assert rows[panel.GROUPS["Attention"]["order"]] == ("–", "–", "not measured at every look")
    assert rows[panel.GROUPS["Attention"]["heads.ablation"]] == ("0.20", "–", ""), "without a null nothing is said of it"
    assert groups["Shortcuts"][0][1] == "0.30 [0.20, 0.40]"
    assert panel.published(observed.found()) == [("RankMe", "20", "40", "noise")]


def test_a_number_of_no_theme_is_not_lost():
    told = observed.found()
    told["look"]["panel"]["new.thing"] = observed.number(1.0)
    assert dict(panel.groups(told))["Further"][0][0] == "new.thing"


def test_where_nothing_of_a_theme_could_be_had_one_row_says_why():
    told = observed.found()
    none = {"value": None, "null": None, "how": "not sought", "why": "the model shows no attention"}
    told["look"]["panel"] = {name: none for name in panel.GROUPS["Attention"]}
    assert panel.groups(told) == [("Attention", [("attention", "–", "–", "the model shows no attention")])]


def test_levels_beside_the_untrained_and_the_pixels():
    lines = panel.levels(observed.found())
    assert [line[:3] for line in lines] == [
        ("whole image", "trained", "0.60 ± 0.020"), ("whole image", "untrained", "0.30 ± 0.020"),
        ("single tokens", "trained", "0.60 ± 0.020"), ("single tokens", "untrained", "0.60 ± 0.020"),
        ("single tokens", "pixels", "0.40 ± 0.020"),
    ]  # fmt: skip
    assert panel.levels({}) == [] and panel.groups({}) == []
