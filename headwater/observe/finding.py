"""Finds the blocks of a model: the modules whose outputs, one after the other, are its tokens along depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from headwater.errors import InputError
from headwater.observe.recording import Call

MOST = 0.5  # of the parameters that any class of modules holds, a class must hold to be the blocks
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@dataclass(frozen=True)
class Blocks:
    """Names of the blocks in the order they run (a shared block as often as it runs), and in words how they were found."""

    names: tuple[str, ...]
    words: str


def find(model: nn.Module, calls: Sequence[Call], attention: Sequence[str], told: Sequence[str] | None = None) -> Blocks:
    """The blocks among the modules that ran.

    told: names, or patterns such as "encoder.layer.*" (a star does not pass a dot), if somebody knows better. Else, with
    attention: the member of a list or sequence around each attention layer that keeps the shape of its input. Else: a repeated
    class of modules that holds most parameters, residual ones first, then the largest; else convolutions and linear maps.
    Raises: InputError where nothing fits, with what to name instead.
    """
    ran = [call for call in sorted(calls, key=lambda call: call.end) if call.left is not None and call.name]
    if told is not None:
        return _told(ran, told)
    if attention and (names := _around(ran, attention)):
        return Blocks(_once(names), f"{len(set(names))} blocks around {len(set(attention))} attention layers")
    if names := _repeated(model, ran):
        kind = type(model.get_submodule(names[0])).__name__
        return Blocks(_once(names), f"{len(set(names))} blocks {kind}; no attention: their outputs are depth")
    if names := _sequence(model, ran):
        return Blocks(_once(names), f"{len(set(names))} layers in sequence; no blocks and no attention: their outputs are depth")
    known = ", ".join(dict.fromkeys(call.name for call in ran)) or "none"
    raise InputError(f"no blocks found in {type(model).__name__}: name them with blocks=; modules that ran: {known[:400]}")


def _told(ran: list[Call], told: Sequence[str]) -> Blocks:
    for pattern in told:
        if not any(_fits(call.name, pattern) for call in ran):
            names = ", ".join(dict.fromkeys(call.name for call in ran))
            raise InputError(f"no module that ran is called {pattern!r}: use names among {names[:400]}")
    names = [call.name for call in ran if any(_fits(call.name, pattern) for pattern in told)]
    return Blocks(_once(names), f"{len(set(names))} blocks as told")


def _fits(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(fnmatchcase(a, b) for a, b in zip(parts, wanted, strict=True))


def _once(names: list[str]) -> tuple[str, ...]:
    """A model that ran twice (two views) counts once; one block that runs again and again (shared weights) counts each time."""
    return tuple(names) if len(set(names)) == 1 else tuple(dict.fromkeys(names))


def _around(ran: list[Call], attention: Sequence[str]) -> list[str]:
    """The largest numbered modules that keep the shape and hold one attention layer; failing that, the innermost, or itself."""
    keeps, layers, found = {call.name for call in ran if call.entered == call.left}, set(attention), set()
    for name in layers:
        parts = name.split(".")
        ends = [end for end in range(len(parts), 0, -1) if parts[end - 1].isdigit()]  # innermost first
        around = [one for one in (".".join(parts[:end]) for end in ends) if one in keeps]
        alone = [one for one in around if sum(layer == one or layer.startswith(f"{one}.") for layer in layers) == 1]
        found |= {(alone[-1:] or around[:1])[0]} if around else set()
    return [call.name for call in ran if call.name in found]


def _repeated(model: nn.Module, ran: list[Call]) -> list[str]:
    """A class of which several members, none in another, hold most parameters.

    Of several such classes one whose members mostly keep the shape, as residual blocks do, then the one with fewest members.
    """
    groups: dict[type, list[str]] = {}
    for name in dict.fromkeys(call.name for call in ran):
        module = model.get_submodule(name)
        if type(module) not in (nn.Sequential, nn.ModuleList) and any(True for _ in module.children()):
            groups.setdefault(type(module), []).append(name)
    groups = {kind: [n for n in names if not any(n.startswith(f"{o}.") for o in names)] for kind, names in groups.items()}
    weighed = {kind: sum(_parameters(model, name) for name in names) for kind, names in groups.items() if len(names) > 1}
    if not weighed or not max(weighed.values()):
        return []
    keeps = {call.name for call in ran if call.entered == call.left}
    enough = [kind for kind, held in weighed.items() if held >= MOST * max(weighed.values())]
    residual = [kind for kind in enough if 2 * len(keeps & set(groups[kind])) > len(groups[kind])]
    chosen = set(groups[min(residual or enough, key=lambda kind: len(groups[kind]))])
    return [call.name for call in ran if call.name in chosen]


def _parameters(model: nn.Module, name: str) -> int:
    return sum(p.numel() for p in model.get_submodule(name).parameters())


def _sequence(model: nn.Module, ran: list[Call]) -> list[str]:
    """Convolutions and linear maps themselves, in order; maps of other kinds (norms, embeddings) do not count."""
    return [call.name for call in ran if isinstance(model.get_submodule(call.name), (nn.Linear, *CONVOLUTIONS))]


def tokens_of(x: Tensor, block: nn.Module, images: int) -> tuple[Tensor, tuple[int, ...]]:
    """What a block gave as tokens (B, N, D), and the grid they stand on (N alone for a row of tokens).

    (B, N, D) as it is; (N, B, D) where the block's own attention is batch_first=False; (B, C, *S) of convolutions and (B, *S, C)
    of windows by the widths of the block's maps and norms; (B, D) as one token; windows or packed rows (B m, N, D) joined.
    Raises: InputError for a shape that does not hold this many images.
    """
    if x.ndim == 3 and any(isinstance(m, nn.MultiheadAttention) and not m.batch_first for m in block.modules()):
        x = x.transpose(0, 1)
    if x.ndim < 2 or x.shape[0] % images:
        raise InputError(f"a block gave {tuple(x.shape)} for {images} images: name others with blocks=")
    if x.ndim == 2:
        x = x.reshape(images, -1, x.shape[-1])
    elif _channels_first(x, block):
        x = x.movedim(1, -1)
    grid = tuple(x.shape[1:-1])
    if x.shape[0] != images:
        grid = (x.shape[0] // images, *grid)
    return x.reshape(images, -1, x.shape[-1]), grid


def _channels_first(x: Tensor, block: nn.Module) -> bool:
    first, last = set(), set()
    for module in block.modules():
        if isinstance(module, CONVOLUTIONS):
            first.add(module.out_channels)
        elif isinstance(module, NORMS):
            first.add(getattr(module, "num_features", None) or module.num_channels)
        elif isinstance(module, nn.Linear):
            last.add(module.out_features)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            last.add(module.normalized_shape[-1])
    is_first, is_last = x.shape[1] in first, x.shape[-1] in last
    return is_first and not is_last if is_first != is_last else x.ndim > 3 and is_first == bool(first)
