"""The symmetric layer and the journey that is not kept: adjoints, hand-made gradients, reversal, memory."""

import pytest
import torch

from headwater.backbones.reversible import Journey, advance, pulled, retreat, symmetric

KINDS = {"second_order": 1, "hamiltonian": 2}  # layers per step
kinds = pytest.mark.parametrize("kind", KINDS)
shapes = pytest.mark.parametrize("shape", [(2, 4, 5, 7), (2, 3, 4, 3, 5)], ids=["2D", "3D"])


def made(shape, count, dtype=torch.float64, gain=0.5):
    """Two states and the weights of so many layers."""
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, *shape, generator=g, dtype=dtype)
    width, taps = shape[1], [3] * (len(shape) - 2)
    std = gain / (width * 3 ** len(taps)) ** 0.5
    layers = []
    for _ in range(count):
        layers += [std * torch.randn(width, width, *taps, generator=g, dtype=dtype), torch.randn(width, generator=g, dtype=dtype)]
    return a, b, layers


def kept(a, b, h, per_step, dtype, *layers):
    """All steps with nothing but `advance`: what autograd knows by itself."""
    for i in range(0, len(layers), per_step):
        a, b = advance(a, b, h, layers[i : i + per_step], dtype)
    return a, b


@shapes
def test_the_layer_is_the_gradient_of_an_energy(shape):
    """K' sigma(K y + b) is the gradient by y of the sum of S(K y + b), S' = sigma."""
    y, _, (weight, bias) = made(shape, 1)
    y.requires_grad_()
    inner = torch.nn.functional.conv2d if y.ndim == 4 else torch.nn.functional.conv3d
    u = inner(y, weight, bias, padding=1)
    energy = torch.where(u > 0, u.square() / 2, 0.01 * u.square() / 2).sum()
    torch.testing.assert_close(symmetric(y, weight, bias, torch.float64), torch.autograd.grad(energy, y)[0])


@shapes
def test_hand_made_gradients(shape):
    y, pull, (weight, bias) = made(shape, 1)
    leaves = [t.requires_grad_() for t in (y, weight, bias)]
    answer = symmetric(*leaves, torch.float64)
    expected = torch.autograd.grad(answer, leaves, pull)
    found, gradients = pulled(*(t.detach() for t in leaves), pull, torch.float64)
    torch.testing.assert_close(found, answer.detach())
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@kinds
@shapes
def test_a_journey_can_be_walked_back(kind, shape):
    a, b, layers = made(shape, 12 * KINDS[kind])
    per_step = 2 * KINDS[kind]
    x, y = kept(a, b, 0.7, per_step, torch.float64, *layers)
    assert (x - a).norm() > 0.1 * a.norm()
    for i in reversed(range(0, len(layers), per_step)):
        x, y = retreat(x, y, 0.7, layers[i : i + per_step], torch.float64)
    torch.testing.assert_close(x, a, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(y, b, atol=1e-10, rtol=1e-10)


@kinds
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=str)
@shapes
def test_gradients_are_those_of_plain_autograd(kind, dtype, close, shape):
    a, b, layers = made(shape, 8 * KINDS[kind], dtype)
    leaves = [t.requires_grad_() for t in (a, b, *layers)]
    pulls = made(shape, 0, dtype)[:2]
    how = 0.7, 2 * KINDS[kind], dtype
    outcomes = [run(*leaves[:2], *how, *leaves[2:]) for run in (kept, Journey.apply)]
    expected, found = (torch.autograd.grad(o, leaves, pulls) for o in outcomes)
    for p, q in zip(*outcomes, strict=True):
        assert torch.equal(p, q)
    for p, q in zip(found, expected, strict=True):
        assert (p - q).norm() <= close * q.norm()


@kinds
def test_memory_does_not_grow_with_depth(kind):
    """Bytes autograd holds for the backward pass, parameters aside: the same at 4 and 16 steps; without it four times as many."""

    def held(run, steps):
        a, b, layers = made((2, 4, 6, 6), steps * KINDS[kind], torch.float32)
        leaves, found = [t.requires_grad_() for t in (a, b, *layers)], {}
        own = {t.data_ptr() for t in layers}

        def seen(t):
            if t.data_ptr() not in own:
                found[t.data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(seen, lambda t: t):
            out = run(*leaves[:2], 0.7, 2 * KINDS[kind], torch.float32, *leaves[2:])
        assert out[0].requires_grad
        return sum(found.values())

    assert held(Journey.apply, 16) == held(Journey.apply, 4) == 2 * 2 * 4 * 36 * 4  # the last state alone
    assert held(kept, 16) > 3 * held(kept, 4) > 3 * held(Journey.apply, 4)
