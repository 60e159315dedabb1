"""What dataset.json calls channels and labels."""

import pytest

from headwater.scans.layouts.dialects import channel_names, label_names


@pytest.mark.parametrize(
    ("told", "expected"),
    [({"channel_names": {"1": "T2", "0": "T1"}}, ("T1", "T2")), ({"modality": {"0": "CT"}}, ("CT",)),
     ({"channel_names": ["A", "B"]}, ("A", "B")),
     ({"channel_names": {str(i): str(i) for i in range(12)}}, tuple(map(str, range(12)))),
     ({}, ()), ({"channel_names": 3}, ()), ({"channel_names": {"x": "y"}}, ()), ({"modality": None}, ())],
)  # fmt: skip
def test_channels(told, expected):
    assert channel_names(told) == expected


@pytest.mark.parametrize(
    ("labels", "expected", "notes"),
    [({"background": 0, "liver": 1}, {1: "liver"}, 0), ({"0": "background", "1": "liver"}, {1: "liver"}, 0),
     ({"liver": "1"}, {1: "liver"}, 0), (["background", "liver"], {1: "liver"}, 0),
     ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": [3], "ignore": 4},
      {1: "whole", 2: "core", 3: "rim", 4: "ignore"}, 2),
     ({"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}, {1: "kidney", 2: "tumor", 3: "masses"}, 1),
     (None, {}, 0), ({"a": None, "b": True, "c": -1, "d": 1.5, "e": "9" * 40, "f": [None, "x"]}, {}, 1), (7, {}, 0)],
)  # fmt: skip
def test_labels(labels, expected, notes):
    found, said = label_names({"labels": labels})
    assert found == expected and len(said) == notes
