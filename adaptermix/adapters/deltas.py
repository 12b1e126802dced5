"""LoRA updates in memory: delta weights, norms, and sums that need no decomposition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class LoraUpdate:
    """The update of one layer, which adds ``scaling * b @ a`` to its weight.

    Attributes:
        a: The factor that is applied first.
        b: The factor that is applied second.
        scaling: alpha / rank, or alpha / sqrt(rank) with rsLoRA.
        bias: Bias of PEFT's ``lora_bias``, added to the output times ``scaling``.
    """

    a: Float[np.ndarray, "rank in"]
    b: Float[np.ndarray, "out rank"]
    scaling: float
    bias: Float[np.ndarray, " out"] | None = None

    @property
    def rank(self) -> int:
        """Number of rows of ``a``."""
        return len(self.a)

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """All its tensors."""
        bias = () if self.bias is None else (self.bias,)
        return (self.a, self.b, *bias)

    @property
    def is_active(self) -> bool:
        """Whether the update is not zero.

        An untrained layer has a zero B or, with MiCA, which initializes B with singular vectors, a
        zero A.
        """
        if self.b.any() and self.a.any():
            return True
        return self.bias is not None and bool(self.bias.any())

    def delta_weight(self) -> Float[np.ndarray, "out in"]:
        """Return ``scaling * b @ a`` in float32 or wider; needs memory for out x in numbers."""
        delta: np.ndarray = self.scaling * (widened(self.b) @ widened(self.a))
        return delta


def as_dtype(update: LoraUpdate, dtype: np.dtype) -> LoraUpdate:
    """Return the update with all its tensors in one dtype."""
    bias = None if update.bias is None else update.bias.astype(dtype, copy=False)
    a, b = (factor.astype(dtype, copy=False) for factor in (update.a, update.b))
    return LoraUpdate(a, b, update.scaling, bias)


def widened(factor: np.ndarray) -> np.ndarray:
    """Return the factor in float32, or unchanged if it is float64."""
    return factor.astype(np.promote_types(factor.dtype, np.float32), copy=False)


def is_finite(tensor: np.ndarray) -> bool:
    """Whether no entry is NaN or infinite."""
    return bool(np.isfinite(widened(tensor)).all())


def is_copy(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two tensors are equal up to rounding to one of their dtypes."""
    narrow, wide = sorted((one, other), key=lambda tensor: tensor.dtype.itemsize)
    return np.array_equal(wide.astype(narrow.dtype, copy=False), narrow)


def wider(*dtypes: np.dtype) -> np.dtype:
    """Return the smallest dtype that represents the values of all given dtypes."""
    first, *others = set(dtypes)
    for other in others:  # NumPy has no common dtype of bfloat16 and float16
        first = np.promote_types(np.promote_types(first, np.float32), other)
    return first


def widest_dtype(updates: Sequence[LoraUpdate]) -> np.dtype:
    """Return the smallest dtype that represents every factor."""
    return wider(*(part.dtype for update in updates for part in (update.a, update.b)))


def sum_scaling(scales: Sequence[float]) -> float:
    """Return the scaling of a weighted sum: the largest |w_i s_i|."""
    return max(map(abs, scales))


def scaled(factor: np.ndarray, share: float, dtype: np.dtype) -> np.ndarray:
    """Return ``factor * share`` in a dtype, computed in float32 or wider and rounded once."""
    if share != 1:
        factor = widened(factor.astype(wider(factor.dtype, dtype), copy=False)) * share
    return factor.astype(dtype, copy=False)


def weighted_bias(
    updates: Sequence[LoraUpdate], weights: Sequence[float], dtype: np.dtype
) -> Float[np.ndarray, " out"] | None:
    """Return sum_i w_i s_i bias_i over the updates with a bias, or None if there are none."""
    terms = [
        widened(update.bias) * (weight * update.scaling)
        for update, weight in zip(updates, weights, strict=True)
        if update.bias is not None and weight
    ]
    return np.sum(terms, axis=0).astype(dtype, copy=False) if terms else None


def add_factors(
    updates: Sequence[LoraUpdate],
    weights_a: Sequence[float],
    weights_b: Sequence[float],
) -> LoraUpdate:
    """Return (sum_i u_i B_i)(sum_i v_i A_i), which sums factors instead of updates.

    The delta weight contains cross terms B_i A_j that no adapter was trained for. The ranks must be
    equal. The result's scaling is 1.

    Args:
        updates: Updates of the same layer with equal rank.
        weights_a: v_i.
        weights_b: u_i; callers include the scalings in these or in ``weights_a``.
    """
    dtype = widest_dtype(updates)
    a, b = (
        sum(widened(factor) * weight for factor, weight in zip(factors, weights, strict=True))
        for factors, weights in (
            ([update.a for update in updates], weights_a),
            ([update.b for update in updates], weights_b),
        )
    )
    return as_dtype(LoraUpdate(np.asarray(a), np.asarray(b), 1.0), dtype)


def inner_product(one: LoraUpdate, other: LoraUpdate) -> float:
    """Return the Frobenius inner product of two delta weights, without forming them.

    <B A, B' A'> is the sum of (B^T B') * (A A'^T), two rank x rank matrices, in float64.
    """
    wide = as_dtype(one, np.dtype(np.float64))
    second = wide if other is one else as_dtype(other, np.dtype(np.float64))
    product = float(np.sum((wide.b.T @ second.b) * (wide.a @ second.a.T)))
    return product * one.scaling * other.scaling


def norm(update: LoraUpdate) -> float:
    """Return the Frobenius norm of the delta weight, without forming it."""
    return math.sqrt(max(0.0, inner_product(update, update)))
