"""Divergence of a velocity: how fast the flow thins out a density, exactly or by random probes, flat and on the sphere.

Two divergences, told apart by `of`:
    "field"  div_x v(x; mu) at x = x_i with the cloud mu held: only the query moves. It belongs to the continuity equation of the
             mean field, d/dt log rho(x_i) = -div v.
    "flow"   tr dv_i/dx_i with token i moving as query, key and value: the diagonal blocks of the N-token map. Their sum over i is
             the divergence on (R^D)^N or (S^{D-1})^N; it belongs to the joint density of all tokens.
They differ by the share of a token in its own pull (Attention, V = QK = I on the sphere: by (D - 1) A_ii), so by O(1/N).

On the sphere the divergence is tr(P Dv P), P = I - xx'. The trap: y -> m(y) - <y, m(y)> y has the ambient trace
tr(Dm) - x'Dm x - (D + 1) <x, m> at |x| = 1, that is 2 <x, m> too little, since its derivative along x is no tangent motion:
x'Dv x = -2 <x, m>. Extended as v(y / |y|) that derivative is zero and the ambient trace is right. So it is done here, with P on
both sides of what random probes see.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.flow.field import at
from headwater.flow.sphere import _readable, inner, project, tangent
from headwater.flow.velocity import Attention, times_matrix

MEMORY = 2**24  # numbers that one chunk of tangents may hold: 128 MiB in float64


def divergence(
    v: Callable,
    t: float | Tensor,
    x: Float[Tensor, "B N D"],
    *,
    of: str = "field",
    space: str | None = None,
    closed: bool = True,
    memory: int = MEMORY,
) -> Float[Tensor, "B N"]:
    """Exact divergence at each token; with of="flow" the sum over tokens is that of the N-token flow.

    Softmax attention by its closed form (time and memory of N^2) unless closed=False. Else from D directional derivatives, all
    tokens at once, for of="field", and N D of them for of="flow" (D if N = 1), in chunks of at most `memory` numbers. Gradients
    flow through.
    Raises: ValueError for tokens off the sphere, a divergence that is not finite, or a field that cannot be told (see field.at).
    """
    space = _checked(v, of, space)
    if closed and isinstance(v, Attention) and v.kernel == "softmax" and v.space == space:
        return _finite(attention_divergence(v, t, x, of=of), v)
    apart = of == "flow" and x.shape[1] > 1  # tokens one after the other
    return _finite(_trace(_moving(v, t, x, of, space), x, apart, memory), v)


def attention_divergence(
    v: Attention, t: float | Tensor, x: Float[Tensor, "B N D"], *, of: str = "field"
) -> Float[Tensor, "B N"]:
    """Closed form for softmax and unnormalised attention with any Q, K, V, heads and mask; time and memory of N^2.

    For V = QK = I on the sphere it is beta tr(P Cov_p) - (D - 1) <x, m>, with m and Cov the mean and covariance of the softmax p.
    Derivation: m(x) = sum_j p_j u_j, u_j = V x_j, score <x, w_j>, w_j = Q'K x_j, so dp_j = beta p_j <w_j - mean w, dx> and
    Dm = beta sum_j p_j u_j (w_j - mean w)' = beta Cov_p(u, w), without the mean if not normalised. In flat space its trace; on
    the sphere tr(P Dm) - (D - 1) <x, m>, since the derivative of -<x, m> x along a tangent e has the part -<x, m> along e.
    of="flow": x_i is a key and a value too, which adds p_i V and beta p_i (u_i - m) r', r = K'Q x_i (u_i r' if not normalised).
    """
    if v.kernel != "softmax":
        raise ValueError(f"attention_divergence: kernel {v.kernel!r} has no closed form here: use divergence()")
    A, Q, K = v.weights(t, x), v.Q(t, x), v.K(t, x)
    u, w, r = times_matrix(v.V(t, x), x, "V"), times_matrix(K, x, "K"), times_matrix(Q, x, "Q")
    w = w if Q is None else w @ Q  # Q'K x_j for keys and K'Q x_i for queries, as rows
    r = r if K is None else r @ K
    q = x.unsqueeze(1)
    m, mean_w = A @ u, A @ w
    spread = (A @ (u * w).sum(-1, keepdim=True)).squeeze(-1)
    if v.normalised:
        spread = spread - (m * mean_w).sum(-1)
    if v.space == "sphere":
        along_u, along_w = q @ u.transpose(-1, -2), q @ w.transpose(-1, -2)  # <x_i, u_j>, <x_i, w_j>
        normal = (A * along_u * along_w).sum(-1)
        spread = spread - (normal - inner(q, m).mul(inner(q, mean_w)).squeeze(-1) if v.normalised else normal)
    out = v.beta * spread
    if of == "flow":
        out = out + A.diagonal(dim1=-2, dim2=-1) * _own(v, t, x, u - m if v.normalised else u, u, r)
    if v.space == "sphere":
        out = out - (x.shape[-1] - 1) * inner(q, m).squeeze(-1)
    return out.sum(1)


def _own(v: Attention, t: float | Tensor, x: Tensor, pulled: Tensor, u: Tensor, r: Tensor) -> Tensor:
    """What a unit of own weight adds as token i moves as key and value: tr(P V) + beta <P (u_i - m_i), r_i>."""
    V, q = v.V(t, x), x.unsqueeze(1)
    full = q.shape[-1] if V is None else V.diagonal(dim1=-2, dim2=-1).sum(-1)
    if V is not None and V.ndim == 3:
        full = full[:, None]  # H 1
    if v.space == "sphere":
        pulled, full = pulled - inner(q, pulled) * q, full - inner(q, u).squeeze(-1)
    return full + v.beta * (pulled * r).sum(-1)


def rademacher(probes: int, x: Float[Tensor, "B N D"], generator: torch.Generator) -> Float[Tensor, "K B N D"]:
    """Independent signs +1 and -1 as probes for Hutchinson's estimate of a trace; draw once per solve. Needs 2 or more."""
    if probes < 2:
        raise ValueError(f"rademacher: {probes} probes give no standard error: use 2 or more")
    drawn = torch.randint(0, 2, (probes, *x.shape), generator=generator, device=generator.device)
    return (2 * drawn - 1).to(x)


def hutchinson(
    v: Callable,
    t: float | Tensor,
    x: Float[Tensor, "B N D"],
    probes: Float[Tensor, "K *S"],
    *,
    of: str = "field",
    space: str | None = None,
    memory: int = MEMORY,
) -> Float[Tensor, "K B N"]:
    """Unbiased estimates z' P J P z of the divergence, one per probe, at the cost of one directional derivative each.

    probes (K, B, N, D). For of="flow" the sum over tokens is the estimate for the whole flow. Variance with Rademacher probes in
    flat space: 4 sum_{a<b} S_ab^2, S = (J + J') / 2. `mean_and_error` reads them. Source: Hutchinson 1990; FFJORD, 1810.01367.
    """
    space = _checked(v, of, space)
    if probes.shape[1:] != x.shape:
        raise ValueError(f"hutchinson: probes {tuple(probes.shape)} for tokens {tuple(x.shape)}; draw with rademacher(K, x, ...)")
    if space == "sphere":
        probes = tangent(x.expand_as(probes), probes)
    move = _moving(v, t, x, of, space)
    size = _chunk(x, memory)
    parts = [(_along(move, x, z) * z).sum(-1) for z in probes.split(size)]
    return _finite(torch.cat(parts), v)


def mean_and_error(samples: Float[Tensor, "K *S"]) -> tuple[Float[Tensor, "*S"], Float[Tensor, "*S"]]:
    """Mean over probes and its standard error, sd / sqrt(K)."""
    if len(samples) < 2:
        raise ValueError("mean_and_error: one probe gives no standard error: use 2 or more")
    return samples.mean(0), samples.std(0) / len(samples) ** 0.5


def _checked(v: Callable, of: str, space: str | None) -> str:
    space = getattr(v, "space", "flat") if space is None else space
    if of not in ("field", "flow") or space not in ("sphere", "flat"):
        raise ValueError(f"divergence: of={of!r}, space={space!r}: use 'field' or 'flow', and 'sphere' or 'flat'")
    return space


def _moving(v: Callable, t: float | Tensor, x: Tensor, of: str, space: str) -> Callable[[Tensor], Tensor]:
    """y -> v at y / |y| (flat: y), with the cloud held at x or moving along."""

    def field(y: Tensor) -> Tensor:
        y = project(y) if space == "sphere" else y
        return at(v, t, y, x if of == "field" else y)

    return field


def _trace(field: Callable[[Tensor], Tensor], x: Tensor, apart: bool, memory: int) -> Tensor:
    """Sum over coordinates of d field_i / dx_i; tokens moved all at once, or one after the other if they are coupled."""
    B, N, D = x.shape
    moves = N * D if apart else D
    found = torch.zeros(B, N, dtype=x.dtype, device=x.device)
    for first in range(0, moves, size := _chunk(x, memory)):
        which = torch.arange(first, min(first + size, moves), device=x.device)
        token, axis, row = which // D, which % D, torch.arange(len(which), device=x.device)
        z = torch.zeros(len(which), N, D, dtype=x.dtype, device=x.device)
        if apart:
            z[row, token, axis] = 1
        else:
            z[row, :, axis] = 1
        z = z[:, None].expand(-1, B, -1, -1)
        found = found + (_along(field, x, z) * z).sum((0, -1))
    return found


def _along(field: Callable[[Tensor], Tensor], x: Tensor, z: Tensor) -> Tensor:
    """Directional derivatives J z_k, or rows z_k'J where the field has no forward mode: the products z_k'J z_k agree."""
    try:
        return torch.func.vmap(lambda one: torch.func.jvp(field, (x,), (one,))[1])(z)
    except NotImplementedError:
        back = torch.func.vjp(field, x)[1]
        return torch.func.vmap(lambda one: back(one)[0])(z)


def _chunk(x: Tensor, memory: int) -> int:
    """Tangents at once: each costs about B N max(N, D) numbers."""
    B, N, D = x.shape
    return max(1, memory // max(1, B * N * max(N, D)))


def _finite(found: Tensor, v: Callable) -> Tensor:
    if _readable(found) and not bool(torch.isfinite(found).all()):
        raise ValueError(f"divergence: NaN or infinity in the derivative of {type(v).__name__}: is it smooth at these tokens?")
    return found
