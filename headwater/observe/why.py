"""Why tokens grow alike: the change of their similarity in a layer, split exactly over its parts and a head's eigen-directions.

All parts are turned up together from strength 0 to 1, each step reading what the ones before it gave at that strength; a part
gets the integral of the similarity's derivative with respect to its own strength, so parts sum to the change whatever the layer
is (Aumann & Shapley 1974; integrated gradients, 1703.01365, over strengths). What the feed-forward makes of a head's update
counts with the head. A head says z W_V W_O; the eigen-directions of W_V W_O split its share further.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from headwater.observe.parts import Head, Layer, Updates, run
from headwater.streams import torch_stream

ENOUGH = (1e-5, 1e-3)  # the quadrature stops once parts sum to the change of the cosine, and of its log, this closely
FEWEST, MOST = 4, 64  # nodes of the quadrature
WORST = 1e8  # condition of eigenvectors up to which a head is split
DRAWS = 200  # of random heads, once per shape
SMALL = 0.01  # growth of similarity over all layers below which nobody needs an explanation
TURNED = "the same update turned at random in channel space, the derivative held; standard deviation in closed form"
CIRCLE = "eigenvalues of random factors of the same shapes and norms: radius of their disc, and 95th percentile of the largest"


@dataclass(frozen=True)
class Directions:
    """A head's share over the eigen-directions of W_V W_O, largest share first; a complex pair counts once, with positive angle.

    values: the E eigenvalues that can differ from zero (fewer where pairs are joined); parts sum to the head's share.
    radius: of the disc that eigenvalues of random factors fill. null95: what the largest of them exceeds in 1 of 20 draws.
    why: not empty where the eigenvectors are too nearly parallel to split (parts are nan then).
    """

    values: Complex[Tensor, "K"]
    parts: Float[Tensor, "K"]
    radius: float
    null95: float
    how: str = CIRCLE
    why: str = ""


@dataclass(frozen=True)
class Attribution:
    """Change of the mean pairwise cosine of tokens in one layer, by part.

    parts (P, in the order of names) sum to after - before up to `residual`; logs to the change of -log(1 - cosine), the scale on
    which collapse is steady, and on which leaving parts out takes what they were given (nan where tokens agree to the last
    digit). chance: standard deviation of each part had its update another direction (`how`). step: how far unit tokens, or their
    mean over its length, move; the longer it is, the more leaving parts out differs from their sum. why: not empty where numbers
    are nan or the residual exceeds 1e-3 (half precision: its rounding).
    """

    names: tuple[str, ...]
    parts: Float[Tensor, "P"]
    logs: Float[Tensor, "P"]
    chance: Float[Tensor, "P"]
    before: float
    after: float
    residual: float
    step: float
    nodes: int
    directions: Mapping[str, Directions]
    how: str = TURNED
    why: str = ""

    @property
    def change(self) -> float:
        """after - before."""
        return self.after - self.before

    def largest(self, count: int = 3) -> list[str]:
        """Names of the parts that pull tokens together most, largest first."""
        return [self.names[i] for i in self.parts.argsort(descending=True)[:count]]


def similarity(tokens: Float[Tensor, "B N D"]) -> float:
    """Mean cosine over all pairs of different tokens of an image, then over images; -1/(N-1) to 1. A zero token has cosine 0.

    Raises ValueError for fewer than two tokens.
    """
    return float(_cosine(tokens.double()).mean())


def gap(tokens: Float[Tensor, "B N D"]) -> float:
    """1 - mean cosine over pairs of tokens, then images, without cancellation near 0. Raises ValueError for a single token."""
    if tokens.shape[1] < 2:
        raise ValueError("Similarity of tokens needs at least two of them.")
    unit = torch.nn.functional.normalize(tokens.double(), dim=-1, eps=0)
    return float((unit - unit.mean(1, keepdim=True)).square().sum((1, 2)).mean() / (tokens.shape[1] - 1))


def _directions(tokens: Tensor) -> Tensor:
    size = tokens.norm(dim=-1, keepdim=True)
    return tokens / torch.where(size > 0, size, 1)


def _cosine(tokens: Tensor) -> Tensor:
    """(B) mean pairwise cosine."""
    count = tokens.shape[1]
    if count < 2:
        raise ValueError("Similarity of tokens needs at least two of them.")
    unit = _directions(tokens)
    return (unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))) / (count * (count - 1))


def _step(start: Tensor, end: Tensor) -> float:
    """Root mean square of how far unit tokens move, or how far their mean moves over its length: the larger."""
    before, after = _directions(start), _directions(end)
    mean = before.mean(1)
    moved = (after.mean(1) - mean).norm() / mean.norm().clamp_min(1e-12)
    return max(float((after - before).square().sum(-1).mean().sqrt()), float(moved))


@torch.no_grad()
def attribute(layer: Layer, tokens: Float[Tensor, "B N D"], after: Float[Tensor, "B N D"] | None = None) -> Attribution:
    """Share of every part of the layer in the change of similarity of its tokens.

    after: tokens as the network itself has them behind the layer; then `residual` also counts what the description leaves out.
    The layer runs in its own precision, the stream and integrals in float64. Cost: 4 passes there and back (more for long steps),
    2 passes, and one D x D product per part. Parts of one name in several steps are added.
    """
    before, first = similarity(tokens), layer.steps[0](tokens)
    path = _turned_up(layer, tokens, first, 1.0)
    whole, names = path[-1][0], tuple(dict.fromkeys(name for _, updates in path for name in updates))
    if not bool(torch.isfinite(whole).all()):
        return _absent("the tokens, or what the layer adds to them, are not finite")
    reached, nodes = similarity(whole), FEWEST
    start, left = gap(tokens), gap(whole)
    grown = float(np.log(start / left)) if start > 0 and left > 0 else np.nan
    while True:
        shares, turns = _shares(layer, tokens, first, nodes)
        parts, logs = torch.stack([shares[name] for name in names], 1)
        off = abs(reached - before - float(parts.sum())), abs(grown - float(logs.sum()))
        fine = off[0] <= ENOUGH[0] and (off[1] <= ENOUGH[1] or not left > 100 * torch.finfo(tokens.dtype).eps)
        if fine or nodes >= MOST:
            break
        nodes *= 2
    chance = torch.stack([turns[name].norm() / turns[name].shape[0] ** 0.5 for name in names])
    end = reached if after is None else similarity(after)
    residual = end - before - float(parts.sum())
    split = {name: eigen_directions(head, turns[name]) for name, head in layer.heads.items()}
    close = max(1e-3, 2 * torch.finfo(tokens.dtype).eps)  # half precision rounds the stream more than that
    why = "" if abs(residual) <= close else "the parts do not sum to what the layer does: its description leaves something out"
    if abs(reached - before - float(parts.sum())) > close:
        why = "tokens start at zero or pass through it: their direction jumps, and no part can be given the jump"
    step = _step(tokens.double(), whole)
    return Attribution(names, parts, logs, chance, before, end, residual, step, nodes, split, why=why)


def _turned_up(layer: Layer, tokens: Tensor, first: Updates, strength: float) -> list[tuple[Tensor, Updates]]:
    """Tokens behind every step, in float64, and its updates, all parts at this strength; first: what the first step gives."""
    found, at = [], tokens.double()
    for i, step in enumerate(layer.steps):
        updates = first if i == 0 else step(at.to(tokens.dtype))
        at = at + strength * sum(update.double() for update in updates.values())
        at = at.requires_grad_() if torch.is_grad_enabled() else at
        found.append((at, updates))
    return found


def _shares(layer: Layer, tokens: Tensor, first: Updates, nodes: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Integrals over strengths of (derivative behind a part) . (its update), of the cosine and of -log(1 - cosine), and of the
    outer products of the former, D x D."""
    fine = torch.promote_types(tokens.dtype, torch.float32)  # of the D x D products; shares themselves are exact
    shares: dict[str, Tensor] = {}
    turns: dict[str, Tensor] = {}

    def add(slopes: Tensor, updates: Updates) -> None:
        for name, update in updates.items():
            shares[name] = shares.get(name, 0) + (slopes * update.detach()).sum((1, 2, 3))
            turn = (slopes[0].flatten(0, 1).to(fine).T @ update.detach().flatten(0, 1).to(fine)).double()
            turns[name] = turns[name] + turn if name in turns else turn

    both = torch.zeros(2, *tokens.shape, dtype=torch.float64, device=tokens.device)
    at, weight = np.polynomial.legendre.leggauss(nodes)
    for a, w in zip((at + 1) / 2, weight / 2, strict=True):
        with torch.enable_grad():
            path = _turned_up(layer, tokens, first, float(a))
            slopes = torch.autograd.grad(_cosine(path[-1][0]).mean(), [at for at, _ in path])
        left = gap(path[-1][0].detach())
        weights = both.new_tensor([w, w / left if left else np.nan])[:, None, None, None]
        both += weights * slopes[0]  # the first step's updates are the same at every strength
        for one, (_, updates) in zip(slopes[1:], path[1:], strict=True):
            add(weights * one, updates)
    add(both, first)
    return shares, turns


@torch.no_grad()
def ablation(layer: Layer, tokens: Float[Tensor, "B N D"], names: Sequence[str]) -> float:
    """Growth of similarity lost when the named parts add nothing and what follows reads the stream without them."""
    return similarity(run(layer, tokens)) - similarity(run(layer, tokens, names))


def eigen_directions(head: Head, turn: Float[Tensor, "D D"]) -> Directions:
    """Share of every eigen-direction of W_V W_O; turn: sum over tokens of (mean gradient) x (update of the head).

    With V: D x E, O: E x D and O V = Y diag(l) Y^-1, row tokens have the eigenvectors Y^-1 O with eigenvalues l; what the head
    says is y O, so its share tr(O turn O^+) in the basis Y splits over the eigenvalues, none of which needs to differ from 0.
    """
    value, output = head.value.double(), head.output.double()
    core = output @ value  # E, E
    values, basis = torch.linalg.eig(core)
    width, size = value.shape
    radius = float(value.norm() * output.norm() / (width * size) ** 0.5)
    null95 = radius * _largest_by_chance(width, size)
    inner = output @ turn @ torch.linalg.pinv(output)
    condition = float(torch.linalg.cond(basis))
    if not condition <= WORST:
        none = torch.full(values.shape, torch.nan, dtype=torch.float64)
        return Directions(values, none, radius, null95, why=f"eigenvectors are nearly parallel (condition {condition:.0e})")
    shares = torch.linalg.solve(basis, inner.to(basis.dtype) @ basis).diagonal().real
    upper, paired = values.imag >= 0, values.imag != 0
    shares = torch.where(paired, 2 * shares, shares)[upper]
    order = shares.argsort(descending=True)
    return Directions(values[upper][order], shares[order], radius, null95)


@lru_cache(maxsize=64)
def _largest_by_chance(width: int, size: int) -> float:
    """95th percentile of the largest |eigenvalue| of a product of Gaussian factors, in units of the radius of its disc."""
    stream = torch_stream(0, "observe", "circle", width, size)
    largest = []
    for _ in range(DRAWS):
        value = torch.randn(width, size, generator=stream, dtype=torch.float64)
        output = torch.randn(size, width, generator=stream, dtype=torch.float64)
        scale = value.norm() * output.norm() / (width * size) ** 0.5
        largest.append(float(torch.linalg.eigvals(output @ value).abs().max() / scale))
    return float(np.quantile(largest, 0.95))


def _absent(why: str) -> Attribution:
    none = torch.full((0,), torch.nan, dtype=torch.float64)
    return Attribution((), none, none, none, np.nan, np.nan, np.nan, np.nan, 0, {}, why=why)


def sentence(layers: Sequence[Attribution]) -> str:
    """One sentence on which layers make tokens alike, and which part of them does most of it through what; layers from 0.

    The layers named are the run whose growth stands out most from a quarter of the largest layer's.
    """
    broken = [(i, found.why) for i, found in enumerate(layers) if found.why]
    if broken:
        return f"Layer {broken[0][0]} cannot be explained: {broken[0][1]}."
    changes = np.array([found.change for found in layers])
    total = float(changes.sum())
    if not changes.size or changes.max() < SMALL:
        ways = "push tokens apart" if total < -SMALL else "leave the similarity of tokens as it is"
        return f"The layers {ways} (mean cosine {_whole(layers)})."
    first, last = _standing_out(changes - changes.max() / 4)
    grown = float(changes[first : last + 1].sum())
    where, part = max(
        ((i, p) for i in range(first, last + 1) for p in range(len(layers[i].names))), key=lambda at: layers[at[0]].parts[at[1]]
    )
    found = layers[where]
    share, name = float(found.parts[part]) / grown, found.names[part]
    which = f"layer {first} pulls" if first == last else f"layers {first}-{last} pull"
    said = f"{which[0].upper()}{which[1:]} tokens together (mean cosine {layers[first].before:.2f} to {layers[last].after:.2f}); "
    more = "more than all of it, the rest pushes apart" if share > 1 else f"{100 * share:.0f} % of it"
    told = "" if abs(float(found.parts[part])) > 2 * float(found.chance[part]) else ", no more than a random direction would"
    named = name if name.startswith("head") else f"the {name}"
    return f"{said}{named} of layer {where} does {more}{_through(found, name)}{told}."


def _whole(layers: Sequence[Attribution]) -> str:
    return f"{layers[0].before:.2f} to {layers[-1].after:.2f}" if layers else "unknown: no layers"


def _standing_out(gain: np.ndarray) -> tuple[int, int]:
    """First and last index of the run with the largest sum (Kadane)."""
    best, start, total, found = -np.inf, 0, 0.0, (0, 0)
    for i, value in enumerate(gain):
        start, total = (i, value) if total <= 0 else (start, total + value)
        best, found = (total, (start, i)) if total > best else (best, found)
    return found


def _through(found: Attribution, name: str) -> str:
    """The eigenvalue a head works through, where one has half of the head's share; and what chance would make of it."""
    split = found.directions.get(name)
    share = float(found.parts[found.names.index(name)])
    if split is None or split.why or not len(split.parts) or float(split.parts[0]) < 0.5 * share:
        return "" if split is None or split.why else ", through no single eigenvalue"
    value = complex(split.values[0])
    told = f"{value.real:.2g}" if abs(value.imag) < 1e-9 else f"{value.real:.2g} +- {value.imag:.2g}i"
    return f", through its eigenvalue {told} (by chance up to {split.null95:.2g})"
