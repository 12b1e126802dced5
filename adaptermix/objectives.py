"""The alignment loss. Torch only: it knows no model, file or setting.

Axis names, used in every annotation of the package:

    batch   sentences in a batch            seq    tokens, padding included
    hidden  width of the model              src, tgt  sentences on either side
    out, in rows and columns of a weight    rank   LoRA rank
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from adaptermix.representations import cosine_similarities


def contrastive_loss(
    sources: Float[Tensor, "batch hidden"],
    targets: Float[Tensor, "batch hidden"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Mean of -log softmax over the targets of the batch, one direction only.

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

    Returns:
        A scalar; ``log(batch)`` when all similarities are equal.
    """
    logits = cosine_similarities(sources, targets) / temperature  # [src tgt]
    labels = torch.arange(len(logits), device=logits.device)
    return functional.cross_entropy(logits, labels)


@dataclass(frozen=True)
class AlignmentLoss:
    """The alignment objective as settings describe it, ready to be called on pooled vectors."""

    temperature: float

    def __call__(
        self, sources: Float[Tensor, "batch hidden"], targets: Float[Tensor, "batch hidden"]
    ) -> Float[Tensor, ""]:
        """Return the loss of one contrastive batch."""
        return contrastive_loss(sources, targets, self.temperature)
