"""The alignment objective and the settings it reads."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from adaptermix.models.packing import PackedRow
from adaptermix.settings.training import TrainAlignSettings, TrainJointSettings
from adaptermix.training.contrastive import (
    ContrastiveStep,
    Sentences,
    TokenLoss,
    gathered,
    mean_over_processes,
)
from adaptermix.training.objectives import AlignmentLoss, preservation_loss

AlignSettings = TrainAlignSettings | TrainJointSettings
_TENSORS = ("input_ids", "attention_mask", "source_keys", "target_keys")  # of a batch of pairs


def tokens_to_skip(settings: AlignSettings) -> int:
    """Return how many tokens pooling leaves out, where that is settled."""
    if settings.pool_skip == "auto":
        raise AssertionError("what is auto is measured before the training")
    return settings.pool_skip


class AlignmentObjective:
    """The loss of one contrastive batch, as the settings describe it.

    With ``preserve``, sources are contrasted with what the base makes of the targets, and the
    hidden states of the targets and of the anchor text are kept near the base's.
    """

    def __init__(
        self,
        settings: AlignSettings,
        adapted: PeftModel,
        step: ContrastiveStep,
        batch: dict[str, Tensor],
        seed: int = 0,
        *,
        together: bool = False,
    ) -> None:
        """Take a batch, and ask the base about it where that counts.

        Args:
            settings: Temperature, pooling, preservation and so on.
            adapted: The model, without a wrapper, whose adapter can be switched off.
            step: What encodes its sentences.
            batch: Of ``PairCollator``.
            seed: Decides which elements dropout takes.
            together: Whether the batches of all processes are one.
        """
        (temperature,) = settings.temperature
        self.loss = AlignmentLoss(
            temperature, settings.directions, settings.stop_gradient, settings.mask_duplicates
        )
        self.preserve = settings.preserve if isinstance(settings, TrainAlignSettings) else 0.0
        self.sentences = Sentences.of(batch, seed, settings.pooling, tokens_to_skip(settings))
        self.keys = torch.cat([batch["source_keys"], batch["target_keys"]])
        self.together = together
        self.base_vectors: Tensor | None = None
        if self.preserve:
            self.anchor_tokens: float = sum(self.sentences.lengths[self.sentences.pairs :])
            if together:
                self.anchor_tokens = mean_over_processes(self.anchor_tokens, self.keys.device)
            with torch.no_grad(), adapted.disable_adapter():
                self._ask_base(adapted, step)

    @property
    def token_loss(self) -> TokenLoss | None:
        """What is added for moving hidden states, if anything."""
        return self._moved if self.preserve else None

    def __call__(self, sources: Tensor, targets: Tensor) -> Tensor:
        """Return the contrastive loss of the pairs of all processes, or of this one alone."""
        keys = gathered(self.keys) if self.together else self.keys
        if self.base_vectors is not None:
            base = gathered(self.base_vectors) if self.together else self.base_vectors
            targets = base.chunk(2)[1]
        return self.loss(sources, targets, *keys.chunk(2))

    def _ask_base(self, adapted: PeftModel, step: ContrastiveStep) -> None:
        """Keep the base's vectors, and its states of the tokens that are to stay in place."""
        lengths = torch.tensor(self.sentences.lengths, device=self.keys.device)
        self.starts = lengths.cumsum(0) - lengths  # of each sentence's tokens in base_states
        self.base_states = torch.empty(0)

        def keep(row: PackedRow, states: Tensor) -> Tensor:
            if not len(self.base_states):
                self.base_states = states.new_empty(int(lengths.sum()), states.shape[-1])
            self.base_states[self.starts[row.batch_rows] + row.positions] = states
            return states.new_zeros(())

        vectors, _ = step.encode(adapted, self.sentences, keep)
        self.base_vectors = vectors[: 2 * self.sentences.pairs]

    def _moved(self, row: PackedRow, states: Tensor) -> Tensor:
        """Return these sentences' part of the mean over all tokens that are to stay in place."""
        is_anchor = row.batch_rows >= self.sentences.pairs
        if not is_anchor.any():
            return states.new_zeros(())
        base = self.base_states[(self.starts[row.batch_rows] + row.positions)[is_anchor]]
        share = len(base) / self.anchor_tokens
        return self.preserve * share * preservation_loss(states[is_anchor], base)


@dataclass(frozen=True)
class Alignment:
    """How one model is aligned, alone or beside a task.

    Attributes:
        settings: The loss, the pooling and so on.
        adapted: The model, without a wrapper, whose adapter can be switched off.
        step: What encodes its sentences.
    """

    settings: AlignSettings
    adapted: PeftModel
    step: ContrastiveStep

    def backpropagate(
        self, model: nn.Module, batch: dict[str, Tensor], accelerator: Any, share: float
    ) -> Tensor:
        """Return a share of the loss of a contrastive batch, and leave its gradient in the model.

        Args:
            model: What runs forward: wrapped, where several processes train it.
            batch: This process's pairs, of ``PairCollator``.
            accelerator: Trainer's, which knows how the model is wrapped.
            share: Of the batch in its optimizer step.
        """
        seed = int(torch.randint(2**31, ()))
        objective = AlignmentObjective(
            self.settings, self.adapted, self.step, batch, seed, together=True
        )
        loss = self.step.backpropagate(
            model.train(),
            objective.sentences,
            objective,
            lambda part: accelerator.backward(part * share),
            token_loss=objective.token_loss,
            no_sync=lambda: accelerator.no_sync(model),
        )
        return loss * share

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of the pairs of this process alone, in one pass, without a gradient."""
        with torch.no_grad():
            objective = AlignmentObjective(self.settings, self.adapted, self.step, batch)
            vectors, added = self.step.encode(
                self.adapted, objective.sentences, objective.token_loss
            )
            return objective(*vectors[: 2 * objective.sentences.pairs].chunk(2)) + added

    def dev_vectors(self, batches: Iterable[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """Return the vectors of all sources and of all targets, [pairs hidden] each."""
        self.adapted.eval()
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for batch in batches:
            tensors = {name: batch[name].to(self.adapted.device) for name in _TENSORS}
            skip = tokens_to_skip(self.settings)
            sentences = Sentences.of(tensors, 0, self.settings.pooling, skip)
            with torch.no_grad():
                vectors = self.step.vectors(self.adapted, sentences)[: 2 * sentences.pairs]
            for side, pooled in zip(sides, vectors.chunk(2), strict=True):
                side.append(pooled)
        return torch.cat(sides[0]), torch.cat(sides[1])
