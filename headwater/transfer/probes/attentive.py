"""The attentive probe: a few learned queries pool the tokens of a frozen backbone, a linear map reads the pool."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.streams import torch_stream

QUERIES, WIDTH, STEPS, BATCH = 4, 64, 200, 64


class Pool(nn.Module):
    """(B, N, D) -> (B, K): each query's softmax over the tokens weighs them; queries of zero are the mean, where training begins.

    After the attentive probing of V-JEPA (Bardes et al. 2404.08471), without its value and output maps: a linear map follows.
    """

    def __init__(self, width: int, outputs: int, generator: torch.Generator):
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(QUERIES, width, generator=generator))
        self.read = nn.utils.skip_init(nn.Linear, QUERIES * width, outputs)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B K"]:
        """Logits or values."""
        weights = (x @ self.queries.T / math.sqrt(x.shape[2])).softmax(1)
        return self.read((weights.mT @ x).flatten(1))


def attentive(
    train: Float[np.ndarray, "n N D"],
    answers: np.ndarray,
    test: Float[np.ndarray, "m N D"],
    outputs: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> Float[np.ndarray, "m K"]:
    """Trains on `train` and answers on `test`: probabilities (m, K), or values (m, 1) where `outputs` is 0.

    Tokens are standardised and turned to their 64 leading axes, of the training part; 200 steps of AdamW, its rate falling to 0.
    Of them the state is kept that does best on a fifth of the training part set aside (whole subjects, where `groups` says whose
    an image is); that may be the first, which answers the mean.
    Args: answers: classes 0 to K-1 (n,), yes and no of K labels (n, K) with nan where unknown, or numbers (n,).
    """
    x, there = _reduced(torch.from_numpy(train).float(), torch.from_numpy(test).float())
    generator = torch_stream(seed, "attentive")
    network = Pool(x.shape[2], max(1, outputs), generator)
    y, loss_of = _asked(answers, outputs)
    mean, spread = (float(y.mean()), float(y.std()) or 1.0) if not outputs else (0.0, 1.0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=STEPS + 2, pct_start=0.1)
    wanted = (y - mean) / spread if not outputs else y
    learned, aside = _parts(np.arange(len(x)) if groups is None else groups, generator)
    best, kept = math.inf, None
    for step in range(STEPS + 1):
        if len(aside) and step % 10 == 0 and (now := _loss(network, loss_of, x[aside], wanted[aside])) < best:
            best, kept = now, {name: value.clone() for name, value in network.state_dict().items()}
        chosen = learned[torch.randperm(len(learned), generator=generator)[:BATCH]]
        optimiser.zero_grad(set_to_none=True)
        loss_of(network(x[chosen]), wanted[chosen]).backward()
        optimiser.step()
        schedule.step()
    if kept is not None:
        network.load_state_dict(kept)
    with torch.no_grad():
        said = network(there)
    if not outputs:
        return (said * spread + mean).numpy()
    return (said.softmax(1) if answers.ndim == 1 else said.sigmoid()).numpy()


def _parts(groups: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows to learn from, and those of a fifth of the subjects; none of the latter with fewer than five subjects."""
    whose = torch.from_numpy(np.unique(groups, return_inverse=True)[1])
    order = torch.randperm(int(whose.max()) + 1, generator=generator)
    apart = torch.isin(whose, order[: len(order) // 5])
    return (~apart).nonzero()[:, 0], apart.nonzero()[:, 0]


@torch.no_grad()
def _loss(network: nn.Module, loss_of: nn.Module, x: Tensor, wanted: Tensor) -> float:
    return float(loss_of(network(x), wanted))


def _asked(answers: np.ndarray, outputs: int) -> tuple[Tensor, nn.Module]:
    if not outputs:
        return torch.from_numpy(np.asarray(answers, np.float32))[:, None], nn.MSELoss()
    if answers.ndim == 1:
        return torch.from_numpy(np.asarray(answers, np.int64)), nn.CrossEntropyLoss()
    return torch.from_numpy(np.asarray(answers, np.float32)), _Known()


class _Known(nn.Module):
    """Cross-entropy of yes and no, where the answer is known."""

    def forward(self, said: Tensor, wanted: Tensor) -> Tensor:
        """Mean over the answers that are known."""
        known = wanted.isfinite()
        each = nn.functional.binary_cross_entropy_with_logits(said, wanted.nan_to_num(), reduction="none")
        return (each * known).sum() / known.sum().clamp(min=1)


def _reduced(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the leading axes of the standardised tokens of the first."""
    rows = train.flatten(0, 1)
    mean, spread = rows.mean(0), rows.std(0)
    spread = torch.where(spread > 1e-6 * spread.max(), spread, torch.ones_like(spread))
    rows = (rows - mean) / spread
    axes = torch.linalg.eigh(rows.T @ rows / len(rows)).eigenvectors[:, -WIDTH:]
    return (rows @ axes).unflatten(0, train.shape[:2]), (test - mean) / spread @ axes
