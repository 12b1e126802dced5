"""The published merge methods, applied to the updates of one layer.

``exact`` adds delta weights. The others replace that sum by another combination, and differ in
what they operate on:

    factors     factor-average, peft-linear (cross terms appear)
    cores       magnitude, ties, dare, dare-ties, della (entries), tsv, iso-c (singular values)
    right side  knots (entries of the joint right singular vectors)

All work on the factors or on the lossless core of ``core_space``; none forms an out x in matrix.
Methods that operate on single entries depend on the choice of bases. The bases here are the
singular vectors of the stacked factors, as in Core Space merging (Panariello et al. 2025).

In every method, the weight w_i multiplies update i. The published methods have one factor lambda
for all N updates instead. To reproduce them, use weights of lambda for methods that end in a sum,
and lambda / N for those that end in a mean over agreeing updates (ties, dare-ties, della, knots).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from adaptermix.adapters.core_space import (
    NEGLIGIBLE,
    CoreSpace,
    core_space,
    truncate,
    update_in,
    weighted_sum,
)
from adaptermix.adapters.deltas import (
    LoraUpdate,
    add_factors,
    as_dtype,
    inner_product,
    norm,
    weighted_bias,
    widest_dtype,
)

if TYPE_CHECKING:
    from jaxtyping import Float

    Cores = Float[np.ndarray, "updates left right"]


FACTOR_METHODS = ("factor-average", "peft-linear")  # these add factors of equal rank
SAME = 1e-6  # relative difference of magnitudes that rounding can explain


class Merged(NamedTuple):
    """A merged update, and how it deviates from the exact weighted sum.

    Attributes:
        update: The merged update.
        sum_energy: Squared Frobenius norm of the exact weighted sum of delta weights.
        lost_energy: Squared Frobenius norm of the difference between the result and that sum.
        cross_energy: Squared Frobenius norm of the cross terms B_i A_j, if the method has any.
    """

    update: LoraUpdate
    sum_energy: float
    lost_energy: float
    cross_energy: float = 0.0


@dataclass(frozen=True)
class MethodOptions:
    """Options of the merge methods.

    Attributes:
        rank: Rank of the result, or None for the largest that the method can give. For peft-svd,
            None means the largest rank of the updates, as in PEFT.
        density: Share of entries that magnitude, ties, dare, dare-ties, della and knots keep.
        epsilon: Width of the interval around ``density`` for della's keep probabilities.
        isotropic: Replace the result's singular values by their mean; with ``rank``, by the mean
            of the kept ones.
    """

    rank: int | None = None
    density: float = 0.5
    epsilon: float = 0.1
    isotropic: bool = False


def merged_rank(
    method: str, ranks: Sequence[int], shape: tuple[int, int], options: MethodOptions
) -> int:
    """Return the rank of the result, without reading any factor.

    Args:
        method: Name of the method.
        ranks: Ranks of the updates.
        shape: Rows and columns of the delta weight.
        options: Options with the requested rank.
    """
    if method in FACTOR_METHODS:
        full = max(ranks)
    elif is_plain_sum(method, options):
        return sum(ranks)
    else:
        full = min(sum(ranks), *shape)
    default = max(ranks) if method == "peft-svd" else full
    return min(default if options.rank is None else options.rank, full)


def is_plain_sum(method: str, options: MethodOptions) -> bool:
    """Whether the merge only concatenates factors: an exact sum without truncation."""
    return method in ("exact", "peft-cat") and options.rank is None and not options.isotropic


def merge_updates(
    method: str,
    updates: Sequence[LoraUpdate],
    weights: Sequence[float],
    options: MethodOptions,
    seed: int,
) -> Merged:
    """Merge the updates of one layer.

    Plain sums (``is_plain_sum``) are normally concatenated by the caller, which leaves the
    factors as they are. This function merges them correctly too, but with different factors.

    Args:
        method: Name of a method.
        updates: One or more updates of equal shape.
        weights: One weight per update, none of them 0.
        options: Options of the method.
        seed: Seed of the random methods.
    """
    if method in FACTOR_METHODS:
        return _with_cross_terms(method, updates, weights)
    space = core_space(updates)
    shape = (updates[0].b.shape[0], updates[0].a.shape[1])
    rank = merged_rank(method, [update.rank for update in updates], shape, options)
    dtype = widest_dtype(updates)
    bias = weighted_bias(updates, weights, dtype)
    exact = weighted_sum(space.cores, weights)
    if method == "knots":
        merged = _knots(space, weights, options, rank)
        return merged._replace(update=replace(as_dtype(merged.update, dtype), bias=bias))
    core = _CORE_METHODS[method](space.cores, weights, options, seed)
    isotropic = options.isotropic or method == "iso-c"
    left, right = truncate(core, rank, isotropic=isotropic)
    # The bases are orthonormal, so cores and delta weights have the same energies.
    lost = _energy(left @ right.T - exact)
    return Merged(update_in(space, left, right, dtype, bias), _energy(exact), lost)


def _energy(matrix: np.ndarray) -> float:
    return float(np.square(matrix).sum())


def _with_cross_terms(
    method: str, updates: Sequence[LoraUpdate], weights: Sequence[float]
) -> Merged:
    """Add factors, and measure the deviation from the exact sum and the cross terms."""
    scales = [weight * update.scaling for update, weight in zip(updates, weights, strict=True)]
    if method == "factor-average":
        weights_a, weights_b = list(weights), scales
    else:
        weights_b = [abs(scale) ** 0.5 for scale in scales]
        weights_a = [math.copysign(root, s) for root, s in zip(weights_b, scales, strict=True)]
    merged = add_factors(updates, weights_a, weights_b)
    bias = weighted_bias(updates, weights, merged.a.dtype)
    # Coefficients of every B_i A_j in the product of sums, and in the exact sum.
    held = np.outer(weights_b, weights_a)
    exact = np.diag(scales)
    energy = partial(_energy_of_products, *_gram_matrices(updates), updates[0].rank)
    return Merged(
        replace(merged, bias=bias),
        energy(exact),
        energy(held - exact),
        energy(held - np.diag(np.diag(held))),
    )


def _gram_matrices(updates: Sequence[LoraUpdate]) -> tuple[np.ndarray, np.ndarray]:
    """Return B^T B and A A^T of the concatenated factors, in float64."""
    b = np.concatenate([update.b.astype(np.float64) for update in updates], axis=1)
    a = np.concatenate([update.a.astype(np.float64) for update in updates])
    return b.T @ b, a @ a.T


def _energy_of_products(
    left: np.ndarray, right: np.ndarray, rank: int, held: Float[np.ndarray, "updates updates"]
) -> float:
    """Return the squared Frobenius norm of sum_ij h_ij B_i A_j, without forming it.

    For C = H x I_rank (the Kronecker product), ||B C A||^2 = tr(C^T B^T B C A A^T).
    """
    core = np.kron(held, np.eye(rank))
    return max(0.0, float((left * (core @ right @ core.T)).sum()))


def _distance(one: LoraUpdate, other: LoraUpdate) -> float:
    """Return the squared Frobenius norm of the difference of two delta weights."""
    cross = inner_product(one, other)
    return max(0.0, norm(one) ** 2 - 2 * cross + norm(other) ** 2)


def keep_largest(values: np.ndarray, density: float) -> np.ndarray:
    """Keep the share ``density`` of entries with the largest magnitude, and zero the others.

    The count is rounded down as in PEFT, but is at least 1. Entries equal to the smallest kept
    entry, up to rounding, are kept too: rows of an orthogonal matrix often have such ties.
    """
    sizes = np.abs(values)
    left_out = values.size - max(1, int(density * values.size))
    if left_out <= 0:
        return values
    smallest_kept = np.partition(sizes, left_out, axis=None)[left_out]
    return np.where(sizes >= smallest_kept * (1 - SAME), values, 0)


def drop_and_rescale(values: np.ndarray, density: np.ndarray | float, seed: int) -> np.ndarray:
    """Keep entries with probability ``density`` and divide them by it (DARE, Yu et al. 2024)."""
    drawn = np.random.Generator(np.random.PCG64(seed)).random(values.shape)
    return np.where(drawn < density, values / density, 0)


def magnitude_density(values: np.ndarray, density: float, epsilon: float) -> np.ndarray:
    """Return DELLA's keep probability of each entry (MagPrune, Deep et al. 2024).

    Within each row, probabilities rise linearly with the rank of the magnitude, from
    ``density - epsilon / 2`` for the smallest entry to ``density + epsilon / 2`` for the largest.
    """
    ranks = np.abs(values).argsort(axis=-1).argsort(axis=-1)  # 0 for the smallest
    spread = ranks / max(1, values.shape[-1] - 1) - 0.5
    return np.asarray(density + epsilon * spread).clip(1e-6, 1.0)


def elect_and_merge(
    values: Float[np.ndarray, "updates rows columns"], weights: Sequence[float]
) -> np.ndarray:
    """Average, entry by entry, the updates with the elected sign (TIES, Yadav et al. 2023).

    The elected sign of an entry is that of the weighted sum. The result is the sum of the
    weighted updates with that sign, divided by the sum of their weights' magnitudes and times
    the sum of all weights' magnitudes. If all updates agree, it is their weighted sum; if one
    disagrees, the others take its share. With equal weights of lambda / N, the result is the
    paper's lambda times the disjoint mean.

    Zero entries, trimmed or not, have no sign and are ignored.
    """
    factors = np.asarray(weights, values.dtype)[:, None, None]
    signed = values * factors  # w_i t_i
    agrees = signed * np.sign(signed.sum(axis=0)) > 0
    share = (agrees * np.abs(factors)).sum(axis=0)
    total = np.where(agrees, signed, 0).sum(axis=0)
    return np.where(
        share > 0, total * np.abs(factors).sum() / share.clip(np.finfo(values.dtype).tiny), 0
    )


def _trimmed(values: Cores, options: MethodOptions) -> Cores:
    return np.stack([keep_largest(each, options.density) for each in values])


def _tsv(cores: Cores, weights: Sequence[float], *_: object) -> np.ndarray:
    """Task singular vectors, decorrelated (TSV-M, Gargiulo et al. 2025).

    The singular vectors of all updates are concatenated and replaced by the nearest orthonormal
    ones (the polar factor). Each keeps its singular value times its update's weight. No direction
    is dropped, because an update has only as many as its rank. Directions shared by updates have
    no nearest orthonormal pair; the polar factor is taken on their span.
    """
    lefts, rights, values = [], [], []
    for core, weight in zip(cores, weights, strict=True):
        u, sizes, vt = np.linalg.svd(core, full_matrices=False)
        kept = sizes > sizes[:1] * NEGLIGIBLE
        lefts.append(u[:, kept])
        rights.append(vt[kept].T)
        values.append(sizes[kept] * weight)
    left, right = (_polar(np.concatenate(sides, axis=1)) for sides in (lefts, rights))
    merged: np.ndarray = (left * np.concatenate(values)) @ right.T
    return merged


def _polar(matrix: Float[np.ndarray, "side columns"]) -> Float[np.ndarray, "side columns"]:
    u, values, vt = np.linalg.svd(matrix, full_matrices=False)
    kept = values > values[:1] * NEGLIGIBLE
    nearest: np.ndarray = u[:, kept] @ vt[kept]
    return nearest


def _della(cores: Cores, weights: Sequence[float], options: MethodOptions, seed: int) -> np.ndarray:
    density = magnitude_density(cores, options.density, options.epsilon)
    return elect_and_merge(drop_and_rescale(cores, density, seed), weights)


# From all cores, their weights, the options and the seed: the merged core.
_CORE_METHODS: dict[str, Callable[[Cores, Sequence[float], MethodOptions, int], np.ndarray]] = {
    **dict.fromkeys(
        ("exact", "peft-cat", "peft-svd"), lambda cores, weights, *_: weighted_sum(cores, weights)
    ),
    "magnitude": lambda cores, weights, o, _: weighted_sum(_trimmed(cores, o), weights),
    "ties": lambda cores, weights, o, _: elect_and_merge(_trimmed(cores, o), weights),
    "dare": lambda cores, weights, o, seed: weighted_sum(
        drop_and_rescale(cores, o.density, seed), weights
    ),
    "dare-ties": lambda cores, weights, o, seed: elect_and_merge(
        drop_and_rescale(cores, o.density, seed), weights
    ),
    "della": _della,
    "tsv": _tsv,
    "iso-c": lambda cores, weights, *_: weighted_sum(cores, weights),
}
METHODS = (*_CORE_METHODS, "knots", *FACTOR_METHODS)


def _knots(space: CoreSpace, weights: Sequence[float], options: MethodOptions, rank: int) -> Merged:
    """TIES on the right singular vectors of a joint SVD (KnOTS, Stoica et al. 2025).

    [delta_1 ... delta_N] = U S [V_1^T ... V_N^T] gives all updates a common left basis. The V_i^T
    (R x in) are trimmed and merged as in TIES, and U S times the result is the merged update.
    """
    joint = np.concatenate(space.cores, axis=1)  # [left, updates x right]
    u, values, vt = np.linalg.svd(joint, full_matrices=False)
    kept = values > values[:1] * NEGLIGIBLE
    u, values, vt = u[:, kept], values[kept], vt[kept]
    rights = np.stack(np.split(vt, len(space.cores), axis=1))  # [updates, R, right]
    full = space.right.rows(rights)  # [updates, R, in]
    merged = elect_and_merge(_trimmed(full, options), weights)  # [R, in]
    b = space.left.columns(u * values)  # [out, R]
    exact = weighted_sum(full, weights)  # [R, in]
    update = LoraUpdate(merged, b, 1.0)
    # U is orthonormal, so U S X and S X have the same energy.
    energy, lost = (
        float(np.square(values) @ np.square(x).sum(axis=1)) for x in (exact, merged - exact)
    )
    if rank != len(values) or options.isotropic:
        again = core_space([update])
        sides = truncate(again.cores[0], rank, isotropic=options.isotropic)
        update = update_in(again, *sides, b.dtype)
        lost = _distance(update, LoraUpdate(exact, b, 1.0))
    return Merged(update, energy, lost)
