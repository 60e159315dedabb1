"""A sample of a network's weights: have they moved, and is the teacher a network of its own?"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.observe.number import Number, absent

EACH = 256  # entries of a parameter, evenly spaced
MOST = 2**16  # entries in all
ALIAS = 0.5  # of the parameters in common, and the teacher is the student


def sample(network: nn.Module) -> Float[Tensor, "w"]:
    """Entries of the parameters at fixed places, float32 on the CPU."""
    parameters = [p for p in network.parameters() if p.numel() and p.device.type != "meta"]
    each = max(1, min(EACH, MOST // max(1, len(parameters))))
    found = [_some(p, each) for p in parameters]
    return torch.cat(found) if found else torch.zeros(0)


def _some(parameter: Tensor, each: int) -> Tensor:
    flat = parameter.detach()
    flat = (flat.to_local() if hasattr(flat, "to_local") else flat).reshape(-1)
    if not flat.numel():
        return torch.zeros(0)
    places = torch.linspace(0, flat.numel() - 1, min(each, flat.numel())).long()
    return flat[places.to(flat.device)].to("cpu", torch.float32)


def change(now: Float[Tensor, "w"], then: Float[Tensor, "v"] | None) -> Number:
    """Length of the change of the sampled weights over their length at the first look; 0: training does not reach them."""
    how = "the same weights at the first look"
    if then is None:
        return Number(0.0, 0.0, how)
    if now.shape != then.shape or not len(now):
        return absent("the network has other parameters than at the first look", how)
    if not bool(now.isfinite().all()):
        return absent("weights hold NaN or infinity", how)
    return Number(float((now - then).norm() / then.norm().clamp(min=1e-12)), 0.0, how)


def apart(student: nn.Module, teacher: nn.Module) -> Number:
    """Length of the difference of sampled weights of student and teacher, over the student's; of those both have by name.

    0 with words where they share their tensors: a teacher that is the student teaches nothing.
    """
    mine, theirs = dict(student.named_parameters()), dict(teacher.named_parameters())
    both = [name for name in mine if name in theirs and mine[name].shape == theirs[name].shape and mine[name].numel()]
    how = "0: the same weights"
    if not both:
        return absent("student and teacher have no parameters of the same name and shape", how)
    same = sum(mine[name].data_ptr() == theirs[name].data_ptr() for name in both)
    if same > ALIAS * len(both):
        return Number(0.0, 0.0, how, f"{same} of {len(both)} parameters of student and teacher are the same tensors")
    each = max(1, min(EACH, MOST // len(both)))
    a, b = (torch.cat([_some(of[name], each) for name in both]) for of in (mine, theirs))
    return Number(float((a - b).norm() / a.norm().clamp(min=1e-12)), 0.0, how)
