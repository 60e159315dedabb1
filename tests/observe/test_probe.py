"""Nothing stays behind in a model that was looked at."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe.probe import each_tensor, first_images, first_tensor, placed, plain, run, size_of, undisturbed
from tests.observe.specimens import fingerprint, images, worn


def test_state_flags_gradients_and_random_streams_are_given_back_bit_for_bit():
    model = worn()
    before = fingerprint(model)
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        y, _ = model(images())
        assert not y.requires_grad
        torch.rand(3), np.random.random_sample()
    assert fingerprint(model) == before


def test_given_back_after_an_error_too():
    model = worn()
    before = fingerprint(model)
    with pytest.raises(KeyError), undisturbed(model):
        model(images())
        raise KeyError
    assert fingerprint(model) == before


def test_without_it_the_model_would_have_changed():
    """Guards the two tests above: this model does leave traces."""
    model = worn()
    before = fingerprint(model)
    model(images())
    after = fingerprint(model)
    assert {k.split("|")[0] for k in before if before[k] != after[k]} >= {"count", "swapped", "stages.0.1.running_mean", "torch"}


def test_wrappers_are_taken_off():
    inner = nn.Linear(2, 2)
    assert plain(torch.compile(nn.DataParallel(inner))) is inner
    assert plain(inner) is inner


def test_compiled_models_run_uncompiled():
    ran = []

    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            ran.append(torch.compiler.is_compiling())
            return super().forward(x)

    model = nn.Sequential(torch.compile(Counted(2, 2)))
    with undisturbed(model):
        model(torch.ones(1, 2))
    assert ran == [False]


@dataclass(frozen=True)
class Output:
    name: str
    hidden: Tensor


def test_first_tensor_in_any_output():
    x = torch.ones(2)
    for value in (x, (None, x), {"loss": None, "hidden": [x]}, Output("a", x), (torch.ones(2, dtype=torch.long), x)):
        assert first_tensor(value) is x
    assert first_tensor(None) is None and first_tensor(["a", 3]) is None


def test_batches_of_any_form():
    batch = {"ids": torch.arange(6).view(3, 2), "parts": (torch.ones(3, 1), torch.ones(1, 2)), "flag": True}
    few = first_images(batch, 2)
    assert size_of(batch) == 3 and few["flag"] is True
    assert [len(few["ids"]), len(few["parts"][0]), len(few["parts"][1])] == [2, 2, 1]
    assert first_images(torch.ones(5, 3, 2), 2, axis=1).shape == (5, 2, 2)
    assert run(nn.Bilinear(2, 3, 4), (torch.ones(1, 2), torch.ones(1, 3))).shape == (1, 4)
    assert run(nn.Linear(2, 3), {"input": torch.ones(1, 2)}).shape == (1, 3)
    assert each_tensor([1, "a"], lambda x: x * 2) == [1, "a"]


def test_floats_take_the_models_precision_and_ids_stay():
    model = nn.Linear(2, 2).half()
    batch = placed({"x": torch.ones(1, 2), "ids": torch.ones(1, 2, dtype=torch.long)}, model)
    assert batch["x"].dtype == torch.float16 and batch["ids"].dtype == torch.long


@pytest.mark.parametrize("batch", [{}, torch.ones(0, 3), "images"])
def test_an_empty_batch_is_refused(batch):
    with pytest.raises(InputError, match="holds no images"):
        size_of(batch)
