"""nnU-Net's own networks take the checkpoint and answer as ours."""

import json

import pytest
import torch

from headwater.backbones import load
from headwater.backbones.nnunet import from_plan
from headwater.backbones.resenc import ResEnc
from headwater.errors import InputError
from headwater.transfer import model, segment
from headwater.transfer.export import nnunet
from headwater.transfer.export.source import source

CASES = [("resenc", 3, "nano"), ("resenc", 2, "nano"), ("unet", 3, "nano"), ("unet", 2, "nano")]


def checkpoint(folder):
    return torch.load(folder / nnunet.FILE, weights_only=True)


def theirs(folder, channels, classes=2):
    """nnU-Net's network, built from the plans as its get_network_from_plans does."""
    pytest.importorskip("dynamic_network_architectures")
    from pydoc import locate

    plans = json.loads((folder / nnunet.DATASET / f"{nnunet.PLANS}.json").read_text())
    told = next(iter(plans["configurations"].values()))["architecture"]
    kwargs = dict(told["arch_kwargs"])
    kwargs |= {key: locate(kwargs[key]) for key in told["_kw_requires_import"] if kwargs[key]}
    return locate(told["network_class_name"])(input_channels=channels, num_classes=classes, deep_supervision=True, **kwargs)


def turned(x):
    """(x, y, z) as (z, y, x)."""
    return x.permute(0, 1, 4, 3, 2) if x.ndim == 5 else x


@pytest.mark.parametrize(("family", "ndim", "size"), CASES)
def test_their_network_answers_as_ours(make_run, tmp_path, images, family, ndim, size):
    """By both ways: all names as -pretrained_weights takes them, encoder and stem alone as PretrainedTrainer does."""
    run, out = make_run(tmp_path / "run", family, ndim, 2, size), tmp_path / "out"
    out.mkdir()
    found = source(run)
    nnunet.write(out, found)
    saved, whole = checkpoint(out), theirs(out, 2)
    own = whole.state_dict()
    assert not [name for name in own if ".seg_layers." not in name and own[name].shape != saved["network_weights"][name].shape]
    whole.load_state_dict(own | saved["network_weights"])
    parts, plan = theirs(out, 2), saved["nnssl_adaptation_plan"]
    assert {plan["key_to_encoder"], plan["key_to_stem"]} == {parts.key_to_encoder, parts.key_to_stem}
    assert set(plan["keys_to_in_proj"]) == set(parts.keys_to_in_proj) and plan["pretrain_num_input_channels"] == 2
    for key in (plan["key_to_encoder"], plan["key_to_stem"]):
        under = {n.removeprefix(f"{key}."): t for n, t in saved["network_weights"].items() if n.startswith(f"{key}.")}
        parts.get_submodule(key).load_state_dict(under)
    x = images(ndim, 2, (32, 16, 24))
    wanted = found.backbone(x).pyramid
    for network in (whole.eval(), parts.eval()):
        for ours, them in zip(wanted, network.encoder(turned(x)), strict=True):
            torch.testing.assert_close(turned(them), ours, atol=1e-4, rtol=1e-4)


def test_a_volumes_axes_are_turned_round(images):
    """A network whose strides and kernels differ by axis: theirs has them in the order of its arrays."""
    ours = ResEnc(3, 1, (4, 6), (0, 1), 2, kernels=[[3, 3, 1], [3, 3, 3]], strides=[[1, 1, 1], [2, 2, 1]]).eval()
    made, added = nnunet.equivalent(ours)
    assert added and made.kernels == ((1, 3, 3), (3, 3, 3)) and made.steps == ((1, 1, 1), (1, 2, 2)) and made.bias
    x = images(3, 1, (12, 16, 8))
    for a, b in zip(ours(x).pyramid, made(turned(x)).pyramid, strict=True):
        torch.testing.assert_close(turned(b), a, atol=1e-4, rtol=1e-4)


def test_an_added_block_hands_on_and_learns():
    """Its residual branch starts at nothing, sees nothing of the raised offset, and has a gradient."""
    ours = ResEnc(2, 1, (4, 6), (0, 1), 2).eval()
    with torch.no_grad():
        ours.stem.norm.bias.uniform_(-2, 2)
        ours.stem.norm.weight.uniform_(-2, 2)
    made, _ = nnunet.equivalent(ours)
    block, stem = made.stages[0][0], made.stem.norm
    lift = stem.bias - ours.stem.norm.bias
    assert (lift > 0).all() and torch.equal(block.second.norm.bias, -lift)
    level = block.first.conv(lift.view(1, -1, 1, 1).expand(1, -1, 6, 6))  # with borders
    assert level.abs().max() < 1e-4 * lift.max()
    made(torch.randn(1, 1, 16, 16)).pyramid[0].square().sum().backward()
    assert block.second.norm.weight.grad.abs().max() > 0


def test_headwater_reads_it_back(finished, tmp_path, images):
    nnunet.write(tmp_path, source(finished))
    made = load(tmp_path / nnunet.FILE)
    assert not made.missing and "ResidualEncoderUNet" in made.source
    torch.testing.assert_close(
        made.backbone.eval()(images()).tokens, source(finished).backbone(images()).tokens, atol=1e-4, rtol=1e-4
    )


def test_plans_and_checkpoint_belong_together(make_run, tmp_path):
    run = make_run(tmp_path / "run", "resenc", 3)
    words = nnunet.write(tmp_path, source(run))
    plans = json.loads((tmp_path / nnunet.DATASET / f"{nnunet.PLANS}.json").read_text())
    plan, told = checkpoint(tmp_path)["nnssl_adaptation_plan"], plans["configurations"]["3d_fullres"]
    assert json.loads((tmp_path / nnunet.PLAN).read_text()) == plan
    assert told["architecture"]["arch_kwargs"] == plan["architecture_plans"]["arch_kwargs"]
    assert told["spacing"] == [2.0, 0.5, 1.0] and plan["pretrain_plan"]["configurations"]["headwater"]["patch_size"] == [
        20,
        32,
        24,
    ]
    assert told["patch_size"] == plan["recommended_downstream_patchsize"] == [24, 40, 24], "whole cells of 8"
    encoder, _ = from_plan(told["architecture"], 1, 2)
    assert [len(stage) for stage in encoder.stages] == [1, 1, 1, 1]
    assert any("one was added" in line for line in words) and any("(z, y, x)" in line for line in words)


def test_the_decoder_that_reconstructed_goes_with_it(finished, tmp_path):
    nnunet.write(tmp_path, source(finished))
    saved, ours = checkpoint(tmp_path)["network_weights"], source(finished).decoder
    assert torch.equal(saved["decoder.transpconvs.0.weight"], ours["steps.0.up.weight"])
    assert not saved["decoder.transpconvs.0.bias"].any() and not [name for name in saved if ".seg_layers." in name]


def test_a_segmenter_scores_as_ours(adapted, tmp_path, images):
    words = nnunet.write(tmp_path, source(adapted, "segmenter"))
    trained = source(adapted).trained
    network = theirs(tmp_path, 1, trained.task.logits)
    network.load_state_dict(checkpoint(tmp_path)["network_weights"])
    x = images(2, 1, (32, 24))
    with torch.no_grad():
        for them, ours in zip(network.eval()(x), trained.network(x, deep=True), strict=True):
            torch.testing.assert_close(them, ours, atol=1e-3, rtol=1e-3)
    assert any("-pretrained_weights" in line for line in words)


def test_what_nnunet_does_not_have_is_refused(make_run, tmp_path, flat, tiny):
    with pytest.raises(InputError, match="no network like the family parabolic"):
        nnunet.write(tmp_path, source(make_run(tmp_path / "pde", "parabolic")))
    run = make_run(tmp_path / "run")
    light = segment.untrained("frozen", flat, tiny(2), ("export",))
    model.save(run / "adapt" / "segmenter.safetensors", light, flat, tiny(2), arm="frozen")
    with pytest.raises(InputError, match="light head"):
        nnunet.write(tmp_path, source(run, "segmenter"))
