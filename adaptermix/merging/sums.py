"""The exact weighted sum of the updates of one module, without a product of factors."""

from collections.abc import Sequence

import numpy as np

from adaptermix.adapters.deltas import LoraUpdate, scaled, weighted_bias
from adaptermix.adapters.format import UpdateSpec


def exact_sum(
    updates: Sequence[LoraUpdate], weights: Sequence[float], spec: UpdateSpec
) -> LoraUpdate:
    """Concatenate factors, which is the exact weighted sum of delta weights.

    sum_i w_i s_i B_i A_i = s [f_1 B_1 ... f_n B_n] [A_1; ...; A_n] with f_i = w_i s_i / s: no
    product is formed, and the ranks add up. s is ``sum_scaling``, which is positive like PEFT's
    alpha / rank. It is chosen so that the factors of the update with the largest weight stay
    bit-identical (except for B's sign, which is the weight's). The other Bs are computed in float32
    or wider and rounded once.
    """
    b = [
        scaled(update.b, weight * update.scaling / spec.scaling, spec.dtype)
        for update, weight in zip(updates, weights, strict=True)
    ]
    a = [update.a.astype(spec.dtype, copy=False) for update in updates]
    bias = weighted_bias(updates, [weight / spec.scaling for weight in weights], spec.dtype)
    return LoraUpdate(np.concatenate(a), np.concatenate(b, axis=1), spec.scaling, bias)


def padded(update: LoraUpdate, rank: int) -> LoraUpdate:
    """Pad A with zero rows and B with zero columns, which does not change the delta weight."""
    missing = rank - update.rank
    if not missing:
        return update
    a, b = np.pad(update.a, ((0, missing), (0, 0))), np.pad(update.b, ((0, 0), (0, missing)))
    return LoraUpdate(a, b, update.scaling, update.bias)


def with_bias(update: LoraUpdate, spec: UpdateSpec) -> LoraUpdate:
    """Add a zero bias if needed, because PEFT expects a bias in all modules or in none."""
    if not spec.has_bias or update.bias is not None:
        return update
    bias = np.zeros(spec.out_features, spec.dtype)
    return LoraUpdate(update.a, update.b, update.scaling, bias)
