"""Train a LoRA that pulls translations together at one layer, and nothing else."""

import random
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Trainer, set_seed

from adaptermix.batching import PairCollator, encode_pairs, with_held_text
from adaptermix.candidates import train_best
from adaptermix.config import TrainAlignSettings
from adaptermix.data import hold_out, numbered_lines, read_pairs, resample_evenly
from adaptermix.errors import DataError
from adaptermix.models import load_lower_blocks, load_tokenizer, locate_model
from adaptermix.objectives import AlignmentLoss, preservation_loss
from adaptermix.representations import (
    Pooling,
    pool,
    pooling_weights,
    random_pair_cosine,
    retrieval_accuracy,
)
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

    With several temperatures, one for each; that of the highest dev retrieval accuracy is kept,
    for losses at different temperatures cannot be compared.

    Raises:
        ConfigError: Settings that contradict each other, or a layer the model does not have.
        DataError: Missing or malformed data, fewer pairs than one contrastive batch.
        ArtifactError: A model that cannot be used, or an output that exists.
    """
    if len(settings.temperature) == 1 or dry_run:
        return _train_one(settings, force, dry_run, on_progress)
    candidates = {
        f"{temperature:g}": settings.model_copy(update={"temperature": (temperature,)})
        for temperature in settings.temperature
    }

    def train(candidate: TrainAlignSettings) -> TrainReport:
        return _train_one(candidate, False, False, on_progress)

    return train_best(settings, candidates, train, "retrieval_accuracy", force=force)


def _train_one(
    settings: TrainAlignSettings, force: bool, dry_run: bool, on_progress: OnProgress
) -> TrainReport:
    micro = check_training(settings, settings.contrastive_batch, "--contrastive-batch", force)
    folder = locate_model(settings)
    tokenizer = load_tokenizer(folder, settings)
    stream = _align_stream(settings, tokenizer)
    if dry_run:
        plan = plan_training(settings, stream)
        return replace(plan, planned_steps=plan.planned_steps * len(settings.temperature))
    set_seed(settings.seed)
    lower = load_lower_blocks(folder, settings, settings.layer)
    model = with_lora(lower, settings, "FEATURE_EXTRACTION")
    collator = PairCollator(int(tokenizer.pad_token_id or 0))
    run = _AlignmentRun(settings, folder, stream, micro, collator, on_progress)
    return run.train(model, _alignment_trainer(settings, model), force)


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
    train_rows = encode_pairs(even, tokenizer, settings.max_length)
    dev_rows = encode_pairs(dev, tokenizer, settings.max_length)
    if settings.preserve_text:
        lines, dev_lines = _held_text(settings, rng)
        train_rows = with_held_text(train_rows, lines, tokenizer, settings.max_length)
        dev_rows = with_held_text(dev_rows, dev_lines, tokenizer, settings.max_length)
    return Stream(
        train_rows,
        dev_rows,
        {pair: len(rows) for pair, rows in groups.items()},
        {pair: len(rows) for pair, rows in held.items()},
    )


def _held_text(settings: TrainAlignSettings, rng: random.Random) -> tuple[list[str], list[str]]:
    """Return the lines to hold in training and those for dev, every file with the same share."""
    kept, held = [], []
    for path in settings.preserve_text:
        lines = [line for _, line in numbered_lines(path) if line.strip()]
        if len(lines) < 2:
            raise DataError(f"{path}: --preserve-text needs two lines of text at least")
        split = hold_out(lines, settings.dev_pairs, rng)
        kept.append(split[0])
        held.append(split[1])
    return resample_evenly(kept, rng), resample_evenly(held, rng)


def hidden_states(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the last hidden states of all rows, [batch seq hidden]."""
    output = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    )
    states: Tensor = output.last_hidden_state
    return states


def alignment_vectors(
    model: nn.Module, batch: dict[str, Tensor], pooling: Pooling = "mean", skip: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the pooled last hidden states of sources and targets, [batch hidden] each."""
    rows = _rows(batch, 0, 2 * len(batch["source_keys"]))
    weights = pooling_weights(rows["attention_mask"], pooling, skip)
    sources, targets = pool(hidden_states(model, rows), weights).chunk(2)
    return sources, targets


def _rows(batch: dict[str, Tensor], start: int, stop: int | None) -> dict[str, Tensor]:
    return {name: batch[name][start:stop] for name in ("input_ids", "attention_mask")}


def alignment_objective(settings: TrainAlignSettings) -> AlignmentLoss:
    """Return the objective on pooled vectors as the settings describe it."""
    (temperature,) = settings.temperature
    return AlignmentLoss(
        temperature, settings.directions, settings.stop_gradient, settings.mask_duplicates
    )


def alignment_loss(
    model: nn.Module, adapted: PeftModel, batch: dict[str, Tensor], settings: TrainAlignSettings
) -> Tensor:
    """Return the loss of one contrastive batch, the price of moving included.

    With ``preserve``, sources are contrasted with what the base makes of the targets, and the
    hidden states of the targets and of the held text are kept near the base's.

    Args:
        model: What runs forward: the adapted model, wrapped where several processes train it.
        adapted: The same without a wrapper, whose adapter can be switched off.
        batch: Of ``PairCollator``.
        settings: The objective, the pooling and the weight of preservation.
    """
    objective = alignment_objective(settings)
    keys = batch["source_keys"], batch["target_keys"]
    if not settings.preserve:
        vectors = alignment_vectors(model, batch, settings.pooling, settings.pool_skip)
        return objective(*vectors, *keys)
    pairs = len(batch["source_keys"])
    with torch.no_grad(), adapted.disable_adapter():
        base = hidden_states(adapted, _rows(batch, pairs, None))
    states = hidden_states(model, batch)
    weights = pooling_weights(batch["attention_mask"], settings.pooling, settings.pool_skip)
    sources = pool(states[:pairs], weights[:pairs])
    targets = pool(base[:pairs], weights[pairs : 2 * pairs])
    real = batch["attention_mask"][pairs:].bool()  # [targets and held text, seq]
    moved = preservation_loss(states[pairs:][real], base[real])
    return objective(sources, targets, *keys) + settings.preserve * moved


def _alignment_trainer(settings: TrainAlignSettings, adapted: PeftModel) -> type[Trainer]:
    """Return a Trainer that minimises the objective on pooled pairs.

    Without labels to count, Trainer averages the losses of accumulated micro-batches.
    """

    class AlignmentTrainer(Trainer):
        def compute_loss(
            self,
            model: nn.Module,
            inputs: dict[str, Any],
            return_outputs: bool = False,
            num_items_in_batch: Tensor | int | None = None,
        ) -> Any:
            loss = alignment_loss(model, adapted, inputs, settings)
            return (loss, {}) if return_outputs else loss

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

    def dev_scores(self, trainer: Trainer, model: PeftModel) -> dict[str, float]:
        """Return the dev loss, and what the dev pairs look like with the adapter and without.

        ``retrieval_accuracy`` is how often a source finds its translation among all targets,
        ``random_cosine`` the mean cosine of pairs that are no translations.
        """
        model.eval()
        scores = super().dev_scores(trainer, model)
        scores |= self._dev_geometry(model)
        with model.disable_adapter():
            of_base = self._dev_geometry(model)
        return scores | {f"{name}_of_base": value for name, value in of_base.items()}

    def _dev_geometry(self, model: PeftModel) -> dict[str, float]:
        settings: TrainAlignSettings = self.settings  # type: ignore[assignment]
        dev = self.stream.dev
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        with torch.no_grad():
            for start in range(0, len(dev), 32):
                rows = self.collator(dev[start : start + 32])
                batch = {name: tensor.to(model.device) for name, tensor in rows.items()}
                vectors = alignment_vectors(model, batch, settings.pooling, settings.pool_skip)
                for side, pooled in zip(sides, vectors, strict=True):
                    side.append(pooled)
        sources, targets = torch.cat(sides[0]), torch.cat(sides[1])
        return {
            "retrieval_accuracy": retrieval_accuracy(sources, targets),
            "random_cosine": random_pair_cosine(sources, targets),
        }
