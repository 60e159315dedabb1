"""What is shown in place of names: nothing Headwater writes tells whose scan it was, unless the user asks for it."""

import hashlib
import re
import secrets
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from headwater.runfolder import private_folder, write_text

# Words that say what a file is and not whose. Everything else in a name could be a person's.
_WORDS = """
2d 3d 4d a abdomen abdomenct acdc adc amos anat and annotation annotations anterior aorta arterial artery asl atlas autopet
average axial b bad baseline binary bladder bmp bold bone bones bowel brain brats breast breastmri btcv bval bvals bvec bvecs
c cardiac case cases cat cbf cell cells cerebellum channel channels chaos chest chestct class colon color colour complex
contrast control cord coronal cortex covid cr cropped csf csv ct cta curvas cxr data dataset datasets dcm deepseg deface
defaced derivatives desc dicom dicoms dir disc dixon dmri dseg dti dwi dx echo edema emri enhanced epi epigastric esophagus
eye fa fake fat fdg feature femur fibsem fieldmap file fixed flair flare flipped fluid fold followup frame ftr func fundus
gallbladder gif gm gmseg gray grey gt gz hand haste hcp hdr head headct heart hepatic hip hippocampus hr i image images
imagestr imagests img in index inphase input ixi j j2k jls jpeg jpg k kidney kidneys kits knee lab label labeled labelled
labels labelstr labelsts las left lesion lesions level levels lia lidc lits liver localiser localizer low lpi lps lumbar luna
lung lungs magnitude man manual map mask masks mean medmnist mednist mg mgh mgz mha mhd middle minimal mnist modality mosaic
mprage mr mra mri msd muscle native nerve nhdr nifti nii nlst nodule normal npy npz nrrd nuclei nucleus oasis oct odd of ones
openneuro opposed orders original out outphase output pancreas part patch patches pathology pd pdw pelvis perf perfusion pet
phantom phantoms phase pir pneumonia pneumoniamnist png portal posterior postop pre pred prediction predictions preop promise
prostate psr pt ras raw rec reconstruction rectum ref registered res resampled rgb right rle roi rois root rootlets run
sagittal sample samples sc scan scans seg segmentation segmentations segs sequence ser series ses session shear shoulder
skull slice slices small space spine spleen stack stage std step stir stomach study sub subject subjects supplemental swi t1
t1c t1ce t1gd t1map t1rho t1w t2 t2f t2flair t2map t2s t2star t2starw t2w task test tests the thorax thyroid tif tiff tile
time tissue to tof toothfairy totalsegmentator tr train training transverse truth ts tumor tumour uncropped us uterus val
valid validation vein venous verse vertebra vertebrae vessel vessels vibe view vol volume volumes volunteers water webp whole
wm x xray y z zeros
""".split()
_KNOWN = frozenset(_WORDS)
_COUNTED = frozenset(
    "slice frame echo ses session run fold channel part time tile patch view dir res level step series phantom stack".split()
)
_PIECE = re.compile(r"[^\W\d_]+\d+[^\W\d_]*|[^\W\d_]+|\d[\d.]*\d|\d|[\W_]+")
_SEPARATOR = re.compile(r"[\W_]+")


class Names:
    """From real names to names that may be shown. The same real name is always shown the same way under one salt.

    open: show real names (the user asked with --show-identifiers).
    """

    def __init__(self, salt: bytes, open: bool = False):
        self.salt, self.open = salt, open

    def code(self, text: str, letters: int = 6) -> str:
        """A salted hash, in hexadecimal."""
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), key=self.salt[:64], digest_size=16).hexdigest()[:letters]

    def subject(self, name: str) -> str:
        """A subject: its salted hash."""
        return name if self.open else f"s-{self.code(name, 8)}"

    def subjects(self, names: Iterable[str]) -> dict[str, str]:
        """Every subject with the name it is shown by; no two alike."""
        return _apart({name: self.subject(name) for name in names}, self)

    def name(self, path: str) -> str:
        """A file's name: imaging words stay, all else is hashed, piece by piece (hippocampus_~4f1c2a.nii.gz)."""
        if self.open:
            return path
        file, _, part = path.partition("#")  # a picture within a file has a number of no patient
        shown = "/".join(self._part(piece) for piece in file.split("/"))
        key, _, number = part.rpartition("/")
        return (
            f"{shown}#{self._part(key)}/{number}" if key and number.isdigit() else shown + (f"#{part}" if part.isdigit() else "")
        )

    def names(self, paths: Iterable[str]) -> dict[str, str]:
        """Every file name with the one it is shown by; no two alike."""
        return _apart({path: self.name(path) for path in paths}, self)

    def folder(self, path: Path) -> str:
        """A folder the user named: its last two parts."""
        if self.open:
            return str(path)
        return "/".join(self._part(part) for part in PurePosixPath(Path(path).resolve().as_posix()).parts[-2:] if part != "/")

    def _part(self, text: str) -> str:
        """One file or folder name. A number stays only where it counts parts of a scan (run-01), at most three digits.

        Pieces that are hashed and stand side by side are hashed as one.
        """
        shown: list[str] = []
        hidden, between, before = "", "", ""

        def flush() -> None:
            nonlocal hidden, between
            shown.append((f"~{self.code(hidden)}" if hidden else "") + "".join(c if c in "-_. ()+,=" else "_" for c in between))
            hidden = between = ""

        for piece in _PIECE.findall(text):
            word = piece.lower()
            if _SEPARATOR.fullmatch(piece):
                between += piece
                continue
            counts = before in _COUNTED and piece.isdigit() and len(piece) <= 3
            if word in _KNOWN or counts or re.fullmatch("000[0-9]", piece):
                flush()
                shown.append(piece)
            elif hidden:
                hidden, between = hidden + between + word, ""
            else:
                flush()
                hidden = word
            before = word
        flush()
        return "".join(shown)


def _apart(shown: dict[str, str], names: Names) -> dict[str, str]:
    """Two names that would look alike get a longer code of the whole."""
    count: dict[str, int] = {}
    for alias in shown.values():
        count[alias] = count.get(alias, 0) + 1
    return {real: alias if count[alias] == 1 else f"{alias}~{names.code(real, 16)}" for real, alias in shown.items()}


def cache_folder() -> Path:
    """Where Headwater keeps what it saw before, for this user alone."""
    return Path.home() / ".cache" / "headwater"


def known(open: bool = False) -> Names:
    """The names under this user's salt, which is drawn once and kept in the cache folder; under a fresh one if that cannot be."""
    file = cache_folder() / "salt"
    try:
        salt = bytes.fromhex(file.read_text())
        if len(salt) == 32:
            return Names(salt, open)
    except (OSError, ValueError):
        pass
    salt = secrets.token_bytes(32)
    try:
        private_folder(file.parent)
        write_text(file, salt.hex())
    except OSError:
        pass  # a home that cannot be written to: names change from look to look
    return Names(salt, open)
