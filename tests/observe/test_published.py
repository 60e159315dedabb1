"""Published numbers against their formulas written out in numpy, their known blind spots, and what noise gives."""

import math

import numpy as np
import pytest
import torch

from headwater.observe.published import (
    alignment,
    alpha_req,
    feature_deviation,
    groups,
    join_groups,
    lidar,
    lidar_corrected,
    published,
    rankme,
    uniform_on_sphere,
    uniformity,
)
from headwater.observe.spectra import join, moments, participation_ratio, variances

N, Q, D, K = 512, 4, 128, 40


def cases() -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(1)
    latent = rng.normal(size=(N, K))
    first, second = rng.normal(size=(K, 256)) / K**0.5, rng.normal(size=(256, D)) / 16
    random = rng.normal(size=(160, 256)) / 160**0.5

    def seen() -> np.ndarray:
        return latent[:, None] + 0.3 * rng.normal(size=(N, Q, K))

    pixels = np.concatenate([seen(), 3 * rng.normal(size=(N, Q, 120))], -1)
    healthy = np.maximum(seen() @ first, 0) @ second
    made = {
        "noise": rng.normal(size=(N, Q, D)),
        "healthy": healthy,
        "random net": np.maximum(pixels @ random, 0) @ second,
        "3 directions": seen()[..., :3] @ rng.normal(size=(3, D)) + 1e-3 * rng.normal(size=(N, Q, D)),
        "constant": 5 + 1e-6 * rng.normal(size=(N, Q, D)),
        "wrong groups": healthy.reshape(-1, D)[rng.permutation(N * Q)].reshape(N, Q, D),
    }
    return {name: torch.from_numpy(z) for name, z in made.items()}


MADE = cases()


def entropy_rank(values: np.ndarray) -> float:
    total, entropy = values.sum(), 0.0
    for value in values:
        p = value / total + 1e-7
        entropy -= p * math.log(p)
    return math.exp(entropy)


def discriminant(z: np.ndarray, ridge: float) -> np.ndarray:
    """LiDAR's matrix, image by image."""
    n, q, d = z.shape
    grand = z.mean((0, 1))
    within, between = ridge * np.eye(d), np.zeros((d, d))
    for image in z:
        middle = image.mean(0)
        between += np.outer(middle - grand, middle - grand) / (n - 1)
        for view in image:
            within += np.outer(view - middle, view - middle) / (n * (q - 1))
    values, axes = np.linalg.eigh(within)
    root = axes / np.sqrt(values) @ axes.T
    return root @ between @ root


@pytest.mark.parametrize("n", [40, 5])
def test_rankme_as_published(n: int) -> None:
    z = np.random.default_rng(n).normal(size=(n, 12)) + 3
    assert rankme(torch.from_numpy(z)) == pytest.approx(entropy_rank(np.linalg.svd(z, compute_uv=False)), rel=1e-6)


def test_lidar_as_published() -> None:
    z = np.random.default_rng(0).normal(size=(30, 3, 6)) + np.random.default_rng(1).normal(size=(30, 1, 6))
    expected = entropy_rank(np.linalg.eigvalsh(discriminant(z, 1e-4)))
    assert lidar(torch.from_numpy(z)) == pytest.approx(expected, rel=1e-8)


def test_alpha_req_recovers_a_power_law() -> None:
    for alpha in (0.5, 1.0, 2.0):
        rows = torch.linalg.qr(torch.from_numpy(np.random.default_rng(3).normal(size=(400, 150))))[0]
        rows = torch.linalg.qr(rows - rows.mean(0))[0] * torch.arange(1, 151).double() ** (-alpha / 2)
        found, fit = alpha_req(rows)
        assert found == pytest.approx(alpha, rel=1e-6) and fit == pytest.approx(1)


def test_alpha_req_is_a_weighted_fit() -> None:
    z = MADE["healthy"][:, 0]
    values = np.linalg.eigvalsh(np.cov(z.T.numpy()))[::-1][9:100]
    rank = np.arange(10, 101)
    slope = np.polyfit(np.log(rank), np.log(values), 1, w=rank**-0.5)[0]
    assert alpha_req(z)[0] == pytest.approx(-slope, rel=1e-8)
    assert alpha_req(z)[0] != pytest.approx(-np.polyfit(np.log(rank), np.log(values), 1)[0], rel=1e-2)
    assert math.isnan(alpha_req(z[:, :8])[0])


def test_uniformity_and_alignment_as_published() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 20, 5))
    u, v = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
    kernel = [math.exp(-2 * ((u[i] - u[j]) ** 2).sum()) for i in range(20) for j in range(i)]
    assert uniformity(torch.from_numpy(x)) == pytest.approx(math.log(np.mean(kernel)))
    assert alignment(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(((u - v) ** 2).sum(1).mean())
    assert feature_deviation(torch.from_numpy(x)) == pytest.approx(np.mean([u[:, k].std(ddof=1) for k in range(5)]))
    assert uniformity(torch.ones(6, 3)) == pytest.approx(0)


@pytest.mark.parametrize("n", [2, 255, 256, 257, 600])
def test_uniformity_in_blocks(n: int) -> None:
    z = torch.from_numpy(np.random.default_rng(n).normal(size=(n, 4)))
    z[0] = 0  # a zero row is the centre, at distance 1 from the others
    u = z / z.norm(dim=1, keepdim=True).clamp(min=1e-12)
    expected = torch.log(torch.exp(-2 * torch.pdist(u) ** 2).mean())
    assert uniformity(z) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("d", [2, 3, 50])
def test_uniform_on_sphere_in_closed_form(d: int) -> None:
    z = torch.from_numpy(np.random.default_rng(d).normal(size=(1500, d)))
    assert uniformity(z) == pytest.approx(uniform_on_sphere(d), abs=0.02)
    if d == 3:  # the cosine is uniform on [-1, 1]
        assert uniform_on_sphere(3) == pytest.approx(math.log((1 - math.exp(-8)) / 8))


@pytest.mark.parametrize(
    ("name", "paper", "corrected"),
    [
        ("noise", (106, 111), (0, 0)),
        ("healthy", (97, 104), (96, 101)),
        ("random net", (100, 110), (3, 16)),
        ("3 directions", (3, 3.5), (2.9, 3.05)),
        ("constant", (105, 115), (0, 0)),
        ("wrong groups", (106, 111), (0, 0)),
    ],
)
def test_lidar_reads_noise_as_full_rank_and_the_corrected_form_does_not(name: str, paper: tuple, corrected: tuple) -> None:
    z = MADE[name]
    assert paper[0] < lidar(z) < paper[1]
    assert corrected[0] <= lidar_corrected(z) <= corrected[1]


def test_corrected_lidar_by_its_formula() -> None:
    """n = 80, q = 2, d = 40: strong and weak directions, the noise's mean 1 / (q (1 - d/n)) taken off."""
    rng = np.random.default_rng(11)
    z = rng.normal(size=(80, 2, 40)) + rng.normal(size=(80, 1, 40)) * np.concatenate([[30, 8, 5, 4], np.zeros(36)])
    values = np.linalg.eigvalsh(discriminant(z, 0))
    y, w = 40 / 79, 40 / 80
    end = ((1 + math.sqrt(y + w - y * w)) / (1 - w)) ** 2 / 2 * (1 + 4 / 80 ** (2 / 3))
    share = values[values > end] - 1 / (2 * (1 - w))
    share = share / share.sum()
    assert len(share) > 2
    assert lidar_corrected(torch.from_numpy(z)) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_alignment_null_is_that_of_other_images() -> None:
    z = MADE["healthy"][:12, :2] + 0.3
    u, v = (z[:, i] / z[:, i].norm(dim=1, keepdim=True) for i in (0, 1))
    others = [float((u[i] - v[j]).square().sum()) for i in range(12) for j in range(12) if i != j]
    assert published(z)["alignment"].null == pytest.approx(np.mean(others))


@pytest.mark.parametrize(("n", "q", "d"), [(64, 2, 16), (64, 2, 48), (64, 4, 32), (256, 2, 128)])
def test_corrected_lidar_of_noise_is_nothing(n: int, q: int, d: int) -> None:
    """At most one draw in ten, at any shape; Marchenko and Pastur's edge times 1.15 lets all of n = 64, q = 2, d = 48 pass."""
    rng = np.random.default_rng(7)
    passed = [lidar_corrected(torch.from_numpy(rng.normal(size=(n, q, d)))) > 0 for _ in range(40)]
    assert sum(passed) <= 4


def test_invariances_and_the_lack_of_one() -> None:
    rng = np.random.default_rng(9)
    z, turn = MADE["healthy"], torch.from_numpy(np.linalg.qr(rng.normal(size=(D, D)))[0])
    moved = 1e-3 * z @ turn + 0.5
    assert lidar_corrected(moved) == pytest.approx(lidar_corrected(z), rel=1e-6)
    assert abs(lidar(moved) - lidar(z)) > 10  # its ridge is absolute
    assert rankme(5 * z[:, 0] @ turn) == pytest.approx(rankme(z[:, 0]), rel=1e-6)
    assert rankme(z[:, 0] + 5) < 0.9 * rankme(z[:, 0])  # not centred
    assert alpha_req(moved[:, 0])[0] == pytest.approx(alpha_req(z[:, 0])[0], rel=1e-6)
    for number in (uniformity, feature_deviation):
        assert number(5 * z[:, 0] @ turn) == pytest.approx(number(z[:, 0]), rel=0.2 if number is feature_deviation else 1e-9)


def test_huge_and_rank_deficient_features_do_not_stop_it() -> None:
    z = 1e7 * MADE["healthy"][:20, :2]
    assert 1 < lidar(z) < 20.1
    assert math.isnan(lidar_corrected(torch.zeros(30, 2, 4)))
    narrow = torch.cat([MADE["healthy"][..., :9], torch.zeros(N, Q, 3).double(), 7 * MADE["healthy"][..., :2]], -1)
    assert lidar_corrected(narrow) == pytest.approx(lidar_corrected(MADE["healthy"][..., :9]), rel=0.05)


def test_what_libraries_confuse() -> None:
    """Three ranks of the same features; and LiDAR's matrix is no set of features to take the components of."""
    z = MADE["healthy"][:, 0]
    values = variances(moments(z))
    covariance = entropy_rank(values.numpy())
    assert rankme(z) > 1.5 * covariance > 2 * participation_ratio(values)
    matrix = discriminant(MADE["healthy"].numpy(), 1e-4)
    wrong = entropy_rank(np.linalg.svd(matrix - matrix.mean(0), compute_uv=False) ** 2)
    assert wrong < 0.75 * lidar(MADE["healthy"])


def test_blind_spots_of_spread() -> None:
    assert rankme(MADE["noise"][:, 0]) > rankme(MADE["healthy"][:, 0])
    assert feature_deviation(MADE["3 directions"][:, 0]) * D**0.5 > 0.8
    assert feature_deviation(MADE["noise"][:, 0]) * D**0.5 == pytest.approx(1, abs=0.01)
    assert feature_deviation(5 + 0.05 * MADE["healthy"][:, 0]) * D**0.5 < 0.1  # alarm at a mere offset
    assert alignment(MADE["constant"][:, 0], MADE["constant"][:, 1]) < 1e-9


def test_chunks_give_the_same_numbers() -> None:
    z = MADE["healthy"][:100]
    first, rest = z.split([37, 63])
    both = join(moments(first[:, 0]), moments(rest[:, 0]))
    assert rankme(both) == pytest.approx(rankme(z[:, 0]), rel=1e-9)
    assert alpha_req(both)[0] == pytest.approx(alpha_req(z[:, 0])[0], rel=1e-7)
    joined = join_groups(groups(first), groups(rest))
    assert lidar(joined) == pytest.approx(lidar(z), rel=1e-9)
    assert lidar_corrected(join_groups(groups(MADE["healthy"][:200]), groups(MADE["healthy"][200:]))) == pytest.approx(
        lidar_corrected(MADE["healthy"]), rel=1e-9
    )
    with pytest.raises(ValueError, match="views"):
        join_groups(groups(first), groups(rest[:, :2]))


@pytest.mark.parametrize(("n", "d"), [(300, 64), (48, 64)])
def test_nulls_are_what_noise_gives(n: int, d: int) -> None:
    rng = np.random.default_rng(n)
    found = published(torch.from_numpy(rng.normal(size=(n, 4, d))))
    for name, tolerance in (
        ("rankme", 0.02),
        ("alpha_req", 0.08),
        ("participation_ratio", 0.04),
        ("uniformity", 0.02),
        ("feature_deviation", 0.02),
        ("alignment", 0.05),
        ("lidar", 0.04),
    ):
        assert found[name].value == pytest.approx(found[name].null, rel=tolerance), name
        assert found[name].how
    assert found["lidar_corrected"].value == 0


def test_table_of_all() -> None:
    found = published(MADE["healthy"])
    assert found["rankme"].value == rankme(MADE["healthy"][:, 0])
    assert found["lidar"].value == lidar(MADE["healthy"])
    assert found["alignment"].value < 0.3 * found["alignment"].null
    assert "R2" in found["alpha_req"].why
    assert published(MADE["healthy"].half())["lidar_corrected"].value == pytest.approx(found["lidar_corrected"].value, rel=0.01)


def test_says_why_not() -> None:
    same = published(torch.full((20, 2, 5), 3.3))
    assert "same features" in same["rankme"].why and same["rankme"].value == pytest.approx(1, abs=1e-4)
    assert math.isnan(same["lidar_corrected"].value) and math.isnan(same["participation_ratio"].value)
    assert all(number.why or number.value == number.value for number in same.values())
    one = published(MADE["healthy"][:, :1])
    assert "one view" in one["lidar"].why and one["rankme"].value > 1
    few = published(MADE["healthy"][:50, :2])
    assert "more images" in few["lidar_corrected"].why and math.isnan(few["lidar"].null)
    bad = MADE["healthy"].clone()
    bad[3, 1, 0] = math.nan
    assert all(math.isnan(number.value) and "1 of 512" in number.why for number in published(bad).values())
    assert all("1 image" in number.why for number in published(MADE["healthy"][:1]).values())
    narrow = published(MADE["healthy"][:, :, :6])
    assert math.isnan(narrow["alpha_req"].value) and "directions" in narrow["alpha_req"].why
