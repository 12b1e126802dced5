"""Merge whole weights (modules_to_save)."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.deltas import is_finite, widened, wider
from adaptermix.errors import ArtifactError
from adaptermix.files.tensors import TensorSpec


def saved_weight(
    name: str, parts: Sequence[tuple[Adapter, float]]
) -> tuple[TensorSpec, Callable[[], np.ndarray]]:
    """A whole weight is W_0 + delta_i: its weighted sum is known when weights add up to 1."""
    holders = [adapter for adapter, _ in parts if name in adapter.saved]
    if _is_frozen_in_all(name, holders):  # nothing was added to W_0
        return holders[0].saved_spec(name), partial(holders[0].saved_weight, name)
    total = sum(weight for _, weight in parts)
    lacking = [adapter for adapter, _ in parts if name not in adapter.saved]
    if lacking or abs(total - 1) > 1e-6:
        why = f"{lacking[0].path} has none" if lacking else f"the weights add up to {total:g}"
        raise ArtifactError(
            f"{holders[0].path} brings the whole weight '{name}', and {why}",
            hint="trained biases, modules_to_save and embeddings merge when every adapter has "
            "them and the weights add up to 1",
        )
    specs = [adapter.saved_spec(name) for adapter, _ in parts]
    if len({spec.shape for spec in specs}) > 1:
        raise ArtifactError(f"'{name}' has different shapes in the adapters")
    dtype = wider(*(spec.dtype for spec in specs))
    return TensorSpec(dtype, specs[0].shape), partial(_average, parts, name, dtype)


def _is_frozen_in_all(name: str, holders: Sequence[Adapter]) -> bool:
    """Whether all have the same copy of a weight of the base, none of a type its own."""
    if not all(holder.is_frozen(name) for holder in holders):
        return False
    first, *others = holders
    spec = first.saved_spec(name)
    return all(
        other.saved_spec(name) == spec
        and np.array_equal(first.saved_weight(name), other.saved_weight(name))
        for other in others
    )


def _average(parts: Sequence[tuple[Adapter, float]], name: str, dtype: np.dtype) -> np.ndarray:
    if len(parts) == 1:
        return parts[0][0].saved_weight(name).astype(dtype)
    terms = [widened(adapter.saved_weight(name)) * weight for adapter, weight in parts]
    with np.errstate(over="ignore"):
        average: np.ndarray = np.sum(terms, axis=0).astype(dtype)
    if not is_finite(average):
        raise ArtifactError(
            f"'{name}': the merge is too large for {dtype}", hint="use smaller weights"
        )
    return average
