"""The alignment loss. Uses torch only: no models, files or settings.

Axis names, used in every annotation of the package:

    batch   sentences in a batch            seq    tokens, padding included
    hidden  width of the model              src, tgt  sentences on either side
    out, in rows and columns of a weight    rank   LoRA rank
    tokens  real tokens of a batch, concatenated by sentence
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from adaptermix.models.pooling import cosine_similarities, widened

Directions = Literal["one", "both"]
_ROWS = 256  # rows of cosines at a time


def contrastive_loss(
    sources: Float[Tensor, "batch hidden"],
    targets: Float[Tensor, "batch hidden"],
    temperature: float,
    *,
    directions: Directions = "one",
    duplicates: Bool[Tensor, "batch batch"] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean of -log softmax over the targets of the batch.

    Liu & Niehues (2025), equation 1, with cosine similarity divided by a temperature. Its sum
    over "v in B" follows the paper's released code: the candidates of a source sentence are the
    batch's target sentences only, including its own translation. The loss therefore pulls
    sources (non-English) to targets (English). Gradient flows to both sides.

    Computed in float32 or wider for any inputs: bfloat16 has only 128 values between 0.5 and 1,
    too few to distinguish the cosines of similar sentences.

    Args:
        sources: One vector per source sentence.
        targets: The translation of each source, in the same order.
        temperature: Divisor of the cosines; positive.
        directions: ``one`` is the loss above; ``both`` is the mean of it and of the loss with
            exchanged sides.
        duplicates: True where target j is not a negative of source i, from ``duplicate_pairs``.

    Returns:
        A scalar; ``log(batch)`` if all similarities are equal and nothing is masked.
    """
    loss = _mean_log_loss(sources, targets, temperature, duplicates)
    if directions == "one":
        return loss
    others = None if duplicates is None else duplicates.mT
    return (loss + _mean_log_loss(targets, sources, temperature, others)) / 2


def _mean_log_loss(
    queries: Float[Tensor, "src hidden"],
    candidates: Float[Tensor, "tgt hidden"],
    temperature: float,
    duplicates: Bool[Tensor, "src tgt"] | None,
) -> Float[Tensor, ""]:
    """Return the mean over queries of -log softmax at their own candidate.

    For a large batch, only some rows of cosines exist at a time, and they are recomputed for the
    gradient: memory grows with the number of vectors, not with its square.
    """

    def summed(rows: Int[Tensor, " rows"]) -> Float[Tensor, ""]:
        logits = cosine_similarities(queries[rows], candidates) / temperature  # [rows tgt]
        if duplicates is not None:
            logits = logits.masked_fill(duplicates[rows], float("-inf"))
        return functional.cross_entropy(logits, rows, reduction="sum")

    blocks = torch.arange(len(queries), device=queries.device).split(_ROWS)
    if len(blocks) == 1:
        return summed(*blocks) / len(queries)
    sums = [
        checkpoint(summed, rows, use_reentrant=False, preserve_rng_state=False) for rows in blocks
    ]
    return torch.stack(sums).sum() / len(queries)


def duplicate_pairs(
    source_keys: Int[Tensor, " batch"], target_keys: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch batch"]:
    """Find the pairs that share a text with another pair, and are therefore no negatives.

    Args:
        source_keys: One number per source sentence, equal for equal texts.
        target_keys: The same for the target sentences.

    Returns:
        True at [i, j] if pairs i and j share the source or the target text. False on the
        diagonal: a pair is not its own duplicate.
    """
    same = source_keys[:, None] == source_keys[None]
    same |= target_keys[:, None] == target_keys[None]
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)


def preservation_loss(
    states: Float[Tensor, "tokens hidden"], base_states: Float[Tensor, "tokens hidden"]
) -> Float[Tensor, ""]:
    """Return the mean squared distance to the base states, relative to their squared norms.

    Each token has its own norm. With one norm for all tokens, the few tokens of huge norm
    (attention sinks) would dominate.

    Args:
        states: Hidden states of real tokens with the adapter.
        base_states: Hidden states of the same tokens without the adapter; they get no gradient.

    Returns:
        A scalar in float32 or wider: 0 if nothing moved, 1 if all states are zero.
    """
    base = widened(base_states).detach()
    moved = (widened(states) - base).square().sum(dim=-1)  # [tokens]
    return (moved / base.square().sum(dim=-1).clamp_min(torch.finfo(base.dtype).tiny)).mean()


@dataclass(frozen=True)
class AlignmentLoss:
    """The contrastive loss of pooled vectors, with its settings.

    Attributes:
        temperature: Divisor of the cosines.
        directions: From sources to targets as in the paper, or both.
        stop_gradient: Send no gradient to the targets (the English side); the paper's footnote 5.
        mask_duplicates: Pairs that share a text are no negatives of each other.
    """

    temperature: float
    directions: Directions = "one"
    stop_gradient: bool = False
    mask_duplicates: bool = False

    def __call__(
        self,
        sources: Float[Tensor, "batch hidden"],
        targets: Float[Tensor, "batch hidden"],
        source_keys: Int[Tensor, " batch"] | None = None,
        target_keys: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of one contrastive batch.

        Args:
            sources: One vector per source sentence.
            targets: The translation of each source.
            source_keys: Numbers that identify equal texts (``duplicate_pairs``); only used if
                duplicates are masked.
            target_keys: The same for the targets.
        """
        duplicates = None
        if self.mask_duplicates and source_keys is not None and target_keys is not None:
            duplicates = duplicate_pairs(source_keys, target_keys)
        return contrastive_loss(
            sources,
            targets.detach() if self.stop_gradient else targets,
            self.temperature,
            directions=self.directions,
            duplicates=duplicates,
        )
