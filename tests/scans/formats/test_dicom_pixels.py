"""Pixels: what is declared, what is believed, what is decoded."""

import numpy as np
import pytest

from headwater.scans.formats import dicom_header, dicom_pixels
from headwater.scans.scan import UnreadableError

BODY = np.arange(-60, 60, dtype=np.int16).reshape(2, 6, 10)


def both(file):
    data = dicom_header.whole(file)
    pixels = dicom_pixels.declared(file, data)
    return pixels, dicom_pixels.decode(pixels, data)


@pytest.mark.parametrize("compress", [False, True])
def test_frames_in_their_own_type(picture, saved, compress):
    ds = picture(BODY)
    if compress:
        ds.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    pixels, array = both(saved([ds])[0])
    assert pixels.shape == (2, 1, 6, 10) and pixels.native != compress and array.dtype == np.int16
    np.testing.assert_array_equal(array[:, 0], BODY)


def test_jpeg_and_jpeg_2000(picture, saved):
    import io

    from PIL import Image
    from pydicom.encaps import encapsulate

    grey = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8)
    for syntax, form, options, near in (
        ("1.2.840.10008.1.2.4.50", "JPEG", {"quality": 95}, 3),
        ("1.2.840.10008.1.2.4.90", "JPEG2000", {}, 0),
    ):
        file = io.BytesIO()
        Image.fromarray(grey).save(file, form, **({"no_jp2": True} if form == "JPEG2000" else options))
        ds = picture(grey)
        ds.PixelData = encapsulate([file.getvalue()])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = syntax
        np.testing.assert_allclose(both(saved([ds], form)[0])[1][0, 0].astype(int), grey, atol=near)


def test_sloppy_headers_are_completed(picture, saved):
    ds = picture(BODY.astype(np.uint16), BitsStored=None, PixelRepresentation=None, SamplesPerPixel=None)
    np.testing.assert_array_equal(both(saved([ds])[0])[1][:, 0], BODY.astype(np.uint16))


@pytest.mark.parametrize(
    ("change", "match"),
    [({"Rows": 0}, "holds no picture"), ({"Rows": 7000, "Columns": 10}, "cut off: its header says 2 x 7000 x 10"),
     ({"BitsAllocated": 13}, "kind that is not supported"), ({"SamplesPerPixel": 4}, "kind that is not supported"),
     ({"NumberOfFrames": -1}, "kind that is not supported"), ({"PixelData": b"\0" * 10}, "cut off: 10 bytes"),
     ({"PixelData": b""}, "no pixels")],
)  # fmt: skip
def test_faults(picture, saved, change, match):
    with pytest.raises(UnreadableError, match=match):
        both(saved([picture(BODY, **change)])[0])
