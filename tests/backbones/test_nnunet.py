"""Plans, names and numbers against nnU-Net's own networks."""

import pytest
import torch
from torch import nn

from headwater.backbones.decoder import Decoder
from headwater.backbones.nnunet import copy_nnunet, from_nnunet, from_plan, to_nnunet
from headwater.backbones.resenc import ResEnc
from headwater.backbones.unet import UNet
from headwater.errors import InputError

NETWORKS = ("ResidualEncoderUNet", "PlainConvUNet")
ISOTROPIC = ([[3] * 3] * 3, [[1] * 3, [2] * 3, [2] * 3])
ANISOTROPIC = ([[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2]])
FLAT = ([[3, 3]] * 3, [[1, 1], [2, 2], [2, 1]])
CASES = [(2, FLAT, (12, 8)), (3, ISOTROPIC, (8, 12, 8)), (3, ANISOTROPIC, (4, 16, 8))]
every = pytest.mark.parametrize("name", NETWORKS)
planned = pytest.mark.parametrize(("ndim", "shape", "size"), CASES, ids=["2D", "3D", "anisotropic"])


def plan(name, ndim, shape, bias=True, **changes):
    kernels, strides = shape
    count = len(kernels)
    blocks = "n_blocks_per_stage" if name == NETWORKS[0] else "n_conv_per_stage"
    given = {
        "n_stages": count,
        "features_per_stage": [4, 6, 8, 8][:count],
        "conv_op": f"torch.nn.modules.conv.Conv{ndim}d",
        "kernel_sizes": kernels,
        "strides": strides,
        blocks: [1, 3, 2, 2][:count],
        "n_conv_per_stage_decoder": [2, 1, 2][: count - 1],
        "conv_bias": bias,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{ndim}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    where = "dynamic_network_architectures.architectures.unet"
    return {"network_class_name": f"{where}.{name}", "arch_kwargs": given | changes}


def theirs(architecture, channels=2, classes=3):
    """The network that the plan names, built by its own library, with random gains."""
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    given = dict(architecture["arch_kwargs"])
    ndim = int(given["conv_op"][-2])
    given |= {"conv_op": (nn.Conv2d, nn.Conv3d)[ndim - 2], "nonlin": nn.LeakyReLU}
    given["norm_op"] = (nn.InstanceNorm2d, nn.InstanceNorm3d)[ndim - 2]
    kind = getattr(unet, architecture["network_class_name"].rsplit(".", 1)[-1])
    torch.manual_seed(0)
    network = kind(channels, num_classes=classes, deep_supervision=True, **given)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.normal_()
    return network


@every
@planned
@pytest.mark.parametrize("bias", [True, False])
def test_same_scores_and_gradients(name, ndim, shape, size, bias):
    architecture = plan(name, ndim, shape, bias)
    reference, (backbone, decoder) = theirs(architecture), from_plan(architecture, 2, 3)
    report = copy_nnunet(reference.state_dict(), backbone, decoder)
    assert not report.left_over and not report.missing
    x = torch.randn(2, 2, *size)
    left, right = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine, his = decoder(backbone(left), deep=True), reference(right)
    assert len(mine) == len(his) == len(shape[0]) - 1
    for a, b in zip(mine, his, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoder(backbone(x)), his[0], atol=1e-5, rtol=1e-5)
    weights = [torch.randn_like(b) / b.numel() ** 0.5 for b in his]
    for scores in (mine, his):
        sum((s * w).sum() for s, w in zip(scores, weights, strict=True)).backward()
    torch.testing.assert_close(left.grad, right.grad, atol=1e-5, rtol=1e-4)
    gradients = {n: p.grad for n, p in reference.named_parameters()}
    encoder, rest, _ = from_nnunet(gradients)
    own = [*((n, p, encoder) for n, p in backbone.named_parameters()), *((n, p, rest) for n, p in decoder.named_parameters())]
    assert len(own) == len(encoder) + len(rest)
    for n, p, expected in own:
        scale = max(1.0, expected[n].abs().max().item())
        torch.testing.assert_close(p.grad / scale, expected[n] / scale, atol=1e-5, rtol=0, msg=lambda m, n=n: f"{n}: {m}")


@every
@planned
def test_weights_travel_both_ways(name, ndim, shape, size):
    architecture = plan(name, ndim, shape)
    reference, (backbone, decoder) = theirs(architecture), from_plan(architecture, 2, 3)
    state = reference.state_dict()
    copy_nnunet(state, backbone, decoder)
    back = to_nnunet(backbone, decoder)
    assert set(back) == set(state)
    assert all(torch.equal(back[n], state[n]) and back[n].is_contiguous() for n in state)
    fresh, (other, another) = theirs(architecture), from_plan(architecture, 2, 3)
    fresh.load_state_dict(to_nnunet(other, another), strict=True)
    x = torch.randn(1, 2, *size)
    torch.testing.assert_close(fresh(x)[0], another(other(x)), atol=1e-5, rtol=1e-5)


def test_starts_as_nnunet_starts():
    """The last gain of every residual block is 0, biases are 0, and weights have He's spread."""
    architecture = plan(NETWORKS[0], 3, ISOTROPIC, features_per_stage=[16, 24, 32])
    reference, (backbone, decoder) = theirs(architecture), from_plan(architecture, 2, 3)
    reference.apply(reference.initialize)
    encoder, rest, _ = from_nnunet(reference.state_dict())
    for own, expected in ((backbone.state_dict(), encoder), (decoder.state_dict(), rest)):
        for n, p in own.items():
            if n.endswith("second.norm.weight") or n.endswith("conv.bias") or n.endswith("up.bias"):
                assert not p.any() and not expected[n].any(), n
            elif p.ndim > 1 and p.numel() > 1000:
                assert abs(p.std() / expected[n].std() - 1) < 0.15, n


def test_what_does_not_match_is_listed():
    architecture = plan(NETWORKS[0], 3, ISOTROPIC)
    state = theirs(architecture, channels=1, classes=5).state_dict() | {"projector.weight": torch.zeros(1)}
    del state["encoder.stages.1.blocks.2.conv1.norm.bias"]
    doubles = [n for n in state if "stages.1.blocks.2.conv1" in n and n.endswith(("norm.bias", "all_modules.1.bias"))]
    for n in doubles:
        if not n.startswith("decoder.stages"):
            del state[n]
    report = copy_nnunet(state, *from_plan(architecture, 2, 3))
    assert "projector.weight" in report.left_over
    assert any(n.startswith("encoder.stem.conv.weight") for n in report.left_over)
    assert "encoder.stem.conv.weight" in report.missing and "decoder.head.weight" in report.missing
    assert "encoder.stages.1.2.first.norm.bias" in report.missing
    assert "encoder.stages.0.0.first.conv.weight" in report.copied


def test_prefixes_of_wrapped_networks():
    architecture = plan(NETWORKS[1], 2, FLAT)
    state = {f"module._orig_mod.{n}": t for n, t in theirs(architecture).state_dict().items()}
    report = copy_nnunet(state, *from_plan(architecture, 2, 3))
    assert not report.left_over and not report.missing


@pytest.mark.parametrize("name", NETWORKS)
def test_kind_follows_the_plan(name):
    backbone, decoder = from_plan(plan(name, 3, ANISOTROPIC), 2, 3, deep=False)
    assert isinstance(backbone, ResEnc if name == NETWORKS[0] else UNet) and isinstance(decoder, Decoder)
    assert backbone.strides == ((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)) and decoder.coarse_heads is None


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("use InstanceNorm", {"norm_op": "torch.nn.BatchNorm3d"}),
        ("use InstanceNorm", {"norm_op_kwargs": {"affine": True, "eps": 1e-3}}),
        ("use InstanceNorm", {"norm_op_kwargs": {}}),
        ("use None", {"dropout_op": "torch.nn.Dropout3d"}),
        ("use torch.nn.LeakyReLU", {"nonlin": "torch.nn.ReLU"}),
        ("use 0.01", {"nonlin_kwargs": {"negative_slope": 0.2}}),
        ("give one per stage", {"strides": [[1] * 3, [2] * 3]}),
        ("BasicBlockD", {"bottleneck_channels": 4}),
        ("use odd ones", {"kernel_sizes": [[2] * 3] * 3}),
        ("powers of two", {"strides": [[1] * 3, [3] * 3, [2] * 3]}),
    ],
)
def test_plans_that_are_refused(words, changes):
    with pytest.raises(InputError, match=words):
        from_plan(plan(NETWORKS[0], 3, ISOTROPIC, **changes), 1, 2)


def test_other_networks_and_half_plans_are_refused():
    with pytest.raises(InputError, match="ResidualEncoderUNet or PlainConvUNet"):
        from_plan({"network_class_name": "x.Primus", "arch_kwargs": {}}, 1, 2)
    with pytest.raises(InputError, match="lacks n_stages"):
        from_plan({"network_class_name": NETWORKS[0], "arch_kwargs": {}}, 1, 2)
