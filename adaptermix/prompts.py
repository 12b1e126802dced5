"""Examples with their prompts, as evaluation and search ask them."""

from dataclasses import dataclass
from pathlib import Path

from adaptermix.errors import ConfigError, DataError
from adaptermix.files.text import Split
from adaptermix.models.files import context_length
from adaptermix.settings.shared import DecodingSettings
from adaptermix.tasks.task import Example, Task
from adaptermix.training.batches import PromptEncoder


@dataclass(frozen=True)
class PromptedExample:
    """One example with its prompt.

    Attributes:
        lang: Its language.
        example: The example.
        prompt_ids: The prompt, ready for the first token of the answer.
        is_truncated: The prompt was too long for the model, and lost tokens after the first.
    """

    lang: str
    example: Example
    prompt_ids: list[int]
    is_truncated: bool


def read_prompts(
    settings: DecodingSettings, split: Split, task: Task, encoder: PromptEncoder, folder: Path
) -> list[PromptedExample]:
    """Read the examples of all languages, in the order of languages and files.

    Raises:
        ConfigError: Answers may be as long as all that the model can read.
        DataError: Missing or malformed data, an unknown language, an id that is there twice.
    """
    room = _room_for_prompt(settings, folder)
    prompted = []
    for lang in settings.langs:
        examples = task.read(lang, split, settings.data_dir)[: settings.limit]
        ids = [example.id for example in examples]
        if len(set(ids)) < len(ids):
            raise DataError(f"{lang}: an id occurs twice in the {split} partition")
        for example in examples:
            prompt = encoder.prompt_ids(task.messages(example))
            fitting = truncate(prompt, room)
            prompted.append(PromptedExample(lang, example, fitting, len(fitting) < len(prompt)))
    return prompted


def _room_for_prompt(settings: DecodingSettings, folder: Path) -> int | None:
    """Return how many tokens of the model's context the longest answer leaves to the prompt."""
    context = context_length(folder)
    if context is not None and context <= settings.max_new_tokens:
        raise ConfigError(
            f"--max-new-tokens {settings.max_new_tokens}: the model reads {context} tokens at most"
        )
    return None if context is None else context - settings.max_new_tokens


def truncate(prompt: list[int], room: int | None) -> list[int]:
    """Leave out tokens after the first (BOS), until the prompt fits; its end asks the question."""
    if room is None or len(prompt) <= room:
        return prompt
    return [prompt[0], *prompt[len(prompt) - room + 1 :]]
