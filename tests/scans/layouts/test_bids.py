"""BIDS: what the corpus does not show."""

from corpus import mask, text, volume

from headwater.scans.layouts import understand


def test_only_the_column_of_ids_is_read(tmp_path):
    volume(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz")
    text(tmp_path / "participants.tsv", "name\tparticipant_id\nSecretname\tsub-01\nOther\t02\n")
    text(tmp_path / "sub-01/anat/sub-01_T1w.json", {"PatientName": "Secretname"})
    found = understand(tmp_path)
    assert "Secretname" not in repr(found) and any("lists 1 without a scan" in note for note in found.notes)
    for content in ("", "a\tb\n", "\0\n"):
        text(tmp_path / "participants.tsv", content)
        assert any("cannot be read as a table" in note for note in understand(tmp_path).notes)


def test_modality_session_and_subject(tmp_path):
    volume(tmp_path / "sub-A1/ses-pre/anat/sub-A1_ses-pre_acq-highres_run-1_T1w.nii.gz")
    volume(tmp_path / "sub-A1/ses-post/anat/sub-A1_ses-post_FLAIR.nii.gz")
    volume(tmp_path / "sub-A1/ses-post/fmap/sub-A1_ses-post_phasediff.nii.gz")
    volume(tmp_path / "sourcedata/sub-A1/anat/sub-A1_T1w.nii.gz")
    mask(tmp_path / "sub-A1/ses-post/anat/sub-A1_ses-post_defacemask.nii.gz")
    found = understand(tmp_path)
    assert {(item.subject, item.session, item.modality) for item in found.items} == {
        ("sub-A1", "pre", "T1w"),
        ("sub-A1", "post", "FLAIR"),
    }
    assert any("2 images are neither raw scans nor masks" in note for note in found.notes)


def test_a_mask_goes_to_the_run_and_modality_it_names(tmp_path):
    for rest in ("run-1_T1w", "run-2_T1w", "T2w"):
        volume(tmp_path / f"sub-1/anat/sub-1_{rest}.nii.gz")
    mask(tmp_path / "derivatives/m/sub-1/anat/sub-1_run-2_dseg.nii.gz")
    mask(tmp_path / "derivatives/m/sub-1/anat/sub-1_T2w_seg-manual.nii.gz")
    found = {item.name.rpartition("/")[2][6:-7]: item.mask for item in understand(tmp_path).items}
    assert found["run-1_T1w"] is None and found["run-2_T1w"].path.name == "sub-1_run-2_dseg.nii.gz"
    assert found["T2w"].path.name == "sub-1_T2w_seg-manual.nii.gz"


def test_a_mask_of_a_modality_that_is_not_there_is_unpaired(tmp_path):
    volume(tmp_path / "sub-1/anat/sub-1_acq-fine_T1w.nii.gz")
    volume(tmp_path / "sub-1/anat/sub-1_FLAIR.nii.gz")
    mask(tmp_path / "derivatives/m/sub-1/anat/sub-1_T2w_dseg.nii.gz")
    mask(tmp_path / "derivatives/m/sub-1/anat/sub-1_dseg.nii.gz")
    found = understand(tmp_path)
    assert [fault.kind for fault in found.faults] == ["unpaired"]
    assert {item.modality: bool(item.mask) for item in found.items} == {"T1w": True, "FLAIR": False}


def test_free_words_of_names_are_not_said(tmp_path):
    for who in ("1", "2"):
        volume(tmp_path / f"sub-{who}/anat/sub-{who}_Secretname.nii.gz")
        mask(tmp_path / f"derivatives/m/sub-{who}/anat/sub-{who}_desc-Secretname_dseg.nii.gz")
        mask(tmp_path / f"derivatives/m/sub-{who}/anat/sub-{who}_desc-manual_dseg.nii.gz")
    found = understand(tmp_path)
    assert found.masked and "other images" in found.rule and "Secretname" not in repr((found.rule, found.notes))


def test_one_kind_of_mask_for_all(tmp_path):
    for who in ("1", "2", "3"):
        volume(tmp_path / f"sub-{who}/anat/sub-{who}_T1w.nii.gz")
        mask(tmp_path / f"derivatives/a/sub-{who}/anat/sub-{who}_desc-brain_mask.nii.gz")
    mask(tmp_path / "derivatives/a/sub-1/anat/sub-1_label-WM_dseg.nii.gz")
    text(tmp_path / "derivatives/a/desc-x_dseg.tsv", "index\tname\n0\tBackground\n1\tWhite\nx\ty\n")
    found = understand(tmp_path)
    assert [item.mask and item.mask.path.name for item in found.items] == ["sub-1_label-WM_dseg.nii.gz", None, None]
    assert found.label_names == {1: "White"} and any("left are desc-brain_mask" in note for note in found.notes)
