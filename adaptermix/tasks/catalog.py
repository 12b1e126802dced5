"""Find a task by its name."""

from pathlib import Path

from adaptermix.errors import ConfigError
from adaptermix.settings.shared import ScorerSettings, flag_of, notes_on_unused_keys
from adaptermix.tasks.custom import CustomTask, load_task_file
from adaptermix.tasks.massive import SYSTEM_PROMPTS, Massive
from adaptermix.tasks.task import Task
from adaptermix.tasks.translation import Translation
from adaptermix.tasks.uner import Uner

# The options of scoring that a metric uses.
_OF_METRICS = {
    "match": "entity_f1",
    "tokenize": "bleu",
    "comet_model": "comet",
    "comet_python": "comet",
}


def notes_on_unused(settings: ScorerSettings, task: Task) -> list[str]:
    """Return notes on options that were given and have no effect on the task's prompts or scores.

    Args:
        settings: The options.
        task: The task that they are for.
    """
    names = [metric.name for metric in task.metrics]
    unused = {option for option, metric in _OF_METRICS.items() if metric not in names}
    if task.name != "massive":
        unused.add("scorer")
    if task.name != "wmt23":
        unused |= {"src", "ref"}
    of_scoring = [
        f"{flag_of(option)} has no effect on {', '.join(names)} of {task.name}"
        for option in sorted(unused & settings.model_fields_set)
    ]
    return notes_on_unused_keys(settings) + of_scoring


def make_task(
    name: str,
    prompt: str = "paper",
    system_prompt: str | None = None,
    options: ScorerSettings | None = None,
) -> Task:
    """Return a built-in task, or the one that a TOML file defines.

    Args:
        name: ``massive``, ``wmt23``, ``uner``, or the path of a ``.toml`` file.
        prompt: Name of the system prompt for MASSIVE.
        system_prompt: Replaces the system prompt of any task.
        options: How outputs are scored; the defaults of ``ScorerSettings`` if None.

    Raises:
        ConfigError: The task does not exist, or its file is malformed.
    """
    options = options or ScorerSettings()
    if name.endswith(".toml"):
        path = Path(name)
        return CustomTask(load_task_file(path), path.parent, system_prompt, options)
    if name == "massive":
        return Massive(SYSTEM_PROMPTS[prompt] if system_prompt is None else system_prompt, options)
    if name == "wmt23":
        return Translation(system_prompt, options)
    if name == "uner":
        return Uner(system_prompt, options)
    raise ConfigError(f"unknown task '{name}'", hint="use massive, wmt23, uner, or a .toml file")
