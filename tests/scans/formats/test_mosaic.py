"""Siemens mosaics: cut apart, and placed as nibabel places them."""

import struct
import warnings

import numpy as np
import pytest

from headwater.scans.formats import dicom
from headwater.scans.formats.mosaic import untile
from headwater.scans.scan import UnreadableError

BODY = np.arange(5 * 4 * 6, dtype=np.int16).reshape(5, 4, 6)


def csa(**tags):
    """A CSA header of Siemens' second kind."""
    out = b"SV10\4\3\2\1" + struct.pack("<2I", len(tags), 77)
    for name, values in tags.items():
        items = [f"{value}".encode() for value in values] + [b""] * (6 - len(values))
        out += struct.pack("<64si4s3i", name.encode(), len(values), b"IS\0\0" if len(values) == 1 else b"FD\0\0", 4, 6, 77)
        for each in items:
            out += struct.pack("<4i", len(each), len(each), 77, len(each)) + each + b"\0" * (-len(each) % 4)
    return out


def tiled(body=BODY):
    side = int(np.ceil(np.sqrt(len(body))))
    out = np.zeros((side * body.shape[1], side * body.shape[2]), body.dtype)
    for k, each in enumerate(body):
        r, c = divmod(k, side)
        out[r * each.shape[0] : (r + 1) * each.shape[0], c * each.shape[1] : (c + 1) * each.shape[1]] = each
    return out


@pytest.fixture
def mosaic(picture):
    def make(normal=(0, 0, 1), count=5, time=1, picture_of=BODY):
        place = {
            "ImagePositionPatient": [-10, -20, 30],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [2.0, 3.0],
        }
        place |= {"SliceThickness": 4, "SpacingBetweenSlices": 4.4, "InstanceNumber": time}
        ds = picture(tiled(picture_of), Modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"], **place)
        if count:
            block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
            block.add_new(0x10, "OB", csa(NumberOfImagesInMosaic=[count], SliceNormalVector=normal))
        return ds

    return make


def test_untile():
    np.testing.assert_array_equal(untile(tiled(), 5), BODY)


@pytest.mark.parametrize("normal", [(0, 0, 1), (0, 0, -1)])
def test_slices_lie_where_nibabel_puts_them(mosaic, saved, normal):
    file = saved([mosaic(normal)])[0]
    scan = dicom.read(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom import dicomwrappers
        from pydicom import dcmread

        other = dicomwrappers.MosaicWrapper(dcmread(file))
        data, affine = other.get_data(), other.affine  # (rows, columns, slices) to LPS
    assert scan.shape == (5, 4, 6) and scan.spacing == (4.4, 2.0, 3.0) and any("mosaic" in note for note in scan.notes)
    inverse = np.linalg.inv(scan.affine)
    for r, c, k in np.ndindex(4, 6, 5):
        where = np.diag([-1, -1, 1, 1]) @ affine @ [r, c, k, 1]
        index = np.rint(inverse @ where)[:3].astype(int)
        np.testing.assert_allclose(scan.affine @ [*index, 1], where, atol=1e-6)
        assert scan.array[0][tuple(index)] == data[r, c, k]


def test_several_mosaics_are_time_points(mosaic, saved):
    from headwater.scans.formats import series

    (one,), _ = series.group(saved([mosaic(time=2, picture_of=BODY + 1), mosaic(time=1)]))
    np.testing.assert_array_equal(dicom.read(one.source).array, [BODY, BODY + 1])


@pytest.mark.parametrize(("count", "match"), [(0, "number of slices or direction"), (17, "do not fit"), (-3, "number of slices")])
def test_a_mosaic_that_cannot_be_cut_is_refused(mosaic, saved, count, match):
    with pytest.raises(UnreadableError, match=match) as caught:
        dicom.read(saved([mosaic(count=count)])[0])
    assert "dcm2niix" in str(caught.value)


def test_a_real_mosaic(odd):
    from nibabel.nicom import dicomwrappers

    file = next((odd / "dicom_mosaic").iterdir())
    scan, other = dicom.read(file), dicomwrappers.wrapper_from_file(file)
    np.testing.assert_array_equal(scan.array[0], np.moveaxis(other.get_data(), -1, 0))
    affine = np.diag([-1, -1, 1, 1]) @ other.affine  # (row, column, slice) to RAS
    np.testing.assert_allclose(scan.affine, affine[:, [2, 0, 1, 3]], atol=1e-6)
