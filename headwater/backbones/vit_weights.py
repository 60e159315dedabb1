"""ViTs of timm, DINOv2 and Hugging Face: their names in ours, and the settings that make our ViT compute what theirs do."""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headwater.backbones.attention import Style
from headwater.backbones.checkpoints import Checkpoint
from headwater.backbones.features import by
from headwater.backbones.matching import Loaded, Part, fill
from headwater.backbones.vit import ViT
from headwater.errors import InputError
from headwater.streams import seeded

ANCHORS = ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight")
BLOCK = re.compile(r"(?:blocks\.(?:\d+\.)?|(?:encoder\.)?layers?\.)(\d+)\.(.+)")  # DINOv2 may number its blocks twice
WITHIN = {  # a block's part in ours -> its names in theirs; /k: the k-th rows of a part that we keep in one piece
    "norm_attention": ("norm1", "layernorm_before"),
    "attention.qkv": ("attn.qkv",),
    "attention.qkv/0": ("attention.attention.query", "attention.q_proj"),
    "attention.qkv/1": ("attention.attention.key", "attention.k_proj"),
    "attention.qkv/2": ("attention.attention.value", "attention.v_proj"),
    "attention.out": ("attn.proj", "attention.output.dense", "attention.o_proj"),
    "scale_attention": ("ls1.gamma", "layer_scale1.lambda1"),
    "norm_mix": ("norm2", "layernorm_after"),
    "mix.into": ("mlp.fc1", "intermediate.dense"),
    "mix.gate": ("mlp.w12", "mlp.weights_in"),
    "mix.gate/0": ("mlp.gate_proj", "mlp.fc1_g"),
    "mix.gate/1": ("mlp.up_proj", "mlp.fc1_x"),
    "mix.out": ("mlp.fc2", "output.dense", "mlp.w3", "mlp.weights_out", "mlp.down_proj"),
    "scale_mix": ("ls2.gamma", "layer_scale2.lambda1"),
}
AROUND = {
    "embed.weight": ANCHORS,
    "embed.bias": ("patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"),
    "class": ("cls_token", "embeddings.cls_token"),
    "registers": ("reg_token", "register_tokens", "embeddings.register_tokens"),
    "stack.positions.table": ("pos_embed", "embeddings.position_embeddings"),
    "norm.weight": ("norm.weight", "layernorm.weight"),
    "norm.bias": ("norm.bias", "layernorm.bias"),
}
WITHIN_OF = {theirs: ours for ours, names in WITHIN.items() for theirs in names}
AROUND_OF = {theirs: ours for ours, names in AROUND.items() for theirs in names}
FOREIGN = re.compile(r"(?:embeddings\.)?(?:norm_pre\.|rope|dist|storage_tokens|local_cls_norm|patch_embed|rel_pos)")
HEADS = {1280: 16, 1408: 16, 1664: 16}  # ViT-H, ViT-g, ViT-G, whose heads are not 64 wide
DEEPEST = 16  # tokens along depth that a table of pictures is repeated to at most; between them it is resampled anyway


def prefix_of(checkpoint: Checkpoint) -> str | None:
    """What stands before the names of the ViT in this file; None: there is none. The teacher, where there are several.

    Raises: InputError when there are several and none or more than one is a teacher.
    """
    found = {n.removesuffix(a) for n in checkpoint.tensors for a in ANCHORS if n == a or n.endswith("." + a)}
    if len(found) > 1:
        found = {prefix for prefix in found if "teacher" in prefix} or found
    if len(found) > 1:
        names = ", ".join(sorted(repr(prefix) for prefix in found))
        raise InputError(f"{checkpoint.path} holds {len(found)} ViTs, under {names}: save the one you want in a file of its own")
    return found.pop() if found else None


def load_vit(
    checkpoint: Checkpoint, prefix: str, ndim: int | None, channels: int | None, patch: int | None, heads: int | None
) -> Loaded:
    """The ViT under this prefix, with the outputs of the one it came from; pooled: the class token after the last norm.

    Heads are read from config.json where there is one, else `heads`, else 64 channels each as in all published sizes but
    three. Other image sizes resample the positions bicubically, as theirs do: with antialiasing in timm and where there are
    registers, without in Hugging Face and DINOv2 (whose own code also shifts by a tenth of a token; that is not done here).
    Raises: InputError for parts that our ViT does not have (they would change what it computes), for another patch than the
    file's, and what `_embedding` refuses.
    """
    named, unexpected = _named(checkpoint, prefix)
    known = _Known(checkpoint, named)
    weight = named["embed.weight"][1]
    if weight.ndim not in (4, 5) or len(set(weight.shape[2:])) > 1 or not known.depth:
        shape = by(weight.shape)
        raise InputError(
            f"{checkpoint.path}: {known.depth} blocks behind a patch map of {shape}; blocks and square patches are needed"
        )
    width, native, own = weight.shape[0], weight.ndim - 2, weight.shape[-1]
    if patch not in (None, own):
        raise InputError(f"the patches of {checkpoint.path} are {own} voxels wide, not {patch}: use patch={own}")
    if known.depth > known.blocks:
        raise InputError(
            f"{checkpoint.path} numbers {known.depth} blocks and holds {known.blocks}: it is not whole, fetch it again"
        )
    ndim, channels = ndim or native, channels or weight.shape[1]
    parts = {ours: Part(tensor, (theirs,)) for ours, (theirs, tensor) in named.items() if "/" not in ours} | _joined(named)
    parts["embed.weight"] = _embedding(parts["embed.weight"], ndim, channels)
    parts, reach = _placed(parts, known, native, ndim)
    with seeded(0, "weights", "vit"):
        backbone = ViT(ndim, channels, width, known.depth, known.heads(width, heads), own, known.style(parts, reach))
    return fill(backbone, parts, unexpected, known.source)


def _named(checkpoint: Checkpoint, prefix: str) -> tuple[dict[str, tuple[str, Tensor]], tuple[str, ...]]:
    """Our name -> (theirs, values), and names without use. Raises InputError for parts whose absence would change the outputs."""
    known: dict[str, tuple[str, Tensor]] = {}
    unexpected, foreign = list(checkpoint.others), []
    for name, tensor in checkpoint.tensors.items():
        short = name.removeprefix(prefix) if name.startswith(prefix) else ""
        ours = AROUND_OF.get(short)
        if block := BLOCK.fullmatch(short):
            part, _, kind = block[2].rpartition(".")
            inner = WITHIN_OF.get(block[2]) or (f"{WITHIN_OF[part]}.{kind}" if part in WITHIN_OF else None)
            ours = inner and f"stack.blocks.{int(block[1])}.{inner}"
        if ours is not None and ours not in known:
            known[ours] = (name, tensor)
        elif short and (block or FOREIGN.match(short)):
            foreign.append(name)
        else:
            unexpected.append(name)
    if foreign:
        some = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise InputError(f"{checkpoint.path} is a ViT with parts that ours does not have ({some}): use a plain ViT or DINOv2")
    return known, tuple(unexpected)


@dataclass(frozen=True)
class _Known:
    """What names, shapes and config.json say of the network."""

    checkpoint: Checkpoint
    named: dict[str, tuple[str, Tensor]]

    @property
    def config(self) -> dict[str, Any]:
        return self.checkpoint.config or {}

    @property
    def depth(self) -> int:
        return 1 + max((int(ours.split(".")[2]) for ours in self.named if ours.startswith("stack.blocks.")), default=-1)

    @property
    def blocks(self) -> int:
        return len({ours.split(".")[2] for ours in self.named if ours.startswith("stack.blocks.")})

    @property
    def hugging(self) -> bool:
        return self.named["embed.weight"][0].endswith(ANCHORS[1])

    @property
    def source(self) -> str:
        kind = (
            self.config.get("model_type") or self.config.get("architecture") or ("ViT" if self.hugging else "timm or DINOv2 ViT")
        )
        return f"{kind} of {self.checkpoint.path.name}"

    def heads(self, width: int, heads: int | None) -> int:
        heads = heads or self.config.get("num_attention_heads") or HEADS.get(width) or (width // 64 if width % 64 == 0 else None)
        if not isinstance(heads, int):
            raise InputError(f"{self.checkpoint.path} does not say how many heads share its width of {width}: give heads=")
        return heads

    def grid(self, native: int, patch: int) -> tuple[int, ...] | None:
        """Tokens of the images it was trained on, where config.json says so."""
        size = self.config.get("image_size")
        size = [size] * native if isinstance(size, int) else size
        whole = isinstance(size, list) and len(size) == native and all(isinstance(n, int) for n in size)
        return tuple(n // patch for n in size) if whole else None

    def style(self, parts: dict[str, Part], reach: tuple[int, ...] | None) -> Style:
        """Settings under which our ViT computes what this one does."""
        act = self.config.get("hidden_act", "gelu")
        block = "stack.blocks.0."
        gated = f"{block}mix.gate.weight" in parts
        if act != "gelu" and not gated:
            raise InputError(f"{self.checkpoint.path} has the activation {act!r}; ours are gelu and swiglu: use a ViT with gelu")
        out = parts.get(f"{block}mix.out.weight")
        old = (
            f"{block}norm_attention.weight" in self.named and "layernorm_before" in self.named[f"{block}norm_attention.weight"][0]
        )
        epsilon = self.config.get("layer_norm_eps", 1e-12 if old else 1e-6)  # where none is told: the values of published ones
        if not isinstance(epsilon, float) or epsilon <= 0:
            raise InputError(
                f"layer_norm_eps of {self.checkpoint.path} is {epsilon!r}: give a small positive number, such as 1e-6"
            )
        return Style(
            positions="none" if reach is None else "learned",
            reach=reach or 1,
            norm="layer",
            epsilon=epsilon,
            mix="swiglu" if gated else "gelu",
            hidden=out.tensor.shape[1] if out is not None and out.tensor.ndim == 2 else 0,
            qkv_bias=any(name.endswith("qkv.bias") for name in parts),
            registers=len(parts["stack.registers"].tensor) if "stack.registers" in parts else 0,
            layer_scale=float(f"{block}scale_attention" in parts),
            antialias="registers" in self.named
            or not (self.hugging or any(n.endswith("mask_token") for n in self.checkpoint.tensors)),
            pooled="class" if "class" in self.named else "mean",
        )


def _joined(named: dict[str, tuple[str, Tensor]]) -> dict[str, Part]:
    """Parts that we keep in one piece: queries, keys and values; both halves of a gate; and fc1 where it is such a gate."""
    parts, pieces = {}, {}
    for ours, piece in named.items():
        if "/" in ours:
            whole, _, rest = ours.partition("/")
            pieces.setdefault(whole + rest[1:], {})[int(rest[0])] = piece
        elif ".mix.into." in ours and (out := named.get(ours.rpartition(".mix.")[0] + ".mix.out.weight")):
            if len(piece[1]) == 2 * out[1].shape[-1]:
                parts[ours.replace(".into.", ".gate.")] = Part(piece[1], (piece[0],))
    for ours, found in pieces.items():
        ordered = [found[k] for k in sorted(found)]
        if len({tuple(tensor.shape) for _, tensor in ordered}) > 1 or sorted(found) != list(range(3 if ".qkv." in ours else 2)):
            names = ", ".join(name for name, _ in ordered)
            raise InputError(f"{names} are not of one shape or not all there: the checkpoint is incomplete, fetch it again")
        parts[ours] = Part(torch.cat([tensor for _, tensor in ordered]), tuple(name for name, _ in ordered))
    return parts


def _embedding(part: Part, ndim: int, channels: int) -> Part:
    """The map of patches (D, C, p, p) as a linear one (D, channels p^ndim), inflated and adapted where asked.

    Depth: repeated and divided by p, so that a volume constant along its first axis is answered as the picture is.
    Channels: every new one gets the sum over the old ones, divided by the number of new ones, so that an image whose channels
    are equal is answered as before (RGB to one channel: the sum). Raises: InputError for 3D weights in 2D.
    """
    weight, old = part.tensor.float(), part.tensor.shape[1]
    how = []
    if channels != old:
        weight = weight.sum(1, keepdim=True).expand(-1, channels, *weight.shape[2:]) / channels
        how.append(f"{old} channels summed, shared by {channels}")
    if ndim < weight.ndim - 2:
        raise InputError(f"{part.names[0]} is of a 3D network, which pictures cannot use: use ndim=3")
    if ndim > weight.ndim - 2:
        patch = weight.shape[-1]
        weight = weight.unsqueeze(2).expand(-1, -1, patch, *weight.shape[2:]) / patch
        how.append(f"inflated along depth over {patch} voxels")
    return Part(weight.flatten(1), part.names, ", ".join(how))


def _placed(parts: dict[str, Part], known: _Known, native: int, ndim: int) -> tuple[dict[str, Part], tuple[int, ...] | None]:
    """Class token (with its own position) and registers as our registers, positions as our table; and the table's grid."""
    parts, how = dict(parts), ""
    first = [parts.pop(name) for name in ("class", "registers") if name in parts]
    extra = [part.tensor.flatten(0, -2).float() for part in first]
    table, reach, names = parts.pop("stack.positions.table", None), None, tuple(name for part in first for name in part.names)
    if table is not None:
        rows = table.tensor.flatten(0, -2).float()
        counts = sorted({0, len(extra[0]) if "class" in known.named else 0, sum(map(len, extra))}, key=lambda n: (n != 1, n))
        told = known.grid(native, known.named["embed.weight"][1].shape[-1])
        for count in counts:
            side = round((len(rows) - count) ** (1 / native))
            reach = next((g for g in (told, (side,) * native) if g and math.prod(g) == len(rows) - count), None)
            if reach:
                break
        if reach is None:
            raise InputError(
                f"{table.names[0]} has {len(rows)} positions, which are no square grid: give the folder with its config.json"
            )
        if count:
            joined = torch.cat(extra)
            extra = [torch.cat([joined[:count] + rows[:count], joined[count:]])]
            how, names = "its own position added to the class token", (*names, *table.names)
        rows, deep = rows[count:], ""
        if ndim > native:
            depth = min(max(reach), DEEPEST)
            rows, reach, deep = rows.repeat(depth, 1), (depth, *reach), f"repeated over a depth of {depth} tokens"
        parts["stack.positions.table"] = Part(rows, table.names, deep)
    if extra:
        parts["stack.registers"] = Part(torch.cat(extra), names, how)
    return parts, reach
