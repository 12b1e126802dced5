"""The format of mlx-lm, for Apple silicon.

An update is ``scale * lora_a @ lora_b``, [in rank] and [rank out]. All modules share one rank and
one scale, and all blocks share one list of modules. A module without tensors keeps its initial
``lora_b`` of zeros, which changes nothing.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from adaptermix.adapters.foreign import MLX_WEIGHTS
from adaptermix.adapters.format import CONFIG_FILE
from adaptermix.adapters.names import core
from adaptermix.errors import ArtifactError
from adaptermix.export.report import Plan
from adaptermix.export.source import Source
from adaptermix.files.outputs import write_json
from adaptermix.files.tensors import TensorSpec, write_tensors
from adaptermix.tables import number_of

_IN_BLOCK = re.compile(r"layers\.\d+\.(?P<key>.+)")  # in the config, names are relative to blocks
# Keys in the configs of models whose language model is a part of mlx-lm's class.
_OF_SEVERAL_MODES = {"text_config", "vision_config"}
# Types whose decoder has another name than "model" in mlx-lm.
_BACKBONES = ("mamba", "falcon_mamba", "mamba2", "nemotron_h")


def plan_mlx(source: Source) -> Plan:
    """Determine the modules' names in mlx-lm, and their common rank and scale.

    Raises:
        ArtifactError: A module is neither in a decoder block nor an LM head of its own.
    """
    names = {module: _name(source, module) for module in source.adapter.modules}
    specs = source.specs.values()
    rank = max(spec.rank for spec in specs)
    scale = Counter(spec.scaling for spec in specs).most_common(1)[0][0]
    notes = []
    if narrow := sum(spec.rank < rank for spec in specs):
        notes.append(
            f"padded {number_of(narrow, 'module')} of lower rank with zeros to rank {rank}"
        )
    if others := sum(spec.scaling != scale for spec in specs):
        notes.append(f"rescaled lora_b in {number_of(others, 'module')} with another scale")
    return Plan(
        {"rank": rank, "scale": scale},
        {MLX_WEIGHTS: "for mlx-lm: --adapter-path, the folder", CONFIG_FILE: "its config"},
        notes,
        partial(_write, source, names, rank, scale),
    )


def _name(source: Source, module: str) -> str:
    """Return a module's name in mlx-lm's class of the base model, whatever it is in the adapter."""
    rest = core(module)
    outer = "language_model." if source.config.keys() & _OF_SEVERAL_MODES else ""
    if rest == "lm_head":
        if source.tied:
            raise ArtifactError(
                f"{source.adapter.path}: {module} does not exist in mlx-lm's model of "
                f"{source.base}, because its input and output embeddings are tied"
            )
        return outer + rest
    if not _IN_BLOCK.fullmatch(rest):
        raise ArtifactError(
            f"{source.adapter.path}: {module} is not in a decoder block; mlx-lm loads only "
            "LoRA on decoder blocks"
        )
    decoder = "backbone" if source.config.get("model_type") in _BACKBONES else "model"
    return f"{outer}{decoder}.{rest}"


def _write(source: Source, names: dict[str, str], rank: int, scale: float, folder: Path) -> None:
    specs = source.specs
    layout = {}
    for module, name in names.items():
        spec = specs[module]
        layout[f"{name}.lora_a"] = TensorSpec(source.dtype, (spec.in_features, rank))
        layout[f"{name}.lora_b"] = TensorSpec(source.dtype, (rank, spec.out_features))

    def tensors() -> Iterator[np.ndarray]:
        for module in names:
            a, b = source.factors(module, specs[module].scaling / scale)
            missing = rank - len(a)
            yield np.pad(a.T, ((0, 0), (0, missing)))
            yield np.pad(b.T, ((0, missing), (0, 0)))

    places = [(name, _IN_BLOCK.search(name)) for name in names.values()]
    write_tensors(folder / MLX_WEIGHTS, layout, tensors(), lambda: {"format": "mlx"})
    config = {
        "fine_tune_type": "lora",
        "model": source.base,
        "num_layers": source.depth,
        "lora_parameters": {
            "rank": rank,
            "scale": scale,
            "dropout": 0.0,
            "keys": sorted({found["key"] if found else name for name, found in places}),
        },
    }
    write_json(folder / CONFIG_FILE, config)
