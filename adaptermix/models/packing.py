"""Sentences packed into one row without padding, and attention that keeps them separate.

Every layer except attention works on single tokens, so it can run on one row with the tokens of all
sentences. Only attention needs rectangles: adjacent sentences of similar length are padded to the
longest of them for the duration of attention.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from adaptermix.models.pooling import widened

# Model types whose attention is known to match `packed_attention`.
LAYOUTS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
NAME = "adaptermix-packed"
_PADDED = 1.5  # maximum tokens in attention per real token


@dataclass(frozen=True)
class Group:
    """Adjacent sentences of similar length in a packed row.

    ``padded`` is the index of the group's token at every position of the [sentences x length]
    rectangle (0 for padding), and ``real`` is the position of every token. Both are None if all
    sentences have the same length.
    """

    start: int
    stop: int
    sentences: int
    length: int
    padded: Tensor | None
    real: Tensor | None


@dataclass(frozen=True)
class PackedRow:
    """The tokens of some rows of a batch, one sentence after another, shortest first.

    Attributes:
        input_ids: IDs of the tokens.
        positions: Position of each token in its sentence.
        batch_rows: Row of each token in the batch.
        batch_columns: Column of each token in the batch.
        sentences: Index of each token's sentence among the packed ones.
        groups: Groups of sentences of similar length.
    """

    input_ids: Int[Tensor, " tokens"]
    positions: Int[Tensor, " tokens"]
    batch_rows: Int[Tensor, " tokens"]
    batch_columns: Int[Tensor, " tokens"]
    sentences: Int[Tensor, " tokens"]
    groups: tuple[Group, ...]


def pack(
    input_ids: Int[Tensor, "rows seq"],
    attention_mask: Int[Tensor, "rows seq"],
    chosen: Sequence[int],
    lengths: Sequence[int],
) -> PackedRow:
    """Pack some rows of a padded batch.

    Args:
        input_ids: The batch.
        attention_mask: 1 for real tokens, 0 for padding on either side.
        chosen: Rows to pack, shortest first.
        lengths: Number of real tokens in every row of the batch.
    """
    device = input_ids.device
    rows = torch.tensor(chosen, device=device)
    mask = attention_mask[rows].bool()
    sentences, columns = mask.nonzero(as_tuple=True)
    sizes = [lengths[row] for row in chosen]
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    return PackedRow(
        input_ids[rows][mask],
        (mask.cumsum(1) - 1)[mask],
        rows[sentences],
        columns,
        sentences,
        tuple(_group(sizes[run], starts[run.start], device) for run in similar_runs(sizes)),
    )


def similar_runs(lengths: Sequence[int]) -> list[slice]:
    """Split ascending lengths into runs that can be padded to their longest at little cost."""
    cuts, first, tokens = [0], 0, 0
    for at, length in enumerate(lengths):
        if (at - first + 1) * length > _PADDED * (tokens + length):
            cuts.append(at)
            first, tokens = at, 0
        tokens += length
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(lengths)], strict=True)]


def _group(lengths: list[int], start: int, device: torch.device) -> Group:
    sizes = torch.tensor(lengths)
    longest = lengths[-1]
    stop = start + sum(lengths)
    if lengths[0] == longest:
        return Group(start, stop, len(lengths), longest, None, None)
    positions = torch.arange(longest)
    is_real = positions < sizes[:, None]  # [sentences length]
    padded = (sizes.cumsum(0) - sizes)[:, None] + positions
    return Group(
        start,
        stop,
        len(lengths),
        longest,
        padded.where(is_real, 0).flatten().to(device),
        is_real.flatten().nonzero().flatten().to(device),
    )


class _Pad(torch.autograd.Function):
    """Arranges tokens in a padded rectangle. Padding has no influence, so it gets no gradient."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, padded: Tensor, real: Tensor) -> Tensor:
        ctx.save_for_backward(real)
        return tokens.index_select(0, padded)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        (real,) = ctx.saved_tensors
        return grad.index_select(0, real), None, None


class _Unpad(torch.autograd.Function):
    """Extracts the tokens of a padded rectangle."""

    @staticmethod
    def forward(ctx: Any, rectangle: Tensor, real: Tensor) -> Tensor:
        ctx.save_for_backward(real)
        ctx.shape = rectangle.shape
        return rectangle.index_select(0, real)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        (real,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(0, real, grad), None


class _How(NamedTuple):
    """How attention is computed, as transformers passes it."""

    scaling: float
    dropout: float
    window: int | None
    softcap: float | None


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads tokens head"],
    key: Float[Tensor, "1 keys tokens head"],
    value: Float[Tensor, "1 keys tokens head"],
    attention_mask: None,
    *,
    scaling: float,
    groups: tuple[Group, ...],
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "1 tokens heads head"], None]:
    """Compute causal attention within each sentence of a packed row; transformers calls it."""
    rows = [states[0].transpose(0, 1) for states in (query, key, value)]  # [tokens heads head]
    how = _How(scaling, dropout, sliding_window, softcap)
    outputs = []
    for group in groups:
        queries, keys, values = (_rectangle(row, group) for row in rows)
        output = _causal_attention(queries, keys, values, how)
        flat = output.transpose(1, 2).flatten(0, 1)  # [sentences x length, heads, head]
        outputs.append(flat if group.real is None else _Unpad.apply(flat, group.real))
    return torch.cat(outputs)[None], None


def _rectangle(
    row: Float[Tensor, "tokens heads head"], group: Group
) -> Float[Tensor, "sentences heads length head"]:
    part = row[group.start : group.stop]
    if group.padded is not None:
        part = _Pad.apply(part, group.padded, group.real)
    rectangle: Tensor = part.unflatten(0, (group.sentences, group.length))
    return rectangle.transpose(1, 2)


def _causal_attention(
    query: Float[Tensor, "sentences heads length head"],
    key: Float[Tensor, "sentences keys length head"],
    value: Float[Tensor, "sentences keys length head"],
    how: _How,
) -> Float[Tensor, "sentences heads length head"]:
    """Attend to earlier tokens. Padding is on the right, so no token sees any."""
    scaling, dropout, window, softcap = how
    length, shared = query.shape[2], query.shape[1] != key.shape[1]
    if softcap is None and (window is None or length <= window):
        return functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=shared
        )
    positions = torch.arange(length, device=query.device)
    back = positions[:, None] - positions  # distance from each query back to each key
    seen = (back >= 0) if window is None else (back >= 0) & (back < window)
    if softcap is None:
        return functional.scaled_dot_product_attention(
            query, key, value, seen, dropout_p=dropout, scale=scaling, enable_gqa=shared
        )
    repeats = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
    scores = torch.tanh(query @ key.mT * (scaling / softcap)) * softcap
    weights = widened(scores).masked_fill(~seen, -torch.inf).softmax(-1).to(query.dtype)
    return functional.dropout(weights, dropout, dropout > 0) @ value


AttentionInterface.register(NAME, packed_attention)


def can_pack(model: PreTrainedModel) -> bool:
    """Whether packed attention is equivalent to the model's own attention."""
    config = model.config
    return config.model_type in LAYOUTS and not getattr(config, "use_bidirectional_attention", None)


@contextmanager
def attention_apart(model: PreTrainedModel) -> Iterator[None]:
    """Switch a model to packed attention, and restore its own attention afterwards."""
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
