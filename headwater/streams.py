"""One clock, one seed: every random number is a function of (seed, step, sample, purpose), never of what ran before."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _entropy(seed: int, key: tuple[int | str, ...]) -> int:
    """128 bits from the seed and the whole key, the same on every machine."""
    text = "\x1f".join([str(int(seed)), *(f"{type(k).__name__}:{k}" for k in key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def numpy_stream(seed: int, *key: int | str) -> np.random.Generator:
    """Counter-based generator for this key alone (Philox; Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=_entropy(seed, key)))


def torch_stream(seed: int, *key: int | str) -> "torch.Generator":
    """The same for torch, on the CPU, so that a value does not depend on the device."""
    import torch

    return torch.Generator().manual_seed(_entropy(seed, key) & (2**63 - 1))


@contextmanager
def seeded(seed: int, *key: int | str) -> Iterator[None]:
    """Within it torch's own generator (layers that initialise or drop use it) is this key's; the CPU's is given back."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_entropy(seed, key) & (2**63 - 1))
        yield
