"""DICOM files made on the spot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

NAMES = ("Doe^Jane", "PID-4711", "19700102", "Hospital of Nowhere", "Very Private Description")  # in no message, ever
ODD = Path(__file__).parents[4] / "shared" / "data" / "odd"


@pytest.fixture(scope="session")
def odd() -> Path:
    """The folder of odd real files; skips without it."""
    if not ODD.is_dir():
        pytest.skip("no odd files beside the checkout")
    return ODD


@pytest.fixture(scope="session")
def private() -> tuple[str, ...]:
    """What names the patient of every file made here."""
    return NAMES


@pytest.fixture(scope="session")
def picture() -> Callable[..., "Dataset"]:  # noqa: F821
    """picture(array (R, C) or (F, R, C), uid="1.2.3", Keyword=value, ...): a data set with native pixels."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def make(array: np.ndarray, uid: str = "1.2.826.0.1.99", **changes: object) -> Dataset:
        ds, array = Dataset(), np.asarray(array)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.InstitutionName, ds.SeriesDescription = NAMES
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CTImageStorage, ds.SOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "1.2.826.0.1.7", uid, "CT"
        ds.StudyDate, ds.ImageType = "20200304", ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns = array.shape[-2:]
        if array.ndim == 3:
            ds.NumberOfFrames = len(array)
        ds.BitsAllocated = ds.BitsStored = array.itemsize * 8
        ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(array.dtype.kind == "i")
        ds.PixelData = array.tobytes() + b"\0" * (array.nbytes % 2)
        ds["PixelData"].VR = "OW"
        for name, value in changes.items():
            setattr(ds, name, value)
        return ds

    return make


@pytest.fixture(scope="session")
def volume(picture: Callable) -> Callable[..., list]:
    """volume(array (n, R, C), step, origin, turned, spacing, ...): one data set per slice, `step` mm (3,) apart in LPS."""

    def make(
        array: np.ndarray, step: tuple = (0, 0, 5.0), origin: tuple = (-10.0, 20.0, 30.0),
        turned: tuple = (1, 0, 0, 0, 1, 0), spacing: tuple = (0.8, 0.5), **changes: object,
    ) -> list:  # fmt: skip
        found = []
        for k, each in enumerate(array):
            where = np.array(origin) + k * np.array(step)
            place = {"ImagePositionPatient": [f"{x:.9g}" for x in where], "ImageOrientationPatient": list(turned)}
            place |= {"PixelSpacing": list(spacing), "SliceThickness": 5, "InstanceNumber": k + 1}
            found.append(picture(each, **(place | changes)))
        return found

    return make


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., tuple[Path, ...]]:
    """saved(data sets, folder="series"): their files, named so that their order on disk is not that of the slices."""

    def write(many: list, folder: str = "series") -> tuple[Path, ...]:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        order = np.random.default_rng(3).permutation(len(many))
        paths = []
        for ds, i in zip(many, order, strict=True):
            path = tmp_path / folder / f"im{i:04d}.dcm"
            ds.save_as(path, enforce_file_format=True)
            paths.append(path)
        return tuple(sorted(paths))

    return write
