"""What is lost without a head: any model run again with the output of one head at nothing."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headwater.errors import InputError
from headwater.observe.heads import ablation_effect
from headwater.observe.number import Number
from headwater.observe.probe import first_images, first_tensor, kept, placed, plain, run, undisturbed
from headwater.observe.reading import reader
from headwater.observe.recording import Attention, Recorder

ALIKE = 1e-3  # of their size: the map after the heads reads them as they were recorded, but for rounding
ROWS = 64  # of a map's inputs that are compared with the heads, about


@dataclass(frozen=True)
class Place:
    """Where the heads of an attention layer enter the map that mixes them.

    layer: name of the attention. heads: how many. map: name of the module that reads them; the layer itself for torch's
    MultiheadAttention, which keeps its map to itself. woven: channel c belongs to head c % heads, else to c // width of a head.
    """

    layer: str
    heads: int
    map: str
    woven: bool = False


@dataclass(frozen=True)
class Ablation:
    """effects: for each layer whose heads can be told apart, what `heads.ablation_effect` says of each of its heads.
    words: what could not be ablated and why, one sentence each."""

    effects: dict[str, tuple[Number, ...]]
    words: tuple[str, ...]

    @property
    def largest(self) -> tuple[str, int, Number] | None:
        """Layer, head and number of the head that matters most; None if there is none."""
        every = [(name, h, number) for name, row in self.effects.items() for h, number in enumerate(row)]
        return max((one for one in every if one[2].value == one[2].value), key=lambda one: one[2].value, default=None)


def places(model: nn.Module, batch: Any) -> tuple[tuple[Place, ...], tuple[str, ...]]:
    """Where each attention layer's heads can be cut, in the order they run, and which layers have none, in words.

    The map is found by what it reads: the first whose inputs are, number by number, the heads side by side. No name is trusted.
    """
    network = plain(model)
    with undisturbed(network):
        few = first_images(placed(batch, network), 2)
        inputs: list[tuple[str, Tensor]] = []

        def hook(name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
            x = first_tensor([*args, *kwargs.values()])
            if x is not None and x.ndim > 1:
                inputs.append((name, kept(x)))

        recorder, hooks = Recorder(network), []
        for name, module in network.named_modules():
            if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.ndim == 2:
                hooks.append(module.register_forward_pre_hook(partial(hook, name), with_kwargs=True))
        try:
            with recorder.attached():
                run(network, few)
        finally:
            for one in hooks:
                one.remove()
    found, words = [], []
    for one in recorder.attention:
        place = _place(one, network, inputs)
        if isinstance(place, str):
            words.append(place)
        elif place.layer not in {other.layer for other in found}:
            found.append(place)
    if not recorder.attention:
        words.append("no attention was seen: there are no heads to switch off")
    return tuple(found), tuple(dict.fromkeys(words))


def _place(one: Attention, network: nn.Module, inputs: Sequence[tuple[str, Tensor]]) -> Place | str:
    if one.heads is None:
        return f"{one.name or 'the model'}: the outputs of its heads were not seen, so none can be switched off"
    count = one.heads.shape[1]
    if isinstance(network.get_submodule(one.name), nn.MultiheadAttention):
        return Place(one.name, count, one.name)
    rows = one.heads.transpose(1, 2)  # R Q H E
    for woven, wanted in ((False, rows), (True, rows.transpose(2, 3))):
        wanted = wanted.flatten(0, 1).flatten(1)
        for name, x in inputs:
            if x.shape[-1] == wanted.shape[-1] and _among(x.flatten(0, -2), wanted):
                return Place(one.name, count, name, woven)
    return f"{one.name or 'the model'}: no map reads its {count} heads side by side, so they cannot be told apart there"


def _among(x: Tensor, rows: Tensor) -> bool:
    """Whether x is made of these rows, in any order (windows are put back on their grid), as far as a few of them show."""
    limit = ALIKE * float(rows.abs().max())
    for few in (x[:1], x[:: max(1, len(x) // ROWS)]):
        away = torch.cdist(few, rows, p=torch.inf).amin(1)
        if not bool((away <= limit).all()):
            return False
    return True


class _Cut(TorchFunctionMode):
    """Takes the columns of some heads out of the map within torch's MultiheadAttention while `inside` is set."""

    def __init__(self, heads: Sequence[int]):
        super().__init__()
        self.heads, self.inside = heads, 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.multi_head_attention_forward and self.inside:
            told, at = list(args), 11  # where the weight of the output map stands among its arguments
            weight = told[at] if len(told) > at else kwargs["out_proj_weight"]
            columns = weight.detach().clone().unflatten(1, (args[4], -1))
            columns[:, list(self.heads)] = 0
            if len(told) > at:
                told[at] = columns.flatten(1)
            else:
                kwargs["out_proj_weight"] = columns.flatten(1)
            args = tuple(told)
        return func(*args, **kwargs)


@contextmanager
def without(model: nn.Module, place: Place, heads: Sequence[int]) -> Iterator[None]:
    """Within it these heads of the layer give zero; a layer that runs several times (shared weights) gives it every time.

    Hooks only: no parameter is touched, and nothing is left behind. Raises: InputError for a head that does not exist.
    """
    if not heads or not all(0 <= h < place.heads for h in heads):
        raise InputError(f"{place.layer} has heads 0 to {place.heads - 1}, got {list(heads)}")
    module = plain(model).get_submodule(place.map)

    def cut(module: nn.Module, args: tuple, kwargs: dict) -> tuple:
        x = first_tensor([*args, *kwargs.values()])
        parts = x.clone().unflatten(-1, (-1, place.heads) if place.woven else (place.heads, -1))
        parts[(..., list(heads)) if place.woven else (..., list(heads), slice(None))] = 0
        now = parts.flatten(-2)
        return tuple(now if a is x else a for a in args), {k: now if v is x else v for k, v in kwargs.items()}

    with ExitStack() as stack:
        if place.map != place.layer:
            stack.callback(module.register_forward_pre_hook(cut, with_kwargs=True).remove)
        else:
            mode = stack.enter_context(_Cut(heads))
            stack.callback(module.register_forward_pre_hook(lambda *_: setattr(mode, "inside", mode.inside + 1)).remove)
            stack.callback(module.register_forward_hook(lambda *_: setattr(mode, "inside", mode.inside - 1)).remove)
        yield


@torch.no_grad()
def ablations(
    model: nn.Module,
    batch: Any,
    *,
    features: Callable[[nn.Module, Any], Any] | None = None,
    layers: Sequence[str] | None = None,
    untrained: Ablation | None = None,
) -> Ablation:
    """The effect of every head on the pooled features of the batch's images, one head at nothing at a time.

    The model runs once and once more for each head, in eval mode, and stays as it was. Two heads that do the same can each be
    without effect, since the other is still there.

    Args: batch: as in `trace`; features: what to read, as in `reading.reader`; layers: names of the attention layers to try;
          untrained: what this function found for the same network before training: the null.
    """
    network = plain(model)
    found, words = places(network, batch)
    found = [place for place in found if layers is None or place.layer in layers]
    with undisturbed(network):
        batch = placed(batch, network)
        read, _ = reader(network, first_images(batch, 2), features=features)
        effects = {}
        with Recorder(network, attention=False):  # torch's own encoder would skip its blocks on its fast path
            whole = kept(read(batch).pooled)
        for place in found:
            rows = []
            for head in range(place.heads):
                with without(network, place, (head,)), Recorder(network, attention=False):
                    rows.append(kept(read(batch).pooled))
            before = None if untrained is None else untrained.effects.get(place.layer)
            effects[place.layer] = ablation_effect(whole, torch.stack(rows), before)
    return Ablation(effects, words)
