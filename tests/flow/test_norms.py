"""Speeds of the normalisation schemes against attention itself, and their ends."""

import math

import numpy as np
import pytest
import torch
from headwater.flow import exact, norms
from headwater.flow.velocity import Attention

SCHEMES = ("post", "pre", "peri", "ngpt", "mix")


def test_attention_of_equiangular_tokens():
    for g, beta in ((0.0, 1.0), (0.4, 5.0), (-0.1, 2.0)):
        gram = torch.full((6, 6), g, dtype=torch.float64) + (1 - g) * torch.eye(6, dtype=torch.float64)
        x = torch.linalg.cholesky(gram)
        A = torch.softmax(beta * gram, -1) @ x
        along, size = norms.attention_of_equiangular(g, 6, beta)
        assert along == pytest.approx(float(x[0] @ A[0]), rel=1e-12) and size == pytest.approx(float(A[0].norm()), rel=1e-12)
    assert norms.attention_of_equiangular(0.0, 6, 1e4) == (1.0, 1.0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_initial_speed_is_rate_over_speed(scheme):
    n, beta, r0, alpha = 9, 1.3, 2.5, 0.7
    s, _ = norms.speeds("post" if scheme == "mix" else scheme, 0.0, r0, n, beta, alpha)
    told = float(exact.common_angle_rate(0.0, n, beta)) / s
    assert norms.initial_speed(scheme, n, beta, r0, alpha) == pytest.approx(told, rel=1e-12)
    gap, _ = norms.normalised_gap([0.0, 1e-5], scheme, n, beta, r0=r0, alpha=alpha)
    assert (gap[0] - gap[1]) / 1e-5 == pytest.approx(told, rel=1e-3)
    orthogonal = torch.eye(n, dtype=torch.float64)[None]
    if scheme in ("post", "mix"):
        v = Attention(beta)(0.0, orthogonal)[0]
        assert float(v[0, 1] + v[1, 0]) == pytest.approx(told, rel=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_terminal_laws(scheme):
    law, number = norms.terminal_law(scheme, alpha=0.5)
    if law == "exponential":
        gap, r = norms.normalised_gap([10 / number, 20 / number], scheme, 16, 1.0, alpha=0.5)
        assert math.log(gap[0] / gap[1]) / (10 / number) == pytest.approx(number, rel=1e-3)
        assert r == pytest.approx([1.0, 1.0])
    else:
        gap, r = norms.normalised_gap([2000.0, 4000.0], scheme, 16, 1.0)
        assert math.log(gap[0] / gap[1]) / math.log(2) == pytest.approx(number, abs=0.01)
        assert r[1] - r[0] == pytest.approx(2000.0, rel=0.01)


def test_post_is_the_common_angle_and_mix_switches():
    t = np.array([3.0, 0.0, 1.0, 0.5])
    assert norms.normalised_gap(t, "post", 16, 2.0)[0] == pytest.approx(exact.common_angle_gap(t, 16, 2.0), rel=1e-8)
    mixed, r = norms.normalised_gap(t, "mix", 16, 2.0, switch=1.0)
    assert mixed[2:] == pytest.approx(exact.common_angle_gap([1.0, 0.5], 16, 2.0), rel=1e-8) and r[2] == pytest.approx(1.0)
    later, _ = norms.normalised_gap(2.0, "pre", 16, 2.0, g0=1 - float(mixed[2]))
    assert later == pytest.approx(mixed[0], rel=1e-7)
    assert norms.normalised_gap(0.0, "mix", 16, 2.0)[0] == 1.0


def test_what_cannot_be_is_refused():
    for call in (
        lambda: norms.speeds("post", 0.0, 0.0, 4, 1.0),
        lambda: norms.normalised_gap(-1.0, "post", 4, 1.0),
        lambda: norms.normalised_gap(1.0, "post", 4, 1.0, g0=-0.5),
    ):
        with pytest.raises(ValueError):
            call()
