"""The base model of a training run, before its weights are loaded."""

from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from adaptermix.adapters.stacking import Weighted, read_weighted
from adaptermix.errors import ConfigError
from adaptermix.models.files import (
    check_depth,
    check_tokens,
    context_length,
    ends_at_context,
    locate_model,
)
from adaptermix.models.loading import check_quantization, load_tokenizer
from adaptermix.models.stacking import check_stack
from adaptermix.settings.training import TrainSettings
from adaptermix.training.batches import padded_length
from adaptermix.training.report import TrainingData


@dataclass(frozen=True)
class Base:
    """A base model, and the adapters that are active while another one is trained.

    Attributes:
        folder: Folder of the model.
        tokenizer: The model's own, or the one that the settings name.
        stack: The adapters given by ``--on``.
        notes: Notes for the user about these adapters.
    """

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    stack: list[Weighted]
    notes: list[str]

    @property
    def pad(self) -> int:
        """ID of the padding token."""
        return int(self.tokenizer.pad_token_id or 0)

    def check_rows(self, data: TrainingData) -> TrainingData:
        """Reject rows that the model cannot read.

        Returns:
            The data, with a note if rows are longer than the model's context.

        Raises:
            ArtifactError: A row has a token that the model has no embedding for.
            ConfigError: A row is longer than the model's table of positions.
        """
        rows = [*data.train, *data.dev]
        check_tokens(chain([self.pad], (row.largest_id for row in rows)), self.folder)
        context = context_length(self.folder)
        longest = max(rows, key=padded_length)
        if context is None or padded_length(longest) <= context:
            return data
        most = f"the longest example, {longest.name}, has {padded_length(longest):,} tokens"
        hint = f"use --max-length {context}"
        if ends_at_context(self.folder):
            raise ConfigError(f"{most}, but the model accepts at most {context:,}", hint=hint)
        note = f"{most}, more than the model's context of {context:,}; {hint}"
        return replace(data, notes=[*data.notes, note])


def open_base(settings: TrainSettings) -> Base:
    """Locate the base model and the ``--on`` adapters, and check them.

    Raises:
        ArtifactError: The model cannot be used, or a ``--on`` adapter does not fit it.
    """
    folder = locate_model(settings)
    check_depth(folder)
    check_quantization(folder, settings)
    tokenizer = load_tokenizer(folder, settings)
    stack = read_weighted(settings.on)
    return Base(folder, tokenizer, stack, check_stack(folder, settings, stack))
