"""PDE networks: decay, oscillation and reversal as the equations promise, limits of the step, the contract."""

import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headwater.backbones import Decoder
from headwater.backbones.pde import KINDS, Layer, PDENet, Stage
from headwater.errors import InputError
from headwater.streams import seeded

every = pytest.mark.parametrize("kind", KINDS)
sized = pytest.mark.parametrize("size", [(17, 12), (9, 14, 11), (5, 6, 9)], ids=str)


def net_of(kind, ndim=2, channels=1, widths=(4, 8, 8, 8), blocks=(1, 2, 2, 1), **options):
    with seeded(0, "weights"):
        return PDENet(ndim, channels, widths, blocks, kind=kind, **options)


def stage_of(kind, steps=6, h=1.0, ndim=2, width=4, gain=1.0, bias=0.0):
    """A stage in double precision; gain multiplies K."""
    with seeded(0, "stage"):
        stage = Stage(ndim, width, steps, kind, h).double()
        for layer in stage.layers:
            layer.weight.data *= gain
            layer.bias.data += bias * torch.randn_like(layer.bias)
    return stage


def images(*size, batch=2, channels=1, dtype=None):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def dense(layer, size):
    """K as a matrix, column by column."""
    width, conv = layer.weight.shape[0], torch.nn.functional.conv2d if len(size) == 2 else torch.nn.functional.conv3d
    basis = torch.eye(width * math.prod(size), dtype=layer.weight.dtype).view(-1, width, *size)
    return conv(basis, layer.weight.detach(), padding=1).flatten(1).T


@pytest.mark.parametrize("ndim", [2, 3])
def test_norm_of_a_layer(ndim):
    """Against the singular values of the Fourier transform, and of the matrix of a map with zeros around."""
    with seeded(0, "norm"):
        layer = Layer(ndim, 3).double()
    gains = torch.fft.fftn(layer.weight.detach(), (8,) * ndim).flatten(2).permute(2, 0, 1)
    true = torch.linalg.matrix_norm(gains, 2).max().item()
    assert 0.97 * true < layer.norm() < 1.0001 * true
    finite = torch.linalg.matrix_norm(dense(layer, (12, 12) if ndim == 2 else (6, 6, 6)), 2).item()
    assert 0.8 * true < finite < 1.0824**ndim * true  # 1 / cos(pi / 8) per axis
    layer.weight.data *= 3
    assert 0.97 * 3 * true < layer.norm() < 3.0001 * true


def test_norm_of_a_mean_is_one():
    layer = Layer(2, 1)
    layer.weight.data.fill_(1 / 9)
    assert layer.norm() == pytest.approx(1, abs=1e-4)  # the constant map


def test_parabolic_never_grows_below_the_limit():
    worst = max(stage_of("parabolic", steps=8).stability())
    stage = stage_of("parabolic", steps=8, gain=0.95 / worst**0.5)
    assert 0.8 < max(stage.stability()) <= 1
    state = (10 * images(9, 9, channels=4, dtype=torch.float64),)
    for move in stage.moves(state):
        before = state[0].norm()
        state = move(*state)
        assert state[0].norm() < before


def test_parabolic_never_parts_two_images():
    """With biases the flow has no fixed norm, but stays a contraction: sigma is monotone and K' K symmetric."""
    stage = stage_of("parabolic", steps=8, bias=1.0)
    assert max(stage.stability()) <= 1
    a, b = images(7, 8, channels=4, dtype=torch.float64).unsqueeze(1)
    a, b = (a,), (b,)
    for move in stage.moves(a):
        before = (a[0] - b[0]).norm()
        a, b = move(*a), move(*b)
        assert (a[0] - b[0]).norm() <= before


@every
@pytest.mark.parametrize("ratio", [0.98, 1.05])
def test_the_limit_is_where_the_scheme_breaks(kind, ratio):
    """Filters in pairs A, -A make A' sigma(A y) - A' sigma(-A y) = 1.01 A' A y linear, with |K|^2 = 2 |A|^2."""
    stage, size = stage_of(kind, steps=1, h=0.7, width=4 if kind == "parabolic" else 8), (6, 6)
    half = stage.layers[0].weight.data[:2]
    half = torch.cat([half, -half])
    for layer in stage.layers:
        layer.weight.data.copy_(half)
    most = 1.01 * torch.linalg.matrix_norm(dense(stage.layers[0], size), 2).item() ** 2 / 2  # of 1.01 A' A
    wanted = {"parabolic": 2 / 0.7, "hamiltonian": 2 / 0.7, "second_order": (2 / 0.7) ** 2}[kind] * ratio
    for layer in stage.layers:
        layer.weight.data *= (wanted / most) ** 0.5
    squared = stage.stability()[0] ** (2 if kind == "second_order" else 1)
    assert squared == pytest.approx(ratio * 2 / 1.01, rel=0.25)  # the map is small, the estimate for large ones
    state = start = stage.start(images(*size, channels=4 if kind == "parabolic" else 8, dtype=torch.float64))
    (move,) = stage.moves(state)
    for _ in range(400):
        state = move(*state)
    grown = torch.cat(state, 1).norm() / torch.cat(start, 1).norm()
    assert grown < 400 if ratio < 1 else grown > 1e6, grown  # free waves drift: 400 steps of 0.7


def derivative(stage, y):
    """Jacobian of the state's velocity at one state: moves of a tiny step, minus the identity, over it."""
    tiny, state = 1e-6, stage.start(y)
    own = copy.deepcopy(stage)
    own.h = tiny
    (move,) = own.moves(state)
    sizes = [s.numel() for s in state]

    def change(flat):
        parts = [p.view_as(s) for p, s in zip(flat.split(sizes), state, strict=True)]
        return torch.cat([m.flatten() for m in move(*parts)])

    flat = torch.cat([s.flatten() for s in state])
    jacobian = torch.autograd.functional.jacobian(change, flat)
    return (jacobian - torch.eye(len(flat), dtype=flat.dtype)) / tiny


@every
def test_eigenvalues(kind):
    """Real and never positive for the parabolic, imaginary for the two that keep everything."""
    stage = stage_of(kind, steps=1, bias=0.5)
    y = images(3, 3, batch=1, channels=4, dtype=torch.float64)
    jacobian = derivative(stage, y)
    values = torch.linalg.eigvals(jacobian)
    most = values.abs().max()
    assert most > 0.1
    if kind == "parabolic":
        torch.testing.assert_close(jacobian, jacobian.T, atol=1e-8, rtol=0)
        assert values.imag.abs().max() < 1e-8 * most and values.real.max() < 1e-8
    else:
        assert values.real.abs().max() < 1e-5 * most and values.imag.abs().max() > 0.1


@pytest.mark.parametrize("kind", ["hamiltonian", "second_order"])
def test_memory_does_not_grow_with_depth(kind):
    def held(steps, checkpointed):
        net, found = net_of(kind, widths=(4, 8), blocks=(0, steps)), {}
        assert net.checkpointed  # from the start
        net.checkpointed = checkpointed
        own = {p.data_ptr() for p in net.parameters()}

        def seen(t):
            if t.data_ptr() not in own:
                found[t.data_ptr()] = t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(seen, lambda t: t):
            maps = net(images(16, 16)).pyramid
        assert maps[-1].requires_grad
        return sum(found.values())

    assert held(4, True) == held(16, True)
    assert held(16, False) > 2 * held(4, False)


@every
@sized
def test_contract(kind, size):
    """What every backbone promises."""
    net = net_of(kind, len(size), 2)
    x = images(*size, channels=2)
    f = net(x)
    assert f.grid == net.grid(size) and f.tokens.shape == (2, math.prod(f.grid), 28) and f.pooled.shape == (2, 28)
    for m, width, stride in zip(f.pyramid, net.widths, net.strides, strict=True):
        assert m.shape == (2, width, *(-(-n // s) for n, s in zip(size, stride, strict=True)))
    keep = (torch.arange(math.prod(f.grid)) % 2 == 0).expand(2, -1).reshape(2, *f.grid)
    hidden = ~keep.unsqueeze(1)
    for axis in range(2, x.ndim):
        hidden = hidden.repeat_interleave(4, axis).narrow(axis, 0, size[axis - 2])
    assert torch.equal(net(x.masked_fill(hidden, float("nan")), keep).tokens, net(x, keep).tokens)
    decoder = Decoder(net, 3)
    gradients = []
    for checkpointed in (False, True):
        net.checkpointed = checkpointed
        net.zero_grad()
        decoder(net(x)).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    for (name, _), g, h in zip(net.named_parameters(), *gradients, strict=True):
        assert torch.isfinite(g).all() and g.abs().max() > 0, name
        torch.testing.assert_close(h, g, atol=1e-4 * float(g.abs().max()), rtol=1e-4)
    other = PDENet(len(size), 2, (4, 8, 8, 8), (1, 2, 2, 1), kind=kind)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x).tokens, f.tokens)


@every
@sized
def test_bfloat16(kind, size):
    """Kept or found again, the gradient is close to the exact one and finite; thin maps too."""
    net, x = net_of(kind, len(size), 2), images(*size, channels=2)
    exact = net(x).pyramid[0]
    gradients = []
    for checkpointed, rough in ((False, False), (False, True), (True, True)):
        net.checkpointed = checkpointed
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=rough):
            f = net(x)
            loss = f.pyramid[0].float().square().sum()
        loss.backward()
        assert f.pooled.dtype == torch.float32 and (f.pyramid[0] - exact).norm() < 0.05 * exact.norm()
        gradients.append(torch.cat([p.grad.flatten() for p in net.stages[0].parameters()]))
    true, plain, lean = gradients
    assert (plain - true).norm() < 0.1 * true.norm() and (lean - true).norm() < 0.1 * true.norm()


@every
@sized
def test_segments_are_the_network(kind, size):
    net, x = net_of(kind, len(size), 2, blocks=(0, 2, 2, 1)), images(*size, channels=2)
    found, maps = net.segments(x), net(x).pyramid[1:]  # the first stage has no steps
    assert len(found) == 3
    for segment, m in zip(found, maps, strict=True):
        tokens = segment.start
        assert len(segment.velocities) in (1, 2) and segment.grid == tuple(m.shape[2:])
        for t, v in enumerate(segment.velocities):
            tokens = tokens + v(t, tokens)
        torch.testing.assert_close(tokens, m.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_a_second_order_wave_is_the_leapfrog_scheme():
    """y_(n+1) = 2 y_n - y_(n-1) + h^2 F(y_n), with y_(-1) = y_0 - h v_0."""
    stage = stage_of("second_order", steps=5, h=0.6, bias=0.3)
    x = images(6, 7, channels=4, dtype=torch.float64)
    speed, now = x.chunk(2, 1)
    before = now - 0.6 * speed
    for layer in stage.layers:
        u = torch.nn.functional.conv2d(now, layer.weight, layer.bias, padding=1)
        force = -torch.nn.functional.conv_transpose2d(torch.nn.functional.leaky_relu(u, 0.01), layer.weight, padding=1)
        before, now = now, 2 * now - before + 0.36 * force
    torch.testing.assert_close(stage(x), torch.cat([(now - before) / 0.6, now], 1))


COMPILED = """
import torch
from headwater.backbones.pde import KINDS, PDENet
for kind in KINDS:
    net, x = PDENet(2, 1, (4, 8), (0, 2), kind=kind), torch.randn(2, 1, 9, 18)
    net.checkpointed = True
    for call in (torch.compile(net, fullgraph=True, backend="eager"), net):
        y = call(x).pyramid[-1]
        y.square().sum().backward()
        found = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        first = found if call is not net else first
    torch.testing.assert_close(first, found)
"""


@pytest.mark.slow
def test_compiles_whole():
    """Without the checks of shapes, which the compiler cannot read: hence a process of its own."""
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_starts_stable():
    for kind in KINDS:
        for h in (1.0, 2.0):
            net = net_of(kind, 3, widths=(8, 16), blocks=(1, 2), step=h)
            values = net.stability()
            assert [len(v) for v in values] == [1, 2] and 0.1 < max(map(max, values)) <= 1


def test_input_errors_say_what_to_do():
    cases = {
        "use one of parabolic, hamiltonian, second_order": lambda: net_of("hyperbolic"),
        "use more than 0, up to 2": lambda: net_of("parabolic", step=2.5),
        "use 4 in place of width 3": lambda: net_of("hamiltonian", widths=(3, 8, 8, 8)),
        "give one of each per stage": lambda: net_of("parabolic", blocks=(1, 2)),
        "needs at least one": lambda: net_of("parabolic", blocks=(1, 0, 1, 1)),
        "use 4": lambda: net_of("parabolic", patch=5),
        "at least 9 voxels": lambda: net_of("parabolic")(images(8, 8)),
        "build it with channels=2": lambda: net_of("parabolic")(images(16, 16, channels=2)),
    }
    for words, call in cases.items():
        with pytest.raises(InputError) as error:
            call()
        assert words in str(error.value)
