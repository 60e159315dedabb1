"""The card: every number of the run that it should have, no name that it should not, and what is missing."""

import json
import shutil

from headwater.transfer import model
from headwater.transfer.export.card import card
from headwater.transfer.export.source import source


def text(run, what=""):
    return card(source(run, what), [("model.safetensors", "weights")], "pass", ["A word."], "")


def test_numbers_stand_beside_their_nulls(finished):
    found = text(finished)
    assert "| one vector per image | 0.61 | 0.11 | 0.23 | 0.82 |" in found
    assert "Features are stable. agreement 0.40" in found
    assert "| 4 | scratch | 71.0 | 62.0 to 79.0 |" in found and "no evidence of a gain" in found
    assert "10 held-out subjects, 3 draws" in found and "steps of pretraining: 121" in found and "minutes: 3.1" in found
    assert "2 scans of 2 subjects; 1 to learn from, 1 kept for testing" in found and "MR (2)" in found
    assert "40 (40 to 40) x 48 (48 to 48)" in found and "sites or classes that the folders tell apart: 1" in found
    assert "0.5 mm" in found and "set aside as unreadable or unfit: 1" in found


def test_pictures_that_state_no_spacing_are_given_none(adapted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(adapted, run)
    told = json.loads((run / "passport.json").read_text())
    for entry in told["entries"]:
        entry["facts"] = entry["facts"] | {"spaced": False, "spacing": [1.0, 1.0]}
    (run / "passport.json").write_text(json.dumps(told))
    (run / "store").mkdir(exist_ok=True)
    (run / "store" / "index.json").write_text(json.dumps({"unit": "pixels", "spacing": [1.0, 1.0]}))
    found = text(run)
    assert "spacing in mm: not known" in found and " mm" not in found.replace("spacing in mm: not known", "")


def test_nobody_is_named(finished, adapted, secrets):
    for run in (finished, adapted):
        found = text(run)
        assert not [name for name in (*secrets, str(run), run.parent.name) if name in found]


def test_missing_stages_are_said(make_run, tmp_path):
    found = text(make_run(tmp_path / "run", full=False))
    assert "The backbone was not observed" in found and "Not tried with labels" in found
    assert "holds no passport.json" in found and "holds no settings.json" in found
    assert found.count("Missing from the run") == 3


def test_the_licence_is_left_to_the_user(finished):
    found = text(finished)
    header = found.split("---")[1]
    assert "# license: not chosen yet" in header and "library_name: headwater" in header and "Licence\n\nNot chosen" in found


def test_windows_of_a_set_are_told(make_run, tmp_path):
    import json

    run = make_run(tmp_path / "run")
    assert "clipped to its 0.5th and 99.5th percentile" in text(run)
    (run / "store").mkdir()
    window = [-100.0, 400.0, 40.0, 120.0]
    index = {"scheme": "set", "spacing": [1.0, 0.5], "records": [{"windows": [window]}]}
    (run / "store" / "index.json").write_text(json.dumps(index))
    assert "same low, high, mean and spread: [[-100.0, 400.0, 40.0, 120.0]]" in text(run)


def test_a_segmenter_says_so(adapted):
    found = text(adapted)
    assert "segmenter, fine-tuned from a pretrained backbone" in found and "- self-supervised" in found
    assert "- image-segmentation" in found and "arm of adapt: fine-tuned" in found and "steps of pretraining: 121" in found
    assert "No validation score of this very segmenter" in found
    assert "Scores are logits" in found and "0. background (value 0 in masks)\n1. " in found


def test_a_segmenter_from_scratch_is_not_called_pretrained(adapted, tmp_path):
    trained = model.load(adapted / "adapt" / "segmenter.safetensors")
    run = tmp_path / "run"
    shutil.copytree(adapted, run)
    told = {"arm": "scratch", "labels": 9, "validation": 2, "sentence": "The segmenter (scratch) learned from 9 labelled scans."}
    found = source(run)
    object.__setattr__(trained, "about", told)
    found.__dict__["trained"] = trained
    said = card(found, [("model.safetensors", "weights")], "pass", [], "")
    assert "Of the run's pretrained backbone, which is not in this file:" in said
    assert "trained from scratch: nothing pretrained is in it" in said and "labelled scans: 9" in said
    assert "self-supervised" not in said and "cva" not in said and "steps of pretraining" not in said
    assert told["sentence"] in said
