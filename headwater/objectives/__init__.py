"""Objectives: Features in, a scalar and its named parts out. One contract for all of them (network.py)."""

from headwater.errors import InputError
from headwater.objectives.align import ConsistentViews
from headwater.objectives.contrast import nt_xent
from headwater.objectives.network import Network, Objective
from headwater.objectives.reconstruct import MaskedAutoencoding

__all__ = ["OBJECTIVES", "ConsistentViews", "MaskedAutoencoding", "Network", "Objective", "build", "nt_xent"]

OBJECTIVES = {"cva": ConsistentViews, "mae": MaskedAutoencoding}


def build(name: str, **options: int | float) -> Objective:
    """An objective by its short name, with the options its class has.

    Raises: InputError for a name or an option that does not exist.
    """
    if name not in OBJECTIVES:
        raise InputError(f"No objective {name!r}: use one of {', '.join(OBJECTIVES)}.")
    kind = OBJECTIVES[name]
    known = list(kind.__dataclass_fields__)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(f"The objective {name} has no option {unknown[0]!r}; it has: {', '.join(known) or 'none'}.")
    return kind(**options)
