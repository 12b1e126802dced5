"""Train a LoRA on alignment only: pull translations together at one layer."""

import random
import sys
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from adaptermix.data.pair_tables import check_columns
from adaptermix.data.pairs import CleanPairs, PairPlace, read_clean_pairs
from adaptermix.data.sampling import hold_out, resample, resample_evenly
from adaptermix.errors import ConfigError, DataError
from adaptermix.files.text import numbered_lines
from adaptermix.models.blocks import choose_layer, empty_model, load_lower_blocks
from adaptermix.models.lora import with_lora
from adaptermix.models.stacking import add_stack
from adaptermix.processes import is_main_process, process_count
from adaptermix.progress import OnProgress, ignore, tell, with_notes_once
from adaptermix.settings.training import TrainAlignSettings
from adaptermix.tables import number_of
from adaptermix.training.alignment import Alignment, AlignSettings
from adaptermix.training.base import open_base
from adaptermix.training.batches import (
    EncodedPair,
    PairCollator,
    encode_pairs,
    padded_length,
    with_anchor_text,
)
from adaptermix.training.contrastive import ContrastiveStep
from adaptermix.training.layers import (
    LayerChoice,
    choose,
    known_choice,
    measure,
    write_choice,
)
from adaptermix.training.memory import Pass, footprint
from adaptermix.training.preview import preview
from adaptermix.training.report import TrainingData, TrainReport, plan_training
from adaptermix.training.run import TrainingRun, check_training, finished_report
from adaptermix.training.sweep import train_best
from adaptermix.training.trainer import AdapterTrainer, NamedCollator

_PAIRS_AT_A_TIME = 1000  # tokenized together; their texts are not kept


def train_align(
    settings: TrainAlignSettings,
    *,
    force: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = ignore,
) -> TrainReport:
    """Train a LoRA on alignment only: pull translations together at one layer.

    With several temperatures, trains one LoRA per temperature and keeps the one with the highest
    dev retrieval accuracy, because losses at different temperatures are not comparable.

    Raises:
        ConfigError: Settings that contradict each other, or the layer does not exist.
        DataError: Missing or malformed data, or fewer pairs than one contrastive batch.
        ArtifactError: The model cannot be used, or the output exists.
    """
    if (finished := finished_report(settings, force)) is not None:
        return finished
    if len(settings.temperature) == 1 or dry_run:
        return _train_one(settings, force, dry_run, on_progress)
    variants = {
        f"{temperature:g}": settings.model_copy(update={"temperature": (temperature,)})
        for temperature in settings.temperature
    }

    on_progress = with_notes_once(on_progress)

    def train(variant: TrainAlignSettings) -> TrainReport:
        return _train_one(variant, False, False, on_progress, shared=variant.out.parent)

    return train_best(settings, variants, train, force=force)


def _train_one(
    settings: TrainAlignSettings,
    force: bool,
    dry_run: bool,
    on_progress: OnProgress,
    shared: Path | None = None,
) -> TrainReport:
    """Train at one temperature.

    Args:
        settings: Settings with a single temperature.
        force: Replace the output.
        dry_run: Plan only.
        on_progress: Called with the progress.
        shared: Folder of the runs that share one layer choice.
    """
    micro = pairs_per_process(settings)
    check_training(settings, micro, "--contrastive-batch", force)
    base = open_base(settings)
    data = align_data(settings, base.tokenizer, on_progress)
    if settings.preserve_text:
        data = _with_anchor_text(data, settings, base.tokenizer)
    data = base.check_rows(data)
    pairs = settings.micro_batch_size or settings.contrastive_batch
    if dry_run:
        tell(on_progress, base.notes)
        most = "top" if settings.layer == "auto" else settings.layer
        layer = choose_layer(base.folder, settings, most)
        empty = with_lora(empty_model(base.folder, settings, layer), settings, "FEATURE_EXTRACTION")
        both_sides = Pass(2 * pairs, max(map(padded_length, data.train)))
        plan = plan_training(settings, data, footprint(empty, [both_sides], settings))
        runs = len(settings.temperature)
        return replace(
            plan,
            planned_steps=plan.planned_steps * runs,
            tokens=(plan.tokens or 0) * runs,
            preview=preview(data.train, base.tokenizer, settings),
        )
    collator = PairCollator(base.pad)
    choice = known_choice(settings, shared)

    def load(layer: str) -> PreTrainedModel:
        return add_stack(load_lower_blocks(base.folder, settings, layer), base.stack)

    def measured(model: PreTrainedModel) -> LayerChoice:
        depth = choose_layer(base.folder, settings, "top")
        return choose(settings, measure(model, settings, data, collator, on_progress), depth)

    if choice is None and settings.layer == "auto":
        choice = measured(load("top"))
    set_seed(settings.seed)
    lower = load(settings.layer if choice is None else choice.layer)
    choice = choice or measured(lower)
    settled = choice.settled(settings)
    model = with_lora(lower, settings, "FEATURE_EXTRACTION")
    if shared is not None and is_main_process():
        write_choice(shared, choice)
    run = _AlignmentRun(settings, base, data, micro, on_progress)
    run.choose(choice)
    packing = False if settings.attention else settings.packing
    alignment = Alignment(settled, model, ContrastiveStep(model, 2 * pairs, packing))
    kind = partial(AlignmentTrainer, alignment, data_collator=NamedCollator(collator))
    return run.train(model, kind, force)


def pairs_per_process(settings: AlignSettings) -> int:
    """Return the number of pairs of a contrastive batch that each process gets."""
    own, rest = divmod(settings.contrastive_batch, process_count())
    if rest:
        raise ConfigError(
            f"--contrastive-batch {settings.contrastive_batch} cannot be divided among "
            f"{process_count()} processes"
        )
    return own


def align_data(
    settings: AlignSettings,
    tokenizer: PreTrainedTokenizerBase,
    on_progress: OnProgress = ignore,
) -> TrainingData:
    """Read, clean, encode, split and resample the pairs of all languages, with a single seed.

    Raises:
        ConfigError: A configured pair column does not exist or is not used, or the limit is less
            than one contrastive batch.
        DataError: Missing or malformed data, or fewer pairs than one contrastive batch.
    """
    rng = random.Random(settings.seed)
    groups, held, dropped = {}, {}, {}
    place = settings.pairs_dir or settings.data_dir
    where = PairPlace(place, settings.pairs_columns, on_progress)
    check_columns(settings.pairs_columns, settings.pairs)
    for pair in settings.pairs:
        clean = read_clean_pairs(
            pair,
            where,
            several_sentences=settings.several_sentences,
            check_script=settings.check_script,
        )
        if not clean.names_languages and len(settings.pairs) > 1:
            raise DataError(
                f"{clean.origin}: the rows are not labeled with their pair, so all pairs of "
                "--pairs would get the same rows",
                hint=f"use --pairs {pair}, or name a column for each language with --pairs-columns",
            )
        rows, dropped[pair] = _encoded_pairs(clean, pair, settings, tokenizer)
        groups[pair], held[pair] = hold_out(rows, settings.dev_pairs, rng)
    return TrainingData(
        resample(list(groups.values()), settings.resample, rng),
        [row for rows in held.values() for row in rows],
        {pair: len(rows) for pair, rows in groups.items()},
        {pair: len(rows) for pair, rows in held.items()},
        dropped=dropped,
    )


def _encoded_pairs(
    clean: CleanPairs, pair: str, settings: AlignSettings, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[EncodedPair], dict[str, int]]:
    """Return the usable pairs of one language, and the number of dropped pairs by reason."""
    rows: list[EncodedPair] = []
    too_long = 0
    most = settings.limit or sys.maxsize  # rows after these are not even read
    while chunk := list(islice(clean.kept, min(_PAIRS_AT_A_TIME, most - len(rows)))):
        for row in encode_pairs(chunk, tokenizer, settings.max_length + 1):
            if padded_length(row) > settings.max_length:
                too_long += 1
            else:
                rows.append(row)
    dropped = dict(clean.dropped) | ({"too long": too_long} if too_long else {})
    if len(rows) == settings.limit and len(rows) < settings.contrastive_batch:
        raise ConfigError(
            f"--limit {settings.limit} is less than one contrastive batch of "
            f"{settings.contrastive_batch} pairs",
            hint="raise --limit, or lower --contrastive-batch",
        )
    if len(rows) < settings.contrastive_batch:
        faults = ", ".join(f"{count} for: {reason}" for reason, count in dropped.items())
        raise DataError(
            f"{clean.origin}: {pair} has {number_of(len(rows), 'sentence pair')}, fewer than one "
            f"contrastive batch of {settings.contrastive_batch}"
            + (f" (dropped {faults})" if faults else ""),
            hint="add pairs, or lower --contrastive-batch",
        )
    return rows, dropped


def _with_anchor_text(
    data: TrainingData, settings: TrainAlignSettings, tokenizer: PreTrainedTokenizerBase
) -> TrainingData:
    """Give every pair a line of anchor text, with equal shares from all files."""
    rng = random.Random(settings.seed)
    kept, held = [], []
    for path in settings.preserve_text:
        lines = [line for _, line in numbered_lines(path) if line.strip()]
        if len(lines) < 2:
            raise DataError(f"{path}: --preserve-text needs at least two lines of text")
        split = hold_out(lines, settings.dev_pairs, rng)
        kept.append(split[0])
        held.append(split[1])
    train, dev = (
        with_anchor_text(rows, resample_evenly(lines, rng), tokenizer, settings.max_length)
        for rows, lines in ((data.train, kept), (data.dev, held))
    )
    return replace(data, train=train, dev=dev)


class AlignmentTrainer(AdapterTrainer):
    """Minimizes the contrastive loss, averaged over the batches of an optimizer step.

    Batches with labels belong to a task that is trained as well; the base class handles them.
    """

    can_split = False  # the contrastive step splits batches itself

    def __init__(self, alignment: Alignment, weight: float = 1.0, **arguments: Any) -> None:
        """Store the alignment and the weight of its loss; Trainer takes the rest."""
        super().__init__(**arguments)
        self.alignment = alignment
        self.weight = weight

    def backpropagate(
        self, model: nn.Module, inputs: dict[str, Any], items: Tensor | int | None, most: int
    ) -> Tensor:
        """Run forward and backward on a contrastive batch, in parts that fit in memory."""
        if "labels" in inputs:
            return super().backpropagate(model, inputs, items, most)
        share = self.weight / self.current_gradient_accumulation_steps
        batch = self._prepare_inputs(inputs)
        return self.alignment.backpropagate(model, batch, self.accelerator, share)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return the dev pairs in whole contrastive batches."""
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        return self.whole_loader(rows, self.alignment.settings.contrastive_batch)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Return the dev loss of a batch, scaled so that the mean over batches is one over rows."""
        loader: Any = self.callback_handler.eval_dataloader
        share = len(inputs["names"]) * len(loader) / len(loader.dataset)
        if "labels" in inputs:
            step = super().prediction_step
            loss: Any = step(model, inputs, prediction_loss_only, ignore_keys)[0]
        else:
            loss = self.alignment.loss(self._prepare_inputs(inputs))
        return share * loss, None, None


class _AlignmentRun(TrainingRun):
    """A run that also evaluates its adapter by retrieval on the dev pairs."""

    def dev_scores(self, trainer: Any, model: PeftModel) -> dict[str, float]:
        """Return the dev loss, and two measures of the dev vectors with and without the adapter.

        ``retrieval_accuracy`` is the share of sources whose nearest target is their translation.
        ``random_cosine`` is the mean cosine of pairs that are not translations. Both are computed
        within each language pair.
        """
        scores = super().dev_scores(trainer, model)
        scores |= self._dev_geometry(trainer)
        with model.disable_adapter():
            of_base = self._dev_geometry(trainer)
        return scores | {f"{name}_of_base": value for name, value in of_base.items()}

    def _dev_geometry(self, trainer: AlignmentTrainer) -> dict[str, float]:
        vectors = trainer.alignment.dev_vectors(trainer.get_eval_dataloader())
        sizes = self.data.dev_examples.values()
        return {
            "retrieval_accuracy": vectors.retrieval_accuracy(sizes),
            "random_cosine": vectors.random_cosine(sizes),
        }
