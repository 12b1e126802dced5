"""Train one adapter for each value of a setting, and keep the best by its dev scores."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.writing import AdapterWeights, stream_adapter
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.files.outputs import check_output
from adaptermix.settings.training import TrainSettings
from adaptermix.training.checkpoints import CANDIDATES
from adaptermix.training.report import TrainReport, comparable, recorded

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
    from its last checkpoint.

    Args:
        settings: Settings of the whole run, with the output.
        variants: Settings by a name that is valid in a file name.
        train: Trains one variant.
        force: Replace the output, and discard an unfinished run.

    Raises:
        ConfigError: ``resume`` with settings that differ from those of a finished variant.
        ArtifactError: The output exists, or an unfinished run is in the way.
    """
    check_output(settings.out, force)
    work = settings.out.parent / f".{settings.out.name}{CANDIDATES}"
    _prepare(work, settings.resume, force)
    reports = {}
    for name, variant in variants.items():
        out = work / f"{name}.safetensors"
        placed = variant.model_copy(update={"out": out})
        reports[name] = _finished(out, placed) if out.is_file() else train(placed)
    best = max(reports, key=lambda name: reports[name].dev["retrieval_accuracy"])  # first of a tie
    log = settings.out.parent / f"{settings.out.stem}.log.jsonl"
    report = replace(
        reports[best],
        out=str(settings.out),
        log=str(log),
        seconds=round(sum(report.seconds for report in reports.values()), 1),
        kept=best,
        candidates={name: report.dev for name, report in reports.items()},
    )
    adapter = read_adapter(work / f"{best}.safetensors")
    shutil.copyfile(work / f"{best}.log.jsonl", log)
    told = {name: value for name, value in report.as_record().items() if name != "seconds"}
    record = {**adapter.record, **told, "settings": recorded(settings)}
    specs = {module: adapter.spec(module) for module in adapter.modules}
    weights = AdapterWeights(specs, (update for _, update in adapter.updates()))
    stream_adapter(settings.out, weights, adapter.config, lambda: record, force=force)
    shutil.rmtree(work, ignore_errors=True)
    return report


def _prepare(work: Path, resume: bool, force: bool) -> None:
    if work.exists() and not resume:
        if not force:
            raise ArtifactError(
                f"{work} contains candidates of an unfinished run",
                hint="continue with --resume, or discard them with --force",
            )
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)


def _finished(out: Path, settings: TrainSettings) -> TrainReport:
    """Return the report stored in a finished variant's adapter."""
    record: Mapping[str, Any] = read_adapter(out).record
    made = settings.model_validate(record["settings"])
    if comparable(made) | {"stack": record.get("on", [])} != comparable(settings):
        raise ConfigError(
            f"--resume: {out} was made with different settings",
            hint="use the settings of that run, or start over with --force instead of --resume",
        )
    return TrainReport.of_record(record)
