"""Weights alone come back to the bit."""

import torch

from headwater.backbones import load
from headwater.opening import open_model
from headwater.transfer import model
from headwater.transfer.export.source import SEGMENTER, source
from headwater.transfer.export.weights import FILE, write


def test_a_backbone_comes_back_to_the_bit(make_run, tmp_path, images):
    for family in ("resenc", "vit"):
        run, out = make_run(tmp_path / family), tmp_path / f"{family}-out"
        out.mkdir()
        found = source(run)
        write(out, found)
        wanted = found.backbone(images())
        for path in (out / FILE, out):
            made = load(path)
            assert not made.missing and not made.unexpected
            features = made.backbone.eval()(images())
            assert torch.equal(features.tokens, wanted.tokens) and torch.equal(features.pooled, wanted.pooled)
        opened = open_model(out / FILE)
        assert torch.equal(opened.model(images()).tokens, wanted.tokens)
        assert not torch.equal(opened.untrained(images()).tokens, wanted.tokens)


def test_names_are_the_backbones_own(finished, tmp_path):
    from safetensors.torch import load_file

    write(tmp_path, source(finished))
    assert set(load_file(tmp_path / FILE)) == set(source(finished).backbone.state_dict())


def test_a_segmenter_goes_as_it_is(adapted, tmp_path, images):
    write(tmp_path, source(adapted))
    assert (tmp_path / FILE).read_bytes() == (adapted / SEGMENTER).read_bytes()
    wanted = source(adapted).trained.network
    assert torch.equal(model.load(tmp_path / FILE).network(images()), wanted(images()))
    assert torch.equal(load(tmp_path / FILE).backbone.eval()(images()).tokens, wanted.backbone(images()).tokens)
