"""What a training run is at one step, on disk: one safetensors file, whole or absent, no pickle."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from headwater.errors import InputError
from headwater.runfolder import write_whole


def save(
    path: Path, step: int, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer | None = None, **about: object
) -> Path:
    """Writes every module (parameters and buffers), the optimizer's moments, the step and a few words about them."""
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    if optimizer is not None:
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    header = {"headwater": json.dumps({"step": step, **about})}
    return write_whole(path, lambda beside: save_file(tensors, beside, metadata=header))


def about(path: Path) -> dict:
    """The words beside the tensors: the step, and what `save` was told.

    Raises: InputError when the file is damaged or not Headwater's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})["headwater"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as fault:
        raise InputError(f"{path} is not a whole Headwater state ({fault}). Remove it to start this stage again.") from fault


def load(path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer | None = None) -> int:
    """Puts the saved values into the modules and the optimizer; returns the step.

    Raises: InputError when the file is damaged or names do not match.
    """
    tensors = read(path)
    for name, module in modules.items():
        try:
            module.load_state_dict(under(tensors, f"{name}."))
        except RuntimeError as fault:
            raise InputError(f"{path} holds another network than these settings describe: {fault}") from fault
    if optimizer is not None:
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, moment = key.split(".")
                state.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return about(path)["step"]


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a state by name.

    Raises: InputError when the file is damaged or not Headwater's.
    """
    about(path)
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those below a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
