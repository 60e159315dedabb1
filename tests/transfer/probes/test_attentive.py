"""The attentive probe finds the token that carries the answer, where the mean of the tokens does not show it."""

import numpy as np
import pytest
import torch

from headwater.transfer.probes.attentive import Pool, attentive


def needle(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One token of 30 is marked along axis 0 and says yes or no along axis 1; the others say anything there."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, 30, 6)), rng.integers(0, 2, n)
    marked = rng.integers(0, 30, n)
    x[np.arange(n), marked, 0] = 6
    x[np.arange(n), marked, 1] = 3.0 * (2 * y - 1)
    return x.astype(np.float32), y


def test_it_looks_at_the_marked_token():
    (x, y), (there, truth) = needle(300, 0), needle(100, 1)
    said = attentive(x, y, there, 2, 0)
    assert (said.argmax(1) == truth).mean() > 0.85 and said.sum(1) == pytest.approx(1, abs=1e-5)
    both = np.stack([y, 1.0 - y], 1)
    both[::5, 1] = np.nan
    assert ((attentive(x, both, there, 2, 0) > 0.5) == np.stack([truth, 1 - truth], 1)).mean() > 0.85


def test_numbers_keep_their_units():
    (x, y), (there, truth) = needle(400, 2), needle(200, 3)
    said = attentive(x, 1000.0 + 50 * y, there, 0, 0)[:, 0]
    assert np.corrcoef(said, truth)[0, 1] > 0.7 and abs(said.mean() - 1025) < 10


def test_where_nothing_is_to_be_found_it_answers_the_mean():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 20, 30)).astype(np.float32), rng.standard_normal(40)
    said = attentive(x[:30], y[:30], x[30:], 0, 0)[:, 0]
    assert np.abs(said - y[:30].mean()).max() < 1.0


def test_the_same_seed_gives_the_same_answers():
    x, y = needle(40, 0)
    assert (attentive(x, y, x, 2, 5) == attentive(x, y, x, 2, 5)).all()


def test_queries_of_zero_are_the_mean():
    pool = Pool(6, 2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        pool.queries.zero_()
        pool.read.weight.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(pool(x), x.mean(1).repeat(1, 4) @ pool.read.weight.T)
