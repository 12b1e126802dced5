"""Find a task by its name."""

from pathlib import Path

from adaptermix.errors import ConfigError
from adaptermix.settings.shared import ScorerSettings
from adaptermix.tasks.custom import CustomTask, load_task_file
from adaptermix.tasks.massive import SYSTEM_PROMPTS, Massive
from adaptermix.tasks.task import Task
from adaptermix.tasks.translation import Translation
from adaptermix.tasks.uner import Uner


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
