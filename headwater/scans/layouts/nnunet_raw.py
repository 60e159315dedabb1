"""Writing: any catalog as a raw data set of nnU-Net v2, which it plans and trains on without change."""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headwater.errors import InputError
from headwater.runfolder import private_folder, write_json
from headwater.scans.catalog import subject_of, without_ending
from headwater.scans.layouts.item import Catalog, Item
from headwater.scans.readers import read, read_labels
from headwater.scans.scan import Scan, Source, same_place

_KEPT = ("subject", "session", "group", "split")  # of an item, under "headwater" in dataset.json; nnU-Net leaves that alone


@dataclass(frozen=True)
class _Form:
    """What all files of the data set share: their ending, and the number of each value in the masks."""

    ending: str
    numbers: dict[int, int]

    @property
    def same(self) -> bool:
        """Whether the values of the masks stay as they are."""
        return all(value == number for value, number in self.numbers.items())


def write(catalog: Catalog, folder: Path | str, number: int, name: str) -> Path:
    """Writes folder/DatasetNNN_name, whole or not at all, and returns it. `nnunet.read` gives the same scans back.

    Files that fit are linked (copied where that cannot be), others converted to NIfTI, one file per channel. The values of
    masks are numbered 0, 1, 2, ... as nnU-Net wants it, one to be ignored last. Scans to learn from without a mask go to
    imagesTs, as nnU-Net trains on none such.
    Raises InputError if the name cannot be used, the data set is there already, channels differ or a file cannot be read.
    """
    if not 0 < number < 1000 or not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise InputError(
            f"Dataset {number} {name!r} cannot be named so; give a number from 1 to 999 and a name of letters and digits."
        )
    target = Path(folder) / f"Dataset{number:03d}_{name}"
    if target.exists():
        raise InputError(f"{target} is there already; remove it, or give another number or name.")
    part = private_folder(target.parent) / f".{target.name}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        _fill(catalog, private_folder(part))
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _fill(catalog: Catalog, part: Path) -> None:
    """All files of the data set."""
    names, values = case_names(catalog.items), _values(catalog)
    form = _Form(_ending(catalog.items), {value: i for i, value in enumerate(values)})
    channels, kept, training = 0, {}, 0
    for item, case in zip(catalog.items, names, strict=True):
        train = item.split != "test" and item.mask is not None
        scan = read(item.source)
        if channels and scan.channels != channels:
            raise InputError(
                f"{item.name} has {scan.channels} channels, others have {channels}; nnU-Net wants one number for all."
            )
        channels, training = scan.channels, training + train
        end = "Tr" if train else "Ts"
        _image(scan, form, private_folder(part / f"images{end}"), case)
        if item.mask is not None:
            _mask(item.mask, scan, form, private_folder(part / f"labels{end}") / f"{case}{form.ending}")
        told = {key: getattr(item, key) for key in _KEPT if getattr(item, key)}
        usual = {"subject": subject_of(case) if case.startswith("sub-") else case, "split": "train" if train else "test"}
        told |= {"split": item.split or "train"}
        kept |= {case: more} if (more := {key: value for key, value in told.items() if usual.get(key) != value}) else {}
    labels = {"background": 0} | {catalog.label_names.get(v, f"structure {v}"): n for v, n in form.numbers.items() if n}
    if len(labels) < len(form.numbers):  # two values of one name
        labels = {"background": 0} | {f"{catalog.label_names.get(v, 'structure')} {v}": n for v, n in form.numbers.items() if n}
    write_json(part / "dataset.json", {
        "channel_names": {str(i): text for i, text in enumerate(_channel_names(catalog, channels))},
        "labels": labels, "numTraining": training, "file_ending": form.ending, **({"headwater": kept} if kept else {}),
    })  # fmt: skip


def case_names(items: Sequence[Item]) -> list[str]:
    """A name for each scan, no two alike, of letters nnU-Net knows: its subject where each has one scan, else its path."""
    single = len({item.subject for item in items}) == len(items)
    found: dict[str, int] = {}
    names = []
    for item in items:
        text = item.subject if single else without_ending(item.name.replace("#", "/"))
        case = re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_.") or "case"
        found[case.lower()] = found.get(case.lower(), 0) + 1
        names.append(case if found[case.lower()] == 1 else f"{case}_again{found[case.lower()]}")
    return names


def _channel_names(catalog: Catalog, channels: int) -> list[str]:
    if len(catalog.channel_names) == channels:
        return list(catalog.channel_names)
    kinds = {item.modality for item in catalog.items}
    known = next(iter(kinds)) if len(kinds) == 1 else ""
    return [known or "scan"] if channels == 1 else [f"{known or 'channel'} {i}" for i in range(channels)]


def _values(catalog: Catalog) -> list[int]:
    """Every value in the masks and every value with a name; 0 first, what is to be ignored last."""
    found = {0, *catalog.label_names}
    for item in catalog.items:
        if item.mask is not None:
            found |= {int(value) for value in np.unique(read_labels(item.mask).array)}
    return sorted(found, key=lambda value: (value != 0, catalog.label_names.get(value, "").lower() == "ignore", value))


def _ending(items: Sequence[Item]) -> str:
    """.png if all images and masks are plain .png files, else .nii.gz."""
    sources = [source for item in items for source in (item.source, item.mask) if source is not None]
    pictures = all(len(source.files) == 1 and source.path.suffix.lower() == ".png" for source in sources)
    return ".png" if pictures and all(_plain_picture(item.source.path) for item in items) else ".nii.gz"


def _plain_picture(path: Path) -> bool:
    """Whether a .png holds grey values or three colours, without palette or transparency."""
    from PIL import Image

    with Image.open(path) as picture:
        return picture.mode in ("L", "I;16", "I", "RGB") and "transparency" not in picture.info


def _image(scan: Scan, form: _Form, folder: Path, case: str) -> None:
    """A scan's channels, as they are if their files fit."""
    files = scan.source.files
    if form.ending == ".png":
        _link(files[0], folder / f"{case}_0000.png")
        return
    fits = len(files) == scan.channels and all(_is_volume(file) for file in files)
    for i in range(scan.channels):
        target = folder / f"{case}_{i:04d}{form.ending}"
        if fits:
            _link(files[i], target)
        else:
            _nifti(_exact(scan.array[i], scan.stored), scan.affine, target)


def _mask(source: Source, scan: Scan, form: _Form, target: Path) -> None:
    """A mask, as it is if its file fits and its values stay; else with the affine of its scan where both lie at one place."""
    if form.same and not source.part and len(source.files) == 1:
        if (form.ending == ".png" and _plain_picture(source.path)) or (form.ending != ".png" and _is_volume(source.path)):
            _link(source.path, target)
            return
    mask = read_labels(source)
    kind = np.uint8 if len(form.numbers) <= 256 else np.uint16
    values = np.array(sorted(form.numbers))
    array = np.array([form.numbers[int(v)] for v in values], kind)[np.searchsorted(values, mask.array[0])]
    if form.ending == ".png":
        from PIL import Image

        Image.fromarray(array).save(target)
    else:
        same = mask.shape == scan.shape and same_place(scan.shape, scan.affine, mask.affine)
        _nifti(array, scan.affine if same else mask.affine, target)


def _is_volume(path: Path) -> bool:
    """Whether a file is a .nii.gz with three axes and numbers for voxels."""
    import nibabel

    if not path.name.lower().endswith(".nii.gz"):
        return False
    header = nibabel.load(path).header
    return len(header.get_data_shape()) == 3 and header.get_data_dtype().fields is None


def _exact(array: np.ndarray, stored: str) -> np.ndarray:
    """The array in the type of its file if that holds the values, else float32."""
    try:
        kind = np.dtype(stored)
    except TypeError:
        return array
    if kind.kind not in "iu" or array.min() < np.iinfo(kind).min or array.max() > np.iinfo(kind).max:
        return array
    whole = array.astype(kind)
    return whole if np.array_equal(whole, array) else array


def _nifti(array: np.ndarray, affine: np.ndarray, target: Path) -> None:
    """One channel (*S) as NIfTI; a picture gets a third axis of length 1."""
    import nibabel

    array = array.astype(np.float32) if array.dtype in (np.int64, np.uint64) else array
    nibabel.save(nibabel.Nifti1Image(array if array.ndim == 3 else array[..., None], affine), target)


def _link(file: Path, target: Path) -> None:
    """A second name for a file, or a copy where the disk has no such names."""
    try:
        os.link(os.path.realpath(file), target)
    except OSError:
        shutil.copyfile(file, target)
