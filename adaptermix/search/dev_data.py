"""The dev examples of a search."""

import random
from collections.abc import Sequence
from pathlib import Path

from adaptermix.errors import DataError, MissingDataError
from adaptermix.generation.prompts import PromptedExample, PromptEncoder, read_prompts
from adaptermix.settings.merging import SearchSettings
from adaptermix.tasks.task import Task


def read_dev(
    settings: SearchSettings, task: Task, encoder: PromptEncoder, folder: Path
) -> list[PromptedExample]:
    """Read the dev examples of all languages that have any.

    Raises:
        DataError: Malformed data, or no dev data in any language.
    """
    found: list[PromptedExample] = []
    lacking: list[MissingDataError] = []
    for lang in settings.langs:
        alone = settings.model_copy(update={"langs": (lang,)})
        try:
            found += read_prompts(alone, "dev", task, encoder, folder)
        except MissingDataError as error:
            lacking.append(error)
    if not found:
        raise lacking[0]
    return found


def check_gold(examples: Sequence[PromptedExample], task: Task, settings: SearchSettings) -> None:
    """Check that every language has gold answers.

    The examples of a small ``--limit`` may all be without slots. All rows are then read.

    Raises:
        DataError: Dev data without gold answers.
    """
    labeled = {prompted.lang for prompted in examples if task.is_labeled(prompted.example)}
    for lang in dict.fromkeys(example.lang for example in examples):
        if lang not in labeled and not any(
            map(task.is_labeled, task.read(lang, "dev", settings.data_dir))
        ):
            raise DataError(
                f"the dev data of {lang} has no gold answers",
                hint="use labeled dev data, or restrict --langs to languages that have some",
            )


def group_by_language(
    examples: Sequence[PromptedExample], seed: int
) -> dict[str, list[PromptedExample]]:
    """Group dev examples by language, shuffled, so that any prefix is a random sample."""
    groups: dict[str, list[PromptedExample]] = {}
    for prompted in examples:
        groups.setdefault(prompted.lang, []).append(prompted)
    for lang, group in groups.items():
        random.Random(f"{seed}:{lang}").shuffle(group)
    return groups


def set_apart(items: dict[str, list[PromptedExample]]) -> list[PromptedExample]:
    """Split each language's dev examples in half: one half to learn on, the other to evaluate on.

    Raises:
        DataError: A language has only one dev example.
    """
    learning = []
    for lang, group in items.items():
        half = len(group) // 2
        if not half:
            raise DataError(
                f"--search learn needs at least two dev examples per language, but {lang} has one"
            )
        learning += group[half:]
        items[lang] = group[:half]
    return learning
