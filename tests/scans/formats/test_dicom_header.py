"""Headers: values as pydicom gives them, nothing trusted, nothing said aloud."""

import logging
import warnings

import numpy as np
import pytest

from headwater.scans.formats import dicom_header
from headwater.scans.scan import UnreadableError

BODY = np.arange(12, dtype=np.int16).reshape(3, 4)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"])
@pytest.mark.parametrize("deep", [False, True])
def test_values_are_those_of_pydicom(picture, saved, syntax, deep):
    ds = picture(BODY, PixelSpacing=["0.7", "1e-1"], EchoTime="30", InstanceNumber=4)
    ds.file_meta.TransferSyntaxUID = syntax
    head = (dicom_header.whole if deep else dicom_header.head)(saved([ds])[0])
    assert dicom_header.values(head, "spacing") == (0.7, 0.1) and dicom_header.values(head, "image_type") == tuple(ds.ImageType)
    assert dicom_header.integer(head, "rows") == 3 and dicom_header.integer(head, "number") == 4
    assert dicom_header.number(head, "echo_time") == 30 and dicom_header.text(head, "patient") == ds.PatientID
    assert dicom_header.modality(head) == "CT" and dicom_header.kind(head) == "CT Image"
    assert ("PixelData" in head) == ("PatientName" in head) == deep


def test_absent_empty_and_damaged_values_are_none(picture, saved):
    head = dicom_header.head(saved([picture(BODY, EchoTime="", SliceThickness="5")])[0])
    assert dicom_header.values(head, "echo_time") == () and dicom_header.values(head, "temporal") == ()
    assert dicom_header.number(head, "temporal", 7.0) == 7.0 and dicom_header.inner(head, "referenced") is None
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import BaseTag

    def raw(tag, vr, value):
        return RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, True)

    head[0x00180050] = raw(0x00180050, "DS", b"five ")
    head[0x00280010] = raw(0x00280010, "US", b"\5")
    head[0x00280030] = raw(0x00280030, "DS", b"1\\nan")
    head[0x00080060] = raw(0x00080060, "CS", b"JANE")
    assert dicom_header.values(head, "thickness") == () and dicom_header.integer(head, "rows", 3) == 3
    assert dicom_header.vector(head, "spacing", 2) == () and dicom_header.modality(head) == ""


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"])
def test_a_long_header_is_read_to_its_end(picture, saved, syntax):
    ds = picture(BODY)
    noise = np.random.default_rng(0).bytes(200_000)
    ds.private_block(0x0009, "A LONG STORY", create=True).add_new(0x10, "OB", noise)
    ds.file_meta.TransferSyntaxUID = syntax
    head = dicom_header.head(saved([ds])[0])
    assert dicom_header.integer(head, "rows") == 3 and dicom_header.text(head, "series") == ds.SeriesInstanceUID


def test_quiet_hears_nothing_and_leaves_all_as_it_was(caplog):
    from pydicom import config

    before = config.settings.reading_validation_mode, logging.getLogger("pydicom").level
    with warnings.catch_warnings(record=True) as told, dicom_header.quiet():
        warnings.warn("Doe^Jane", stacklevel=1)
        logging.getLogger("pydicom.pixels").error("Doe^Jane")
    assert not told and not caplog.records
    assert before == (config.settings.reading_validation_mode, logging.getLogger("pydicom").level)


@pytest.mark.parametrize(
    ("content", "match"), [(b"", "no DICOM header"), (b"hello there, no header here", "no DICOM"), (None, "cannot be opened")]
)
def test_no_header(tmp_path, content, match):
    if content is not None:
        (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(UnreadableError, match=match):
        dicom_header.head(tmp_path / "a.dcm")
    with pytest.raises(UnreadableError, match="cannot be opened"):
        dicom_header.whole(tmp_path)
