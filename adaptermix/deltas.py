"""LoRA updates as values: delta weights and their weighted sum. Torch only."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LoraUpdate:
    """The update of one linear layer: ``scaling * b @ a`` is added to its weight."""

    a: Float[Tensor, "rank in"]
    b: Float[Tensor, "out rank"]
    scaling: float

    @property
    def rank(self) -> int:
        """Number of rows of ``a``."""
        return self.a.shape[0]

    def delta_weight(self) -> Float[Tensor, "out in"]:
        """Return ``scaling * b @ a``, in the dtype of the factors. Costs out x in numbers."""
        return self.scaling * (self.b @ self.a)


def concatenate(updates: Sequence[LoraUpdate], weights: Sequence[float]) -> LoraUpdate:
    """Return the update whose delta weight is the weighted sum of the given ones, exactly.

    sum_i w_i s_i B_i A_i = [w_1 s_1 B_1 ... w_n s_n B_n] [A_1; ...; A_n]: no product is formed,
    and the ranks add up. Weights and scalings go into ``b`` (computed in float32, then rounded
    once to the widest dtype among the inputs), so the result's scaling is 1. An update of weight
    0 is left out; at least one weight is not 0.

    Args:
        updates: Updates of one and the same layer; their ranks may differ.
        weights: One weight per update; any sign.
    """
    kept = [(update, weight) for update, weight in zip(updates, weights, strict=True) if weight]
    dtype = kept[0][0].a.dtype
    for update, _ in kept:
        dtype = torch.promote_types(dtype, torch.promote_types(update.a.dtype, update.b.dtype))
    scaled = [_scaled(update.b, weight * update.scaling).to(dtype) for update, weight in kept]
    return LoraUpdate(
        a=torch.cat([update.a.to(dtype) for update, _ in kept], dim=0),
        b=torch.cat(scaled, dim=1),
        scaling=1.0,
    )


def _scaled(factor: Tensor, scale: float) -> Tensor:
    """Multiply in float32 or wider."""
    return factor.to(torch.promote_types(factor.dtype, torch.float32)) * scale
