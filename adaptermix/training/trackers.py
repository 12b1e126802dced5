"""Experiment trackers: TensorBoard, Weights & Biases, MLflow and Trackio.

Each builds on transformers' callback of that name, which sends what Trainer logs. A run is named
after the output, and its configuration is the settings. The tracker's own environment variables
determine its files, server and keys.

A resumed training continues the run that it began. Events that it logs a second time were sent
before, and are not sent again. If there is no such run, the lines of the log are sent to a new one.
"""

import io
import json
import logging
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import (
    MLflowCallback,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)

from adaptermix.errors import ResourceError, first_line, require_extra
from adaptermix.files.outputs import whole_output, write_json
from adaptermix.processes import is_main_process
from adaptermix.progress import OnProgress, tell
from adaptermix.settings.training import TrainSettings
from adaptermix.training.checkpoints import CANDIDATES
from adaptermix.training.log import TOLD
from adaptermix.version import __version__

_PROJECT = "adaptermix"  # default project, if the tracker's environment names none
_RUNS = "trackers.json"  # in the checkpoints' folder: each tracker's name of the run
_UNSENT = {"resume", "report_to", "tensorboard"}  # settings that are not part of the experiment


@dataclass(frozen=True)
class Before:
    """What was logged before a training run was resumed.

    Attributes:
        kept: Steps and logged values up to the checkpoint.
        told: Steps and names of the values that were logged after it and will be logged again.
    """

    kept: list[tuple[int, dict[str, float]]]
    told: set[tuple[int, frozenset[str]]]

    @classmethod
    def of_files(cls, log: Path, told: Path) -> "Before":
        """Read the log and the lines that were cut from it."""
        kept = [(line.pop("step"), line) for line in _lines(log)]
        return cls(
            [(step, logs) for step, logs in kept if "epoch" in logs],  # events of Trainer
            {(line.pop("step"), frozenset(line)) for line in _lines(told)},
        )


def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines()]


def check_trackers(settings: TrainSettings) -> None:
    """Check that all requested trackers are installed.

    Raises:
        ResourceError: A tracker is not installed.
    """
    for name in _names(settings):
        require_extra(name)


def _names(settings: TrainSettings) -> Sequence[str]:
    """Return the requested trackers, without duplicates."""
    names = (*settings.report_to, *(("tensorboard",) if settings.tensorboard else ()))
    return tuple(dict.fromkeys(names))


def place_of_run(out: Path) -> Path:
    """Return the path that names a run; for a candidate, the final output plus its own name."""
    if not out.parent.name.endswith(CANDIDATES):
        return out
    whole = out.parent.name.removeprefix(".").removesuffix(CANDIDATES)
    name = f"{whole.removesuffix('.safetensors')}-{out.name}"
    return out.parent.with_name(name)


def _read(path: Path) -> dict[str, str]:
    """Return each tracker's name of the run to continue; empty for a new run."""
    found: dict[str, str] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found


class _Tracker(TrainerCallback, ABC):
    """Base class of all trackers; must precede transformers' callback among the bases."""

    tracker: str  # its name, as in --report-to
    loses = False  # whether a kill loses what was sent
    hint = "check its environment variables, or remove it from --report-to"

    def __init__(
        self, settings: TrainSettings, work: Path, before: Before, on_progress: OnProgress
    ) -> None:
        """Store the name and the configuration of the run.

        Args:
            settings: Settings of the training.
            work: Folder of its checkpoints.
            before: What was logged before the training was resumed.
            on_progress: Called with the location of the run.
        """
        super().__init__()
        self.runs = work / _RUNS
        self.run: str | None = _read(self.runs).get(self.tracker)
        self.is_new = self.run is None
        self.before = before
        self.on_progress = on_progress
        self.place = place_of_run(settings.out)
        self.name = self.place.name.removesuffix(".safetensors")
        self.config = {
            "command": settings.section,
            "adaptermix": __version__,
            **settings.model_dump(mode="json", exclude=_UNSENT),
        }

    def setup(self, args: Any, state: Any, model: Any, **_: Any) -> None:
        """Start or continue the run.

        Raises:
            ResourceError: The tracker cannot start the run.
        """
        self._initialized = True
        try:
            with redirect_stdout(io.StringIO()):  # stdout is for the command's result
                self.run, place = self.begin()
        except Exception as error:
            self._initialized = False
            raise ResourceError(
                f"{self.tracker}: the run cannot be started: {first_line(error)}",
                hint=self.hint,
            ) from error
        if not self.loses:
            self._keep_name()
        tell(self.on_progress, [f"{self.tracker} run {self.name}: {place}"])

    def _keep_name(self) -> None:
        with whole_output(self.runs) as unfinished:
            write_json(unfinished, _read(self.runs) | {self.tracker: self.run})

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **rest: Any) -> None:
        """Start the run; if a resumed training needs a new one, send it the earlier events."""
        self.setup(args, state, rest.get("model"))
        for step, logs in self.before.kept if self.is_new else ():
            self.on_log(args, replace(state, global_step=step), control, logs=logs)

    @abstractmethod
    def begin(self) -> tuple[str, str]:
        """Start or continue the run; return the tracker's name of it, and its location."""

    def close(self, failed: bool) -> None:
        """Send pending data, and end the run."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **rest: Any,
    ) -> None:
        """Send an event, unless it was sent before the training was killed."""
        event = (state.global_step, frozenset(logs or {}))
        if event in self.before.told and not self.is_new:
            return
        with self._at_most_a_note():
            super().on_log(args, state, control, logs=logs, **rest)  # type: ignore[misc]

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Leave the run open: ``end`` ends it, in any case."""

    def end(self, failed: bool) -> None:
        """End the run if it was started."""
        if self._initialized:
            with self._at_most_a_note(), redirect_stdout(io.StringIO()):
                self.close(failed)
                self._keep_name()

    @contextmanager
    def _at_most_a_note(self) -> Iterator[None]:
        """Report a failure as a note: an unreachable tracker must not stop the training."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # each tracker raises its own
            tell(self.on_progress, [f"{self.tracker} failed: {first_line(error)}"])


class TensorBoard(_Tracker, TensorBoardCallback):
    """Event files in a folder beside the adapter."""

    tracker = "tensorboard"

    def begin(self) -> tuple[str, str]:
        """Open the folder."""
        from torch.utils.tensorboard import SummaryWriter

        folder = str(self.place.with_name(f"{self.name}.tensorboard"))
        self.tb_writer = SummaryWriter(folder)
        if self.is_new:
            self.tb_writer.add_text("settings", json.dumps(self.config, indent=2))
        return folder, folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Open the folder; write the arguments and the model's config to a new one."""
        super().on_train_begin(args, state, control, **rest)
        if self.is_new:
            TensorBoardCallback.on_train_begin(self, args, state, control, **rest)

    def close(self, failed: bool) -> None:
        """Close the file."""
        self.tb_writer.close()


class Wandb(_Tracker, WandbCallback):  # type: ignore[misc]
    """Weights & Biases; with WANDB_MODE=offline, in the folder ``wandb``."""

    tracker = "wandb"
    hint = "wandb login, or WANDB_MODE=offline"

    def begin(self) -> tuple[str, str]:
        """Start or continue the run; do not prompt for a key if nobody is logged in."""
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        self.loses = os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled")
        if not self.loses and not wandb.login(prompt=False):
            raise ResourceError("no API key was found")
        name = self.run or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=os.environ.get("WANDB_NAME", self.name),
            id=name,
            resume="allow" if self.run else None,
            config=self.config,
            settings=settings,
        )
        run.define_metric("train/global_step")
        run.define_metric("*", step_metric="train/global_step", step_sync=True)
        return name, run.dir if run.offline else _without_secrets(run.url or run.dir)

    def close(self, failed: bool) -> None:
        """Send pending data, and end the run."""
        self._wandb.finish(exit_code=int(failed))


class MLflow(_Tracker, MLflowCallback):  # type: ignore[misc]
    """MLflow; without MLFLOW_TRACKING_URI, in a database in the current folder."""

    tracker = "mlflow"

    def begin(self) -> tuple[str, str]:
        """Start or continue the run; write its parameters once, because they cannot be changed."""
        if not logging.getLogger().isEnabledFor(logging.INFO):  # MLflow's logger is more verbose
            logging.getLogger("mlflow").setLevel(logging.WARNING)
        flow = self._ml_flow
        flow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT))
        run = flow.start_run(run_id=self.run, run_name=None if self.run else self.name)
        if self.is_new:
            flow.log_params(self.config)
        self._async_log = False  # a kill would lose queued events
        return run.info.run_id, _without_secrets(flow.get_tracking_uri())

    def close(self, failed: bool) -> None:
        """End the run."""
        self._ml_flow.end_run("FAILED" if failed else "FINISHED")


class Trackio(_Tracker, TrackioCallback):  # type: ignore[misc]
    """Trackio; without TRACKIO_SPACE_ID, in its folder in the Hub's cache."""

    tracker = "trackio"

    def begin(self) -> tuple[str, str]:
        """Start the run, or continue the last one of its name."""
        project = os.environ.get("TRACKIO_PROJECT", _PROJECT)
        self._trackio.init(
            project=project,
            name=self.name,
            config=self.config,
            resume="allow" if self.run else "never",
            embed=False,
        )
        return self.name, f"trackio show --project {project}"

    def close(self, failed: bool) -> None:
        """Send pending data, and end the run."""
        self._trackio.finish()


def _without_secrets(address: str) -> str:
    """Return an address without parts that may hold a key: the query, the user and password."""
    start, sign, rest = address.partition("?")[0].partition("://")
    return start + sign + rest.rpartition("@")[2]


_TRACKERS: dict[str, type[_Tracker]] = {
    kind.tracker: kind for kind in (TensorBoard, Wandb, MLflow, Trackio)
}


@contextmanager
def reporting(
    settings: TrainSettings, work: Path, log: Path, on_progress: OnProgress
) -> Iterator[list[TrainerCallback]]:
    """Yield the callbacks that send what is logged, and always end their runs at exit.

    Args:
        settings: Settings of the training.
        work: Folder of its checkpoints.
        log: Its log, already cut at the checkpoint to resume from.
        on_progress: Called with the locations of the runs.

    Raises:
        ResourceError: A tracker cannot be used here.
    """
    names = _names(settings) if is_main_process() else ()
    before = Before.of_files(log, work / TOLD)
    try:
        trackers = [_TRACKERS[name](settings, work, before, on_progress) for name in names]
    except RuntimeError as error:  # DISABLE_MLFLOW_INTEGRATION
        raise ResourceError(f"--report-to: {first_line(error)}") from error
    failed = True
    try:
        yield list(trackers)
        failed = False
    finally:
        for tracker in trackers:
            tracker.end(failed)
