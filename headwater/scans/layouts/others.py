"""Files that are no scans Headwater reads: what to convert the images among them with, and a count of the rest."""

import posixpath
import re

from headwater.scans.catalog import stem_of
from headwater.scans.layouts.tree import Tree, endings
from headwater.scans.readers import COMPANIONS
from headwater.scans.scan import Fault

_TILES = "cut it into tiles saved as TIFF or PNG, for example with OpenSlide"
_PLANES = "save its planes as TIFF, for example with bioformats2raw or Fiji"
_NUMPY = "save each array in it as .npy or NIfTI"
_PICTURE = "save it as PNG or TIFF"
_FOREIGN = {
    "a whole-slide image": (_TILES, ".svs .ndpi .mrxs .scn .vms .vmu .bif .vsi"),
    "a microscope's own format": (_PLANES, ".czi .lif .nd2 .oib .oif .oir .ims .lsm .dv .r3d .stk"),
    "a store of chunks": (_NUMPY, ".zarr .n5 .precomputed"),
    "an HDF5 or MATLAB file": (_NUMPY, ".h5 .hdf5 .mat .he5 .nwb"),
    "nnU-Net's own prepared data": ("give the folder nnUNet_raw instead", ".b2nd"),
    "a MINC file": ("convert it with mnc2nii, or with nibabel", ".mnc .mnc2"),
    "a file of another scanner format": (
        "convert it with dcm2niix or SimpleITK",
        ".par .rec .v .ecat .gipl .bruker .2dseq .ifh .4dfp",
    ),
    "a VTK file": ("save the image as NIfTI or MetaImage, for example with 3D Slicer", ".vtk .vti .vtp"),
    "a picture of a kind that is not read": (
        _PICTURE,
        ".gif .jp2 .j2k .jxl .heic .avif .dng .cr2 .nef .exr .ppm .pgm .pbm .psd .svg",
    ),
    "a film": ("save its pictures as PNG", ".mp4 .avi .mov .mkv .wmv .webm"),
    "an archive": ("unpack it", ".zip .tar .tgz .tar.gz .tar.bz2 .tar.xz .rar .7z .gz .bz2 .xz .zst"),
    "a pickle": (_NUMPY, ".pkl .pickle .pt .pth .joblib"),
}
_BY_ENDING = {ending: (what, remedy) for what, (remedy, some) in _FOREIGN.items() for ending in some.split()}


def foreign(tree: Tree) -> list[Fault]:
    """Images in formats that are not read, and voxels whose header is missing, each with what to do."""
    stems = {stem_of(name).lower() for name in tree.images}
    faults = []
    for name in _rest(tree):
        kind = _BY_ENDING.get(_ending(name))
        if kind is not None:
            faults.append(Fault(name, f"is {kind[0]}, which is not read", kind[1], "format"))
        elif name.lower().endswith(COMPANIONS) and posixpath.splitext(posixpath.basename(name))[0].lower() not in stems:
            faults.append(Fault(name, "holds voxels without their header", "put the header (.hdr, .mhd) beside it", "missing"))
    return faults


def counted(tree: Tree) -> list[str]:
    """One note on files that are no images, by their endings; nothing if there are none."""
    quiet = [name for name in _rest(tree) if _ending(name) not in _BY_ENDING and not name.lower().endswith(COMPANIONS)]
    if not quiet:
        return []
    return [f"{len(quiet):,} file{'s that are' if len(quiet) > 1 else ' that is'} no image left alone ({endings(quiet)})"]


def _rest(tree: Tree) -> list[str]:
    images = set(tree.images)
    return [name for name in tree.files if name not in images]


def _ending(name: str) -> str:
    """The last ending, or the last two where they belong together (.tar.gz)."""
    low = posixpath.basename(name).lower()
    double = re.search(r"\.(tar\.\w+|ome\.zarr)$", low)
    return f".{double[1]}" if double and f".{double[1]}" in _BY_ENDING else posixpath.splitext(low)[1]
