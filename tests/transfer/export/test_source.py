"""What a run holds for others, and what it does not."""

import json

import pytest
import torch

from headwater.errors import InputError
from headwater.transfer.export.source import source, words_of


def test_the_teachers_backbone_is_kept(finished, images):
    found = source(finished)
    assert found.what == "backbone" and found.told["family"] == "resenc" and not found.backbone.training
    mean = torch.stack([value.mean() for value in found.backbone.state_dict().values()]).mean()
    assert abs(float(mean)) < 0.8, "the student's is 1 higher"
    assert found.size == (24, 32) and found.patch == (24, 36) and found.spacing == (1.0, 0.5)
    assert words_of(found) == "resenc nano, 2D, cva" and "head.weight" in found.decoder


def test_the_segmenter_where_there_is_one(adapted):
    assert source(adapted).what == "segmenter" and source(adapted, "backbone").what == "backbone"
    found = source(adapted)
    assert found.size == found.patch == (24, 24) and found.network is found.trained.network and "head.bias" in found.decoder


def test_what_is_missing_or_damaged_is_left_out(make_run, tmp_path):
    run = make_run(tmp_path / "run", full=False)
    found = source(run)
    assert set(map(bool, found.records.values())) == {False} and found.size == (32, 32) and found.spacing == ()
    (run / "passport.json").write_text("{")
    (run / "settings.json").write_text("[1]")
    assert source(run).records["passport"] == source(run).records["settings"] == {}


def test_a_state_that_does_not_say_what_it_is(make_run, tmp_path):
    from safetensors.torch import load_file, save_file

    run = make_run(tmp_path / "run")
    state = run / "state" / "pretrain.safetensors"
    save_file(load_file(state), state, {"headwater": json.dumps({"step": 1})})
    with pytest.raises(InputError, match="does not say what network"):
        source(run)
    settings, passport = (json.loads((run / name).read_text()) for name in ("settings.json", "passport.json"))
    (run / "settings.json").write_text(json.dumps(settings | {"backbone": {"family": "resenc", "size": "nano", "patch": 4}}))
    (run / "passport.json").write_text(json.dumps(passport | {"channels": 1, "ndim": 2}))
    assert source(run).told["channels"] == 1


def test_what_is_no_run_is_refused(finished, tmp_path):
    with pytest.raises(InputError, match="is no run folder"):
        source(tmp_path / "nothing")
    with pytest.raises(InputError, match="is no run folder"):
        source(finished / "state" / "pretrain.safetensors")
    with pytest.raises(InputError, match="holds no trained network"):
        source(tmp_path)
    with pytest.raises(InputError, match="holds no segmenter: run headwater adapt"):
        source(finished, "segmenter")
    with pytest.raises(InputError, match="no 'head' in a run"):
        source(finished, "head")


def test_damaged_weights_are_refused(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    state = run / "state" / "pretrain.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(InputError, match="whole"):
        source(run)
