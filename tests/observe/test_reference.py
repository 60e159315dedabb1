"""The shipped bands are whole, small and read as they are written."""

from importlib import resources

import numpy as np
import pytest
from headwater.errors import InputError
from headwater.objectives import OBJECTIVES
from headwater.observe import reference


def test_every_objective_has_bands_and_the_file_is_small():
    file = resources.files("headwater.observe").joinpath(reference.FILE)
    assert len(file.read_bytes()) < 60_000
    assert set(reference.table()["bands"]) == {*OBJECTIVES, reference.EVERY}
    assert {"pooled.reliability", "dense.reliability", "dense.rank", "heads.effective"} <= set(reference.names())


@pytest.mark.parametrize("objective", [*OBJECTIVES, reference.EVERY])
def test_bands_are_ordered_and_begin_at_their_own_start(objective: str):
    for name in reference.table()["bands"][objective]:
        found = reference.band(name, objective)
        low, middle, high = (np.array(curve) for curve in (found.low, found.middle, found.high))
        assert len(found.shares) == len(low) == len(middle) == len(high) and found.runs >= 2
        assert found.shares[0] == 0 and found.shares[-1] == 1 and (np.diff(found.shares) > 0).all()
        assert (low <= middle).all() and (middle <= high).all() and np.isfinite([low, middle, high]).all()
        if found.how == "less its own start":
            assert low[0] == high[0] == 0
        if found.how == "over its own start":
            assert low[0] == high[0] == 1


def test_between_shares_lies_a_straight_line():
    found = reference.band("dense.reliability")
    (a, b), (x, y) = found.shares[1:3], found.high[1:3]
    assert found.at((a + b) / 2)[2] == pytest.approx((x + y) / 2)
    assert found.at(2.0) == (found.low[-1], found.middle[-1], found.high[-1])


def test_a_value_is_placed_beside_its_band():
    low, middle, high = reference.band("dense.reliability").at(0.5)
    words = [reference.beside("dense.reliability", 0.5, value) for value in (low - 0.01, middle, high + 0.01)]
    assert words == ["below", "within", "above"]


def test_what_there_is_no_band_of_is_named():
    with pytest.raises(InputError, match="no band of 'charm'"):
        reference.band("charm")
    with pytest.raises(InputError, match="no healthy runs of 'charm'"):
        reference.band("dense.rank", "charm")


def test_what_is_usual_begins_where_the_run_began():
    first = {"dense": {"reliability": 0.4, "rank": 6.0}, "pooled": {"reliability": None}}
    found = reference.usual(first, 0.0, "cva")
    assert found == {"dense": {"reliability": [0.4, 0.4], "rank": [6.0, 6.0]}}
    low, high = reference.usual(first, 1.0, "cva")["dense"]["reliability"]
    assert low < 0.4 + reference.band("dense.reliability", "cva").at(1.0)[1] < high
    assert reference.usual(first, 0.5, "of tomorrow") == reference.usual(first, 0.5, reference.EVERY)
    assert reference.usual({}, 0.5, "cva") == {}
