"""Clusters against brute force, similarity against all pairs."""

import math
import time

import numpy as np
import pytest
import torch
from headwater.flow import sphere
from headwater.flow.clusters import _by_blocks, _by_tree, clusters, dissimilarity, similarity
from scipy.sparse.csgraph import connected_components


def stream(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = {(int(i), int(j)) for i, j in zip(a, b, strict=True)}
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def caps(n: int, d: int, k: int, width: float, seed: int) -> torch.Tensor:
    """n tokens around k random points."""
    centres = sphere.uniform(k, d, generator=stream(seed))[0]
    return sphere.project(
        centres[torch.arange(n) % k] + width * torch.randn(n, d, generator=stream(seed + 1), dtype=torch.float64)
    )


@pytest.mark.parametrize("d", [2, 3, 4, 16])
@pytest.mark.parametrize("cosine", [0.999, 0.99, 0.9])
def test_components_are_those_of_the_full_graph(d, cosine):
    for x in (sphere.uniform(300, d, generator=stream(d))[0], caps(300, d, 6, 0.02, d), caps(300, d, 20, 0.1, d)):
        gaps = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").numpy()
        told = connected_components(gaps <= math.sqrt(2 * (1 - cosine)))[1]
        found = clusters(x, cosine)
        assert same_partition(found.labels.numpy(), told)
        assert found.count == told.max() + 1 and int(found.sizes.sum()) == 300
        assert bool((found.sizes.diff() <= 0).all())
        for name in (_by_tree, _by_blocks):
            assert same_partition(name(x.numpy(), math.sqrt(2 * (1 - cosine))), told)


def test_few_neighbours_are_not_enough():
    """Dense groups that touch in one pair only: nearest neighbours never see the bridge."""
    g = stream(3)
    left, right = (torch.rand(3000, 2, generator=g, dtype=torch.float64) * 0.05 + shift for shift in (0.0, 0.1))
    bridge = torch.tensor([[0.05, 0.05], [0.1, 0.1]], dtype=torch.float64)
    flat = torch.cat([left, right, bridge]).numpy()
    assert len(set(_by_tree(flat, 0.0708).tolist())) == 1
    assert len(set(_by_tree(flat[:-2], 0.04).tolist())) == 2


def test_collapsed_tokens_tight_clusters_and_centres():
    x = sphere.uniform(4, 3, generator=stream(4))[0][torch.arange(40_000) % 4]
    found = clusters(x)
    assert found.count == 4 and found.tight == 1.0 and found.sizes.tolist() == [10_000] * 4
    assert torch.allclose(found.centres[found.labels], x, atol=1e-12)
    chain = clusters(sphere.circle(torch.arange(2000, dtype=torch.float64) * (2 * math.pi / 2000)))
    assert chain.count == 1 and chain.tight < 0.1 and bool(torch.isnan(chain.centres).all())
    x = torch.cat([x[:100], sphere.uniform(3, 3, generator=stream(5))[0]])
    assert clusters(x, 0.999).count == 7 and clusters(x, 0.999, smallest=2).count == 4
    assert clusters(x, 0.999, smallest=2).tight == pytest.approx(100 / 103)
    assert clusters(7 * x, 0.999).count == 7  # lengths do not matter


def test_order_and_axes_do_not_matter():
    x = caps(200, 3, 5, 0.05, 6)
    turn, mix = (
        torch.linalg.qr(torch.randn(3, 3, generator=stream(7), dtype=torch.float64))[0],
        torch.randperm(200, generator=stream(8)),
    )
    one, two = clusters(x), clusters((x @ turn)[mix])
    assert same_partition(one.labels[mix].numpy(), two.labels.numpy()) and sorted(one.sizes) == sorted(two.sizes)


@pytest.mark.slow
def test_time_grows_about_linearly():
    """Tokens in 10 caps and spread evenly: ten times the tokens cost far less than a hundred times the time."""
    for make in (lambda n: caps(n, 3, 10, 0.05, 1), lambda n: sphere.uniform(n, 3, generator=stream(2))[0]):
        spent = []
        for n in (20_000, 200_000):
            x, start = make(n), time.process_time()
            clusters(x)
            spent.append(time.process_time() - start)
        assert spent[1] / spent[0] < 30, spent


def test_similarity_is_the_mean_over_pairs():
    x = torch.randn(3, 20, 5, generator=stream(9), dtype=torch.float64) + 0.5
    unit = x / x.norm(dim=-1, keepdim=True)
    gram = unit @ unit.mT
    pairs = (gram.sum((1, 2)) - 20) / (20 * 19)
    assert torch.allclose(similarity(x), pairs, atol=1e-14)
    assert float(similarity(x[0])) == pytest.approx(float(pairs[0]))


def test_dissimilarity_keeps_its_digits():
    base = torch.eye(4, dtype=torch.float64)[:1]
    off = torch.randn(30, 4, generator=stream(10), dtype=torch.float64)
    off[:, 0] = 0
    gaps = []
    for size in (1e-4, 1e-9):
        told = float(torch.pdist(size * off).square().mean() / 2)
        gaps.append(float(dissimilarity(base + size * off)))
        assert gaps[-1] == pytest.approx(told, rel=1e-4)


def test_what_cannot_be_is_refused():
    x = sphere.uniform(4, 3, generator=stream(1))[0]
    for call in (
        lambda: clusters(x, 1.0),
        lambda: clusters(x * math.nan),
        lambda: clusters(x[:0]),
        lambda: similarity(x[:1]),
        lambda: similarity(0 * x),
        lambda: similarity(x[:, :1]),
    ):
        with pytest.raises(ValueError):
            call()
