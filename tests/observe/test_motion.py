"""Depth as time, against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from headwater.errors import InputError
from headwater.observe.motion import growth, motion, separability
from headwater.observe.replay import steps
from headwater.observe.trace import trace
from tests.observe.specimens import Keyword, TimmViT, hugging, ids, images, keyword_features, seeded


def rand(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_straight_line_at_constant_speed():
    start, way = rand(2, 5, 3), rand(2, 5, 3, seed=1)
    path = torch.stack([start + t * way for t in (0, 0.25, 0.5, 0.75, 1)])
    got, length = motion(path), way.norm(dim=-1)
    assert float(got.turn.abs().max()) < 1e-6
    torch.testing.assert_close(got.speed, (length.mean(-1) / 4).expand(4, 2))
    torch.testing.assert_close(got.length, length.mean(-1))
    torch.testing.assert_close(got.displacement, length.mean(-1))
    torch.testing.assert_close(got.energy, length.square().mean(-1))
    assert bool((got.transport <= got.energy + 1e-9).all()) and bool((got.error == 0).all())


def test_one_common_shift_costs_exactly_its_length():
    shift = torch.tensor([3.0, 4.0]).double()
    path = torch.stack([rand(1, 6, 2), rand(1, 6, 2) + shift])
    got = motion(path)
    for value, wanted in ((got.transport, 25), (got.energy, 25), (got.costs[0], 5), (got.speed[0], 5)):
        assert math.isclose(float(value), wanted, rel_tol=1e-9)


def test_a_circle_turns_by_its_angle_and_is_longer_than_it_is_far():
    angles = torch.arange(9).double() * math.pi / 8
    path = torch.stack([angles.cos(), angles.sin()], -1)[:, None, None].expand(-1, 1, 2, -1)
    got = motion(path)
    torch.testing.assert_close(got.turn, torch.full((7, 1), math.pi / 8).double())
    assert math.isclose(float(got.length), 16 * math.sin(math.pi / 16)) and math.isclose(float(got.displacement), 2)
    assert math.isclose(float(got.energy), float(got.length) ** 2)  # constant speed


def test_turning_back_is_pi_and_standing_still_has_no_direction():
    there = rand(1, 4, 3)
    path = torch.stack([there, there + 1, there, there])
    got = motion(path)
    torch.testing.assert_close(got.turn[0], torch.tensor([math.pi]).double())
    assert math.isnan(float(got.turn[1]))


def test_motion_does_not_depend_on_where_and_how_tokens_lie():
    path = rand(4, 2, 6, 5)
    turned = torch.linalg.qr(rand(5, 5, seed=3))[0]
    a, b, c = motion(path), motion(path @ turned), motion(2 * path)
    for name in ("speed", "turn", "energy", "transport", "similarity"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name))
    torch.testing.assert_close(c.speed, 2 * a.speed)
    torch.testing.assert_close(c.energy, 4 * a.energy)
    torch.testing.assert_close(c.similarity, a.similarity)


def test_similarity_and_clusters_of_tokens_that_gather():
    spread = torch.linalg.qr(rand(8, 8))[0][:6]
    two = torch.cat([spread[:1].expand(3, -1), spread[1:2].expand(3, -1)])
    path = torch.stack([spread, two, spread[:1].expand(6, -1)])[:, None]
    got = motion(path)
    torch.testing.assert_close(got.similarity[:, 0], torch.tensor([0, 6 / 15, 1], dtype=torch.float64), atol=1e-9, rtol=0)
    assert got.clusters[:, 0].tolist() == [6, 2, 1] and bool((got.tight == 1).all())
    torch.testing.assert_close(got.growth[:, 0], torch.tensor([0.4, 0.6], dtype=torch.float64), atol=1e-9, rtol=0)
    assert abs(float(motion(rand(2, 3, 50, 64)).chance[0])) < 0.02


def test_tokens_that_are_zero_or_alone_have_no_similarity():
    got = motion(torch.zeros(3, 1, 4, 2))
    assert bool(got.similarity.isnan().all()) and bool((got.clusters == 0).all()) and bool((got.speed == 0).all())
    assert bool(motion(rand(3, 2, 1, 4)).similarity.isnan().all())


def test_large_clouds_are_subsampled_and_say_by_how_much_they_may_be_off():
    path = rand(2, 1, 300, 3)
    a, b = motion(path), motion(path)
    assert float(a.error) > 0 and float(a.cost_errors.min()) > 0 and torch.equal(a.transport, b.transport)


def test_motion_refuses_nan_and_a_single_state():
    path = rand(3, 1, 4, 2)
    path[1, 0, 2, 1] = torch.nan
    with pytest.raises(InputError, match="state 1 of 3 holds NaN"):
        motion(path)
    with pytest.raises(InputError, match="two states"):
        motion(path[:1])


def flow(A: Tensor, layers: int) -> list:
    """Unit-time steps of x' = x A' for every token."""
    move = torch.linalg.matrix_exp(A)
    return [lambda x: x @ move.mT] * layers


def test_exponents_of_a_linear_flow_are_its_eigenvalues():
    turn = torch.linalg.qr(rand(4, 4))[0]
    values = torch.tensor([0.5, 0.1, -0.3, -0.8]).double()
    A = turn @ values.diag() @ turn.mT
    got = growth(flow(A, 12), rand(2, 1, 4), count=4)
    torch.testing.assert_close(got.exponents, values[:, None].expand(4, 2), atol=1e-6, rtol=0)
    assert float(got.residual.max()) < 1e-6
    wanted = values.exp().sum() / 4 - 1
    assert bool(((got.divergence - wanted).abs() <= 4 * got.divergence_error + 1e-12).all())


def test_divergence_is_unbiased_and_its_error_is_honest():
    A = rand(6, 6) / 6
    wanted = torch.linalg.matrix_exp(A).diagonal().sum() / 6 - 1
    found = [growth(flow(A, 1), rand(1, 3, 6), count=1, probes=16, seed=s) for s in range(40)]
    values = torch.stack([one.divergence[0, 0] for one in found])
    errors = torch.stack([one.divergence_error[0, 0] for one in found])
    assert abs(float(values.mean() - wanted)) < 4 * float(values.std()) / 40**0.5
    assert 0.6 < float(errors.mean() / values.std()) < 1.6


def test_a_rotation_neither_grows_nor_stretches():
    A = torch.zeros(2, 2).double()
    A[0, 1], A[1, 0] = 0.7, -0.7
    got = growth(flow(A, 5), rand(2, 3, 2), count=3)
    for value in (got.exponents, got.stretch, got.stretch_error):
        assert float(value.abs().max()) < 1e-9


@pytest.mark.parametrize("kind", ["timm", "BertModel"])
def test_growth_of_a_network_against_its_whole_jacobian(kind):
    if kind == "timm":
        model, batch = seeded(TimmViT).double(), images(2, side=8)
    else:
        model, batch = hugging(kind).double(), {"input_ids": ids(2, 4)}
    moves, start = steps(model, batch)
    got = growth(moves, start, count=2, sweeps=6, probes=4)
    assert float(got.residual[0].max()) < 1e-3

    def whole(x: Tensor) -> Tensor:
        for move in moves:
            x = move(x)
        return x

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        jacobian = torch.autograd.functional.jacobian(whole, start)
    for b in range(2):
        size = start[0].numel()
        values = torch.linalg.svdvals(jacobian[b, :, :, b].reshape(size, size)).log() / len(moves)
        torch.testing.assert_close(got.exponents[:1, b], values[:1].double(), atol=2e-3, rtol=0)


def test_growth_says_what_it_cannot():
    with pytest.raises(InputError, match="no logarithm"):
        growth([lambda x: x * 0], rand(1, 2, 3))
    with pytest.raises(InputError, match="change the shape"):
        growth([lambda x: x[:, :1]], rand(1, 2, 3))
    with pytest.raises(InputError, match="probes"):
        growth([lambda x: x], rand(1, 2, 3), probes=1)


def test_classes_that_separate_along_depth():
    labels = torch.arange(60) % 3
    noise, centres = rand(60, 10), torch.eye(3, 10).double()
    layers = [noise + k * centres[labels] for k in (0, 2, 20)]
    got = separability(layers, labels, permutations=10)
    assert got.chance == 1 / 3 and got.accuracy[2] == 1 and bool((np.diff(got.accuracy) > 0).all())
    assert got.accuracy[0] < got.null95[0] + 0.1 and got.null95[2] < 0.6 < got.accuracy[2] and "shufflings" in got.null


def test_unlearnable_labels_stay_at_chance():
    got = separability([rand(80, 6, seed=s) for s in range(12)], torch.arange(80) % 2, permutations=20)
    assert abs(got.accuracy.mean() - 0.5) < 0.08 and (got.accuracy > got.null95).sum() <= 3


def test_a_probe_needs_images_of_two_classes():
    for labels in (torch.zeros(20).long(), torch.tensor([0] * 18 + [1] * 2)):
        with pytest.raises(InputError, match="needs 2 classes"):
            separability([rand(20, 3)], labels)
    with pytest.raises(InputError, match="NaN"):
        separability([rand(20, 3) * torch.nan], torch.arange(20) % 2)


def test_the_probe_is_scikit_learns_ridge_classifier(monkeypatch):
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    monkeypatch.setattr("headwater.observe.motion.STRENGTHS", (3.0,))
    labels = torch.arange(70) % 3
    x = rand(70, 20) + 0.8 * torch.eye(3, 20).double()[labels]
    folds = StratifiedKFold(5, shuffle=True, random_state=4)
    told = {"cv": folds, "scoring": "balanced_accuracy"}
    truth = cross_val_score(make_pipeline(StandardScaler(), RidgeClassifier(3.0)), x.numpy(), labels.numpy(), **told)
    got = separability([x], labels + 7, seed=4)  # names of classes do not matter
    assert math.isclose(got.accuracy[0], truth.mean()) and math.isclose(got.error[0], truth.std(ddof=1) / 5**0.5)


def test_motion_of_a_trace():
    got = motion(trace(seeded(TimmViT), images(), attend=0).stream.path)
    assert got.speed.shape == (3, 3) and bool((got.speed > 0).all())


def test_a_published_keyword_transformer_gathers_as_its_readme_says():
    from pathlib import Path

    file = Path(__file__).parents[3] / "shared" / "data" / "kwt1" / "kwt1_weights.npz"
    if not file.is_file():
        pytest.skip("no keyword transformer beside the checkout")
    with np.load(file) as archive:
        arrays = dict(archive)
    got = trace(Keyword(arrays), keyword_features(arrays))
    assert got.names == tuple(f"blocks.{i}" for i in range(12)) and got.attention[0].weights.shape == (1, 1, 99, 99)
    wanted = [0.635, 0.421, 0.415, 0.308, 0.341, 0.343, 0.364, 0.326, 0.343, 0.346, 0.340, 0.418]
    found = motion(got.tokens).similarity[:, 0]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), atol=6e-4, rtol=0)
