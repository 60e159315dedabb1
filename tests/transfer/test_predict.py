"""Masks of new scans: at the same voxels of the file whatever its geometry, values the user's own, nobody's file replaced."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from headwater.errors import InputError
from headwater.interrupt import Interrupted
from headwater.scans.formats import segmentation
from headwater.scans.normalise import Window
from headwater.scans.readers import read, read_labels
from headwater.scans.ready import Rule
from headwater.scans.scan import Source
from headwater.transfer import model as models, novelty, predict as module, tiles
from headwater.transfer.predict import predict
from headwater.transfer.segment import Segmenter, untrained
from headwater.transfer.task import Task

ODD = Path(__file__).parents[3] / "shared" / "data" / "odd"
RNG = np.random.default_rng(0)


class Oracle(nn.Module):
    """Class k where the prepared value is nearest to k."""

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, size):
        return torch.stack([-20 * (x[:, 0] - k) ** 2 for k in range(self.classes)], 1)


def oracle(ndim=3, spacing=None, orientation="RAS", values=(0, 4, 300), unit=100.0, **changes):
    """A model for scans whose voxels are `unit` times their class."""
    window = Window(0.0, unit * (len(values) - 1), 0.0, unit)
    rule = Rule(spacing or (1.0,) * ndim, orientation, "set", values=values, fixed=(window,))
    task = Task(values, ("background", *(f"part {v}" for v in values[1:])))
    told = {"overlap": 0.5, "mirror": (), "largest": (), "precision": "fp32", "about": {}} | changes
    network = Segmenter(nn.Identity(), Oracle(len(values)), False, task).eval()
    return models.Trained(network, rule, task, (8,) * ndim, rule.spacing, **told)


@pytest.fixture
def use(monkeypatch, tmp_path):
    """use(model): the path of a file that is loaded as this model."""

    def make(model):
        file = tmp_path / "segmenter.safetensors"
        file.write_bytes(b"weights")
        monkeypatch.setattr(models, "load", lambda path: model)
        return file

    return make


def blocks(shape, classes=3):
    """Classes in boxes, not the same from any side."""
    mask = np.zeros(shape, np.uint8)
    for k in range(1, classes):
        mask[tuple(slice(n * k // 5 + i % 2, n * k // 5 + max(2, n // (2 + i % 2 + k))) for i, n in enumerate(shape))] = k
    return mask


def save(place, classes, affine, unit=100):
    place.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image((classes * unit).astype(np.int16), affine), place)


def tilted(spacing, seed=1):
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))[0] * spacing
    affine[:3, 3] = 11, -70, 3.5
    return affine


@pytest.mark.parametrize("seed", range(4))
def test_a_tilted_scan_comes_back_at_its_own_voxels(use, tmp_path, seed):
    affine = tilted((1.0, 1.0, 1.0), seed)
    mask = blocks((21, 34, 17))
    save(tmp_path / "in" / "a.nii.gz", mask, affine)
    (row,) = predict(use(oracle()), tmp_path / "in", tmp_path / "out")
    found = nibabel.load(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.array([0, 4, 300])[mask])
    np.testing.assert_array_equal(found.affine, nibabel.load(tmp_path / "in" / "a.nii.gz").affine)
    assert found.get_data_dtype() == np.uint16
    assert row["voxels"] == {"part 4": int((mask == 1).sum()), "part 300": int((mask == 2).sum())}
    assert row["ml"]["part 4"] == pytest.approx((mask == 1).sum() / 1000, abs=1e-3) and not row["fault"]


@pytest.mark.parametrize("memory", [2.0, 1e-5])
def test_thick_slices_are_resampled_and_brought_back(use, tmp_path, memory):
    """Voxels ten times as long as wide, flipped; the network sees them nearly isotropic."""
    mask = blocks((40, 44, 12), 2)
    save(tmp_path / "in" / "a.nii", mask, np.diag([-0.5, 0.5, -5.0, 1.0]))
    model = oracle(spacing=(1.0, 1.0, 1.25), values=(0, 4))
    (row,) = predict(use(model), tmp_path / "in", tmp_path / "out", memory=memory)
    found = read_labels(tmp_path / "out" / "a.nii.gz").array[0]
    assert 2 * ((found == 4) & (mask == 1)).sum() / ((found == 4).sum() + (mask == 1).sum()) > 0.95
    np.testing.assert_allclose(*(np.argwhere(m).mean(0) for m in (found == 4, mask == 1)), atol=0.1)
    assert any("10 times as long as wide: the model learned from 1 x 1 x 1.25 mm" in word for word in row["words"])


@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.slow), 10])
def test_all_48_orders_of_axes(use, tmp_path, each):
    if not (ODD / "orders").is_dir():
        pytest.skip("no odd files beside the checkout")
    files = sorted((ODD / "orders").glob("*.nii.gz"))
    assert len(files) == 48
    files = files[::each]
    (tmp_path / "in").mkdir()
    for file in files:
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    first = read(ODD / "orders" / "RAS.nii.gz")
    middle = float(np.median(first.array))
    model = oracle(spacing=first.spacing, values=(0, 1), unit=2 * middle)  # nothing is resampled
    rows = predict(use(replace(model, patch=(64, 64, 64))), tmp_path / "in", tmp_path / "out")
    assert len(rows) == len(files) and not any(row["fault"] for row in rows)
    for file in files:
        scan, found = read(file), read_labels(tmp_path / "out" / file.name)
        clear = np.abs(scan.array[0] - middle) > 0.01 * middle  # half precision
        np.testing.assert_array_equal(found.array[0][clear], (scan.array[0] > middle)[clear])
        np.testing.assert_array_equal(found.affine, scan.affine)


def test_a_dicom_series_gets_a_dicom_segmentation(use, tmp_path):
    pytest.importorskip("highdicom")
    if not (ODD / "dicom_series").is_dir():
        pytest.skip("no odd files beside the checkout")
    files = tuple(sorted((ODD / "dicom_series").iterdir()))
    scan = read(Source(files))
    middle = float(np.median(scan.array))
    model = oracle(spacing=scan.spacing, orientation=scan.orientation, values=(0, 1), unit=2 * middle)
    (row,) = predict(use(replace(model, patch=(32, 64, 64))), ODD / "dicom_series", tmp_path / "out")
    found = segmentation.onto(read_labels(tmp_path / "out" / "segmentation.dcm"), scan)[0]
    clear = np.abs(scan.array[0] - middle) > 0.01 * middle
    np.testing.assert_array_equal(found[clear], (scan.array[0] > middle)[clear])
    assert row["kind"] == "dicom" and row["voxels"]["part 1"] == int(found.sum())
    assert segmentation.names(tmp_path / "out" / "segmentation.dcm")[1] == "part 1"


def test_pictures_become_pictures(use, tmp_path):
    mask = blocks((30, 41))
    (tmp_path / "in" / "left").mkdir(parents=True)
    for name in ("a.png", "left/a.png", "b.bmp"):
        Image.fromarray(mask * 50).save(tmp_path / "in" / name)
    Image.fromarray(np.repeat(mask[:, :, None] * 50, 3, 2)).save(tmp_path / "in" / "grey.png")
    model = oracle(2, orientation="", unit=50.0, values=(0, 7, 9))
    rows = predict(use(model), tmp_path / "in", tmp_path / "out", probabilities=True)
    assert [bool(row["written"]) for row in rows] == [True] * 4 and rows[0]["ml"] == {"part 7": None, "part 9": None}
    for name in ("a.png", "left/a.png", "b.png", "grey.png"):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / name)), np.array([0, 7, 9])[mask])
    kept = np.load(tmp_path / "out" / "left" / "a_probabilities.npz")
    assert set(kept) == {"part 7", "part 9"} and kept["part 9"].dtype == np.float16
    np.testing.assert_array_equal(kept["part 9"] > 0.5, mask == 2)


def test_probabilities_lie_beside_the_mask_in_its_geometry(use, tmp_path):
    mask = blocks((12, 20, 16))
    save(tmp_path / "in" / "a.nii.gz", mask, np.diag([-2.0, 1.0, 1.0, 1.0]))
    predict(use(oracle()), tmp_path / "in", tmp_path / "out", probabilities=True)
    one, other = (nibabel.load(tmp_path / "out" / f"a_part_{v}_probability.nii.gz") for v in (4, 300))
    written = np.asarray(nibabel.load(tmp_path / "out" / "a.nii.gz").dataobj)
    np.testing.assert_array_equal(one.affine, np.diag([-2.0, 1.0, 1.0, 1.0]))
    sums = one.get_fdata() + other.get_fdata()
    assert sums.min() >= 0 and sums.max() <= 1.001
    clear = np.abs(other.get_fdata() - 0.5) > 0.01
    np.testing.assert_array_equal((other.get_fdata() > 0.5)[clear], (written == 300)[clear])


def test_only_the_largest_piece_where_the_model_says_so(use, tmp_path):
    mask = blocks((20, 20, 20), 2)
    stray = mask.copy()
    stray[-1, -1, -1] = 1
    save(tmp_path / "in" / "a.nii.gz", stray, np.eye(4))
    predict(use(oracle(values=(0, 1), largest=(1,))), tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(read_labels(tmp_path / "out" / "a.nii.gz").array[0], mask)


def test_a_folder_goes_on_after_what_cannot_be_used(use, tmp_path):
    inside = tmp_path / "in"
    for name in ("a.nii.gz", "sub/b.nii.gz"):
        save(inside / name, blocks((10, 11, 12)), np.eye(4))
    (inside / "c.nii.gz").write_bytes((inside / "a.nii.gz").read_bytes()[:-20])
    save(inside / "d.nii.gz", np.stack([blocks((10, 11, 12))] * 2, -1), np.eye(4))
    save(inside / "e.nii.gz", blocks((10, 11, 1)), np.eye(4))
    rows = predict(use(oracle()), inside, tmp_path / "out")
    faults = [row["fault"] for row in rows]
    assert len(rows) == 5 and sum(map(bool, faults)) == 3
    assert any("cut off" in fault for fault in faults) and any("2 channels, the model takes 1" in fault for fault in faults)
    assert any("2 axes, the model was made for volumes" in fault for fault in faults)
    written = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.nii.gz"))
    assert written == ["a.nii.gz", "sub/b.nii.gz"]


def test_what_is_done_is_not_done_again(use, tmp_path, monkeypatch):
    for name in "abc":
        save(tmp_path / "in" / f"{name}.nii.gz", blocks((10, 11, 12)), np.eye(4))
    file, out, asked = use(oracle()), tmp_path / "out", []
    real = module.read
    monkeypatch.setattr(module, "read", lambda source: asked.append(source) or real(source))
    first = predict(file, tmp_path / "in", out)
    assert len(asked) == 3
    assert predict(file, tmp_path / "in", out) == first and len(asked) == 3
    (out / "b.nii.gz").unlink()
    save(tmp_path / "in" / "c.nii.gz", blocks((10, 11, 14)), np.eye(4))
    predict(file, tmp_path / "in", out)
    assert len(asked) == 5 and read_labels(out / "c.nii.gz").shape == (10, 11, 14)
    file.write_bytes(b"other weights")
    predict(file, tmp_path / "in", out)
    assert len(asked) == 8


def test_nobodys_file_is_replaced(use, tmp_path):
    for name in "ab":
        save(tmp_path / "in" / f"{name}.nii.gz", blocks((10, 11, 12)), np.eye(4))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"mine")
    file = use(oracle())
    one, other = predict(file, tmp_path / "in", tmp_path / "out")
    assert "not written here" in one["fault"] and (tmp_path / "out" / "a.nii.gz").read_bytes() == b"mine" and other["written"]
    (tmp_path / "out" / "b.nii.gz").write_bytes(b"corrected by hand")
    file.write_bytes(b"other weights")
    assert "changed after it was written" in predict(file, tmp_path / "in", tmp_path / "out")[1]["fault"]
    assert (tmp_path / "out" / "b.nii.gz").read_bytes() == b"corrected by hand"


def test_masks_among_the_scans_are_refused(use, tmp_path):
    save(tmp_path / "in" / "a.nii.gz", blocks((10, 11, 12)), np.eye(4))
    before = (tmp_path / "in" / "a.nii.gz").read_bytes()
    for out in (tmp_path / "in", tmp_path / "in" / "masks"):
        with pytest.raises(InputError, match="lies among the scans"):
            predict(use(oracle()), tmp_path / "in", out)
    (row,) = predict(use(oracle()), tmp_path / "in" / "a.nii.gz", tmp_path / "in")  # one file, its own folder
    assert "would replace a scan" in row["fault"] and (tmp_path / "in" / "a.nii.gz").read_bytes() == before


def test_two_scans_of_one_name_get_two_masks(use, tmp_path):
    save(tmp_path / "in" / "a.nii.gz", blocks((10, 11, 12)), np.eye(4))
    np.save(tmp_path / "in" / "a.npy", blocks((10, 11, 13)) * 100.0)
    predict(use(oracle()), tmp_path / "in", tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").glob("*.gz")} == {"a.nii.gz.nii.gz", "a.npy.nii.gz"}


def test_the_record_names_nobody(use, tmp_path):
    save(tmp_path / "in" / "doe_jane_4711.nii.gz", blocks((10, 11, 12)), np.eye(4))
    rows = predict(use(oracle()), tmp_path / "in", tmp_path / "out")
    text = (tmp_path / "out" / "predictions.json").read_text()
    assert "jane" not in text and "4711" not in text and "jane" not in str(rows)
    assert json.loads(text)["rows"] == json.loads(json.dumps(rows)) and (tmp_path / "out" / "doe_jane_4711.nii.gz").exists()


def test_scores_that_are_not_finite_are_said(use, tmp_path):
    save(tmp_path / "in" / "a.nii.gz", blocks((10, 11, 12)), np.eye(4))
    model = oracle()
    model.network.forward = lambda x: torch.full((len(x), 3, *x.shape[2:]), float("nan"))
    (row,) = predict(use(model), tmp_path / "in", tmp_path / "out")
    assert "not finite" in row["fault"] and not (tmp_path / "out" / "a.nii.gz").exists()


def test_a_wish_to_stop_keeps_what_is_done(use, tmp_path, monkeypatch):
    for name in "abc":
        save(tmp_path / "in" / f"{name}.nii.gz", blocks((10, 11, 12)), np.eye(4))
    asked = iter([False, True])

    class Wishes:
        def __enter__(self):
            return lambda: next(asked)

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(module, "wishes", Wishes)
    with pytest.raises(Interrupted, match="after 1 of 3"):
        predict(use(oracle()), tmp_path / "in", tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["rows"]) == 1


def test_large_scans_stay_within_their_memory(use, tmp_path, monkeypatch):
    """Twelve classes on 2 million voxels of the file: all probabilities would be 96 MiB."""
    import tracemalloc

    values = tuple(range(12))
    mask = np.zeros((128, 128, 128), np.uint8)
    mask[20:100, 30:90, 40:110] = 11
    save(tmp_path / "in" / "a.nii", mask, np.diag([0.5, 0.5, 0.5, 1]))
    model = replace(oracle(values=values), patch=(16, 16, 16), overlap=0.25)
    file, made, real = use(model), [], tiles._zeros
    monkeypatch.setattr(
        tiles, "_zeros", lambda shape, *more: made.append((np.prod(shape) / 2**18, more[1])) or real(shape, *more)
    )
    tracemalloc.start()
    predict(file, tmp_path / "in", tmp_path / "out", memory=16 / 1024)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    one = 128**3 / 2**20  # MiB of a byte per voxel
    assert peak < 8 + 12 * one  # half of the memory; the scan as it is read, scaled and normalised, and its mask
    ((sums, file),) = made
    assert sums <= 8 and not file  # the other half


def test_a_real_model_from_its_file(solid, tiny, tmp_path, phantoms):
    settings = tiny(3)
    network = untrained("scratch", solid, settings)
    file = models.save(tmp_path / "run" / "adapt" / "segmenter.safetensors", network, solid, settings, arm="scratch")
    assert file.exists()
    first = sorted(phantoms[0].iterdir())[0]
    (row,) = predict(tmp_path / "run", first, tmp_path / "out", mirror=True)
    assert not row["fault"] and row["novelty"] is None
    one = next((tmp_path / "out").glob("*.nii.gz"))
    scan = nibabel.load(next(phantoms[0].glob(one.name)))
    assert nibabel.load(one).shape == scan.shape[:3] and set(np.unique(nibabel.load(one).dataobj)) <= set(solid.values)
    assert "allows it along no axis" in (tmp_path / "out" / "predictions.json").read_text()


def test_novelty_is_told_where_the_run_knows_it(use, tmp_path, monkeypatch):
    save(tmp_path / "in" / "a.nii.gz", blocks((10, 11, 12)), np.eye(4))
    run = tmp_path / "run"
    (run / "state").mkdir(parents=True)
    (run / "adapt").mkdir()
    use(oracle()).rename(run / "adapt" / "segmenter.safetensors")
    rows = predict(run, tmp_path / "in", tmp_path / "out")
    assert rows[0]["novelty"] is None  # there is no backbone in the run
    assert "novelty is not known" in (tmp_path / "out" / "predictions.json").read_text()
    seen = []
    monkeypatch.setattr(novelty, "familiar", lambda run, progress: object.__new__(novelty.Familiar))
    monkeypatch.setattr(novelty.Familiar, "score", lambda self, image: (seen.append(image.shape), (97.5, "unusual"))[1])
    rows = predict(run, tmp_path / "in", tmp_path / "other")
    assert rows[0]["novelty"] == {"percentile": 97.5, "sentence": "unusual"} and len(seen) == 1


def test_a_format_that_is_none_is_said(use, tmp_path):
    save(tmp_path / "in" / "a.nii.gz", blocks((10, 11, 12)), np.eye(4))
    with pytest.raises(InputError, match="cannot be written as mha"):
        predict(use(oracle()), tmp_path / "in", tmp_path / "out", format="mha")
    (row,) = predict(use(oracle()), tmp_path / "in", tmp_path / "out", format="png")
    assert "volume cannot be written as png" in row["fault"]
