"""Flow matching: exact fields with known likelihoods, total mass 1, trained mixtures against their exact density, faults."""

import math

import numpy as np
import pytest
import torch

from headwater.flow import matching, paths, transport
from headwater.flow.sphere import circle, tangent, uniform

WIDTH, LOBES = 0.5, 4


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=random(seed), dtype=torch.float64)


CENTRES = {d: 2 * cloud(LOBES, d, seed=5) for d in (2, 3, 6, 8)}  # drawn once: no random calls inside torch.func.vmap


def centres(d: int) -> torch.Tensor:
    return CENTRES[d]


def mixture(n: int, d: int, seed: int) -> torch.Tensor:
    g = random(seed)
    which = torch.randint(LOBES, (n,), generator=g)
    return centres(d)[which] + WIDTH * torch.randn(n, d, generator=g, dtype=torch.float64)


def mixture_log_density(x: torch.Tensor) -> torch.Tensor:
    d = x.shape[-1]
    each = -(x[..., None, :] - centres(d)).square().sum(-1) / (2 * WIDTH**2)
    return each.logsumexp(-1) - math.log(LOBES) - d * math.log(2 * math.pi * WIDTH**2) / 2


def mixture_velocity(path: paths.Affine):
    """The exact velocity: each lobe's own Gaussian one, weighted by how likely x is to be of that lobe."""

    def v(t: float, x: torch.Tensor) -> torch.Tensor:
        a, s, da, ds = path.at(t)
        c, variance = centres(x.shape[-1]), a**2 * WIDTH**2 + s**2
        off = x[..., None, :] - a * c
        share = (-off.square().sum(-1) / (2 * variance)).softmax(-1)[..., None]
        return (share * (da * c + (a * da * WIDTH**2 + s * ds) / variance * off)).sum(-2)

    return v


def shaken(d: int, **extra) -> matching.Field:
    """A field with weights that are not zero anywhere."""
    field = matching.Field(d, random(1), **extra)
    torch.nn.init.normal_(field.last.weight, std=0.05, generator=random(2))
    return field


@pytest.mark.parametrize("path", [paths.Straight(), paths.Straight(0.05), paths.VariancePreserving()])
def test_exact_gaussian_velocity_gives_the_gaussian_likelihood(path: paths.Affine):
    root = cloud(3, 3, seed=3)
    gaussian = paths.Gaussian(path, cloud(3, seed=4), root @ root.T + 0.2 * torch.eye(3, dtype=torch.float64))
    x = cloud(20, 3)
    found = matching.log_likelihood(gaussian, x, path=path, step=1 / 16)
    exact = gaussian.log_density(path.end, x)
    assert torch.allclose(found.value, exact, atol=2e-3)
    assert ((found.value - exact).abs() <= found.step_error + 1e-7).all()  # the stated error holds
    assert (found.probe_error == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("path", [paths.Straight(), paths.VariancePreserving()])
@pytest.mark.parametrize("d", [2, 8])
def test_exact_mixture_velocity_gives_the_mixture_likelihood(path: paths.Affine, d: int):
    x = mixture(60, d, 1)
    found = matching.log_likelihood(mixture_velocity(path), x, path=path, step=1 / 24)
    exact = mixture_log_density(x)
    assert (found.value - exact).abs().max() < 0.01 * exact.mean().abs()
    mean, error = found.mean
    assert abs(mean - float(exact.mean())) < max(error, 1e-4) < 1e-2


def test_exact_mixture_velocity_makes_the_mixture():
    path = paths.Straight()
    made = matching.sample(mixture_velocity(path), 800, 2, path=path, generator=random())
    truth, other = mixture(800, 2, 1), mixture(800, 2, 2)
    apart = float(transport.wasserstein(made, truth).distance)
    assert apart < 1.5 * float(transport.wasserstein(other, truth).distance)  # as near as another draw
    assert apart < float(transport.wasserstein(cloud(800, 2), truth).distance) / 3


@pytest.mark.slow
def test_any_field_has_total_mass_one():
    line = torch.linspace(-9, 9, 61, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    field = shaken(2)
    density = matching.log_likelihood(field, grid, path=paths.Straight(), step=1 / 4).value.exp()
    assert float(density.sum() * 0.3**2) == pytest.approx(1, abs=2e-3)
    assert float((density - (-grid.square().sum(-1) / 2).exp() / (2 * math.pi)).abs().max()) > 1e-3  # it is another law
    ring = circle(2 * math.pi * torch.arange(200, dtype=torch.float64) / 200)
    density = matching.log_likelihood(field, ring, path=paths.Geodesic(), step=1 / 8).value.exp()
    assert float(density.mean() * 2 * math.pi) == pytest.approx(1, abs=1e-4)
    assert float(density.std()) > 1e-3


def test_on_the_sphere_a_pull_to_the_pole_has_a_closed_form():
    pole = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)

    def pull(t: float, x: torch.Tensor) -> torch.Tensor:
        return tangent(x, pole.expand_as(x))  # height u' = 1 - u^2, divergence -2 u

    x = uniform(50, 3, random())[0]
    found = matching.log_likelihood(pull, x, path=paths.Geodesic(), step=1 / 16)
    after = torch.atanh(x[:, 2])
    exact = -math.log(4 * math.pi) + 2 * (after.cosh().log() - (after - 1).cosh().log())
    assert torch.allclose(found.value, exact, atol=1e-5)
    made = matching.sample(pull, 4000, 3, path=paths.Geodesic(), generator=random())
    u = torch.tanh(torch.atanh(torch.linspace(-1, 1, 20002, dtype=torch.float64)[1:-1]) + 1)
    assert float(made[:, 2].mean()) == pytest.approx(float(u.mean()), abs=0.03)


def test_probes_agree_with_the_exact_divergence_within_their_error():
    path, field = paths.Straight(), shaken(6, start=paths.Gaussian.fit(paths.Straight(), mixture(500, 6, 1)))
    x = mixture(200, 6, 2)
    exact = matching.log_likelihood(field, x, path=path, step=1 / 8)
    guess = matching.log_likelihood(field, x, path=path, step=1 / 8, probes=16, generator=random())
    off = (guess.value - exact.value) / guess.probe_error
    assert 0.6 < float(off.std()) < 1.5 and abs(float(off.mean())) < 0.3
    assert guess.probe_error.min() > 0
    assert guess.mean[1] >= float(guess.probe_error.square().mean().sqrt()) / math.sqrt(200)
    again = matching.log_likelihood(field, x, path=path, step=1 / 8, probes=16, generator=random())
    assert torch.equal(guess.value, again.value)


def test_before_training_a_field_is_its_gaussian():
    x = mixture(300, 3, 1)
    for path in (paths.Straight(), paths.Diffusion()):
        start = paths.Gaussian.fit(path, x)
        field = matching.Field(3, random(), start=start)
        assert torch.equal(field(0.3, x[None]), start(0.3, x[None]))
    assert (matching.Field(3, random())(0.3, x[None]) == 0).all()


def test_the_loss_of_the_exact_velocity_is_least():
    path = paths.VariancePreserving()
    x0, x1, t = cloud(1, 4000, 2), mixture(4000, 2, 1)[None], torch.rand(1, 4000, 1, generator=random(), dtype=torch.float64)
    v = mixture_velocity(path)

    def exact(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([v(float(s), y) for s, y in zip(t[0, :, 0], x[0], strict=True)])[None]

    best = float(matching.matching_loss(exact, t, x0, x1, path))
    assert best > 0.1
    for worse in (lambda t, x: exact(t, x) * 1.1, lambda t, x: exact(t, x) + 0.2, paths.Gaussian.fit(path, x1[0])):
        assert float(matching.matching_loss(worse, t, x0, x1, path)) > best + 0.01


def test_the_same_generator_gives_the_same_weights_and_samples():
    def made(seed: int, first: int = 0) -> tuple[matching.Field, torch.Tensor]:
        torch.manual_seed(first)  # global state plays no part
        field = matching.Field(2, random(seed), width=16, depth=2)
        losses = matching.train(
            field, mixture(200, 2, 1).float(), path=paths.Straight(), generator=random(seed), steps=20, batch=32
        )
        return field, losses

    (one, losses), (same, again), (other, _) = made(1), made(1, 7), made(2)
    assert torch.equal(losses, again) and losses.shape == (20,)
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.last.weight, other.last.weight)
    draws = [matching.sample(one, 10, 2, path=paths.Straight(), generator=random(s), step=1 / 4) for s in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_transport_pairs_have_less_to_explain():
    x = mixture(2000, 2, 1).float()
    losses = {}
    for coupling in matching.COUPLINGS:
        field = matching.Field(2, random(), width=32, depth=2)
        settings = {"path": paths.Straight(), "generator": random(), "steps": 60, "batch": 128}
        losses[coupling] = float(matching.train(field, x, coupling=coupling, **settings)[-20:].mean())
    assert losses["transport"] < 0.6 * losses["independent"]


def test_a_trained_field_on_the_sphere_finds_its_lobe():
    g = random()
    x = torch.nn.functional.normalize(torch.tensor([0.0, 0.0, 1.0]) + 0.3 * torch.randn(2000, 3, generator=g), dim=-1)
    x = torch.nn.functional.normalize(x.double(), dim=-1)
    field = matching.Field(3, random(), width=48, depth=2)
    matching.train(field, x, path=paths.Geodesic(), generator=random(), steps=250, batch=256)
    made = matching.sample(field, 500, 3, path=paths.Geodesic(), generator=random(), step=1 / 8)
    assert (made.norm(dim=-1) - 1).abs().max() < 1e-9
    assert (made.mean(0) - x.mean(0)).abs().max() < 0.08
    said = matching.log_likelihood(field, x[:100], path=paths.Geodesic(), step=1 / 8).value
    assert float(said.mean()) > -math.log(4 * math.pi) + 1


@pytest.mark.slow
@pytest.mark.parametrize("d", [2, 8])
def test_trained_likelihood_of_a_mixture_is_within_one_percent(d: int):
    path, x, held = paths.Straight(), mixture(10_000, d, 1), mixture(300, d, 2)
    field = matching.Field(d, random(3), start=paths.Gaussian.fit(path, x))
    start = float(matching.log_likelihood(field, held, path=path, step=1 / 16).value.mean())
    matching.train(field, x.float(), path=path, generator=random(4), steps=1500)
    mean, error = matching.log_likelihood(field, held, path=path, step=1 / 16).mean
    exact = float(mixture_log_density(held).mean())
    assert error < 1e-3
    assert abs(mean - exact) < 0.01 * abs(exact)
    assert abs(start - exact) > 0.1 * abs(exact)  # the Gaussian it starts from is far
    made = matching.sample(field, 800, d, path=path, generator=random(6))
    truth, other = mixture(800, d, 7), mixture(800, d, 8)
    assert float(transport.wasserstein(made, truth).distance) < 1.5 * float(transport.wasserstein(other, truth).distance)


def test_mistakes_are_said():
    path, x, field = paths.Straight(), mixture(50, 2, 1).float(), matching.Field(2, random(), width=8, depth=1)
    wrong = x.clone()
    wrong[3, 1] = math.inf

    def trained(data: torch.Tensor = x, model=field, path=path, **extra):
        return matching.train(model, data, path=path, generator=random(), **{"steps": 3, "batch": 8} | extra)

    class Wide(torch.nn.Linear):
        def forward(self, t, x):
            return super().forward(x)

    for call, word in (
        (lambda: matching.Field(0, random()), "at least 1"),
        (lambda: trained(wrong), "NaN"),
        (lambda: trained(x[:0]), "no points"),
        (lambda: trained(path=paths.Geodesic()), "off the unit sphere"),
        (lambda: trained(coupling="nearest"), "coupling"),
        (lambda: trained(steps=0), "others >= 1"),
        (lambda: trained(1e30 * x), "scale the samples"),
        (lambda: trained(model=Wide(2, 3)), "keeps the shape"),
        (lambda: matching.log_likelihood(field, wrong, path=path), "NaN"),
        (lambda: matching.log_likelihood(field, x, path=path, probes=4), "pass a generator"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
    assert np.isfinite(trained().numpy()).all()
