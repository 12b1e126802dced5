"""Train a LoRA that pulls translations together at one layer, and nothing else."""

import random
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, set_seed

from adaptermix.batching import EncodedPair, PairCollator, encode_pairs, padded_length
from adaptermix.config import TrainAlignSettings, TrainJointSettings
from adaptermix.data import hold_out, resample
from adaptermix.errors import DataError
from adaptermix.footprint import Pass, footprint
from adaptermix.lora import with_lora
from adaptermix.models import (
    choose_layer,
    empty_model,
    load_lower_blocks,
    load_tokenizer,
    locate_model,
)
from adaptermix.objectives import AlignmentLoss
from adaptermix.pairs import read_clean_pairs
from adaptermix.representations import mean_pool, retrieval_accuracy
from adaptermix.trainer import AdapterTrainer
from adaptermix.training import (
    OnProgress,
    Stream,
    TrainingRun,
    TrainReport,
    check_training,
    ended_run,
    plan_training,
)

AlignSettings = TrainAlignSettings | TrainJointSettings


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
    if (ended := ended_run(settings, force)) is not None:
        return ended
    micro = check_training(settings, settings.contrastive_batch, "--contrastive-batch", force)
    folder = locate_model(settings)
    tokenizer = load_tokenizer(folder, settings)
    stream = align_stream(settings, tokenizer)
    if dry_run:
        layer = choose_layer(folder, settings, settings.layer)
        empty = with_lora(empty_model(folder, settings, layer), settings, "FEATURE_EXTRACTION")
        both_sides = Pass(2 * micro, max(map(padded_length, stream.train)))
        return plan_training(settings, stream, footprint(empty, [both_sides]))
    set_seed(settings.seed)
    lower = load_lower_blocks(folder, settings, settings.layer)
    model = with_lora(lower, settings, "FEATURE_EXTRACTION")
    collator = PairCollator(int(tokenizer.pad_token_id or 0))
    run = _AlignmentRun(settings, folder, stream, micro, collator, on_progress)
    return run.train(model, _alignment_trainer(AlignmentLoss(settings.temperature)), force)


def align_stream(settings: AlignSettings, tokenizer: PreTrainedTokenizerBase) -> Stream:
    """Read, clean, encode, split and resample the pairs of all languages; one seed decides.

    Raises:
        DataError: Missing or malformed data, fewer pairs than one contrastive batch.
    """
    rng = random.Random(settings.seed)
    groups, held, dropped = {}, {}, {}
    for pair in settings.pairs:
        rows, dropped[pair] = _encoded_pairs(pair, settings, tokenizer)
        groups[pair], held[pair] = hold_out(rows, settings.dev_pairs, rng)
    return Stream(
        resample(list(groups.values()), settings.resample, rng),
        [row for rows in held.values() for row in rows],
        {pair: len(rows) for pair, rows in groups.items()},
        {pair: len(rows) for pair, rows in held.items()},
        dropped=dropped,
    )


def _encoded_pairs(
    pair: str, settings: AlignSettings, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[EncodedPair], dict[str, int]]:
    """Return the usable pairs of one language, and how many were dropped, by reason."""
    clean = read_clean_pairs(
        pair,
        settings.pairs_dir or settings.data_dir,
        several_sentences=settings.several_sentences,
        check_script=settings.check_script,
    )
    longest = settings.max_length
    encoded = encode_pairs(clean.kept, tokenizer, longest + 1) if clean.kept else []
    fitting = [row for row in encoded if max(len(row.source_ids), len(row.target_ids)) <= longest]
    too_long = len(encoded) - len(fitting)
    dropped = clean.dropped | ({"too long": too_long} if too_long else {})
    rows = fitting[: settings.limit]
    if len(rows) < settings.contrastive_batch:
        faults = ", ".join(f"{count} for: {reason}" for reason, count in dropped.items())
        raise DataError(
            f"{clean.origin}: {pair} has {len(rows)} sentence pairs, fewer than one contrastive "
            f"batch of {settings.contrastive_batch}" + (f" (dropped {faults})" if faults else ""),
            hint="find more, or lower --contrastive-batch",
        )
    return rows, dropped


def alignment_vectors(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean-pooled last hidden states of sources and targets, [batch hidden] each."""
    output = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    )
    sources, targets = mean_pool(output.last_hidden_state, batch["attention_mask"]).chunk(2)
    return sources, targets


def _alignment_trainer(objective: AlignmentLoss) -> type[AdapterTrainer]:
    """Return a Trainer that minimises the objective on pooled pairs.

    Without labels to count, Trainer averages the losses of accumulated micro-batches.
    """

    class AlignmentTrainer(AdapterTrainer):
        can_split = False  # every pair is contrasted with all of its batch

        def compute_loss(
            self,
            model: nn.Module,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Tensor | int | None = None,
        ) -> Any:
            sources, targets = alignment_vectors(model, inputs)
            loss = objective(sources, targets)
            return (loss, {"sources": sources, "targets": targets}) if return_outputs else loss

        def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
            rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
            return self.whole_loader(rows)

        def prediction_step(
            self,
            model: nn.Module,
            inputs: dict[str, Any],
            prediction_loss_only: bool,
            ignore_keys: list[str] | None = None,
        ) -> tuple[Tensor, None, None]:
            with torch.no_grad():
                loss = self.compute_loss(model, self._prepare_inputs(inputs))
            return loss.detach(), None, None

    return AlignmentTrainer


class _AlignmentRun(TrainingRun):
    """A run whose adapter is also judged by how well its dev pairs find each other."""

    def dev_scores(self, trainer: AdapterTrainer, model: PeftModel) -> dict[str, float]:
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
                for side, vectors in zip(sides, alignment_vectors(model, batch), strict=True):
                    side.append(vectors)
        return retrieval_accuracy(torch.cat(sides[0]), torch.cat(sides[1]))
