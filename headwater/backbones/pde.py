"""PDENet: convolutional networks that are stable partial differential equations (Ruthotto & Haber 1804.04272)."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headwater.backbones.convolutions import ConvNorm, average_pool
from headwater.backbones.features import Backbone, Features, Segment, by
from headwater.backbones.pyramid import gathered, spread
from headwater.backbones.reversible import CONVOLVE, Journey, advance, symmetric
from headwater.errors import InputError
from headwater.streams import torch_stream

LIMIT = 2.0  # of h |K|^2 (parabolic), h |K1| |K2| (Hamiltonian), h |K| (second order)
KINDS = {"parabolic": 1, "hamiltonian": 2, "second_order": 1}  # layers per step
SIDE = 8  # voxels per axis of the map on which a layer's norm is looked for


class PDENet(Backbone):
    """Stem, then stages of time steps with F(y) = -K' sigma(K y + b); before every stage but the first the map is halved.

    parabolic     y' = F(y), Euler: smooths; without b its norm never grows, with it two images never move apart
    hamiltonian   y' = -F1(z), z' = F2(y), halves of the channels, Verlet: nothing is lost, it can be run backwards
    second_order  v' = F(y), y' = v, halves of the channels, leapfrog: a wave equation, can be run backwards

    Between stages: average pooling, then a 1x1 convolution, instance norm and LeakyReLU. Pyramid (every stage), tokens,
    pooled, sizes and `keep` as in ResEnc. The reversible two do not keep their states in training: `checkpointed` is True for
    them from the start, memory does not grow with the number of steps and a step of training takes a third longer.
    Stable while the step is below a limit that `stability` checks; initial K: normal, |K| 0.8 to 1 at any width; b zero.
    Departures from the paper: no norm inside F, because the limits and the reversal are exact without; waves of the second
    order start with a velocity of their own, not from rest, so that their maps are their whole state.

    Args:   widths: per stage. blocks: time steps per stage, 0 allowed at the first. patch: token stride, a power of two
            up to twice the coarsest map's stride. step: h, up to the limit of the initial weights. kind: which equation.
    Raises: InputError for sizes and steps that do not fit.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        patch: int = 4,
        kind: str = "parabolic",
        step: float = 1.0,
    ):
        if kind not in KINDS:
            raise InputError(f"There is no equation {kind!r}: use one of {', '.join(KINDS)}.")
        if len(widths) != len(blocks):
            raise InputError(f"{len(widths)} widths and {len(blocks)} block counts: give one of each per stage")
        if min(blocks[1:], default=1) < 1 or blocks[0] < 0:
            raise InputError(f"block counts {tuple(blocks)}: every stage after the first needs at least one")
        if kind != "parabolic" and (odd := [w for w in widths if w % 2]):
            raise InputError(f"{kind} splits its channels into halves: use {odd[0] + 1} in place of width {odd[0]}")
        if not 0 < step <= LIMIT:
            raise InputError(f"step {step:g} is not stable with the initial weights: use more than 0, up to {LIMIT:g}")
        strides = [2**i for i in range(len(widths))]
        if patch not in (options := [*strides, 2 * strides[-1]]):
            raise InputError(f"patch {patch} is no stride of this network: use {min(options, key=lambda s: abs(s - patch))}")
        super().__init__(ndim, channels, sum(widths), patch, widths, strides)
        self.kind, self.checkpointed = kind, kind != "parabolic"
        self.stem = ConvNorm(ndim, channels, widths[0])
        self.entries = nn.ModuleList(ConvNorm(ndim, a, b, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.stages = nn.ModuleList(Stage(ndim, w, n, kind, step) for w, n in zip(widths, blocks, strict=True))

    def forward(self, x: Float[Tensor, "B C *S"], keep: Bool[Tensor, "B *G"] | None = None) -> Features:
        """Features of images of any size whose coarsest map has more than one voxel."""
        size = self.entered(x, keep)
        if keep is not None:
            x = x.masked_fill(~spread(keep, self.stride, size), 0)
        pyramid = []
        for i, stage in enumerate(self.stages):
            x = self.stem(x) if i == 0 else self.entries[i - 1](average_pool(x, 2))
            x = stage(x, self.checkpointed and self.training)
            pyramid.append(x)
        return gathered(pyramid, self.strides, self.stride[0], self.grid(size), size)

    def entered(self, x: Tensor, keep: Tensor | None) -> tuple[int, ...]:
        """Size of a batch this network can take and normalise."""
        size, coarsest = self.admit(x, keep), self.strides[-1][0]
        if math.prod([-(-n // coarsest) for n in size]) < 2:
            raise InputError(f"images of {by(size)} shrink to a single voxel: use at least {coarsest + 1} voxels along one axis")
        return size

    def segments(self, x: Float[Tensor, "B C *S"]) -> list[Segment]:
        """One per stage with steps, on the grid of its map: Euler's, Verlet's or leapfrog's whole steps."""
        self.entered(x, None)
        found = []
        for i, stage in enumerate(self.stages):
            x = self.stem(x) if i == 0 else self.entries[i - 1](average_pool(x, 2))
            state, grid = stage.start(x), tuple(x.shape[2:])
            if len(stage.layers):
                steps = tuple(flat(move, grid, len(state)) for move in stage.moves(state))
                found.append(Segment(torch.cat(state, 1).flatten(2).transpose(1, 2), steps, grid))
            x = stage(x)
        return found

    @torch.no_grad()
    def stability(self) -> list[list[float]]:
        """The step over its limit, per stage and step: up to 1 is stable. Weights are taken as frozen at each step.

        h |K|^2 / 2 for parabolic, h |K1| |K2| / 2 for Hamiltonian, h |K| / 2 for second order, with |sigma'| <= 1: after
        training, a value above 1 says which step may amplify; a smaller `step` or weight decay brings it down.
        """
        return [stage.stability() for stage in self.stages]


class Stage(nn.Module):
    """Time steps at one width. State: (y,), or halves of the channels, (y, z) or (v, y)."""

    def __init__(self, ndim: int, width: int, steps: int, kind: str, h: float):
        super().__init__()
        self.kind, self.h, self.per_step = kind, h, KINDS[kind]
        inner = width if kind == "parabolic" else width // 2
        self.layers = nn.ModuleList(Layer(ndim, inner) for _ in range(steps * self.per_step))

    def forward(self, x: Float[Tensor, "B C *S"], again: bool = False) -> Float[Tensor, "B C *S"]:
        """The map after all steps. again: states are found again on the way back instead of kept."""
        if not len(self.layers):
            return x
        state = self.start(x)
        if again and self.kind != "parabolic":
            weights = [p for layer in self.layers for p in (layer.weight, layer.bias)]
            state = Journey.apply(*state, self.h, 2 * self.per_step, precision(x, weights[0]), *weights)
        else:
            for move in self.moves(state):
                state = checkpoint(move, *state, use_reentrant=False) if again else move(*state)
        return torch.cat(state, 1)

    def start(self, x: Float[Tensor, "B C *S"]) -> tuple[Tensor, ...]:
        """The state of a map, in the precision of the weights: the running sum is not rounded to bf16."""
        x = x.to(self.layers[0].weight.dtype) if len(self.layers) else x
        return (x,) if self.kind == "parabolic" else x.chunk(2, 1)

    def moves(self, state: tuple[Tensor, ...]) -> list[Callable[..., tuple[Tensor, ...]]]:
        """One function of the state per step, states like this one."""
        dtype = precision(state[0], self.layers[0].weight)
        pairs = [(layer.weight, layer.bias) for layer in self.layers]
        if self.kind == "parabolic":
            return [partial(smooth, h=self.h, layer=pair, dtype=dtype) for pair in pairs]
        steps = [sum(pairs[i : i + self.per_step], ()) for i in range(0, len(pairs), self.per_step)]
        return [partial(advance, h=self.h, layers=step, dtype=dtype) for step in steps]

    def stability(self) -> list[float]:
        """The step over its limit, step by step."""
        norms = [layer.norm() for layer in self.layers]
        if self.kind == "hamiltonian":
            return [self.h * a * b / LIMIT for a, b in zip(norms[::2], norms[1::2], strict=True)]
        return [self.h * (n * n if self.kind == "parabolic" else n) / LIMIT for n in norms]


class Layer(nn.Module):
    """Weights K (C, C, 3, ..) and b (C) of K' sigma(K y + b)."""

    def __init__(self, ndim: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width, *[3] * ndim))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.weight, std=0.4 / (width * 3**ndim) ** 0.5)  # per frequency a random matrix: 0.8 to 1

    def norm(self, rounds: int = 40) -> float:
        """|K|, the largest gain of the convolution, by power iteration on a periodic map of 8 voxels per axis.

        An estimate from below: its iterations stop some hundredths short, and between the 8 frequencies of an axis a gain can
        be up to 1.08 times that at them. Maps of any size with zeros around have no larger gain than endless ones.
        """
        weight, axes = self.weight.detach(), tuple(range(2, self.weight.ndim))
        back = weight.flip(axes).transpose(0, 1).contiguous()  # the adjoint

        def around(v: Tensor, kernel: Tensor) -> Tensor:
            return CONVOLVE[v.ndim](F.pad(v, (1, 1) * len(axes), mode="circular"), kernel)

        start = torch.randn(1, weight.shape[1], *[SIDE] * len(axes), generator=torch_stream(0, "norm of a convolution"))
        v = start.to(weight)
        for _ in range(rounds):
            v = around(around(v / v.norm().clamp_min(torch.finfo(v.dtype).tiny), weight), back)
        return v.norm().sqrt().item()


def smooth(
    y: Float[Tensor, "B C *S"], h: float, layer: tuple[Tensor, Tensor], dtype: torch.dtype
) -> tuple[Float[Tensor, "B C *S"]]:
    """One Euler step of y' = -K' sigma(K y + b)."""
    return (y - h * symmetric(y, *layer, dtype),)


def precision(x: Tensor, weight: Tensor) -> torch.dtype:
    """What the convolutions are worked out in: autocast's type, but the weights' own on a CPU's thin maps (`convolve`)."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind) or (kind == "cpu" and min(x.shape[2:]) < 3):
        return weight.dtype
    return torch.get_autocast_dtype(kind)


def flat(move: Callable[..., tuple[Tensor, ...]], grid: tuple[int, ...], parts: int) -> Callable[[float, Tensor], Tensor]:
    """A step of a state of so many maps as a velocity on tokens."""

    def velocity(t: float, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        state = tokens.transpose(1, 2).unflatten(2, grid).chunk(parts, 1)
        return torch.cat(move(*state), 1).flatten(2).transpose(1, 2) - tokens

    return velocity
