"""Facts of one scan and its mask, and what is wrong with them."""

import gzip

import numpy as np
import pytest

from headwater.scans.examine import Seen, _blank, counted, examine, moments, percentiles
from headwater.scans.scan import Source


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_facts_of_a_scan_and_its_mask(tmp_path, save):
    array = np.abs(rng().normal(size=(9, 10, 8)) * 50).astype(np.float32)
    array[:, :, 0] = 0
    mask = np.zeros((9, 10, 8), np.uint8)
    mask[2:4, 2:5, 3:6] = 7
    seen = examine(
        Source.of(save(tmp_path / "a.nii.gz", array, (1, 1, 2.5))), Source.of(save(tmp_path / "m.nii.gz", mask, (1, 1, 2.5)))
    )
    facts = seen.facts
    assert (facts.shape, facts.spacing, facts.orientation, facts.dtype, facts.blank) == (
        (9, 10, 8),
        (1, 1, 2.5),
        "RAS",
        "float32",
        1,
    )
    assert facts.mean[0] == pytest.approx(array.mean(dtype=float)) and facts.spread[0] == pytest.approx(array.std(dtype=float))
    assert (facts.low[0], facts.high[0]) == pytest.approx(tuple(np.percentile(array, [0.5, 99.5])), rel=1e-5)
    assert (facts.least[0], facts.most[0]) == (array.min(), array.max())
    assert facts.clipped == pytest.approx(1 / array.size)
    assert seen.labels == {0: 720 - 18, 7: 18} and not seen.faults
    assert Seen.of(seen.plain(), seen.fingerprint).plain() == seen.plain()


def test_every_channel_has_its_own_numbers(tmp_path, save):
    array = np.stack([rng(i).normal(size=(6, 7, 5)) * 10**i for i in range(3)], axis=-1).astype(np.float32)
    facts = examine(Source.of(save(tmp_path / "a.nii.gz", array)), None).facts
    assert facts.channels == 3 and facts.spread == pytest.approx(tuple(array[..., i].std() for i in range(3)), rel=1e-4)


def test_a_clipped_range_is_seen(tmp_path, save):
    array = np.minimum(rng().normal(size=(20, 20)), 1.0).astype(np.float32)
    assert examine(Source.of(save(tmp_path / "a.nii.gz", array)), None).facts.clipped == pytest.approx((array == 1).mean())


@pytest.mark.parametrize(
    "change, kind, words",
    [
        (lambda a: a * 0 + 7, "blank", "every voxel is 7"),
        (lambda a: np.where(a == a.max(), np.nan, a), "nan", "1 voxels that are NaN"),
        (lambda a: np.where(a == a.max(), np.inf, a), "nan", "infinite"),
    ],
)
def test_a_faulty_scan_gives_no_facts(tmp_path, save, change, kind, words):
    seen = examine(Source.of(save(tmp_path / "a.nii.gz", change(rng().normal(size=(5, 6, 7))).astype(np.float32))), None)
    assert seen.facts is None and seen.faults[0][0] == "scan" and seen.faults[0][3] == kind and words in seen.faults[0][1]
    assert Seen.of(seen.plain(), None) == seen


def test_a_faulty_file_or_mask_is_named_by_its_role(tmp_path, save):
    scan = save(tmp_path / "a.nii.gz", rng().normal(size=(5, 6, 7)).astype(np.float32))
    small = save(tmp_path / "m.nii.gz", np.ones((5, 6, 6), np.uint8))
    away = save(tmp_path / "n.nii.gz", np.ones((5, 6, 7), np.uint8), affine=np.diag([1, 1, -1, 1.0]))
    for mask, words in ((small, "5 x 6 x 6 voxels, its scan is 5 x 6 x 7"), (away, "lies elsewhere")):
        seen = examine(Source.of(scan), Source.of(mask))
        assert seen.facts is not None and seen.labels is None and words in seen.faults[0][1] and seen.faults[0][0] == "mask"
    raw = gzip.decompress(scan.read_bytes())
    scan.write_bytes(gzip.compress(raw[: len(raw) // 2]))
    seen = examine(Source.of(scan), None)
    assert seen.facts is None and seen.faults[0][3] == "unreadable" and str(tmp_path) not in str(seen.faults)


def test_counted_is_unique():
    for labels in (rng().integers(0, 9, (4, 5)), np.array([[0, 70_000], [3, 3]])):
        values, counts = np.unique(labels, return_counts=True)
        assert counted(labels.astype(np.int32)) == dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_blank_slices_are_counted_across_the_shortest_axis():
    array = rng().normal(size=(1, 9, 4, 9)).astype(np.float32)
    array[:, 2] = 1  # crosses every slice
    array[:, :, 1] = 3
    assert _blank(array) == 1 and _blank(array[:, :, 1]) == 0


def test_moments_are_those_of_numpy():
    flat = (rng().normal(size=2_500_000) * 30 + 4e3).astype(np.float32)
    assert moments(flat) == pytest.approx((flat.mean(dtype=np.float64), flat.std(dtype=np.float64)), rel=1e-12)
    clipped = np.clip(flat.astype(np.float64), 3990, 4020)
    assert moments(flat, 3990, 4020) == pytest.approx((clipped.mean(), clipped.std()), rel=1e-12)


def test_upright_brings_every_axis_order_together():
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

    from headwater.scans.examine import upright
    from headwater.scans.scan import Scan

    head = rng().normal(size=(4, 5, 6)).astype(np.float32)  # RAS
    for way in ("RAS", "PIR", "SLA", "ASR"):
        there = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(way))
        turned = apply_orientation(head, there)
        scan = Scan(turned[None], (1.0, 1.0, 1.0), inv_ornt_aff(there, head.shape), Source(()))
        assert scan.orientation == way and upright(scan).shape[1:] == head.shape
        assert np.array_equal(np.sort(upright(scan), axis=None), np.sort(head, axis=None))


def test_percentiles_are_numpys():
    for n in (1, 2, 777):
        values = rng(n).normal(size=n).astype(np.float32)
        assert percentiles(values, (0.5, 50, 99.5)) == pytest.approx(np.percentile(values, [0.5, 50, 99.5]).tolist(), rel=1e-6)
