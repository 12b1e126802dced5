"""Load base models and tokenizers, and switch adapters."""

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.format import layer_of
from adaptermix.errors import AdaptermixError, ArtifactError, ResourceError, first_line
from adaptermix.models.files import AGAIN, check_types, vocabulary_size
from adaptermix.processes import shards_model
from adaptermix.settings.shared import ModelSettings
from adaptermix.settings.training import TrainSettings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_FOLD = "fold the adapter into a copy of the model with merge --into BASE, and use that"
# Files with a vocabulary: tokenizer.json, vocab.txt, spiece.model, qwen.tiktoken, or code.
_VOCABULARY = re.compile(r"(tokenizer\.json|vocab[^/]*|\.model|\.tiktoken|tekken[^/]*|\.py|\.bpe)$")
_TOKENIZER_TYPES: dict[str, tuple[tuple[type, ...], str]] = {  # of values in tokenizer_config.json
    "tokenizer_class": ((str,), "text"),
    "auto_map": ((dict, list), "an object"),
    "added_tokens_decoder": ((dict,), "an object"),
    "model_input_names": ((list,), "a list"),
    "model_max_length": ((int, float), "a number"),
    "chat_template": ((str, list, dict), "text"),
}
LOADED = 8  # maximum number of adapters in one base model


@contextmanager
def opening(what: str, hint: str | None = None) -> Iterator[None]:
    """Turn the exceptions that libraries raise on a model's files into one-line errors.

    On damaged files, they raise all kinds of exceptions, including plain ``Exception``.

    Args:
        what: What is opened, for the message.
        hint: What to do, if the exception does not say so.

    Raises:
        ResourceError: A package is missing, or there is not enough memory.
        ArtifactError: Any other exception.
    """
    try:
        yield
    except AdaptermixError:
        raise
    except ImportError as error:
        pip = re.search(r"pip install [^`]+", str(error))
        name = (error.name or "").partition(".")[0]
        line = pip[0].strip() if pip else f"pip install {name}" if name else hint
        raise ResourceError(f"{what}: {first_line(error)}", hint=line) from error
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
            raise ResourceError(
                f"{what}: not enough memory: {first_line(error)}",
                hint="use --dtype bfloat16, which needs less memory than float32",
            ) from error
        if "trust_remote_code" in str(error):
            hint = "--trust-remote-code runs the model's own code; do so only for models you trust"
        kind = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""
        raise ArtifactError(f"{what}: {kind}{first_line(error)}", hint=hint) from error


def load_tokenizer(folder: Path, settings: ModelSettings) -> "PreTrainedTokenizerBase":
    """Load the model's tokenizer, or the one that ``--tokenizer`` names.

    A padding token that is missing, or has no embedding in the model, is set to the EOS token.

    Args:
        folder: Folder of the model.
        settings: Settings that may name another tokenizer.

    Raises:
        ArtifactError: The tokenizer is missing or damaged.
    """
    from transformers import AutoTokenizer

    name = settings.tokenizer or folder
    hint = "save the model's tokenizer next to its weights"
    if settings.tokenizer:
        hint = "name a folder with tokenizer.json, or a tokenizer on the Hub: --tokenizer NAME"
    if Path(name).is_dir() and not any(map(_VOCABULARY.search, map(str, Path(name).iterdir()))):
        raise ArtifactError(
            f"{name}: no usable tokenizer: the folder has no vocabulary, such as tokenizer.json",
            hint=hint,
        )
    _check_tokenizer_config(Path(name))
    with opening(f"{name}: no usable tokenizer", hint):
        # mistral-common ignores the chat template, and reads "[INST]" in a text as plain text.
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                name, trust_remote_code=settings.trust_remote_code, mistral_format=False
            )
        except ValueError as error:
            if "backend tokenizer" not in str(error):
                raise
            raise ArtifactError(  # transformers lists what it can read, over several lines
                f"{name}: no usable tokenizer: transformers cannot read its vocabulary", hint=hint
            ) from error
    if str(getattr(tokenizer, "vocab_file", None)).endswith("tekken.json"):
        raise ArtifactError(
            f"{name}: its only vocabulary is Mistral's tekken.json, in which transformers finds "
            "no special tokens",
            hint="use a tokenizer that has a tokenizer.json, such as one from a converted copy "
            "of the model: --tokenizer NAME",
        )
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _template_of_processor(Path(name))
    size = vocabulary_size(folder)
    if tokenizer.pad_token is None or (size is not None and tokenizer.pad_token_id >= size):
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return a hash of all that token IDs and texts depend on, for results that are kept.

    The chat template is not in it, because it makes other texts. Truncation and padding, at the
    start of a fast tokenizer's JSON, are those of the last call.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        content = fast.to_str().partition('"added_tokens":')[2]
    else:
        tokens = sorted(tokenizer.get_vocab().items(), key=itemgetter(1))
        content = repr((type(tokenizer).__name__, tokens, tokenizer.added_tokens_decoder))
    roles = sorted(tokenizer.special_tokens_map.items())
    return hashlib.sha256(f"{content}{roles}".encode("utf-8", "surrogatepass")).hexdigest()


def _check_tokenizer_config(folder: Path) -> None:
    """Check the types of values in ``tokenizer_config.json``, if there is one.

    Raises:
        ArtifactError: One is of a wrong type.
    """
    path = folder / "tokenizer_config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # transformers says what is wrong
        return
    if isinstance(content, dict):
        check_types(content, _TOKENIZER_TYPES, path)


def _template_of_processor(folder: Path) -> str | None:
    """Return the chat template that multimodal models store in a separate file.

    Earlier releases of transformers saved it only for the processor.
    """
    try:
        found = json.loads((folder / "chat_template.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    template = found.get("chat_template") if isinstance(found, dict) else None
    return template if isinstance(template, str) else None


def load_model(folder: Path, settings: ModelSettings) -> "PreTrainedModel":
    """Load the whole base model, for fine-tuning and generation.

    Raises:
        ArtifactError: The config or the weights cannot be read.
    """
    config = load_config(folder, settings)
    return load_class(model_class(config), folder, settings, config)


def model_class(config: "PreTrainedConfig") -> Any:
    """Return the auto class that builds a language model from a config.

    A multimodal model gets the class with all modalities, unless its config names the text-only
    class: its modules then have the names that vLLM and alignment expect.

    Raises:
        ArtifactError: transformers has neither a class for text nor one for text and images.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    maps = getattr(config, "auto_map", None) or {}
    text, modes = AutoModelForCausalLM._model_mapping, AutoModelForImageTextToText._model_mapping
    if "AutoModelForCausalLM" in maps or (type(config) in text and type(config) not in modes):
        return AutoModelForCausalLM
    if type(config) not in modes:
        raise ArtifactError(
            f"models of type '{config.model_type}' are not supported: only decoders of "
            "text, or of text and images, are",
            hint="for an audio or omni model, save and use its language model as a separate model",
        )
    own = getattr(text[type(config)], "__name__", "") if type(config) in text else ""
    if own in (config.architectures or ()):
        return AutoModelForCausalLM
    return AutoModelForImageTextToText


def check_quantization(folder: Path, settings: ModelSettings) -> None:
    """Check that transformers can load a model with its quantization, if it has one.

    Raises:
        ResourceError: A required package or device is missing.
        ArtifactError: The config's ``quantization_config`` cannot be read.
    """
    from transformers.quantizers import AutoHfQuantizer

    given = getattr(load_config(folder, settings), "quantization_config", None)
    if given is None:
        return
    method = given.get("quant_method") if isinstance(given, dict) else given.quant_method
    what = f"{folder} is quantized ({getattr(method, 'value', method)})"
    with opening(what, "use the model it was quantized from"):
        try:
            quantizer = AutoHfQuantizer.from_config(given, pre_quantized=True)
            quantizer.validate_environment(device_map={"": _device()})
        except RuntimeError as error:
            raise ResourceError(f"{what}: {first_line(error)}") from error


class AdaptedModel:
    """A base model that is loaded once, with adapters that can be switched on and off.

    Attributes:
        model: The base model, or its PEFT wrapper once an adapter was loaded.
        loaded: Names of the loaded adapters, least recently used first.
    """

    def __init__(self, base: "PreTrainedModel") -> None:
        """Take a base model without adapters, from ``load_model``."""
        self.model: Any = base.eval()
        self.loaded: list[str] = []
        self._replaced: dict[str, torch.Tensor] = {}  # the base's weights, by name

    def switch_to(self, adapter: Path | None) -> None:
        """Switch to an adapter, which is loaded if it is new, or to the base model.

        Args:
            adapter: None for the base model, or a PEFT directory named by its content hash, from
                ``stage_adapter``.
        """
        from peft import PeftModel

        if adapter is None:
            if self._replaced:
                self._unload()
            elif self.loaded:
                self.model.base_model.disable_adapter_layers()
            return
        if adapter.name in self.loaded:
            self.loaded.remove(adapter.name)
        else:
            with opening("PEFT cannot load an adapter into the model", _FOLD):
                self._make_room(adapter)
                place = {"adapter_name": adapter.name, "torch_device": self.model.device.type}
                if not self.loaded:
                    self.model = PeftModel.from_pretrained(self.model, str(adapter), **place)
                # Load a first adapter again: from_pretrained does not report unexpected keys.
                found = self.model.load_adapter(str(adapter), **place)
                if found.unexpected_keys:
                    kind = type(self.model.get_base_model()).__name__
                    raise ArtifactError(
                        f"PEFT cannot load the whole adapter: {kind} has no module for "
                        f"'{found.unexpected_keys[0]}'",
                        hint=_FOLD,
                    )
        self.loaded.append(adapter.name)
        self.model.base_model.enable_adapter_layers()
        self.model.set_adapter(adapter.name)
        while len(self.loaded) > LOADED:
            self.model.delete_adapter(self.loaded.pop(0))

    def _make_room(self, adapter: Path) -> None:
        """Remove all adapters from the model if PEFT cannot hold the new one beside them.

        Adapters that target parameters must all target the same ones. PEFT loads separate experts
        as parameters, under their own names, without a layer. It writes biases and whole embeddings
        over those of the base, where they would count for every other adapter.
        """
        from peft import PeftConfig

        config = PeftConfig.from_pretrained(str(adapter))
        replaced = read_adapter(adapter).replaced
        wanted = set(getattr(config, "target_parameters", None) or ())
        held = [
            set(getattr(self.model.peft_config[name], "target_parameters", None) or ())
            for name in self.loaded
        ]
        if (
            self._replaced
            or replaced
            or any(
                targets
                and targets != wanted
                and (wanted or layer_of(next(iter(targets))) is not None)
                for targets in held
            )
        ):
            self._unload()
        weights = self.model.state_dict() if replaced else {}
        self._replaced = {n: weights[n].to("cpu", copy=True) for n in replaced if n in weights}

    def _unload(self) -> None:
        """Remove all adapters from the model, and restore the weights that one replaced."""
        for name in self.loaded:  # else PEFT leaves the whole modules of the last one in the model
            self.model.delete_adapter(name)
        if self.loaded:
            self.model = self.model.unload()
            self.loaded.clear()
        weights = self.model.state_dict() if self._replaced else {}
        for name, weight in self._replaced.items():
            weights[name].copy_(weight)
        self._replaced = {}


def load_config(folder: Path, settings: ModelSettings) -> "PreTrainedConfig":
    """Read the model's config.

    Raises:
        ArtifactError: The config cannot be read, or the model has an encoder.
    """
    from transformers import AutoConfig

    with opening(str(folder / "config.json"), AGAIN):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=settings.trust_remote_code
        )
    config.return_dict = True  # a model's file may say that it returns tuples
    hint = "use a model that is a decoder only, such as Llama, Qwen or Gemma"
    if getattr(config, "is_encoder_decoder", False):  # transformers would load only the decoder
        raise ArtifactError(
            f"{folder}: models of type '{config.model_type}' are not supported: they have an "
            "encoder and a decoder",
            hint=hint,
        )
    if getattr(type(config), "is_encoder_decoder", False):  # its depth is that of the encoder
        raise ArtifactError(
            f"{folder}: contains only the decoder of an encoder-decoder model of type "
            f"'{config.model_type}', which is not supported",
            hint=hint,
        )
    return config


def load_class(
    kind: Any, folder: Path, settings: ModelSettings, config: "PreTrainedConfig"
) -> "PreTrainedModel":
    """Load a model of a class with the precision and CPU threads of the settings.

    Raises:
        ArtifactError: The files cannot be read, or two tokens cannot go through the model.
    """
    import torch
    from transformers.utils import logging

    if settings.threads:
        torch.set_num_threads(settings.threads)
    logging.disable_progress_bar()  # our own progress replaces it
    quantized = _quantization(settings)
    if getattr(config, "quantization_config", None) is not None:
        check_quantization(folder, settings)
        quantized.setdefault("device_map", {"": _device()})
    attention = _attention(settings, config)
    given = isinstance(settings, TrainSettings) and settings.attention
    hint = "install flash-attn, or remove --attention" if given else None
    with opening(f"{folder}: cannot be loaded", hint):
        model: PreTrainedModel
        model, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=compute_dtype(settings),
            use_safetensors=True,
            trust_remote_code=settings.trust_remote_code,
            output_loading_info=True,
            **attention,
            **quantized,
        )
    if missing := sorted(info["missing_keys"]):
        raise ArtifactError(
            f"{folder}: the weight '{missing[0]}' is missing from its files", hint=AGAIN
        )
    if shards_model():  # on the GPUs later
        return model
    if not quantized:  # else on the GPU already
        model.to(_device())  # type: ignore[arg-type]
    with opening(f"{folder}: the model does not run", "check its config.json"), torch.no_grad():
        model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)
    return model


def _device() -> Any:
    import torch

    return torch.cuda.current_device() if torch.cuda.is_available() else "cpu"


def _attention(settings: ModelSettings, config: "PreTrainedConfig") -> dict[str, str]:
    """Return the argument of from_pretrained that sets the attention, if it is not the default."""
    chosen = settings.attention if isinstance(settings, TrainSettings) else None
    if chosen in (None, "sdpa") and caps_attention(config):
        chosen = "eager"
    return {"attn_implementation": chosen} if chosen else {}


def caps_attention(config: "PreTrainedConfig") -> bool:
    """Whether a model caps its attention logits (Gemma 2, VaultGemma), which SDPA would leave out.

    Eager attention and FlashAttention have the cap. Classes with attention sinks, such as gpt-oss,
    tell transformers that they do not support SDPA.
    """
    return bool(getattr(config.get_text_config(), "attn_logit_softcapping", None))


def _quantization(settings: ModelSettings) -> dict[str, Any]:
    """Return the arguments of from_pretrained that load a model in 4 bits, if requested.

    Raises:
        ResourceError: bitsandbytes is not installed.
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
    return {"quantization_config": config, "device_map": {"": _device()}}


def compute_dtype(settings: ModelSettings) -> "torch.dtype":
    """Return the dtype of the base model's weights."""
    import torch

    if settings.dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() else torch.float32
    dtype: torch.dtype = getattr(torch, settings.dtype)
    return dtype
