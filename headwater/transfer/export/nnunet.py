"""A checkpoint and plans for nnU-Net v2: our residual or plain encoder under its names, in its order of axes.

nnU-Net reads volumes as (z, y, x), Headwater as (x, y, z): every kernel is turned round, so that its network answers a volume as
ours does. Facts of what it takes: nnU-Net 2.8.1 (-pretrained_weights), its PretrainedTrainer and nnssl's adaptation plan.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headwater.backbones.convolutions import CONV, CONV_TRANSPOSED
from headwater.backbones.decoder import Decoder
from headwater.backbones.nnunet import arch_kwargs, initialise, to_nnunet
from headwater.backbones.resenc import ResEnc
from headwater.backbones.unet import UNet
from headwater.errors import InputError
from headwater.runfolder import plain, write_json
from headwater.streams import seeded
from headwater.transfer.export.source import Source

FILE, PLAN = "checkpoint_final.pth", "adaptation_plan.json"  # as nnssl names them
DATASET, PLANS = "Dataset999_Headwater", "headwaterPlans"  # what nnUNetv2_move_plans_between_datasets is given
THEIRS = {ResEnc: "ResidualEncoderUNet", UNet: "PlainConvUNet"}
SPREADS = 32.0  # of the stem's values: what lies further below their mean is compressed where a block is added


def write(folder: Path, source: Source) -> tuple[str, ...]:
    """The checkpoint, nnssl's adaptation plan beside it, and nnU-Net's plans for a data set to come.

    Returns: what must be known. Raises: InputError for a family that nnU-Net does not have, and a segmenter that has no U-Net.
    """
    if type(source.backbone) not in THEIRS:
        raise InputError(
            f"nnU-Net has no network like the family {source.told['family']}: only resenc and unet go to it. "
            "Export it with --to safetensors, huggingface or onnx."
        )
    if source.trained and not source.decoder:
        raise InputError(
            "The segmenter of this run has a light head, which no nnU-Net has: export the backbone (--what backbone)."
        )
    encoder, added = equivalent(source.backbone)
    decoder, inherited = _decoder(encoder, source)
    plan = adaptation_plan(source, encoder)
    weights = to_nnunet(encoder, decoder)
    if not source.trained:  # of no known classes
        weights = {name: tensor for name, tensor in weights.items() if ".seg_layers." not in name}
    torch.save({"network_weights": weights, "nnssl_adaptation_plan": plan, "citations": []}, folder / FILE)
    write_json(folder / PLAN, plan)
    (folder / DATASET).mkdir()
    write_json(folder / DATASET / f"{PLANS}.json", plans(source, encoder))
    return _words(source, encoder, added, inherited)


def _words(source: Source, encoder: ResEnc | UNet, added: bool, inherited: int) -> tuple[str, ...]:
    """What whoever fine-tunes must know."""
    found = [
        f"The encoder is a {THEIRS[type(encoder)]} with convolution biases of 0, which its norms remove.",
        "Its decoder was trained to reconstruct." if inherited and not source.trained else "",
        "Its decoder has fresh weights, as nnU-Net starts it." if not inherited else "",
        "nnU-Net's ZScoreNormalization does not clip; Headwater clips to the 0.5th and 99.5th percentile first.",
        "nnU-Net does not turn volumes to one orientation; Headwater does.",
    ]
    if source.told["ndim"] == 3:
        found.append("Kernels, strides, spacing and patch are in nnU-Net's order (z, y, x).")
    else:
        found.append("nnUNetv2_preprocess_like_nnssl plans 3d_fullres alone: use -pretrained_weights with this 2D network.")
    if added:
        found.append(
            "nnU-Net has at least one block at full resolution, this size none: one was added that hands on what it gets."
        )
    return tuple(line for line in found if line)


def equivalent(backbone: ResEnc | UNet) -> tuple[ResEnc | UNet, bool]:
    """The same function as nnU-Net can build it: axes turned round (3D), biases 0, one block or more in every stage.

    A stage without blocks hands on the stem's LeakyReLU(z). An added block ends in a LeakyReLU of its own; so the stem's last
    offset is raised until its LeakyReLU lets everything through, and the block's residual branch, which starts with gain 0,
    takes that much off again: LeakyReLU(z + b - b). The branch's own first weights do not see b, which would show it borders.
    Returns: the network, and whether a block was added.
    """
    blocks = [len(stage) for stage in backbone.stages]
    added = blocks[0] == 0
    options: dict[str, Any] = {
        "kernels": [list(turned(k)) for k in backbone.kernels],
        "strides": [list(turned(s)) for s in backbone.steps],
        "bias": True,
    }
    if isinstance(backbone, ResEnc):
        options["stem"] = backbone.stem.conv.out_channels
    with seeded(0, "export", "nnunet"):
        made = type(backbone)(
            backbone.ndim, backbone.channels, backbone.widths, [max(1, n) for n in blocks], backbone.stride[0], **options
        )
        for module in made.modules():
            initialise(module)
    _fill(made, dict(backbone.state_dict()))
    if added:
        _hand_on(made.stem, made.stages[0][0])
    return made.eval(), added


@torch.no_grad()
def _hand_on(stem: nn.Module, block: nn.Module) -> None:
    """Makes a block hand on what the stem alone would have given."""
    lift = SPREADS * stem.norm.weight.abs() + stem.norm.bias.abs()
    stem.norm.bias += lift
    block.second.norm.weight.zero_()
    block.second.norm.bias.copy_(-lift)
    weight = block.first.conv.weight  # (K, C, *k)
    weight -= torch.einsum("kc...,c,d->kd...", weight, lift, lift) / lift.square().sum()


@torch.no_grad()
def _fill(module: nn.Module, ours: dict[str, Tensor]) -> int:
    """Copies what has a place of its shape, axes turned round; a bias that ours lack beside a weight becomes 0."""
    taken = 0
    for name, own in module.state_dict().items():
        given = ours.get(name)
        if given is not None and turned_kernel(given).shape == own.shape:
            own.copy_(turned_kernel(given))
            taken += 1
        elif given is None and name.endswith(".bias") and name.removesuffix("bias") + "weight" in ours:
            own.zero_()
    return taken


def turned(values: Sequence[Any]) -> tuple[Any, ...]:
    """One value per axis as nnU-Net has them: (z, y, x) for volumes; pictures keep their order."""
    return tuple(values)[::-1] if len(values) == 3 else tuple(values)


def turned_kernel(tensor: Tensor) -> Tensor:
    """Weights of a 3D convolution with the axes of space turned round; all others as they are."""
    return tensor.permute(0, 1, 4, 3, 2).contiguous() if tensor.ndim == 5 else tensor


def _decoder(encoder: ResEnc | UNet, source: Source) -> tuple[Decoder, int]:
    """nnU-Net's decoder for this encoder, with whatever of ours fits; and how many parameters that was."""
    ours = dict(source.decoder)
    if not source.trained:
        ours = {name: tensor for name, tensor in ours.items() if not name.startswith(("head.", "coarse_heads."))}
    classes = source.trained.task.logits if source.trained else 2
    with seeded(0, "export", "decoder"):
        decoder = Decoder(encoder, classes, deep=True)
        for module in decoder.modules():
            if isinstance(module, (*CONV.values(), *CONV_TRANSPOSED.values())):
                initialise(module)
    return decoder.eval(), _fill(decoder, ours)


def architecture(encoder: ResEnc | UNet) -> dict[str, Any]:
    """arch_kwargs of nnU-Net's plans for an encoder made by `equivalent`."""
    blocks = "n_blocks_per_stage" if isinstance(encoder, ResEnc) else "n_conv_per_stage"
    kernels, strides = ([list(one) for one in each] for each in (encoder.kernels, encoder.steps))
    kwargs = arch_kwargs(encoder.ndim, list(encoder.widths), kernels, strides)
    kwargs |= {blocks: [len(stage) for stage in encoder.stages], "n_conv_per_stage_decoder": [1] * (len(encoder.widths) - 1)}
    if isinstance(encoder, ResEnc) and encoder.stem.conv.out_channels != encoder.widths[0]:
        kwargs["stem_channels"] = encoder.stem.conv.out_channels
    return kwargs


IMPORTED = ["conv_op", "norm_op", "dropout_op", "nonlin"]


def adaptation_plan(source: Source, encoder: ResEnc | UNet) -> dict[str, Any]:
    """What nnssl writes beside the weights: architecture, what it was trained on, and where its parts are."""
    residual = isinstance(encoder, ResEnc)
    first = "encoder.stem.convs.0" if residual else "encoder.stages.0.0.convs.0"
    configuration = {
        "data_identifier": "headwater_pretraining",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": "headwater",
        "normalization_schemes": ["ZScoreNormalization"] * source.told["channels"],
        "use_mask_for_norm": False,
        "spacing": list(turned(source.spacing)) or None,
        "patch_size": list(turned(source.size)),
    }
    plan = {
        "architecture_plans": {
            "arch_class_name": THEIRS[type(encoder)],
            "arch_kwargs": architecture(encoder),
            "arch_kwargs_requiring_import": IMPORTED,
        },
        "pretrain_plan": {
            "dataset_name": DATASET,
            "plans_name": PLANS,
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": list(range(source.told["ndim"])),
            "transpose_backward": list(range(source.told["ndim"])),
            "configurations": {"headwater": configuration},
        },
        "pretrain_num_input_channels": source.told["channels"],
        "recommended_downstream_patchsize": patch(source, encoder),
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem" if residual else "encoder.stages.0",
        "keys_to_in_proj": [f"{first}.conv", f"{first}.all_modules.0"],
        "key_to_lpe": None,
    }
    return plain(plan)


def patch(source: Source, encoder: ResEnc | UNet) -> list[int]:
    """The patch to fine-tune on, in nnU-Net's order: whole cells of the coarsest map, for its decoder does not crop."""
    return [math.ceil(n / s) * s for n, s in zip(turned(source.patch), encoder.strides[-1], strict=True)]


def plans(source: Source, encoder: ResEnc | UNet) -> dict[str, Any]:
    """nnU-Net's plans with our encoder, to be moved to any data set by nnUNetv2_move_plans_between_datasets."""
    ndim, channels = encoder.ndim, source.told["channels"]
    configuration = "3d_fullres" if ndim == 3 else "2d"
    spacing = list(turned(source.spacing)) or [1.0] * ndim
    shape = [float(n) for n in turned(source.records["passport"].get("shape") or source.size)]
    resample = {"order_z": 0, "force_separate_z": None}
    kinds = {"data": (False, 3), "seg": (True, 1), "probabilities": (False, 1)}
    settings = {
        "data_identifier": f"{PLANS}_{configuration}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch(source, encoder),
        "median_image_size_in_voxels": shape,
        "spacing": spacing,
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        **{f"resampling_fn_{name}": "resample_data_or_seg_to_shape" for name in kinds},
        **{f"resampling_fn_{k}_kwargs": {"is_seg": seg, "order": order, **resample} for k, (seg, order) in kinds.items()},
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{THEIRS[type(encoder)]}",
            "arch_kwargs": architecture(encoder),
            "_kw_requires_import": IMPORTED,
        },
        "batch_dice": ndim == 2,
    }
    thick = [999.0] if ndim == 2 else []
    whole = {
        "dataset_name": DATASET,
        "plans_name": PLANS,
        "original_median_spacing_after_transp": thick + spacing,
        "original_median_shape_after_transp": [1] * len(thick) + shape,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {configuration: settings},
        "experiment_planner_used": "headwater",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(c): dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 0.0)
            for c in range(channels)
        },
    }
    return plain(whole)


def loading(source: Source) -> str:
    """Code that loads it into Headwater again; nnU-Net's commands stand beside it."""
    turning = "volumes as nnU-Net has them: (B, C, z, y, x)" if source.told["ndim"] == 3 else "images (B, C, y, x)"
    return f'from headwater.backbones import load\n\nbackbone = load("{FILE}").backbone.eval()  # {turning}'


def commands(source: Source) -> str:
    """The two ways to fine-tune it with nnU-Net, for a data set 4 that nnU-Net has planned."""
    configuration = "3d_fullres" if source.told["ndim"] == 3 else "2d"
    released = (
        f"cp -r {DATASET} $nnUNet_preprocessed/\n"
        f"nnUNetv2_move_plans_between_datasets -s {DATASET} -t 4 -sp {PLANS} -tp {PLANS}\n"
        f"nnUNetv2_preprocess -d 4 -plans_name {PLANS} -c {configuration}\n"
        f"nnUNetv2_train 4 {configuration} 0 -p {PLANS} -pretrained_weights {FILE}"
    )
    newer = (
        f"nnUNetv2_preprocess_like_nnssl -d 4 -n headwater -pc {FILE} -am like_pretrained\n"
        "nnUNetv2_train_pretrained 4 3d_fullres 0 -p ptPlans__headwater____Spacing__..."
    )
    return (
        released if source.told["ndim"] == 2 else f"{released}\n# or, with a nnU-Net that has nnUNetv2_train_pretrained:\n{newer}"
    )
