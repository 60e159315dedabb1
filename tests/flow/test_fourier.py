"""Waves on the angles of spheres: they span the polynomials, and sums over nodes find their coefficients."""

import math

import pytest
import torch

from headwater.flow import fourier, sphere

CPU = torch.device("cpu")


def cloud(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return sphere.uniform(n, d, torch.Generator().manual_seed(seed))[0].T.contiguous()


def products(x: torch.Tensor, top: int) -> torch.Tensor:
    """Every wave at every token, (waves, N)."""
    h, b, a = fourier.angles(x)
    found = []
    for parity in fourier.basis(len(x), top, CPU):
        right = torch.ones_like(x[:1]) if a is None else parity.a.at(a)
        found += [(fourier.product(left, h, b).unsqueeze(1) * right).flatten(0, 1) for left in parity.left]
    return torch.cat(found)


@pytest.mark.parametrize("d", [2, 3, 4])
def test_angles_and_points_are_inverse(d):
    x = cloud(50, d)
    x[:, 0] = torch.eye(d, dtype=torch.float64)[-1]
    x[:, 1] = -torch.eye(d, dtype=torch.float64)[0]
    h, b, a = (torch.zeros(50, dtype=torch.float64) if angle is None else angle for angle in fourier.angles(x))
    assert torch.allclose(fourier.points(d, h, b, a), x, atol=1e-15)


@pytest.mark.parametrize(("d", "top"), [(2, 6), (3, 4), (4, 3)])
def test_waves_span_all_polynomials_and_only_finitely_more(d, top):
    x = cloud(1500, d)
    monomials = [torch.ones(1500, dtype=torch.float64)]
    for index in range((d + 1) ** top):  # all products of `top` of the coordinates and 1
        digits = [index // (d + 1) ** k % (d + 1) for k in range(top)]
        monomials.append(math.prod([x[k] if k < d else torch.ones_like(x[0]) for k in digits]))
    wanted, waves = torch.stack(monomials).T, products(x, top).T
    left = wanted - waves @ torch.linalg.lstsq(waves, wanted, driver="gelsd").solution
    assert left.abs().max() < 1e-10
    beyond = x[0] ** (top + 1)
    left = beyond - waves @ torch.linalg.lstsq(waves, beyond.unsqueeze(1), driver="gelsd").solution[:, 0]
    assert left.abs().max() > 1e-4


@pytest.mark.parametrize("d", [2, 3, 4])
def test_waves_are_single_valued_on_the_sphere(d):
    """Two ways to name one point: (h, a) and (-h, a + pi); so waves agree with no jump where the angles jump."""
    x = cloud(40, d)
    h, b, a = fourier.angles(x)
    for parity in fourier.basis(d, 5, CPU):
        for left in parity.left:
            if d == 3:
                moved = left[0].at(-h).unsqueeze(1) * parity.a.at(a + torch.pi)
                assert torch.allclose(moved, left[0].at(h).unsqueeze(1) * parity.a.at(a), atol=1e-13)
            if d == 4:
                moved = fourier.product(left, -h, b + torch.pi)
                assert torch.allclose(moved, fourier.product(left, h, b), atol=1e-13)
                moved = fourier.product(left, torch.pi - h, b).unsqueeze(1) * parity.a.at(a + torch.pi)
                assert torch.allclose(moved, fourier.product(left, h, b).unsqueeze(1) * parity.a.at(a), atol=1e-13)


def test_dual_rows_pick_coefficients():
    (parity,) = fourier.basis(2, 7, CPU)
    rows = parity.left[0][1]
    nodes = 2 * torch.pi * torch.arange(16, dtype=torch.float64) / 16
    found = rows.dual(nodes) @ rows.at(nodes).T
    wanted = torch.eye(len(rows), dtype=torch.float64)
    wanted[8, 8] = 0.0  # sin of frequency 0 is nothing
    assert torch.allclose(found, wanted, atol=1e-14)


def test_basis_made_without_gradients_serves_with_them():
    fourier.basis.cache_clear()
    with torch.inference_mode():
        fourier.basis(3, 3, CPU)
    x = cloud(5, 3).requires_grad_()
    products(x, 3).sum().backward()
    assert x.grad.isfinite().all()
