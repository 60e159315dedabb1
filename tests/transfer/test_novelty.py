"""Novelty: kept bit for bit, fitted anew for other weights, other pictures stand out, too few scans and bad ones are named."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headwater.backbones import build
from headwater.errors import InputError
from headwater.flow.matching import Field, Likelihood, log_likelihood
from headwater.flow.novelty import PATH, STEP, Density
from headwater.scans import phantom
from headwater.scans.passport import look
from headwater.scans.prepare import prepare
from headwater.scans.store import Store
from headwater.train import state
from headwater.transfer import novelty

BACKBONE = {"family": "resenc", "size": "nano", "patch": 4, "channels": 1, "ndim": 2}


def write_state(run: Path, seed: int) -> None:
    network = torch.nn.ModuleDict({"backbone": build(**BACKBONE, seed=seed)})
    state.save(run / "state" / "pretrain.safetensors", 1, {"teacher": network}, backbone=BACKBONE)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("novelty")
    images, masks = phantom.write(folder / "scans", 50, (32, 32), 0)
    prepare(look(images, masks), folder / "run" / "store")
    write_state(folder / "run", 0)
    return folder / "run"


def exact(field: Field, x: torch.Tensor, *, path: Path, step: float) -> Likelihood:
    """What following an untrained flow gives after seconds: its Gaussian."""
    return Likelihood(field.start.log_density(path.end, x), x.new_zeros(len(x)), x.new_zeros(len(x)))


@pytest.fixture(autouse=True)
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each density was fitted on; without training and following the flow, which takes seconds."""
    calls, fit = [], Density.fit

    def quick(features: torch.Tensor, *, generator: torch.Generator) -> Density:
        calls.append(len(features))
        return fit(features, generator=generator, dims=4, steps=0)

    monkeypatch.setattr(Density, "fit", quick)
    monkeypatch.setattr("headwater.flow.novelty.log_likelihood", exact)
    return calls


def test_what_is_kept_gives_the_same_percentiles(run: Path, fitted: list[int]):
    first = novelty.familiar(run)
    again = novelty.familiar(run)
    store = Store.open(run / "store")
    assert len(fitted) <= 1 and first.scans == again.scans == len(store.split("train")) == 40
    for i in store.split("test"):
        assert first.score(store.image(i)) == again.score(store.image(i))
    for one, other in zip(first.density.members, again.density.members, strict=True):
        assert torch.equal(one.aside, other.aside) and one.summary.rest == other.summary.rest


def test_the_closed_form_is_the_flow(run: Path):
    member = novelty.familiar(run).density.members[0]
    x = member.summary.mean[None] + 0.5 * member.summary.scale
    told = member.field.start.log_density(PATH.end, member.summary(x))
    followed = log_likelihood(member.field, member.summary(x), path=PATH, step=2 * STEP)
    assert float(told[0]) == pytest.approx(float(followed.value[0]), abs=0.05)
    assert float(member.score(x).value[0]) == pytest.approx(float(replace(member, steps=100).score(x).value[0]), abs=1e-3)


def test_others_stand_out_and_the_words_say_so(run: Path):
    known, store = novelty.familiar(run), Store.open(run / "store")
    kept = [known.score(store.image(i))[0] for i in store.split("test")]
    noise = np.random.default_rng(0).standard_normal((4, 1, 32, 32))
    new = [known.score(image) for image in noise]
    assert np.mean(kept) < 85 and min(p for p, _ in new) == pytest.approx(known.highest) and new[0][1].startswith("new")
    assert known.words(96.0).startswith("unusual: more so than 96 %") and known.words(20.0).startswith("familiar: 20 %")


def test_other_weights_and_damage_mean_another_density(run: Path, tmp_path: Path, fitted: list[int]):
    novelty.familiar(run)
    copied = shutil.copytree(run, tmp_path / "run")
    fitted.clear()
    (copied / novelty.KEPT).write_bytes(b"not whole")
    before = novelty.familiar(copied)
    assert len(fitted) == 1
    write_state(copied, 5)
    after = novelty.familiar(copied)
    assert len(fitted) == 2
    assert not torch.equal(before.density.members[0].aside, after.density.members[0].aside)


def test_a_folder_is_scored_scan_by_scan(run: Path):
    scans = run.parent / "scans" / "images"
    rows = list(novelty.scored(run, scans))
    assert len(rows) == 50 and all(0 <= row.percentile <= 100 for row in rows)
    assert not any("phantom_011" in row.name for row in rows[:2]) and len({row.name for row in rows}) == 50


def test_what_cannot_be_scored_is_said(run: Path, phantoms: tuple[Path, Path], tmp_path: Path):
    row = next(iter(novelty.scored(run, phantoms[0])))
    assert math.isnan(row.percentile) and "has 3 axes" in row.sentence
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b nothing")
    shutil.copy(next(iter((run.parent / "scans" / "images").iterdir())), tmp_path / "good.nii.gz")
    said = {math.isnan(row.percentile) for row in novelty.scored(run, tmp_path)}
    assert said == {True, False}


def test_faults_are_named(run: Path, flat: Store, tmp_path: Path):
    with pytest.raises(InputError, match="holds no pretrained backbone"):
        novelty.familiar(tmp_path)
    shutil.copytree(flat.folder, tmp_path / "store")
    write_state(tmp_path, 0)
    with pytest.raises(InputError, match="needs 30 scans .* has 10"):
        novelty.familiar(tmp_path)
    with pytest.raises(InputError, match="NaN"):
        novelty.familiar(run).score(np.full((1, 32, 32), np.nan, np.float32))
