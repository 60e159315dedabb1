"""Others' weights: a file or a folder in, a backbone and the account of every name out."""

from pathlib import Path

from headwater.backbones.checkpoints import read
from headwater.backbones.matching import Loaded
from headwater.backbones.own import load_own, state_of
from headwater.backbones.nnunet_weights import described, load_nnunet
from headwater.backbones.vit_weights import load_vit, prefix_of
from headwater.errors import InputError


def load(
    path: Path | str,
    *,
    ndim: int | None = None,
    channels: int | None = None,
    patch: int | None = None,
    heads: int | None = None,
) -> Loaded:
    """The backbone that these weights are of, filled, and what became of every name. Nothing in the file is run.

    path      a ViT of timm or DINOv2 (.pth, .pt, .safetensors), a folder of Hugging Face (ViT, DINOv2 with and without
              registers), a checkpoint of nnU-Net or of nnssl / OpenMind (.pth), a run folder or state of Headwater
    ndim      None: as in the file. 3 inflates a ViT of pictures along depth
    channels  of the images; None: as in the file. Others share the sum over the file's: an image whose channels are equal
              is answered as before
    patch     voxels per token; a ViT's is in the file, a convolutional network's is 4 where not given
    heads     of a ViT whose file does not say; None: 64 channels each
    Raises: InputError for files that are absent, damaged, hold code, or describe a network Headwater does not have.
    """
    for what, value in (("channels", channels), ("patch", patch), ("heads", heads)):
        if value is not None and value < 1:
            raise InputError(f"{what} {value}: use 1 or more")
    if ndim not in (None, 2, 3):
        raise InputError(f"images of {ndim} dimensions are not supported: use 2 or 3")
    if (own := state_of(Path(path))) is not None:
        return load_own(own, ndim, channels, patch)
    checkpoint = read(path)
    if (told := described(checkpoint)) is not None:
        return load_nnunet(checkpoint, told, ndim, channels, patch)
    prefix = prefix_of(checkpoint)
    if prefix is not None:
        return load_vit(checkpoint, prefix, ndim, channels, patch, heads)
    some = ", ".join(list(checkpoint.tensors)[:3])
    raise InputError(
        f"{checkpoint.path} holds no network that is known here (its names begin {some}): "
        "give a ViT of timm, DINOv2 or Hugging Face, or a checkpoint of nnU-Net or nnssl"
    )
