"""Sentence representations from hidden states, and the similarities between them. Torch only."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def widened(values: Tensor) -> Tensor:
    """Return the values in float32, or unchanged where they are float64."""
    return values if values.dtype == torch.float64 else values.float()


def pooling_weights(
    attention_mask: Int[Tensor, "rows seq"],
) -> Float[Tensor, "rows seq"]:
    """Return the share of each token in its sentence's vector: the same for all real tokens."""
    mask = attention_mask.double()
    return mask / mask.sum(dim=1, keepdim=True)


def mean_pool(
    hidden_states: Float[Tensor, "batch seq hidden"],
    attention_mask: Int[Tensor, "batch seq"],
) -> Float[Tensor, "batch hidden"]:
    """Average each sentence's hidden states over its real tokens, the BOS token included.

    Args:
        hidden_states: Output of one decoder block.
        attention_mask: 1 for real tokens, 0 for padding on either side; every row has a 1.

    Returns:
        One vector per sentence, in float32 (float64 stays float64).
    """
    mask = attention_mask.unsqueeze(-1)  # [batch seq 1]
    kept = widened(hidden_states) * mask  # [batch seq hidden]
    return kept.sum(dim=1) / mask.sum(dim=1)


def cosine_similarities(
    sources: Float[Tensor, "src hidden"], targets: Float[Tensor, "tgt hidden"]
) -> Float[Tensor, "src tgt"]:
    """Return the cosine of every source with every target, in float32 or wider."""
    return (
        functional.normalize(widened(sources), dim=-1)
        @ functional.normalize(widened(targets), dim=-1).mT
    )


def retrieval_accuracy(
    sources: Float[Tensor, "batch hidden"], targets: Float[Tensor, "batch hidden"]
) -> float:
    """Share of sources whose most similar target by cosine is their own translation."""
    nearest = cosine_similarities(sources, targets).argmax(dim=1)  # [src]
    return (nearest == torch.arange(len(nearest), device=nearest.device)).float().mean().item()
