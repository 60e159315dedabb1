"""Networks of others beside ours, with the same weights: what benchmarks/backbones.py compares."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from headwater.backbones import Decoder
from headwater.backbones.nnunet import copy_nnunet, from_plan
from headwater.backbones.swin import Swin


class Segmenter(nn.Module):
    """Encoder and decoder."""

    def __init__(self, encoder: nn.Module, decoder: Decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> list[Tensor]:
        """Scores at every scale, finest first."""
        return self.decoder(self.encoder(x), deep=True)


def arguments(widths: Sequence[int], blocks: Sequence[int]) -> dict[str, Any]:
    """What nnU-Net's planner asks of ResidualEncoderUNet: biased convolutions, one per stage up."""
    return {
        "n_stages": len(widths),
        "features_per_stage": list(widths),
        "conv_op": nn.Conv3d,
        "kernel_sizes": [[3, 3, 3]] * len(widths),
        "strides": [[1, 1, 1], *[[2, 2, 2]] * (len(widths) - 1)],
        "n_blocks_per_stage": list(blocks),
        "n_conv_per_stage_decoder": [1] * (len(widths) - 1),
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }


def resenc_pair(widths: Sequence[int], blocks: Sequence[int], classes: int = 3) -> tuple[Segmenter, nn.Module]:
    """Ours and nnU-Net's ResidualEncoderUNet for one plan, deep supervision on, with its weights."""
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
    from dynamic_network_architectures.initialization.weight_init import InitWeights_He

    given = arguments(widths, blocks)
    torch.manual_seed(0)
    theirs = ResidualEncoderUNet(1, num_classes=classes, deep_supervision=True, **given).apply(InitWeights_He(1e-2))
    plan = {"network_class_name": "ResidualEncoderUNet", "arch_kwargs": given | {"conv_op": "torch.nn.Conv3d"}}
    encoder, decoder = from_plan(plan, 1, classes)
    told = copy_nnunet(theirs.state_dict(), encoder, decoder)
    assert not told.left_over and not told.missing, told
    return Segmenter(encoder, decoder), theirs


def swin_pair(width: int) -> tuple[Swin, nn.Module]:
    """Our Swin and the encoder of MONAI's SwinUNETR, version 1, window 7, with the same weights.

    Its last merging, which has no counterpart here, is taken out; mergingv2 has the 2^3 neighbours in our order.
    """
    from monai.networks.nets.swin_unetr import SwinTransformer

    depths, heads = (2, 2, 2, 2), (3, 6, 12, 24)
    torch.manual_seed(0)
    ours = Swin(3, 1, width, depths, heads, patch=4, window=7)
    theirs = SwinTransformer(1, width, (7, 7, 7), (2, 2, 2), depths, heads, spatial_dims=3, downsample="mergingv2")
    stages = [getattr(theirs, f"layers{i + 1}")[0] for i in range(len(depths))]
    with torch.no_grad():
        kernel = theirs.patch_embed.proj
        copy(ours.embed.weight, kernel.weight.flatten(1))
        copy(ours.embed.bias, kernel.bias)
        for i, (stage, other) in enumerate(zip(ours.stages, stages, strict=True)):
            for block, twin in zip(stage, other.blocks, strict=True):
                block.norm_attention.load_state_dict(twin.norm1.state_dict())
                block.norm_mix.load_state_dict(twin.norm2.state_dict())
                block.attention.qkv.load_state_dict(twin.attn.qkv.state_dict())
                block.attention.out.load_state_dict(twin.attn.proj.state_dict())
                copy(block.attention.table, twin.attn.relative_position_bias_table)
                block.mix[0].load_state_dict(twin.mlp.linear1.state_dict())
                block.mix[2].load_state_dict(twin.mlp.linear2.state_dict())
            if i < len(depths) - 1:
                ours.merges[i].norm.load_state_dict(other.downsample.norm.state_dict())
                ours.merges[i].reduce.load_state_dict(other.downsample.reduction.state_dict())
    stages[-1].downsample = None
    return ours, theirs


def stage_of(theirs: nn.Module, x: Tensor, stage: int) -> Tensor:
    """What a stage of MONAI's encoder hands to its merging, normalised as our pyramid is."""
    seen: list[Tensor] = []
    block = getattr(theirs, f"layers{stage + 1}")[0].blocks[-1]
    hook = block.register_forward_hook(lambda module, given, found: seen.append(found))
    theirs(x)
    hook.remove()
    return nn.functional.layer_norm(seen[0], seen[0].shape[-1:]).movedim(-1, 1)


def copy(mine: Tensor, other: Tensor) -> None:
    """Of one shape, or an error."""
    assert mine.shape == other.shape, (mine.shape, other.shape)
    mine.copy_(other)
