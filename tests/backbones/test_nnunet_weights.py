"""Encoders of nnU-Net and nnssl compute the same here: dynamic-network-architectures is the oracle."""

import json

import pytest
import torch
from foreign import Bomb, dynamic, nnssl_file, nnunet_file, plan

from headwater.backbones.loading import load
from headwater.errors import InputError

KINDS = ["ResidualEncoderUNet", "PlainConvUNet"]


def same(ours, theirs, channels=2, ndim=3):
    """Every map of the encoder, and the gradients of image and first convolution, to 1e-5."""
    x = torch.randn(2, channels, *(8, 16, 16)[-ndim:], generator=torch.Generator().manual_seed(0))
    mine, yours = x.clone().requires_grad_(), x.clone().requires_grad_()
    maps, skips = ours(mine).pyramid, theirs.encoder(yours)
    assert len(maps) == len(skips)
    draw = torch.Generator().manual_seed(1)
    weights = [torch.randn(skip.shape, generator=draw) for skip in skips]
    for ours_, theirs_ in zip(maps, skips, strict=True):
        torch.testing.assert_close(ours_, theirs_, atol=1e-5, rtol=1e-5)
    sum((m * w).mean() for m, w in zip(maps, weights, strict=True)).backward()
    sum((m * w).mean() for m, w in zip(skips, weights, strict=True)).backward()
    torch.testing.assert_close(mine.grad, yours.grad, atol=1e-5, rtol=1e-5)
    first = next(p for n, p in ours.named_parameters() if n.endswith("conv.weight"))
    foreign = next(p for n, p in theirs.encoder.named_parameters() if n.endswith("conv.weight"))
    torch.testing.assert_close(first.grad, foreign.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_nnunet_computes_the_same(kind, ndim, tmp_path):
    architecture = plan(kind, ndim)
    theirs = dynamic(architecture)
    content = nnunet_file(theirs, {"architecture": architecture, "patch_size": [8, 16, 16]})
    torch.save(content, tmp_path / "checkpoint_final.pth")
    loaded = load(tmp_path)
    assert (loaded.backbone.ndim, loaded.backbone.channels) == (ndim, 2)
    same(loaded.backbone, theirs, ndim=ndim)
    assert loaded.missing == () and kind in loaded.source
    taken = {name for names in loaded.matched.values() for name in names}
    assert taken | set(loaded.unexpected) == {f"network_weights.{n}" for n in theirs.state_dict()} | content.keys() - {
        "network_weights"
    }
    assert all(name.removeprefix("network_weights.").startswith(("encoder.", "decoder.encoder.")) for name in taken)
    assert all(name in str(loaded) for name in loaded.unexpected)


@pytest.mark.parametrize("kind", KINDS)
def test_plans_before_2_4_and_plans_that_inherit(kind, tmp_path):
    architecture = plan(kind)
    told = architecture["arch_kwargs"] | {"features_per_stage": [4, 8, 12]}
    theirs = dynamic(architecture | {"arch_kwargs": told})
    old = {
        "UNet_class_name": kind,
        "UNet_base_num_features": 4,
        "unet_max_num_features": 12,
        "n_conv_per_stage_encoder": told.get("n_blocks_per_stage") or told["n_conv_per_stage"],
        "n_conv_per_stage_decoder": [1, 1],
        "pool_op_kernel_sizes": told["strides"],
        "conv_kernel_sizes": told["kernel_sizes"],
    }
    content = nnunet_file(theirs, old)
    configurations = content["init_args"]["plans"]["configurations"]
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres"}
    content["init_args"]["configuration"] = "3d_cascade_fullres"
    torch.save(content, tmp_path / "w.pth")
    same(load(tmp_path / "w.pth").backbone, theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("written", [False, True])
def test_a_checkpoint_of_nnssl_computes_the_same(kind, written, tmp_path):
    architecture = plan(kind)
    theirs = dynamic(architecture)
    content = nnssl_file(theirs, kind, architecture["arch_kwargs"])
    content["nnssl_adaptation_plan"]["architecture_plans"]["arch_kwargs"] |= {"nonlin": "torch.nn.modules.activation.LeakyReLU"}
    if written:
        content["nnssl_adaptation_plan"] = json.dumps(content["nnssl_adaptation_plan"])
    torch.save(content, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth")
    same(loaded.backbone, theirs)
    assert loaded.source == f"nnssl {kind} of w.pth" and "citations" in loaded.unexpected


def test_the_preset_of_openmind_is_read_off_the_weights(tmp_path):
    architecture = plan()
    told = architecture["arch_kwargs"] | {"kernel_sizes": [[3] * 3] * 3, "strides": [[1] * 3, [2] * 3, [2] * 3]}
    theirs = dynamic(architecture | {"arch_kwargs": told}, 1)
    torch.save(nnssl_file(theirs, "ResEncL", None, 1), tmp_path / "w.pth")
    same(load(tmp_path / "w.pth").backbone, theirs, 1)


def test_names_that_wrappers_lengthened(tmp_path):
    architecture = plan()
    theirs = dynamic(architecture)
    content = nnunet_file(theirs, {"architecture": architecture})
    content["network_weights"] = {f"module._orig_mod.{name}": value for name, value in content["network_weights"].items()}
    torch.save(content, tmp_path / "w.pth")
    same(load(tmp_path / "w.pth").backbone, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_channels_are_answered_as_before(kind, tmp_path):
    architecture = plan(kind)
    theirs = dynamic(architecture)
    torch.save(nnunet_file(theirs, {"architecture": architecture}), tmp_path / "w.pth")
    grey = torch.randn(1, 1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = theirs.encoder(grey.expand(-1, 2, -1, -1, -1))
    for channels in (1, 3):
        loaded = load(tmp_path / "w.pth", channels=channels)
        for ours, skip in zip(loaded.backbone(grey.expand(-1, channels, -1, -1, -1)).pyramid, whole, strict=True):
            torch.testing.assert_close(ours, skip, atol=1e-4, rtol=1e-4)
        assert "2 channels summed" in str(loaded)
        first, own = (
            next(v for n, v in net.state_dict().items() if n.endswith("conv.weight")) for net in (loaded.backbone, theirs)
        )
        torch.testing.assert_close(first.sum(1), own.sum(1))  # the norm behind it would hide a factor


def test_an_alias_that_says_something_else_is_listed(tmp_path):
    architecture = plan()
    content = nnunet_file(dynamic(architecture), {"architecture": architecture})
    content["network_weights"] = {name: value.clone() for name, value in content["network_weights"].items()}
    content["network_weights"]["decoder.encoder.stem.convs.0.conv.weight"] += 1
    torch.save(content, tmp_path / "w.pth")
    assert "network_weights.decoder.encoder.stem.convs.0.conv.weight" in load(tmp_path / "w.pth").unexpected


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    architecture = plan()
    content = nnunet_file(dynamic(architecture), {"architecture": architecture})
    content["init_args"]["plans"]["more"] = Bomb(tmp_path / "it ran")
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="could run code when read"):
        load(tmp_path / "w.pth")
    assert not (tmp_path / "it ran").exists()


def changed(change, tmp_path, file=nnunet_file):
    architecture = plan()
    theirs = dynamic(architecture)
    configuration = {"architecture": architecture}
    content = nnunet_file(theirs, configuration) if file is nnunet_file else nnssl_file(theirs, "ResEncL", None)
    content["network_weights"] = dict(content["network_weights"])
    change(content)
    torch.save(content, tmp_path / "w.pth")
    return load(tmp_path / "w.pth")


def architecture_of(content):
    return content["init_args"]["plans"]["configurations"]["3d_fullres"]["architecture"]


FAULTS = [
    (lambda c: c.pop("init_args"), "neither init_args"),
    (lambda c: c["init_args"].pop("configuration"), "do not say what the network is"),
    (lambda c: c.update(init_args=[1]), "no mapping of settings"),
    (lambda c: c["init_args"].update(configuration="4d"), "do not say what the network is"),
    (lambda c: architecture_of(c).update(network_class_name="a.b.MedNeXt"), "of a MedNeXt, which Headwater does not have"),
    (
        lambda c: architecture_of(c)["arch_kwargs"].update(features_per_stage=[4, 6, 10]),
        "widths .4, 6, 10., .* the weights do not",
    ),
    (lambda c: architecture_of(c)["arch_kwargs"].update(features_per_stage=[4, 6, 10**9]), "the weights do not"),
    (lambda c: architecture_of(c)["arch_kwargs"].update(n_blocks_per_stage=[1, 2, 10**9]), "the weights do not"),
    (lambda c: architecture_of(c)["arch_kwargs"].update(kernel_sizes=[[3, 3, 3]] * 3), "kernels .* the weights do not"),
    (lambda c: architecture_of(c)["arch_kwargs"].update(norm_op="torch.nn.BatchNorm3d"), "BatchNorm3d"),
    (lambda c: architecture_of(c)["arch_kwargs"].update(nonlin_kwargs={"negative_slope": 0.2}), "slope 0.2"),
    (lambda c: architecture_of(c)["arch_kwargs"].pop("strides"), "lacks strides"),
    (lambda c: architecture_of(c)["arch_kwargs"].pop("kernel_sizes"), "not whole"),
    (lambda c: architecture_of(c)["arch_kwargs"].update(stem_channels=10**9), "stem 1000000000 wide"),
    (
        lambda c: c["network_weights"].update({"encoder.stages.0.blocks.0.se.weight": torch.ones(1)}),
        "parts that our encoders do not",
    ),
    (lambda c: c["network_weights"].update({"encoder.stem.convs.0.norm.weight": torch.full((4,), torch.nan)}), "not finite"),
    (lambda c: c.update(network_weights={"backbone.w": torch.ones(1)}), "not one name|no convolution"),
]


@pytest.mark.parametrize(("change", "says"), FAULTS)
def test_faults_of_nnunet_are_one_sentence(change, says, tmp_path):
    with pytest.raises(InputError, match=says) as told:
        changed(change, tmp_path)
    assert "\n" not in str(told.value)


NNSSL_FAULTS = [
    (lambda p: p["architecture_plans"].update(arch_class_name="PrimusM"), "of a PrimusM, which Headwater does not have"),
    (lambda p: p["architecture_plans"].update(arch_class_name="PlainConvUNet"), "no arch_kwargs"),
    (lambda p: p.pop("architecture_plans"), "names no architecture"),
    (lambda p: p.update(key_to_encoder="net.stages"), "no residual encoder under 'net.'"),
]


@pytest.mark.parametrize(("change", "says"), NNSSL_FAULTS)
def test_faults_of_nnssl_are_one_sentence(change, says, tmp_path):
    with pytest.raises(InputError, match=says):
        changed(lambda content: change(content["nnssl_adaptation_plan"]), tmp_path, nnssl_file)


def test_another_dimension_is_refused(tmp_path):
    architecture = plan(ndim=2)
    torch.save(nnunet_file(dynamic(architecture), {"architecture": architecture}), tmp_path / "w.pth")
    with pytest.raises(InputError, match="use ndim=2"):
        load(tmp_path / "w.pth", ndim=3)
