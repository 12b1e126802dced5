"""Train, merge and evaluate LoRA adapters that carry a task across languages.

What the commands do, Python does by functions of the same names, each with the settings class of
its command and a report as its result:

    train_task(TrainTaskSettings(...))            train_align(TrainAlignSettings(...))
    merge([path, path], MergeSettings(...))       merge_into([path], MergeSettings(into=..., ...))
    inspect([path, path], InspectSettings(...))   evaluate(EvalSettings(...))
    score_files(ScoreSettings(...))

They are imported when they are first used, so that ``import adaptermix`` stays light. Errors that
a caller can act on are AdaptermixErrors.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptermix.align_training import train_align as train_align
    from adaptermix.config import EvalSettings as EvalSettings
    from adaptermix.config import InspectSettings as InspectSettings
    from adaptermix.config import MergeSettings as MergeSettings
    from adaptermix.config import ScoreSettings as ScoreSettings
    from adaptermix.config import TrainAlignSettings as TrainAlignSettings
    from adaptermix.config import TrainTaskSettings as TrainTaskSettings
    from adaptermix.errors import AdaptermixError as AdaptermixError
    from adaptermix.evaluation import evaluate as evaluate
    from adaptermix.folding import merge_into as merge_into
    from adaptermix.inspection import inspect as inspect
    from adaptermix.merging import merge as merge
    from adaptermix.scoring import score_files as score_files
    from adaptermix.task_training import train_task as train_task

__version__ = version("adaptermix")

_HOMES = {
    "AdaptermixError": "errors",
    "EvalSettings": "config",
    "InspectSettings": "config",
    "MergeSettings": "config",
    "ScoreSettings": "config",
    "TrainAlignSettings": "config",
    "TrainTaskSettings": "config",
    "evaluate": "evaluation",
    "inspect": "inspection",
    "merge": "merging",
    "merge_into": "folding",
    "score_files": "scoring",
    "train_align": "align_training",
    "train_task": "task_training",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for from the module it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Name also what has not been imported yet."""
    return sorted({*globals(), *_HOMES})
