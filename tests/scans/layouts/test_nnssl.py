"""nnssl's JSON: what the corpus does not show."""

import json

import pytest
from corpus import volume

from headwater.errors import InputError
from headwater.scans.layouts import understand


def _told(image: object) -> dict:
    return {"datasets": {"1": {"subjects": {"s": {"sessions": {"ses-DEFAULT": {"images": [image]}}}}}}}


def test_prefixes_are_folders_and_nothing_is_asked_of_the_environment(tmp_path, monkeypatch):
    volume(tmp_path / "data/a.nii.gz")
    monkeypatch.setenv("nnssl_raw", str(tmp_path.parent))
    for prefix in ("", "./", "$nnssl_raw/", "$ANYTHING/", f"{tmp_path}/"):
        (tmp_path / "pretrain_data.json").write_text(
            json.dumps(_told({"image_path": f"{prefix}data/a.nii.gz", "modality": "CT"}))
        )
        (item,) = understand(tmp_path).items
        assert (item.name, item.subject, item.session, item.modality) == ("data/a.nii.gz", "s", "", "CT")
    (tmp_path / "pretrain_data.json").write_text(json.dumps(_told({"image_path": "$nnssl_raw/../../etc/passwd"})))
    with pytest.raises(InputError, match="leads out of the folder"):
        understand(tmp_path)


def test_two_data_sets_keep_their_subjects_apart(tmp_path):
    for name in ("a", "b"):
        volume(tmp_path / f"{name}.nii.gz")
    one, other = (_told({"image_path": f"{name}.nii.gz"})["datasets"]["1"] for name in ("a", "b"))
    (tmp_path / "pretrain_data.json").write_text(json.dumps({"datasets": {"1": one, "2": other}}))
    assert understand(tmp_path).subjects == ["1/s", "2/s"]


def test_json_of_any_shape_ends_in_a_sentence(tmp_path):
    volume(tmp_path / "a.nii.gz")
    odd = (None, 3, "x", [], {}, [1], {"a": 1}, {"a": []}, True)
    whole = (
        [_told(value) for value in odd] + [{"datasets": {"1": value}} for value in odd] + [{"datasets": value} for value in odd]
    )
    whole += [_told({"image_path": "gone.nii.gz", "associated_masks": value}) for value in odd]
    for told in whole:
        (tmp_path / "pretrain_data.json").write_text(json.dumps(told))
        with pytest.raises(InputError, match=r"(No scan in|holds no scan).*\.$"):
            understand(tmp_path)
