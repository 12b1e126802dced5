"""Open and check the base model and the adapters that a command works with."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptermix.adapters.adapter import Adapter, adapter_hash
from adaptermix.adapters.matching import (
    check_fits,
    notes_on_base,
    notes_on_names,
    notes_on_revision,
    with_names_of,
)
from adaptermix.adapters.stacking import notes_on_stack
from adaptermix.adapters.systems import BASE
from adaptermix.adapters.writing import staged_config
from adaptermix.errors import AdaptermixError, ArtifactError
from adaptermix.models.blocks import empty_model
from adaptermix.models.files import (
    by,
    check_depth,
    fingerprint,
    locate_model,
    quantization_of,
    weight_shapes,
    weights_hash,
)
from adaptermix.models.loading import load_tokenizer, opening
from adaptermix.settings.shared import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Systems:
    """A base model, and adapters that fit it.

    Attributes:
        base: The base model, as named in the settings.
        folder: Its folder.
        tokenizer: Its tokenizer.
        adapters: Adapters by name, with the base model's module names.
        has_base: Whether the base model itself is one of the systems.
        revision: The base model's revision in the settings.
        has_own_template: Whether prompts have the tokenizer's chat template, not another file's.
    """

    base: str
    folder: Path
    tokenizer: "PreTrainedTokenizerBase"
    adapters: Mapping[str, Adapter]
    has_base: bool
    revision: str | None = None
    has_own_template: bool = True

    @property
    def names(self) -> list[str]:
        """Names of all systems, in order."""
        return [*([BASE] if self.has_base else []), *self.adapters]

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the base model."""
        return fingerprint(self.folder)

    @cached_property
    def weights_hash(self) -> str:
        """Hash of the base model for results that are kept."""
        return weights_hash(self.folder)

    def record(self) -> dict[str, Any]:
        """Return the entries of a record that identify the systems."""
        return {
            "base_fingerprint": self.fingerprint,
            "adapters": {
                name: {"path": str(adapter.path), "hash": adapter_hash(adapter)}
                for name, adapter in self.adapters.items()
            },
        }

    def notes(self) -> list[str]:
        """Return all notes on the adapters, such as on the base model they were trained on."""
        return [
            *(note for adapter in self.adapters.values() for note in adapter.notes),
            *notes_on_base(self.adapters, self.base, self.fingerprint),
            *notes_on_revision(self.adapters, self.base, self.revision),
            *notes_on_names(self.adapters, self.base),
            *self.stack_notes(),
            *self.tokenizer_notes(),
        ]

    def stack_notes(self) -> list[str]:
        """Return notes on adapters that were trained on others but are used without them."""
        return [
            note
            for adapter in self.adapters.values()
            for note in notes_on_stack([adapter], {adapter.weights_hash: [1.0]})
        ]

    def tokenizer_notes(self) -> list[str]:
        """Return notes on adapters with a different tokenizer or chat template in their folder."""
        others = {name: self._differences(adapter) for name, adapter in self.adapters.items()}
        return [
            f"the folder of {name} has a different {' and '.join(found)} than {self.base}, and the "
            "base model's is used; to use the adapter's: --tokenizer "
            f"{self.adapters[name].weights_path.parent}"
            for name, found in others.items()
            if found
        ]

    def _differences(self, adapter: Adapter) -> list[str]:
        folder = adapter.weights_path.parent
        if not (folder / "tokenizer_config.json").is_file() or folder == self.folder:
            return []
        try:
            own = load_tokenizer(folder, ModelSettings())
        except AdaptermixError:  # it would not be used
            return []
        pairs = {"vocabulary": (own.get_vocab(), self.tokenizer.get_vocab())}
        if self.has_own_template:
            pairs["chat template"] = (own.chat_template, self.tokenizer.chat_template)
        return [what for what, (one, other) in pairs.items() if one != other]


def open_systems(
    settings: ModelSettings, adapters: Mapping[str, Adapter], *, has_base: bool = True
) -> Systems:
    """Locate the base model, and check that adapters fit it.

    Without torch, for example if servers decode, only the names and shapes in the base model's
    files are checked.

    Raises:
        ArtifactError: The model or tokenizer cannot be used, or an adapter does not fit.
        ResourceError: The model cannot be fetched from the Hub.
    """
    folder = locate_model(settings)
    check_depth(folder)
    shapes = in_model = weight_shapes(folder)
    empty = None
    if all(find_spec(name) is not None for name in ("torch", "peft")):
        empty = empty_model(folder, settings)
        in_model = {name: tuple(weight.shape) for name, weight in empty.state_dict().items()}
        _check_weights(folder, shapes, in_model)
        shapes = {**shapes, **in_model}
    named = {name: with_names_of(adapter, in_model) for name, adapter in adapters.items()}
    for name, adapter in adapters.items():
        _check_vocabulary(named[name], shapes, settings.model)
        check_fits(adapter, shapes, settings.model)
        if empty is not None:
            _check_config(named[name], empty)
    tokenizer = load_tokenizer(folder, settings)
    is_own = getattr(settings, "chat_template", None) is None  # prompts may overwrite it
    return Systems(settings.model, folder, tokenizer, named, has_base, settings.revision, is_own)


def _check_weights(
    folder: Path, on_disk: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Check that files and config agree; skip quantized models, whose shapes differ."""
    if quantization_of(folder) is not None:
        return
    for name, shape in on_disk.items():
        if shapes.get(name, shape) != shape:
            raise ArtifactError(
                f"{folder}: '{name}' is {by(shape)} in its files, but config.json says "
                f"{by(shapes[name])}"
            )


def _check_vocabulary(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], base: str) -> None:
    """Reject an adapter that was trained on resized embeddings."""
    for name in adapter.saved:
        own, expected = adapter.saved_spec(name).shape, shapes.get(name)
        if expected is not None and own != expected:
            raise ArtifactError(
                f"{adapter.path}: '{name}' is {by(own)}, but {base} has {by(expected)}: the "
                "vocabulary was resized before the adapter was trained",
                hint="resize the base model in the same way (resize_token_embeddings), save "
                "it with the adapter's tokenizer, and pass that folder as --model",
            )


def _check_config(adapter: Adapter, empty: "PreTrainedModel") -> None:
    """Inject an adapter into the empty model with PEFT, as will be done with the real one.

    If the model has other modules in memory than in its files, such as fused experts, PEFT
    converts the adapter when it is loaded. This cannot be checked here.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    modules = dict(empty.named_modules())
    if "target_modules" not in adapter.config or not modules.keys() >= set(adapter.modules):
        return
    given = staged_config(adapter)
    with (
        opening(f"{adapter.path}: PEFT cannot use the adapter's config"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # several adapters in one model are intended
        config = LoraConfig.from_peft_type(**given)
        inject_adapter_in_model(config, empty, adapter_hash(adapter), low_cpu_mem_usage=True)
    for module in adapter.modules:
        if not isinstance(empty.get_submodule(module), LoraLayer):
            raise ArtifactError(
                f"{adapter.path}: the file has an update of '{module}', but target_modules in "
                "the config does not include it"
            )
