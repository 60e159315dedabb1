"""A made-up DICOM series, tilted, its files in an order that is not that of its slices."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ODD = Path(__file__).parents[4] / "shared" / "data" / "odd"


@pytest.fixture(scope="session")
def odd() -> Path:
    """The folder of odd real files; skips without it."""
    if not ODD.is_dir():
        pytest.skip("no odd files beside the checkout")
    return ODD


@pytest.fixture
def series(tmp_path: Path) -> Callable[..., tuple[Path, ...]]:
    """series(array (n, R, C)): its files; the slices lie obliquely, 2.5 mm apart."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def make(array: np.ndarray) -> tuple[Path, ...]:
        turned = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
        row, column = turned[0], turned[1]
        across, one, study = np.cross(row, column), generate_uid(), generate_uid()
        place = generate_uid()
        files = []
        for k, pixels in enumerate(array):
            ds = Dataset()
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Doe^Jane", "PID-4711", "19700102", "F"
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID, ds.Modality = study, one, place, "CT"
            ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "20200304", "1200", "", "", ""
            ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
            ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CTImageStorage, ds.SOPInstanceUID
            ds.SeriesNumber, ds.InstanceNumber, ds.ImageType = 3, k + 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
            ds.ImagePositionPatient = [f"{x:.8g}" for x in np.array([5.0, -3.0, 40.0]) + 2.5 * k * across]
            ds.ImageOrientationPatient = [f"{x:.8g}" for x in (*row, *column)]
            ds.PixelSpacing, ds.SliceThickness = ["0.8", "0.5"], "2.5"
            ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
            ds.Rows, ds.Columns = pixels.shape
            ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
            ds.PixelData = np.ascontiguousarray(pixels, np.uint16).tobytes()
            files.append(tmp_path / "series" / f"{(7 * k) % 31:03d}.dcm")
            files[-1].parent.mkdir(exist_ok=True)
            ds.save_as(files[-1], enforce_file_format=True)
        return tuple(sorted(files))

    return make
