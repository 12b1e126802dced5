"""The GGUF format, for llama.cpp and Ollama.

A LoRA file holds the base model's architecture, one alpha, and two tensors for every updated weight
W: ``W.lora_a`` [rank in] and ``W.lora_b`` [out rank]. llama.cpp adds alpha / rank * B A, with the
rank of the tensors. The weight names come from the package gguf.

For some architectures, llama.cpp stores the rows of the query and key projections in a different
order than transformers, because it applies rotary embeddings differently. The rows of B follow it.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from adaptermix.adapters.names import core
from adaptermix.errors import ArtifactError, require_extra
from adaptermix.export.report import Plan
from adaptermix.export.source import Source
from adaptermix.files.tensors import DTYPES
from adaptermix.tables import number_of

# By the config's model_type: the name of the architecture, and whether the rows of the query and
# key projections are reordered. As in llama.cpp's folder conversion at commit 0274f0f.
_ARCHITECTURES = {
    "llama": ("llama", True),
    "mistral": ("llama", True),
    "mixtral": ("llama", True),
    "granite": ("granite", True),
    "olmo": ("olmo", True),
    "qwen2": ("qwen2", False),
    "qwen2_moe": ("qwen2moe", False),
    "qwen3": ("qwen3", False),
    "qwen3_moe": ("qwen3moe", False),
    "gemma": ("gemma", False),
    "gemma2": ("gemma2", False),
    "gemma3": ("gemma3", False),
    "gemma3_text": ("gemma3", False),
    "olmo2": ("olmo2", False),
}
_FILE = "adapter.gguf"
_MODELFILE = """\
# For Ollama: ollama create {name} -f Modelfile
# The base model, {base}, as a GGUF file. llama.cpp converts the model's folder:
#   python convert_hf_to_gguf.py FOLDER --outfile base.gguf
# The name of the same model in Ollama's library works as well.
FROM ./base.gguf
ADAPTER ./{file}
"""


def plan_gguf(source: Source) -> Plan:
    """Determine the tensors' names in GGUF, and their common alpha.

    Raises:
        ArtifactError: The name of the architecture or of a module in GGUF is unknown.
        ResourceError: The package gguf is not installed.
    """
    require_extra("gguf")
    kind = source.config.get("model_type")
    if kind not in _ARCHITECTURES:
        raise ArtifactError(
            f"{source.base}: export to GGUF does not support models of type '{kind}'",
            hint="supported types are "
            + ", ".join(_ARCHITECTURES)
            + "; for others, fold the adapter "
            "into the model with merge --into, and convert that with convert_hf_to_gguf.py",
        )
    architecture, _ = _ARCHITECTURES[kind]
    names = _names(source, architecture)
    alphas = {module: spec.scaling * spec.rank for module, spec in source.specs.items()}
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    others = sum(value != alpha for value in alphas.values())
    return Plan(
        {"architecture": architecture, "alpha": alpha},
        {_FILE: "for llama.cpp: --lora", "Modelfile": "for Ollama: ollama create"},
        [f"rescaled B in {number_of(others, 'module')} with another alpha"] if others else [],
        partial(_write, source, names, alpha, alphas),
    )


def _names(source: Source, architecture: str) -> dict[str, str]:
    """Return the name of every module's weight in a GGUF file of the base model."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    number = next(n for n, name in MODEL_ARCH_NAMES.items() if name == architecture)
    known = get_tensor_name_map(number, source.depth)
    names = {}
    for module in source.adapter.modules:
        rest = core(module)
        is_head = rest == "lm_head"
        name = known.get_name(rest if is_head else f"model.{rest}")
        if name is None:
            raise ArtifactError(
                f"{source.adapter.path}: {module} has no name in GGUF files of {architecture} "
                f"with {source.depth} blocks"
            )
        if is_head and (source.tied or architecture.startswith("gemma")):
            raise ArtifactError(
                f"{source.adapter.path}: {module} has no weight of its own in a GGUF file of "
                f"{source.base}, because its input and output embeddings are tied"
            )
        names[module] = f"{name}.weight"
    return names


def _write(
    source: Source, names: dict[str, str], alpha: float, alphas: dict[str, float], folder: Path
) -> None:
    """Write the GGUF file, with one module in memory at a time, and the Modelfile."""
    import gguf

    architecture, reordered = _ARCHITECTURES[source.config["model_type"]]
    kinds = {
        DTYPES["F32"]: (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
        DTYPES["F16"]: (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
        DTYPES["BF16"]: (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    }
    tensor_type, file_type = kinds[source.dtype]
    writer = gguf.GGUFWriter(folder / _FILE, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(source.name)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, source.base.rstrip("/").rpartition("/")[2])
    writer.add_file_type(file_type)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for module, spec in source.specs.items():
        shapes = {"a": (spec.rank, spec.in_features), "b": (spec.out_features, spec.rank)}
        for side, shape in shapes.items():
            size = int(np.prod(shape)) * source.dtype.itemsize
            name = f"{names[module]}.lora_{side}"
            writer.add_tensor_info(name, shape, source.dtype, size, tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for module in source.adapter.modules:
        a, b = source.factors(module, alphas[module] / alpha)
        if reordered:
            b = _reordered(b, module, source.config)
        for factor in (a, b):
            writer.write_tensor_data(np.ascontiguousarray(factor).view(np.uint8))
    writer.close()
    text = _MODELFILE.format(name=source.name, base=source.base, file=_FILE)
    (folder / "Modelfile").write_text(text, encoding="utf-8")


def _reordered(b: np.ndarray, module: str, config: dict[str, Any]) -> np.ndarray:
    """Interleave the two halves of every head's rows of B, in query and key projections.

    transformers rotates the first half of a head with the second half, llama.cpp adjacent rows.
    """
    heads = config.get("num_attention_heads")
    if module.endswith(".k_proj"):
        heads = config.get("num_key_value_heads") or heads
    elif not module.endswith(".q_proj"):
        return b
    if not isinstance(heads, int) or heads < 1 or len(b) % (2 * heads):
        raise ArtifactError(f"{module}: {len(b)} rows cannot be divided among {heads} heads")
    return b.reshape(heads, 2, -1, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
