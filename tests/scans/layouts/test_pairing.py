"""Which mask belongs to which scan."""

from pathlib import Path, PurePosixPath

import pytest

from headwater.scans.layouts.pairing import beside, for_a_role, in_mask_folder, pair, shortest


def _paths(*names):
    return [Path("/data") / f"{name}.nii.gz" for name in names]


@pytest.mark.parametrize(
    ("scans", "masks", "expected"),
    [(["a", "b"], ["m/b", "m/a"], {"a": "m/a", "b": "m/b"}),
     (["a_0000", "b_0000"], ["m/a", "m/b"], {"a_0000": "m/a", "b_0000": "m/b"}),
     (["a_0000", "a_0001", "b_0000", "b_0001"], ["m/a"], {"a_0000": "m/a", "a_0001": "m/a"}),
     (["a"], ["m/a_seg"], {"a": "m/a_seg"}), (["a"], ["m/a_seg", "m/a_mask"], {"a": "m/a_seg"}),
     (["a"], ["m/1/a_seg", "m/2/a_mask"], {}), (["x/a"], ["m/1/a", "m/2/a"], {}),
     (["sub-1_T1w", "sub-2_T1w"], ["m/sub-2_dseg"], {"sub-2_T1w": "m/sub-2_dseg"}),
     (["sub-1_T1w", "sub-1_T2w"], ["m/sub-1_dseg"], {}),
     (["s/p1/t1", "s/p2/t1"], ["m/p2/t1"], {"s/p2/t1": "m/p2/t1"}), (["a"], ["m/b"], {}),
     (["p1/images/x", "p2/images/x"], ["p1/masks/x", "p2/masks/x"], {"p1/images/x": "p1/masks/x", "p2/images/x": "p2/masks/x"}),
     (["train/images/1", "test/images/1"], ["train/labels/1", "test/labels/1"],
      {"train/images/1": "train/labels/1", "test/images/1": "test/labels/1"}),
     (["a_image"], ["m/a_label"], {"a_image": "m/a_label"})],
)  # fmt: skip
def test_pairs(scans, masks, expected):
    (scans, masks), names = (_paths(*scans), _paths(*masks)), expected.items()
    assert pair(scans, masks) == {_paths(s)[0]: _paths(m)[0] for s, m in names}


def test_formats_may_differ():
    scans, masks = [PurePosixPath("i/a.png"), PurePosixPath("i/b.jpg")], [PurePosixPath("l/a.tif"), PurePosixPath("l/b_mask.png")]
    assert pair(scans, masks) == dict(zip(scans, masks, strict=True))


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["t1", "t1_seg-manual", "t2"], {"t1_seg-manual": ["t1"]}),
     (["t2", "t2_fake_lesion", "t2_fake_lesion_lesion_seg"], {"t2_fake_lesion_lesion_seg": ["t2_fake_lesion"]}),
     (["t2", "t2_seg", "t2_seg_labeled"], {"t2_seg": ["t2"], "t2_seg_labeled": ["t2"]}),
     (["B_1_t1", "B_1_flair", "B_1_seg", "B_2_t1", "B_2_seg"], {"B_1_seg": ["B_1_t1", "B_1_flair"], "B_2_seg": ["B_2_t1"]}),
     (["imaging", "segmentation"], {"segmentation": ["imaging"]}), (["x_image", "x_label"], {"x_label": ["x_image"]}),
     (["asl_label", "length"], {}), (["a_seg", "b_seg"], {}), (["segovia_t1", "t1"], {}), (["a", "a_length"], {}),
     ([f"s{i}" for i in range(9)] + ["mask"], {"mask": []}), (["p/a", "q/a_seg"], {})],
)  # fmt: skip
def test_beside(names, expected):
    found = beside([PurePosixPath(f"{name}.nii.gz") for name in names])
    assert {str(m)[:-7]: [str(s)[:-7] for s in scans] for m, scans in found.items()} == expected


def test_every_mask_found_beside_is_no_scan_of_another():
    names = [PurePosixPath(f"{a}{b}.nii") for a in "xyz" for b in ("", "_seg", "_mask", "_seg_mask", "_manual-label", "_t1")]
    found = beside(names)
    assert len(found) == 12 and not set(found) & {scan for scans in found.values() for scan in scans}


def test_words_in_folders():
    assert (
        in_mask_folder(Path("a/labelsTr/x.nii"))
        and in_mask_folder(Path("Masks/b/x.nii"))
        and in_mask_folder(Path("ground_truth/x"))
    )
    assert not in_mask_folder(Path("labels.nii")) and not in_mask_folder(Path("unmasked/x.nii"))
    assert for_a_role("imagesTr") and for_a_role("masks") and not for_a_role("CXR")
    assert shortest([Path("b/cc"), Path("a/dd"), Path("x/eee")]) == Path("b/cc") or shortest(
        [Path("b/cc"), Path("a/dd")]
    ) == Path("a/dd")
