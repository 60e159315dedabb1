"""One file that predicts as the network did, and refuses what it is not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from headwater.errors import InputError
from headwater.scans.normalise import Window
from headwater.scans.ready import Rule
from headwater.settings import change
from headwater.transfer import model, segment
from safetensors.torch import load_file, save_file


def changed(path, words: dict | None, tensors: dict | None = None) -> None:
    """The file with other words or tensors."""
    header = {} if words is None else {"headwater": json.dumps(words)}
    save_file(load_file(path) if tensors is None else tensors, path, metadata=header)


def words_of(path) -> dict:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["headwater"])


@pytest.fixture
def saved(flat, tiny, tmp_path):
    network = segment.untrained("scratch", flat, tiny(2), ("model",)).eval()
    return model.save(tmp_path / "segmenter.safetensors", network, flat, tiny(2), arm="scratch")


@pytest.mark.parametrize(("arm", "family"), [("scratch", "resenc"), ("frozen", "vit"), ("scratch", "swin")])
def test_predictions_are_the_same_to_the_bit(flat, tiny, tmp_path, arm, family):
    settings = tiny(2, f"backbone.family={family}", "adapt.mirror=1", "adapt.overlap=0.25", "precision=bf16")
    network = segment.untrained(arm, flat, settings, ("model",)).eval()
    path = model.save(tmp_path / "run" / "m.safetensors", network, flat, settings, arm=arm, largest=(1, 3), about={"labels": 4})
    made = model.load(path)
    for i in (0, 1):
        ours, theirs = (segment.predict(n, flat.image(i), settings) for n in (network, made.network))
        assert np.array_equal(ours, theirs)
    x = torch.from_numpy(np.array(flat.image(0), np.float32))[None]
    with torch.no_grad():
        assert torch.equal(network(x), made.network(x)) and not made.network.training
    assert made.task == network.task and made.patch == (24, 24) and made.spacing == flat.spacing and made.overlap == 0.25
    assert made.mirror == (1,) and made.largest == (1, 3) and made.precision == "bf16"
    assert made.about == {"arm": arm, "labels": 4} and made.rule == Rule.of(flat)


def test_regions_and_windows_of_the_set_are_in_it(flat, tiny, tmp_path):
    settings = change(tiny(2), "adapt.regions=1+2+3,2+3,3")
    store = replace(flat, scheme="set", channels=1)
    network = segment.untrained("scratch", store, settings)
    made = model.load(model.save(tmp_path / "m.safetensors", network, store, settings, arm="scratch"))
    assert made.task.regions == ((1, 2, 3), (2, 3), (3,)) and made.network.task.logits == 3
    assert made.rule.fixed == store.windows(0) and isinstance(made.rule.fixed[0], Window) and made.rule == Rule.of(store)


def test_solid_scans_too(solid, tiny, tmp_path):
    network = segment.untrained("scratch", solid, tiny(3)).eval()
    made = model.load(model.save(tmp_path / "m.safetensors", network, solid, tiny(3), arm="scratch"))
    assert np.array_equal(*(segment.predict(n, solid.image(0), tiny(3)) for n in (network, made.network)))


def test_nothing_that_is_no_whole_segmenter_is_loaded(saved, tmp_path):
    with pytest.raises(InputError, match="There is no segmenter"):
        model.load(tmp_path / "none.safetensors")
    whole = saved.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:20], b"", b"\x80\x04." + whole):
        saved.write_bytes(part)
        with pytest.raises(InputError, match="no whole segmenter"):
            model.load(saved)
    saved.write_bytes(whole)
    for words in (None, {"step": 3, "backbone": {}}, [1]):
        changed(saved, words)
        with pytest.raises(InputError, match="holds no segmenter of Headwater"):
            model.load(saved)


def test_words_that_do_not_fit_are_refused(saved):
    words, whole = words_of(saved), saved.read_bytes()
    assert words["kind"] == "segmenter"
    wrong = [
        {**words, "task": {**words["task"], "values": [0, 1]}},
        {**words, "backbone": {**words["backbone"], "family": "vit"}},
        {**words, "backbone": {**words["backbone"], "what": 1}},
        {**words, "rule": {"spacing": 3}},
        {**words, "decoder": None},
        {k: v for k, v in words.items() if k != "patch"},
    ]
    for one in wrong:
        saved.write_bytes(whole)
        changed(saved, one)
        with pytest.raises(InputError, match="damaged"):
            model.load(saved)
    saved.write_bytes(whole)
    changed(saved, {**words, "format": 99})
    with pytest.raises(InputError, match="format 99"):
        model.load(saved)
    saved.write_bytes(whole)
    tensors = load_file(saved)
    tensors.pop(sorted(tensors)[0])
    changed(saved, words, tensors)
    with pytest.raises(InputError, match="damaged"):
        model.load(saved)
