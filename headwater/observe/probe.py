"""Runs a model on a probe batch without leaving a trace in it: any wrapper, any form of batch and output."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from sys import modules as loaded
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headwater.errors import InputError


def plain(model: nn.Module) -> nn.Module:
    """The module within what torch.compile, DataParallel and DistributedDataParallel put around it."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        else:
            return model


def first_tensor(value: Any) -> Tensor | None:
    """The first floating tensor in a tensor, tuple, list, dict or dataclass of them, depth first."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, (tuple, list)):
        parts = list(value)
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module):
        parts = [part for name, part in vars(value).items() if isinstance(part, (Tensor, tuple, list))]
    else:
        return None
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)


def each_tensor(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The batch with every tensor changed; mappings become dicts."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {name: each_tensor(part, change) for name, part in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(each_tensor(part, change) for part in batch)
    return batch


def size_of(batch: Any, axis: int = 0) -> int:
    """Images in the batch: length of its first tensor along `axis`. Raises InputError without one."""
    sizes: list[int] = []
    each_tensor(batch, lambda x: sizes.append(x.shape[axis]) or x if x.ndim > axis else x)
    if not sizes or not sizes[0]:
        raise InputError(
            f"the probe batch holds no images: give tensors (or a dict or tuple of them) with images along axis {axis}"
        )
    return sizes[0]


def first_images(batch: Any, count: int, axis: int = 0) -> Any:
    """The batch of the first images alone; tensors that are not one per image stay."""
    images = size_of(batch, axis)
    return each_tensor(batch, lambda x: x.narrow(axis, 0, min(count, images)) if x.ndim > axis and x.shape[axis] == images else x)


def placed(batch: Any, model: nn.Module) -> Any:
    """The batch on the device of the model's first parameter, floats in its precision."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is None:
        return batch
    return each_tensor(batch, lambda x: x.to(like.device, like.dtype if x.is_floating_point() else x.dtype))


def run(model: nn.Module, batch: Any) -> Any:
    """model(batch); a dict as keywords, a tuple or list as arguments."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Within it the model is in eval mode, without gradients and compilation; after it, everything is as it was.

    Given back: every module's train flag, every buffer (values and identity), torch's random states (CPU and the model's
    devices), numpy's and Python's.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, value, None if value is None else value.detach().clone())
        for module in model.modules()
        for name, value in module._buffers.items()
    ]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    numpys, pythons = np.random.get_state(), random.getstate()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device.index for device in devices]))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in loaded:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for module, name, value, before in buffers:
                module._buffers[name] = value
                if value is not None:
                    with torch.no_grad():
                        value.copy_(before)
            np.random.set_state(numpys)
            random.setstate(pythons)


def kept(x: Tensor) -> Tensor:
    """A float32 copy on the CPU, out of reach of what is done in place later."""
    return x.detach().to("cpu", torch.float32, copy=True)
