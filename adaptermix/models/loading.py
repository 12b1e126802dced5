"""Base models and tokenizers: loading them, and the part of them that alignment needs."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from adaptermix.errors import ArtifactError, ResourceError, first_line
from adaptermix.processes import shards_model
from adaptermix.settings.shared import ModelSettings
from adaptermix.settings.training import TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

LOADED = 8  # adapters that one base model holds, at most


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

    return load_class(AutoModelForCausalLM, folder, settings, load_config(folder, settings))


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


def load_class(
    kind: Any, folder: Path, settings: ModelSettings, config: "PreTrainedConfig"
) -> "PreTrainedModel":
    """Load a model of a class in the precision that was asked for."""
    import torch
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
    import torch
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quantize,
        bnb_4bit_compute_dtype=compute_dtype(settings),
    )
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": config, "device_map": {"": device}}


def compute_dtype(settings: ModelSettings) -> "torch.dtype":
    """Return the precision to hold the base model in."""
    import torch

    if settings.dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() else torch.float32
    dtype: torch.dtype = getattr(torch, settings.dtype)
    return dtype
