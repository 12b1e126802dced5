"""Files of a base model: shapes, fingerprint and context length, without loading weights."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from adaptermix.adapters.format import CONFIG_FILE, WEIGHTS_FILE
from adaptermix.adapters.names import core
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.files.hub import fetch
from adaptermix.files.tensors import TensorFile
from adaptermix.settings.shared import ModelSettings
from adaptermix.tables import number_of

AGAIN = "copy or download the model again"  # the hint for damaged or missing files
_BLOCK = re.compile(r"layers\.(\d+)\.")
# Types of config keys that are read without a check by the model's class.
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "quantization_config": ((dict,), "an object"),
    "text_config": ((dict,), "an object"),
    "vision_config": ((dict,), "an object"),
    "auto_map": ((dict,), "an object"),
    "architectures": ((list,), "a list"),
    "model_type": ((str,), "text"),
    "tie_word_embeddings": ((bool,), "true or false"),
}
CONTEXT_KEYS = (  # config keys of the context length
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_seq_length"),
    *("max_sequence_length", "seq_len", "n_ctx", "model_max_length"),
)


# Types of models with a table of positions that ends at their context; others compute positions.
_OF_TABLES = (
    *("biogpt", "codegen", "ctrl", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "mpt"),
    *("openai-gpt", "opt"),
)


def locate_model(settings: ModelSettings) -> Path:
    """Return the folder of the base model; fetch it from the Hub if it is not a local folder.

    Raises:
        ArtifactError: The folder has no ``config.json`` or no safetensors weights, or an adapter.
        ResourceError: The model cannot be fetched from the Hub.
    """
    folder = Path(settings.model)
    if not folder.is_dir():
        folder = fetch(settings.model, settings.revision)
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder}: no config.json", hint="name the folder of a saved model")
    if not any(folder.glob("*.safetensors")):
        raise ArtifactError(
            f"{folder}: no .safetensors weights; other formats are not supported",
            hint="load the model with transformers, and save it with save_pretrained",
        )
    if (folder / CONFIG_FILE).is_file():  # transformers would add it to the model
        raise ArtifactError(
            f"{folder}: the folder has both a model and an adapter ({CONFIG_FILE}), so it is not "
            "clear which model is meant",
            hint=f"move {CONFIG_FILE} and {WEIGHTS_FILE} to another folder",
        )
    return folder


def read_base_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json``, without the defaults that the model's class adds.

    Raises:
        ArtifactError: The file is not a JSON object, or a key has a value of a wrong type.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ArtifactError(f"{path}: not a JSON object")
    check_types(config, _TYPES, path)
    return config


def check_types(
    content: Mapping[str, Any], types: Mapping[str, tuple[tuple[type, ...], str]], path: Path
) -> None:
    """Check the types of a JSON object's values. Each may be null.

    Args:
        content: The object.
        types: The types of some of its values, and their names in messages.
        path: Its file, for messages.

    Raises:
        ArtifactError: A value is of another type.
    """
    for key, (kind, name) in types.items():
        value = content.get(key)
        if value is not None and not isinstance(value, kind):
            raise ArtifactError(f"{path}: {key} is {json.dumps(value)}, not {name}", hint=AGAIN)


def config_parts(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a config and, before it, the text model's config that a multimodal one contains."""
    text = config.get("text_config")
    return [text, config] if isinstance(text, dict) else [config]


def text_model_type(folder: Path) -> str | None:
    """Return the type of a model; for a multimodal model, that of its text model."""
    kinds = [part.get("model_type") for part in config_parts(read_base_config(folder))]
    return next((kind for kind in kinds if isinstance(kind, str)), None)


def quantization_of(folder: Path) -> str | None:
    """Return the quantization method from a model's config or files; None if not quantized."""
    for part in reversed(config_parts(read_base_config(folder))):
        for key in ("quantization_config", "compression_config", "quantization"):  # last: MLX
            if (found := part.get(key)) is not None:
                method = found.get("quant_method") if isinstance(found, dict) else found
                return str(method or key)
    ends = ("qweight", "weight_packed", "weight.absmax", "SCB", "weight_scale_inv")
    return next((end for name in weight_shapes(folder) for end in ends if name.endswith(end)), None)


def by(shape: tuple[int, ...]) -> str:
    """Format a shape, such as ``2 x 3``."""
    return " x ".join(map(str, shape))


def layer_index(layer: str | int, depth: int) -> int:
    """Return the number of the block that ``layer`` means, counted from 1.

    The names are those of the paper's figure 4: ``bottom`` is a quarter of the depth (block 8 of
    Llama's 32), ``middle`` half of it, ``top`` and ``top-normed`` are the last block. A fraction
    is a share of the depth. Results are rounded down, but are at least 1.

    Args:
        layer: A block's number, a name, or a fraction with a decimal point (``0.5``).
        depth: Number of blocks of the model.

    Raises:
        ConfigError: The model does not have this block.
    """
    shares = {"bottom": "0.25", "middle": "0.5", "top": "1.0", "top-normed": "1.0"}
    text = shares.get(str(layer), str(layer))
    if "." in text:
        return max(1, int(Fraction(text) * depth))
    if int(text) > depth:
        raise ConfigError(f"--layer {layer}: the model has {number_of(depth, 'block')}")
    return int(text)


def context_length(folder: Path) -> int | None:
    """Return the context length in tokens, or None if the config does not state it."""
    text = config_parts(read_base_config(folder))[0]
    found = next((text[key] for key in CONTEXT_KEYS if text.get(key) is not None), None)
    return found if isinstance(found, int) and found > 0 else None


def ends_at_context(folder: Path) -> bool:
    """Whether a model of this type cannot read more tokens than its context at all."""
    return text_model_type(folder) in _OF_TABLES


def check_tokens(ids: Iterable[int], folder: Path) -> None:
    """Reject tokens that the model has no embedding for, if its config states their number.

    Raises:
        ArtifactError: The tokenizer does not match the model.
    """
    size = vocabulary_size(folder)
    largest = max(ids, default=0)
    if size is not None and largest >= size:
        raise ArtifactError(
            f"{folder}: the tokenizer has token {largest}, but config.json has only {size} tokens",
            hint="name the folder of the tokenizer that the model was trained with: "
            "--tokenizer FOLDER",
        )


def vocabulary_size(folder: Path) -> int | None:
    """Return the vocabulary size, or None if the config does not state it."""
    config = read_base_config(folder) if (folder / "config.json").is_file() else {}
    size = config_parts(config)[0].get("vocab_size")
    return size if isinstance(size, int) else None


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers loads: a single one, or those in the index.

    A folder from the Hub may hold the same weights again, under other names, for other software.

    Raises:
        ArtifactError: The index is damaged, or a file that it lists is missing.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file() or not index.is_file():
        return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{index}: not an index of weights", hint=AGAIN) from error
    for name in sorted(names):
        if not (folder / name).is_file():
            raise ArtifactError(
                f"{folder / name}: no such file, but the index lists it", hint=AGAIN
            )
    return [folder / name for name in sorted(names)]


def check_depth(folder: Path) -> None:
    """Check that the files have no more blocks than the config, which would drop the others.

    Blocks that predict further tokens (DeepSeek V3, GLM 4.5) follow the last one and do not count.

    Raises:
        ArtifactError: They have more.
    """
    depth = config_parts(read_base_config(folder))[0].get("num_hidden_layers")
    blocks: dict[int, list[str]] = {}
    for name in map(core, weight_shapes(folder)):
        if (found := _BLOCK.match(name)) is not None:
            blocks.setdefault(int(found[1]), []).append(name)
    count = sum(not any("eh_proj" in name for name in names) for names in blocks.values())
    if isinstance(depth, int) and count > depth:
        raise ArtifactError(
            f"{folder}: its files have {number_of(count, 'block')}, but config.json says {depth}",
            hint="correct num_hidden_layers, or save the shortened model again",
        )


def is_tied(folder: Path) -> bool:
    """Whether the model's output embeddings are tied to its input embeddings.

    Configs often leave this to the default of their class, and those of multimodal models may state
    it twice, differently. The weights decide then, because a tied head is not saved.
    """
    key = "tie_word_embeddings"
    stated = {bool(part[key]) for part in config_parts(read_base_config(folder)) if key in part}
    if len(stated) == 1:
        return stated.pop()
    heads = ("lm_head.weight", "embed_out.weight")
    return not any(name.endswith(heads) for name in weight_shapes(folder))


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of a saved model, from the file headers only.

    Raises:
        ArtifactError: A safetensors file is damaged.
    """
    return {
        name: spec.shape
        for path in weight_files(folder)
        for name, spec in TensorFile(path).specs.items()
    }


def fingerprint(folder: Path) -> str:
    """Return a hash that identifies a base model without reading all of its weights.

    It covers the config without private and version keys, and the name, size, header and 64 evenly
    spaced samples of 4 KiB of each safetensors file that transformers loads. Fine-tuning changes
    these; moving the folder does not.
    """
    digest = hashlib.sha256()
    config = read_base_config(folder)
    lasting = {k: v for k, v in config.items() if not k.startswith("_") and "version" not in k}
    digest.update(json.dumps(lasting, sort_keys=True).encode())
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            header = min(int.from_bytes(file.read(8), "little"), max(size - 8, 0))
            digest.update(file.read(header))
            for sample in range(64):
                file.seek(8 + header + max(size - 8 - header, 0) * sample // 64)
                digest.update(file.read(4096))
    return digest.hexdigest()


def weights_hash(folder: Path) -> str:
    """Return a hash for results that are kept: of the fingerprint, the weights and the code.

    The samples of a fingerprint can miss a LoRA that was folded into small modules, and new rows of
    embeddings. All files of code count, because those in the config may import others.

    Raises:
        ArtifactError: A weight file is not valid.
    """
    digest = hashlib.sha256(fingerprint(folder).encode())
    for path in weight_files(folder):
        stat = path.stat()
        digest.update(_sampled_hash(path, stat.st_size, stat.st_mtime_ns).encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(f"{path.name}:{hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


@cache
def _sampled_hash(path: Path, size: int, changed: int) -> str:
    """Hash weights; within a run, the result is cached by size and modification time."""
    return TensorFile(path).sampled_hash()
