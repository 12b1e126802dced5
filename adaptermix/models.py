"""Base models: load them whole or in part, attach a LoRA, pool their hidden states."""

import hashlib
import importlib.util
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from adaptermix.errors import ArtifactError, ConfigError, ResourceError, first_line
from adaptermix.files.hub import fetch
from adaptermix.files.tensors import TensorFile
from adaptermix.processes import shards_model
from adaptermix.settings.shared import ModelSettings
from adaptermix.settings.training import TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LOADED = 8  # adapters that one base model holds, at most


def locate_model(settings: ModelSettings) -> Path:
    """Return the folder of the base model, fetched from the hub when it is not a local folder.

    Raises:
        ArtifactError: A folder without ``config.json`` or safetensors weights.
        ResourceError: A hub model that cannot be had.
    """
    folder = Path(settings.model)
    if not folder.is_dir():
        folder = fetch(settings.model, settings.revision)
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder}: no config.json", hint="name the folder of a saved model")
    if not any(folder.glob("*.safetensors")):
        raise ArtifactError(f"{folder}: no .safetensors weights; other formats are not read")
    return folder


def load_tokenizer(folder: Path, settings: ModelSettings) -> "PreTrainedTokenizerBase":
    """Load the model's tokenizer; a missing padding token becomes the end token.

    Raises:
        ArtifactError: There is none, or it is damaged.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{folder}: no usable tokenizer: {first_line(error)}",
            hint="save the model's tokenizer beside its weights",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(folder: Path, settings: ModelSettings) -> "PreTrainedModel":
    """Load the whole base model, for fine-tuning and generation.

    Raises:
        ArtifactError: The config or the weights cannot be read.
    """
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, folder, settings, load_config(folder, settings))


class AdaptedModel:
    """A base model that is loaded once, and adapters that are switched on and off in it.

    Attributes:
        model: The base model, or PEFT's wrapper of it once there was an adapter.
        loaded: Names of the adapters it holds, least recently used first.
    """

    def __init__(self, base: "PreTrainedModel") -> None:
        """Take a base model, as ``load_model`` gives it, without any adapter."""
        self.model: Any = base.eval()
        self.loaded: list[str] = []

    def switch_to(self, adapter: Path | None) -> None:
        """Switch to one adapter, loaded where it is new, or to the base model.

        Args:
            adapter: None, or a PEFT directory named by its content's hash (``stage_adapter`` makes
                them).
        """
        from peft import PeftModel

        if adapter is None:
            if self.loaded:
                self.model.base_model.disable_adapter_layers()
            return
        if adapter.name in self.loaded:
            self.loaded.remove(adapter.name)
        elif self.loaded:
            self.model.load_adapter(str(adapter), adapter_name=adapter.name)
        else:
            self.model = PeftModel.from_pretrained(
                self.model, str(adapter), adapter_name=adapter.name
            )
        self.loaded.append(adapter.name)
        self.model.base_model.enable_adapter_layers()
        self.model.set_adapter(adapter.name)
        while len(self.loaded) > LOADED:
            self.model.delete_adapter(self.loaded.pop(0))


def layer_index(layer: str | int, depth: int) -> int:
    """Return the number of the block whose output is meant, counted from 1.

    The names are those of the paper's figure 4: ``bottom`` is a quarter of the depth (block 8 of
    Llama's 32), ``middle`` half of it, ``top`` the last block; ``top-normed`` is the last block
    as well. A fraction is taken of the depth. All are rounded down, to 1 at least.

    Args:
        layer: A block's number, a name, or a fraction written with a point (``0.5``).
        depth: Blocks of the model.

    Raises:
        ConfigError: A block that the model does not have.
    """
    shares = {"bottom": "0.25", "middle": "0.5", "top": "1.0", "top-normed": "1.0"}
    text = shares.get(str(layer), str(layer))
    if "." in text:
        return max(1, int(Fraction(text) * depth))
    if int(text) > depth:
        raise ConfigError(f"--layer {layer}: the model has {depth} blocks")
    return int(text)


def load_lower_blocks(
    folder: Path, settings: ModelSettings, layer: str | int = "middle"
) -> "PreTrainedModel":
    """Load the embeddings and the first blocks of the decoder only, for alignment.

    The blocks above ``layer`` and the LM head are never read. The final norm is taken out, so the
    last hidden state is the plain output of block ``layer``: what ``hidden_states[layer]`` of the
    whole model holds, where index 0 is the embeddings. The last one of those is normed in
    transformers, and ``top`` is not, as in the authors' code; ``top-normed`` is.

    Args:
        folder: The model.
        settings: Its precision.
        layer: The last block to keep, as ``layer_index`` reads it.

    Raises:
        ConfigError: More blocks than the model has.
        ArtifactError: A model without the usual layout (``layers`` and ``norm``), by its class.
    """
    from transformers import AutoModel

    config = load_config(folder, settings)
    _keep_blocks(config, choose_layer(folder, settings, layer))
    model = _load(AutoModel, folder, settings, config)
    if not isinstance(getattr(model, "layers", None), nn.ModuleList) or not hasattr(model, "norm"):
        raise _unusual(type(model).__name__)
    if layer != "top-normed":
        model.norm = nn.Identity()
    return model


@contextmanager
def lower_blocks_only(
    model: "PreTrainedModel", layer: int, *, is_normed: bool = False
) -> Iterator[None]:
    """Let a whole model run its embeddings and first blocks only.

    Its last hidden state is then the plain output of block ``layer``. The LM head still runs, on
    whatever positions it is asked for; none, with ``logits_to_keep`` an empty tensor.

    Args:
        model: The whole model.
        layer: Number of blocks.
        is_normed: Keep the final norm after them.

    Raises:
        ArtifactError: A model without the usual layout, by its class.
    """
    decoder = model.get_decoder()
    blocks, norm = getattr(decoder, "layers", None), getattr(decoder, "norm", None)
    if not isinstance(blocks, nn.ModuleList) or norm is None:
        raise _unusual(type(decoder).__name__)
    decoder.layers, decoder.norm = blocks[:layer], norm if is_normed else nn.Identity()
    try:
        yield
    finally:
        decoder.layers, decoder.norm = blocks, norm


def keeps_logits(model: Any) -> bool:
    """Whether a causal language model can compute logits, and its loss, at some positions only."""
    base: Any = getattr(model, "get_base_model", lambda: model)()
    takes = inspect.signature(base.forward).parameters
    return "logits_to_keep" in takes and type(base).__name__.endswith("ForCausalLM")


def choose_layer(folder: Path, settings: ModelSettings, layer: str | int) -> int:
    """Return the number of the block to align after, in this model; see ``layer_index``.

    Raises:
        ConfigError: More blocks than the model has.
        ArtifactError: A model whose config says no number of blocks.
    """
    config = load_config(folder, settings)
    depth: int | None = getattr(config, "num_hidden_layers", None)
    if depth is None:
        raise _unusual(type(config).__name__)
    return layer_index(layer, depth)


def _keep_blocks(config: "PreTrainedConfig", layer: int) -> None:
    config.num_hidden_layers = layer
    if getattr(config, "layer_types", None):  # one entry a block, checked against their number
        config.layer_types = config.layer_types[:layer]


def empty_model(
    folder: Path, settings: ModelSettings, layer: int | None = None
) -> "PreTrainedModel":
    """Return a model of the same shapes without any weights, on torch's meta device.

    Args:
        folder: The model.
        settings: Its precision.
        layer: Number of blocks, without an LM head; the whole model by default.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    config = load_config(folder, settings)
    if layer is not None:
        _keep_blocks(config, layer)
    kind = AutoModelForCausalLM if layer is None else AutoModel
    with torch.device("meta"):
        model: PreTrainedModel = kind.from_config(
            config, dtype=compute_dtype(settings), trust_remote_code=settings.trust_remote_code
        )
    if layer is not None:
        model.norm = nn.Identity()
    return model


def _unusual(name: str) -> ArtifactError:
    return ArtifactError(
        f"{name} has not the usual decoder layout (embed_tokens, layers, norm)",
        hint="alignment works on decoders such as Llama, Qwen2, Qwen3, Mistral and Gemma",
    )


def load_config(folder: Path, settings: ModelSettings) -> "PreTrainedConfig":
    """Read the model's config.

    Raises:
        ArtifactError: It cannot be read.
    """
    from transformers import AutoConfig

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder / 'config.json'}: {first_line(error)}") from error
    return config


def _load(
    kind: Any, folder: Path, settings: ModelSettings, config: "PreTrainedConfig"
) -> "PreTrainedModel":
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours shows what takes long
    quantized = _quantization(settings)
    try:
        model: PreTrainedModel = kind.from_pretrained(
            folder,
            config=config,
            dtype=compute_dtype(settings),
            use_safetensors=True,
            trust_remote_code=settings.trust_remote_code,
            **quantized,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: cannot be loaded: {first_line(error)}") from error
    if quantized or shards_model():  # on the GPU already, or there part by part later on
        return model
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    return model


def _quantization(settings: ModelSettings) -> dict[str, Any]:
    """Return what from_pretrained must know to hold a model in 4 bits, if it is to.

    Raises:
        ResourceError: There is no bitsandbytes.
    """
    if not (isinstance(settings, TrainSettings) and settings.quantize):
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ResourceError(
            f"--quantize {settings.quantize} needs bitsandbytes",
            hint='pip install "adaptermix[quantize]"',
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quantize,
        bnb_4bit_compute_dtype=compute_dtype(settings),
    )
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": config, "device_map": {"": device}}


def compute_dtype(settings: ModelSettings) -> torch.dtype:
    """Return the precision to hold the base model in."""
    if settings.dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() else torch.float32
    dtype: torch.dtype = getattr(torch, settings.dtype)
    return dtype


def context_length(folder: Path) -> int | None:
    """Return how many tokens the model can read, where its config says so."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = config.get("text_config", config).get("max_position_embeddings")
    return int(found) if found else None


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers loads: those the index names, or one.

    A hub folder may hold the same weights again, under other names, for other software.

    Raises:
        ArtifactError: A damaged index, or a file that it names is not there.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file() or not index.is_file():
        return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{index}: not an index of weights") from error
    for name in sorted(names):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder / name}: no such file, but the index names it")
    return [folder / name for name in sorted(names)]


def is_tied(folder: Path) -> bool:
    """Whether the model's output embeddings are its input embeddings."""
    config = load_config(folder, ModelSettings(model=str(folder)))
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of a saved model, from the files' headers alone.

    Raises:
        ArtifactError: A damaged safetensors file.
    """
    return {
        name: spec.shape
        for path in weight_files(folder)
        for name, spec in TensorFile(path).specs.items()
    }


def fingerprint(folder: Path) -> str:
    """Return a hash that tells base models apart without reading all of their weights.

    Of the config's shape-giving part, and of each safetensors file its size, header and 64
    evenly spaced samples of 4 KiB: fine-tuning changes them, moving the folder does not.
    """
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    digest.update(json.dumps(_lasting(config), sort_keys=True).encode())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(header, size)))
            for sample in range(64):
                file.seek(8 + header + (size - 8 - header) * sample // 64)
                digest.update(file.read(4096))
    return digest.hexdigest()


def _lasting(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if not k.startswith("_") and "version" not in k}
