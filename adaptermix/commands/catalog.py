"""The list of commands."""

from adaptermix.commands.command import Command
from adaptermix.commands.evaluation import EVAL, RETRIEVAL, SCORE
from adaptermix.commands.merging import EXPORT, INSPECT, MERGE
from adaptermix.commands.reports import REPORT
from adaptermix.commands.training import TRAIN_ALIGN, TRAIN_JOINT, TRAIN_TASK
from adaptermix.settings.shared import Settings

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        TRAIN_TASK,
        TRAIN_ALIGN,
        TRAIN_JOINT,
        MERGE,
        EVAL,
        SCORE,
        INSPECT,
        EXPORT,
        RETRIEVAL,
        REPORT,
    )
}


def sections() -> dict[str, type[Settings]]:
    """Return every command's settings, by the name of its section in ``adaptermix.toml``."""
    return {name: command.settings for name, command in COMMANDS.items()}
