"""LoRA updates as values: delta weights, norms, and sums that need no decomposition. Torch only."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, reduce

import torch
from jaxtyping import Float
from torch import Tensor

_WIDE = torch.complex128  # 16 bytes, whatever numbers are in them


@dataclass(frozen=True)
class LoraUpdate:
    """The update of one layer: ``scaling * b @ a`` is added to its weight.

    Attributes:
        a: First factor.
        b: Second factor.
        scaling: alpha / rank, or alpha / sqrt(rank) with rsLoRA.
        bias: What PEFT's ``lora_bias`` adds to the output, also times ``scaling``.
    """

    a: Float[Tensor, "rank in"]
    b: Float[Tensor, "out rank"]
    scaling: float
    bias: Float[Tensor, " out"] | None = None

    @property
    def rank(self) -> int:
        """Number of rows of ``a``."""
        return self.a.shape[0]

    @property
    def stored_rows(self) -> Sequence[Tensor | memoryview]:
        """What to write for ``a``: parts of it, one below the other, or their bytes."""
        return (self.a,)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Return all its tensors."""
        bias = () if self.bias is None else (self.bias,)
        return (self.a, self.b, *bias)

    @property
    def is_active(self) -> bool:
        """Whether it changes anything: a layer that was never trained has a B of zeros.

        With MiCA, which starts from singular vectors in B, it has an A of zeros.
        """
        if self.b.any() and self.a.any():
            return True
        return self.bias is not None and bool(self.bias.any())

    def delta_weight(self) -> Float[Tensor, "out in"]:
        """Return ``scaling * b @ a``, in the dtype of the factors. Costs out x in numbers."""
        return self.scaling * (self.b @ self.a)


class LazyUpdate(LoraUpdate):
    """An update whose ``a`` is read where it is asked for; its dtype is that of ``b``.

    Whoever writes ``stored_rows``, bytes of files among them, needs no tensor of it and no copy: a
    merge of hundreds of small modules is faster by both.
    """

    def __init__(
        self,
        stored_rows: Sequence[Tensor | memoryview],
        read: Callable[[], Tensor],
        b: Tensor,
        scaling: float,
        bias: Tensor | None,
    ) -> None:
        vars(self).update(_stored_rows=stored_rows, _read=read, b=b, scaling=scaling, bias=bias)

    @property
    def stored_rows(self) -> Sequence[Tensor | memoryview]:
        """What to write for ``a``."""
        rows: Sequence[Tensor | memoryview] = vars(self)["_stored_rows"]
        return rows

    @cached_property
    def a(self) -> Tensor:  # type: ignore[override]
        """Read it."""
        a: Tensor = vars(self)["_read"]()
        return a


def as_dtype(update: LoraUpdate, dtype: torch.dtype) -> LoraUpdate:
    """Return the update with all its tensors in one dtype."""
    if all(part.dtype == dtype for part in update.parts):
        return update
    bias = None if update.bias is None else update.bias.to(dtype)
    return LoraUpdate(update.a.to(dtype), update.b.to(dtype), update.scaling, bias)


def widened(factor: Tensor) -> Tensor:
    """Return the factor in float32, or unchanged where it is float64."""
    return factor.to(torch.promote_types(factor.dtype, torch.float32))


def is_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite; a sum shows that cheaply, unless it overflows itself."""
    return math.isfinite(tensor.sum().item()) or bool(tensor.isfinite().all())


@cache
def wider(*dtypes: torch.dtype) -> torch.dtype:
    """Return the dtype that holds what all of these hold; asked for every module, hence cached."""
    return reduce(torch.promote_types, dtypes)


def widest_dtype(updates: Sequence[LoraUpdate]) -> torch.dtype:
    """Return the dtype that holds every factor."""
    return wider(*{part.dtype for update in updates for part in (update.a, update.b)})


def sum_scaling(scales: Sequence[float]) -> float:
    """Return the scaling of a weighted sum: the largest |w_i s_i|, of what counts most."""
    return max(map(abs, scales))


def scaled(factor: Tensor, share: float, dtype: torch.dtype) -> Tensor:
    """Return a factor times a number in a dtype, computed in the wider of its own and that one."""
    if factor.dtype != dtype:  # a call that changes nothing costs as much as half a product
        factor = factor.to(wider(factor.dtype, dtype))
    if share != 1:
        factor = factor * share
    return factor if factor.dtype == dtype else factor.to(dtype)


def side_by_side(blocks: Sequence[Tensor]) -> Tensor:
    """Join matrices, or stacks of them, row by row; 16 bytes at a time, if they fit, are faster."""
    if len(blocks) == 1:
        return blocks[0]
    if any(block.shape[-1] * block.itemsize % _WIDE.itemsize for block in blocks):
        return torch.cat(tuple(blocks), dim=-1)
    wide = [_aligned(block).view(_WIDE) for block in blocks]
    return torch.cat(wide, dim=-1).view(blocks[0].dtype)


def _aligned(block: Tensor) -> Tensor:
    """Return a block of which wide numbers can be made: torch may crash on those at odd places."""
    *steps, step = block.stride()
    places = (block.storage_offset(), *steps)
    is_even = step == 1 and not any(at % (_WIDE.itemsize // block.itemsize) for at in places)
    if is_even and block.data_ptr() % _WIDE.itemsize == 0:
        return block
    return block.clone(memory_format=torch.contiguous_format)


def weighted_bias(
    updates: Sequence[LoraUpdate], weights: Sequence[float], dtype: torch.dtype
) -> Float[Tensor, " out"] | None:
    """Return sum_i w_i s_i bias_i over the updates that have one; None where none has."""
    terms = [
        widened(update.bias) * (weight * update.scaling)
        for update, weight in zip(updates, weights, strict=True)
        if update.bias is not None and weight
    ]
    return torch.stack(terms).sum(dim=0).to(dtype) if terms else None


def add_factors(
    updates: Sequence[LoraUpdate],
    weights_a: Sequence[float],
    weights_b: Sequence[float],
) -> LoraUpdate:
    """Return (sum_i u_i B_i)(sum_i v_i A_i): factors added, not updates.

    Its delta weight holds cross terms B_i A_j that no adapter was trained for. The ranks must be
    equal. The result's scaling is 1.

    Args:
        updates: Updates of one and the same layer, of one rank.
        weights_a: v_i.
        weights_b: u_i; scalings, where they count, are in these or in the others.
    """
    dtype = widest_dtype(updates)
    sums = [
        torch.stack([widened(f) * weight for f, weight in zip(factors, weights, strict=True)])
        for factors, weights in (
            ([update.a for update in updates], weights_a),
            ([update.b for update in updates], weights_b),
        )
    ]
    a, b = (terms.sum(dim=0).to(dtype) for terms in sums)
    return LoraUpdate(a, b, 1.0)


def inner_product(one: LoraUpdate, other: LoraUpdate) -> float:
    """Return the Frobenius inner product of two delta weights, without forming either.

    <B A, B' A'> = sum of (B^T B') * (A A'^T), two rank x rank matrices, in float64.
    """
    left = one.b.double().mT @ other.b.double()
    right = one.a.double() @ other.a.double().mT
    product = float((left * right).sum())
    return product * one.scaling * other.scaling


def norm(update: LoraUpdate) -> float:
    """Return the Frobenius norm of the delta weight, without forming it."""
    return math.sqrt(max(0.0, inner_product(update, update)))
