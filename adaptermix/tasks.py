"""What a task is: how an example becomes a prompt and an answer, and outputs become a score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from adaptermix.data import SlotExample, Split, read_massive
from adaptermix.metrics import Score, f1_value, slot_f1, slot_statistics
from adaptermix.tagging import Slot, parse_answer, render_answer, slots_of

Message = dict[str, str]

# The paper's appendix D.2 leaves out the middle sentence that its released training data has.
_SLOT_TASK = (
    "Given a command from the user, a voice assistant will extract entities essential for carry "
    "out the command.{example} Your task is to extract the entities as words from the command if "
    "they fall under a predefined list of entity types."
)
SYSTEM_PROMPTS = {
    "paper": _SLOT_TASK.format(example=""),
    "authors-code": _SLOT_TASK.format(
        example="\nFor example, for a command about playing a specific song, the name of the song "
        'mentioned by the user would be an entity, falling under the type of "song name".\n'
    ).replace("\n Your", "\nYour"),
}


@dataclass(frozen=True)
class Outcome:
    """What one model output was read as, beside what was expected."""

    predicted: list[Slot]
    expected: list[Slot]
    malformed: int


class Task(Protocol):
    """An evaluation and fine-tuning task over text."""

    @property
    def name(self) -> str:
        """Name of the task, as on the command line."""

    def read(self, lang: str, split: Split, data_dir: Path | None) -> list[SlotExample]:
        """Return the examples of one language, in file order."""

    def messages(self, example: SlotExample) -> list[Message]:
        """Return the chat messages that ask for the answer."""

    def answer(self, example: SlotExample) -> str:
        """Return the answer a model should give."""

    def outcome(self, example: SlotExample, output: str) -> Outcome:
        """Read one model output; accepts any text."""

    def statistics(self, outcomes: Sequence[Outcome]) -> np.ndarray:
        """Return one row of sufficient statistics an example."""

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Return the score of sums of rows: [..., stats] to [...]."""

    def score(self, outcomes: Sequence[Outcome]) -> Score:
        """Score the outputs of one language."""


@dataclass(frozen=True)
class Massive:
    """Slot filling on MASSIVE, as generation: ``time: five am; date: this week``."""

    system_prompt: str = SYSTEM_PROMPTS["paper"]
    name: str = "massive"

    def read(self, lang: str, split: Split, data_dir: Path | None) -> list[SlotExample]:
        """Return the examples of one language, in file order."""
        return read_massive(lang, split, data_dir)

    def messages(self, example: SlotExample) -> list[Message]:
        """Return the system prompt, where there is one, and the utterance."""
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, {"role": "user", "content": example.utterance}]

    def answer(self, example: SlotExample) -> str:
        """Return the slots as ``type: value; type: value``, or ``None``."""
        return render_answer(slots_of(example.annotated))

    def outcome(self, example: SlotExample, output: str) -> Outcome:
        """Read the slots out of one model output."""
        answer = parse_answer(output)
        return Outcome(answer.slots, slots_of(example.annotated), answer.malformed)

    def statistics(self, outcomes: Sequence[Outcome]) -> np.ndarray:
        """Return one row of sufficient statistics an example."""
        return slot_statistics([o.predicted for o in outcomes], [o.expected for o in outcomes])

    def value(self, sums: np.ndarray) -> np.ndarray:
        """Return the score of sums of rows: [..., stats] to [...]."""
        return f1_value(sums)

    def score(self, outcomes: Sequence[Outcome]) -> Score:
        """Return the micro slot F1 of one language."""
        return slot_f1(
            [outcome.predicted for outcome in outcomes], [outcome.expected for outcome in outcomes]
        )


def make_task(name: str, prompt: str, system_prompt: str | None) -> Task:
    """Return the task of that name with the chosen system prompt."""
    tasks = {"massive": Massive}
    return tasks[name](SYSTEM_PROMPTS[prompt] if system_prompt is None else system_prompt)
