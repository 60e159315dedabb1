"""How a scan is unlike those a model learned from, as far as its header and its voxels say at a glance."""

from collections.abc import Sequence

import numpy as np

from headwater.scans.ready import Ready, Rule
from headwater.scans.resampling import direction
from headwater.scans.scan import Scan

FAR = 3.0  # times finer or coarser than the spacing learned from
OUTSIDE = 0.95  # share of voxels beyond the intensities learned from
_MOST = 1 << 18  # voxels looked at


def words(scan: Scan, prepared: Ready, rule: Rule, patch: Sequence[int]) -> list[str]:
    """A sentence for each thing that is far off: spacing, orientation, size, intensities; none for a usual scan."""
    return [said for said in (_spacing(scan, rule), _place(scan, rule), _size(prepared, patch), _values(scan, rule)) if said]


def _spacing(scan: Scan, rule: Rule) -> str:
    if not scan.spaced:
        return "states no spacing: taken as that of the model" if rule.orientation else ""
    way = direction(scan.orientation, rule.orientation)
    own = [scan.spacing[axis] for axis in way[0]] if way else list(scan.spacing)
    ratios = [a / b for a, b in zip(own, rule.spacing, strict=True)]
    if not rule.orientation or max(max(ratios), 1 / min(ratios)) < FAR:
        return ""
    wide = f", {max(own) / min(own):.0f} times as long as wide" if max(own) / min(own) >= FAR else ""
    return f"voxels of {_by(own)} mm{wide}: the model learned from {_by(rule.spacing)} mm"


def _place(scan: Scan, rule: Rule) -> str:
    if rule.orientation and direction(scan.orientation, rule.orientation) is None:
        return f"its orientation is not stated: taken as {rule.orientation}, as it lies"
    return ""


def _size(prepared: Ready, patch: Sequence[int]) -> str:
    size = prepared.geometry.size
    if all(2 * n >= p for n, p in zip(size, patch, strict=True)):
        return ""
    return f"fills {_by(size)} voxels of the {_by(patch)} that the model sees at once: padded"


def _values(scan: Scan, rule: Rule) -> str:
    for channel, window in zip(scan.array, rule.fixed, strict=False):
        flat = channel.reshape(-1)
        flat = flat[:: flat.size // _MOST + 1]
        share = float(np.mean(~((flat > window.low) & (flat < window.high))))
        if share >= OUTSIDE:
            return f"{100 * share:.0f} % of its voxels lie beyond the intensities that the model learned from"
    if float(scan.array.min()) == float(scan.array.max()):
        return "holds one value only"
    return ""


def _by(numbers: Sequence[float]) -> str:
    return " x ".join(f"{n:.3g}" for n in numbers)
