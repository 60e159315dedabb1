"""Near consensus: what a layer linearised at equal tokens predicts, where that holds, and a null curve for similarity over depth.

All tokens equal is invariant under attention whose rows sum to one. Near it the mean token moves as the layer moves it (DC) and
deviations move by the layer's Jacobian (AC): where every token is looked at equally, attention adds nothing to them, and only the
identity, the feed-forward and the projection of norms are left; otherwise the value path adds its share. 1 - cosine changes by
(AC / DC)^2. A linearisation: it holds near consensus only, here said to be a mean cosine above 0.9.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from headwater.errors import InputError
from headwater.flow.exact import common_angle, time_to_reach
from headwater.observe.why import gap, similarity
from headwater.streams import numpy_stream

NEAR = 0.9  # mean cosine of tokens above which the prediction is said to stand
WINDOW = 4  # layers that an error or a correlation is taken over, at least
EQUAL = 1e-3  # how far a layer may set equal tokens apart, over their length
UNEQUAL = "the layer sets equal tokens apart (heads that fall silent, positions added inside): there is no consensus to keep"
STEP = 1e-2  # of the difference quotient, in units of the deviations


@dataclass(frozen=True)
class Prediction:
    """Change of log(1 - mean cosine) through one layer: predicted at its mean token, and measured.

    dc, ac: growth of the mean token, of the deviations across it (root mean square over images). cosine: of the tokens the layer
    reads. valid: cosine > 0.9; elsewhere the prediction has no standing. how: of the Jacobian-vector product. why: where nan.
    """

    change: float
    measured: float
    dc: float
    ac: float
    cosine: float
    how: str
    why: str = ""

    @property
    def valid(self) -> bool:
        """Whether the linearisation may be shown."""
        return not self.why and self.cosine > NEAR


@dataclass(frozen=True)
class Standing:
    """How far predictions agree with what was measured.

    correlation: over the valid layers; null95: what it reaches in 5 % of random pairings of layers. error: root mean square of
    predicted - measured over that of measured. layers: how many were valid. held: lowest mean cosine down to which the error of
    any four neighbours in cosine stays under one half (nan: nowhere). why: not empty where there is nothing to correlate.
    """

    correlation: float
    null95: float
    error: float
    layers: int
    held: float
    how: str = "layers paired at random, 1000 times"
    why: str = ""


@dataclass(frozen=True)
class NullCurve:
    """Mean cosine of tokens over depth, and that of equiangular tokens under attention with V = Q'K = 1 from the same start.

    times (L + 1): depth in units of that flow, as far as its field would have to move the tokens as much as the layers do.
    measured, null (L + 1). reach: how fast the null nears 1, the time at which its cosine passes 0.9. why: not empty where nan.
    """

    times: np.ndarray
    measured: np.ndarray
    null: np.ndarray
    reach: float
    how: str = "closed form of the common angle; every layer lasts |step across the token| / |field across the token|"
    why: str = ""


def predict(
    layer: Callable[[Tensor], Tensor], tokens: Float[Tensor, "B N D"], after: Float[Tensor, "B N D"] | None = None
) -> Prediction:
    """What the layer, linearised at each image's mean token, does to the similarity of the tokens it reads.

    layer: tokens to tokens, all of it (norms, attention, feed-forward), in evaluation; run once at the mean token with one
    Jacobian-vector product along the deviations, and once on the tokens unless `after` has what it gave. Attention enters with
    the rows it has at equal tokens: uniform ones add nothing, ones turned by places pass the value path on.
    """
    mean = tokens.mean(1, keepdim=True)
    off = tokens - mean
    with torch.no_grad():
        after = layer(tokens) if after is None else after
    base, moved, how = _linear(layer, mean.expand_as(tokens).contiguous(), off)
    before, then = _across(mean, off), _across(base, moved)
    near, measured = gap(tokens), gap(after)
    kept = (base - base.mean(1, keepdim=True)).norm() <= EQUAL * base.norm()
    why = _why(tokens, after, before, then, near, measured) or ("" if kept else UNEQUAL)
    if why:
        return Prediction(np.nan, np.nan, np.nan, np.nan, 1 - near, how, why)
    change = (then[0] / then[1]).sum().log() - (before[0] / before[1]).sum().log()
    dc, ac = ((a.sum() / b.sum()).sqrt() for a, b in ((then[1], before[1]), (then[0], before[0])))
    return Prediction(float(change), float(np.log(measured / near)), float(dc), float(ac), 1 - near, how)


def _why(tokens: Tensor, after: Tensor, before: tuple, then: tuple, near: float, measured: float) -> str:
    if not all(bool(torch.isfinite(x).all()) for x in (tokens, after, *before, *then)):
        return "tokens before, after or at the mean are not finite"
    if any(bool((mean <= 1e-12 * (across + mean)).any()) for across, mean in (before, then)):
        return "the mean token vanishes: there is no consensus to linearise at"
    if near < 1e-13 or measured < 1e-13 or float(then[0].sum()) == 0:
        return "all tokens agree to the last digit: nothing is left to shrink"
    return ""


def _across(base: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
    """Per image: mean square of tokens across their mean, square of the mean. Tokens are base + off."""
    base, off = base.double(), off.double()
    mean = base.mean(1, keepdim=True) + off.mean(1, keepdim=True)
    off = (base - base.mean(1, keepdim=True)) + (off - off.mean(1, keepdim=True))
    size = mean.square().sum(-1, keepdim=True)
    off = off - (off * mean).sum(-1, keepdim=True) / size.clamp_min(torch.finfo(size.dtype).tiny) * mean
    return off.square().sum(-1).mean(1), size[:, 0, 0]


def _linear(layer: Callable[[Tensor], Tensor], at: Tensor, off: Tensor) -> tuple[Tensor, Tensor, str]:
    """Value, Jacobian times off, and how: forward mode, or a central difference for layers that have none."""
    try:
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
            value, moved = torch.func.jvp(layer, (at,), (off,))
        return value.detach(), moved.detach(), "Jacobian-vector product in forward mode"
    except (NotImplementedError, RuntimeError):
        with torch.no_grad():
            value, up, down = layer(at), layer(at + STEP * off), layer(at - STEP * off)
        return value, (up - down) / (2 * STEP), "Jacobian-vector product by a central difference"


def standing(predictions: Sequence[Prediction], seed: int = 0) -> Standing:
    """Correlation of predicted and measured changes over the valid layers, its null, and where the prediction stops holding."""
    told = sorted((p for p in predictions if not p.why), key=lambda p: -p.cosine)
    held = np.nan
    for count in range(1, len(told) + 1):
        if _error(told[max(0, count - WINDOW) : count]) > 0.5:
            break
        held = told[count - 1].cosine
    near = [p for p in told if p.valid]
    said, seen = np.array([p.change for p in near]), np.array([p.measured for p in near])
    if len(near) < WINDOW or not np.ptp(said) > 0 or not np.ptp(seen) > 0:
        why = f"{len(near)} layers have tokens of mean cosine above {NEAR}: four that differ are needed"
        return Standing(np.nan, np.nan, _error(near), len(near), held, why=why)
    stream = numpy_stream(seed, "observe", "consensus")
    null = [np.corrcoef(said, stream.permutation(seen))[0, 1] for _ in range(1000)]
    return Standing(float(np.corrcoef(said, seen)[0, 1]), float(np.quantile(null, 0.95)), _error(near), len(near), held)


def _error(told: Sequence[Prediction]) -> float:
    off, seen = np.array([p.change - p.measured for p in told]), np.array([p.measured for p in told])
    return float(np.sqrt(np.mean(off**2) / np.mean(seen**2))) if len(told) and seen.any() else float("nan")


@torch.no_grad()
def null_curve(depth: Float[Tensor, "L B N D"], beta: float = 1.0) -> NullCurve:
    """Similarity over depth beside the closed form of the common angle (SA, Geshkovski et al., theorem 6.8) from the same start.

    depth: tokens before, between and after the layers. A null to look at beside the curve, not a fit: trained networks have
    neither V nor Q'K near the identity. beta: inverse temperature of the null. Tokens of a start outside what equal angles allow,
    or that end where that flow stands still, give nan and say why.
    """
    if depth.shape[0] < 2 or depth.shape[2] < 2:
        raise InputError(f"a curve over depth needs two layers and two tokens at least, not {tuple(depth.shape)}")
    unit = torch.nn.functional.normalize(depth.double(), dim=-1)
    measured, count = np.array([similarity(tokens) for tokens in depth]), depth.shape[2]
    none = np.full(len(measured), np.nan)
    if not np.isfinite(measured).all() or not -1 / (count - 1) < measured[0] < 1 - 1e-12:
        why = f"{count} tokens of mean cosine {measured[0]:.4g} cannot start the curve at one angle"
        return NullCurve(none, measured, none, np.nan, why=why)
    times = np.concatenate([[0.0], np.cumsum([_lasts(a, b, beta) for a, b in zip(unit[:-1], unit[1:], strict=True)])])
    known = np.isfinite(times)
    null = np.where(known, common_angle(np.where(known, times, 0.0), count, beta, float(measured[0])), np.nan)
    why = (
        ""
        if known.all()
        else f"from layer {int(known.argmin()) - 1} on tokens stand where the null's field vanishes: no time passes"
    )
    reach = 0.0 if measured[0] >= NEAR else time_to_reach(NEAR, count, beta, float(measured[0]))
    return NullCurve(times, measured, null, reach, why=why)


def _lasts(now: Tensor, then: Tensor, beta: float) -> float:
    """Time the null's field takes for as long a step on the sphere: arcs over speeds, root mean squares."""
    field = torch.softmax(beta * now @ now.mT, -1) @ now
    field = field - (field * now).sum(-1, keepdim=True) * now
    chord = (then - now).norm(dim=-1).clamp_max(2)
    arc = 2 * (chord / 2).asin()
    speed = float(field.square().sum(-1).mean().sqrt())
    return float(arc.square().mean().sqrt()) / speed if speed > 1e-12 else float("nan")
