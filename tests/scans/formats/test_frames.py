"""Frames: what functional groups say, what ordinary files say."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from headwater.scans.formats import frames
from headwater.scans.scan import Source, UnreadableError

HERE = Source.of("made-up.dcm")


def item(**values):
    ds = Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


def grouped(**shared):
    ds = item(NumberOfFrames=2)
    ds.SharedFunctionalGroupsSequence = [item(PixelMeasuresSequence=[item(
        PixelSpacing=[2, 3], SliceThickness=4, SpacingBetweenSlices=-6)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])], **shared)]  # fmt: skip
    ds.PerFrameFunctionalGroupsSequence = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 6 * k])]) for k in (0, 1)]
    return ds


def test_shared_and_own_groups():
    first, second = frames.planes(grouped(), 2)
    assert first.spacing == (2, 3) and second.position == (0, 0, 6) and second.thickness == 4
    ds = grouped()
    ds.PerFrameFunctionalGroupsSequence[1].PixelMeasuresSequence = [item(PixelSpacing=[5, 5])]
    assert frames.planes(ds, 2)[1].spacing == (5, 5) and frames.between(ds) == 6


def test_frames_without_a_place():
    ds = grouped()
    assert frames.planes(ds, 3) is None  # more frames than groups
    del ds.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    assert frames.planes(ds, 2) is None and frames.planes(item(), 1) is None and frames.planes(item(), 5) is None


def test_scaling_of_the_file_of_all_frames_and_of_each():
    np.testing.assert_array_equal(frames.scaling(HERE, item(), 2), [[1, 0], [1, 0]])
    np.testing.assert_array_equal(frames.scaling(HERE, item(RescaleSlope=2, RescaleIntercept=-3), 2), [[2, -3], [2, -3]])
    ds = grouped(PixelValueTransformationSequence=[item(RescaleSlope=2, RescaleIntercept=1)])
    ds.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence = [item(RescaleSlope=4, RescaleIntercept=5)]
    np.testing.assert_array_equal(frames.scaling(HERE, ds, 2), [[2, 1], [4, 5]])
    with pytest.raises(UnreadableError, match="scales its values by 0"):
        frames.scaling(HERE, item(RescaleSlope=0), 1)
