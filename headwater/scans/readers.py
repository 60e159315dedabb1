"""Files on disk to scans, whatever their format; every fault is one sentence with its remedy."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

from headwater.scans.formats import AGAIN, arrays, itk, nifti, pictures, tiff
from headwater.scans.scan import Scan, Source, UnreadableError, same_place

__all__ = ["COMPANIONS", "SUFFIXES", "UnreadableError", "looks_like", "read", "read_labels"]

_OURS = (nifti, pictures, tiff, arrays, itk)  # and DICOM, whose modules are opened when a file asks for them
_DICOM = (".dcm", ".dicom", ".ima")
SUFFIXES = (*(suffix for form in _OURS for suffix in form.SUFFIXES), *_DICOM)
COMPANIONS = (*nifti.COMPANIONS, *itk.COMPANIONS)  # voxels whose header is another file beside them: not scans by themselves
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", pictures), (b"\xff\xd8\xff", pictures), (b"BM", pictures), (b"RIFF", pictures),
    (b"II*\0", tiff), (b"MM\0*", tiff), (b"II+\0", tiff), (b"MM\0+", tiff), (b"\x93NUMPY", arrays), (b"PK\3\4", arrays),
    (b"NRRD000", itk), (b"ObjectType", itk), (b"\x1f\x8b", nifti), (b"\x5c\1\0\0", nifti), (b"\0\0\1\x5c", nifti),
    (b"\x1c\2\0\0", nifti), (b"\0\0\2\x1c", nifti), (b"\0\0\0\1\0\0", nifti),
)  # fmt: skip


def looks_like(path: Path | str) -> bool:
    """Whether a file is one of those that `read` is for: by its suffix, or by its first bytes if it has none.

    What follows a dot in the names of DICOM files that are called by their number (1.2.840.113) is no suffix.
    Hidden files (.DS_Store, ._scan.nii.gz) are none; nor is the second file of a pair (.img, .raw).
    """
    path = Path(path)
    name = path.name.lower()
    if name.startswith("."):
        return False
    if name.endswith(SUFFIXES):
        return True
    return not _has_suffix(path) and path.is_file() and _by_content(path) is not None


def read(place: Source | Path | str) -> Scan:
    """One scan: array (C, *S) float32 as the file scales it, spacing and affine in mm, the file's own order of axes.

    Several files are the channels of one scan, in their order (of DICOM: the files of one series).
    Raises UnreadableError for a file that is missing, empty, cut off, damaged or of no known format, for one whose
    voxels cannot be used (complex, nested, larger than the limit) and for one without a single finite value.
    """
    return _whole(Source.of(place), masks=False)


def read_labels(place: Source | Path | str) -> Scan:
    """One mask: array (1, *S) of whole numbers (int32), one per voxel; geometry as in `read`.

    Masks stored as floats pass if every value is a whole number to 1e-3; of pictures with a palette the indices are
    taken; segmentations in DICOM become one number per segment.
    Raises UnreadableError as `read` does, and for fractions, NaN, negative numbers and more than one channel.
    """
    scan = _whole(Source.of(place), masks=True)
    if scan.channels != 1:
        fault, remedy = f"is a mask with {scan.channels} channels", "write one whole number per voxel instead of one channel"
        if scan.format in ("PNG", "JPEG", "BMP", "WebP", "TIFF"):
            fault, remedy = "is a mask in colour", "save one grey channel that holds the number of the structure"
        raise UnreadableError(scan.source, fault, f"{remedy} per structure" if remedy.endswith("channel") else remedy)
    values = scan.array
    if values.dtype.kind == "f":
        values = np.rint(values)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(scan.array - values) <= 1e-3)  # NaN counts as wrong
        if wrong.any():
            fault = f"is a mask with values that are not whole numbers ({scan.array[wrong].flat[0]:g} for one)"
            raise UnreadableError(scan.source, fault, "save it with nearest-neighbour resampling and an integer type")
    if values.min() < 0 or values.max() >= 2**24:  # float32 counts no further
        fault = f"is a mask with values from {values.min():g} to {values.max():g}"
        raise UnreadableError(scan.source, fault, "number structures 1, 2, 3 and leave the rest 0")
    if scan.format == "JPEG" and np.unique(values).size > 2:
        raise UnreadableError(scan.source, "is a mask saved as JPEG, which changes its numbers", "save it as PNG")
    return replace(scan, array=values.astype(np.int32))


def _whole(source: Source, masks: bool) -> Scan:
    """The scan of one file, of a DICOM series, or of several files with one channel or more each."""
    for path in source.files:
        if not path.is_file():  # a pipe or a device would be waited for without end
            fault = "cannot be opened (it is not a file)" if path.exists() else "cannot be opened (it is not there)"
            raise UnreadableError(path, fault, "check its name and its permissions")
    form = _format(source.path)
    dicom = form.__name__.endswith((".dicom", ".segmentation"))
    if source.part and not (form is arrays or dicom):
        raise UnreadableError(source, "is not made of parts", "name the file alone")
    if len(source.files) == 1 or dicom:
        return _decode(form, source, masks)
    scans = [_decode(_format(path), Source((path,), source.part), masks) for path in source.files]
    first = scans[0]
    for scan in scans[1:]:
        if scan.shape != first.shape:
            fault = f"has {scan.shape} voxels where {first.source.path.name} has {first.shape}"
            raise UnreadableError(scan.source, fault, "bring all channels of a scan to one grid")
        if not same_place(first.shape, first.affine, scan.affine):
            fault = f"lies at another place than {first.source.path.name}"
            raise UnreadableError(scan.source, fault, "bring all channels of a scan to one grid")
    array = np.concatenate([scan.array for scan in scans])
    stored, formats = ("/".join(dict.fromkeys(getattr(s, name) for s in scans)) for name in ("stored", "format"))
    notes = tuple(dict.fromkeys(note for scan in scans for note in scan.notes))
    return replace(first, array=array, source=source, stored=stored, format=formats, notes=notes)


def _decode(form: ModuleType, source: Source, masks: bool) -> Scan:
    """What one format makes of its file, with every way to fail turned into a sentence."""
    try:
        if masks and form.__name__.endswith(".dicom"):
            form = _dicom_mask(source.path)
        with np.errstate(all="ignore"):  # what damaged headers make overflow is checked afterwards
            scan = form.read(source, indices=True) if masks and form in (pictures, tiff) else form.read(source)
    except UnreadableError:
        raise
    except OSError as error:
        fault = f"cannot be read ({error.strerror or type(error).__name__})"
        raise UnreadableError(source, fault, AGAIN) from None
    except Exception as error:  # damaged files bring any type out of the libraries; their texts may quote the file
        name = type(error).__name__
        name = f"{type(error).__module__}.{name}" if name == "error" else name  # struct.error, zlib.error
        raise UnreadableError(source, f"cannot be decoded ({name})", AGAIN) from None
    if not np.isfinite(scan.array.flat[0]) and not np.isfinite(scan.array).any():
        raise UnreadableError(source, "has no finite value (all NaN or infinite)", "export it again, or leave it out")
    return scan


def _dicom_mask(path: Path) -> ModuleType:
    """The module for a DICOM file that is given as a mask: a segmentation, or slices that hold numbers."""
    from headwater.scans.formats import dicom, dicom_header, segmentation

    with dicom_header.quiet():
        head = dicom_header.head(path)
        named = dicom_header.text(head, "modality") == "SEG" or dicom_header.kind(head).startswith(("Segmentation", "Label Map"))
    return segmentation if named else dicom


def _has_suffix(path: Path) -> bool:
    """Whether a name ends in something that says what is inside."""
    suffix = path.suffix[1:]
    return bool(suffix) and not suffix.isdigit()


def _format(path: Path) -> ModuleType:
    """The module that reads a file: by its suffix, else by its first bytes."""
    name = path.name.lower()
    for form in _OURS:
        if name.endswith((*form.SUFFIXES, *getattr(form, "COMPANIONS", ()))):
            return form
    if name.endswith(_DICOM):
        from headwater.scans.formats import dicom

        return dicom
    form = _by_content(path)
    if form is None:
        remedy = "convert it to NIfTI, DICOM, TIFF, PNG or .npy, or leave it out"
        raise UnreadableError(path, "is of no known format", remedy)
    return form


def _by_content(path: Path) -> ModuleType | None:
    """The module that reads a file that starts with these bytes; None where there is none."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise UnreadableError(path, f"cannot be opened ({error.strerror})", "check its name and its permissions") from None
    for magic, form in _MAGIC:
        if start.startswith(magic):
            return form
    from headwater.scans.formats import dicom

    return dicom if dicom.sniff(path) else None
