"""Objectives: Features in, a scalar and its named parts out. One contract for all of them (network.py)."""

from dataclasses import fields

from headwater.errors import InputError
from headwater.objectives.adversary import Adversarial
from headwater.objectives.align import ConsistentViews
from headwater.objectives.contrast import SimpleContrast, nt_xent
from headwater.objectives.decorrelate import Decorrelation
from headwater.objectives.distil import Distillation
from headwater.objectives.gaussian import GaussianEmbedding
from headwater.objectives.latent import LatentPrediction, MaskedLatentPrediction
from headwater.objectives.network import Network, Objective
from headwater.objectives.prototypes import SelfDistillation
from headwater.objectives.reconstruct import Autoencoding, Denoising, MaskedAutoencoding

__all__ = [
    "OBJECTIVES",
    "Adversarial",
    "Autoencoding",
    "ConsistentViews",
    "Decorrelation",
    "Denoising",
    "Distillation",
    "GaussianEmbedding",
    "LatentPrediction",
    "MaskedAutoencoding",
    "MaskedLatentPrediction",
    "Network",
    "Objective",
    "SelfDistillation",
    "SimpleContrast",
    "build",
    "nt_xent",
]

OBJECTIVES = {
    "cva": ConsistentViews,
    "mae": MaskedAutoencoding,
    "ae": Autoencoding,
    "denoise": Denoising,
    "simclr": SimpleContrast,
    "byol": LatentPrediction,
    "jepa": MaskedLatentPrediction,
    "vicreg": Decorrelation,
    "lejepa": GaussianEmbedding,
    "dino": SelfDistillation,
    "distil": Distillation,
    "adversarial": Adversarial,
}


def build(name: str, **options: int | float | str | bool) -> Objective:
    """An objective by its short name, with the options its class has.

    Raises: InputError for a name or an option that does not exist, and for a value of another type.
    """
    if name not in OBJECTIVES:
        raise InputError(f"No objective {name!r}: use one of {', '.join(OBJECTIVES)}.")
    kind = OBJECTIVES[name]
    known = {field.name: field.type for field in fields(kind)}
    for option, value in options.items():
        if option not in known:
            raise InputError(f"The objective {name} has no option {option!r}; it has: {', '.join(known) or 'none'}.")
        wanted = known[option]
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[wanted]
            raise InputError(f"objective.{option} cannot be {value!r}: give {words}, such as {getattr(kind(), option)}.")
    return kind(**options)
