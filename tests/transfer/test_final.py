"""The segmenter to use: learned from all but a fifth, saved whole, kept when it is there."""

from dataclasses import replace

import numpy as np
import pytest
from headwater import runfolder
from headwater.transfer import draws, final, model, segment


def test_a_fifth_of_the_subjects_is_kept_back(flat):
    learned, held = final.split(flat, 0)
    assert len(held) == 2 and set(learned) | set(held) == set(draws.trainable(flat))
    assert not {flat.subjects[i] for i in learned} & {flat.subjects[i] for i in held} and final.split(flat, 0) == (learned, held)
    assert any(final.split(flat, seed)[1] != held for seed in (1, 2, 3))
    doubled = replace(flat, records=tuple({**r, "subject": f"s{i // 2}"} for i, r in enumerate(flat.records)))
    learned, held = final.split(doubled, 0)
    assert not {doubled.subjects[i] for i in learned} & {doubled.subjects[i] for i in held} and len(held) == 2


def test_of_few_subjects_nobody_is_kept_back(flat):
    few = replace(flat, records=flat.records[:4])
    learned, held = final.split(few, 0)
    assert held == [] and learned == draws.trainable(few)


@pytest.fixture(scope="module")
def made(flat, tiny, tmp_path_factory):
    settings, folder, steps = tiny(2), tmp_path_factory.mktemp("final"), []
    told = final.train("scratch", flat, settings, folder, None, lambda: steps.append(1))
    return settings, folder, told, steps


def test_it_says_what_it_is_and_predicts_as_it_did(flat, made):
    settings, folder, told, steps = made
    assert (told["arm"], told["labels"], told["validation"], len(steps)) == ("scratch", 8, 2, settings.adapt.steps)
    assert 0 <= told["dice"] <= 1 and set(told["per_structure"]) == set(flat.names[1:]) and "8 labelled scans" in told["sentence"]
    loaded = model.load(folder / "segmenter.safetensors")
    assert loaded.about["dice"] == told["dice"] and [flat.names[k] for k in loaded.largest] == told["largest"]
    learned, held = final.split(flat, settings.seed)
    again = segment.fit("scratch", flat, learned, settings, None, ("adapt", "final"))
    for i in held:
        assert np.array_equal(*(segment.predict(n, flat.image(i), settings) for n in (loaded.network, again)))


def test_one_that_is_there_is_kept_and_another_arm_replaces_it(flat, made, monkeypatch):
    settings, folder, told, _ = made
    fitted, fit, steps = [], segment.fit, []
    monkeypatch.setattr(segment, "fit", lambda *given: fitted.append(given[0]) or fit(*given))
    assert final.train("scratch", flat, settings, folder, None, lambda: steps.append(1)) == told
    assert not fitted and len(steps) == settings.adapt.steps
    other = final.train("random-frozen", flat, settings, folder, None, lambda: None)
    assert fitted == ["random-frozen"] and runfolder.read_json(folder / "segmenter.json") == other


def test_too_few_to_validate_is_said(flat, tiny, tmp_path):
    few = replace(flat, records=flat.records[:3])
    told = final.train("scratch", few, tiny(2), tmp_path, None, lambda: None)
    assert told["dice"] is None and told["largest"] == [] and "too few to keep some back" in told["sentence"]
