"""Fold a merge of adapters into a full model, shard by shard, with bounded memory."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.deltas import LoraUpdate, is_finite, widened
from adaptermix.adapters.experts import Place, is_transposed, places_of
from adaptermix.adapters.format import FLOAT_DTYPES, RECORD_FILE, RECORD_KEY
from adaptermix.adapters.matching import (
    check_fits,
    notes_on_stated_revisions,
    refuse_other_base,
    with_names_of,
)
from adaptermix.adapters.names import is_conv1d, is_embedding_name
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.files.outputs import whole_output, write_json
from adaptermix.files.tensors import TensorFile, write_tensors
from adaptermix.merging.merge import check_out, merge_record, merge_report
from adaptermix.merging.plan import MergePlan, Tally, open_adapters, plan_merge, renamed
from adaptermix.merging.report import MergeReport
from adaptermix.merging.weights import read_weights
from adaptermix.models.files import (
    by,
    fingerprint,
    is_tied,
    locate_model,
    quantization_of,
    read_base_config,
    text_model_type,
    weight_files,
    weight_shapes,
)
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.shared import ModelSettings

_ROWS = 1024  # rows of a weight that are converted to float32 at a time
_OTHER_BASE = "fold into the model it was trained on, or pass --ignore-base if you are sure"
_TEMPLATES = "additional_chat_templates"  # folder of chat templates besides the default
_OTHER_WEIGHTS = (
    *(".safetensors", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf", ".onnx", ".h5"),
    ".msgpack",
)


def merge_into(
    paths: Sequence[Path], settings: MergeSettings, *, force: bool = False, dry_run: bool = False
) -> MergeReport:
    """Add the merge of adapters to the base model's weights, and write a model folder.

    Every weight W becomes W + scaling B A, computed in float32 and rounded once to the base
    model's dtype. Weights without an update are copied bit for bit.

    Raises:
        ConfigError: As for ``merge``.
        ArtifactError: As for ``merge``, or the adapters do not fit the base model.
    """
    if settings.out.suffix == ".safetensors":
        raise ConfigError(
            f"--out {settings.out}: a full model is written as a folder, not a single file",
            hint="name a new folder with -o",
        )
    check_out(paths, settings, force)
    folder = locate_model(ModelSettings(model=str(settings.into)))
    _refuse_quantized(folder)
    shapes = weight_shapes(folder)
    opened = open_adapters(paths, settings)
    adapters = [with_names_of(adapter, shapes) for adapter in opened]
    notes = _check_base(adapters, shapes, folder, settings)
    plan = plan_merge(opened, read_weights(len(paths), settings), _in_float32(settings))
    plan = renamed(plan, adapters)  # planned by the names that a merged adapter would have
    files = {name: file for file in map(TensorFile, weight_files(folder)) for name in file.specs}
    plan = replace(plan, base_weight=lambda name: files[name].tensor(name))
    model_type = text_model_type(folder)
    if is_tied(folder):
        _refuse_tied(plan, str(settings.into), model_type)
    _check_whole_weights(plan, shapes, str(settings.into))
    folding = _Folding(
        plan,
        {name: read for name, (_, read) in plan.saved().items()},
        _experts(plan, shapes, model_type),
        _turned_modules(plan, shapes, folder),
        Tally(),
    )
    notes += [note for adapter in adapters for note in _notes_on_tokenizer(adapter, folder)]
    if dry_run:
        return _with_notes(merge_report(plan, settings, plan.try_out(), written=False), notes)
    with whole_output(settings.out) as out:
        out.mkdir()
        _copy_other_files(folder, out)
        for shard in weight_files(folder):
            _fold_shard(shard, out / shard.name, folding)
        report = _with_notes(merge_report(plan, settings, folding.tally, written=True), notes)
        write_json(out / RECORD_FILE, merge_record(plan, report))
    return report


def _copy_other_files(base: Path, out: Path) -> None:
    """Copy the files of a base model besides its weights, without an index of other files."""
    left: tuple[str, ...] = _OTHER_WEIGHTS
    if weight_files(base) == [base / "model.safetensors"]:
        left = (*left, ".safetensors.index.json")
    for path in sorted(base.iterdir()):
        if path.is_file() and not path.name.endswith(left):
            shutil.copyfile(path, out / path.name)
    if (base / _TEMPLATES).is_dir():
        shutil.copytree(base / _TEMPLATES, out / _TEMPLATES)


def _with_notes(report: MergeReport, notes: Sequence[str]) -> MergeReport:
    return replace(report, notes=[*report.notes, *notes])


def _notes_on_tokenizer(adapter: Adapter, base: Path) -> list[str]:
    """Note that an adapter's own vocabulary or chat template differs and is not written."""
    folder = adapter.weights_path.parent
    own, there = _tokenizer_of(folder), _tokenizer_of(base)
    found = [what for what, value in own.items() if value and value != there.get(what)]
    if not found or folder == base:
        return []
    return [
        f"the folder of {adapter.path} has a different {' and '.join(found)} than the base model, "
        "and the base model's is written; to use the adapter's, copy it into the new folder"
    ]


def _tokenizer_of(folder: Path) -> dict[str, Any]:
    """Return a folder's vocabulary and chat template, if their files are readable."""
    found: dict[str, Any] = {}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if name == "tokenizer.json" and isinstance(content, dict):
            model = content.get("model")
            vocabulary = model.get("vocab") if isinstance(model, dict) else None
            found["vocabulary"] = (vocabulary, content.get("added_tokens"))
        elif isinstance(content, dict):
            found["chat template"] = content.get("chat_template")
    template = folder / "chat_template.jinja"
    if template.is_file():
        found["chat template"] = template.read_text(encoding="utf-8", errors="replace")
    return found


def _in_float32(settings: MergeSettings) -> MergeSettings:
    """Keep the merge in float32, so that only the final sum is rounded to the base's dtype."""
    if settings.out_dtype:
        raise ConfigError(
            "--out-dtype cannot be combined with --into: the output keeps the "
            "precision of the base model"
        )
    return settings.model_copy(update={"out_dtype": "float32", "compact": True})


def _refuse_quantized(folder: Path) -> None:
    """Refuse a quantized base: its files hold no matrices of the layers' shapes."""
    method = quantization_of(folder)
    if method is None:
        return
    raise ArtifactError(
        f"{folder} is quantized ({method}); adapters cannot be folded into a quantized model",
        hint="fold into the model it was quantized from",
    )


def _check_base(
    adapters: Sequence[Adapter],
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
    settings: MergeSettings,
) -> list[str]:
    """Refuse a base that is not the adapters'; return notes on one that may not be."""
    base = str(settings.into)
    notes = notes_on_stated_revisions(adapters, base)
    own = fingerprint(folder)
    for adapter in adapters:
        check_fits(adapter, shapes, base)
        if not settings.ignore_base:
            notes += refuse_other_base(adapter, base, own, _OTHER_BASE)
    return notes


def _check_whole_weights(plan: MergePlan, shapes: Mapping[str, tuple[int, ...]], base: str) -> None:
    """Check that the base has the weights to replace, and the weights and biases to add to."""
    wanted: dict[str, tuple[int, ...] | None] = {  # a tied head is not saved
        f"{module}.weight": None for module, spec in plan.specs.items() if spec.experts < 2
    }
    wanted |= {name: spec.shape for name, (spec, _) in plan.saved().items()}
    wanted |= {
        f"{module}.bias": (spec.out_features,)
        for module, spec in plan.specs.items()
        if plan.brings_bias(module)
    }
    for name, shape in wanted.items():
        if name not in shapes:
            raise ArtifactError(f"{base} has no weight '{name}', which the adapters change")
        if shape is not None and shapes[name] != shape:
            raise ArtifactError(
                f"'{name}' is {by(shape)} in the adapters, but {base} has {by(shapes[name])}",
                hint="if the vocabulary was resized, merge with PEFT's merge_and_unload",
            )


def _refuse_tied(plan: MergePlan, base: str, model_type: str | None) -> None:
    """Refuse updates of tied embeddings: folding would change the output embeddings as well."""
    saved = [name.rpartition(".")[0] for name in plan.saved()]
    for module in (*plan.specs, *saved):
        is_embedding = module in plan.specs and plan.specs[module].is_embedding
        if is_embedding or is_embedding_name(module, model_type):
            raise ArtifactError(
                f"{base} ties its input and output embeddings, but the adapters change '{module}'",
                hint="write an adapter instead, without --into",
            )


class _Expert(NamedTuple):
    """An update of a part of an expert weight."""

    module: str
    place: Place
    is_transposed: bool


@dataclass(frozen=True)
class _Folding:
    """The changes to the weights of a base model.

    Attributes:
        plan: The merge.
        saved: Functions that read replacement weights, by weight name.
        experts: Updates of fused experts, by weight name.
        turned: Modules whose weights the base stores as [in out].
        tally: Energies summed over the modules.
    """

    plan: MergePlan
    saved: Mapping[str, Callable[[], np.ndarray]]
    experts: Mapping[str, list[_Expert]]
    turned: set[str]
    tally: Tally


def _experts(
    plan: MergePlan, shapes: Mapping[str, tuple[int, ...]], model_type: str | None
) -> dict[str, list[_Expert]]:
    """Return the updates by expert weight, for experts that are targeted as one parameter."""
    found: dict[str, list[_Expert]] = {}
    for module, spec in plan.specs.items():
        if spec.experts < 2:
            continue
        for place in places_of(module, spec.out_features, shapes):
            shape, update = shapes[place.weight][-2:], (spec.out_features, spec.in_features)
            turned = place.expert is not None and is_transposed(shape, update, model_type)
            found.setdefault(place.weight, []).append(_Expert(module, place, turned))
    return found


def _turned_modules(plan: MergePlan, shapes: Mapping[str, tuple[int, ...]], base: Path) -> set[str]:
    """Return the modules whose weights the base stores as [in out].

    The adapters' ``fan_in_fan_out`` counts only for models with their own code: PEFT ignores it if
    it does not fit the class of the layer.
    """
    turned = set()
    model_type = text_model_type(base)
    given = plan.is_transposed and "auto_map" in read_base_config(base)
    for module, spec in plan.specs.items():
        update = (spec.out_features, spec.in_features)
        if spec.is_embedding:
            turned.add(module)
        elif update[0] != update[1]:
            if shapes.get(f"{module}.weight") == update[::-1]:
                turned.add(module)
        elif is_conv1d(module, model_type, given):  # a square shape is ambiguous
            turned.add(module)
    return turned


def _fold_shard(shard: Path, out: Path, folding: _Folding) -> None:
    file = TensorFile(shard)
    hashed = blake3()

    def metadata() -> dict[str, str]:
        # A model's fingerprint reads headers whole, but only samples of the weights, which two
        # merges may have in common.
        record = {
            "folded": [str(adapter.path) for adapter in folding.plan.adapters],
            "weights": folding.plan.weighting.weights,
            "blake3": hashed.hexdigest(),
        }
        return {**file.metadata, "format": "pt", RECORD_KEY: json.dumps(record)}

    def known(tensor: np.ndarray) -> np.ndarray:
        hashed.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
        return tensor

    folded = (
        _with_experts(file, name, folding)
        if name in folding.experts
        else _changed(file, name, folding)
        for name in file.specs
    )
    write_tensors(out, file.specs, map(known, folded), metadata)


@np.errstate(over="ignore")  # overflow is checked at the end
def _with_experts(file: TensorFile, name: str, folding: _Folding) -> np.ndarray:
    """Return the weight of one expert, or of all stacked experts, with the updates added."""
    weight = file.tensor(name)
    _refuse_integers(name, weight.dtype)
    folded = weight.copy()
    for module, (_, rows, expert), turned in folding.experts[name]:
        update = folding.plan.update(module, folding.tally if rows.start == 0 else Tally())
        update = replace(update, b=update.b[rows])
        part = () if expert is None else expert
        folded[part] = fold(weight[part], _turned(update) if turned else update)
    return _checked(name, folded)


@np.errstate(over="ignore")  # overflow is checked at the end
def _changed(file: TensorFile, name: str, folding: _Folding) -> np.ndarray:
    """Return a weight of the result: replaced, updated, or unchanged."""
    weight, saved = file.tensor(name), folding.saved.get(name)
    if saved:
        weight = saved().astype(weight.dtype)
    module, _, kind = name.rpartition(".")
    is_updated = module in folding.plan.specs and kind in ("weight", "bias")
    if is_updated:
        weight = _add(weight, name, folding)
    return _checked(name, weight) if is_updated or saved else weight


def _checked(name: str, weight: np.ndarray) -> np.ndarray:
    if not is_finite(weight):
        raise ArtifactError(
            f"{name}: the merged weight is too large for {weight.dtype}, or the base model's "
            "weight is not finite"
        )
    return weight


def _refuse_integers(name: str, dtype: np.dtype) -> None:
    if dtype not in FLOAT_DTYPES:
        raise ArtifactError(
            f"{name} has the type {dtype}; adapters cannot be folded into a quantized model",
            hint="fold into the model it was quantized from",
        )


def _turned(update: LoraUpdate) -> LoraUpdate:
    return LoraUpdate(update.b.T, update.a.T, update.scaling, update.bias)


def _add(weight: np.ndarray, name: str, folding: _Folding) -> np.ndarray:
    _refuse_integers(name, weight.dtype)
    module, _, kind = name.rpartition(".")
    update = folding.plan.update(module, folding.tally if kind == "weight" else Tally())
    if kind == "bias":
        return fold_bias(weight, update)
    return fold(weight, _turned(update) if module in folding.turned else update)


def fold(weight: np.ndarray, update: LoraUpdate) -> np.ndarray:
    """Return W + scaling B A in W's dtype, summed in float32 or wider, in blocks of rows.

    Args:
        weight: [out in].
        update: An update of the same shape.
    """
    folded = np.empty_like(weight)
    a = widened(update.a)
    for start in range(0, weight.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        folded[rows] = widened(weight[rows]) + update.scaling * (widened(update.b[rows]) @ a)
    return folded


def fold_bias(bias: np.ndarray, update: LoraUpdate) -> np.ndarray:
    """Return the bias plus scaling times the update's bias, if any, in the bias's dtype."""
    if update.bias is None:
        return bias
    return (widened(bias) + update.scaling * widened(update.bias)).astype(bias.dtype)
