"""What each command runs, without a terminal."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptermix.errors import require_extra
from adaptermix.progress import OnProgress, ignore


@dataclass(frozen=True)
class Work:
    """What the command of a step is given."""

    settings: Any
    inputs: list[Path]
    out: Path
    dry_run: bool = False
    on_progress: OnProgress = ignore


def _train_task(work: Work) -> Any:
    from adaptermix.training.task import train_task

    return train_task(work.settings, force=True, dry_run=work.dry_run, on_progress=work.on_progress)


def _train_align(work: Work) -> Any:
    from adaptermix.training.align import train_align

    return train_align(
        work.settings, force=True, dry_run=work.dry_run, on_progress=work.on_progress
    )


def _train_joint(work: Work) -> Any:
    from adaptermix.training.joint import train_joint

    return train_joint(
        work.settings, force=True, dry_run=work.dry_run, on_progress=work.on_progress
    )


def _merge(work: Work) -> Any:
    from adaptermix.merging import fold as folding
    from adaptermix.merging import merge as merging
    from adaptermix.search import run as search

    if work.settings.search is None:
        merge = folding.merge_into if work.settings.into else merging.merge
        return merge(work.inputs, work.settings, force=True, dry_run=work.dry_run)
    if work.dry_run:
        return search.plan_search(work.inputs, work.settings, force=True)
    return search.search(work.inputs, work.settings, force=True, on_progress=work.on_progress)


def _evaluate(work: Work) -> Any:
    from adaptermix.evaluation import evaluate as evaluation

    if work.dry_run:
        return evaluation.plan(work.settings, force=True)
    return evaluation.evaluate(work.settings, force=True, on_progress=work.on_progress)


def _score(work: Work) -> Any:
    from adaptermix.evaluation.score import score_files

    return score_files(work.settings)


def _inspect(work: Work) -> Any:
    from adaptermix.adapters.inspection import inspect

    return inspect(work.inputs, work.settings)


def _retrieve(work: Work) -> Any:
    from adaptermix.retrieval import analysis as retrieval

    if work.dry_run:
        return retrieval.plan(work.settings, force=True)
    return retrieval.analyze(work.settings, force=True, on_progress=work.on_progress)


def _report(work: Work) -> Any:
    require_extra("report", "altair", "vl_convert")
    from adaptermix.reports.page import report

    return report(work.inputs, work.settings, force=True, dry_run=work.dry_run)


RUNNERS: dict[str, Callable[[Work], Any]] = {
    "train-task": _train_task,
    "train-align": _train_align,
    "train-joint": _train_joint,
    "merge": _merge,
    "eval": _evaluate,
    "score": _score,
    "inspect": _inspect,
    "retrieval": _retrieve,
    "report": _report,
}
