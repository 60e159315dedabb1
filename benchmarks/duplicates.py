"""Are near-duplicates found, is nothing else found, and what does it cost? Planted copies in real data, as CSV.

Command:  python benchmarks/duplicates.py DATA [--only PART]    (DATA holds hippocampus/, nuclei/, mednist/, pneumoniamnist.npz)
Duration: about fifteen minutes on one core; each part (a set, or growth) adds its rows to the file of the day.
Printed last time: benchmarks/results/duplicates_*.csv, the newest. Every planted kind found in all of 25 hippocampus volumes and
25 nuclei pictures, no pair among the real ones. Processor time: n^0.74 (200 to 3,200 volumes), n^1.15 (to 100,000 pictures).
"""

import argparse
import csv
import io
import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage

from headwater import provenance
from headwater.scans.duplicates import find
from headwater.scans.fingerprint import fingerprint

RESULTS = Path(__file__).parent / "results"
SOURCES, MOST = 25, 600  # scans of each set that are copied in every way; scans among which they are hidden


def decode_volume(path: Path) -> np.ndarray:
    """A NIfTI file as nibabel reads it."""
    import nibabel

    return np.asarray(nibabel.load(path).dataobj, np.float32)[None]


def decode_picture(path: Path) -> np.ndarray:
    """A PNG or JPEG as Pillow reads it, channels first."""
    from PIL import Image

    whole = np.asarray(Image.open(path)).astype(np.float32)
    return whole[None] if whole.ndim == 2 else np.moveaxis(whole, -1, 0)


def sets(data: Path) -> Iterator[tuple[str, Callable[[], list[np.ndarray]]]]:
    """Name of each set and what decodes it."""
    volumes = sorted((data / "hippocampus" / "images").glob("*.nii.gz"))
    yield "hippocampus", lambda: [decode_volume(path) for path in volumes]
    for name, pattern in (("nuclei", "images/*"), ("mednist", "*/*.jpeg")):
        pictures = sorted((data / name).glob(pattern))
        yield name, lambda pictures=pictures: [decode_picture(path) for path in pictures]

    def packed() -> list[np.ndarray]:
        with np.load(data / "pneumoniamnist.npz") as parts:
            return list(np.concatenate([parts[f"{p}_images"] for p in ("train", "val", "test")]).astype(np.float32)[:, None])

    yield "pneumoniamnist", packed


def unit(array: np.ndarray) -> np.ndarray:
    """From 0 to 1."""
    return (array - array.min()) / max(float(np.ptp(array)), 1e-9)


def recompressed(array: np.ndarray) -> np.ndarray:
    """A picture through a JPEG file of quality 75."""
    from PIL import Image

    whole = np.moveaxis(np.rint(unit(array) * 255).astype(np.uint8), 0, -1)
    file = io.BytesIO()
    Image.fromarray(whole[..., 0] if whole.shape[-1] == 1 else whole).save(file, "JPEG", quality=75)
    again = np.asarray(Image.open(file)).astype(np.float32)
    return again[None] if again.ndim == 2 else np.moveaxis(again, -1, 0)


def kinds(array: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Every planted copy of one scan."""
    d = array.ndim - 1
    made = {
        "exact": array.copy(),
        "intensity rescaled": array * 2.7 + 31,
        "gamma 0.7": unit(array) ** 0.7,
        "gamma 1.5": unit(array) ** 1.5,
        "noise of 2 % of the range": unit(array) + rng.normal(scale=0.02, size=array.shape),
        "noise of 5 % of the range": unit(array) + rng.normal(scale=0.05, size=array.shape),
        "cast to uint8": np.rint(unit(array) * 255).astype(np.uint8),
        "resampled 0.75x": np.stack([ndimage.zoom(channel, 0.75, order=1) for channel in array]),
    }
    made |= {f"rolled 1 voxel along axis {axis}": np.roll(array, 1, axis + 1) for axis in range(d)}
    made |= {f"first plane of axis {axis} cut off": np.delete(array, 0, axis + 1) for axis in range(d)}
    whole = np.pad(array, [(0, 0)] + [(1, 0)] * d)
    made["moved 1 voxel along all axes, zeros enter"] = whole[(slice(None), *[slice(0, -1)] * d)]
    for k in range(1, d + 1):
        for flip in itertools.combinations(range(d), k):
            made[f"flipped along {' and '.join(map(str, flip))}"] = np.flip(array, [axis + 1 for axis in flip])
    return made | ({"JPEG quality 75": recompressed(array)} if d == 2 else {})


def planted(name: str, arrays: list[np.ndarray]) -> Iterator[dict[str, object]]:
    """Recall of each kind, all copies of one kind planted into the whole set, with and without the voxels at hand."""
    rng = np.random.default_rng(0)
    varied = [i for i in range(len(arrays)) if np.ptp(arrays[i]) > 0]
    sources = varied[:: max(1, len(varied) // SOURCES)][:SOURCES]
    prints = [fingerprint(array) for array in arrays]
    real = {(p.first, p.second) for p in find(prints).pairs}
    copies = [kinds(arrays[i], rng) for i in sources]
    for kind in copies[0]:
        more = [made[kind] for made in copies]
        every = prints + [fingerprint(copy) for copy in more]
        both = arrays + more
        for voxels in (None, both.__getitem__):
            found = find(every, voxels)
            group_of = {i: group[0] for group in found.groups() for i in group}
            hits = [group_of.get(len(arrays) + k, -1) == group_of.get(i, -2) for k, i in enumerate(sources)]
            other = {p for p in ((p.first, p.second) for p in found.pairs) if max(p) < len(arrays)} - real
            yield {
                "question": "recall", "set": name, "kind": kind, "voxels": "with" if voxels else "without", "n": len(hits),
                "value": round(float(np.mean(hits)), 4), "limit": round(found.limit, 5), "false pairs": len(other),
            }  # fmt: skip


def alone(name: str, arrays: list[np.ndarray]) -> Iterator[dict[str, object]]:
    """Pairs in the set as it is."""
    prints = [fingerprint(array) for array in arrays]
    for voxels in (None, arrays.__getitem__):
        found = find(prints, voxels)
        same = sum(np.array_equal(arrays[p.first], arrays[p.second]) for p in found.pairs)
        shared = {"set": name, "voxels": "with" if voxels else "without", "n": len(arrays), "limit": round(found.limit, 5)}
        yield {"question": "pairs, all", **shared, "value": len(found.pairs)}
        yield {"question": "pairs, not equal voxel by voxel", **shared, "value": len(found.pairs) - same}
        yield {"question": "similarity of the closest other pair", **shared, "value": round(found.closest, 5)}
        yield {"question": "similarity below which 99.9 % of random pairs are", **shared, "value": round(found.null, 5)}


def speed(name: str, decode: Callable[[], list[np.ndarray]]) -> Iterator[dict[str, object]]:
    """Processor milliseconds per scan to decode, to fingerprint and to search; the best of three."""
    taken: dict[str, list[float]] = {"decode": [], "fingerprint": [], "find": []}
    for _ in range(3):
        start = time.process_time()
        arrays = decode()
        read = time.process_time()
        prints = [fingerprint(array) for array in arrays]
        made = time.process_time()
        find(prints)
        parts = (read - start, made - read, time.process_time() - made)
        for key, seconds in zip(taken, parts, strict=True):
            taken[key].append(1e3 * seconds / len(arrays))
    for key, each in taken.items():
        yield {"question": f"ms per scan, {key}", "set": name, "n": len(arrays), "value": round(min(each), 4)}


def growth(name: str, sizes: list[int], make: Callable[[int], list[np.ndarray]]) -> Iterator[dict[str, object]]:
    """Processor seconds of a search at several sizes (others may use the machine), and the slope of their logarithms."""
    seconds = []
    for n in sizes:
        prints = make(n)
        start = time.process_time()
        found = find(prints)
        seconds.append(time.process_time() - start)
        yield {
            "question": "processor seconds to search",
            "set": name,
            "n": n,
            "value": round(seconds[-1], 3),
            "false pairs": len(found.pairs),
        }
    slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    yield {"question": "slope of log seconds over log n", "set": name, "n": sizes[-1], "value": round(slope, 3)}


def deformed(arrays: list[np.ndarray]) -> Callable[[int], list[np.ndarray]]:
    """n fingerprints of scans that look real and are none: each bent by a smooth random field of its own."""

    def make(n: int) -> list[np.ndarray]:
        found = []
        for k in range(n):
            whole, rng = arrays[k % len(arrays)][0], np.random.default_rng(k)
            if k < len(arrays):
                found.append(fingerprint(whole[None]))
                continue
            coarse = rng.normal(scale=3.0, size=(whole.ndim, *[4] * whole.ndim))
            bend = [ndimage.zoom(c, np.divide(whole.shape, 4), order=1) for c in coarse]
            found.append(
                fingerprint(ndimage.map_coordinates(whole, np.indices(whole.shape) + bend, order=1, mode="nearest")[None])
            )
        return found

    return make


def smooth(n: int) -> list[np.ndarray]:
    """n fingerprints of smooth random pictures."""
    made = []
    for start in range(0, n, 5000):
        rng = np.random.default_rng(start)
        fields = ndimage.gaussian_filter(rng.standard_normal((min(5000, n - start), 32, 32), np.float32), (0, 2, 2))
        made += list((fields / fields.std()).astype(np.float16))
    return made


def main() -> None:
    """Measures and writes the dated CSV."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("data", type=Path)
    asked.add_argument("--only", help="one of the sets, or growth")
    given = asked.parse_args()
    machine = f"{os.cpu_count()} cores {platform.system()} {platform.machine()}"
    about = {"commit": provenance.commit()[:12], "date": time.strftime("%Y-%m-%d"), "machine": machine}
    path = RESULTS / f"duplicates_{time.strftime('%Y-%m-%d')}.csv"
    keys = ["question", "set", "kind", "voxels", "n", "value", "limit", "false pairs", *about]
    with open(path, "a", newline="") as file:
        table = csv.DictWriter(file, keys, restval="")
        if not path.stat().st_size:
            table.writeheader()
        for row in rows(given.data, given.only):
            table.writerow({**row, **about})
            file.flush()
    print(path.read_text())


def rows(data: Path, only: str | None) -> Iterator[dict[str, object]]:
    """Every figure, or those of one part."""
    for name, decode in sets(data):
        if only in (None, name):
            arrays = decode()
            yield from speed(name, decode)
            yield from alone(name, arrays)
            yield from planted(name, arrays[:: 1 + len(arrays) // MOST])
    if only in (None, "growth"):
        volumes = next(decode for name, decode in sets(data) if name == "hippocampus")()
        yield from growth("hippocampus, bent", [200, 800, 3200], deformed(volumes))
        yield from growth("smooth random pictures", [6250, 25_000, 100_000], smooth)


if __name__ == "__main__":
    main()
