"""What several tests of the flow room follow tokens with."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor


def _follow(
    x: Tensor, times: list[float], step: float, beta: float = 1.0, V=None, Q=None, K=None, space: str = "sphere"
) -> Tensor:
    """States (T, B, N, D) at the times (the first is the start) of x' = softmax(beta Qx Kx) V x, projected on the sphere."""
    d = x.shape[-1]
    value, query, key = (np.eye(d) if A is None else A.numpy() for A in (V, Q, K))
    form, value = beta * query.T @ key, value.T

    def rate(y: np.ndarray) -> np.ndarray:
        logits = y @ form @ y.swapaxes(-1, -2)
        weight = np.exp(logits - logits.max(-1, keepdims=True))
        pull = (weight @ (y @ value)) / weight.sum(-1, keepdims=True)
        return pull - (pull * y).sum(-1, keepdims=True) * y if space == "sphere" else pull

    y, states = x.numpy().copy(), [x.numpy().copy()]
    for start, stop in zip(times, times[1:], strict=False):
        count = max(1, int(np.ceil((stop - start) / step - 1e-9)))
        h = (stop - start) / count
        for _ in range(count):
            a = rate(y)
            b = rate(y + h / 2 * a)
            c = rate(y + h / 2 * b)
            y = y + h / 6 * (a + 2 * b + 2 * c + rate(y + h * c))
            if space == "sphere":
                y = y / np.linalg.norm(y, axis=-1, keepdims=True)
        states.append(y.copy())
    return torch.from_numpy(np.stack(states))


@pytest.fixture(scope="session")
def follow() -> Callable[..., Tensor]:
    """A second, plain implementation of attention in depth-time (numpy, RK4), quick enough for long runs: see _follow."""
    return _follow
