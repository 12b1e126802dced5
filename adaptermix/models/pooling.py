"""Sentence representations from hidden states, and the similarities between them. Torch only."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

Pooling = Literal["mean", "weighted", "last"]


def widened(values: Tensor) -> Tensor:
    """Return the values in float32, or unchanged if they are float64."""
    return values if values.dtype == torch.float64 else values.float()


def pooling_weights(
    attention_mask: Int[Tensor, "batch seq"], pooling: Pooling = "mean", skip: int = 0
) -> Float[Tensor, "batch seq"]:
    """Return the weight of each token in its sentence's vector; they sum to 1 per sentence.

    - ``mean``: equal weights, including the BOS token. Liu & Niehues (2025).
    - ``weighted``: weight i for the i-th token, because later tokens of a decoder have seen more
      of the sentence. Muennighoff (2022), SGPT, equation 2; also used by MEXA (2024).
    - ``last``: only the last token.

    Args:
        attention_mask: 1 for real tokens, 0 for padding on either side; every row has a 1.
        pooling: One of the above.
        skip: Number of tokens at the start of each sentence with weight 0, because the first ones
            can have states of huge norm that do not depend on the sentence (attention sinks). i
            starts after them. A sentence that is not longer than this keeps its last token.

    Returns:
        Weights in float64, so that their rounding is negligible.
    """
    real = attention_mask.long()
    length = real.sum(dim=1, keepdim=True)  # [batch 1]
    position = real.cumsum(dim=1)  # [batch seq], from 1
    first = length.clamp(max=skip + 1)  # [batch 1]
    counted = (position >= first) & real.bool()
    if pooling == "last":
        weights = (counted & (position == length)).double()
    elif pooling == "weighted":
        weights = counted * (position - first + 1).double()
    else:
        weights = counted.double()
    return weights / weights.sum(dim=1, keepdim=True)


def pool(
    hidden_states: Float[Tensor, "batch seq hidden"], weights: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch hidden"]:
    """Sum each sentence's hidden states, weighted by token, in float32 or wider."""
    states = widened(hidden_states)
    return (states * weights.to(states.dtype).unsqueeze(-1)).sum(dim=1)


def mean_pool(
    hidden_states: Float[Tensor, "batch seq hidden"],
    attention_mask: Int[Tensor, "batch seq"],
) -> Float[Tensor, "batch hidden"]:
    """Average each sentence's hidden states over its real tokens, including the BOS token.

    Args:
        hidden_states: Output of one decoder block.
        attention_mask: 1 for real tokens, 0 for padding on either side; every row has a 1.

    Returns:
        One vector per sentence, in float32 (float64 stays float64).
    """
    return pool(hidden_states, pooling_weights(attention_mask))


def cosine_similarities(
    sources: Float[Tensor, "src hidden"], targets: Float[Tensor, "tgt hidden"]
) -> Float[Tensor, "src tgt"]:
    """Return the cosine of every source with every target, in float32 or wider."""
    return (
        functional.normalize(widened(sources), dim=-1)
        @ functional.normalize(widened(targets), dim=-1).mT
    )


def retrieval_hits(
    sources: Float[Tensor, "batch hidden"],
    targets: Float[Tensor, "batch hidden"],
    target_keys: Int[Tensor, " batch"] | None = None,
) -> Bool[Tensor, " batch"]:
    """Return for every source whether its most similar target by cosine is its translation.

    Args:
        sources: Vectors of sentences.
        targets: Vectors of their translations, in the same order.
        target_keys: Numbers that are equal for equal targets: each of them is the translation.
    """
    nearest = cosine_similarities(sources, targets).argmax(dim=1)  # [src]
    if target_keys is None:
        target_keys = torch.arange(len(targets), device=nearest.device)
    return target_keys[nearest] == target_keys


def retrieval_accuracy(
    sources: Float[Tensor, "batch hidden"], targets: Float[Tensor, "batch hidden"]
) -> float:
    """Return the share of sources whose most similar target by cosine is their translation."""
    return retrieval_hits(sources, targets).float().mean().item()


def unrelated_cosines(
    sources: Float[Tensor, "batch hidden"],
    targets: Float[Tensor, "batch hidden"],
    source_keys: Int[Tensor, " batch"] | None = None,
    target_keys: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, " cosines"]:
    """Return the cosines of sources with the targets that are not their translation.

    If their mean is near 1, all sentences point in the same direction: the representations have
    collapsed, or a shared component (an attention sink in the mean) hides the differences.

    Args:
        sources: Vectors of sentences.
        targets: Vectors of their translations, in the same order.
        source_keys: Numbers that are equal for equal sources, whose translations are left out too.
        target_keys: The same for targets.
    """
    cosines = cosine_similarities(sources, targets).double()
    is_own = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
    for keys in (source_keys, target_keys):
        if keys is not None:
            is_own |= keys[:, None] == keys
    return cosines[~is_own]
