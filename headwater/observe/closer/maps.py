"""Where each head looks: attention of one token laid out on the grid of the image, all heads on one scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import InputError
from headwater.observe.ablate import Ablation
from headwater.observe.heads import attention_entropy
from headwater.observe.number import Number, absent
from headwater.observe.reading import PREFIX
from headwater.observe.recording import Attention

MOST = 0.995  # quantile of all maps that has full colour: a single token that takes everything would leave the rest black
NO_ABLATION = "its heads were not switched off"


@dataclass(frozen=True, eq=False)
class HeadMaps:
    """What the heads of one layer attend to. maps (B, H, *G): attention of the query to each place of the grid, as a multiple of
    equal attention to all tokens (1: knows nothing). elsewhere (B, H): share that goes to class token and registers.
    entropy, ablation: one Number per head, to be read beside its map. query: which token asks."""

    layer: str
    query: str
    maps: Float[Tensor, "B H *G"]
    elsewhere: Float[Tensor, "B H"]
    entropy: tuple[Number, ...]
    ablation: tuple[Number, ...]


def head_maps(
    attention: Attention,
    grid: Sequence[int],
    query: str | int = "class",
    *,
    over: Attention | None = None,
    untrained: Attention | None = None,
    ablation: Ablation | None = None,
) -> HeadMaps | str:
    """Maps of one attention layer, or in one sentence why there are none.

    Args: attention: of `trace`; grid: of its last tokens; query: "class", the first token before the grid; "centre", the middle
          of the grid; or the number of a place of the flattened grid. over: more images of the same layer, for its entropy;
          untrained: of the same network before training, the entropy's null; ablation: from `ablations`.
    Raises: InputError for a place that the grid does not have.
    """
    if attention.weights is None:
        return f"{attention.name} shows no weights"
    weights, count = attention.weights, math.prod(grid)
    extra = weights.shape[2] - count
    if weights.shape[2] != weights.shape[3] or not 0 <= extra <= PREFIX:
        return f"{attention.name} has {weights.shape[2]} queries and {weights.shape[3]} keys: no map on a grid of {count} places"
    if query == "class" and not extra:
        return f"{attention.name} has no class token: ask for another query"
    if query == "centre":
        place = int(sum(n // 2 * math.prod(grid[a + 1 :]) for a, n in enumerate(grid)))
    elif query == "class":
        place = -extra
    elif isinstance(query, int) and 0 <= query < count:
        place = query
    else:
        raise InputError(f"query {query!r} is neither 'class' nor 'centre' nor a place from 0 to {count - 1}")
    row = weights[:, :, extra + place]  # B H K
    maps = (row[..., extra:] * weights.shape[3]).unflatten(-1, tuple(grid))
    entropy = attention_entropy(weights if over is None else over.weights, None if untrained is None else untrained.weights)
    name = attention.name.rsplit(":", 1)[-1]  # a segment's name stands before the module's
    effects = None if ablation is None else ablation.effects.get(name)
    effects = effects or (absent(NO_ABLATION),) * weights.shape[1]
    return HeadMaps(name, str(query), maps, row[..., :extra].sum(-1), entropy, effects)


def scale(maps: Sequence[HeadMaps]) -> tuple[float, float]:
    """The one colour scale of all layers and heads: from 0 to the 99.5th percentile of all maps, at least 2 (twice equal)."""
    values = torch.cat([one.maps.flatten() for one in maps]) if maps else torch.ones(1)
    values = values[values.isfinite()]
    if not len(values):
        return 0.0, 2.0
    top = values.kthvalue(max(1, round(MOST * len(values)))).values
    return 0.0, max(2.0, float(top))
