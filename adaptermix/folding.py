"""Fold a merge of adapters into a full model, shard by shard, in bounded memory."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from adaptermix.adapters import FLOAT_DTYPES, RECORD_FILE, RECORD_KEY, check_fits
from adaptermix.config import MergeSettings, ModelSettings
from adaptermix.deltas import LoraUpdate, widened
from adaptermix.errors import ArtifactError
from adaptermix.merging import (
    MergePlan,
    MergeReport,
    Tally,
    check_out,
    merge_record,
    merge_report,
    open_adapters,
    plan_merge,
    read_weights,
)
from adaptermix.models import locate_model, weight_shapes
from adaptermix.outputs import TensorSpec, whole_output, write_json, write_tensors

_ROWS = 1024  # rows of a weight that are in float32 at a time
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")


def merge_into(
    paths: Sequence[Path], settings: MergeSettings, *, force: bool = False, dry_run: bool = False
) -> MergeReport:
    """Write the base model with the merge of adapters added to its weights, as a model folder.

    Every weight W becomes W + scaling B A, computed in float32 and rounded once to the dtype of
    the base; weights without an update are copied bit by bit.

    Raises:
        ConfigError: As ``merge``.
        ArtifactError: As ``merge``, or a base model that the adapters do not fit.
    """
    check_out([*paths, Path(str(settings.into))], settings.out, force)
    if settings.out.suffix == ".safetensors":
        raise ArtifactError(f"--out {settings.out}: a full model is a folder, not one file")
    adapters = open_adapters(paths, settings)
    folder = locate_model(ModelSettings(model=str(settings.into)))
    shapes = weight_shapes(folder)
    for adapter in adapters:
        check_fits(adapter, shapes, str(settings.into))
    plan = plan_merge(adapters, read_weights(len(paths), settings), settings)
    _check_whole(plan, shapes, str(settings.into))
    tally = Tally()
    if dry_run:
        return merge_report(plan, settings, tally, written=False)
    with whole_output(settings.out) as out:
        out.mkdir()
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.endswith(_OTHER_WEIGHTS):
                shutil.copyfile(path, out / path.name)
        for shard in sorted(folder.glob("*.safetensors")):
            _fold_shard(shard, out / shard.name, plan, tally)
        report = merge_report(plan, settings, tally, written=True)
        write_json(out / RECORD_FILE, merge_record(plan, report))
    return report


def _check_whole(plan: MergePlan, shapes: Mapping[str, tuple[int, ...]], base: str) -> None:
    wanted = [_base_name(name) for name in plan.saved()]
    wanted += [f"{module}.bias" for module, spec in plan.specs.items() if spec.has_bias]
    for name in wanted:
        if name not in shapes:
            raise ArtifactError(f"{base} has no weight '{name}' for the adapters to change")


def _base_name(name: str) -> str:
    """Return the base model's name of a whole weight that PEFT saved."""
    return name.replace(".base_layer.", ".")


def _fold_shard(shard: Path, out: Path, plan: MergePlan, tally: Tally) -> None:
    with safe_open(shard, framework="pt") as file:
        names = sorted(file.keys(), key=lambda name: name)
        specs = {}
        for name in names:
            part = file.get_slice(name)
            kind = FLOAT_DTYPES.get(part.get_dtype())
            dtype = file.get_tensor(name).dtype if kind is None else kind
            specs[name] = TensorSpec(dtype, tuple(part.get_shape()))
        metadata = {**(file.metadata() or {}), "format": "pt"}
        metadata[RECORD_KEY] = json.dumps({"folded": [str(a.path) for a in plan.adapters]})
        write_tensors(out, specs, _folded(file, names, plan, tally), lambda: metadata)


def _folded(file: Any, names: Sequence[str], plan: MergePlan, tally: Tally) -> Iterator[Tensor]:
    saved: dict[str, Callable[[], Tensor]] = {
        _base_name(name): read for name, (_, read) in plan.saved().items()
    }
    for name in names:
        weight: Tensor = file.get_tensor(name)
        if name in saved:
            weight = saved[name]().to(weight.dtype)
        module, _, kind = name.rpartition(".")
        if module in plan.specs and kind in ("weight", "bias"):
            weight = _add(weight, name, plan, tally)
        yield weight


def _add(weight: Tensor, name: str, plan: MergePlan, tally: Tally) -> Tensor:
    if weight.dtype not in FLOAT_DTYPES.values():
        raise ArtifactError(
            f"{name} has the type {weight.dtype}: a quantized model cannot take an update",
            hint="fold into the model before it was quantized",
        )
    module, _, kind = name.rpartition(".")
    update = plan.update(module, tally if kind == "weight" else Tally())
    if kind == "bias":
        return weight if update.bias is None else fold_bias(weight, update)
    if plan.specs[module].is_embedding or plan.config()["fan_in_fan_out"]:
        update = replace(update, a=update.b.mT, b=update.a.mT)
    return fold(weight, update)


def fold(weight: Tensor, update: LoraUpdate) -> Tensor:
    """Return W + scaling B A in W's dtype, summed in float32 or wider, some rows at a time.

    Args:
        weight: [out in].
        update: An update of the same shape.
    """
    folded = torch.empty_like(weight)
    a = widened(update.a)
    for start in range(0, weight.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        folded[rows] = widened(weight[rows]) + update.scaling * (widened(update.b[rows]) @ a)
    return folded


def fold_bias(bias: Tensor, update: LoraUpdate) -> Tensor:
    """Return the bias plus scaling times that of the update, in the bias' dtype."""
    added = torch.zeros_like(bias) if update.bias is None else update.bias
    return (widened(bias) + update.scaling * widened(added)).to(bias.dtype)
