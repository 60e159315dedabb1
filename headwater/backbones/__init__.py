"""Backbones: views in, Features out. One contract for all of them (features.py)."""

from headwater.backbones.attention import Style
from headwater.backbones.continuous import ContinuousViT
from headwater.backbones.decoder import Decoder, LightHead, Reconstruction, Refill, refill
from headwater.backbones.families import FAMILIES, build
from headwater.backbones.features import Backbone, Features, Segment
from headwater.backbones.loading import load
from headwater.backbones.matching import Loaded
from headwater.backbones.pde import PDENet
from headwater.backbones.resenc import ResEnc
from headwater.backbones.swin import Swin
from headwater.backbones.unet import UNet
from headwater.backbones.vit import ViT

__all__ = [
    "FAMILIES",
    "Backbone",
    "ContinuousViT",
    "Decoder",
    "Features",
    "LightHead",
    "Loaded",
    "PDENet",
    "Reconstruction",
    "Refill",
    "ResEnc",
    "Segment",
    "Style",
    "Swin",
    "UNet",
    "ViT",
    "build",
    "load",
    "refill",
]
