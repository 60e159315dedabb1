"""A random number is a function of its key alone."""

import numpy as np
import torch

from headwater.streams import numpy_stream, seeded, torch_stream

KEYS = [(), ("a",), ("b",), ("a", 1), ("a", 2), (1, "a"), (1,), ("1",), ("a", "1"), ("a1",), ("a", 1, 2), ("a", 12)]


def test_the_same_key_gives_the_same_numbers():
    for key in KEYS:
        assert np.array_equal(numpy_stream(7, *key).random(5), numpy_stream(7, *key).random(5))
        assert torch.equal(torch.rand(5, generator=torch_stream(7, *key)), torch.rand(5, generator=torch_stream(7, *key)))


def test_every_key_and_seed_has_numbers_of_its_own():
    first = [numpy_stream(seed, *key).integers(2**62) for seed in (0, 1, -1, 2**40) for key in KEYS]
    assert len(set(first)) == len(first)
    states = [torch_stream(seed, *key).initial_seed() for seed in (0, 1, -1, 2**40) for key in KEYS]
    assert len(set(states)) == len(states)


def test_order_and_number_of_other_draws_do_not_matter():
    alone = numpy_stream(0, "step", 5).random(3)
    for step in (9, 2, 5):
        stream = numpy_stream(0, "step", step)
        stream.random(step)
    assert np.array_equal(numpy_stream(0, "step", 5).random(3), alone)


def test_neighbouring_keys_are_not_correlated():
    draws = np.stack([numpy_stream(0, "step", step).standard_normal(2000) for step in range(12)])
    off = np.corrcoef(draws)[~np.eye(12, dtype=bool)]
    assert np.abs(off).max() < 4.5 / np.sqrt(2000)


def test_nobody_touches_the_generators_of_the_process():
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    numpy_stream(0, "x").random(3)
    torch.rand(3, generator=torch_stream(0, "x"))
    with seeded(0, "x"):
        torch.rand(3)
    try:
        with seeded(0, "x"):
            torch.rand(3)
            raise RuntimeError
    except RuntimeError:
        pass
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.random.get_rng_state(), torch_before)


def test_seeded_layers_are_a_function_of_the_key():
    made = []
    for key in ("x", "y", "x"):
        torch.rand(2)  # whatever ran before
        with seeded(0, key):
            made.append(torch.nn.Linear(3, 3).weight)
    assert torch.equal(made[0], made[2]) and not torch.equal(made[0], made[1])
