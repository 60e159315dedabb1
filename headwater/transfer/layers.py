"""Which layer of a backbone each parameter belongs to, for rates that fall from the last to the first."""

import re

from torch import nn

LISTS = re.compile(r"(?:^|\.)(stages|entries|merges|norms|blocks)\.(\d+)\.")  # what backbones call their parts
FIRST = (
    "stem",
    "embed",
    "hidden",
    "stack.positions",
    "stack.registers",
    "vit.embed",
    "vit.stack.positions",
    "vit.stack.registers",
)
LATER = {"merges": 1, "entries": 1}  # what leads to a stage belongs to it


def depths(backbone: nn.Module) -> dict[str, int]:
    """By parameter: 0 for what comes before any stage or block, then 1, 2 ...; blocks of a hybrid come after its stages.

    A stage without parameters is none. What stands in no list (a last norm) belongs to the last.
    """
    placed = {name: _place(name) for name, _ in backbone.named_parameters()}
    there = sorted({p for p in placed.values() if p}, key=lambda p: (p[0] == "blocks", p[1]))
    number = {p: i for i, p in enumerate(there, start=1)}
    return {n: number[p] if p else 0 if n.startswith(FIRST) else len(there) for n, p in placed.items()}


def _place(name: str) -> tuple[str, int] | None:
    """("stages", 2) or ("blocks", 5); None for what stands in no list."""
    if (found := LISTS.search(name)) is None:
        return None
    kind, number = found[1], int(found[2])
    return ("blocks", number) if kind == "blocks" else ("stages", number + LATER.get(kind, 0))


def shares(backbone: nn.Module, decay: float) -> dict[str, float]:
    """By parameter: `decay` to the number of layers that come after its own."""
    found = depths(backbone)
    last = max(found.values(), default=0)
    return {name: decay ** (last - depth) for name, depth in found.items()}
