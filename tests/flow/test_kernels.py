"""Head kernels against loops in numpy; masks; overflow."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit

from headwater.flow.kernels import KERNELS, attend, visible, weigh


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(q, k, beta, kernel, normalised, see):
    """Weights of one head, from the definitions, one pair at a time."""
    n = len(q)
    out = np.zeros((n, n))
    for i in range(n):
        count = see[i].sum()
        for j in range(n):
            if not see[i, j]:
                continue
            s = q[i] @ k[j]
            if kernel == "softmax":
                out[i, j] = math.exp(beta * s)
            elif kernel == "cosine":
                out[i, j] = math.exp(beta * s / np.linalg.norm(q[i]) / np.linalg.norm(k[j]))
            elif kernel == "sigmoid":
                out[i, j] = expit(beta * s - math.log(count))
            elif kernel == "relu":
                out[i, j] = max(beta * s, 0) / count
            else:
                phi = [np.where(z > 0, z + 1, np.exp(np.minimum(z, 0))) for z in (math.sqrt(beta) * q[i], math.sqrt(beta) * k[j])]
                out[i, j] = phi[0] @ phi[1]
        if kernel in ("softmax", "cosine", "linear"):
            out[i] /= out[i].sum() if normalised else count
    return out


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("mask", [None, "causal", 2, "tensor"])
def test_weights_are_those_of_the_definition_on_every_path(kernel, normalised, mask):
    q, k, v = drawn(0, 2, 3, 7, 4), drawn(1, 2, 3, 7, 4), drawn(2, 2, 3, 7, 5)
    place = np.arange(7)
    see = {None: np.ones((7, 7), bool), "causal": place[:, None] >= place, 2: abs(place[:, None] - place) <= 2}
    see["tensor"] = (np.random.default_rng(0).random((7, 7)) < 0.5) | np.eye(7, dtype=bool)
    given = torch.from_numpy(see["tensor"]) if mask == "tensor" else mask
    expected = by_loops(q[1, 2].numpy(), k[1, 2].numpy(), 1.7, kernel, normalised, see[mask])
    options = {"beta": 1.7, "kernel": kernel, "normalised": normalised, "mask": given}
    assert np.abs(weigh(q, k, **options)[1, 2].numpy() - expected).max() < 1e-13 * max(1, expected.max())
    for fused in (True, False):
        out = attend(q, k, v, **options, fused=fused)[1, 2].numpy()
        assert np.abs(out - expected @ v[1, 2].numpy()).max() < 1e-13 * max(1, expected.max())


def test_large_beta_needs_no_exponential_when_normalised_and_is_refused_when_not():
    q = torch.nn.functional.normalize(drawn(0, 1, 1, 6, 3), dim=-1)
    for fused in (True, False):
        assert torch.allclose(attend(q, q, q, beta=1e6, fused=fused), q)  # each sees itself only
    with pytest.raises(ValueError, match=r"largest usable beta here is 708") as error:
        weigh(q, q, beta=1e4, normalised=False)
    usable = float(str(error.value).split("here is ")[1].split(";")[0])
    assert torch.isfinite(weigh(q, q, beta=usable * 0.9999, normalised=False)).all()
    with pytest.raises(ValueError, match=r"torch.float32 at beta=100.*largest usable beta here is 87"):
        weigh(q.float(), q.float(), beta=100.0, normalised=False)


def test_negative_beta_repels_in_the_weights():
    q = drawn(0, 1, 1, 5, 3)
    expected = (-0.7 * q @ q.transpose(-1, -2)).softmax(-1) @ q
    assert torch.allclose(attend(q, q, q, beta=-0.7), expected, atol=1e-14)


def test_a_mask_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="bool"):
        visible(4, torch.ones(3, 3, dtype=torch.bool), torch.device("cpu"))
    with pytest.raises(ValueError, match="bool"):
        visible(4, torch.ones(4, 4), torch.device("cpu"))
