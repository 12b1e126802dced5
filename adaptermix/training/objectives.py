"""The alignment loss. Torch only: it knows no model, file or setting.

Axis names, used in every annotation of the package:

    batch   sentences in a batch            seq    tokens, padding included
    hidden  width of the model              src, tgt  sentences on either side
    out, in rows and columns of a weight    rank   LoRA rank
    tokens  real tokens of a batch, its sentences one after the other
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
_ROWS = 256  # of cosines at a time


def contrastive_loss(
    sources: Float[Tensor, "batch hidden"],
    targets: Float[Tensor, "batch hidden"],
    temperature: float,
    *,
    directions: Directions = "one",
    duplicates: Bool[Tensor, "batch batch"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of -log softmax over the targets of the batch.

    Liu & Niehues (2025), equation 1, with cosine similarity over a temperature. Its sum over
    "v in B" is read as the paper's released code has it: the candidates of a source sentence are
    the batch's target sentences, its own translation among them, and nothing else; so the loss
    pulls sources (non-English) to targets (English). Gradient flows to both sides.

    Computed in float32 or wider whatever the inputs are: bfloat16 knows only 256 values between
    0.5 and 1, too few to tell cosines of similar sentences apart.

    Args:
        sources: One vector per source sentence.
        targets: The translation of each source, in the same order.
        temperature: Divides the cosines; positive.
        directions: ``one`` is the above; ``both`` is the mean of it and of the same loss with
            the sides exchanged.
        duplicates: True where target j must not count against source i, of ``duplicate_pairs``.

    Returns:
        A scalar; ``log(batch)`` when all similarities are equal and nothing is masked.
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

    Of a large batch some rows of cosines are there at a time, and are made again for the
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
    """Find the pairs that say the same as another on either side, and so are no negatives.

    Args:
        source_keys: A number per source sentence, equal where the texts are.
        target_keys: The same of the target sentences.

    Returns:
        True at [i, j] where pairs i and j share the source or the target text. False on the
        diagonal: a pair is not its own duplicate.
    """
    same = source_keys[:, None] == source_keys[None]
    same |= target_keys[:, None] == target_keys[None]
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)


def preservation_loss(
    states: Float[Tensor, "tokens hidden"], base_states: Float[Tensor, "tokens hidden"]
) -> Float[Tensor, ""]:
    """Mean over tokens of the squared distance to the base, in units of the base's squared norm.

    The norm is each token's own: with one norm for all, the few tokens of huge norm (attention
    sinks) would be all that counts.

    Args:
        states: Hidden states of real tokens with the adapter.
        base_states: Those of the same tokens without; no gradient flows to them.

    Returns:
        A scalar in float32 or wider: 0 where nothing moved, 1 where all states are zero.
    """
    base = widened(base_states).detach()
    moved = (widened(states) - base).square().sum(dim=-1)  # [tokens]
    return (moved / base.square().sum(dim=-1).clamp_min(torch.finfo(base.dtype).tiny)).mean()


@dataclass(frozen=True)
class AlignmentLoss:
    """The alignment objective as settings describe it, ready to be called on pooled vectors.

    Attributes:
        temperature: Divides the cosines.
        directions: From sources to targets as in the paper, or both.
        stop_gradient: Leave the targets (the English side) where they are; the paper's footnote 5.
        mask_duplicates: Take pairs that share a text out of each other's negatives.
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
            targets: The translation of each.
            source_keys: Numbers that tell the texts apart (``duplicate_pairs``); only read where
                duplicates are masked.
            target_keys: The same of the targets.
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
