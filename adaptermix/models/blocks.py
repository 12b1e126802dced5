"""Blocks (decoder layers) of a model: count, choose and load the lower ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptermix.errors import ArtifactError
from adaptermix.models.files import layer_index
from adaptermix.models.loading import compute_dtype, load_class, load_config, model_class, opening
from adaptermix.settings.shared import ModelSettings

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

# Config keys whose lists have one entry per block.
_PER_BLOCK = (
    *("layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers", "attention_layers"),
    *("activation_sparsity_pattern", "intermediate_size", "attention_types", "moe_layer_freq"),
    *("indexer_types", "layer_rope_theta", "num_attention_heads_per_layer"),
)
# Config keys of models whose blocks share weights: per-layer embeddings, or keys and values.
_SHARED_AMONG_BLOCKS = ("hidden_size_per_layer_input", "num_kv_shared_layers")


def load_lower_blocks(
    folder: Path, settings: ModelSettings, layer: str | int = "middle"
) -> "PreTrainedModel":
    """Load only the embeddings and the first blocks of the decoder, for alignment.

    The blocks above ``layer`` and the LM head are never read. The final norm is removed, so the
    last hidden state is the raw output of block ``layer``: ``hidden_states[layer]`` of the whole
    model, where index 0 is the embeddings. transformers applies the final norm to the last entry.
    ``top`` does not, as in the authors' code; ``top-normed`` does.

    Args:
        folder: Folder of the model.
        settings: Settings with the precision.
        layer: The last block to keep, as for ``layer_index``.

    Raises:
        ConfigError: The model does not have so many blocks.
        ArtifactError: The model's class lacks the usual layout (``layers`` and ``norm``).
    """
    from transformers import AutoModel

    config = load_config(folder, settings)
    blocks = choose_layer(folder, settings, layer)
    _keep_blocks(config, blocks)
    model = load_class(AutoModel, folder, settings, config)
    _drop_upper(model, blocks, is_normed=layer == "top-normed")
    return model


def _drop_upper(model: "PreTrainedModel", blocks: int, *, is_normed: bool = False) -> None:
    """Drop the upper blocks, the final norm, the LM head, and the image and audio encoders."""
    from torch import nn

    decoder = decoder_of(model)
    decoder.layers = decoder.layers[:blocks]
    if model.can_generate():  # transformers has no class of Llama 4 without the LM head
        model.get_decoder().lm_head = nn.Identity()
        model.forward = decoder.forward  # type: ignore[method-assign]  # hidden states, no logits
    for name, child in list(model.named_children()):
        if model is not decoder and all(module is not decoder for module in child.modules()):
            delattr(model, name)
    if not is_normed:
        decoder.norm = nn.Identity()


@contextmanager
def lower_blocks_only(
    model: "PreTrainedModel", layer: int, *, is_normed: bool = False
) -> Iterator[None]:
    """Restrict a whole model to its embeddings and first blocks within a context.

    Its last hidden state is then the raw output of block ``layer``. The LM head still runs on the
    requested positions: on none if ``logits_to_keep`` is an empty tensor.

    Args:
        model: The whole model.
        layer: Number of blocks.
        is_normed: Keep the final norm after the blocks.

    Raises:
        ArtifactError: The model's class lacks the usual layout.
    """
    from torch import nn

    decoder = decoder_of(model)
    blocks, norm = decoder.layers, decoder.norm
    decoder.layers, decoder.norm = blocks[:layer], norm if is_normed else nn.Identity()
    try:
        yield
    finally:
        decoder.layers, decoder.norm = blocks, norm


def choose_layer(folder: Path, settings: ModelSettings, layer: str | int) -> int:
    """Return the number of the block to align in this model; see ``layer_index``.

    Raises:
        ConfigError: The model does not have so many blocks.
        ArtifactError: The model's config does not state the number of blocks, or it is 0.
    """
    config = load_config(folder, settings)
    text = config.get_text_config()
    depth: int | None = getattr(text, "num_hidden_layers", None)
    if depth is None:
        raise _unusual(type(config).__name__)
    check_hidden_states(config)
    if depth < 1:
        raise ArtifactError(f"{folder / 'config.json'}: the model has no blocks")
    return layer_index(layer, depth)


def check_hidden_states(config: "PreTrainedConfig") -> None:
    """Check that a model has one hidden state per token after every block.

    Raises:
        ArtifactError: It does not, according to its config: Mllama and Gemma 3n.
    """
    text, why = config.get_text_config(), ""
    if getattr(text, "cross_attention_layers", None):
        why = "skips its cross-attention blocks when there is no image"
    elif (getattr(text, "altup_num_inputs", None) or 1) > 1:
        why = "has several hidden states for a token (AltUp)"
    if why:
        raise ArtifactError(
            f"{type(config).__name__}: the model {why}",
            hint="alignment and retrieval need one hidden state per token after every block",
        )


def decoder_of(model: "PreTrainedModel") -> Any:
    """Return the part of a model with the blocks: of a multimodal model, the language model.

    Raises:
        ArtifactError: The model's class lacks the usual layout.
    """
    from torch import nn

    decoder = text_decoder(model)
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        raise _unusual(type(decoder).__name__)
    if not isinstance(getattr(decoder, "norm", None), nn.Module):
        raise _unusual(type(decoder).__name__)
    return decoder


def text_decoder(model: Any) -> Any:
    """Return the part of a model or of its PEFT wrapper that computes text hidden states."""
    decoder = model.get_decoder()
    has_head = hasattr(decoder, "lm_head")  # Llama 4's decoder includes the LM head
    return getattr(decoder, "model", decoder) if has_head else decoder


def find_blocks(model: Any) -> "Sequence[nn.Module]":
    """Return the blocks of a model's text decoder; none if it has no list of them."""
    from torch.nn import ModuleList

    lists = [each for each in text_decoder(model).children() if isinstance(each, ModuleList)]
    return [*lists[0]] if lists else []


def _keep_blocks(config: "PreTrainedConfig", layer: int) -> None:
    """Restrict a config to the first text blocks, without image and audio blocks.

    If blocks share weights, the config keeps all: with fewer, it would be a different model's.
    """
    text = config.get_text_config()
    for name in config.sub_configs:
        other = getattr(config, name, None)
        for key in ("num_hidden_layers", "depth"):
            if other is not None and other is not text and hasattr(other, key):
                setattr(other, key, 0)
    if any(getattr(text, key, None) for key in _SHARED_AMONG_BLOCKS):
        return
    depth = text.num_hidden_layers
    text.num_hidden_layers = layer
    for key, value in list(vars(text).items()):  # one entry per block, or transformers rejects it
        if key in _PER_BLOCK and isinstance(value, list) and len(value) == depth:
            setattr(text, key, value[:layer])


def empty_model(
    folder: Path, settings: ModelSettings, layer: int | None = None
) -> "PreTrainedModel":
    """Return a model of the same shapes without weights, on torch's meta device.

    Args:
        folder: Folder of the model.
        settings: Settings with the precision.
        layer: Number of blocks, without an LM head; None for the whole model.
    """
    import torch
    from transformers import AutoModel

    config = load_config(folder, settings)
    if layer is not None:
        _keep_blocks(config, layer)
    kind = model_class(config) if layer is None else AutoModel
    with opening(str(folder / "config.json")), torch.device("meta"):
        model: PreTrainedModel = kind.from_config(
            config, dtype=compute_dtype(settings), trust_remote_code=settings.trust_remote_code
        )
    if layer is not None:
        _drop_upper(model, layer)
    return model


def _unusual(name: str) -> ArtifactError:
    return ArtifactError(
        f"{name} does not have the usual decoder layout (embed_tokens, layers, norm)",
        hint="alignment works on decoders such as Llama, Qwen2, Qwen3, Mistral and Gemma",
    )
