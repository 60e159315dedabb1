"""What any model's frozen features tell of the user's targets, beside the same network untrained, pixels and chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headwater.errors import InputError
from headwater.layerwise import Told, pixels, tell
from headwater.observe.pairs import middle
from headwater.opening import Opened, open_model
from headwater.progress import Progress, Silent
from headwater.scans.fit import fit
from headwater.scans.layouts import Catalog, Item, understand
from headwater.scans.readers import read, read_labels
from headwater.scans.ready import Rule, ready
from headwater.scans.scan import UnreadableError
from headwater.scans.store import Store
from headwater.streams import numpy_stream
from headwater.transfer.frozen import TOKENS
from headwater.transfer.probes.probe import Probed, probe as probed
from headwater.transfer.probes.targets import Target, of_mask, of_table, volumes
from headwater.transfer.scores import interval

MOST = 300  # images
STRUCTURES = 20  # masks with more values number single objects


@dataclass(frozen=True, eq=False)
class Shown:
    """Images as the model takes them, their masks as classes, and what is known of each."""

    arrays: list[np.ndarray]
    masks: list[np.ndarray]
    spacing: list[tuple[float, ...]]
    rows: list[int]
    structures: tuple[str, ...]
    words: list[str]


def probe(
    model: Path | str,
    images: Path | str,
    targets: Path | str | None = None,
    labels: Path | str | None = None,
    classes: bool = False,
    *,
    most: int = MOST,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Reads targets from a model's frozen features, layer by layer, across subjects.

    model: as `opening` opens it; scans for a run are prepared as its own were. images: what `look` takes. targets: a table with
    a column of files or subjects and one for each target (numbers, classes, or labels between |). labels: a folder of masks:
    their structures are told from tokens, their volumes from whole scans. classes: folders or labels in a file are classes.
    Returns: "tasks", each with "name", "kind", "metric", "sentence", "words", what each of "trained", "untrained" and "pixels"
    scored (`Probed.plain`), and "gains" of trained over the others with intervals over subjects; "model", "images", "words".
    Raises: InputError where nothing is asked, and what opening, reading and probing raise.
    """
    progress = progress or Silent()
    if targets is None and labels is None and not classes:
        raise InputError("Nothing is asked of the features: give a table of targets, masks (labels) or classes.")
    opened = open_model(model, seed)
    if opened.reads != "images":
        raise InputError(f"{model} reads text: a probe shows it images.")
    catalog = understand(images, labels, classes=classes)
    asked, words = _asked(catalog, targets, classes)
    chosen = _chosen(catalog.items, asked, labels is not None, most, seed)
    seen = _read(opened, Path(model), catalog, chosen, labels is not None, progress)
    networks = {"trained": opened.model, "untrained": opened.untrained}
    dense = bool(seen.masks)
    told = {n: tell(network, seen.arrays, dense, seed, progress, n) for n, network in networks.items()}
    told["pixels"] = pixels(seen.arrays, told["trained"], dense)
    owners = [catalog.items[i].subject for i in seen.rows]
    tasks = [replace(one, values=one.values[seen.rows]) for one in asked]
    tasks += volumes(seen.masks, seen.spacing, seen.structures) if seen.masks else []
    found = []
    for one in tasks:
        found.append(_task(one, {n: (t.vectors, t.tokens) for n, t in told.items()}, owners, seed))
        progress.say(f"  {found[-1]['sentence']}")
    if dense and told["trained"].dense:
        truth, whose = _truth(seen, told["trained"])
        one = Target("structures", "tokens", truth, seen.structures)
        found.append(_task(one, {n: (t.dense, None) for n, t in told.items()}, [owners[i] for i in whose], seed))
        progress.say(f"  {found[-1]['sentence']}")
    about = {"used": len(seen.arrays), "found": len(catalog.items), "subjects": len(set(owners))}
    return {"model": {"name": opened.name, "words": list(opened.words)}, "images": about, "tasks": found,
            "words": [*words, *seen.words]}  # fmt: skip


def _asked(catalog: Catalog, targets: Path | str | None, classes: bool) -> tuple[list[Target], list[str]]:
    """Targets of all scans of the catalog."""
    asked, words = [], []
    if classes:
        names = tuple(sorted({item.group for item in catalog.items} - {""}))
        places = {name: k for k, name in enumerate(names)}
        asked.append(Target("class", "classes", np.array([places.get(item.group, -1) for item in catalog.items]), names))
    if targets is not None:
        items = catalog.items
        more, words = of_table(Path(targets), [item.name for item in items], [item.subject for item in items])
        asked += more
    return asked, words


def _chosen(items: Sequence[Item], asked: Sequence[Target], masked: bool, most: int, seed: int) -> list[int]:
    """Scans with an answer, at most so many, in a drawn order."""
    known = np.zeros(len(items), bool)
    for one in asked:
        values = one.values.reshape(len(items), -1)
        known |= (values >= 0 if one.kind == "classes" else np.isfinite(values)).any(1)
    if masked:
        known |= np.array([item.mask is not None for item in items])
    return [int(i) for i in numpy_stream(seed, "probe").permutation(len(items)) if known[i]][:most]


def _read(opened: Opened, model: Path, catalog: Catalog, chosen: Sequence[int], masked: bool, progress: Progress) -> Shown:
    """Scans and masks as the model takes them; what cannot be read is left out, with a word."""
    store = Store.open(model / "store") if (model / "store").is_dir() else None
    scans, masks, rows, broken = [], [], [], 0
    with progress.track("Reading", len(chosen)) as advance:
        for i in chosen:
            advance(1)
            item = catalog.items[i]
            if masked and item.mask is None:
                continue
            try:
                scan = read(item.source)
                mask = read_labels(item.mask).array[0] if masked else None
            except UnreadableError:
                broken += 1
                continue
            if not np.isfinite(scan.array).all() or (mask is not None and mask.shape != scan.shape):
                broken += 1
                continue
            scans.append(scan), masks.append(mask), rows.append(i)
    words = (
        [f"{broken} scans cannot be used (unreadable, not finite, or a mask of another size) and are left out"] if broken else []
    )
    if len(scans) < 8:
        raise InputError(f"{len(scans)} scans can be used: a probe needs 8 with an answer at least.{' '.join(words)}")
    values = sorted({int(v) for mask in masks if mask is not None for v in np.unique(mask)} | {0})
    single = len(values) > STRUCTURES
    words += [f"masks have {len(values) - 1} values: taken for single objects, all one structure"] if single else []
    names = ["background", *(["object"] if single else [catalog.label_names.get(v, f"structure {v}") for v in values[1:]])]
    told = {"values": tuple([0, 1] if single else values), "instances": single}
    if store is not None:
        rule = replace(Rule.of(store), ignore=None, **told)
        made = [ready(scan, mask, rule) for scan, mask in zip(scans, masks, strict=True)]
        arrays, spacing = [m.image.astype(np.float32) for m in made], [store.spacing] * len(made)
        masks = [m.label for m in made]
    else:
        arrays, crop, more = fit([scan.array for scan in scans], opened.wants)
        rule, spacing = Rule((), "", "scan", **told), [scan.spacing for scan in scans]
        masks = [None if m is None else _as_shown(rule.classes(m), a.shape[1:]) for m, a in zip(masks, arrays, strict=True)]
        words += [word for word in more if "views of" not in word]
    cuts = [opened.wants.size or _cut(a.shape[1:], opened.wants.stride) for a in arrays]
    arrays = [middle(a, cut) for a, cut in zip(arrays, cuts, strict=True)]
    shown = [middle(m[None], cut)[0].astype(int) for m, cut in zip(masks, cuts, strict=True)] if masked else []
    return Shown(arrays, shown, spacing, rows, tuple(names), words)


def _cut(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """The size itself, or a cube of as many tokens as go through at once."""
    stride = stride or (1,) * len(size)
    side = int(TOKENS ** (1 / len(size)) + 1e-9)
    if np.prod([n / s for n, s in zip(size, stride, strict=True)]) <= TOKENS:
        return tuple(max(n, 2 * s) for n, s in zip(size, stride, strict=True))
    return tuple(max(2 * s, min(n, side * s)) for n, s in zip(size, stride, strict=True))


def _as_shown(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A mask as `fit` changes its image: the middle slice where pictures are wanted, resized by nearest voxels."""
    from scipy.ndimage import zoom

    mask = mask[..., mask.shape[-1] // 2] if mask.ndim > len(size) else mask
    same = mask.shape == tuple(size)
    factors = [b / a for a, b in zip(mask.shape, size, strict=True)]
    return mask if same else zoom(mask, factors, order=0, mode="nearest", grid_mode=True)


def _truth(seen: Shown, told: Told) -> tuple[np.ndarray, list[int]]:
    """Class and image of each row of tokens."""
    truth, whose = [], []
    for i, (mask, grid, chosen) in enumerate(zip(seen.masks, told.grids, told.chosen, strict=True)):
        stride = [-(-n // g) for n, g in zip(mask.shape, grid, strict=True)]
        truth.append(of_mask(mask, grid, stride, len(seen.structures))[chosen])
        whose += [i] * len(chosen)
    return np.concatenate(truth), whose


def _task(target: Target, sources: Mapping[str, tuple], owners: Sequence[str], seed: int) -> dict[str, Any]:
    """One target read from every source, on the same folds; why not, where it cannot be."""
    about = {"name": target.name, "kind": target.kind}
    found: dict[str, Probed] = {}
    try:
        for name, (layers, tokens) in sources.items():
            found[name] = probed(
                layers, target.values, owners, kind=target.kind, names=target.names, tokens=tokens, seed=seed,
            )  # fmt: skip
    except InputError as fault:
        return {**about, "sentence": f"{target.name}: {fault}", "words": [], "gains": []}
    gains = [gain for other in ("untrained", "pixels") for gain in _gains(found["trained"], found[other], other, seed)]
    return {
        **about, "metric": found["trained"].metric, "sentence": _sentence(target.name, found, gains),
        "words": list(found["trained"].words), "gains": gains, **{name: one.plain() for name, one in found.items()},
    }  # fmt: skip


def _gains(trained: Probed, other: Probed, name: str, seed: int) -> list[dict[str, Any]]:
    """Trained less other on the last layer, for every reader both have, with the interval over the same subjects."""
    found = []
    for mine in trained.scores:
        theirs = [s for s in other.scores if (s.method, s.count) == (mine.method, mine.count)]
        if not theirs or mine is not [s for s in trained.scores if (s.method, s.count) == (mine.method, mine.count)][-1]:
            continue
        told = interval(mine.values - theirs[-1].values, seed)
        found.append(
            {"over": name, "method": mine.method, "count": mine.count, "gain": told.mean, "low": told.low, "high": told.high}
        )
    return found


def _sentence(name: str, found: Mapping[str, Probed], gains: Sequence[Mapping[str, Any]]) -> str:
    """Task, score with its interval, what stands beside it, and whether training helped."""
    mine = found["trained"].score().interval
    beside = ", ".join(f"{other} {found[other].score().interval.mean:.2f}" for other in ("untrained", "pixels"))
    over = next(g for g in gains if g["over"] == "untrained" and g["method"] == "linear" and not g["count"])
    chance = found["trained"].chance.interval.mean
    if over["low"] > 0:
        told = "training helped" if mine.low > chance else "better than untrained, but not shown to be above chance"
    else:
        told = "training did harm" if over["high"] < 0 else "no evidence that training helped"
    score = f"{found['trained'].metric} {mine.mean:.2f} ({mine.low:.2f} to {mine.high:.2f})"
    gain = f"{over['gain']:+.2f}, {over['low']:+.2f} to {over['high']:+.2f}"
    return f"{name}: {score}, {beside}, chance {chance:.2f}; {told} ({gain})"
