"""Tasks of lm-evaluation-harness (lm-eval), loaded through its Python API, and their scores.

Each task takes the place of a language. An example's sufficient statistics are its metric value
and a count of 1, so scores, intervals and p-values are computed as for all other tasks.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from adaptermix.errors import (
    AdaptermixError,
    ConfigError,
    DataError,
    ResourceError,
    first_line,
    require_extra,
)
from adaptermix.evaluation.harness_dev import use_dev_documents
from adaptermix.files.hub import hub_errors
from adaptermix.settings.scored import ScoredSettings
from adaptermix.settings.shared import HARNESS
from adaptermix.tables import is_share, raw
from adaptermix.tasks.metrics.metric import Outcome, Statistics, mean_of
from adaptermix.tasks.task import Scored

SEED = 1234  # for few-shot examples and sampling; lm-eval's default
_MOST = 1.01  # of a share, with the rounding errors of BERTScore
_NEAR = 3  # number of names in a hint


@dataclass(frozen=True)
class HarnessOutcome(Outcome):
    """The result of lm-eval for one example.

    Attributes:
        values: Value of each metric that counts the example.
    """

    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MeanMetric:
    """A metric of lm-eval that averages over examples.

    Attributes:
        name: Name in results. If the tasks have different metrics, it is ``score``, or
            ``mixed_scales`` if one of them is not known to be between 0 and 1.
        keys: lm-eval's key in each task: ``METRIC,FILTER``.
        signatures: Signature of each task's score.
    """

    name: str
    keys: Mapping[str, str]
    signatures: Mapping[str, str]

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return the value and a count of 1 per example, or zeros if it does not count."""
        values = [getattr(o, "values", {}).get(self.keys.get(o.lang, "")) for o in outcomes]
        rows = [(0.0, 0.0) if value is None else (value, 1.0) for value in values]
        return np.array(rows, dtype=float).reshape(-1, 2)

    def value(self, sums: Any) -> Any:
        """Return the mean, given the sums of values and counts."""
        return mean_of(sums)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Return the signature of a task's score: how it is computed."""
        return self.signatures[outcomes[0].lang]


@dataclass(frozen=True)
class HarnessScores(Scored):
    """The scoring of a run's tasks."""

    chosen: tuple[MeanMetric, ...]

    @property
    def metrics(self) -> tuple[MeanMetric, ...]:
        """The metrics; the first one is the score."""
        return self.chosen

    def named_by(self, outcomes: Sequence[Outcome]) -> "HarnessScores":
        """Mark the names of metrics with values above 1, if these names promise shares.

        ``em`` is a share in most tasks, and a percentage in those of SCROLLS.
        """
        return HarnessScores(
            tuple(
                replace(metric, name=raw(metric.name))
                if (np.abs(metric.statistics(outcomes)) > _MOST).any()
                else metric
                for metric in self.chosen
            )
        )


class Harness:
    """The tasks of a run and their examples.

    Attributes:
        tasks: lm-eval tasks by name, with groups and tags expanded.
        scores: The scoring of the tasks.
        notes: Notes for the user about the data.
    """

    def __init__(self, settings: ScoredSettings, *, is_dev: bool = False) -> None:
        """Load the tasks and their data, without a model.

        Args:
            settings: The tasks.
            is_dev: Use dev data in place of the data on which lm-eval scores the tasks.

        Raises:
            ConfigError: A task does not exist, or cannot be scored or run here.
            DataError: The data cannot be read.
            ResourceError: lm-eval is not installed, or the data cannot be downloaded.
        """
        require_extra(HARNESS)
        self.settings = settings
        self.notes: list[str] = []
        with guarded(settings):
            self.tasks = _load(settings)
            self.scores = HarnessScores(_chosen_metrics(self.tasks, settings.metrics))
            for name, task in self.tasks.items():
                with of_task(name):
                    if is_dev:
                        self.notes += use_dev_documents(name, task, settings.limit)
                    _prepare(task, settings)
        if "max_new_tokens" in settings.model_fields_set and not any(
            map(_writes, self.tasks.values())
        ):
            self.notes.append(
                f"--max-new-tokens has no effect with --task {settings.task}, whose answers are "
                "chosen, not written"
            )

    @property
    def split(self) -> str:
        """The splits of the examples, such as ``test and validation``."""
        parts = {"test" if t.has_test_docs() else "validation" for t in self.tasks.values()}
        return " and ".join(sorted(parts))

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples of each task."""
        return {name: len({i.doc_id for i in t.instances}) for name, t in self.tasks.items()}


def _load(settings: ScoredSettings) -> dict[str, Any]:
    """Load the requested lm-eval tasks."""
    names = list(settings.langs)
    manager = _find(names, settings.lm_eval_path)
    for name in names:  # before loading, which may need code from the Hub
        _refuse_unsafe(name, bool((manager.task_index[name].cfg or {}).get("unsafe_code")))
    with of_task(", ".join(names)):
        tasks: dict[str, Any] = manager.load(names)["tasks"]
    for name, task in tasks.items():
        _refuse_unsafe(name, getattr(task, "UNSAFE_CODE", False))
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(f"lm-eval task {name} needs images or audio; only text is supported")
        if missing := _missing_metrics(task):
            raise ConfigError(
                f"lm-eval task {name}: the metric {missing[0]} is not part of lm-eval, but code "
                "from the Hub",
                hint="--trust-remote-code runs it; do so only for code you trust",
            )
        if "/" in name:
            raise ConfigError(f"lm-eval task {name}: its name contains a slash; rename it")
    return tasks


def _refuse_unsafe(name: str, is_unsafe: bool) -> None:
    if is_unsafe:
        raise ConfigError(
            f"lm-eval task {name} runs code that the model generates, which is not supported"
        )


def _missing_metrics(task: Any) -> list[str]:
    """Return the metrics that lm-eval did not load; it looks for unknown ones on the Hub."""
    if getattr(task.config, "process_results", None) is not None:
        return []
    functions = getattr(task, "_metric_fn_list", {})
    return [name for name, function in functions.items() if function is None]


def _find(names: Sequence[str], folder: Path | None) -> Any:
    """Return a task manager that knows all of these names.

    lm-eval's own 14,000 names are read only if the folder does not contain all tasks.
    """
    if folder is not None:
        if not folder.is_dir():
            raise ConfigError(f"--lm-eval-path {folder}: no such folder")
        manager = _manager(folder, has_defaults=False)
        groups = {*manager.all_groups, *manager.all_tags}  # may contain lm-eval's own tasks
        if all(name in manager.task_index and name not in groups for name in names):
            return manager
    manager = _manager(folder, has_defaults=True)
    for name in names:
        if name not in manager.task_index:
            near = get_close_matches(name, manager.all_tasks, _NEAR)
            raise ConfigError(
                f"--task {HARNESS}:{name}: lm-eval has no task '{name}'",
                hint=f"did you mean {', '.join(near)}?" if near else "see: lm-eval ls tasks",
            )
    return manager


@cache
def _manager(folder: Path | None, *, has_defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    path = None if folder is None else str(folder)
    return TaskManager(include_path=path, include_defaults=has_defaults)


def _prepare(task: Any, settings: ScoredSettings) -> None:
    """Configure a task as lm-eval's ``simple_evaluate`` does, and build its requests."""
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    if "max_new_tokens" in settings.model_fields_set and _writes(task):
        length = {"max_gen_toks": settings.max_new_tokens}
        task.set_config(key="generation_kwargs", value=length, update=True)
    set_seeds(task)
    task.build_all_requests(limit=settings.limit, rank=0, world_size=1)


def _writes(task: Any) -> bool:
    """Whether a task's answers are generated text."""
    return bool(task.OUTPUT_TYPE == "generate_until")


def set_seeds(task: Any) -> None:
    """Set all seeds, so that a task's examples and answers do not depend on earlier tasks."""
    from transformers import set_seed

    set_seed(SEED)
    task.set_fewshot_seed(seed=SEED)


def part_of(task: Any, numbers: Collection[int]) -> Any:
    """Return a task with some of its examples, whose requests are not built again.

    Few-shot examples are drawn in the order of all examples, so building the requests of a part
    would draw others.
    """
    part = copy(task)
    part._instances = [
        replace(instance, resps=[], filtered_resps={})
        for instance in task.instances
        if instance.doc_id in numbers
    ]
    part.build_all_requests = lambda **_: None
    part.doc_iterator = lambda **_: (
        each for each in task.doc_iterator(limit=max(numbers) + 1) if each[0] in numbers
    )
    return part


def _chosen_metrics(tasks: Mapping[str, Any], names: Sequence[str]) -> tuple[MeanMetric, ...]:
    """Return the requested metrics, or the first metric of each task.

    Raises:
        ConfigError: A task does not have the metric, the metric is not a mean over examples, or
            lower values are better.
    """
    keys = {name: _metric_keys(task) for name, task in tasks.items()}
    if not names:
        first = {name: next(iter(keys[name])) for name in tasks}
        common = set(first.values())
        mixed = "score" if all(map(is_share, common)) else "mixed_scales"
        return (_metric(common.pop() if len(common) == 1 else mixed, first, keys, tasks),)
    for name, known in keys.items():
        if unknown := [metric for metric in names if metric not in known]:
            raise ConfigError(
                f"--metrics: lm-eval task {name} has no metric '{unknown[0]}'",
                hint="it has " + ", ".join(known),
            )
    return tuple(_metric(metric, dict.fromkeys(tasks, metric), keys, tasks) for metric in names)


def _metric_keys(task: Any) -> dict[str, str]:
    """Return lm-eval's keys of a task's metrics, by their names in ``--metrics``.

    With filters other than the first one, the name is ``METRIC:FILTER``.
    """
    filters = [each.name for each in getattr(task, "_filters", [])] or ["none"]
    return {
        metric if at == 0 else f"{metric}:{name}": f"{metric},{name}"
        for at, name in enumerate(filters)
        for metric in task.aggregation()
    }


def _metric(
    name: str,
    chosen: Mapping[str, str],
    keys: Mapping[str, Mapping[str, str]],
    tasks: Mapping[str, Any],
) -> MeanMetric:
    from lm_eval.api.registry import get_aggregation

    means = [get_aggregation("mean"), get_aggregation("nanmean")]
    mine = {task: keys[task][chosen[task]] for task in tasks}
    signatures = {}
    for task_name, task in tasks.items():
        metric, _, filtered = mine[task_name].partition(",")
        own = [n for n, how in task.aggregation().items() if how in means]
        lower = [n for n, is_higher in task.higher_is_better().items() if not is_higher]
        hint = f"choose other metrics: --metrics {','.join(n for n in own if n not in lower)}"
        if metric not in own:
            raise ConfigError(
                f"lm-eval task {task_name}: the metric {metric} is not a mean over examples",
                hint=hint if own else None,
            )
        if metric in lower:
            raise ConfigError(
                f"lm-eval task {task_name}: lower values of the metric {metric} are better, "
                "which is not supported",
                hint=hint if len(own) > 1 else None,
            )
        signatures[task_name] = (
            f"{metric}|task:{task_name}|task-version:{task.VERSION}|filter:{filtered}"
            f"|shots:{task.get_config('num_fewshot') or 0}|by:lm-eval|version:{version('lm-eval')}"
        )
    return MeanMetric(name, mine, signatures)


@contextmanager
def of_task(name: str) -> Iterator[None]:
    """Turn exceptions of lm-eval, its tasks and their data into one-line errors."""
    from datasets.exceptions import DatasetNotFoundError

    try:
        yield
    except AdaptermixError:
        raise
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        raise ResourceError(
            f"lm-eval task {name}: {first_line(error)}",
            hint=f"pip install {package}" if package else None,
        ) from error
    except Exception as error:
        is_here = isinstance(error, FileNotFoundError) and not isinstance(
            error, DatasetNotFoundError
        )
        if isinstance(error, hub_errors()) and not is_here:
            raise ResourceError(
                f"the data of lm-eval task {name} could not be downloaded from the Hub: "
                f"{first_line(error)}",
                hint="run the command once with network access, or use tasks with local data: "
                "--lm-eval-path FOLDER",
            ) from error
        kind = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""
        raise DataError(f"lm-eval task {name} failed: {kind}{first_line(error)}") from error


@contextmanager
def guarded(settings: ScoredSettings) -> Iterator[None]:
    """Refuse code from the Hub unless it is trusted, and silence progress bars and logs."""
    import evaluate
    from tqdm.std import tqdm

    draw = tqdm.__init__

    def silent(self: Any, *args: Any, **options: Any) -> None:
        draw(self, *args, **{**options, "disable": True})

    def refuse(name: str, *_: Any, **__: Any) -> None:
        raise ConfigError(
            f"the lm-eval metric {name} is code from the Hub",
            hint="--trust-remote-code runs it; do so only for code you trust",
        )

    logger, level = logging.getLogger("lm_eval"), logging.getLogger("lm_eval").level
    with ExitStack() as stack:
        stack.enter_context(_replaced(tqdm, "__init__", silent))
        if not settings.trust_remote_code:
            stack.enter_context(_replaced(evaluate, "load", refuse))
        if not logging.getLogger().isEnabledFor(logging.INFO):  # not --verbose
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _replaced(owner: Any, name: str, other: Callable[..., Any]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, before)
