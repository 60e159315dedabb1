"""Tiny foreign networks and their files, for the tests of loading; not a test itself."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

WIDTH, HEADS, SIDE, PATCH = 24, 3, 16, 4


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter far from its first value: zeros and ones would hide mistakes."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=draw))
    return network.eval()


def hugging(kind: str, **options) -> nn.Module:
    """A model of transformers, by the name of its class."""
    transformers = pytest.importorskip("transformers")

    settings = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    if kind.startswith("ViT"):
        settings["intermediate_size"] = 40
    config = getattr(transformers, re.split("Model|For", kind)[0] + "Config")(**settings | options)
    return shaken(getattr(transformers, kind)(config))


def timm_names(network: nn.Module, swiglu: str = "w12") -> dict[str, Tensor]:
    """The state of a Dinov2 model (with or without registers) under the names of DINOv2's own repository and timm."""
    state, out = network.state_dict(), {}
    out["cls_token"], out["pos_embed"] = state["embeddings.cls_token"], state["embeddings.position_embeddings"]
    if "embeddings.register_tokens" in state:
        out["register_tokens"] = state["embeddings.register_tokens"]
    for kind in ("weight", "bias"):
        out[f"patch_embed.proj.{kind}"] = state[f"embeddings.patch_embeddings.projection.{kind}"]
        out[f"norm.{kind}"] = state[f"layernorm.{kind}"]
    for i in range(len(network.encoder.layer)):
        theirs, ours = f"encoder.layer.{i}.", f"blocks.{i}."
        for n in "12":
            out[f"{ours}ls{n}.gamma"] = state[f"{theirs}layer_scale{n}.lambda1"]
        for kind in ("weight", "bias"):
            for n in "12":
                out[f"{ours}norm{n}.{kind}"] = state[f"{theirs}norm{n}.{kind}"]
            out[f"{ours}attn.qkv.{kind}"] = torch.cat([state[f"{theirs}attention.{p}_proj.{kind}"] for p in "qkv"])
            out[f"{ours}attn.proj.{kind}"] = state[f"{theirs}attention.o_proj.{kind}"]
            if f"{theirs}mlp.fc1.weight" in state:
                out |= {f"{ours}mlp.{p}.{kind}": state[f"{theirs}mlp.{p}.{kind}"] for p in ("fc1", "fc2")}
            else:
                gate = torch.cat([state[f"{theirs}mlp.{p}_proj.{kind}"] for p in ("gate", "up")])
                names = {"w12": ("w12", "w3"), "packed": ("fc1", "fc2")}[swiglu]
                out[f"{ours}mlp.{names[0]}.{kind}"], out[f"{ours}mlp.{names[1]}.{kind}"] = (
                    gate,
                    state[f"{theirs}mlp.down_proj.{kind}"],
                )
    return {name: value.clone() for name, value in out.items()}


def images(ndim: int = 2, channels: int = 3, side: int = SIDE, seed: int = 1) -> Tensor:
    return torch.randn(2, channels, *[side] * ndim, generator=torch.Generator().manual_seed(seed))


class Bomb:
    """Runs a command where it is unpickled: what no reader may do."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        import os

        return os.system, (f"\"{sys.executable}\" -c \"open(r'{self.witness}', 'w')\"",)


def plan(kind: str = "ResidualEncoderUNet", ndim: int = 3) -> dict:
    """An architecture as nnU-Net's plans put it, tiny, with thick slices."""
    wide = {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{ndim}d",
        "kernel_sizes": [[1, 3, 3][-ndim:], *[[3] * ndim] * 2],
        "strides": [[1] * ndim, [1, 2, 2][-ndim:], [2] * ndim],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{ndim}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    blocks = {"n_blocks_per_stage": [1, 2, 1]} if kind.startswith("Res") else {"n_conv_per_stage": [2, 1, 2]}
    name = f"dynamic_network_architectures.architectures.unet.{kind}"
    return {
        "network_class_name": name,
        "arch_kwargs": wide | blocks,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def dynamic(architecture: dict, channels: int = 2) -> nn.Module:
    """The network of dynamic-network-architectures, as nnU-Net builds it from its plans."""
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    from pydoc import locate

    told = dict(architecture["arch_kwargs"])
    told |= {key: locate(told[key]) for key in architecture["_kw_requires_import"] if told[key]}
    kind = getattr(unet, architecture["network_class_name"].rpartition(".")[2])
    return shaken(kind(input_channels=channels, num_classes=2, deep_supervision=True, **told))


def nnunet_file(network: nn.Module, configuration: dict, name: str = "3d_fullres") -> dict:
    """What nnU-Net's trainer saves, entry by entry."""
    import numpy as np

    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
    plans = {"dataset_name": "Dataset004", "plans_name": "nnUNetPlans", "configurations": {name: configuration}}
    told = {"plans": plans, "configuration": name, "fold": 0, "dataset_json": {"labels": {"a": 1}}, "device": torch.device("cpu")}
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "lrs": [0.01], "epoch_start_timestamps": [1.5]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": told,
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


def nnssl_file(network: nn.Module, kind: str, arch_kwargs: dict | None, channels: int = 2) -> dict:
    """What nnssl publishes: weights and an adaptation plan."""
    return {
        "network_weights": network.state_dict(),
        "citations": [{"name": "OpenMind"}],
        "nnssl_adaptation_plan": {
            "architecture_plans": {"arch_class_name": kind, "arch_kwargs": arch_kwargs, "arch_kwargs_requiring_import": None},
            "pretrain_plan": {"configurations": {"onemmiso": {"patch_size": [64, 64, 64], "spacing": [1, 1, 1]}}},
            "pretrain_num_input_channels": channels,
            "recommended_downstream_patchsize": [64, 64, 64],
            "key_to_encoder": "encoder.stages",
            "key_to_stem": "encoder.stem" if "Res" in kind else "encoder.stages.0",
            "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
            "key_to_lpe": None,
        },
    }
