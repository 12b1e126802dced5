"""Train a LoRA that pulls translations together at one layer, and nothing else."""

import random
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Trainer, set_seed

from adaptermix.batching import PairCollator, encode_pairs
from adaptermix.config import TrainAlignSettings
from adaptermix.contrastive_step import ContrastiveStep, Sentences
from adaptermix.data import hold_out, read_pairs, resample_evenly
from adaptermix.errors import DataError
from adaptermix.models import load_lower_blocks, load_tokenizer, locate_model
from adaptermix.objectives import AlignmentLoss
from adaptermix.representations import retrieval_accuracy
from adaptermix.training import (
    OnProgress,
    Stream,
    TrainingRun,
    TrainReport,
    check_training,
    plan_training,
    with_lora,
)


def train_align(
    settings: TrainAlignSettings,
    *,
    force: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = lambda progress: None,
) -> TrainReport:
    """Train a LoRA that pulls translations together at one layer, and nothing else.

    Raises:
        ConfigError: Settings that contradict each other, or a layer the model does not have.
        DataError: Missing or malformed data, fewer pairs than one contrastive batch.
        ArtifactError: A model that cannot be used, or an output that exists.
    """
    micro = check_training(settings, settings.contrastive_batch, "--contrastive-batch", force)
    folder = locate_model(settings)
    tokenizer = load_tokenizer(folder, settings)
    stream = _align_stream(settings, tokenizer)
    if dry_run:
        return plan_training(settings, stream)
    set_seed(settings.seed)
    lower = load_lower_blocks(folder, settings, settings.layer)
    model = with_lora(lower, settings, "FEATURE_EXTRACTION")
    pairs = settings.micro_batch_size or settings.contrastive_batch
    step = ContrastiveStep(model, 2 * pairs, settings.packing)
    collator = PairCollator(int(tokenizer.pad_token_id or 0))
    run = _AlignmentRun(settings, folder, stream, micro, collator, on_progress)
    run.step = step
    objective = AlignmentLoss(settings.temperature)
    return run.train(model, _alignment_trainer(objective, step), force)


def _align_stream(settings: TrainAlignSettings, tokenizer: Any) -> Stream:
    rng = random.Random(settings.seed)
    folder = settings.pairs_dir or settings.data_dir
    groups, held = {}, {}
    for pair in settings.pairs:
        rows = read_pairs(pair, folder)[: settings.limit]
        if len(rows) < settings.contrastive_batch:
            raise DataError(
                f"{pair} has {len(rows)} sentence pairs, fewer than one contrastive batch of "
                f"{settings.contrastive_batch}",
                hint="find more, or lower --contrastive-batch",
            )
        groups[pair], held[pair] = hold_out(rows, settings.dev_pairs, rng)
    even = resample_evenly(list(groups.values()), rng)
    dev = [row for rows in held.values() for row in rows]
    return Stream(
        encode_pairs(even, tokenizer, settings.max_length),
        encode_pairs(dev, tokenizer, settings.max_length),
        {pair: len(rows) for pair, rows in groups.items()},
        {pair: len(rows) for pair, rows in held.items()},
    )


def alignment_vectors(
    model: nn.Module, step: ContrastiveStep, batch: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the pooled last hidden states of sources and targets, [batch hidden] each."""
    sources, targets = step.vectors(model, Sentences.of(batch)).chunk(2)
    return sources, targets


def _alignment_trainer(objective: AlignmentLoss, step: ContrastiveStep) -> type[Trainer]:
    """Return a Trainer that minimises the objective on pooled pairs.

    The losses of accumulated contrastive batches are averaged.
    """

    class AlignmentTrainer(Trainer):
        def training_step(
            self,
            model: nn.Module,
            inputs: dict[str, Any],
            num_items_in_batch: Tensor | int | None = None,
        ) -> Tensor:
            model.train()
            seed = int(torch.randint(2**31, ()))
            share = 1 / self.current_gradient_accumulation_steps
            loss = step.backpropagate(
                model,
                Sentences.of(self._prepare_inputs(inputs), seed),
                objective,
                lambda part: self.accelerator.backward(part * share),
                no_sync=lambda: self.accelerator.no_sync(model),
            )
            return loss * share

        def prediction_step(
            self,
            model: nn.Module,
            inputs: dict[str, Any],
            prediction_loss_only: bool,
            ignore_keys: list[str] | None = None,
        ) -> tuple[Tensor, None, None]:
            with torch.no_grad():
                batch = self._prepare_inputs(inputs)
                return objective(*alignment_vectors(model, step, batch)), None, None

    return AlignmentTrainer


class _AlignmentRun(TrainingRun):
    """A run whose adapter is also judged by how well its dev pairs find each other."""

    step: ContrastiveStep

    def dev_scores(self, trainer: Trainer, model: PeftModel) -> dict[str, float]:
        """Return the dev loss, and the dev retrieval accuracy of the adapter and of the base."""
        model.eval()
        scores = super().dev_scores(trainer, model)
        scores["retrieval_accuracy"] = self._dev_retrieval(model)
        with model.disable_adapter():
            scores["retrieval_accuracy_of_base"] = self._dev_retrieval(model)
        return scores

    def _dev_retrieval(self, model: PeftModel) -> float:
        """Return how often a dev source finds its own translation among all dev targets."""
        dev = self.stream.dev
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        with torch.no_grad():
            for start in range(0, len(dev), 32):
                rows = self.collator(dev[start : start + 32])
                batch = {name: tensor.to(model.device) for name, tensor in rows.items()}
                vectors = alignment_vectors(model, self.step, batch)
                for side, pooled in zip(sides, vectors, strict=True):
                    side.append(pooled)
        return retrieval_accuracy(torch.cat(sides[0]), torch.cat(sides[1]))
