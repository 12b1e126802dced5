"""The base model and the adapters that a command works with, opened and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptermix.adapters.adapter import Adapter, adapter_hash
from adaptermix.adapters.matching import check_fits, notes_on_base
from adaptermix.adapters.systems import BASE
from adaptermix.models.files import fingerprint, locate_model, weight_shapes
from adaptermix.models.loading import load_tokenizer
from adaptermix.settings.shared import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Systems:
    """A base model, and adapters that fit it.

    Attributes:
        base: The base model, as the settings name it.
        folder: Where it is.
        tokenizer: Its tokenizer.
        adapters: By name.
        has_base: Whether the base model is a system itself.
    """

    base: str
    folder: Path
    tokenizer: "PreTrainedTokenizerBase"
    adapters: Mapping[str, Adapter]
    has_base: bool

    @property
    def names(self) -> list[str]:
        """Names of all systems, in their order."""
        return [*([BASE] if self.has_base else []), *self.adapters]

    @cached_property
    def fingerprint(self) -> str:
        """What tells the base model from others."""
        return fingerprint(self.folder)

    def record(self) -> dict[str, Any]:
        """Return what a record holds of them."""
        return {
            "base_fingerprint": self.fingerprint,
            "adapters": {
                name: {"path": str(adapter.path), "hash": adapter_hash(adapter)}
                for name, adapter in self.adapters.items()
            },
        }

    def notes(self) -> list[str]:
        """Say which adapters were trained on another base of the same shapes, and what was read."""
        found = [note for adapter in self.adapters.values() for note in adapter.notes]
        return found + list(notes_on_base(self.adapters, self.base, self.fingerprint))


def open_systems(
    settings: ModelSettings, adapters: Mapping[str, Adapter], *, has_base: bool = True
) -> Systems:
    """Find the base model, and check that adapters fit it.

    Raises:
        ArtifactError: A model or tokenizer that cannot be used, or an adapter that does not fit.
        ResourceError: A hub model that cannot be had.
    """
    folder = locate_model(settings)
    shapes = weight_shapes(folder)
    for adapter in adapters.values():
        check_fits(adapter, shapes, settings.model)
    tokenizer = load_tokenizer(folder, settings)
    return Systems(settings.model, folder, tokenizer, adapters, has_base)
