"""The alignment objective and the settings it reads."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor, nn

from adaptermix.models.packing import PackedRow
from adaptermix.models.pooling import retrieval_hits, unrelated_cosines
from adaptermix.settings.training import TrainAlignSettings, TrainJointSettings
from adaptermix.training.contrastive import (
    ContrastiveStep,
    Loss,
    Sentences,
    TokenLoss,
    gathered,
    mean_over_processes,
)
from adaptermix.training.objectives import AlignmentLoss, preservation_loss

AlignSettings = TrainAlignSettings | TrainJointSettings
_TENSORS = ("input_ids", "attention_mask", "source_keys", "target_keys")  # in a batch of pairs


def tokens_to_skip(settings: AlignSettings) -> int:
    """Return how many initial tokens pooling skips; ``auto`` must be resolved before."""
    if settings.pool_skip == "auto":
        raise AssertionError("what is auto is measured before the training")
    return settings.pool_skip


class AlignmentObjective:
    """The loss of one contrastive batch, as configured by the settings.

    With ``preserve``, sources are contrasted with the base model's vectors of the targets, and
    the hidden states of targets and anchor text are kept close to the base model's.
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
        """Prepare a batch; with ``preserve``, also run the base model on it.

        Args:
            settings: Temperature, pooling, preservation and so on.
            adapted: The unwrapped PEFT model, whose adapter can be disabled.
            step: Encodes the sentences.
            batch: A batch from ``PairCollator``.
            seed: Seed of the dropout masks.
            together: Treat the batches of all processes as one.
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
            with torch.no_grad(), _evaluating(adapted), adapted.disable_adapter():
                self._ask_base(adapted, step)

    @property
    def token_loss(self) -> TokenLoss | None:
        """The preservation loss of some hidden states, or None without ``preserve``."""
        return self._moved if self.preserve else None

    def __call__(self, sources: Tensor, targets: Tensor) -> Tensor:
        """Return the contrastive loss of the pairs of all processes, or of this process only."""
        keys = gathered(self.keys) if self.together else self.keys
        if self.base_vectors is not None:
            base = gathered(self.base_vectors) if self.together else self.base_vectors
            targets = base.chunk(2)[1]
        return self.loss(sources, targets, *keys.chunk(2))

    def _ask_base(self, adapted: PeftModel, step: ContrastiveStep) -> None:
        """Store the base model's vectors, and its hidden states of all tokens."""
        lengths = torch.tensor(self.sentences.lengths, device=self.keys.device)
        self.starts = lengths.cumsum(0) - lengths  # offset of each sentence in base_states
        self.base_states = torch.empty(0)

        def keep(row: PackedRow, states: Tensor) -> Tensor:
            if not len(self.base_states):
                self.base_states = states.new_empty(int(lengths.sum()), states.shape[-1])
            self.base_states[self.starts[row.batch_rows] + row.positions] = states
            return states.new_zeros(())

        vectors, _ = step.encode(adapted, self.sentences, keep)
        self.base_vectors = vectors[: 2 * self.sentences.pairs]

    def _moved(self, row: PackedRow, states: Tensor) -> Tensor:
        """Return these sentences' share of the preservation loss, a mean over all its tokens."""
        is_anchor = row.batch_rows >= self.sentences.pairs
        if not is_anchor.any():
            return states.new_zeros(())
        base = self.base_states[(self.starts[row.batch_rows] + row.positions)[is_anchor]]
        share = len(base) / self.anchor_tokens
        return self.preserve * share * preservation_loss(states[is_anchor], base)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Turn off a model's dropout: a base model may have its own, such as GPT-2."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class PairVectors(NamedTuple):
    """Vectors of pairs, and numbers that are equal for equal texts of a side."""

    sources: Float[Tensor, "pairs hidden"]
    targets: Float[Tensor, "pairs hidden"]
    source_keys: Int[Tensor, " pairs"]
    target_keys: Int[Tensor, " pairs"]

    def by_language(self, sizes: Iterable[int]) -> Iterator["PairVectors"]:
        """Yield the pairs of each language pair, which are contiguous; ``sizes`` counts them."""
        counts = [*filter(None, sizes)]
        for columns in zip(*(column.split(counts) for column in self), strict=True):
            yield PairVectors(*columns)

    def retrieval_accuracy(self, sizes: Iterable[int]) -> float:
        """Return the share of sources whose nearest target of their language pair translates them.

        Sentences of other language pairs may be translations of the same text, so they do not
        compete. Of equal targets, each is the translation.
        """
        hits = [
            retrieval_hits(each.sources, each.targets, each.target_keys)
            for each in self.by_language(sizes)
        ]
        return torch.cat(hits).float().mean().item()

    def random_cosine(self, sizes: Iterable[int]) -> float:
        """Return the mean cosine within a language pair of sentences that are not translations.

        Returns:
            A value from -1 to 1; 0 if there are no such sentences.
        """
        cosines = torch.cat([unrelated_cosines(*each) for each in self.by_language(sizes)])
        return cosines.mean().item() if len(cosines) else 0.0


@dataclass(frozen=True)
class Alignment:
    """The alignment of one model, alone or alongside a task.

    Attributes:
        settings: Settings of the loss, the pooling and so on.
        adapted: The unwrapped PEFT model, whose adapter can be disabled.
        step: Encodes the sentences.
    """

    settings: AlignSettings
    adapted: PeftModel
    step: ContrastiveStep

    def backpropagate(
        self, model: nn.Module, batch: dict[str, Tensor], accelerator: Any, share: float
    ) -> Tensor:
        """Add the scaled gradient of a contrastive batch to the model, and return the scaled loss.

        Args:
            model: The model to run, wrapped if several processes train it.
            batch: This process's pairs, from ``PairCollator``.
            accelerator: Trainer's accelerator, which knows the wrapper.
            share: Factor on the loss and its gradient.
        """
        seed = int(torch.randint(2**31, ()))
        objective = AlignmentObjective(
            self.settings, self.adapted, self.step, batch, seed, together=True
        )
        loss = self.step.backpropagate(
            model.train(),
            objective.sentences,
            Loss(objective, objective.token_loss),
            lambda part: accelerator.backward(part * share),
            no_sync=lambda: accelerator.no_sync(model),
        )
        return loss * share

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of this process's pairs only, without a gradient."""
        with torch.no_grad():
            objective = AlignmentObjective(self.settings, self.adapted, self.step, batch)
            vectors, added = self.step.encode(
                self.adapted, objective.sentences, objective.token_loss
            )
            return objective(*vectors[: 2 * objective.sentences.pairs].chunk(2)) + added

    def dev_vectors(self, batches: Iterable[dict[str, Any]]) -> PairVectors:
        """Return the vectors of all pairs."""
        self.adapted.eval()
        found: list[PairVectors] = []
        for batch in batches:
            tensors = {name: batch[name].to(self.adapted.device) for name in _TENSORS}
            skip = tokens_to_skip(self.settings)
            sentences = Sentences.of(tensors, 0, self.settings.pooling, skip)
            with torch.no_grad():
                vectors = self.step.vectors(self.adapted, sentences)[: 2 * sentences.pairs]
            sources, targets = vectors.chunk(2)
            keys = tensors["source_keys"], tensors["target_keys"]
            found.append(PairVectors(sources, targets, *keys))
        return PairVectors(*map(torch.cat, zip(*found, strict=True)))
