"""ContinuousViT: a vision transformer whose depth is time, with weights that are functions of it."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from headwater.backbones.attention import Style
from headwater.backbones.features import Backbone, Features, Segment, kept_indices
from headwater.backbones.vit import ViT
from headwater.errors import InputError

Velocity = Callable[[Tensor], Tensor]  # of tokens, at one time
SCHEMES = {  # per stage: its time, in steps; its share of the step. Every stage starts from the one before it alone
    "euler": ((0.0, 1.0),),
    "midpoint": ((0.0, 0.0), (0.5, 1.0)),
    "rk4": ((0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6)),
}
WEIGHTS = ("constant", "piecewise", "polynomial")


class ContinuousViT(Backbone):
    """Tokens carried from t = 0 to 1 by x' = depth (block_t(x) - x), a ViT's block with weights W(t) = sum_k basis_k(t) W_k.

    constant    one set of weights: a neural ODE (Chen et al. 1806.07366)
    piecewise   linear between `knots` sets, set k at t = k / knots; after the last they stay: a neural PDE
    polynomial  of degree `knots` - 1, through its values at the Chebyshev points

    With as many Euler steps as `depth`, piecewise with `depth` knots is the plain ViT of that depth, to the last weight
    (`vit.load_state_dict` takes its weights), and constant is a ViT whose blocks share theirs.

    steps, scheme  how time is cut, euler | midpoint | rk4: attributes that may change at any time, at inference too. The
                   scheme's order shows where `steps` is a multiple of the knots (a piecewise W has kinks there).
    Initial weights: a ViT's of this depth, the same at all knots, so that refining the steps at first changes little and the
    limit of many steps exists (Marion et al. 2206.06929); training parts them.

    Args:   depth: blocks that time 1 is worth, and `steps` unless changed. knots: depth for piecewise, 3 for polynomial.
    Raises: InputError for names that do not exist, more knots than depth, and styles that are no flow: norms after the sum
            (post, ngpt) and drop_path.
    Source: weights as functions of depth-time: Queiruga et al. 2008.02389.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        patch: int = 4,
        style: Style = Style(),
        weights: str = "piecewise",
        knots: int | None = None,
        scheme: str = "euler",
    ):
        if weights not in WEIGHTS:
            raise InputError(f"There are no weights {weights!r}: use one of {', '.join(WEIGHTS)}.")
        if style.place in ("post", "ngpt") or style.drop_path:
            raise InputError("tokens that flow in time only take sums: use place='pre' or 'peri' and drop_path=0")
        knots = knots or {"constant": 1, "piecewise": depth, "polynomial": min(3, depth)}[weights]
        if not 1 <= knots <= (most := 1 if weights == "constant" else depth):
            raise InputError(f"{weights} weights over depth {depth} cannot have {knots} knots: use 1 to {most}")
        super().__init__(ndim, channels, width, patch, [width], [patch])
        self.weights, self.depth, self.heads, self.style = weights, depth, heads, style
        self.steps, self.scheme = depth, scheme
        self.vit = ViT(ndim, channels, width, depth, heads, patch, style)
        del self.knots[knots:]
        for block in self.knots[1:]:
            block.load_state_dict(self.knots[0].state_dict())
        self.checked()

    @property
    def knots(self) -> nn.ModuleList:
        """The blocks W is made of, in order of t."""
        return self.vit.stack.blocks

    @property
    def norm(self) -> nn.Module:
        """The last norm."""
        return self.vit.norm

    def checked(self) -> tuple[int, str]:
        """Steps and scheme as they stand. Raises InputError for what cannot be."""
        if self.scheme not in SCHEMES:
            raise InputError(f"There is no scheme {self.scheme!r}: use one of {', '.join(SCHEMES)}.")
        if self.steps < 1:
            raise InputError(f"depth cannot be cut into {self.steps} steps: use 1 or more")
        return self.steps, self.scheme

    def forward(self, x: Float[Tensor, "B C *S"], keep: Bool[Tensor, "B *G"] | None = None) -> Features:
        """Features of images of any size from one patch up; `keep` must keep equally many cells of every image.

        Their `cost` is what the transport of each image's tokens took: the mean squared speed along the path, over tokens
        (registers too) and channels, integrated over t by the scheme's own stages. A loss that adds it asks for straighter,
        cheaper paths (OT-Flow 2006.00104; for transformers 2501.18793).
        """
        steps, scheme = self.checked()
        size = self.admit(x, keep)
        grid, kept = self.grid(size), None if keep is None else kept_indices(keep)
        tokens, places = self.vit.stack.enter(self.vit.embedded(x, kept), grid, kept)
        again = self.checkpointed and self.training
        costs = []
        for i in range(steps):
            tokens, cost = self.step(i / steps, 1 / steps, tokens, places, scheme, again)
            costs.append(cost)
        whole = self.vit.norm(tokens)
        tokens = whole[:, self.style.registers :]
        pyramid = [tokens.transpose(1, 2).unflatten(2, grid)] if kept is None else []
        pooled = tokens.mean(1) if self.style.pooled == "mean" else whole[:, 0]
        return Features(tokens, grid, pooled, pyramid, kept, size, torch.stack(costs).sum(0))

    def step(
        self, t: float, h: float, x: Float[Tensor, "B N D"], places: tuple, scheme: str, again: bool = False
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B"]]:
        """Tokens at t + h, and the cost of the way there. again: computed once more on the way back instead of kept."""

        def taken(x: Tensor) -> tuple[Tensor, Tensor]:
            return advance(lambda s: self.velocity(s, places), t, h, x, scheme)

        return checkpoint(taken, x, use_reentrant=False) if again else taken(x)

    def velocity(self, t: float, places: tuple) -> Velocity:
        """What moves the tokens at time t, once they are told of their places (`Stack.enter`)."""
        shares = basis(t, self.weights, len(self.knots))
        block = self.knots[shares[0][0]]
        if len(shares) == 1:
            return lambda x: self.depth * (block(x, *places) - x)
        mixed = {name: sum([w * self.knots[k].get_parameter(name) for k, w in shares]) for name, _ in block.named_parameters()}
        return lambda x: self.depth * (functional_call(block, mixed, (x, *places)) - x)

    def flow(self, x: Float[Tensor, "B C *S"]) -> tuple[Float[Tensor, "B N D"], Callable[[float, Tensor], Tensor]]:
        """Tokens at t = 0, registers first, and v(t, tokens) for any integrator; what it finds at 1 precedes the last norm."""
        start, places = self.vit.stack.enter(self.vit.embedded(x), self.grid(self.admit(x, None)))
        return start, lambda t, tokens: self.velocity(float(t), places)(tokens)

    def segments(self, x: Float[Tensor, "B C *S"]) -> list[Segment]:
        """One segment: all steps, each the change it makes, up to the last norm. Registers, if any, are its first tokens."""
        steps, scheme = self.checked()
        grid = self.grid(self.admit(x, None))
        start, places = self.vit.stack.enter(self.vit.embedded(x), grid)

        def velocity(i: int) -> Callable[[float, Tensor], Tensor]:
            return lambda t, tokens: self.step(i / steps, 1 / steps, tokens, places, scheme)[0] - tokens

        return [Segment(start, tuple(velocity(i) for i in range(steps)), grid)]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Spacing in mm of the images at hand over that of training, per axis, as in ViT; settable."""
        return self.vit.spacing

    @spacing.setter
    def spacing(self, ratio: tuple[float, ...]) -> None:
        self.vit.spacing = ratio


def advance(
    at: Callable[[float], Velocity], t: float, h: float, x: Float[Tensor, "B *R"], scheme: str
) -> tuple[Float[Tensor, "B *R"], Float[Tensor, "B"]]:
    """One Runge-Kutta step from t to t + h, and the integral of the mean squared speed over it. `at` gives a time's velocity."""
    change, cost, before, v, k = 0.0, 0.0, None, None, x
    for c, share in SCHEMES[scheme]:
        if c != before:
            v, before = at(t + c * h), c
        k = v(x + c * h * k if c else x)
        if share:
            change, cost = change + share * k, cost + share * k.square().flatten(1).mean(1)
    return x + h * change, h * cost


def basis(t: float, kind: str, knots: int) -> list[tuple[int, float]]:
    """Which sets of weights make up W(t), and the share of each: all others have none. Shares add up to 1."""
    if kind == "polynomial" and knots > 1:
        nodes = [(1 - math.cos(math.pi * (2 * k + 1) / (2 * knots))) / 2 for k in range(knots)]
        return [(k, math.prod([(t - b) / (a - b) for b in nodes if b != a])) for k, a in enumerate(nodes)]
    place = min(t * knots, knots - 1.0)
    k = round(place)
    if abs(place - k) < 1e-9:  # i / n * n is not i
        return [(k, 1.0)]
    k = math.floor(place)
    return [(k, k + 1 - place), (k + 1, place - k)]
