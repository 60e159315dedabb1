"""Tables of an observation: every number beside its null, absences explained, nothing of what nobody sought."""

import observed

from headwater.report import panel


def test_values_nulls_and_reasons():
    groups = dict(panel.groups(observed.found()))
    assert set(groups) == {"Tokens", "Attention", "Learned", "Shortcuts", panel.ALONG}, "no theme without numbers"
    gain = panel.GROUPS["Learned"]["reuse.untrained"]
    assert groups["Learned"] == [(gain, "0.11 [0.020, 0.20]", "0", "the same network, untrained")]
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
    told = {"look": {"panel": {name: none for name in panel.GROUPS["Attention"]}}}
    assert panel.groups(told) == [("Attention", [("attention", "–", "–", "the model shows no attention")])]


def test_what_the_way_of_the_tokens_costs():
    rows = {row[0]: row[1:] for row in panel.journey(observed.found())}
    assert rows[panel.JOURNEY["paid"]] == ("2.40", "5", "the same network, untrained")
    assert rows[panel.GROWTH["exponent"]][:2] == ("0.40", "0.10")
    score = rows["classes told by a linear probe, last layer"]
    assert score == ("0.80 ± 0.030", "0.35", "shuffled labels, 95 % below; chance 0.25, untrained 0.45")
    assert panel.journey({}) == []


def test_what_could_not_be_had_along_the_depth_is_one_row():
    none = observed.number(None, None, why="no token moves")
    told = {"motion": {"panel": dict.fromkeys(panel.JOURNEY, none)}, "separability": {"words": ["too few classes"]}}
    assert [(row[1], row[3]) for row in panel.journey(told)] == [("–", "no token moves"), ("–", "too few classes")]


def test_levels_beside_the_untrained_and_the_pixels():
    lines = panel.levels(observed.found())
    assert [line[:3] for line in lines] == [
        ("whole image", "trained", "0.60 ± 0.020"), ("whole image", "untrained", "0.30 ± 0.020"),
        ("single tokens", "trained", "0.60 ± 0.020"), ("single tokens", "untrained", "0.60 ± 0.020"),
        ("single tokens", "pixels", "0.40 ± 0.020"),
    ]  # fmt: skip
    assert panel.levels({}) == [] and panel.groups({}) == []
