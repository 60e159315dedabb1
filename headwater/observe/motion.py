"""Depth as time: how fast, how far and how straight tokens move through a network, what they pay, and where they gather."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from headwater.errors import InputError
from headwater.flow.clusters import clusters, similarity
from headwater.flow.divergence import hutchinson, mean_and_error, rademacher
from headwater.flow.journey import journey, layer_costs
from headwater.streams import torch_stream

MOST = 256  # tokens per image that transport compares exactly; more are subsampled, with their error
FOLDS = 5  # of the cross-validation of linear probes
PERMUTATIONS = 20  # shuffled labels behind the chance level of probes
STRENGTHS = tuple(10.0**k for k in range(-2, 5))  # of the ridge, on standardised features
TANGENTS = 2**22  # numbers of tokens and of attention maps whose changes are followed at once
BROKEN = "a derivative of a block is zero, NaN or infinite at these tokens: growth has no logarithm there"

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Motion:
    """How the tokens of B images move along P states. Units: those of the tokens; one step is one block.

    speed (P-1, B): mean |dx|. relative (P-1, B): mean |dx| / |x|. turn (P-2, B): mean angle between two steps, radians; nan
    where no token moved in both. length, displacement (B): mean way and mean distance of its ends. energy (B): (P-1) sum of mean
    |dx|^2, at least length^2, with equality at constant speed if all tokens go equally far. transport (B): W2^2 between first and
    last cloud, the least energy that could bring the one to the other. costs (P-1, B): W2 from state to state. error (B),
    cost_errors: by how much W2 may be off (0 unless an image has more than 256 tokens). similarity (P, B): mean cosine of token
    pairs; nan where a token is zero or alone. clusters, tight (P, B): groups linked by cosine 0.99 (0: no similarity), and the
    share of tokens near their group's centre. chance (P): similarity of the same tokens, every number with a random sign, the
    signs of a place and channel shared along depth: what unrelated tokens of these sizes show.
    """

    speed: Float[Tensor, "s B"]
    relative: Float[Tensor, "s B"]
    turn: Float[Tensor, "a B"]
    length: Float[Tensor, "B"]
    displacement: Float[Tensor, "B"]
    energy: Float[Tensor, "B"]
    transport: Float[Tensor, "B"]
    error: Float[Tensor, "B"]
    costs: Float[Tensor, "s B"]
    cost_errors: Float[Tensor, "s B"]
    similarity: Float[Tensor, "P B"]
    chance: Float[Tensor, "P"]
    clusters: Integer[Tensor, "P B"]
    tight: Float[Tensor, "P B"]

    @property
    def growth(self) -> Float[Tensor, "s B"]:
        """Change of similarity by each block."""
        return self.similarity.diff(dim=0)


def motion(path: Float[Tensor, "P B N D"], seed: int = 0, cosine: float = 0.99) -> Motion:
    """Motion of tokens along states, as Stream.path gives them, in float64.

    Raises: InputError for fewer than two states and for tokens with NaN or infinity, naming the first such state.
    """
    x = path.detach().to("cpu", torch.float64)
    if len(x) < 2:
        raise InputError(f"motion needs two states or more, got {len(x)}: trace more blocks, or take a stream with a start")
    if not bool(x.isfinite().all()):
        first = next(i for i, state in enumerate(x) if not bool(state.isfinite().all()))
        raise InputError(f"state {first} of {len(x)} holds NaN or infinity: motion is read up to the state before it")
    steps = x.diff(dim=0)
    sizes, before = steps.norm(dim=-1), x[:-1].norm(dim=-1)
    trip = journey(torch.arange(len(x), dtype=x.dtype), x, most=MOST, generator=torch_stream(seed, "observe", "motion"))
    costs, errors = layer_costs(x, most=MOST, generator=torch_stream(seed, "observe", "motion", "layers"))
    signs = rademacher(2, x[0], torch_stream(seed, "observe", "motion", "signs"))[0]
    found = [[clusters(cloud, cosine) if _usable(cloud) else None for cloud in state] for state in x]
    return Motion(
        speed=sizes.mean(-1),
        relative=(sizes / before.clamp_min(torch.finfo(x.dtype).tiny)).mean(-1),
        turn=_turn(steps),
        length=trip.length.mean(-1),
        displacement=trip.displacement.mean(-1),
        energy=trip.action,
        transport=trip.transport,
        error=trip.error,
        costs=costs,
        cost_errors=errors,
        similarity=_similarity(x),
        chance=_similarity(x * signs).nanmean(-1),
        clusters=torch.tensor([[0 if c is None else c.count for c in row] for row in found]),
        tight=torch.tensor([[torch.nan if c is None else c.tight for c in row] for row in found], dtype=x.dtype),
    )


def _usable(cloud: Tensor) -> bool:
    return cloud.shape[-1] > 1 and len(cloud) > 1 and bool((cloud.norm(dim=-1) > 0).all())


def _similarity(x: Tensor) -> Float[Tensor, "P B"]:
    values = [[similarity(cloud) if _usable(cloud) else torch.tensor(torch.nan).double() for cloud in state] for state in x]
    return torch.stack([torch.stack(row) for row in values])


def _turn(steps: Float[Tensor, "s B N D"]) -> Float[Tensor, "a B"]:
    """Mean angle between successive steps, from their unit vectors by 2 atan2(|a - b|, |a + b|), exact near 0 and pi."""
    sizes = steps.norm(dim=-1, keepdim=True)
    unit = steps / sizes.clamp_min(torch.finfo(steps.dtype).tiny)
    a, b = unit[:-1], unit[1:]
    angle = 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))
    moved = ((sizes[:-1] > 0) & (sizes[1:] > 0)).squeeze(-1)
    return torch.where(moved, angle, torch.nan).nanmean(-1)


@dataclass(frozen=True, eq=False)
class Growth:
    """How L blocks stretch small changes of B clouds of tokens; logs per block.

    exponents (K, B): the K largest growth exponents, log of the singular values of the product of all Jacobians, over L; an
    eigenvalue of A for x' = A x with symmetric A and unit steps. residual (K, B): how much the last sweep changed them.
    stretch, stretch_error (L, B): mean log |J z| / |z| over random directions z, and its standard error: above 0 the block
    spreads changes, below it damps them.
    divergence, divergence_error (L, B): trace of (J - 1) per dimension, and its standard error.
    """

    exponents: Float[Tensor, "K B"]
    residual: Float[Tensor, "K B"]
    stretch: Float[Tensor, "L B"]
    stretch_error: Float[Tensor, "L B"]
    divergence: Float[Tensor, "L B"]
    divergence_error: Float[Tensor, "L B"]


def growth(
    steps: Sequence[Step], start: Float[Tensor, "B N D"], *, count: int = 3, sweeps: int = 4, probes: int = 8, seed: int = 0
) -> Growth:
    """Growth exponents by subspace iteration there and back, stretch and divergence by random probes.

    steps: blocks as (B, N, D) -> (B, N, D), as replay.steps gives them; images must not see each other. Cost: 4 (count + 1)
    sweeps + 2 probes directional derivatives of the network, its attention written out (the fused one has none forward).
    Raises: InputError for a derivative that is not finite, and for fewer than 2 probes.
    """
    if probes < 2 or count < 1 or sweeps < 2:
        raise InputError(f"growth with {count} directions, {sweeps} sweeps, {probes} probes: use at least 1, 2 and 2")
    generator, states = torch_stream(seed, "observe", "growth"), [start.detach()]
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for step in steps:
            states.append(step(states[-1]))
    if any(state.shape != start.shape for state in states):
        raise InputError("blocks change the shape of tokens: growth needs a stretch of depth where it stays")
    stretch, spread, parts = [], [], []
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for t, step in enumerate(steps):
            z = rademacher(probes, start, generator)
            # the divergence is that of the whole cloud: token i moves as query, key and value
            traces = hutchinson(lambda _, x, f=step: f(x) - x, float(t), states[t], z, of="flow").sum(-1) / start[0].numel()
            parts.append(mean_and_error(traces.double()))
            logs = (_forward(step, states[t], z).flatten(2).norm(dim=2) / z.flatten(2).norm(dim=2)).double().log()
            stretch.append(logs.mean(0)), spread.append(logs.std(0) / probes**0.5)
        exponents, residual = _exponents(steps, states, min(count, start[0].numel()), sweeps, generator)
    made = Growth(
        exponents, residual, torch.stack(stretch), torch.stack(spread), *(torch.stack(x) for x in zip(*parts, strict=True))
    )
    if not all(bool(x.isfinite().all()) for x in (made.exponents, made.stretch, made.divergence)):
        raise InputError(BROKEN)
    return made


def _forward(step: Step, x: Tensor, rows: Float[Tensor, "K B N D"]) -> Float[Tensor, "K B N D"]:
    """J z of every row z, forward and all at once; one by one where a block allows no more, without forward mode by vjps."""
    try:
        at_once = max(1, TANGENTS // (x.numel() + x.numel() // x.shape[-1] * x.shape[-2]))  # tokens, and their attention
        return torch.func.vmap(lambda z: torch.func.jvp(step, (x,), (z,))[1], chunk_size=at_once)(rows)
    except (RuntimeError, NotImplementedError):
        return torch.stack([_one_forward(step, x, z) for z in rows])


def _one_forward(step: Step, x: Tensor, z: Tensor) -> Tensor:
    try:
        return torch.func.jvp(step, (x,), (z,))[1]
    except NotImplementedError:
        return torch.autograd.functional.jvp(step, x, z)[1]


def _exponents(
    steps: Sequence[Step], states: list[Tensor], count: int, sweeps: int, generator: torch.Generator
) -> tuple[Float[Tensor, "K B"], Float[Tensor, "K B"]]:
    """Subspace iteration on J'J, a basis orthonormal after every block (nothing overflows); the best within the subspace."""
    shape = states[0].shape
    width = min(2 * count + 2, states[0][0].numel())  # directions beyond those asked for: the ones asked for settle sooner
    start = torch.randn(*shape, width, generator=generator, dtype=torch.float64).to(states[0].device)
    basis, last = torch.linalg.qr(start.flatten(1, 2))[0], None  # B, N D, K
    for _ in range(sweeps):
        product, logs = torch.eye(width, dtype=torch.float64, device=basis.device).expand(shape[0], -1, -1), 0.0
        for step, x in zip(steps, states, strict=False):
            moved = _forward(step, x, basis.movedim(-1, 0).reshape(width, *shape).to(x)).flatten(2).double()
            basis, r = torch.linalg.qr(moved.movedim(0, -1))
            product = r @ product
            size = product.norm(dim=(1, 2), keepdim=True)
            product, logs = product / size, logs + size.log().flatten()
        if not bool(product.isfinite().all() and logs.isfinite().all()):
            raise InputError(BROKEN)
        previous, last = last, (torch.linalg.svdvals(product)[:, :count].log() + logs[:, None]) / len(steps)
        for step, x in zip(reversed(steps), reversed(states[:-1]), strict=True):
            back = torch.func.vjp(step, x)[1]
            moved = [back(z.reshape(shape).to(x))[0].flatten(1).double() for z in basis.unbind(-1)]
            basis = torch.linalg.qr(torch.stack(moved, -1))[0]
    return last.T, (last - previous).abs().T


@dataclass(frozen=True)
class Separability:
    """How well a linear probe tells labels apart after each layer.

    accuracy (L): balanced, over 5 folds; error (L): its standard error over the folds. chance: 1 / classes. null95 (L): the
    95th percentile with shuffled labels, each layer's own. null: how that was found. An accuracy below null95 is no evidence.
    """

    accuracy: Float[np.ndarray, "L"]
    error: Float[np.ndarray, "L"]
    chance: float
    null95: Float[np.ndarray, "L"]
    null: str


def separability(
    layers: Sequence[Float[Tensor, "n d"]],
    labels: Integer[Tensor, "n"],
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    owners: Integer[Tensor, "n"] | None = None,
) -> Separability:
    """Ridge classifier on standardised features of each layer (mean tokens: tokens.mean(1)), strength by leave-one-out.

    The same folds, stratified by the true labels, serve the shuffled ones. owners: patients; a fold holds all images of one.

    Raises: InputError for a class with fewer than 5 images, one class, fewer than 5 owners, or features that are not finite.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    y = labels.cpu().numpy()
    whose = np.arange(len(y)) if owners is None else owners.cpu().numpy()
    classes, y, counts = np.unique(y, return_inverse=True, return_counts=True)
    if permutations < 2:
        raise InputError(f"{permutations} shufflings give no chance level: use 2 or more, {PERMUTATIONS} for a 95th percentile")
    if len(classes) < 2 or counts.min() < FOLDS:
        raise InputError(f"a linear probe needs 2 classes with {FOLDS} images each, got counts {counts.tolist()}")
    if len(set(whose.tolist())) < FOLDS:
        raise InputError(f"a linear probe needs images of {FOLDS} patients, got {len(set(whose.tolist()))}")
    if not all(bool(x.isfinite().all()) for x in layers):
        raise InputError("features hold NaN or infinity: a linear probe cannot read them")
    orders = [torch.randperm(len(y), generator=torch_stream(seed, "observe", "probe", i)).numpy() for i in range(permutations)]
    draws = np.stack([y, *(y[order] for order in orders)], 1)  # n, 1 + permutations
    alone = len(set(whose.tolist())) == len(y)
    made = (StratifiedKFold if alone else StratifiedGroupKFold)(FOLDS, shuffle=True, random_state=seed)
    folds = list(made.split(y, y, None if alone else whose))
    found = np.array(
        [[_probed(x.detach().cpu().double().numpy(), draws, *fold) for fold in folds] for x in layers]
    )  # L, folds, draws
    scores, null95 = found[..., 0], np.quantile(found[..., 1:].mean(1), 0.95, axis=-1)
    told = f"{permutations} shufflings of the labels, layer by layer"
    return Separability(scores.mean(1), scores.std(1, ddof=1) / FOLDS**0.5, 1 / len(classes), null95, told)


def _probed(x: np.ndarray, draws: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Balanced accuracy on the test rows for each column of labels; all columns share one decomposition of the features."""
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    classes = np.arange(draws.max() + 1)
    targets = 2.0 * (draws[..., None] == classes) - 1  # n, draws, classes
    scale = StandardScaler().fit(x[train])
    ridge = RidgeCV(list(STRENGTHS), alpha_per_target=True).fit(scale.transform(x[train]), targets[train].reshape(len(train), -1))
    said = ridge.predict(scale.transform(x[test])).reshape(len(test), *targets.shape[1:]).argmax(-1)
    of_class = draws[test][..., None] == classes
    shares = ((said[..., None] == classes) & of_class).sum(0) / np.maximum(of_class.sum(0), 1)
    return np.where(of_class.any(0), shares, 0).sum(-1) / of_class.any(0).sum(-1)
