"""The shape in which the tokens of one repeated attention layer end, read off V, Q and K. Growth around uniform: onset.py."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Shape = Literal["one cluster", "two poles", "polytope", "hyperplanes", "dispersal", "drift/unknown"]


@dataclass(frozen=True)
class LimitShape:
    """Where the tokens of one repeated attention layer end.

    directions: (k, d) rows, orthonormal basis of what the shape is about (poles: phi_1; polytope: its subspace; hyperplanes:
    their normal, a left eigenvector of V; rotation: the plane). reason: rule, source, limits. tests: what was checked, with the
    numbers. certain: a published theorem applies to every or almost every start; False also for derived (linear) rules.
    """

    kind: Shape
    directions: Float[Tensor, "k d"]
    reason: str
    tests: tuple[str, ...]
    certain: bool


@dataclass(frozen=True)
class _Leading:
    """Leading eigenvalue of V (largest real part) and what else the rules ask of the weights."""

    value: complex
    many: int  # eigenvalues within tolerance of the leading one
    defective: bool  # fewer eigenvectors than that
    rest: float  # largest real part of the others, -inf without others
    rest_modulus: float
    basis: np.ndarray  # (k, d) orthonormal rows: its real eigenspace, or the plane of a complex pair
    left: np.ndarray  # (1, d) unit left eigenvector (meaningful if real and simple)
    scalar: bool  # V = value I
    normal: bool
    form: np.ndarray  # Q^T K
    coupling: float  # <Q phi, K phi> of the leading eigenvector (first of the basis)
    isotropic: bool  # Q^T K = c I, c > 0
    definite: bool  # symmetric part of Q^T K positive definite


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, sizes > 1e-8 * sizes[0]].T


def _leading(V: np.ndarray, form: np.ndarray, tol: float) -> _Leading:
    """Spectrum of V, equality judged at tol times the norm of V (of Q^T K)."""
    d, size = len(V), np.linalg.norm(V, 2)
    values, vectors = np.linalg.eig(V)
    top = values[np.lexsort((values.imag, values.real))[-1]]
    same = (np.abs(values - top) <= tol * size) | (np.abs(values - top.conjugate()) <= tol * size)
    is_real = abs(top.imag) <= tol * size
    if is_real:  # eigenvectors from the null space: right also when eigenvalues are nearly equal
        _, sizes, right = np.linalg.svd(V - top.real * np.eye(d))
        basis = right[sizes <= max(tol * size, sizes[-1])]
    else:
        basis = _orthonormal(np.stack([vectors[:, same][:, 0].real, vectors[:, same][:, 0].imag], axis=1))
    left = np.linalg.svd((V - top.real * np.eye(d)).T)[2][-1:]
    rest = values[~same]
    big = np.linalg.norm(form, 2)
    symmetric = (form + form.T) / 2
    return _Leading(
        value=complex(top.real) if is_real else complex(top),
        many=int(same.sum()),
        defective=bool(is_real and len(basis) < same.sum()),
        rest=float(rest.real.max()) if len(rest) else -np.inf,
        rest_modulus=float(np.abs(rest).max()) if len(rest) else 0.0,
        basis=basis,
        left=left,
        scalar=bool(np.linalg.norm(V - np.trace(V) / d * np.eye(d), 2) <= tol * size),
        normal=bool(np.linalg.norm(V @ V.T - V.T @ V, 2) <= tol * size**2),
        form=form,
        coupling=float(basis[0] @ form @ basis[0]),
        isotropic=bool(np.trace(form) > 0 and np.linalg.norm(form - np.trace(form) / d * np.eye(d), 2) <= tol * big),
        definite=bool(np.linalg.eigvalsh(symmetric)[0] > tol * big),
    )


def _sphere(s: _Leading, d: int, beta: float) -> tuple[Shape, str, bool]:
    top = s.value.real
    if abs(s.value.imag) > 0:
        turn = "and turns with it for ever" if top > 0 else "and, its real part not being positive, does not gather"
        return "drift/unknown", f"The leading eigenvalue is a complex pair: a cluster has no fixed direction {turn}.", False
    if s.scalar and top > 0:
        if s.isotropic:
            return "one cluster", "V = c I, c > 0 and Q^T K = c' I, c' > 0: one cluster from almost every start (theorem).", True
        return (
            "one cluster",
            "V = c I, c > 0, any Q, K: one cluster if the tokens start in an open hemisphere (theorem, automatic for d >= n).",
            False,
        )
    if top < 0:
        return (
            "dispersal",
            "Every eigenvalue of V has negative real part: a cluster at an eigenvector of value l spreads at rate -l (derived), "
            "so none persists. For V = -I = -Q^T K the energy falls and tokens spread out.",
            False,
        )
    if s.defective or top == 0:
        return "drift/unknown", "The leading eigenvalue of V is zero or lacks eigenvectors: no rule applies.", False
    if s.many > 1:
        return "one cluster", f"One cluster at a point of the {s.many}-dimensional leading eigenspace (derived, linear).", False
    ratio, strength = s.rest / top, beta * s.coupling
    bound = f"tanh(beta <Q phi, K phi>) = {np.tanh(strength):.3g}"
    if strength > 0 and ratio < np.tanh(strength):
        return (
            "two poles",
            f"lambda_2/lambda_1 = {ratio:.3g} < {bound}: two clusters at +-phi_1 persist (derived, linear) if balanced at first, "
            f"at most where |log(share/other share)| < {2 * strength:.3g}; otherwise one cluster at +phi_1 or -phi_1.",
            False,
        )
    return (
        "one cluster",
        f"lambda_2/lambda_1 = {ratio:.3g} is not below {bound}: two poles do not persist, "
        "one cluster at +phi_1 or -phi_1 does (derived, linear).",
        False,
    )


def _flat(s: _Leading, tol: float) -> tuple[Shape, str, bool]:
    top, real = s.value.real, s.value.imag == 0
    if s.scalar and top < 0 and s.isotropic:
        return (
            "dispersal",
            "V = -c I and Q^T K = c' I: tokens shrink to 0, attention becomes uniform, no clusters (theorem).",
            True,
        )
    if not real or top <= 0 or s.defective:
        return "drift/unknown", "The leading eigenvalue of V is not real, positive and with all its eigenvectors: no rule.", False
    if s.rest_modulus >= top * (1 - tol):
        return "drift/unknown", "Another eigenvalue of V is at least as large in modulus as the leading one: no rule.", False
    if s.many == 1:
        if s.coupling > 0:
            words = "Good triple (lambda_1 > |lambda_2|, simple, <Q phi, K phi> > 0): "
            words += "e^(-tV) x gathers on at most 3 parallel hyperplanes. Theorem of 2305.05465."
            return "hyperplanes", words, True
        return "drift/unknown", f"<Q phi, K phi> = {s.coupling:.3g} is not positive: no good triple, no rule.", False
    if s.definite:
        whole = "the vertices of a convex polytope" if s.scalar else "a polytope in the leading eigenspace times a subspace"
        return "polytope", f"V paranormal and Q^T K positive definite: e^(-tV) x tends to {whole}. Theorem of 2305.05465.", True
    return "drift/unknown", "Q^T K is not positive definite: the polytope theorem does not apply.", False


def _square(name: str, A: Tensor | None, d: int) -> np.ndarray:
    found = np.eye(d) if A is None else A.detach().to("cpu", torch.float64).numpy()
    if found.ndim != 2 or found.shape[1] != d or not np.isfinite(found).all():
        raise ValueError(f"{name} must be a finite matrix with {d} columns, not of shape {tuple(found.shape)}.")
    return found


def limit_shape(
    V: Float[Tensor, "d d"],
    Q: Float[Tensor, "k d"] | None = None,
    K: Float[Tensor, "k d"] | None = None,
    beta: float = 1.0,
    space: Literal["sphere", "flat"] = "sphere",
    tol: float = 1e-6,
) -> LimitShape:
    """Limit shape of tokens under x_i' = sum_j softmax_j(beta <Q x_i, K x_j>) V x_j, projected (sphere) or not (flat).

    One head, constant weights (for several heads or an output matrix give V = W_O W_V). In flat space the shape is that of
    z = e^{-tV} x. tol is relative: eigenvalues, symmetry and definiteness are judged to tol times the matrix' norm. Where no
    theorem and no derived rule applies the kind is "drift/unknown". Raises ValueError for beta <= 0 or weights that do not fit.
    Sources: Geshkovski et al. 2305.05465 (flat), 2312.10794 (sphere); derived rules in docs/guide/flow-derivations.md.
    """
    d = V.shape[0]
    if d < 2 or not beta > 0:
        raise ValueError(f"A limit shape needs d >= 2 and beta > 0, not d={d}, beta={beta}.")
    value, query, key = _square("V", V, d), _square("Q", Q, d), _square("K", K, d)
    if len(query) != len(key):
        raise ValueError(f"Q and K must have as many rows, not {len(query)} and {len(key)}.")
    if not value.any():
        return LimitShape("drift/unknown", torch.zeros(0, d, dtype=torch.float64), "V = 0: nothing moves.", (), True)
    s = _leading(value, query.T @ key, tol)
    kind, reason, certain = _sphere(s, d, beta) if space == "sphere" else _flat(s, tol)
    tests = (
        f"leading eigenvalue {s.value:.4g}, {s.many} of {d} equal to it{', defective' if s.defective else ''}",
        f"largest real part of the others {s.rest:.4g}, largest modulus {s.rest_modulus:.4g}",
        f"V {'is' if s.normal else 'is not'} normal, {'is' if s.scalar else 'is not'} a multiple of I",
        f"<Q phi, K phi> = {s.coupling:.4g}; Q^T K {'is' if s.definite else 'is not'} positive definite, "
        f"{'is' if s.isotropic else 'is not'} a positive multiple of I",
    )
    directions = s.left if kind == "hyperplanes" else s.basis
    return LimitShape(kind, torch.from_numpy(np.ascontiguousarray(directions)), reason, tests, certain)
