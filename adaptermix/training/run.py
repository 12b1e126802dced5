"""The part that all training runs share, for any loss. Based on transformers' Trainer.

The adapter is written when training ends. Until then, a hidden folder beside the output holds the
checkpoints, from which ``resume`` continues after a kill.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.format import describe_config, spec_of
from adaptermix.adapters.stacking import stack_record
from adaptermix.adapters.writing import AdapterWeights, stream_adapter
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.files.outputs import check_output, whole_output, write_json
from adaptermix.models.files import fingerprint
from adaptermix.models.loading import compute_dtype
from adaptermix.models.lora import prefix_in_whole
from adaptermix.processes import is_main_process, process_count, sharding_version, shards_model
from adaptermix.progress import OnProgress, tell
from adaptermix.settings.merging import SearchSettings
from adaptermix.settings.training import TrainSettings, notes_on_training
from adaptermix.training.base import Base
from adaptermix.training.checkpoints import candidates_folder, last_checkpoint, work_folder
from adaptermix.training.layers import LayerChoice, is_measured, read_choice, write_choice
from adaptermix.training.log import TOLD, RunLog, check_log, cut_log, log_file
from adaptermix.training.report import (
    TrainingData,
    TrainReport,
    comparable,
    recorded,
    run_hash,
)
from adaptermix.training.signals import StopSignals
from adaptermix.training.steps import planned_steps
from adaptermix.training.trackers import check_trackers, reporting
from adaptermix.training.trained import State, experts_of, gathered_state, trained_updates
from adaptermix.training.trainer import AdapterTrainer
from adaptermix.version import __version__


def finished_report(settings: TrainSettings, force: bool) -> TrainReport | None:
    """Return the report of a resumed run that has already written its adapter, else None.

    The same command with ``resume`` can thus be repeated after any kill.
    """
    if not settings.resume or force or not settings.out.exists():
        return None
    record = read_adapter(settings.out).record
    if record.get("run") != run_hash(settings):
        return None
    if is_main_process():
        for folder in (work_folder(settings.out), candidates_folder(settings.out)):
            shutil.rmtree(folder, ignore_errors=True)
    return TrainReport.of_record(record)


def check_training(settings: TrainSettings, micro: int, flag: str, force: bool) -> None:
    """Check what can be checked before anything is read.

    Args:
        settings: Settings of the command.
        micro: Rows per forward pass of a process.
        flag: The option that says how many.
        force: Replace the output.
    """
    check_output(settings.out, force, settings.inputs())
    check_log(settings.out, force)
    check_trackers(settings)
    processes = process_count()
    if shards_model() and sharding_version() != 2:
        raise ConfigError(
            "FSDP version 1 is not supported",
            hint="accelerate launch --fsdp_version 2, or fsdp_version: 2 in accelerate's config",
        )
    if processes > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if settings.batch_size % processes:
        raise ConfigError(
            f"--batch-size {settings.batch_size} cannot be divided among {processes} processes"
        )
    if settings.batch_size % (micro * processes):
        shared = f" split over {processes} processes" if processes > 1 else ""
        asked = getattr(settings, flag.removeprefix("--").replace("-", "_"))
        hint = f"use --batch-size {asked}, or lower {flag}"
        raise ConfigError(
            f"{flag} {asked} does not divide --batch-size {settings.batch_size}{shared}",
            hint=hint if asked > settings.batch_size else None,
        )


class TrainingRun:
    """One training run: its folders, its log, and the writing of its adapter."""

    def __init__(
        self,
        settings: TrainSettings,
        base: Base,
        data: TrainingData,
        micro: int,
        on_progress: OnProgress,
    ) -> None:
        """Store the inputs of the run, and report the notes of the base.

        Args:
            settings: Settings of the command.
            base: The base model.
            data: Training and dev rows.
            micro: Rows per forward pass; divides the batch size.
            on_progress: Called after every optimizer step.
        """
        self.settings = settings
        self.base = base
        self.data = data
        self.micro = micro
        self.on_progress = on_progress
        self.notes = [*base.notes]
        tell(on_progress, base.notes)
        self.out = settings.out
        self.work = work_folder(settings.out)
        self.log = log_file(self.out)
        self.choice: LayerChoice | None = None  # set if the run aligns

    def choose(self, choice: LayerChoice) -> None:
        """Store the choice of a layer, and report its notes."""
        self.choice = choice
        self.notes += choice.notes
        tell(self.on_progress, choice.notes)

    @property
    def layers(self) -> dict[str, Any] | None:
        """The record of the layer choice, or None if nothing was measured."""
        if self.choice is None or not is_measured(self.settings):
            return None
        return self.choice.as_record()

    def train(
        self, model: PeftModel, kind: Callable[..., AdapterTrainer], force: bool
    ) -> TrainReport:
        """Train with the given kind of Trainer, and write the best adapter.

        If several processes train together, the main process writes.

        Raises:
            ConfigError: ``resume`` with settings that differ from those of the killed run.
            ArtifactError: An unfinished run is in the way, or the loss is not a number.
            ResourceError: Not enough memory or disk space.
            StoppedError: A signal arrived, and a checkpoint was saved.
        """
        started = time.monotonic()
        arguments = self._arguments()
        with arguments.main_process_first(local=False, desc="preparing the folder"):
            checkpoint = self._prepare_work(force)
            self._keep_choice()
        signals = StopSignals()
        stage = self.settings.section.removeprefix("train-")
        with reporting(self.settings, self.work, self.log, self.on_progress) as trackers:
            trainer = kind(
                model=model,
                args=arguments,
                train_dataset=self.data.train,  # type: ignore[arg-type]
                eval_dataset=self.data.dev,  # type: ignore[arg-type]
                callbacks=[
                    EarlyStoppingCallback(early_stopping_patience=self.settings.patience),
                    _EvaluateAtTheEnd(),
                    RunLog(self.log, stage, self.on_progress),
                    *trackers,
                    signals,
                ],
            )
            for talker in (PrinterCallback, ProgressCallback):  # RunLog replaces them
                trainer.remove_callback(talker)
            with signals.listening():
                trainer.train_from(checkpoint)
        report = TrainReport(
            out=str(self.out),
            command=self.settings.section,
            examples=self.data.examples,
            dev_examples=self.data.dev_examples,
            truncated=self.data.truncated,
            steps=trainer.state.global_step,
            planned_steps=planned_steps(self.settings, self.data.rows_of_epoch),
            trainable_parameters=model.get_nb_trainable_parameters()[0],
            dev=self.dev_scores(trainer, model),
            seconds=round(time.monotonic() - started, 1),
            log=str(self.log),
            written=True,
            dropped=self.data.dropped,
            data_notes=self.data.notes,
            notes=[*notes_on_training(self.settings), *self.notes],
            on=stack_record(self.settings.on),
            layers=self.layers,
        )
        state = None
        if trainer.is_fsdp_enabled:  # every process has a shard
            state = gathered_state(model)
        if is_main_process():
            self._write(model, report, force, state)
            shutil.rmtree(self.work, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        return report

    def dev_scores(self, trainer: Any, model: PeftModel) -> dict[str, float]:
        """Return the scores of the kept adapter on the dev rows."""
        best = trainer.state.best_metric
        return {"loss": float(best)} if best is not None else {}

    def _prepare_work(self, force: bool) -> Path | None:
        """Return the checkpoint to resume from; checkpoints are discarded only with ``force``."""
        if not is_main_process():
            return last_checkpoint(self.work)
        stamp, rows = self.work / "settings.json", self.work / "rows.txt"
        settings = comparable(self.settings)
        if self.settings.resume and stamp.is_file():
            if json.loads(stamp.read_text(encoding="utf-8")) != settings:
                raise ConfigError(
                    f"--resume: the checkpoints in {self.work} were made with different settings",
                    hint="use the settings of that run, or start over with --force instead of "
                    "--resume",
                )
            checkpoint = last_checkpoint(self.work)
            if checkpoint and rows.is_file() and rows.read_text("utf-8") != self.data.digest:
                note = "--resume: the data or its tokens changed; training continues with the new"
                self.notes.append(note)
                tell(self.on_progress, [note])
            with (self.work / TOLD).open("a", encoding="utf-8") as told:
                told.writelines(cut_log(self.log, checkpoint))
            return checkpoint
        if any(self.work.glob("checkpoint-*")) and not force:
            raise ArtifactError(
                f"{self.work} contains checkpoints of an unfinished run",
                hint="continue with --resume, or discard them with --force",
            )
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        rows.write_text(self.data.digest, encoding="utf-8")
        with whole_output(stamp) as partial:
            write_json(partial, settings)
        self.log.unlink(missing_ok=True)
        return None

    def _keep_choice(self) -> None:
        """Store the choice of a layer beside the checkpoints, and log it.

        Raises:
            ConfigError: The processes have measured different layers.
        """
        if self.choice is None:
            return
        kept = read_choice(self.work)
        if kept is None:
            write_choice(self.work, self.choice)
            if self.layers is not None:
                line = {"step": 0, **self.layers}
                self.log.write_text(json.dumps(line) + "\n", encoding="utf-8")
        elif kept.settled_by != self.choice.settled_by:
            raise ConfigError(
                "--layer auto: the processes measured different layers",
                hint=f"name the layer: --layer {kept.layer}",
            )

    def _arguments(self) -> TrainingArguments:
        settings = self.settings
        steps = planned_steps(settings, self.data.rows_of_epoch)
        every = min(settings.eval_steps, steps)
        return TrainingArguments(
            output_dir=str(self.work),
            per_device_train_batch_size=self.micro,
            per_device_eval_batch_size=self.micro,
            gradient_accumulation_steps=settings.batch_size // (self.micro * process_count()),
            num_train_epochs=settings.epochs,
            max_steps=settings.max_steps or -1,
            learning_rate=settings.lr,
            lr_scheduler_type=settings.schedule,
            warmup_steps=settings.warmup_ratio,
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            restore_callback_states_from_checkpoint=True,  # includes the patience of early stopping
            dataloader_num_workers=settings.workers,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            greater_is_better=False,
            prediction_loss_only=True,
            logging_steps=min(10, steps),
            ddp_find_unused_parameters=False,
            gradient_checkpointing=getattr(settings, "gradient_checkpointing", False),
            gradient_checkpointing_kwargs={"use_reentrant": False},
            logging_nan_inf_filter=False,  # it would log the last finite loss instead of NaN
            **common_arguments(settings),
        )

    def _write(
        self, model: PeftModel, report: TrainReport, force: bool, state: State | None = None
    ) -> None:
        prefix = prefix_in_whole(model.get_base_model())  # type: ignore[arg-type]
        settings = self.settings
        updates = trained_updates(model, prefix, state)
        experts = experts_of(model, prefix)
        specs = {module: spec_of(u, experts.get(module, 0)) for module, u in updates.items()}
        is_whole = "CAUSAL_LM" in str(model.peft_config["default"].task_type)
        all_layers = is_whole and not settings.layers_to_transform
        config = describe_config(specs, settings.model, all_layers=all_layers) | {
            "r": settings.rank,
            "lora_alpha": int(settings.alpha) if settings.alpha.is_integer() else settings.alpha,
            "lora_dropout": settings.dropout,
            "use_rslora": settings.use_rslora,
            "rank_pattern": settings.rank_pattern,
            "alpha_pattern": settings.alpha_pattern,
        }
        if settings.revision:  # the base model that PEFT loads by the config alone
            config["revision"] = settings.revision
        record = {
            "adaptermix": __version__,
            **{name: value for name, value in report.as_record().items() if name != "seconds"},
            "settings": recorded(settings),
            "run": run_hash(settings),
            "base_fingerprint": fingerprint(self.base.folder),
        }
        weights = AdapterWeights(specs, updates.values())
        stream_adapter(self.out, weights, config, lambda: record, force=force)


def common_arguments(settings: TrainSettings | SearchSettings) -> dict[str, Any]:
    """Return the arguments of transformers' Trainer that all training runs share.

    On a GPU, they compute in bfloat16 (autocast), unless the base model is in float32.
    """
    on_gpu = torch.cuda.is_available()
    is_full = compute_dtype(settings) == torch.float32
    return {
        "report_to": [],
        "seed": settings.seed,
        "bf16": on_gpu and not is_full and torch.cuda.is_bf16_supported(),
        "use_cpu": not on_gpu,
        "ddp_backend": "gloo" if process_count() > 1 and not on_gpu else None,
        "remove_unused_columns": False,
        "dataloader_pin_memory": on_gpu,
        "disable_tqdm": True,
        "label_names": ["labels"],
    }


class _EvaluateAtTheEnd(TrainerCallback):
    """Evaluates and saves after the last step too, so that it can become the best adapter."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = True
            control.should_save = True
