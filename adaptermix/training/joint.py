"""Train one LoRA on a task and on alignment, with alternating micro-batches."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, TrainingArguments, set_seed

from adaptermix.adapters.format import layer_of
from adaptermix.errors import ConfigError
from adaptermix.generation.own_config import find_stop_ids
from adaptermix.generation.prompts import PromptEncoder, room_for_prompt
from adaptermix.models.blocks import choose_layer, empty_model, lower_blocks_only
from adaptermix.models.loading import load_model
from adaptermix.models.lora import with_lora
from adaptermix.models.stacking import add_stack
from adaptermix.processes import process_count
from adaptermix.progress import OnProgress, ignore, tell
from adaptermix.settings.training import TrainJointSettings
from adaptermix.training.align import AlignmentTrainer, align_data, pairs_per_process
from adaptermix.training.alignment import Alignment
from adaptermix.training.base import open_base
from adaptermix.training.batches import (
    IGNORED,
    AnswerCollator,
    EncodedPair,
    PairCollator,
    padded_length,
)
from adaptermix.training.contrastive import ContrastiveStep, Forward
from adaptermix.training.dev_score import DevScore
from adaptermix.training.layers import choose, known_choice, measure
from adaptermix.training.memory import Pass, footprint
from adaptermix.training.preview import preview
from adaptermix.training.report import TrainingData, TrainReport, plan_training
from adaptermix.training.run import TrainingRun, check_training, finished_report
from adaptermix.training.steps import planned_steps
from adaptermix.training.task import task_data, task_pass
from adaptermix.training.trainer import AdapterTrainer, NamedCollator

T = TypeVar("T")

# The dev metric that selects the best adapter, by value of --stop-on.
_CRITERIA = {"loss": "task_loss", "sum": "sum", "retrieval": "retrieval_accuracy", "score": "score"}


def train_joint(
    settings: TrainJointSettings,
    *,
    force: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = ignore,
) -> TrainReport:
    """Train one LoRA on the task data of some languages and on aligning pairs of others.

    The task loss uses the whole model, the alignment loss only the blocks up to the layer. An
    epoch is one pass over the task examples, with the same number of pairs. The next epoch
    continues with the pairs that follow.

    Raises:
        ConfigError: Settings that contradict each other, or the layer does not exist.
        DataError: Missing or malformed data, or fewer pairs than one contrastive batch.
        ArtifactError: The model cannot be used, or the output exists.
    """
    if (finished := finished_report(settings, force)) is not None:
        return finished
    micro = pairs_per_process(settings)
    check_training(settings, micro, "--contrastive-batch", force)
    base = open_base(settings)
    encoder = PromptEncoder.of(base.tokenizer, settings)
    task = task_data(settings, encoder, on_progress)
    pairs = align_data(settings, base.tokenizer, on_progress)
    data = _joined(task, pairs)
    data = base.check_rows(data)
    depth = choose_layer(base.folder, settings, "top")
    judge = None
    if settings.stop_on == "score":
        room = room_for_prompt(settings.max_new_tokens, base.folder)
        judge = DevScore(settings, encoder, find_stop_ids(base.folder, encoder), room)
    if dry_run:
        is_open = settings.layer == "auto"
        layer = depth if is_open else choose_layer(base.folder, settings, settings.layer)
        tell(on_progress, base.notes)
        empty = _adapted(empty_model(base.folder, settings), settings, layer)
        passes = [
            task_pass(micro, task.train),
            Pass(2 * micro, max(map(padded_length, pairs.train)), layer),
        ]
        planned = plan_training(settings, data, footprint(empty, passes, settings))
        shown = [preview(rows, base.tokenizer, settings) for rows in (task.train, pairs.train)]
        return replace(planned, preview=[*shown[0], *shown[1]])
    set_seed(settings.seed)
    whole = add_stack(load_model(base.folder, settings), base.stack)
    collator = JointCollator(AnswerCollator(base.pad), PairCollator(base.pad))
    choice = known_choice(settings)
    if choice is None:
        curve = measure(whole, settings, pairs, collator.pairs, on_progress)
        choice = choose(settings, curve, depth)
    settled = choice.settled(settings)
    layer = choose_layer(base.folder, settings, settled.layer)
    adapted = _adapted(whole, settings, layer)
    per_step = settings.batch_size // micro
    batches = Alternation(
        sizes=(len(task.train), len(pairs.train)),
        micro=micro,
        # Over all processes, batches of one kind follow each other in turns of this length.
        turn=process_count() if settings.alternate == "paper-code" else per_step,
        count=planned_steps(settings, data.rows_of_epoch) * per_step,
        seed=settings.seed,
    )
    packing = False if settings.attention else None
    lower = _lower_forward(adapted, settled, layer)
    step = ContrastiveStep(adapted, 2 * micro, packing, forward=lower)
    alignment = Alignment(settled, adapted, step)
    plan = JointPlan(batches, settings, alignment, task, pairs, judge)
    run = _JointRun(settings, base, data, micro, on_progress)
    run.choose(choice)
    kind = partial(JointTrainer, plan, data_collator=NamedCollator(collator))
    return run.train(adapted, kind, force)


def _adapted(model: PreTrainedModel, settings: TrainJointSettings, layer: int) -> PeftModel:
    """Add a new LoRA to the whole model, and check that the alignment trains a part of it.

    Raises:
        ConfigError: No LoRA is in the blocks up to the layer to align.
    """
    adapted = with_lora(model, settings, "CAUSAL_LM")
    tuner: Any = adapted.base_model
    names = (*tuner.targeted_module_names, *tuner.targeted_parameter_names)
    if not any((at := layer_of(name)) is not None and at < layer for name in names):
        raise ConfigError(
            f"no LoRA is in the blocks up to --layer {settings.layer} (0 to {layer - 1}), so the "
            "alignment would train nothing",
            hint="raise --layer, or change --layers-to-transform or --target-modules",
        )
    return adapted


def _lower_forward(adapted: PeftModel, settings: TrainJointSettings, layer: int) -> Forward:
    """Return a function that runs the whole model only up to the layer to align."""
    base: Any = adapted.get_base_model()

    def forward(model: nn.Module, **inputs: Any) -> Tensor:
        with lower_blocks_only(base, layer, is_normed=settings.layer == "top-normed"):
            output = model(
                **inputs,
                output_hidden_states=True,
                logits_to_keep=inputs["input_ids"].new_empty(0),
            )
        states: Tensor = output.hidden_states[-1]
        return states

    return forward


def _joined(task: TrainingData, pairs: TrainingData) -> TrainingData:
    def both(ours: Mapping[str, T], theirs: Mapping[str, T]) -> dict[str, T]:
        """Join counts by language; a language of a translation task may be a pair, too."""
        shared = task.examples.keys() & pairs.examples.keys()
        return {**ours, **{f"{k} pairs" if k in shared else k: v for k, v in theirs.items()}}

    return TrainingData(
        [*task.train, *pairs.train],
        [*task.dev, *pairs.dev],
        both(task.examples, pairs.examples),
        both(task.dev_examples, pairs.dev_examples),
        task.truncated,
        both(task.dropped, pairs.dropped),
        epoch_rows=2 * len(task.train),
        kinds=(task.train, pairs.train),
        notes=task.notes,
    )


@dataclass(frozen=True)
class JointCollator:
    """Collates task examples, with labels, or pairs, without labels."""

    answers: AnswerCollator
    pairs: PairCollator

    def __call__(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Return one batch of rows that are all of one kind."""
        return (self.pairs if isinstance(rows[0], EncodedPair) else self.answers)(rows)


class Alternation(Sampler[list[int]]):
    """Alternating micro-batches of task examples and of pairs, for a whole run, from one seed.

    Row indices start with the task examples. Each kind is repeated endlessly, reshuffled in
    every pass. All batches are full.

    Attributes:
        batch_size: Rows per batch, for accelerate, which distributes batches over processes.
    """

    drop_last = False

    def __init__(
        self, *, sizes: tuple[int, int], micro: int, turn: int, count: int, seed: int
    ) -> None:
        """Store what determines the order.

        Args:
            sizes: Number of task examples, and of pairs.
            micro: Rows per batch.
            turn: Number of consecutive batches of one kind.
            count: Total number of batches.
            seed: Seed of both orders.
        """
        tasks, pairs = sizes
        self.kinds = (range(tasks), range(tasks, tasks + pairs))
        self.batch_size = micro
        self.turn = turn
        self.count = count
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        endless = [self._batches(rows, f"{self.seed} {n}") for n, rows in enumerate(self.kinds)]
        for number in range(self.count):
            yield next(endless[number // self.turn % 2])

    def _batches(self, rows: range, seed: str) -> Iterator[list[int]]:
        rng = random.Random(seed)
        waiting: list[int] = []
        while True:
            while len(waiting) < self.batch_size:
                waiting += rng.sample(rows, len(rows))
            yield waiting[: self.batch_size]
            waiting = waiting[self.batch_size :]


@dataclass(frozen=True)
class JointPlan:
    """The batches of a joint training, and its evaluation.

    Attributes:
        batches: The order of all micro-batches.
        settings: Settings of both kinds, with the weight of the alignment.
        alignment: The alignment of the model.
        task: Data of the task.
        pairs: The pairs.
        judge: Scores answers to dev prompts, or None.
    """

    batches: Alternation
    settings: TrainJointSettings
    alignment: Alignment
    task: TrainingData
    pairs: TrainingData
    judge: DevScore | None


class JointTrainer(AlignmentTrainer):
    """Minimizes the task loss on batches with labels, the alignment loss on the others.

    The gradient of an optimizer step is the mean of its micro-batches' gradients, as in the
    authors' code: with two micro-batches of each kind, (T1 + A1 + T2 + A2) / 4.
    """

    loss_names = (*AdapterTrainer.loss_names, "task_loss", "align_loss")

    def __init__(self, plan: JointPlan, **arguments: Any) -> None:
        """Store the plan; Trainer takes the rest."""
        super().__init__(plan.alignment, plan.settings.align_weight, **arguments)
        self.plan = plan
        self.model_accepts_loss_kwargs = False  # so that Trainer averages over micro-batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of the whole run, in order."""
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_sampler=self.plan.batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Add the gradient of one micro-batch; a task loss is a mean over all processes' tokens."""
        self.can_split = "labels" in inputs
        items = None
        if self.can_split:
            tokens = (inputs["labels"][:, 1:] != IGNORED).sum().to(self.args.device)
            items = self.accelerator.reduce(tokens, "sum")
        loss = super().training_step(model, inputs, items)
        name, weight = ("task_loss", 1.0) if self.can_split else ("align_loss", self.weight)
        self.count_loss(name, loss * self.current_gradient_accumulation_steps / weight, 1.0)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the task loss, scaled so that processes average to the mean over all tokens."""
        output = model(**inputs, num_items_in_batch=num_items_in_batch)
        loss = output.loss if num_items_in_batch is None else output.loss * process_count()
        return (loss, output) if return_outputs else loss

    def evaluate(self, *_: Any, **options: Any) -> dict[str, float]:
        """Evaluate the adapter on dev data, and report to the log and to early stopping."""
        metrics = {f"eval_{name}": value for name, value in self.dev_scores().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def dev_scores(self) -> dict[str, float]:
        """Return both dev losses, their weighted sum, the retrieval accuracy and any task score."""
        loaders = {
            "task_loss": self.get_eval_dataloader(self.plan.task.dev),  # type: ignore[arg-type]
            "align_loss": self._pair_loader(),
        }
        scores = {}
        for name, loader in loaders.items():
            output = self.evaluation_loop(loader, name, prediction_loss_only=True)
            scores[name] = (output.metrics or {})["eval_loss"]
        scores["sum"] = scores["task_loss"] + self.weight * scores["align_loss"]
        scores["retrieval_accuracy"] = self.dev_retrieval()
        if self.plan.judge is not None:
            scores["score"] = self.plan.judge(self.plain_model())
        return scores

    def plain_model(self) -> PeftModel:
        """Return the model without its distributed wrapper, in evaluation mode."""
        model: PeftModel = self.accelerator.unwrap_model(self.model)
        return model.eval()

    def dev_retrieval(self) -> float:
        """Return the share of dev sources whose nearest dev target is their translation.

        Targets are those of the same language pair.
        """
        vectors = self.alignment.dev_vectors(self._pair_loader())
        return vectors.retrieval_accuracy(self.plan.pairs.dev_examples.values())

    def _pair_loader(self) -> DataLoader[Any]:
        return self.whole_loader(self.plan.pairs.dev, self.plan.settings.contrastive_batch)


class _JointRun(TrainingRun):
    """A run over the batches of a plan, which Trainer sees as one long epoch."""

    settings: TrainJointSettings

    def _arguments(self) -> TrainingArguments:
        arguments = super()._arguments()
        arguments.max_steps = planned_steps(self.settings, self.data.rows_of_epoch)
        arguments.ddp_find_unused_parameters = True  # alignment does not use the upper blocks
        criterion = _CRITERIA[self.settings.stop_on]
        arguments.metric_for_best_model = criterion
        arguments.greater_is_better = criterion in ("retrieval_accuracy", "score")
        return arguments

    def dev_scores(self, trainer: Any, model: PeftModel) -> dict[str, float]:
        """Return the dev scores of the kept adapter, and the base model's retrieval accuracy."""
        scores: dict[str, float] = trainer.dev_scores()
        with model.disable_adapter():
            scores["retrieval_accuracy_of_base"] = trainer.dev_retrieval()
        return scores
