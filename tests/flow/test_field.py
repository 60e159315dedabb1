"""The field of a cloud read at other points."""

import pytest
import torch

from headwater.flow import field, sphere
from headwater.flow.kernels import KERNELS
from headwater.flow.terms import Learned, Parabolic, Scaled, Sum, perceptron
from headwater.flow.velocity import Attention, Kuramoto


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cloud(seed: int, n: int, d: int) -> torch.Tensor:
    return sphere.uniform(n, d, torch.Generator().manual_seed(seed), batch=2)


def known() -> list:
    Q, K, V = drawn(0, 2, 2, 3), drawn(1, 2, 2, 3), drawn(2, 3, 3)
    attentions = [Attention(1.5, Q, K, V, kernel=kernel, mask="causal") for kernel in KERNELS]
    attentions += [Attention(0.7, normalised=False), Attention(2.0, V=drawn(3, 2, 3, 3), mask=2), Attention(-1.0, space="flat")]
    layer = torch.nn.Linear(3, 3, dtype=torch.float64)
    return [
        *attentions,
        perceptron(layer),
        Parabolic(drawn(4, 5, 3)),
        Sum(Attention(1.0), Scaled(perceptron(layer), lambda t: 1 + t)),
    ]


@pytest.mark.parametrize("v", known(), ids=lambda v: f"{type(v).__name__}-{getattr(v, 'kernel', '')}")
def test_at_the_cloud_itself_it_is_the_velocity(v):
    x = cloud(0, 7, 3)
    assert torch.allclose(field.at(v, 0.3, x.clone(), x), v(0.3, x), atol=1e-14)


def test_kuramoto_with_frequencies():
    x, v = cloud(0, 7, 2), Kuramoto(1.3, drawn(1, 7))
    assert torch.allclose(field.at(v, 0.0, x.clone(), x), v(0.0, x), atol=1e-15)


@pytest.mark.parametrize("normalised", [True, False])
def test_a_query_moves_in_the_field_of_the_cloud_against_loops(normalised):
    x, y, v = cloud(0, 6, 3), cloud(1, 6, 3), Attention(1.4, normalised=normalised)
    found = field.at(v, 0.0, y, x)
    for i in range(6):
        weight = torch.exp(1.4 * (x[1] @ y[1, i]))
        pull = weight @ x[1] / (weight.sum() if normalised else 6)
        assert torch.allclose(found[1, i], pull - (pull @ y[1, i]) * y[1, i], atol=1e-14)


def test_the_unknown_is_refused_unless_it_says_more():
    x, y = cloud(0, 4, 3), cloud(1, 4, 3)
    coupled = Learned(lambda t, z: z.mean(1, keepdim=True).expand_as(z), space="sphere")
    with pytest.raises(ValueError, match="tokenwise"):
        field.at(coupled, 0.0, y, x)
    assert torch.equal(field.at(coupled, 0.0, x, x), coupled(0.0, x))
    assert torch.equal(field.at(coupled, 0.0, y[:, :1], x[:, :1]), coupled(0.0, y[:, :1]))

    class Alone:
        tokenwise, space = True, "flat"

        def __call__(self, t, z):
            return z.sin()

    assert torch.equal(field.at(Alone(), 0.0, y, x), y.sin())
    inner = Alone()
    assert torch.equal(field.at(Learned(inner), 0.0, y, x), y.sin())


def test_registering_a_velocity():
    class Centre:
        def __call__(self, t, z):
            return z.mean(1, keepdim=True) - z

    @field.at.register
    def _(v: Centre, t, points, cloud):
        return cloud.mean(1, keepdim=True) - points

    x, y = cloud(0, 4, 3), cloud(1, 4, 3)
    assert torch.allclose(field.at(Centre(), 0.0, y, x), x.mean(1, keepdim=True) - y)
