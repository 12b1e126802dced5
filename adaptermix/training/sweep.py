"""Train one adapter for each value of a setting, and keep the best by its dev scores."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from accelerate import PartialState
from transformers import TrainingArguments

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.writing import AdapterWeights, stream_adapter
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.files.outputs import check_output, whole_output, write_json
from adaptermix.processes import is_main_process
from adaptermix.settings.training import TrainSettings
from adaptermix.training.checkpoints import CHECKPOINT, candidates_folder
from adaptermix.training.log import check_log, log_file
from adaptermix.training.report import TrainReport, comparable, recorded, run_hash
from adaptermix.training.run import common_arguments

_SETTINGS = "settings.json"  # in the folder of the variants

S = TypeVar("S", bound=TrainSettings)


def train_best(
    settings: S,
    variants: Mapping[str, S],
    train: Callable[[S], TrainReport],
    *,
    force: bool = False,
) -> TrainReport:
    """Train every variant, and write the one with the highest retrieval accuracy to the output.

    Variants are trained one after another, each with its own files in a hidden folder beside the
    output. With ``resume``, finished variants are not trained again, and a killed one continues
    from its last checkpoint. If several processes train together, the main process writes.

    Args:
        settings: Settings of the whole run, with the output.
        variants: Settings by a name that is valid in a file name.
        train: Trains one variant.
        force: Replace the output, and discard an unfinished run.

    Raises:
        ConfigError: ``resume`` with settings that differ from those of the unfinished run.
        ArtifactError: The output exists, or an unfinished run is in the way.
    """
    check_output(settings.out, force, settings.inputs())
    check_log(settings.out, force)
    work = candidates_folder(settings.out)
    arguments = TrainingArguments(str(work), **common_arguments(settings))
    with arguments.main_process_first(local=False, desc="preparing the folder"):
        if is_main_process():
            _prepare(work, settings, force)
    reports = {}
    for name, variant in variants.items():
        out = work / f"{name}.safetensors"
        placed = variant.model_copy(update={"out": out})
        is_there = out.is_file()
        reports[name] = (
            TrainReport.of_record(read_adapter(out).record) if is_there else train(placed)
        )
    best = max(reports, key=lambda name: reports[name].dev["retrieval_accuracy"])  # first of a tie
    report = replace(
        reports[best],
        out=str(settings.out),
        log=str(log_file(settings.out)),
        seconds=round(sum(report.seconds for report in reports.values()), 1),
        kept=best,
        candidates={name: report.dev for name, report in reports.items()},
    )
    processes = PartialState()
    processes.wait_for_everyone()  # each may still read the variants
    if is_main_process():
        _keep(work / f"{best}.safetensors", settings, report, force)
        shutil.rmtree(work, ignore_errors=True)
    processes.wait_for_everyone()
    return report


def _keep(best: Path, settings: TrainSettings, report: TrainReport, force: bool) -> None:
    """Write the best variant, with the report of the whole run, to the output."""
    adapter = read_adapter(best)
    shutil.copyfile(log_file(best), log_file(settings.out))
    told = {name: value for name, value in report.as_record().items() if name != "seconds"}
    of_run = {"settings": recorded(settings), "run": run_hash(settings)}
    record = {**adapter.record, **told, **of_run}
    specs = {module: adapter.spec(module) for module in adapter.modules}
    weights = AdapterWeights(specs, (update for _, update in adapter.updates()))
    stream_adapter(settings.out, weights, adapter.config, lambda: record, force=force)


def _prepare(work: Path, settings: TrainSettings, force: bool) -> None:
    """Create the folder of the variants; checkpoints and adapters are kept only on resume."""
    stamp = work / _SETTINGS
    # A variant is known by its name, and a resumed run may have more of them.
    common = {**comparable(settings), "temperature": None}
    if any(work.glob("*.safetensors")) or any(work.glob(f".*/{CHECKPOINT}*")):
        if settings.resume:
            if not stamp.is_file() or json.loads(stamp.read_text(encoding="utf-8")) != common:
                raise ConfigError(
                    f"--resume: the candidates in {work} were made with different settings",
                    hint="use the settings of that run, or start over with --force instead of "
                    "--resume",
                )
            return
        if not force:
            raise ArtifactError(
                f"{work} contains candidates of an unfinished run",
                hint="continue with --resume, or discard them with --force",
            )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with whole_output(stamp) as partial:
        write_json(partial, common)
