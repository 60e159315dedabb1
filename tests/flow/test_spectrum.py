"""Predicted limit shapes against simulated ones, on the sphere and in flat space."""

import math

import pytest
import torch
from headwater.flow import sphere
from headwater.flow.clusters import clusters
from headwater.flow.spectrum import limit_shape


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def rotation(d: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(normal(d, d, seed=seed))[0]


def symmetric(values: list[float], seed: int) -> torch.Tensor:
    R = rotation(len(values), seed)
    return R @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ R.T


def run(
    follow, x: torch.Tensor, t: float, step: float, beta: float = 1.0, space: str = "sphere", **weights: torch.Tensor
) -> torch.Tensor:
    return follow(x, [0.0, t], step, beta, space=space, **weights)[-1]


@pytest.mark.parametrize("beta, kind", [(5.0, "two poles"), (0.3, "one cluster")])
def test_symmetric_values_end_as_classified(follow, beta, kind):
    """diag(2, 1, .5, .2) in turned axes: poles at +-phi_1 for b=5 in every run, one cluster there for b=.3 (tanh < 1/2)."""
    V = symmetric([2.0, 1.0, 0.5, 0.2], seed=1)
    found = limit_shape(V, beta=beta)
    assert found.kind == kind and not found.certain and "tanh" in found.reason
    x = sphere.uniform(16, 4, batch=4, generator=stream(2))
    if kind == "two poles":
        x = torch.cat([x[:, :8], -x[:, :8]], 1)  # balanced start
    for end in run(follow, x, 60.0, 0.1, beta, V=V):
        seen = clusters(end, 0.99)
        assert seen.count == (2 if kind == "two poles" else 1)
        assert bool(((seen.centres @ found.directions[0]).abs() > 0.999).all())


def test_coupling_of_query_and_key_moves_the_threshold(follow):
    """The rule holds with beta <Q phi_1, K phi_1> also when phi_1 is no eigenvector of Q^T K (derived in the guide)."""
    V, Q, K = symmetric([1.0, 0.6, 0.1], seed=3), normal(2, 3, seed=4), normal(2, 3, seed=5)
    phi = torch.linalg.eigh(V)[1][:, -1]
    K = K * torch.sign(phi @ Q.T @ K @ phi)
    strength = float(phi @ Q.T @ K @ phi)
    across = torch.linalg.qr(torch.cat([phi[:, None], normal(3, 2, seed=6)], 1))[0][:, 1:]
    for target, kind in ((0.5, "one cluster"), (0.7, "two poles")):
        beta = math.atanh(target) / strength
        assert limit_shape(V, Q, K, beta).kind == kind
        sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(5)
        x = sphere.project(sign[:, None] * phi + 1e-3 * normal(10, 2, seed=7) @ across.T)[None]
        end = run(follow, x, 120.0, 0.2, beta, V=V, Q=Q, K=K)[0]
        assert bool((end @ phi * sign > 0.999).all()) == (kind == "two poles")


def test_one_cluster_of_values_without_symmetry_and_of_a_repeated_leading_value(follow):
    V = torch.diag(torch.tensor([1.0, 0.4, -0.5], dtype=torch.float64))
    V[0, 1], V[1, 2] = 0.8, -0.3  # not normal
    found = limit_shape(V, beta=0.2)
    assert found.kind == "one cluster" and torch.allclose(found.directions.abs(), torch.eye(3, dtype=torch.float64)[:1])
    end = run(follow, sphere.uniform(10, 3, batch=2, generator=stream(8)), 60.0, 0.1, 0.2, V=V)
    assert bool((end[:, :, 0].abs() > 0.999).all()) and all(clusters(one).count == 1 for one in end)
    V = symmetric([1.5, 1.5, 0.2, -1.0], seed=9)
    found = limit_shape(V, beta=2.0)
    assert found.kind == "one cluster" and found.directions.shape == (2, 4)
    end = run(follow, sphere.uniform(10, 4, batch=2, generator=stream(10)), 80.0, 0.1, 0.5, V=V)
    inside = (end @ found.directions.T).norm(dim=-1)
    assert bool((inside > 0.999).all()) and all(clusters(one).count == 1 for one in end)


def test_identity_and_its_opposite(follow):
    eye = torch.eye(3, dtype=torch.float64)
    assert limit_shape(2 * eye).certain and limit_shape(2 * eye).kind == "one cluster"
    assert not limit_shape(eye, normal(3, 3, seed=1), normal(3, 3, seed=2)).certain  # hemisphere start only
    found = limit_shape(-eye)
    assert found.kind == "dispersal"
    end = run(follow, sphere.uniform(24, 3, generator=stream(3)), 60.0, 0.1, V=-eye)[0]
    assert float(end.mean(0).norm()) < 1e-2
    assert limit_shape(symmetric([-0.1, -2.0, -1.0], seed=4)).kind == "dispersal"


def test_a_complex_pair_drifts():
    V = torch.tensor([[1.0, -2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.5]], dtype=torch.float64)
    found = limit_shape(V)
    assert found.kind == "drift/unknown" and "complex" in found.reason and found.directions.shape == (2, 3)
    assert torch.allclose(found.directions[:, 2], torch.zeros(2, dtype=torch.float64), atol=1e-9)
    jordan = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    assert limit_shape(jordan).kind == "drift/unknown"
    assert limit_shape(torch.zeros(3, 3, dtype=torch.float64)).kind == "drift/unknown"


def levels(values: torch.Tensor, tolerance: float) -> int:
    ordered = values.sort().values
    return 1 + int((ordered.diff() > tolerance).sum())


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_prediction_20_three_hyperplanes(follow, seed):
    """Good triple (V not symmetric): phi_1* of z = e^{-tV} x takes at most 3 values, before e^{t lambda_1} overflows."""
    d, n = 3, 24
    basis = torch.eye(d, dtype=torch.float64) + 0.3 * normal(d, d, seed=seed)
    V = basis @ torch.diag(torch.tensor([1.0, 0.3, -0.4], dtype=torch.float64)) @ torch.linalg.inv(basis)
    Q, K = normal(d, d, seed=seed + 10), normal(d, d, seed=seed + 20)
    phi = basis[:, 0]
    Q = Q * torch.sign((Q @ phi) @ (K @ phi))
    found = limit_shape(V, Q, K, space="flat")
    assert found.kind == "hyperplanes" and found.certain
    dual = torch.linalg.inv(basis)[0]
    assert torch.allclose((found.directions[0] @ dual).abs(), dual.norm())
    t, x = 12.0, 1.5 * normal(1, n, d, seed=seed + 30)
    end = run(follow, x, t, 0.005, space="flat", V=V, Q=Q, K=K)[0]
    z = math.exp(-t) * end @ dual  # phi_1* of e^{-tV} x
    before = x[0] @ dual
    assert levels(before / before.abs().max(), 0.01) > 10
    assert levels(z / z.abs().max(), 0.01) <= 3, sorted(z.tolist())


def test_prediction_21_polytope_of_the_identity(follow):
    """V = I: the hull of z = e^{-t} x shrinks (no support function of 400 grows); tokens end at its vertices."""
    n, d, times = 20, 2, [0.25 * k for k in range(33)]
    found = limit_shape(3 * torch.eye(d, dtype=torch.float64), space="flat")
    assert found.kind == "polytope" and found.certain
    states = follow(normal(1, n, d, seed=5), times, 0.01, space="flat")[:, 0]
    z = states * torch.exp(-torch.tensor(times, dtype=torch.float64))[:, None, None]
    support = (z @ sphere.uniform(400, d, generator=stream(6))[0].T).amax(1)
    assert float(support.diff(dim=0).max()) < 1e-10
    apart = (z[-1] @ sphere.uniform(2000, d, generator=stream(7))[0].T).argmax(0).unique()
    gaps = torch.cdist(z[-1], z[-1][apart]).amin(1)
    assert len(apart) < n and float(gaps.median()) < 0.02 * float(torch.cdist(z[-1], z[-1]).max())


@pytest.mark.parametrize("size", [0.3, 3.0])
def test_prediction_22_radius_bound_without_normalisation(follow, size):
    """V = -I, Q^T K = I in flat space: no token leaves max(max |x(0)|, sqrt(2n)); all shrink to 0."""
    n, d = 12, 3
    x = size * normal(1, n, d, seed=8)
    assert limit_shape(-torch.eye(d, dtype=torch.float64), space="flat").kind == "dispersal"
    times = [0.05 * k for k in range(201)]
    radii = follow(x, times, 0.01, V=-torch.eye(d, dtype=torch.float64), space="flat").norm(dim=-1).amax((1, 2))
    assert float(radii.max()) <= max(float(radii[0]), math.sqrt(2 * n)) + 1e-12
    assert radii[-1] < radii[0]


def test_flat_space_without_a_rule_says_so():
    eye = torch.eye(2, dtype=torch.float64)
    assert limit_shape(torch.diag(torch.tensor([1.0, -2.0]).double()), space="flat").kind == "drift/unknown"  # larger modulus
    assert limit_shape(torch.diag(torch.tensor([1.0, 0.5]).double()), -eye, eye, space="flat").kind == "drift/unknown"
    assert limit_shape(eye, -eye, eye, space="flat").kind == "drift/unknown"
    found = limit_shape(symmetric([1.0, 1.0, 0.3], seed=1), space="flat")
    assert found.kind == "polytope" and found.directions.shape == (2, 3)


def test_turning_the_axes_changes_nothing():
    R = rotation(3, 11)
    for space in ("sphere", "flat"):
        V, Q, K = symmetric([1.0, 0.4, 0.1], seed=12), normal(3, 3, seed=13), normal(3, 3, seed=14)
        one, two = limit_shape(V, Q, K, 2.0, space), limit_shape(R @ V @ R.T, Q @ R.T, K @ R.T, 2.0, space)
        assert one.kind == two.kind and one.reason == two.reason
        assert torch.allclose((two.directions @ R).abs(), one.directions.abs(), atol=1e-8)


def test_what_cannot_be_is_refused():
    eye = torch.eye(3, dtype=torch.float64)
    for call, words in (
        (lambda: limit_shape(eye * math.nan), "finite"),
        (lambda: limit_shape(eye, beta=0.0), "beta > 0"),
        (lambda: limit_shape(eye[:1, :1]), "d >= 2"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    for shapes in ((eye, eye[:2]), (eye[:, :2], eye[:, :2])):  # the annotations refuse these first while tests run
        with pytest.raises((ValueError, TypeError)):
            limit_shape(eye, *shapes)
