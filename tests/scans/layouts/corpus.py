"""Small folders as people have them, good and faulty, each with what should be understood of it."""

import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

CASES: list["Case"] = []


@dataclass(frozen=True)
class Case:
    """One folder. write(root) fills it; `given` below root is what the user names.

    layout, items (scans), subjects, masks, faults (by kind): what should come out; error: else what should be said.
    names: some names that must be among the items. rule, note: words in the rule and in one of the notes.
    labels: the folder of masks given beside it, below root.
    """

    write: Callable[[Path], None]
    layout: str = ""
    items: int = 0
    subjects: int = 0
    masks: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    error: str = ""
    names: tuple[str, ...] = ()
    rule: str = ""
    note: str = ""
    given: str = ""
    labels: str | None = None
    classes: bool = False
    groups: frozenset[str] = frozenset()
    test: int = 0

    @property
    def name(self) -> str:
        return self.write.__name__


def case(layout: str = "", items: int = 0, subjects: int = 0, masks: int = 0, /, **rest) -> Callable:
    """Adds a function that writes a folder to the corpus."""

    def add(write: Callable[[Path], None]) -> Callable[[Path], None]:
        CASES.append(Case(write, layout, items, subjects, masks, **rest))
        return write

    return add


def _random(path: Path) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("/".join(path.parts[-3:]).encode()))


def volume(path: Path, shape: tuple[int, ...] = (6, 7, 5)) -> Path:
    """A NIfTI file of noise, unlike any other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = _random(path).integers(0, 1000, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


def mask(path: Path, values: tuple[int, ...] = (1, 2), shape: tuple[int, ...] = (6, 7, 5)) -> Path:
    """A NIfTI file of labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(shape, np.uint8)
    for i, value in enumerate(values):
        array[1 + i, 2:5, 1:4] = value
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


def picture(path: Path, size: tuple[int, int] = (12, 10), labels: bool = False) -> Path:
    """A grey picture of noise, or of labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_random(path).integers(0, 3 if labels else 255, size).astype(np.uint8)).save(path)
    return path


def text(path: Path, content: object) -> Path:
    """A text file; anything but text as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def dicom(path: Path, patient: str, series: int, z: int, description: str = "axial") -> Path:
    """One slice of a CT series."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{series}.{z + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientID, data.PatientName = "CT", patient, f"{patient}^X"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"1.2.9.{series}", f"1.2.3.{series}"
    data.SeriesDescription, data.InstanceNumber = description, z + 1
    data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if description == "scout" else "AXIAL"]
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2 * z], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [1, 1], 2
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 8, 9, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    data.PixelData = _random(path).integers(0, 2000, (8, 9)).astype(np.uint16).tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def segmentation(path: Path, patient: str, series: int, slices: int) -> Path:
    """A DICOM-SEG with one segment, drawn on a series."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    meta.MediaStorageSOPInstanceUID = f"1.2.4.{series}.{len(path.name)}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientID, data.SegmentationType = "SEG", patient, "BINARY"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"1.2.9.{series}", f"1.2.4.{series}"
    referenced = Dataset()
    referenced.SeriesInstanceUID = f"1.2.3.{series}"
    data.ReferencedSeriesSequence = [referenced]
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel = 1, "organ"
    data.SegmentSequence = [segment]
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [1, 1], 2
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    data.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for z in range(slices):
        frame, place, which = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient, which.ReferencedSegmentNumber = [0, 0, 2 * z], 1
        frame.PlanePositionSequence, frame.SegmentIdentificationSequence = [place], [which]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    data.NumberOfFrames, data.Rows, data.Columns, data.SamplesPerPixel = slices, 8, 9, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 1, 1, 0, 0
    bits = np.zeros((slices, 8, 9), np.uint8)
    bits[:, 2:5, 3:6] = 1
    data.PixelData = np.packbits(bits.reshape(-1), bitorder="little").tobytes() + b"\0" * (((slices * 72 + 7) // 8) % 2)
    data.save_as(path, enforce_file_format=True)
    return path


def _nnunet(root: Path, channels: int = 1, cases: int = 3, told: dict | None = None, **changes: object) -> None:
    for i in range(cases):
        for c in range(channels):
            volume(root / f"imagesTr/liver_{i:03d}_{c:04d}.nii.gz")
        mask(root / f"labelsTr/liver_{i:03d}.nii.gz")
    names = {str(c): ("T1", "T2", "FLAIR")[c] for c in range(channels)}
    told = told or {
        "channel_names": names, "labels": {"background": 0, "liver": 1, "tumour": 2}, "numTraining": cases,
        "file_ending": ".nii.gz",
    }  # fmt: skip
    text(root / "dataset.json", {key: value for key, value in {**told, **changes}.items() if value is not None})


# nnU-Net


@case("nnU-Net", 3, 3, 3, rule="nnU-Net v2: dataset.json names channel_names, imagesTr and labelsTr are beside it")
def nnunet_flat(root: Path) -> None:
    _nnunet(root)


@case("nnU-Net", 3, 3, 3, names=("imagesTr/liver_000_0000.nii.gz",))
def nnunet_two_channels_one_scan(root: Path) -> None:
    _nnunet(root, 2)


@case("nnU-Net", 2, 2, 2, faults={"channel": 1})
def nnunet_without_a_channel(root: Path) -> None:
    _nnunet(root, 2)
    (root / "imagesTr/liver_001_0001.nii.gz").unlink()


@case("nnU-Net", 5, 5, 4, test=2)
def nnunet_with_a_test_part(root: Path) -> None:
    _nnunet(root)
    for i in (7, 8):
        volume(root / f"imagesTs/liver_{i:03d}_0000.nii.gz")
    mask(root / "labelsTs/liver_007.nii.gz")


@case("nnU-Net", 3, 3, 3, names=("Dataset004_Liver/imagesTr/liver_000_0000.nii.gz",))
def nnunet_raw_with_one_data_set(root: Path) -> None:
    _nnunet(root / "Dataset004_Liver")


@case("nnU-Net", 6, 6, 6, rule="and so in 1 more", names=("Dataset005_B/imagesTr/liver_000_0000.nii.gz",))
def nnunet_raw_with_two_alike(root: Path) -> None:
    _nnunet(root / "Dataset004_A")
    _nnunet(root / "Dataset005_B")


@case("nnU-Net", 6, 6, 0, note="mean different things")
def nnunet_raw_with_other_labels(root: Path) -> None:
    _nnunet(root / "Dataset004_A")
    _nnunet(root / "Dataset005_B", labels={"background": 0, "spleen": 1})


@case(error="2 data sets that do not fit together")
def nnunet_raw_with_other_channels(root: Path) -> None:
    _nnunet(root / "Dataset004_A")
    _nnunet(root / "Dataset005_B", 2)


@case("nnU-Net", 3, 3, 3, given="imagesTr", names=("liver_000_0000.nii.gz",), rule="imagesTr was given")
def nnunet_images_given(root: Path) -> None:
    _nnunet(root)
    volume(root / "imagesTs/liver_009_0000.nii.gz")


@case(error="labelsTr holds masks; give .*imagesTr", given="labelsTr")
def nnunet_labels_given(root: Path) -> None:
    _nnunet(root)


@case("nnU-Net", 3, 3, 3, faults={"layout": 1}, rule="not valid JSON")
def nnunet_stray_comma(root: Path) -> None:
    _nnunet(root)
    file = root / "dataset.json"
    file.write_text(file.read_text().replace('"numTraining": 3,', '"numTraining": 3,,'))


@case("nnU-Net", 3, 3, 3, faults={"layout": 1}, rule="file_ending")
def nnunet_missing_keys(root: Path) -> None:
    _nnunet(root, channel_names=None, labels=None)


@case("nnU-Net", 3, 3, 3, note="regions: whole = ")
def nnunet_regions_and_ignore(root: Path) -> None:
    _nnunet(root, labels={"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, regions_class_order=[1, 2],
            overwrite_image_reader_writer="NibabelIOWithReorient")  # fmt: skip
    text(root / "splits_final.json", [{"train": ["liver_000"], "val": ["liver_001"]}])


@case("nnU-Net", 3, 3, 3, faults={"ending": 1})
def nnunet_other_ending(root: Path) -> None:
    _nnunet(root)
    volume(root / "imagesTr/liver_005_0000.nii")


@case("nnU-Net", 3, 3, 3, note="no channel number")
def nnunet_without_channel_numbers(root: Path) -> None:
    _nnunet(root)
    for file in (root / "imagesTr").iterdir():
        file.rename(file.with_name(file.name.replace("_0000", "")))


@case("nnU-Net", 3, 3, 3, rule="nnU-Net v1")
def nnunet_version_one(root: Path) -> None:
    listed = [{"image": f"./imagesTr/liver_{i:03d}.nii.gz", "label": f"./labelsTr/liver_{i:03d}.nii.gz"} for i in range(3)]
    _nnunet(root, told={"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"}, "training": listed, "test": []})


@case("nnU-Net", 3, 3, 3, rule="no dataset.json")
def nnunet_without_dataset_json(root: Path) -> None:
    _nnunet(root)
    (root / "dataset.json").unlink()


@case("nnU-Net", 2, 2, 1, faults={"missing": 1, "escape": 1, "row": 1}, rule="lists the cases under dataset")
def nnunet_that_lists_its_cases(root: Path) -> None:
    listed = {
        "a": {"images": [str(volume(root / "far/a.nii.gz").relative_to(root))], "label": "far/a_mask.nii.gz"},
        "b": {"images": ["far/b.nii.gz"], "label": "../b.nii.gz"}, "c": {"images": ["far/c.nii.gz"]}, "d": {},
    }  # fmt: skip
    volume(root / "far/b.nii.gz")
    mask(root / "far/a_mask.nii.gz")
    told = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz", "dataset": listed}
    text(root / "dataset.json", told)


# Decathlon, MONAI


def _decathlon(root: Path, cases: int = 3, shape: tuple[int, ...] = (6, 7, 5), **changes: object) -> None:
    listed = []
    for i in range(cases):
        volume(root / f"imagesTr/la_{i:03d}.nii.gz", shape)
        mask(root / f"labelsTr/la_{i:03d}.nii.gz")
        listed.append({"image": f"./imagesTr/la_{i:03d}.nii.gz", "label": f"./labelsTr/la_{i:03d}.nii.gz"})
    told = {"name": "Heart", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "atrium"}, "numTraining": cases,
            "training": listed, "test": []}  # fmt: skip
    text(root / "dataset.json", {**told, **changes})


@case("datalist", 4, 4, 3, test=1, rule="Medical Segmentation Decathlon: dataset.json lists images under training and test")
def decathlon(root: Path) -> None:
    _decathlon(root, test=["./imagesTs/la_009.nii.gz"])
    volume(root / "imagesTs/la_009.nii.gz")
    volume(root / "imagesTr/._la_000.nii.gz")


@case("datalist", 3, 3, 3)
def decathlon_four_axes(root: Path) -> None:
    _decathlon(root / "Task01_Brain", shape=(6, 7, 5, 4), modality={"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"})


@case("datalist", 2, 2, 2, faults={"missing": 1}, note="1 images in the folder are no part")
def decathlon_missing_file(root: Path) -> None:
    _decathlon(root)
    (root / "imagesTr/la_001.nii.gz").unlink()


@case("nnU-Net", 3, 3, 3, faults={"layout": 1}, rule="nnU-Net or Decathlon")
def decathlon_broken_json(root: Path) -> None:
    _decathlon(root)
    (root / "dataset.json").write_text('{"training": [')


@case(error="lists? .*line 1|not valid JSON", given="dataset.json")
def decathlon_broken_json_given(root: Path) -> None:
    _decathlon(root)
    (root / "dataset.json").write_text('{"training": [')


@case(
    "datalist", 3, 2, 2, test=1, faults={"escape": 3, "missing": 1, "row": 3}, rule="MONAI datalist", note="2 folds",
    given="list.json",
)  # fmt: skip
def monai_datalist(root: Path) -> None:
    outside = volume(root.parent / f"{root.name}_outside.nii.gz")
    for name in ("p1_t1", "p1_t2", "p2_t1"):
        volume(root / f"scans/{name}.nii.gz")
    mask(root / "masks/a.nii.gz")
    os.symlink(outside, root / "scans/link.nii.gz")
    one = {"image": "scans/p1_t1.nii.gz", "label": "masks/a.nii.gz", "fold": 0}
    text(root / "list.json", {
        "training": [one, {"image": ["scans/p1_t2.nii.gz"], "label": ["masks/a.nii.gz"], "fold": 1}, one, {"image": 7}, {}],
        "validation": [{"image": str(outside)}, {"image": "../x.nii.gz"}, {"image": "scans/link.nii.gz"}],
        "testing": [{"image": "scans/p2_t1.nii.gz", "label": "masks/gone.nii.gz"}],
    })  # fmt: skip


@case("datalist", 2, 2, 0, note="1 other list")
def monai_two_lists(root: Path) -> None:
    for fold in (0, 1):
        listed = [{"image": str(volume(root / f"{i}.nii.gz").name)} for i in (f"a{fold}", f"b{fold}")]
        text(root / f"fold{fold}.json", {"training": listed})


@case("datalist", 4, 4, 0, classes=True, groups=frozenset({"0", "1"}))
def monai_classes(root: Path) -> None:
    listed = [{"image": picture(root / f"{i}.png").name, "label": i % 2} for i in range(4)]
    text(root / "datalist.json", {"training": listed})


# BIDS


def _bids(root: Path) -> None:
    text(root / "dataset_description.json", {"Name": "x", "BIDSVersion": "1.8.0"})
    text(root / "participants.tsv", "participant_id\tage\tname\nsub-01\t30\tAnna\nsub-02\t31\tBert\nsub-09\t1\tCarl\n")
    for who in ("01", "02"):
        start = f"sub-{who}/ses-a/anat/sub-{who}_ses-a"
        volume(root / f"{start}_T1w.nii.gz")
        volume(root / f"{start}_T2w.nii.gz")
        text(root / f"{start}_T1w.json", {"PatientName": "Anna"})
        volume(root / f"sub-{who}/ses-a/func/sub-{who}_ses-a_task-rest_bold.nii.gz", (6, 7, 5, 3))
        text(root / f"sub-{who}/ses-a/func/sub-{who}_ses-a_task-rest_events.tsv", "onset\tduration\n1\t2\n")


@case("BIDS", 6, 2, 0, rule="T1w, T2w, bold", note="participants.tsv lists 1")
def bids(root: Path) -> None:
    _bids(root)


@case("BIDS", 6, 2, 4, note="desc-manual_dseg is taken", names=("sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",))
def bids_derivatives(root: Path) -> None:
    _bids(root)
    for who in ("01", "02"):
        start = root / f"derivatives/labels/sub-{who}/ses-a/anat/sub-{who}_ses-a"
        mask(Path(f"{start}_desc-manual_dseg.nii.gz"))
        mask(Path(f"{start}_desc-auto_dseg.nii.gz"))
        mask(Path(f"{start}_T2w_label-SC_mask.nii.gz"))
        mask(Path(f"{start}_space-MNI152_dseg.nii.gz"))
        volume(Path(f"{start}_desc-preproc_T1w.nii.gz"))


@case("BIDS", 6, 2, 0, faults={"unpaired": 1}, names=("study/sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",))
def bids_below(root: Path) -> None:
    _bids(root / "study")
    mask(root / "study/derivatives/x/sub-77/anat/sub-77_dseg.nii.gz")


@case("BIDS", 2, 2, 2)
def bids_without_sessions_or_tables(root: Path) -> None:
    for who in ("A", "B"):
        volume(root / f"sub-{who}/anat/sub-{who}_T1w.nii.gz")
        mask(root / f"derivatives/sub-{who}/anat/sub-{who}_label-lesion_mask.nii.gz")


# nnssl


def _nnssl(root: Path, prefix: str) -> None:
    subjects = {}
    for who in ("a", "b"):
        for visit in ("ses-1", "ses-2"):
            start = f"ds1/{who}_{visit}"
            volume(root / f"{start}.nii.gz")
            mask(root / f"{start}_anat.nii.gz", (1,))
            masks = {"anonymization_mask": f"{prefix}{start}_anon.nii.gz", "anatomy_mask": f"{prefix}{start}_anat.nii.gz"}
            image = {"name": who, "modality": "T1w", "image_path": f"{prefix}{start}.nii.gz", "associated_masks": masks}
            subjects.setdefault(who, {"subject_id": who, "sessions": {}})["sessions"][visit] = {"images": [image]}
    told = {"collection_index": 1, "collection_name": "C", "datasets": {"1": {"dataset_index": 1, "subjects": subjects}}}
    text(root / "pretrain_data.json", told)


@case("nnssl", 4, 2, 4, note="anonymised", rule="nnssl: pretrain_data.json lists 1 data set by subject and session")
def nnssl(root: Path) -> None:
    _nnssl(root, "$nnssl_raw/")


@case("nnssl", 4, 2, 4, names=("Dataset001_X/ds1/a_ses-1.nii.gz",))
def nnssl_below(root: Path) -> None:
    _nnssl(root / "Dataset001_X", "$nnssl_raw/Dataset001_X/")


@case("nnssl", 4, 2, 4, given="Dataset001_X")
def nnssl_given_itself(root: Path) -> None:
    _nnssl(root / "Dataset001_X", "$nnssl_raw/Dataset001_X/")


@case(error="No scan in .* can be used.*leads out")
def nnssl_elsewhere(root: Path) -> None:
    _nnssl(root, "/nowhere/")


@case(error="names no datasets")
def nnssl_of_another_kind(root: Path) -> None:
    volume(root / "a.nii.gz")
    text(root / "pretrain_data.json", [1, 2])


# MedMNIST


def _medmnist(path: Path, shape: tuple[int, ...] = (8, 8), labels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, n in (("train", 5), ("val", 2), ("test", 3)):
        arrays[f"{part}_images"] = _random(path / part).integers(0, 255, (n, *shape)).astype(np.uint8)
        arrays[f"{part}_labels"] = (np.arange(n)[:, None] % 2).repeat(labels, axis=1).astype(np.uint8)
    np.savez_compressed(path, **arrays)


@case("MedMNIST", 10, 10, 0, test=3, note="val counts", names=("chest.npz#val_images/1",))
def medmnist(root: Path) -> None:
    _medmnist(root / "chest.npz")


@case("MedMNIST", 10, 10, 0, test=3, given="organ.npz", classes=True, groups=frozenset({"0", "1"}))
def medmnist_volumes_given(root: Path) -> None:
    _medmnist(root / "organ.npz", (8, 8, 8))


@case("MedMNIST", 20, 20, 0, test=6, faults={"parts": 1})
def medmnist_several(root: Path) -> None:
    _medmnist(root / "path.npz", (8, 8, 3))
    _medmnist(root / "derma.npz", (8, 8, 3))
    np.savez(root / "weights.npz", w=np.ones(3))


@case(error="says which class.*does not hold one whole number", classes=True)
def medmnist_many_labels(root: Path) -> None:
    _medmnist(root / "chest.npz", labels=3)


@case(error="declares more pictures")
def medmnist_bomb(root: Path) -> None:
    import io
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 28, 28)})
    with zipfile.ZipFile(root / "bomb.npz", "w") as file:
        file.writestr("train_images.npy", header.getvalue() + bytes(100))


# tables


@case("table", 3, 2, 2, test=1, faults={"row": 2, "missing": 1, "escape": 1}, rule="columns for image, mask, subject, split")
def table(root: Path) -> None:
    for name in ("a", "b", "c"):
        volume(root / f"scans/{name}.nii.gz")
        mask(root / f"masks/{name}.nii.gz")
    text(root / "scans.csv", "\ufeffImage;Mask;Patient;Split;Comment\nscans/a.nii.gz;masks/a.nii.gz;7;train;x\n"
         "scans/b.nii.gz;masks/b.nii.gz;7;val;\n\nscans/c.nii.gz;;8;test;y\nscans/d.nii.gz;;9;train;\n;;9;train;\n"
         "../e.nii.gz;;9;train;\nscans/a.nii.gz;;7;train;\n")  # fmt: skip


@case("table", 4, 4, 0, given="list.tsv", classes=True, groups=frozenset({"ill", "well"}))
def table_given_with_classes(root: Path) -> None:
    rows = [f"{picture(root / f'{i}.png').name}\t{('ill', 'well')[i % 2]}" for i in range(4)]
    text(root / "list.tsv", "\n".join(["file\tclass", *rows]))


@case(error="no column image", given="list.csv")
def table_without_images(root: Path) -> None:
    text(root / "list.csv", "name,age\nanna,3\n")


# image folders


@case("image folders", 12, 12, 0, rule="3 folders of images look like classes; not used unless --classes")
def classes_not_asked_for(root: Path) -> None:
    for name in ("Hand", "CXR", "HeadCT"):
        for i in range(4):
            picture(root / name / f"{i:06d}.jpeg")


@case("image folders", 12, 12, 0, classes=True, groups=frozenset({"Hand", "CXR", "HeadCT"}), test=3)
def classes_asked_for(root: Path) -> None:
    for name in ("Hand", "CXR", "HeadCT"):
        for i in range(4):
            picture(root / ("test" if i == 3 else "train") / name / f"{name}{i}.png")


@case(error="says which class", classes=True)
def classes_that_are_not_there(root: Path) -> None:
    for i in range(4):
        picture(root / f"{i}.png")


# DICOM


@case("DICOM", 3, 2, 0, faults={"localiser": 1})
def dicom_tree(root: Path) -> None:
    for z in range(4):
        dicom(root / f"A/study/{z}", "A", 1, z)
        dicom(root / f"A/study/late{z}.dcm", "A", 2, z)
        dicom(root / f"B/1.2.840.{z}", "B", 3, z)
    dicom(root / "B/scout", "B", 4, 0, "scout")


@case("DICOM", 1, 1, 1)
def dicom_with_segmentation(root: Path) -> None:
    for z in range(4):
        dicom(root / f"ct/{z}.dcm", "A", 1, z)
    segmentation(root / "seg/organ.dcm", "A", 1, 4)


@case("plain folder", 3, 3, 1, faults={"unpaired": 1}, rule="DICOM files are put together by series")
def dicom_and_nifti(root: Path) -> None:
    for z in range(4):
        dicom(root / f"ct/{z}", "A", 1, z)
    segmentation(root / "other/lost.dcm", "C", 9, 4)
    volume(root / "mr/b.nii.gz")
    mask(root / "mr/b_seg.nii.gz")
    volume(root / "mr/c.nii.gz")
    text(root / "ct/notes", "no image")


# any folder


@case("plain folder", 4, 4, 0, note="6 files that are no image")
def plain_flat(root: Path) -> None:
    for name in ("a.nii.gz", "b.nii", "._a.nii.gz", ".hidden.nii.gz", ".git/c.nii.gz"):
        volume(root / name)
    volume(root / "c.nii.gz")
    picture(root / "d.png")
    for name in ("README", "a.json", "notes.txt", "a.bval", "x.pdf", "Thumbs.db", ".DS_Store"):
        text(root / name, "x")


@case("plain folder", 4, 2, 0)
def plain_patients(root: Path) -> None:
    for who in ("anna", "bert"):
        for name in ("t1", "t2"):
            volume(root / who / f"{name}.nii.gz")


@case("plain folder", 4, 2, 4, rule="masks lie beside their scans")
def plain_brats(root: Path) -> None:
    for who in ("BraTS_001", "BraTS_002"):
        for name in ("t1", "flair"):
            volume(root / who / f"{who}_{name}.nii.gz")
        mask(root / who / f"{who}_seg.nii.gz")


@case("plain folder", 2, 2, 2)
def plain_kits(root: Path) -> None:
    for who in ("case_00000", "case_00001"):
        volume(root / who / "imaging.nii.gz")
        mask(root / who / "segmentation.nii.gz")


@case("plain folder", 2, 1, 2, faults={"unpaired": 3}, note="masks end differently")
def plain_masks_beside(root: Path) -> None:
    volume(root / "t2/t2.nii.gz")
    volume(root / "t2/t2_fake_lesion.nii.gz")
    for name in ("t2_seg-manual", "t2_seg-manual_labeled", "labels", "t2_fake_lesion_sc_seg", "t2_fake_lesion_lesion_seg"):
        mask(root / f"t2/{name}.nii.gz")


@case("plain folder", 3, 3, 2, faults={"unpaired": 1}, rule="folders named for masks")
def plain_folders_of_masks(root: Path) -> None:
    for name in ("a", "b", "c"):
        picture(root / f"images/{name}.png")
    for name in ("a", "b", "z"):
        picture(root / f"labels/{name}.png", labels=True)


@case("plain folder", 3, 3, 3, given="scans", labels="masks")
def plain_masks_given(root: Path) -> None:
    for name in ("a", "b", "c"):
        volume(root / f"scans/{name}.nii.gz")
        mask(root / f"masks/{name}_seg.nii.gz")


@case("plain folder", 2, 2, 2, labels="truth", faults={"unpaired": 1})
def plain_masks_given_inside(root: Path) -> None:
    for name in ("a", "b"):
        volume(root / f"{name}.nii.gz")
        mask(root / f"truth/{name}.nii.gz")
    mask(root / "truth/q.nii.gz")


@case(error="No mask in .* has the name of a scan", given="scans", labels="masks")
def plain_masks_that_fit_nothing(root: Path) -> None:
    volume(root / "scans/a.nii.gz")
    mask(root / "masks/b.nii.gz")


@case("plain folder", 2, 2, 0, faults={"format": 6, "missing": 1})
def plain_foreign_formats(root: Path) -> None:
    volume(root / "a.nii.gz")
    volume(root / "b.nii.gz")
    text(root / "c.zarr/0/0", "x")
    for name in ("d.svs", "e.h5", "f.b2nd", "g.mnc", "h.tar.gz", "i.img"):
        text(root / name, "x")


@case(error="1 x is a whole-slide image, which is not read; cut it into tiles")
def only_foreign_formats(root: Path) -> None:
    text(root / "d.svs", "x")


@case("plain folder", 2, 2, 0, faults={"escape": 2, "missing": 2}, note="1 linked folder")
def links(root: Path) -> None:
    outside = volume(root.parent / f"{root.name}_outside/o.nii.gz")
    volume(root / "real/a.nii.gz")
    os.symlink(root / "real/a.nii.gz", root / "b.nii.gz")
    os.symlink(root / "real", root / "again")
    os.symlink(outside, root / "out.nii.gz")
    os.symlink(outside.parent, root / "outside")
    os.symlink(root / "gone.nii.gz", root / "broken.nii.gz")
    os.symlink(root / "loop.nii.gz", root / "loop.nii.gz")


@case("plain folder", 2, 2, 1, faults={"parts": 1})
def numpy_files(root: Path) -> None:
    array = _random(root).normal(size=(6, 7, 5)).astype(np.float32)
    np.save(root / "a.npy", array)
    np.savez(root / "b.npz", image=array + 1, label=(array > 0).astype(np.uint8))
    np.savez(root / "w.npz", one=array, two=array)


@case("plain folder", 2, 2, 1)
def analyze_pairs(root: Path) -> None:
    array = _random(root).integers(0, 99, (6, 7, 5)).astype(np.int16)
    for i, name in enumerate(("a", "b")):
        nibabel.save(nibabel.Nifti1Pair(array + i, np.eye(4)), root / f"{name}.hdr")
    nibabel.save(nibabel.Nifti1Pair((array > 50).astype(np.uint8), np.eye(4)), root / "a_mask.hdr")


@case(error="is empty")
def nothing(root: Path) -> None:
    (root / "empty").mkdir()


@case(error=r"no image in it \(it has 2 x .txt\)")
def no_images(root: Path) -> None:
    text(root / "a.txt", "x")
    text(root / "b.txt", "x")


@case(error="does not exist", given="gone")
def not_there(root: Path) -> None:
    text(root / "a.txt", "x")


@case(error="is a single scan; give the folder", given="a.nii.gz")
def one_scan_given(root: Path) -> None:
    volume(root / "a.nii.gz")


@case(error="196 arrays|2 arrays, none of them called image")
def only_weights(root: Path) -> None:
    np.savez(root / "w.npz", w=np.ones((3, 3)), b=np.ones(3))
