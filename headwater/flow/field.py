"""The field that a cloud of tokens makes, read at other points: v(x; mu) with x and mu apart.

A velocity v(t, x) moves every token in the field of all. Densities need the field itself, with the query free to move while the
cloud stays. Entries for more velocities: `@at.register`, at(v, t, points, cloud).
"""

from functools import singledispatch

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.flow.kernels import attend
from headwater.flow.sphere import check_finite, check_on_sphere, tangent
from headwater.flow.terms import Learned, Parabolic, Scaled, Sum, _Timeless
from headwater.flow.velocity import Attention, Kuramoto, times_matrix


@singledispatch
def at(v: object, t: float | Tensor, points: Float[Tensor, "B N D"], cloud: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
    """Velocity (B, N, D) of a query at points[b, i] in place of token i's, while all tokens of `cloud` (B, N, D) stay put.

    A mask, a frequency and other things that belong to a token stay with its number i. Equals v(t, cloud) at points = cloud.
    Velocities that are not known here are taken as they are if the cloud is one token, if they declare
    `tokenwise = True` (no token sees another), or if `points` is `cloud` itself.
    Raises: ValueError for an unknown velocity that may couple tokens: its field away from the cloud cannot be told.
    """
    if points is cloud or cloud.shape[-2] == 1 or getattr(v, "tokenwise", False):
        return v(t, points)
    raise ValueError(
        f"field: cannot tell how {type(v).__name__} depends on the other {cloud.shape[-2] - 1} tokens: set tokenwise = True if"
        " it does not, give each sample as a batch member (B, 1, D), ask for of='flow', or register it with field.at"
    )


@at.register
def _(v: Attention, t: float | Tensor, points: Tensor, cloud: Tensor) -> Tensor:
    check_on_sphere(cloud, "Attention") if v.space == "sphere" else check_finite(cloud, "Attention")
    q, k = times_matrix(v.Q(t, cloud), points, "Q"), times_matrix(v.K(t, cloud), cloud, "K")
    values = times_matrix(v.V(t, cloud), cloud, "V")
    options = {"beta": v.beta, "kernel": v.kernel, "normalised": v.normalised, "mask": v.mask}
    heads = max(part.shape[1] for part in (q, k, values))
    q, k, values = (part.expand(-1, heads, -1, -1) for part in (q, k, values))
    pull = attend(q, k, values, **options, fused=False).sum(1)  # the fused kernel has no forward mode
    return tangent(points, pull) if v.space == "sphere" else pull


@at.register
def _(v: Kuramoto, t: float | Tensor, points: Tensor, cloud: Tensor) -> Tensor:
    check_on_sphere(cloud, "Kuramoto")
    pull = v.coupling * cloud.mean(-2, keepdim=True)
    if v.frequencies is not None:
        pull = pull + v.frequencies.to(points).unsqueeze(-1) * torch.stack((-points[..., 1], points[..., 0]), -1)
    return tangent(points, pull.expand_as(points))


@at.register
def _(v: Sum, t: float | Tensor, points: Tensor, cloud: Tensor) -> Tensor:
    return sum(at(term, t, points, cloud) for term in v.terms)


@at.register
def _(v: Scaled, t: float | Tensor, points: Tensor, cloud: Tensor) -> Tensor:
    return (v.factor(t) if callable(v.factor) else v.factor) * at(v.term, t, points, cloud)


@at.register
def _(v: Parabolic, t: float | Tensor, points: Tensor, cloud: Tensor) -> Tensor:
    return v(t, points)


@at.register
def _(v: Learned, t: float | Tensor, points: Tensor, cloud: Tensor) -> Tensor:
    if isinstance(v.field, _Timeless) or getattr(v.field, "tokenwise", False):
        return v(t, points)  # a perceptron sees one token at a time
    return at.dispatch(object)(v, t, points, cloud)
