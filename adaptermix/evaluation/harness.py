"""Tasks of lm-evaluation-harness (lm-eval), loaded through its Python API, and their scores.

A task of lm-eval stands where a language stands. An example's statistics are the value of its
metric and 1, so that scores, intervals and p-values are made as those of all other tasks.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
from adaptermix.files.hub import hub_errors
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.shared import HARNESS
from adaptermix.tasks.metrics.metric import Outcome, Statistics, mean_of
from adaptermix.tasks.task import Scored

SEED = 1234  # of few-shot examples and sampled answers; lm-eval's own default
_NEAR = 3  # names in a hint


@dataclass(frozen=True)
class HarnessOutcome(Outcome):
    """What lm-eval made of one example.

    Attributes:
        values: The example's value of every metric; one that does not count it is left out.
    """

    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MeanMetric:
    """A metric of lm-eval: the mean of the examples' values.

    Attributes:
        name: Its name in results; ``score`` where tasks have different ones.
        keys: What lm-eval calls it in each task: ``METRIC,FILTER``.
        signatures: How the score of each task is computed.
    """

    name: str
    keys: Mapping[str, str]
    signatures: Mapping[str, str]

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return the value and 1 for every example; zeros for one that does not count."""
        values = [getattr(o, "values", {}).get(self.keys.get(o.lang, "")) for o in outcomes]
        rows = [(0.0, 0.0) if value is None else (value, 1.0) for value in values]
        return np.array(rows, dtype=float).reshape(-1, 2)

    def value(self, sums: Any) -> Any:
        """Return the mean of sums of values and counts."""
        return mean_of(sums)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Say how the score of a task is computed."""
        return self.signatures[outcomes[0].lang]


@dataclass(frozen=True)
class HarnessScores(Scored):
    """How the tasks of a run are scored."""

    chosen: tuple[MeanMetric, ...]

    @property
    def metrics(self) -> tuple[MeanMetric, ...]:
        """The metrics; the first one is the score."""
        return self.chosen


class Harness:
    """The tasks of a run, with their examples.

    Attributes:
        tasks: lm-eval's tasks by name, groups and tags taken apart.
        scores: How they are scored.
    """

    def __init__(self, settings: EvalSettings) -> None:
        """Load tasks and their data; no model is needed.

        Raises:
            ConfigError: No such task, or one that cannot be scored or run here.
            DataError: Data that cannot be read.
            ResourceError: lm-eval is not installed, or data cannot be had.
        """
        require_extra(HARNESS)
        self.settings = settings
        with guarded(settings):
            self.tasks = _load(settings)
            self.scores = HarnessScores(_chosen_metrics(self.tasks, settings.metrics))
            for name, task in self.tasks.items():
                with of_task(name):
                    _prepare(task, settings)

    @property
    def split(self) -> str:
        """Which parts of the data the examples are of."""
        parts = {"test" if t.has_test_docs() else "validation" for t in self.tasks.values()}
        return " and ".join(sorted(parts))

    @property
    def counts(self) -> dict[str, int]:
        """How many examples every task has."""
        return {name: len({i.doc_id for i in t.instances}) for name, t in self.tasks.items()}


def _load(settings: EvalSettings) -> dict[str, Any]:
    """Return lm-eval's tasks of these names."""
    names = list(settings.langs)
    manager = _find(names, settings.lm_eval_path)
    for name in names:  # code of the model's is refused before code of the Hub is asked for
        _refuse_unsafe(name, bool((manager.task_index[name].cfg or {}).get("unsafe_code")))
    with of_task(", ".join(names)):
        tasks: dict[str, Any] = manager.load(names)["tasks"]
    for name, task in tasks.items():
        _refuse_unsafe(name, getattr(task, "UNSAFE_CODE", False))
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(f"lm-eval's task {name} asks about images or sound, not text alone")
        if missing := _missing_metrics(task):
            raise ConfigError(
                f"lm-eval's task {name}: the metric {missing[0]} is not one of lm-eval's own, but "
                "code from the Hub",
                hint="--trust-remote-code runs it; know whose it is",
            )
        if "/" in name:
            raise ConfigError(f"lm-eval's task {name}: its name holds a slash; rename it")
    return tasks


def _refuse_unsafe(name: str, is_unsafe: bool) -> None:
    if is_unsafe:
        raise ConfigError(f"lm-eval's task {name} runs code that the model writes; refused")


def _missing_metrics(task: Any) -> list[str]:
    """Return the metrics that lm-eval did not get: it looks for unknown ones on the Hub."""
    if getattr(task.config, "process_results", None) is not None:
        return []
    functions = getattr(task, "_metric_fn_list", {})
    return [name for name, function in functions.items() if function is None]


def _find(names: Sequence[str], folder: Path | None) -> Any:
    """Return the manager of the tasks that there are, once all of these names are among them.

    lm-eval's own 14,000 names are read only if the folder does not have all tasks itself.
    """
    if folder is not None:
        if not folder.is_dir():
            raise ConfigError(f"--lm-eval-path {folder}: no such folder")
        manager = _manager(folder, has_defaults=False)
        groups = {*manager.all_groups, *manager.all_tags}  # which may hold tasks of lm-eval's own
        if all(name in manager.task_index and name not in groups for name in names):
            return manager
    manager = _manager(folder, has_defaults=True)
    for name in names:
        if name not in manager.task_index:
            near = get_close_matches(name, manager.all_tasks, _NEAR)
            raise ConfigError(
                f"--task {HARNESS}:{name}: lm-eval has no task '{name}'",
                hint=f"did you mean {', '.join(near)}?" if near else "lm-eval ls tasks lists them",
            )
    return manager


@cache
def _manager(folder: Path | None, *, has_defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    path = None if folder is None else str(folder)
    return TaskManager(include_path=path, include_defaults=has_defaults)


def _prepare(task: Any, settings: EvalSettings) -> None:
    """Set what simple_evaluate of lm-eval sets, and write the requests of a task."""
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    if "max_new_tokens" in settings.model_fields_set and task.OUTPUT_TYPE == "generate_until":
        length = {"max_gen_toks": settings.max_new_tokens}
        task.set_config(key="generation_kwargs", value=length, update=True)
    sow(task)
    task.build_all_requests(limit=settings.limit, rank=0, world_size=1)


def sow(task: Any) -> None:
    """Set all seeds, so that a task's examples and answers depend on no task before it."""
    from transformers import set_seed

    set_seed(SEED)
    task.set_fewshot_seed(seed=SEED)


def _chosen_metrics(tasks: Mapping[str, Any], names: Sequence[str]) -> tuple[MeanMetric, ...]:
    """Return the metrics that were asked for, or the first one of each task.

    Raises:
        ConfigError: A task has no such metric, or one that is no mean over examples.
    """
    keys = {name: _metric_keys(task) for name, task in tasks.items()}
    if not names:
        first = {name: next(iter(keys[name])) for name in tasks}
        common = set(first.values())
        return (_metric(common.pop() if len(common) == 1 else "score", first, keys, tasks),)
    for name, known in keys.items():
        if unknown := [metric for metric in names if metric not in known]:
            raise ConfigError(
                f"--metrics: lm-eval's task {name} has no metric '{unknown[0]}'",
                hint="it has " + ", ".join(known),
            )
    return tuple(_metric(metric, dict.fromkeys(tasks, metric), keys, tasks) for metric in names)


def _metric_keys(task: Any) -> dict[str, str]:
    """Return lm-eval's keys of a task's metrics by the names that ``--metrics`` knows them by.

    Other filters than the first one follow the name of the metric after a colon.
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
        hint = f"--metrics chooses among {', '.join(n for n in own if n not in lower)}"
        if metric not in own:
            raise ConfigError(
                f"lm-eval's task {task_name}: its metric {metric} is no mean over examples",
                hint=hint if own else None,
            )
        if metric in lower:
            raise ConfigError(
                f"lm-eval's task {task_name}: of its metric {metric} lower values are better",
                hint=hint if len(own) > 1 else None,
            )
        signatures[task_name] = (
            f"{metric}|task:{task_name}|task-version:{task.VERSION}|filter:{filtered}"
            f"|shots:{task.get_config('num_fewshot') or 0}|by:lm-eval|version:{version('lm-eval')}"
        )
    return MeanMetric(name, mine, signatures)


@contextmanager
def of_task(name: str) -> Iterator[None]:
    """Turn what lm-eval, its tasks and their data raise into an error of one line."""
    from datasets.exceptions import DatasetNotFoundError

    try:
        yield
    except AdaptermixError:
        raise
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        raise ResourceError(
            f"lm-eval's task {name}: {first_line(error)}",
            hint=f"pip install {package}" if package else None,
        ) from error
    except Exception as error:
        is_here = isinstance(error, FileNotFoundError) and not isinstance(
            error, DatasetNotFoundError
        )
        if isinstance(error, hub_errors()) and not is_here:
            raise ResourceError(
                f"the data of lm-eval's task {name} could not be downloaded from the Hub: "
                f"{first_line(error)}",
                hint="download it where there is network; --lm-eval-path takes tasks on local data",
            ) from error
        kind = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""
        raise DataError(f"lm-eval's task {name} fails: {kind}{first_line(error)}") from error


@contextmanager
def guarded(settings: EvalSettings) -> Iterator[None]:
    """Run no code of the Hub unless it is trusted, and draw no bars and log no messages."""
    import evaluate
    from tqdm.std import tqdm

    draw = tqdm.__init__

    def silent(self: Any, *args: Any, **options: Any) -> None:
        draw(self, *args, **{**options, "disable": True})

    def refuse(name: str, *_: Any, **__: Any) -> None:
        raise ConfigError(
            f"the metric {name} of a task of lm-eval is code from the Hub",
            hint="--trust-remote-code runs it; know whose it is",
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
