"""What is said about a run, from made-up numbers."""

import math

import pytest

from headwater import runfolder
from headwater.report import conclusions


def summary(gains: dict[int, tuple[float, float, float]], scratch: dict[int, float] | None = None) -> dict:
    """A summary.json with these gains (Dice, low, high) of fine-tuning over `scratch`'s means."""
    scratch = scratch or {count: 0.5 + 0.05 * math.log2(count) for count in gains}
    table, found = [], []
    for count, (gain, low, high) in gains.items():
        for arm, plus in (("scratch", 0.0), ("frozen", -0.1), ("fine-tuned", gain)):
            value = scratch[count] + plus
            parts = {"head": value + 0.01, "tail": value - 0.01}
            whole = {"mean": value, "low": value - 0.02, "high": value + 0.02}
            table.append({"count": count, "arm": arm, **whole, "per_structure": parts})
        found.append({"count": count, "arm": "frozen", "gain": -0.1, "low": -0.2, "high": -0.05, "sentence": ""})
        found.append({"count": count, "arm": "fine-tuned", "gain": gain, "low": low, "high": high, "sentence": ""})
    arms = ["scratch", "frozen", "fine-tuned"]
    return {"counts": list(gains), "arms": arms, "draws": 3, "test_subjects": 40, "table": table, "gains": found}


def texts(found: list[dict[str, str]]) -> str:
    assert all(set(f) == {"text", "detail", "evidence"} for f in found)
    assert all(f["text"].endswith(".") and "nan" not in f["text"] + f["detail"] for f in found), found
    return " | ".join(f["text"] for f in found)


def test_a_gain_at_few_labels():
    said = texts(conclusions.worth(summary({1: (0.06, 0.02, 0.1), 4: (0.041, 0.019, 0.06), 16: (0.002, -0.01, 0.012)})))
    assert "Pretraining is worth it at 1 and 4 labels: +6.0 [2.0, 10.0] Dice at best." in said
    assert "At 16 labels: no evidence of a gain." in said
    assert "Mean Dice 64.1 with 4 labels (fine-tuned). Mean Dice 70.2 with 16 labels (fine-tuned)." in said


def test_no_evidence():
    said = texts(conclusions.worth(summary({1: (0.06, -0.02, 0.1), 4: (-0.01, -0.03, 0.02)})))
    assert said.startswith("No evidence that pretraining is worth it on these scans at this budget.")
    assert "labels with this backbone" not in said and "label with this backbone" not in said


def test_a_loss():
    said = texts(conclusions.worth(summary({1: (-0.06, -0.1, -0.02), 4: (0.01, -0.03, 0.02)})))
    assert "Pretraining costs accuracy at 1 label: -6.0 [-10.0, -2.0] Dice. Do not pretrain on these scans" in said
    assert "No evidence" not in said and "worth it at" not in said


def test_a_gain_and_a_loss():
    said = texts(conclusions.worth(summary({1: (0.06, 0.02, 0.1), 4: (0.01, -0.01, 0.02), 16: (-0.03, -0.04, -0.02)})))
    assert "worth it at 1 label: +6.0" in said and "At 4 labels: no evidence" in said
    assert "costs accuracy at 16 labels: -3.0 [-4.0, -2.0] Dice. Do not use it there." in said


def test_the_frozen_arm_does_not_decide():
    made = summary({4: (0.01, -0.01, 0.02)})
    for gain in made["gains"]:
        if gain["arm"] == "frozen":
            gain |= {"gain": 0.2, "low": 0.1, "high": 0.3}
    assert texts(conclusions.worth(made)).startswith("No evidence")


def test_what_adapting_concludes_is_said():
    made = summary({1: (0.06, 0.02, 0.1)}) | {"saved": {"sentence": "1 label does what 3 do."}, "choice": {"sentence": "Use it."}}
    assert "1 label does what 3 do. | Use it." in texts(conclusions.worth(made))
    assert "None" not in texts(conclusions.worth(made | {"saved": None, "choice": {}}))


def test_the_advice_stands_for_the_comparison():
    pairs = [{"sentence": "a against b: cannot tell."}, {"sentence": "c against b: worse."}]
    assert texts(conclusions.needed({"pairs": pairs})) == "a against b: cannot tell."
    found = conclusions.needed({"pairs": pairs, "advice": {"sentence": "Use a CNN.", "because": ["One.", "Two."]}})
    assert found == [{"text": "Use a CNN.", "detail": "One. Two.", "evidence": "comparison"}]
    assert conclusions.needed({}) == []


def test_nothing_adapted_says_nothing():
    assert conclusions.worth({}) == [] and conclusions.worth({"gains": [], "table": []}) == []


def test_unknown_numbers_do_not_stop_the_report():
    made = summary({1: (0.1, 0.0, 0.2)})
    for row in made["table"]:
        row |= {"mean": None, "low": None, "high": None}
    for gain in made["gains"]:
        gain |= {"gain": None, "low": None, "high": None}
    conclusions.worth(made)


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_one_test_subject_cannot_tell(nothing):
    made = summary({1: (0.1, 0.0, 0.2), 4: (-0.02, 0.0, 0.2)}) | {"test_subjects": 1}
    for row in [*made["gains"], *made["table"]]:
        row |= {"low": nothing, "high": nothing}
    said = conclusions.worth(made)
    assert texts(said).startswith("It cannot be told whether pretraining is worth it: one test subject. | Mean Dice")
    assert said[0]["detail"].endswith("by number of labels: 1: +10.0; 4: -2.0.") and "1 held-out subject," in said[1]["detail"]


def test_a_count_without_an_interval_is_not_called_no_evidence():
    made = summary({1: (0.1, 0.05, 0.2), 4: (0.02, 0.0, 0.2)})
    made["gains"][-1] |= {"low": None, "high": None}
    said = conclusions.worth(made)
    assert "worth it at 1 label: +10.0" in said[0]["text"] and "At 4" not in said[0]["text"] and "4: +2.0." in said[0]["detail"]


def test_what_was_watched():
    sentence = "Features are stable and not random: dense agreement 0.61 (chance 0.02)."
    told = {"verdict": {"state": "healthy", "sentence": sentence}}
    assert conclusions.watched(told) == [
        {"text": "Features are stable and not random.", "detail": "dense agreement 0.61 (chance 0.02).", "evidence": "training"}
    ]
    assert conclusions.watched({"why": "agreement needs 8 scans"})[0]["detail"] == "agreement needs 8 scans"
    assert conclusions.watched({}) == []


def test_what_was_set_aside():
    faults = [{"file": f"s{i}.nii.gz", "fault": "is cut off"} for i in range(5)]
    assert conclusions.set_aside({"quarantine": []}) == []
    one = conclusions.set_aside({"quarantine": faults[:1]})[0]
    assert one["text"] == "1 file was set aside." and one["detail"] == "s0.nii.gz: is cut off" and one["evidence"] == "data"
    many = conclusions.set_aside({"quarantine": faults})[0]
    assert many["text"] == "5 files were set aside." and many["detail"].endswith("; ...")


def test_what_is_odd():
    assert conclusions.odd({}) == [] and conclusions.odd({"duplicates": {"pairs": None}, "concerns": "x"}) == []
    one = conclusions.odd({"concerns": [{"kind": "size", "text": "1 scan is far from the rest"}]})[0]
    assert one["text"] == "1 thing to look at in the scans." and one["detail"] == "1 scan is far from the rest"
    two = conclusions.odd({"duplicates": {"pairs": [[1], [2]], "sentence": "2 found."}})[0]
    assert two == {"text": "2 near duplicates are kept.", "detail": "2 found.", "evidence": "data"}


def test_what_a_look_found():
    scans = [{"subject": f"s{i}", "mask": "m" if i else None} for i in range(3)]
    told = {"entries": scans, "sentences": ["3 volumes"], "rule": "plain folder: so it is", "label_names": {"1": "liver"}}
    said = conclusions.looked(told)
    assert texts(said) == "3 volumes. | Every file could be used. | There are masks for 2 of 3 subjects."
    assert said[0]["detail"] == "Plain folder: so it is" and said[-1]["detail"] == "liver"
    assert conclusions.looked(told | {"instances": True})[-1]["detail"] == "They number single objects."
    bare = [{"subject": "a", "group": group} for group in "xy"]
    assert texts(conclusions.looked({"entries": bare})).endswith("There are 2 classes and no masks.")
    assert texts(conclusions.looked({"entries": bare[:1]})).endswith("There is 1 class and there are no masks.")
    assert texts(conclusions.looked({"entries": [{"subject": "a"}]})).endswith("There are no masks.")


def test_how_the_voxels_are_distributed():
    tails = {"name": "tails of wavelet details", "value": 3, "sentence": "They are heavy (kurtosis 3, Gaussian 0): so it is."}
    gap = {"name": "clone gap", "value": 0.1, "sentence": "Higher orders matter: 90% against 80%."}
    said = conclusions.distributed({"findings": [gap, tails]})
    assert texts(said) == "They are heavy. | Higher orders matter."
    assert [s["detail"] for s in said] == ["Kurtosis 3, Gaussian 0: so it is.", "90% against 80%."]
    assert {s["evidence"] for s in said} == {"distribution"}
    assert conclusions.distributed({"findings": [gap | {"value": None}]}) == [] == conclusions.distributed({})


def test_a_run_and_a_look_open_with_different_sentences(fabricate, tmp_path):
    look = [s["text"] for s in conclusions.write(fabricate.looked(tmp_path / "look"))]
    run = [s["text"] for s in conclusions.write(fabricate.complete(tmp_path / "run"))]
    assert look[0].startswith("60 volumes") and "Higher orders matter." in look
    assert not any(text.startswith("60 volumes") for text in run) and not any("Wavelet" in text for text in run)
    assert "6 files were set aside. 2 things to look at in the scans. 1 near duplicate is kept." in run


def test_the_file_holds_what_was_said(tmp_path):
    runfolder.write_json(tmp_path / "adapt" / "summary.json", summary({1: (0.06, 0.02, 0.1), 4: (0.01, -0.01, 0.02)}))
    runfolder.write_json(tmp_path / "passport.json", {"quarantine": [{"file": "a.nii", "fault": "is blank"}]})
    found = conclusions.write(tmp_path)
    assert runfolder.read_json(tmp_path / "verdicts.json") == {"sentences": found} and len(found) >= 3
    assert {f["evidence"] for f in found} == {"labels", "data"}
    (tmp_path / "bare").mkdir()
    assert conclusions.write(tmp_path / "bare") == []
