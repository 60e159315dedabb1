"""Masks for new scans: one after the other, each in the geometry of its file, what cannot be read set aside and named.

A scan takes its voxels, once as they are read and once as the network sees them, its mask, and for all scores and probabilities
about `memory` GiB, however many structures there are: tiles are added up slab by slab (tiles.py), and slabs become planes of the
file that are decided and dropped (original.py).
"""

import math
import re
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headwater.device import machine
from headwater.errors import InputError
from headwater.interrupt import Interrupted, wishes
from headwater.progress import Progress, Silent
from headwater.runfolder import private_folder, write_whole
from headwater.scans import resampling, writing
from headwater.scans.layouts import Catalog, Item, one_or_more
from headwater.scans.readers import read
from headwater.scans.ready import Ready, ready
from headwater.scans.scan import Scan, UnreadableError
from headwater.transfer import components, model as models, novelty, original, places, segment, strange, tiles

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Asked:
    """What a call asks for, beside the scans. familiar: what the backbone has seen, None where that is not known."""

    model: models.Trained
    mirror: bool
    memory: float
    probabilities: bool
    format: str
    familiar: novelty.Familiar | None


def predict(
    model: Path | str,
    scans: Path | str,
    out: Path | str,
    *,
    mirror: bool = False,
    memory: float = 2.0,
    probabilities: bool = False,
    format: str = "",
    progress: Progress | None = None,
) -> list[Row]:
    """A mask for every scan, in the geometry of its file and with the values of the masks that were learned from.

    model: a run folder or a segmenter.safetensors. scans: a folder, table or list that `look` reads, or one scan. out: a folder
    outside of the scans; masks lie in it as scans lie in theirs. mirror: the mean over mirrored copies, along the axes that the
    model allows. memory: GiB for scores. probabilities: also of each structure. format: nifti, dicom, png, tiff, else as scans.
    Returns: a row per scan, as in OUT/predictions.json, files named as they may be shown: file, written (None where nothing is)
    and fault, voxels and ml of each structure, novelty, words. A scan that the same model has done is left as it is; a file that
    was not written here, or was changed since, is never replaced.
    Raises: InputError for a model or folder that cannot be used, Interrupted when asked to stop; what is done stays.
    """
    progress, out, scans, file = progress or Silent(), Path(out), Path(scans), Path(model)
    file = file / "adapt" / "segmenter.safetensors" if file.is_dir() else file
    trained = models.load(file)
    catalog = _catalog(scans, out)
    _check(catalog, format)
    known, why = _familiar(file, progress)
    trained.network.to(machine().device)
    asked = Asked(trained, mirror and bool(trained.mirror), memory, probabilities, format, known)
    where, settings = places.Places.of(catalog, private_folder(out)), {"mirror": asked.mirror, "probabilities": probabilities}
    words = ["mirroring was asked for; the model allows it along no axis"] if mirror and not trained.mirror else []
    settings |= {"format": format, "model": places.digest(file), "words": words + ["novelty is not known"] * bool(why)}
    stamp = repr([settings[key] for key in ("model", "mirror", "probabilities", "format")])
    record = places.Record.open(out, stamp, map(where.code, catalog.items), settings)
    for said in [*words, *why]:
        progress.say(said)
    rows = _all(catalog, asked, where, record, progress)
    aside = [_aside(where.shown.name(fault.file), f"{fault.fault}; {fault.remedy}") for fault in catalog.faults]
    record.write(aside)
    return [*rows, *aside]


def _catalog(scans: Path, out: Path) -> Catalog:
    """The scans, of a folder or one. Raises InputError as `understand`, and for an `out` among them."""
    if scans.is_dir() and out.resolve().is_relative_to(scans.resolve()):
        raise InputError(f"{out} lies among the scans, and its masks would be taken for scans: give a folder outside of {scans}.")
    return one_or_more(scans)


def _check(catalog: Catalog, format: str) -> None:
    """Raises InputError for a format that does not exist, or that a library is missing for."""
    if format and format not in writing.KINDS:
        raise InputError(f"Masks cannot be written as {format}: ask for one of {', '.join(writing.KINDS)}, or leave it out.")
    if format == "dicom" or (not format and any(map(places.dicom, catalog.items))):
        from headwater.scans.writing import dicom_seg

        dicom_seg.require()


def _familiar(file: Path, progress: Progress) -> tuple[novelty.Familiar | None, list[str]]:
    """What the backbone of the run that a model belongs to has seen, or why that is not known."""
    run = file.resolve().parent.parent
    if not (run / "state").is_dir():
        return None, []
    try:
        return novelty.familiar(run, progress), []
    except InputError as fault:
        return None, [f"novelty is not known: {fault}"]


def _all(catalog: Catalog, asked: Asked, where: places.Places, record: places.Record, progress: Progress) -> list[Row]:
    """A row for each scan; done ones are taken from the record."""
    rows: list[Row] = []
    with wishes() as stop, progress.track("Predicting", len(catalog.items)) as advance:
        try:
            for item in catalog.items:
                if stop():
                    raise Interrupted(f"Predicting stopped after {len(rows)} of {len(catalog.items)} scans")
                done = record.done(where.code(item), partial(where.target, item), places.mark(item))
                rows.append(
                    done and record.kept(done, partial(where.target, item)) or record.add(_row(item, asked, where, record))
                )
                advance(1, rows[-1]["file"])
        finally:
            record.write()
    return rows


def _aside(name: str, fault: str) -> Row:
    """A row of a file without a mask."""
    return {"file": name, "written": None, "fault": fault, "voxels": {}, "ml": {}, "novelty": None, "words": []}


def _row(item: Item, asked: Asked, where: places.Places, record: places.Record) -> Row:
    """One scan predicted and written, or why it was not."""
    code = where.code(item)
    row = _aside(where.shown.name(item.name), "") | {"id": code, "run": record.stamp, "input": places.mark(item)}
    try:
        return row | _predicted(item, asked, where, record)
    except UnreadableError as fault:
        why = f"{fault.fault}; {fault.remedy}"
    except (InputError, FloatingPointError) as fault:
        why = str(fault)
    except MemoryError:
        why = "needs more memory than there is; give less as memory, or a machine with more"
    return row | {"fault": why}


def _predicted(item: Item, asked: Asked, where: places.Places, record: places.Record) -> Row:
    """What a row says of a scan that was predicted. Raises InputError and FloatingPointError for one that cannot be."""
    trained, task = asked.model, asked.model.task
    scan = _read(item, len(trained.rule.spacing), trained.rule.channels)
    kind = writing.kind_of(scan, asked.format)
    _free(where, record, item, kind)
    prepared = ready(scan, None, trained.rule)
    words = [*scan.notes, *strange.words(scan, prepared, trained.rule, trained.patch)]
    scan = replace(scan, array=np.broadcast_to(np.float32(0), scan.array.shape))  # its voxels are not needed any more
    seen = None if asked.familiar is None else asked.familiar.score(prepared.image)
    with ExitStack() as stack:
        kept = _kept(prepared, task, where.out, stack) if asked.probabilities else None
        classes = components.largest(_decided(prepared, asked, where.out, kept), trained.largest)
        if kept is not None:
            _maps(kept, prepared, asked, scan, where.target(item, kind), kind)
    table = np.array(task.values, writing.number_type(task.values))
    names = dict(zip(task.values[1:], task.names[1:], strict=True))
    kind = _written(table[classes], scan, item, where, record, names, kind, words)
    place = where.target(item, kind)
    counts = np.bincount(classes.reshape(-1), minlength=task.classes)[1:].tolist()
    ml = abs(float(np.linalg.det(scan.affine[:3, :3]))) / 1000 if scan.ndim == 3 and scan.spaced else math.nan
    voxels = dict(zip(task.names[1:], counts, strict=True))
    return {
        "written": where.name(place), "kind": kind, "sum": places.digest(place), "voxels": voxels,
        "ml": {name: round(n * ml, 4) if ml == ml else None for name, n in voxels.items()},
        "novelty": None if seen is None else {"percentile": seen[0], "sentence": seen[1]},
        "words": words,
    }  # fmt: skip


def _read(item: Item, ndim: int, channels: int) -> Scan:
    """A scan with the axes and channels that the model takes. Raises InputError for others."""
    scan = read(item.source)
    if scan.ndim != ndim:
        made = {2: "pictures", 3: "volumes"}
        raise InputError(f"has {scan.ndim} axes, the model was made for {made[ndim]}; give {made[ndim]}")
    if scan.channels == 3 and channels == 1 and (scan.array[0] == scan.array[1]).all() and (scan.array[0] == scan.array[2]).all():
        scan = replace(scan, array=scan.array[:1], notes=(*scan.notes, "grey in three channels: one taken"))
    if scan.channels != channels and (scan.channels, channels) != (1, 3):
        raise InputError(f"has {scan.channels} channels, the model takes {channels}; give the channels it was trained on")
    return scan


def _free(where: places.Places, record: places.Record, item: Item, kind: str) -> None:
    """Raises InputError where the mask would replace a scan, or a file that is not ours."""
    place = where.target(item, kind)
    if place.resolve() in where.inputs:
        raise InputError("its mask would replace a scan; give another folder")
    if why := record.refuses(where.code(item), place):
        raise InputError(why)


def _decided(prepared: Ready, asked: Asked, folder: Path, kept: np.ndarray | None) -> np.ndarray:
    """Classes (*S) on the grid of the file."""
    trained, image = asked.model, prepared.image
    patch = segment.tile(image.shape[1:], trained.patch)
    axis = tiles.longest(image.shape[1:], patch)
    parts = tiles.slabs(
        trained.network, image, patch, channels=trained.task.logits, overlap=trained.overlap, axis=axis, folder=folder,
        mirror=trained.mirror if asked.mirror else (), precision=trained.precision, memory=asked.memory / 2,
    )  # fmt: skip

    def keep(box: tuple[slice, ...], found: np.ndarray) -> None:
        kept[(slice(None), *box)] = found

    take = None if kept is None else keep
    return original.decided(parts, axis, prepared.geometry, trained.task, asked.memory / 2, take)


def _kept(prepared: Ready, task: Any, folder: Path, stack: ExitStack) -> np.ndarray:
    """Room for all probabilities (L, *T) of the crop in half precision, in a file without a name."""
    shape = (task.logits, *(stop - start for start, stop in prepared.geometry.box))
    return np.memmap(stack.enter_context(tempfile.TemporaryFile(dir=folder)), np.float16, "w+", shape=shape)


def _maps(kept: np.ndarray, prepared: Ready, asked: Asked, scan: Scan, place: Path, kind: str) -> None:
    """Probabilities of each structure or region beside the mask: NIfTI, or one .npz for a picture."""
    from headwater.scans.writing import nifti

    task, whole = asked.model.task, original.unscaled(prepared.geometry)
    named = dict(enumerate(task.names)) if not task.regions else dict(enumerate(map(partial(_united, task), task.regions)))
    if not task.regions:
        del named[0]
    stem = place.name.removesuffix(writing.ENDINGS[kind])
    found = ((name, resampling.back(np.asarray(kept[k : k + 1]), whole)[0]) for k, name in named.items())
    if scan.ndim == 2 and kind in ("png", "tiff"):
        arrays = dict(found)
        write_whole(place.with_name(f"{stem}_probabilities.npz"), lambda beside: np.savez_compressed(beside, **arrays))
        return
    for name, one in found:
        clean = re.sub(r"[^\w+-]+", "_", name)
        nifti.write(one, scan, place.with_name(f"{stem}_{clean}_probability.nii.gz"))


def _united(task: Any, region: tuple[int, ...]) -> str:
    """A region's name: those of its classes."""
    return "+".join(task.names[c] for c in region)


def _written(
    mask: np.ndarray, scan: Scan, item: Item, where: places.Places, record: places.Record, names: dict[int, str], kind: str,
    words: list[str],
) -> str:  # fmt: skip
    """Writes the mask; returns its kind. A DICOM series that cannot carry a segmentation gets a NIfTI, and a word."""
    try:
        writing.write(mask, scan, where.target(item, kind), names, kind)
    except UnreadableError as fault:
        if kind != "dicom":
            raise
        kind = "nifti"
        words.append(f"{fault.fault}: written as NIfTI")
        _free(where, record, item, kind)
        writing.write(mask, scan, where.target(item, kind), names, kind)
    return kind
