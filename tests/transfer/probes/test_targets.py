"""Targets: kinds told from words, tables matched to files or subjects, masks to tokens, volumes."""

from pathlib import Path

import numpy as np
import pytest

from headwater.errors import InputError
from headwater.transfer.probes import targets


@pytest.mark.parametrize(
    ("words", "kind", "values", "names"),
    [
        (["a", "b", "", "a"], "classes", [0, 1, -1, 0], ("a", "b")),
        (["3", "1", "nan", "3"], "classes", [1, 0, -1, 1], ("1", "3")),
        (["3.5", "1", "?", "-2e3"], "number", [3.5, 1, np.nan, -2000], ()),
        (["x|y", "y", "", "z;x"], "labels", [[1, 1, 0], [0, 1, 0], [np.nan] * 3, [1, 0, 1]], ("x", "y", "z")),
    ],
)
def test_kinds_are_told_from_the_words(words, kind, values, names):
    found = targets.of_words("column", words)
    assert (found.kind, found.names) == (kind, names)
    np.testing.assert_array_equal(found.values, values)


def test_many_whole_numbers_are_a_number():
    assert targets.of_words("age", [str(n) for n in range(40, 60)]).kind == "number"


def test_columns_without_an_answer_and_with_names_are_refused():
    with pytest.raises(InputError, match="column sex has no answer"):
        targets.of_words("sex", ["", "NA"])
    with pytest.raises(InputError, match="another word for every image"):
        targets.of_words("note", [f"word {n}" for n in range(12)])


@pytest.mark.parametrize("key", ["images/s1.nii.gz,images/s2.nii.gz", "s1.nii.gz,s2.nii.gz", "s1,s2", "P01,P02"])
def test_a_table_names_files_or_subjects(tmp_path: Path, key: str):
    one, two = key.split(",")
    (tmp_path / "t.csv").write_text(f"name,age,side\n{two},61.5,L\n{one},40,R\nother,7,R\n")
    files = ["images/s1.nii.gz", "images/s2.nii.gz", "images/s3.nii.gz"]
    found, words = targets.of_table(tmp_path / "t.csv", files, ["P01", "P02", "P03"])
    assert [t.name for t in found] == ["age", "side"] and words == ["1 of 3 images are not in the table"]
    np.testing.assert_array_equal(found[0].values, [40, 61.5, np.nan])
    np.testing.assert_array_equal(found[1].values, [1, 0, -1])


def test_tables_that_do_not_fit_are_named(tmp_path: Path):
    place = tmp_path / "t.csv"
    place.write_text("name,age\nsomebody,3\n")
    with pytest.raises(InputError, match="files or the subjects"):
        targets.of_table(place, ["a.png"], ["a"])
    place.write_text("name\na\n")
    with pytest.raises(InputError, match="no column beside"):
        targets.of_table(place, ["a.png"], ["a"])
    place.write_bytes(b"\xff\xfe\x00\x01name,age")
    with pytest.raises(InputError, match="cannot be read as a table"):
        targets.of_table(place, ["a.png"], ["a"])


@pytest.mark.parametrize("size", [(8, 12), (7, 10), (5, 6, 9)])
def test_a_token_is_what_most_of_its_voxels_are(size):
    rng = np.random.default_rng(0)
    mask = rng.choice([0, 1, 2, 255], size, p=[0.4, 0.3, 0.2, 0.1])
    mask[tuple(slice(0, 4) for _ in size)] = 255
    grid = [-(-n // 4) for n in size]
    found = targets.of_mask(mask, grid, [4] * len(size), 3).reshape(grid)
    for place in np.ndindex(*grid):
        cell = mask[tuple(slice(4 * p, 4 * p + 4) for p in place)]
        counts = [(cell == k).sum() for k in range(3)]
        if sum(counts) == 0:
            assert found[place] == -1
        else:
            assert counts[found[place]] == max(counts)
    assert found[(0,) * len(size)] == -1


def test_volumes_are_in_the_units_of_the_spacing():
    masks = [np.zeros((4, 4, 4), int), np.ones((4, 4, 4), int)]
    masks[0][0] = 2
    one, two = targets.volumes(masks, [(1, 1, 0.5), (2, 2, 2)], ("background", "head", "tail"))
    assert one.name == "volume of head" and one.values.tolist() == [0, 512] and two.values.tolist() == [8, 0]
