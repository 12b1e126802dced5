"""Write adapters: tensors, config, run record and model card."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adaptermix.adapters.adapter import Adapter, adapter_hash
from adaptermix.adapters.card import FILE_NAME as CARD_FILE
from adaptermix.adapters.card import can_write_card, card_path, model_card
from adaptermix.adapters.deltas import LoraUpdate, as_dtype
from adaptermix.adapters.experts import Joining
from adaptermix.adapters.format import (
    CONFIG_FILE,
    CONFIG_KEY,
    RECORD_FILE,
    RECORD_KEY,
    TARGETING,
    WEIGHTS_FILE,
    UpdateSpec,
    describe_config,
    layout_of,
    saved_name,
    spec_of,
    without_order,
)
from adaptermix.files.outputs import check_output, whole_output, write_json
from adaptermix.files.tensors import TensorFile, TensorSpec, write_tensors


class AdapterWeights(NamedTuple):
    """The weights of an adapter that is written while it is computed.

    Attributes:
        specs: Specs of the updates by module.
        updates: The updates, in the order of ``specs``.
        saved: Whole weights by their names in the base model, each as its spec and a function that
            reads it.
    """

    specs: Mapping[str, UpdateSpec]
    updates: Iterable[LoraUpdate]
    saved: Mapping[str, tuple[TensorSpec, Callable[[], np.ndarray]]] = {}


def write_adapter(
    path: Path,
    updates: Mapping[str, LoraUpdate],
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    *,
    force: bool = False,
) -> None:
    """Write an adapter atomically, as a ``.safetensors`` file or else as a PEFT directory.

    Raises:
        ArtifactError: The output exists and ``force`` is not set.
    """
    specs = {module: spec_of(update) for module, update in updates.items()}
    weights = AdapterWeights(specs, updates.values())
    stream_adapter(path, weights, config, lambda: record, force=force)


def stream_adapter(
    path: Path,
    weights: AdapterWeights,
    config: Mapping[str, Any],
    record: Callable[[], Mapping[str, Any]],
    *,
    force: bool = False,
) -> None:
    """Write an adapter while it is computed, with few modules in memory at a time.

    An adapter with a run record gets a model card: in its folder, or next to its file as
    ``NAME.README.md``. There, a card that a person wrote is kept; one of adaptermix is replaced.

    Args:
        path: A ``.safetensors`` file, or else a new PEFT directory.
        weights: The adapter's weights.
        config: PEFT's LoRA config.
        record: Returns the run record; called again after the tensors are written.
        force: Whether to replace an existing output.

    Raises:
        ArtifactError: The output exists and ``force`` is not set.
    """
    check_output(path, force)
    specs, updates, saved = weights
    config = without_order(config, specs)
    joining = Joining({module: spec.experts for module, spec in specs.items()})
    layout = layout_of(specs, joining)
    layout |= {saved_name(name, specs): spec for name, (spec, _) in saved.items()}

    def tensors() -> Iterator[np.ndarray]:
        for update in joining.join(updates):
            yield from update.parts
        for _, read in saved.values():
            yield read()

    def metadata() -> dict[str, str]:
        return {
            "format": "pt",
            CONFIG_KEY: json.dumps(config, sort_keys=True),
            RECORD_KEY: json.dumps(record(), sort_keys=True, default=str),
        }

    with whole_output(path) as unfinished:
        if path.suffix == ".safetensors":
            write_tensors(unfinished, layout, tensors(), metadata)
        else:
            unfinished.mkdir()
            write_tensors(unfinished / WEIGHTS_FILE, layout, tensors(), metadata)
            write_json(unfinished / CONFIG_FILE, config)
            write_json(unfinished / RECORD_FILE, record())
            _write_card(unfinished / CARD_FILE, path, config, record())
    if path.suffix == ".safetensors" and can_write_card(card_path(path)):
        _write_card(card_path(path), path, config, record())


def _write_card(
    card: Path, adapter: Path, config: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    """Write the card of an adapter, if it has a run record."""
    if record:
        with whole_output(card) as unfinished:
            unfinished.write_text(model_card(adapter, config, record), encoding="utf-8")


def copy_adapter(adapter: Adapter, folder: Path) -> None:
    """Write an adapter as a new PEFT directory, with a byte-for-byte copy of its weights file.

    If PEFT cannot read that file, or its config is elsewhere, the directory is that of
    ``stage_adapter``, with the same tensors.
    """
    source, config = adapter.weights_path, adapter.config
    is_peft = _has_pefts_names(adapter)
    is_folder = source.name == WEIGHTS_FILE
    if is_peft and is_folder and _content(source.with_name(CONFIG_FILE)) == config:
        folder.mkdir()
        for name in (WEIGHTS_FILE, CONFIG_FILE, RECORD_FILE, CARD_FILE):
            if (source.parent / name).is_file():
                shutil.copyfile(source.parent / name, folder / name)
    elif is_peft and adapter.record:  # adaptermix's single file: its header has everything
        folder.mkdir()
        shutil.copyfile(source, folder / WEIGHTS_FILE)
        write_json(folder / CONFIG_FILE, config)
        write_json(folder / RECORD_FILE, adapter.record)
        _write_card(folder / CARD_FILE, folder, config, adapter.record)
    else:
        stage_adapter(adapter, folder.parent).rename(folder)


def _has_pefts_names(adapter: Adapter) -> bool:
    """Whether config and weights file have the keys and names that PEFT itself writes."""
    is_converted = adapter.own_names or not isinstance(adapter.file, TensorFile)
    if is_converted or not {"peft_type", "target_modules"} <= adapter.config.keys():
        return False
    specs = {module: adapter.spec(module) for module in adapter.modules}
    names = layout_of(specs, Joining({module: spec.experts for module, spec in specs.items()}))
    return adapter.file.specs.keys() == {*names, *(saved_name(n, specs) for n in adapter.saved)}


def _content(path: Path) -> Any:
    """Return the content of a JSON file, or None if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def staged_config(adapter: Adapter) -> dict[str, Any]:
    """Return the config with which PEFT applies an adapter to its modules."""
    config = {"peft_type": "LORA", **adapter.config}  # PEFT requires the type
    if "target_modules" in config and not adapter.own_names:
        return config
    specs = {module: adapter.spec(module) for module in adapter.modules}
    described = describe_config(specs, adapter.base, all_layers=False)
    if "target_modules" not in config:  # a bare file, given with its rank and alpha
        return described
    # Its own config has other module names.
    return config | {key: described.get(key) for key in TARGETING}


def stage_adapter(adapter: Adapter, folder: Path) -> Path:
    """Write an adapter as a PEFT directory named by a content hash, for PEFT and vLLM to load.

    vLLM caches by path, so a changed adapter must never reuse a path.
    """
    staged = folder / adapter_hash(adapter)[:16]
    if not staged.exists():
        specs = {module: adapter.spec(module) for module in adapter.modules}
        updates = (as_dtype(u, specs[module].dtype) for module, u in adapter.updates())
        saved = {
            name: (adapter.saved_spec(name), partial(adapter.saved_weight, name))
            for name in adapter.saved
        }
        weights = AdapterWeights(specs, updates, saved)
        stream_adapter(staged, weights, staged_config(adapter), dict)
    return staged
