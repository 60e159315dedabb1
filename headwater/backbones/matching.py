"""Weights into a backbone, name by name, and the account of it: what matched, what is missing, what was left over."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from headwater.backbones.features import Backbone, by
from headwater.errors import InputError


@dataclass(frozen=True, eq=False)
class Part:
    """Values of one of our parameters, the foreign names they came from, and what was done to them (empty: nothing)."""

    tensor: Tensor
    names: tuple[str, ...]
    how: str = ""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A backbone with others' weights, and the account of every name. Prints as a report.

    matched     our names, and the foreign ones each came from
    missing     our names that the file has nothing for: they keep their random start (a function of the shapes alone)
    unexpected  foreign names, and entries that are no weights, that the backbone has no use for
    reshaped    our names, and what was done to their values in words
    source      whose weights these are
    """

    backbone: Backbone
    matched: dict[str, tuple[str, ...]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: dict[str, str]
    source: str

    def __str__(self) -> str:
        taken = sum(len(names) for names in self.matched.values())
        total = len(self.matched) + len(self.missing)
        values = sum(value.numel() for value in self.backbone.state_dict().values())
        lines = [
            f"{self.source}: {type(self.backbone).__name__} {self.backbone.ndim}D, {self.backbone.channels} channels, "
            f"{self.backbone.dim} wide, {values:,} values",
            f"matched: {len(self.matched)} of {total} parameters, from {taken} entries of the file",
        ]
        changed = [f"{name}: {how}" for name, how in sorted(self.reshaped.items())]
        for what, names in (
            ("reshaped", changed),
            ("missing (random start)", self.missing),
            ("unexpected (not used)", self.unexpected),
        ):
            lines += [f"{what}: {len(names) or 'none'}", *(f"  {name}" for name in names)]
        return "\n".join(lines)


@torch.no_grad()
def fill(backbone: Backbone, parts: Mapping[str, Part], unexpected: tuple[str, ...], source: str) -> Loaded:
    """Copies every part into the backbone's parameter of that name, in the precision of the backbone.

    A bias the file lacks beside a weight it has becomes zero: the network it came from had none.
    Raises: InputError where shapes differ, values are not finite, or nothing matches.
    """
    own = backbone.state_dict()
    spare = {theirs for name, part in parts.items() if name not in own for theirs in part.names}
    parts = {name: part for name, part in parts.items() if name in own}
    unexpected = (*unexpected, *(spare - {theirs for part in parts.values() for theirs in part.names}))
    if not parts:
        raise InputError(f"{source}: not one name of the file belongs to the network; is it a checkpoint of an encoder?")
    reshaped = {name: part.how for name, part in parts.items() if part.how}
    for name, part in parts.items():
        if part.tensor.shape != own[name].shape:
            raise InputError(
                f"{' + '.join(part.names)} is {by(part.tensor.shape)} where the network needs {by(own[name].shape)}: "
                "the weights and the settings of this checkpoint contradict each other, use files that belong together"
            )
        if not torch.isfinite(part.tensor).all():
            raise InputError(f"{' + '.join(part.names)} has values that are not finite: use another checkpoint of this training")
        own[name].copy_(part.tensor)
    for name in own.keys() - parts.keys():
        if name.endswith(".bias") and name.removesuffix("bias") + "weight" in parts:
            own[name].zero_()
            reshaped[name] = "zero, as the file has no such bias"
    matched = {name: part.names for name, part in parts.items()}
    missing = tuple(sorted(own.keys() - parts.keys() - reshaped.keys()))
    return Loaded(backbone, matched, missing, tuple(sorted(unexpected)), reshaped, source)
