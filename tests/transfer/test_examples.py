"""What is shown of the test scans."""

import json

import numpy as np
from headwater import runfolder
from headwater.transfer import adapt, examples


def test_the_slice_with_most_structure_is_shown():
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1:3, 1:4, 4] = 1
    mask[0, 0, 1] = 2
    assert examples.central(mask, mask.shape) == 4
    assert np.array_equal(examples.plane(mask, mask), mask[:, :, 4])
    assert examples.central(None, (4, 5, 6)) == 3
    flat = mask[:, :, 4]
    assert np.array_equal(examples.plane(flat, flat), flat)


def test_the_worst_come_first_and_the_first_scan_is_among_them():
    means = np.array([0.9, 0.1, 0.5, np.nan, 0.7, 0.3, 0.8, 0.6, 0.2, 0.4])
    shown = examples.chosen(means, 6)
    assert shown[:3] == [1, 8, 5] and 0 in shown
    known = [means[n] for n in shown if np.isfinite(means[n])]
    assert known == sorted(known) and len(set(shown)) == len(shown)
    assert examples.chosen(np.array([0.4]), 8) == [0]


def test_pictures_are_of_the_scans_they_name(flat, tmp_path):
    tests = adapt.testable(flat)
    masks = {f"mask{n}": examples.plane(np.asarray(flat.label(i)), flat.label(i)) for n, i in enumerate(tests)}
    np.savez(tmp_path / "job.npz", **masks)
    means = np.linspace(0.9, 0.5, len(tests))
    examples.write(flat, tmp_path, tmp_path / "job.npz", tests, means, {"arm": "scratch", "count": 2})
    notes, pictures = json.loads((tmp_path / "examples.json").read_text()), np.load(tmp_path / "examples.npz")
    assert [n["dice"] for n in notes] == sorted(means) and {n["subject"] for n in notes} == {flat.subjects[i] for i in tests}
    assert np.array_equal(pictures["truth"], pictures["prediction"])
    for note, image in zip(notes, pictures["image"], strict=True):
        scan = next(i for i in tests if flat.subjects[i] == note["subject"])
        size = flat.shape(scan)
        assert np.array_equal(image[: size[0], : size[1]], np.asarray(flat.image(scan)[0], np.float32))
    assert runfolder.read_json(tmp_path / "examples.json")[0]["arm"] == "scratch"
