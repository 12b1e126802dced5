"""Export an adapter for programs that do not read PEFT's format: llama.cpp, Ollama and mlx-lm.

The base model's weights are not needed. Its config gives the number of blocks, and the name of its
architecture in llama.cpp.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptermix.adapters.adapter import Adapter, adapter_hash, read_adapter
from adaptermix.adapters.format import RECORD_FILE
from adaptermix.adapters.matching import check_fits, refuse_other_base, with_common_names
from adaptermix.adapters.names import is_expert
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.export.report import ExportReport
from adaptermix.export.source import Source
from adaptermix.files.hub import fetch
from adaptermix.files.outputs import SINGLE_FILES, check_output, whole_output, write_json
from adaptermix.files.tensors import DTYPES
from adaptermix.models.files import (
    config_parts,
    fingerprint,
    is_tied,
    quantization_of,
    read_base_config,
    weight_shapes,
)
from adaptermix.settings.export import ExportSettings
from adaptermix.version import __version__

_OTHER_BASE = "name the model it was trained on with --model, or pass --ignore-base if you are sure"
_DTYPES = {"float32": DTYPES["F32"], "float16": DTYPES["F16"], "bfloat16": DTYPES["BF16"]}


def export(
    paths: Sequence[Path], settings: ExportSettings, *, force: bool = False, dry_run: bool = False
) -> ExportReport:
    """Export one adapter to a folder in another format.

    Raises:
        ConfigError: There are several adapters, or the base model is unknown.
        ArtifactError: The format cannot represent the adapter, or it does not fit its base model.
        ResourceError: The package that writes the format is not installed.
    """
    if len(paths) != 1:
        raise ConfigError(
            f"export takes one adapter, not {len(paths)}", hint="merge them first: adaptermix merge"
        )
    if settings.out.suffix in SINGLE_FILES:
        raise ConfigError(
            f"--out {settings.out}: export writes a folder, not a single file",
            hint="name a new folder with -o",
        )
    check_output(settings.out, force, [*paths, *settings.inputs()])
    source = _open(paths[0], settings)
    check_output(settings.out, force, [Path(source.base)])
    if settings.to == "gguf":
        from adaptermix.export.gguf import plan_gguf as plan
    else:
        from adaptermix.export.mlx import plan_mlx as plan  # type: ignore[assignment]
    planned = plan(source)
    report = ExportReport(
        out=str(settings.out),
        to=settings.to,
        adapter=str(source.adapter.path),
        base=source.base,
        modules=len(source.adapter.modules),
        parameters=sum(s.rank * (s.in_features + s.out_features) for s in source.specs.values()),
        dtype=str(source.dtype),
        details=planned.details,
        files=planned.files,
        written=not dry_run,
        notes=[*source.notes, *planned.notes],
    )
    if not dry_run:
        with whole_output(settings.out) as folder:
            folder.mkdir()
            planned.write(folder)
            write_json(folder / RECORD_FILE, _record(source, settings))
    return report


def _record(source: Source, settings: ExportSettings) -> dict[str, Any]:
    adapter = source.adapter
    return {
        "adaptermix": __version__,
        "command": "export",
        "sources": [{"path": str(adapter.path), "hash": adapter_hash(adapter)}],
        "base": source.base,
        "settings": settings.model_dump(mode="json", exclude={"out"}),
    }


def _open(path: Path, settings: ExportSettings) -> Source:
    """Open the adapter and its base model's config, and check that it can be exported."""
    read = read_adapter(path, rank=settings.source_rank, alpha=settings.source_alpha)
    (adapter,) = with_common_names([read])
    base = settings.model or adapter.base
    if not base:
        raise ConfigError(
            f"{path} does not name its base model", hint="name it with --model FOLDER_OR_NAME"
        )
    folder = Path(base) if Path(base).is_dir() else fetch(base, None, ("config.json",))
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder}: no config.json", hint="name the base model with --model")
    _refuse(adapter, settings.to)
    has_weights = any(folder.glob("*.safetensors"))
    if has_weights and quantization_of(folder) is None:  # else there are no matrices of its shapes
        check_fits(adapter, weight_shapes(folder), base)
    notes = list(adapter.notes)
    if not settings.ignore_base:
        own = fingerprint(folder) if has_weights else None
        notes += refuse_other_base(adapter, base, own, _OTHER_BASE)
    config = read_base_config(folder)
    merged = {**config, **config_parts(config)[0], "model_type": config.get("model_type")}
    dtype, tied = _DTYPES[settings.out_dtype], _is_tied(folder, merged)
    return Source(adapter, base, merged, dtype, tied, tuple(notes))


def _is_tied(folder: Path, config: dict[str, Any]) -> bool:
    if any(folder.glob("*.safetensors")):
        return is_tied(folder)
    return bool(config.get("tie_word_embeddings", False))


def _refuse(adapter: Adapter, to: str) -> None:
    """Refuse adapters that neither format can represent."""
    whole = [name for name in adapter.saved if not adapter.is_frozen(name)]
    if whole:
        raise _no_place(adapter, to, f"whole weights, such as {whole[0]}")
    for module in adapter.modules:
        spec = adapter.spec(module)
        if spec.experts > 1 or is_expert(module):
            raise _no_place(adapter, to, f"updates of single experts, such as {module}")
        if spec.is_embedding:
            raise _no_place(adapter, to, f"a LoRA on embeddings, {module}")
        if spec.has_bias:
            raise _no_place(adapter, to, f"a LoRA with a bias, such as that of {module}")


def _no_place(adapter: Adapter, to: str, what: str) -> ArtifactError:
    return ArtifactError(
        f"{adapter.path} has {what}, which export --to {to} does not support",
        hint="fold it into the base model: adaptermix merge ADAPTER --weights 1 --into BASE -o "
        "MODEL, and convert that",
    )
