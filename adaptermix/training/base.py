"""The base model of a training run, before its weights are loaded."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from adaptermix.adapters.stacking import Weighted, read_weighted
from adaptermix.models.files import check_depth, check_tokens, locate_model
from adaptermix.models.loading import check_quantization, load_tokenizer
from adaptermix.models.stacking import check_stack
from adaptermix.settings.training import TrainSettings
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

    def check_tokens(self, data: TrainingData) -> None:
        """Reject rows with tokens that the model has no embedding for.

        Raises:
            ArtifactError: The tokenizer does not match the model.
        """
        rows = chain(data.train, data.dev)
        check_tokens(chain([self.pad], (row.largest_id for row in rows)), self.folder)


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
