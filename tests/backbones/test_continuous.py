"""Depth as time: the plain ViT on its own nodes, orders of convergence, an independent integrator, what transport costs."""

import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headwater.backbones.attention import Style
from headwater.backbones.continuous import SCHEMES, ContinuousViT, advance, basis
from headwater.backbones.vit import ViT
from headwater.errors import InputError
from headwater.streams import seeded

SMALL = (24, 4, 2)  # width, depth, heads
KINDS = {"constant": {}, "piecewise": {}, "polynomial": {"knots": 3}}
kinds = pytest.mark.parametrize("weights", KINDS)


def made(weights, ndim=2, spread=0.3, channels=1, **options):
    """A small network whose weights do change in time, and by enough to matter."""
    with seeded(0, "weights"):
        net = ContinuousViT(ndim, channels, *SMALL, weights=weights, **KINDS[weights], **options)
        for p in net.parameters():
            p.data += spread * torch.randn_like(p) / max(p.shape[-1], 1) ** 0.5
    return net


def images(*size, batch=2, channels=1):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


RICH = Style(registers=2, kernels=("sigmoid", "relu"), positions="learned", place="peri")


@pytest.mark.parametrize("style", [Style(), RICH], ids=["plain", "rich"])
def test_piecewise_weights_on_eulers_nodes_are_a_plain_vit(style):
    with seeded(0, "weights"):
        vit = ViT(3, 2, *SMALL, style=style).double()
    net = ContinuousViT(3, 2, *SMALL, style=style).double()
    net.vit.load_state_dict(vit.state_dict())
    x = images(9, 8, 5, channels=2).double()
    keep = torch.zeros(2, 3, 2, 2, dtype=torch.bool)
    keep[0, :2], keep[1, 1:] = True, True
    for mask in (None, keep):
        a, b = net(x, mask), vit(x, mask)
        torch.testing.assert_close(a.tokens, b.tokens, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(a.pooled, b.pooled, atol=1e-10, rtol=1e-10)
        net.zero_grad(), vit.zero_grad()
        a.tokens.square().sum().backward(), b.tokens.square().sum().backward()
        for p, q in zip(net.parameters(), vit.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, atol=1e-8, rtol=1e-8)


def test_constant_weights_are_one_block_again_and_again():
    net = made("constant")
    assert len(net.knots) == 1
    x, places = net.vit.stack.enter(net.vit.embedded(images(8, 12)), (2, 3))
    for _ in range(4):
        x = net.knots[0](x, *places)
    torch.testing.assert_close(net(images(8, 12)).tokens, net.vit.norm(x))
    net.steps = 8  # half of every change
    x, places = net.vit.stack.enter(net.vit.embedded(images(8, 12)), (2, 3))
    for _ in range(8):
        x = x + (net.knots[0](x, *places) - x) / 2
    torch.testing.assert_close(net(images(8, 12)).tokens, net.vit.norm(x))


def test_all_knots_start_alike():
    net = ContinuousViT(2, 1, *SMALL, weights="polynomial")
    first, *rest = net.knots
    for block in rest:
        for p, q in zip(first.parameters(), block.parameters(), strict=True):
            assert torch.equal(p, q)
    alike = ContinuousViT(2, 1, *SMALL, weights="constant")
    alike.vit.load_state_dict(net.vit.state_dict(), strict=False)
    torch.testing.assert_close(alike(images(8, 8)).tokens, net(images(8, 8)).tokens)


@kinds
@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_smaller_steps_converge_with_the_order_of_the_scheme(weights, scheme, order):
    net = made(weights, spread=0.2).double()
    x = images(8, 8).double()
    with torch.no_grad():
        net.scheme, net.steps = "rk4", 128
        exact = net(x).tokens
        net.scheme, errors = scheme, []
        for steps in (16, 32):
            net.steps = steps
            errors.append((net(x).tokens - exact).norm())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)
    assert errors[1] > 1e-12 * exact.norm()  # not rounding


@kinds
def test_the_path_is_the_one_torchdiffeq_finds(weights):
    torchdiffeq = pytest.importorskip("torchdiffeq")
    net = made(weights, 3, 0.2).double()
    net.scheme, net.steps = "rk4", 64
    x = images(5, 6, 9).double()
    with torch.no_grad():
        start, v = net.flow(x)
        knots = torch.linspace(0, 1, 5, dtype=torch.float64)
        found = torchdiffeq.odeint(v, start, knots, rtol=1e-9, atol=1e-9, method="dopri5")
        torch.testing.assert_close(net.vit.norm(found[-1]), net(x).tokens, atol=1e-6, rtol=1e-6)
        ours = net.segments(x)[0]
        tokens = ours.start
        for i, step in enumerate(ours.velocities):
            tokens = tokens + step(i, tokens)
            if i % 16 == 15:
                torch.testing.assert_close(tokens, found[(i + 1) // 16], atol=1e-6, rtol=1e-6)


def test_cost_of_a_linear_velocity():
    """x' = a x from x0 costs the mean of x0^2 a (e^2a - 1) / 2."""
    a, x0 = -1.3, torch.randn(3, 4, 5, dtype=torch.float64)
    x, cost, steps = x0, 0, 64
    for i in range(steps):
        x, more = advance(lambda t: lambda y: a * y, i / steps, 1 / steps, x, "rk4")
        cost = cost + more
    torch.testing.assert_close(x, x0 * math.exp(a), atol=1e-8, rtol=1e-8)
    exact = x0.square().mean((1, 2)) * a * (math.exp(2 * a) - 1) / 2
    torch.testing.assert_close(cost, exact, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_cost_of_a_velocity_in_time_alone(scheme):
    """x' = 1 + t: one step of order p integrates speed squared (degree 2) exactly if p is 4; shares add up to 1 for all."""
    x = torch.zeros(1, 2, 2, dtype=torch.float64)
    assert sum(share for _, share in SCHEMES[scheme]) == pytest.approx(1)
    end, cost = advance(lambda t: lambda y: torch.ones_like(y) * (1 + t), 0.0, 1.0, x, scheme)
    expected = {"euler": (1, 1), "midpoint": (1.5, 2.25), "rk4": (1.5, 7 / 3)}[scheme]
    assert end.mean().item() == pytest.approx(expected[0]) and cost.item() == pytest.approx(expected[1])


def test_the_cost_can_be_trained_down():
    net = made("piecewise")
    x = images(8, 8)
    features = net(x)
    cost = features.cost
    assert torch.equal(features.tokens, net(x).tokens) and cost.shape == (2,)
    before = cost.mean()
    optimiser = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(5):
        optimiser.zero_grad()
        net(x).cost.mean().backward()
        optimiser.step()
    assert all(p.grad.abs().max() > 0 for block in net.knots for p in block.parameters())
    assert net(x).cost.mean() < 0.9 * before


@pytest.mark.parametrize("kind", ["constant", "piecewise", "polynomial"])
def test_shares_of_the_weights(kind):
    knots = 1 if kind == "constant" else 4
    for t in torch.linspace(0, 1, 23).tolist():
        assert sum(w for _, w in basis(t, kind, knots)) == pytest.approx(1)
    if kind == "piecewise":
        for k in range(4):
            assert basis(k / 4, kind, 4) == [(k, 1.0)]
        assert basis(3 * (1 / 3) - 1e-17, kind, 3) == [(2, 1.0)]
        assert basis(0.375, kind, 4) == [(1, 0.5), (2, 0.5)]
    if kind == "polynomial":  # exact for cubics
        nodes = [(1 - math.cos(math.pi * (2 * k + 1) / 8)) / 2 for k in range(4)]
        assert sum(w * nodes[k] ** 3 for k, w in basis(0.31, kind, 4)) == pytest.approx(0.31**3)


@kinds
@pytest.mark.parametrize("size", [(9, 6), (5, 6, 9)], ids=str)
def test_contract(weights, size):
    """What every backbone promises and depth as time could break."""
    net = made(weights, len(size), channels=2)
    net.scheme = "midpoint"
    x = images(*size, channels=2)
    cells = math.prod(net.grid(size))
    keep = (torch.arange(cells) % 2 == 0).expand(2, cells).reshape(2, *net.grid(size))
    hidden = ~keep.unsqueeze(1)
    for axis in range(2, x.ndim):
        hidden = hidden.repeat_interleave(4, axis).narrow(axis, 0, size[axis - 2])
    poisoned = x.masked_fill(hidden, float("nan"))
    assert torch.equal(net(poisoned, keep).tokens, net(x, keep).tokens)
    f = net(x)
    assert f.grid == net.grid(size) and torch.equal(f.map, f.pyramid[0]) and f.size == size
    f.tokens.square().sum().backward()
    grads = [p.grad.clone() for p in net.parameters()]
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in grads)
    again = copy.deepcopy(net)
    again.checkpointed = True
    again.zero_grad()
    again(x).tokens.square().sum().backward()
    for g, p in zip(grads, again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, g)
    (segment,) = net.segments(x)
    tokens = segment.start
    for i, v in enumerate(segment.velocities):
        tokens = tokens + v(i, tokens)
    torch.testing.assert_close(net.vit.norm(tokens), f.tokens)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x).tokens
    assert torch.isfinite(rough).all() and (rough - f.tokens).norm() < 0.05 * f.tokens.norm()
    other = ContinuousViT(len(size), 2, *SMALL, weights=weights, **KINDS[weights])
    other.scheme = "midpoint"
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x).tokens, f.tokens)


COMPILED = """
import torch
from headwater.backbones.continuous import ContinuousViT
for weights in ("piecewise", "polynomial"):
    net, x = ContinuousViT(2, 1, 24, 2, 2, weights=weights), torch.randn(2, 1, 9, 6)
    net.scheme, net.checkpointed = "midpoint", weights == "piecewise"
    y = torch.compile(net, fullgraph=True, backend="eager")(x).tokens
    y.sum().backward()
    torch.testing.assert_close(y, net(x).tokens)
"""


@pytest.mark.slow
def test_compiles_whole():
    """Without the checks of shapes, which the compiler cannot read: hence a process of its own."""
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_spacing_reaches_the_positions():
    net = made("constant")
    before = net(images(8, 12)).tokens
    net.spacing = (2.0, 1.0)
    assert net.spacing == (2.0, 1.0) and not torch.allclose(net(images(8, 12)).tokens, before)


def test_input_errors_say_what_to_do():
    cases = {
        "use one of constant, piecewise, polynomial": lambda: ContinuousViT(2, 1, *SMALL, weights="fourier"),
        "use one of euler, midpoint, rk4": lambda: ContinuousViT(2, 1, *SMALL, scheme="heun"),
        "have 5 knots: use 1 to 4": lambda: ContinuousViT(2, 1, *SMALL, knots=5),
        "have 2 knots: use 1 to 1": lambda: ContinuousViT(2, 1, *SMALL, weights="constant", knots=2),
        "use place='pre' or 'peri'": lambda: ContinuousViT(2, 1, *SMALL, style=Style(place="ngpt")),
        "drop_path=0": lambda: ContinuousViT(2, 1, *SMALL, style=Style(drop_path=0.1)),
        "use 1 or more": lambda: setattr(net := made("constant"), "steps", 0) or net(images(8, 8)),
    }
    for words, call in cases.items():
        with pytest.raises(InputError) as error:
            call()
        assert words in str(error.value)
