"""Train, merge and evaluate LoRA adapters that transfer a task across languages.

The commands are also available as Python functions. Each takes the settings class of its command
and returns a report:

    train_task(TrainTaskSettings(...))            train_align(TrainAlignSettings(...))
    merge([path, path], MergeSettings(...))       merge_into([path], MergeSettings(into=..., ...))
    inspect([path, path], InspectSettings(...))   evaluate(EvalSettings(...))
    train_joint(TrainJointSettings(...))          score_files(ScoreSettings(...))

They are imported on first use, so that ``import adaptermix`` stays fast. Errors that a caller can
act on are subclasses of AdaptermixError.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adaptermix.version import __version__  # noqa: F401

if TYPE_CHECKING:
    from adaptermix.adapters.inspection import inspect as inspect
    from adaptermix.errors import AdaptermixError as AdaptermixError
    from adaptermix.evaluation.evaluate import evaluate as evaluate
    from adaptermix.evaluation.score import score_files as score_files
    from adaptermix.merging.fold import merge_into as merge_into
    from adaptermix.merging.merge import merge as merge
    from adaptermix.settings.evaluation import EvalSettings as EvalSettings
    from adaptermix.settings.evaluation import ScoreSettings as ScoreSettings
    from adaptermix.settings.merging import MergeSettings as MergeSettings
    from adaptermix.settings.reports import InspectSettings as InspectSettings
    from adaptermix.settings.training import TrainAlignSettings as TrainAlignSettings
    from adaptermix.settings.training import TrainJointSettings as TrainJointSettings
    from adaptermix.settings.training import TrainTaskSettings as TrainTaskSettings
    from adaptermix.training.align import train_align as train_align
    from adaptermix.training.joint import train_joint as train_joint
    from adaptermix.training.task import train_task as train_task

_HOMES = {
    "AdaptermixError": "errors",
    "EvalSettings": "settings.evaluation",
    "InspectSettings": "settings.reports",
    "MergeSettings": "settings.merging",
    "ScoreSettings": "settings.evaluation",
    "TrainAlignSettings": "settings.training",
    "TrainJointSettings": "settings.training",
    "TrainTaskSettings": "settings.training",
    "evaluate": "evaluation.evaluate",
    "inspect": "adapters.inspection",
    "merge": "merging.merge",
    "merge_into": "merging.fold",
    "score_files": "evaluation.score",
    "train_align": "training.align",
    "train_joint": "training.joint",
    "train_task": "training.task",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first access."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List all public names, including those not imported yet."""
    return sorted({*globals(), *_HOMES})
