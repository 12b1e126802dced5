"""Train adapters: on a task, or to align languages. Both stand on transformers' Trainer.

An adapter is written when training ends. Until then, checkpoints lie in a hidden folder beside
the output, from which ``resume`` goes on after a kill.
"""

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import get_last_checkpoint

from adaptermix import __version__
from adaptermix.adapters import describe_config, spec_of, write_adapter
from adaptermix.batching import (
    AnswerCollator,
    EncodedExample,
    PairCollator,
    PromptEncoder,
    encode_example,
    encode_pairs,
)
from adaptermix.config import TrainAlignSettings, TrainSettings, TrainTaskSettings
from adaptermix.data import hold_out, read_pairs, resample_evenly
from adaptermix.deltas import LoraUpdate
from adaptermix.errors import ArtifactError, ConfigError, DataError, ResourceError
from adaptermix.models import (
    fingerprint,
    load_lower_blocks,
    load_model,
    load_tokenizer,
    locate_model,
)
from adaptermix.objectives import contrastive_loss
from adaptermix.outputs import check_output, whole_output, write_json
from adaptermix.representations import mean_pool, retrieval_accuracy
from adaptermix.tasks import make_task


@dataclass(frozen=True)
class Progress:
    """How far training is, for a progress bar."""

    step: int
    total: int
    loss: float | None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class TrainReport:
    """What was trained, on what, and how it ended."""

    out: str
    command: str
    examples: dict[str, int]
    dev_examples: dict[str, int]
    truncated: int
    steps: int
    planned_steps: int
    trainable_parameters: int
    dev: dict[str, float]
    seconds: float
    log: str | None
    written: bool

    def as_record(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Stream:
    """The encoded training and dev rows, and how many there were of each language."""

    train: Sequence[Any]
    dev: Sequence[Any]
    examples: dict[str, int]
    dev_examples: dict[str, int]
    truncated: int = 0


def train_task(
    settings: TrainTaskSettings,
    *,
    force: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = lambda progress: None,
) -> TrainReport:
    """Fine-tune a LoRA on the task data of some languages; loss on the answers only.

    Raises:
        ConfigError: Settings that contradict each other.
        DataError: Missing or malformed data.
        ArtifactError: A model that cannot be used, or an output that exists.
    """
    micro = _check(settings, settings.micro_batch_size, "--micro-batch-size", force)
    folder = locate_model(settings)
    tokenizer = load_tokenizer(folder, settings)
    stream = _task_stream(settings, PromptEncoder(tokenizer, turn_newline=settings.turn_newline))
    if dry_run:
        return _plan(settings, stream)
    set_seed(settings.seed)
    model = _with_lora(load_model(folder, settings), settings, "CAUSAL_LM")
    run = _Run(settings, folder, stream, micro, on_progress)
    return run.train(model, Trainer, AnswerCollator(int(tokenizer.pad_token_id or 0)), force)


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
    micro = _check(settings, settings.contrastive_batch, "--contrastive-batch", force)
    folder = locate_model(settings)
    tokenizer = load_tokenizer(folder, settings)
    stream = _align_stream(settings, tokenizer)
    if dry_run:
        return _plan(settings, stream)
    set_seed(settings.seed)
    lower = load_lower_blocks(folder, settings, settings.layer)
    model = _with_lora(lower, settings, "FEATURE_EXTRACTION")
    run = _Run(settings, folder, stream, micro, on_progress)
    return run.train(
        model,
        _alignment_trainer(settings.temperature),
        PairCollator(int(tokenizer.pad_token_id or 0)),
        force,
    )


def _check(settings: TrainSettings, micro: int, flag: str, force: bool) -> int:
    """Check what can be checked before anything is read; return the rows of one forward pass."""
    check_output(settings.out, force)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    micro = min(micro, settings.batch_size)
    if settings.batch_size % micro:
        raise ConfigError(f"{flag} {micro} does not divide --batch-size {settings.batch_size}")
    return micro


def _task_stream(settings: TrainTaskSettings, encoder: PromptEncoder) -> _Stream:
    task = make_task(settings.task, settings.prompt, settings.system_prompt)
    rows: dict[str, list[EncodedExample]] = {"train": [], "dev": []}
    counts: dict[str, dict[str, int]] = {"train": {}, "dev": {}}
    lost = 0
    for lang in settings.langs:
        for split, limit in (("train", settings.limit), ("dev", settings.dev_limit)):
            examples = task.read(lang, split, settings.data_dir)[:limit]  # type: ignore[arg-type]
            encoded = [
                encode_example(
                    encoder.prompt_ids(task.messages(example)),
                    encoder.answer_ids(task.answer(example)),
                    settings.max_length,
                )
                for example in examples
            ]
            kept = [row for row in encoded if row is not None]
            lost += len(encoded) - len(kept)
            counts[split][lang] = len(kept)
            rows[split].extend(kept)
    if not rows["train"] or not rows["dev"]:
        raise DataError(f"every prompt is longer than --max-length {settings.max_length}")
    return _Stream(rows["train"], rows["dev"], counts["train"], counts["dev"], lost)


def _align_stream(settings: TrainAlignSettings, tokenizer: Any) -> _Stream:
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
    return _Stream(
        encode_pairs(even, tokenizer, settings.max_length),
        encode_pairs(dev, tokenizer, settings.max_length),
        {pair: len(rows) for pair, rows in groups.items()},
        {pair: len(rows) for pair, rows in held.items()},
    )


def _with_lora(model: PreTrainedModel, settings: TrainSettings, task_type: str) -> PeftModel:
    found = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    missing = [name for name in settings.target_modules if name not in found]
    if missing:
        raise ConfigError(
            f"--target-modules: {type(model).__name__} has no linear layer '{missing[0]}'",
            hint="it has " + ", ".join(sorted(found)),
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT takes fractions as well
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        task_type=task_type,
    )
    return get_peft_model(model, config)  # type: ignore[return-value]


def alignment_vectors(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean-pooled last hidden states of sources and targets, [batch hidden] each."""
    output = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    )
    sources, targets = mean_pool(output.last_hidden_state, batch["attention_mask"]).chunk(2)
    return sources, targets


def _alignment_trainer(temperature: float) -> type[Trainer]:
    """Return a Trainer whose loss is the contrastive one.

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
            sources, targets = alignment_vectors(model, inputs)
            loss = contrastive_loss(sources, targets, temperature)
            return (loss, {"sources": sources, "targets": targets}) if return_outputs else loss

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


class _Run:
    """One training run: its folders, its log, and the writing of its adapter."""

    def __init__(
        self,
        settings: TrainSettings,
        base: Path,
        stream: _Stream,
        micro: int,
        on_progress: OnProgress,
    ) -> None:
        self.settings = settings
        self.base = base
        self.stream = stream
        self.micro = micro
        self.on_progress = on_progress
        self.out = settings.out
        self.work = self.out.parent / f".{self.out.name}.training"
        self.log = self.out.parent / f"{self.out.stem}.log.jsonl"

    def train(
        self, model: PeftModel, kind: type[Trainer], collator: Any, force: bool
    ) -> TrainReport:
        started = time.monotonic()
        checkpoint = self._prepare_work(force)
        trainer = kind(
            model=model,
            args=self._arguments(),
            train_dataset=self.stream.train,  # type: ignore[arg-type]
            eval_dataset=self.stream.dev,  # type: ignore[arg-type]
            data_collator=collator,
            callbacks=[
                EarlyStoppingCallback(early_stopping_patience=self.settings.patience),
                _EvaluateAtTheEnd(),
                _RunLog(self.log, self.on_progress),
                *self._tensorboard(),
            ],
        )
        for talker in (PrinterCallback, ProgressCallback):  # ours says it all
            trainer.remove_callback(talker)
        trainer.train(resume_from_checkpoint=checkpoint)
        dev = _dev_scores(trainer, model, collator, self.stream.dev)
        report = TrainReport(
            out=str(self.out),
            command=self.settings.section,
            examples=self.stream.examples,
            dev_examples=self.stream.dev_examples,
            truncated=self.stream.truncated,
            steps=trainer.state.global_step,
            planned_steps=_steps(self.settings, len(self.stream.train)),
            trainable_parameters=model.get_nb_trainable_parameters()[0],
            dev=dev,
            seconds=round(time.monotonic() - started, 1),
            log=str(self.log),
            written=True,
        )
        self._write(model, report, force)
        shutil.rmtree(self.work, ignore_errors=True)
        return report

    def _prepare_work(self, force: bool) -> str | None:
        """Return the checkpoint to go on from; a run that was killed is not dropped unasked."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        stamp = self.work / "settings.json"
        settings = self.settings.model_dump(mode="json", exclude={"resume", "out", "threads"})
        if self.settings.resume and stamp.is_file():
            if json.loads(stamp.read_text(encoding="utf-8")) != settings:
                raise ConfigError(
                    f"--resume: the checkpoints in {self.work} were made with other settings",
                    hint="repeat the settings of that run, or start anew without --resume",
                )
            for found in self.work.glob("checkpoint-*"):
                if not _is_whole(found):
                    shutil.rmtree(found)
            checkpoint: str | None = get_last_checkpoint(str(self.work))
            return checkpoint
        if any(self.work.glob("checkpoint-*")) and not force:
            raise ArtifactError(
                f"{self.work} holds checkpoints of a run that did not end",
                hint="go on with --resume, or drop them with --force",
            )
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        with whole_output(stamp) as partial:
            write_json(partial, settings)
        self.log.unlink(missing_ok=True)
        return None

    def _tensorboard(self) -> list[TrainerCallback]:
        if not self.settings.tensorboard:
            return []
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ResourceError(
                "TensorBoard is not installed", hint='pip install "adaptermix[tensorboard]"'
            ) from error
        folder = self.out.parent / f"{self.out.stem}.tensorboard"
        return [TensorBoardCallback(SummaryWriter(str(folder)))]

    def _arguments(self) -> TrainingArguments:
        settings = self.settings
        steps = _steps(settings, len(self.stream.train))
        every = min(settings.eval_steps, steps)
        return TrainingArguments(
            output_dir=str(self.work),
            per_device_train_batch_size=self.micro,
            per_device_eval_batch_size=self.micro,
            gradient_accumulation_steps=settings.batch_size // self.micro,
            num_train_epochs=settings.epochs,
            max_steps=settings.max_steps or -1,
            learning_rate=settings.lr,
            lr_scheduler_type=settings.schedule,
            warmup_steps=settings.warmup_ratio,
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            greater_is_better=False,
            prediction_loss_only=True,
            logging_steps=min(10, steps),
            logging_nan_inf_filter=False,  # it would log the last good loss in place of a NaN
            **common_arguments(settings.seed),
        )

    def _write(self, model: PeftModel, report: TrainReport, force: bool) -> None:
        prefix = "" if "CAUSAL_LM" in str(model.peft_config["default"].task_type) else "model."
        updates = _updates(model, self.settings.alpha / self.settings.rank, prefix)
        specs = {module: spec_of(update) for module, update in updates.items()}
        config = describe_config(specs, self.settings.model, all_layers=not prefix)
        config["lora_dropout"] = self.settings.dropout
        # Nothing of how long it took, or of a kill in between: the same run gives the same file.
        record = {
            "adaptermix": __version__,
            **{name: value for name, value in report.as_record().items() if name != "seconds"},
            "settings": self.settings.model_dump(mode="json", exclude={"resume", "threads"}),
            "base_fingerprint": fingerprint(self.base),
        }
        write_adapter(self.out, updates, config, record, force=force)


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the Trainer's state comes last."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def common_arguments(seed: int) -> dict[str, Any]:
    """Return the arguments of transformers' Trainer that are the same in every training here."""
    on_gpu = torch.cuda.is_available()
    return {
        "report_to": [],
        "seed": seed,
        "bf16": on_gpu and torch.cuda.is_bf16_supported(),
        "use_cpu": not on_gpu,
        "remove_unused_columns": False,
        "dataloader_pin_memory": on_gpu,
        "disable_tqdm": True,
        "label_names": ["labels"],
    }


def _plan(settings: TrainSettings, stream: _Stream) -> TrainReport:
    steps = _steps(settings, len(stream.train))
    return TrainReport(
        out=str(settings.out),
        command=settings.section,
        examples=stream.examples,
        dev_examples=stream.dev_examples,
        truncated=stream.truncated,
        steps=0,
        planned_steps=steps,
        trainable_parameters=0,
        dev={},
        seconds=0.0,
        log=None,
        written=False,
    )


def _steps(settings: TrainSettings, rows: int) -> int:
    """Return the optimizer steps of the whole run, at most."""
    if settings.max_steps:
        return settings.max_steps
    return max(1, int(settings.epochs * -(-rows // settings.batch_size)))


def _updates(model: PeftModel, scaling: float, prefix: str) -> dict[str, LoraUpdate]:
    """Collect the trained factors under the module names of the full model."""
    state = get_peft_model_state_dict(model)
    updates = {}
    for name, a in state.items():
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = state[name.replace("lora_A", "lora_B")]
            if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
                raise ArtifactError(f"training diverged: {module} holds NaN or infinity")
            updates[prefix + module] = LoraUpdate(a.cpu(), b.cpu(), scaling)
    return updates


def _dev_scores(
    trainer: Trainer, model: PeftModel, collator: Any, dev: Sequence[Any]
) -> dict[str, float]:
    """Return the dev loss of the adapter that is kept, and for alignment its dev retrieval."""
    best = trainer.state.best_metric
    scores = {"loss": float(best)} if best is not None else {}
    if isinstance(collator, PairCollator):
        model.eval()
        scores["retrieval_accuracy"] = _dev_retrieval(model, collator, dev)
        with model.disable_adapter():
            scores["retrieval_accuracy_of_base"] = _dev_retrieval(model, collator, dev)
    return scores


def _dev_retrieval(model: PeftModel, collator: PairCollator, dev: Sequence[Any]) -> float:
    """Return how often a dev source finds its own translation among all dev targets."""
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    with torch.no_grad():
        for start in range(0, len(dev), 32):
            batch = {k: v.to(model.device) for k, v in collator(dev[start : start + 32]).items()}
            for side, vectors in zip(sides, alignment_vectors(model, batch), strict=True):
                side.append(vectors)
    return retrieval_accuracy(torch.cat(sides[0]), torch.cat(sides[1]))


class _EvaluateAtTheEnd(TrainerCallback):
    """Let the last step compete for the best adapter, wherever the evaluation interval falls."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = True
            control.should_save = True


class _RunLog(TrainerCallback):
    """Writes every logged number as one JSON line, and tells how far the run is."""

    def __init__(self, path: Path, on_progress: OnProgress) -> None:
        self.path = path
        self.on_progress = on_progress
        self.loss: float | None = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        numbers = logs or {}
        self.loss = numbers.get("loss", self.loss)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **numbers}) + "\n")
        if not math.isfinite(numbers.get("loss", 0.0)):
            raise ArtifactError(
                f"the loss is not a number at step {state.global_step}",
                hint="lower --lr; the log is " + str(self.path),
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.on_progress(Progress(state.global_step, state.max_steps, self.loss))
