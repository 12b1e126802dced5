"""Merge whole weights (modules_to_save)."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.deltas import is_copy, is_finite, widened, wider
from adaptermix.errors import ArtifactError
from adaptermix.files.tensors import TensorSpec

BaseWeight = Callable[[str], np.ndarray]  # reads a weight of the base model by name


def saved_weight(
    name: str, parts: Sequence[tuple[Adapter, float]], base: BaseWeight | None
) -> tuple[TensorSpec, Callable[[], np.ndarray]]:
    """Merge a whole weight W_0 + delta_i, which needs W_0 or weights that add up to 1."""
    holders = [adapter for adapter, _ in parts if name in adapter.saved]
    frozen = _frozen_copy(name, holders)
    if frozen and base is None:  # nothing was added to W_0
        return frozen.saved_spec(name), partial(frozen.saved_weight, name)
    total = sum(weight for _, weight in parts)
    lacking = [adapter for adapter, _ in parts if name not in adapter.saved]
    is_average = not lacking and not frozen and abs(total - 1) <= 1e-6
    if not is_average and base is None:
        why = f"{lacking[0].path} does not" if lacking else f"the weights add up to {total:g}"
        raise ArtifactError(
            f"{holders[0].path} contains the whole weight '{name}', but {why}",
            hint="biases, modules_to_save and embeddings can be merged if every adapter has "
            "them and the weights add up to 1; otherwise fold the adapters into the base "
            "model with --into BASE",
        )
    specs = [adapter.saved_spec(name) for adapter in holders]
    if len({spec.shape for spec in specs}) > 1:
        raise ArtifactError(f"'{name}' has different shapes in the adapters")
    dtype = wider(*(spec.dtype for spec in specs))
    if is_average or base is None:
        return TensorSpec(dtype, specs[0].shape), partial(_average, parts, name, dtype)
    dtype = np.promote_types(dtype, np.float32)
    kept = [(adapter, weight) for adapter, weight in parts if name in adapter.saved]
    return TensorSpec(dtype, specs[0].shape), partial(_on_base, kept, name, base)


def _frozen_copy(name: str, holders: Sequence[Adapter]) -> Adapter | None:
    """Return the adapter with the widest dtype if all hold copies of one base weight."""
    if not all(holder.is_frozen(name) for holder in holders):
        return None
    widest = max(holders, key=lambda holder: holder.saved_spec(name).dtype.itemsize)
    same = all(widest.has_copy(name, holder) for holder in holders if holder is not widest)
    return widest if same else None


def _on_base(parts: Sequence[tuple[Adapter, float]], name: str, base: BaseWeight) -> np.ndarray:
    """Return W_0 + sum_i w_i (W_i - W_0); adapters without the weight add nothing."""
    start = base(name)
    weight = widened(start)
    with np.errstate(over="ignore"):  # the caller checks for overflow
        for adapter, share in parts:
            own = adapter.saved_weight(name)
            if not (adapter.is_frozen(name) and is_copy(own, start)):
                weight = weight + share * (widened(own) - widened(start))
    return weight


def _average(parts: Sequence[tuple[Adapter, float]], name: str, dtype: np.dtype) -> np.ndarray:
    if len(parts) == 1:
        return parts[0][0].saved_weight(name).astype(dtype)
    terms = [widened(adapter.saved_weight(name)) * weight for adapter, weight in parts]
    with np.errstate(over="ignore"):
        average: np.ndarray = np.sum(terms, axis=0).astype(dtype)
    if not is_finite(average):
        raise ArtifactError(
            f"'{name}': the merged weight is too large for {dtype}", hint="use smaller weights"
        )
    return average
