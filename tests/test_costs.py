"""Steps are measured for real, and nothing is begun that does not fit into memory."""

import pytest

from headwater import costs
from headwater.errors import InputError
from headwater.transfer import adapt


def test_measured_on_this_machine(flat, tiny):
    found = costs.measure(flat, tiny(2, "precision=auto", "pretrain.watch=1"), adapt.trainable(flat))
    assert found.precision in found.steps and 0 < found.pretrain <= 1.1 * min(found.steps.values())
    assert set(found.adapt) == set(tiny(2).adapt.arms) and min(found.adapt.values()) > 0
    assert found.test > 0 and found.look > 0 and found.free > found.memory > 0.05 and found.batch == 2
    without = costs.measure(flat, tiny(2), [])
    assert without.adapt == {} and without.test == 0 and without.look == 0 and set(without.steps) == {"fp32"}


class Peak:
    """A made-up machine: the most memory that steps have used."""

    def __init__(self, each: float, fixed: float = 0.5):
        self.each, self.fixed, self.now, self.tried = each, fixed, 1.0, []

    def step(self, batch: int) -> None:
        self.tried.append(batch)
        self.now = max(self.now, 1.0 + self.fixed + self.each * batch)

    def __call__(self) -> float:
        return self.now


def test_the_batch_shrinks_to_what_memory_holds():
    roomy, tight = Peak(0.1), Peak(1.0)
    assert costs.fitting(roomy.step, 16, 20.0, roomy) == 16
    fits = costs.fitting(tight.step, 16, 10.0, tight)
    assert 2 <= fits < 16 and tight.fixed + tight.each * fits <= costs.SAFE * 10.0
    assert roomy.tried == tight.tried == [2]  # the larger one is never tried where it might not fit


def test_what_cannot_fit_is_one_sentence():
    huge = Peak(9.0)
    with pytest.raises(InputError, match="needs more than the 10.0 GiB .* smaller crops"):
        costs.fitting(huge.step, 8, 10.0, huge)

    def burst(batch: int) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    with pytest.raises(InputError, match="needs more than"):
        costs.fitting(burst, 8, 10.0, Peak(1.0))

    def broken(batch: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        costs.fitting(broken, 8, 10.0, Peak(1.0))
