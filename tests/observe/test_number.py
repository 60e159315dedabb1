"""A number says why it is absent, and rounding is not taken for variance."""

import math

import torch

from headwater.observe.number import Number, absent, broken, flat


def test_absent_is_nan_and_says_why() -> None:
    number = absent("one image only", "guessing")
    assert math.isnan(number.value) and math.isnan(number.null)
    assert (number.why, number.how) == ("one image only", "guessing")
    assert math.isnan(Number(1.0, 0.0, "guessing").low)


def test_broken_counts_entries_of_the_first_axis() -> None:
    rows = torch.zeros(5, 2, 3)
    assert broken(rows) == ""
    rows[1, 0, 2] = math.nan
    rows[4] = math.inf
    assert broken(rows) == "features of 2 of 5 images are not finite"
    assert broken(rows[:0]) == ""


def test_flat_knows_the_rounding_of_the_type() -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float16, torch.float32, torch.float64):
        for size, expected in ((0.3 * torch.finfo(dtype).eps, True), (100 * torch.finfo(dtype).eps, False)):
            x = (1 + size * torch.randn(200, generator=generator, dtype=torch.float64)).to(dtype).double()
            assert flat(float(x.var()), float(x.square().mean()), dtype) is expected
    assert flat(0.0, 0.0, torch.float32)
