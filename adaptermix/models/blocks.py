"""Blocks (decoder layers) of a model: count, choose and load the lower ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from adaptermix.errors import ArtifactError
from adaptermix.models.files import AGAIN, layer_index
from adaptermix.models.loading import compute_dtype, load_class, load_config, model_class, opening
from adaptermix.processes import shards_model
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
# Config keys and types of models whose blocks compute with the number of all blocks: MiniCPM
# scales residuals by it, MiniMax its decay. GPT-NeoX Japanese has a bias in its last block only,
# and the class of Zamba refuses a single block with the weights that such blocks share.
_OF_DEPTH = ("scale_depth", "linear_attn_alpha_factor")
_WHOLE_TYPES = ("gpt_neox_japanese", "zamba")

_DECODERS = "alignment works on decoders such as Llama, Qwen2, Qwen3, Mistral and Gemma"


class Layout(NamedTuple):
    """Names of a decoder's list of blocks and of the norm after them; empty if it has no norm."""

    blocks: str
    norm: str


_FOUND: "WeakKeyDictionary[nn.Module, Layout]" = WeakKeyDictionary()  # by trials of decoders


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
        ArtifactError: The model's class has no list of blocks; see ``layout_of``.
    """
    config = load_config(folder, settings)
    blocks = choose_layer(folder, settings, layer)
    _keep_blocks(config, blocks)
    try:
        model = load_class(_class_without_head(config), folder, settings, config)
    except ArtifactError:  # the class of an encoder has more weights than the files of its decoder
        check_blocks(folder, settings)
        raise
    _drop_upper(model, blocks, is_normed=layer == "top-normed")
    return model


def _drop_upper(model: "PreTrainedModel", blocks: int, *, is_normed: bool = False) -> None:
    """Drop the upper blocks, the final norm, the LM head, and the image and audio encoders."""
    from torch import nn

    decoder, layout = decoder_of(model)
    setattr(decoder, layout.blocks, getattr(decoder, layout.blocks)[:blocks])
    if model.can_generate():  # transformers has no class of Llama 4 without the LM head
        model.get_decoder().lm_head = nn.Identity()
        model.forward = decoder.forward  # type: ignore[method-assign]  # hidden states, no logits
    for name, child in list(model.named_children()):
        if model is not decoder and all(module is not decoder for module in child.modules()):
            delattr(model, name)
    if layout.norm and not is_normed:
        setattr(decoder, layout.norm, _no_norm(getattr(decoder, layout.norm)))


def _no_norm(norm: Any) -> "nn.Module":
    """Return the identity in place of a norm, with a weight: some classes read its dtype."""
    from torch import nn

    identity = nn.Identity()
    if (weight := getattr(norm, "weight", None)) is not None:
        identity.register_buffer("weight", weight.detach().new_empty(0), persistent=False)
    return identity


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
        ArtifactError: The model's class has no list of blocks; see ``layout_of``.
    """
    decoder, layout = decoder_of(model)
    with _truncated(decoder, layout, layer, is_normed=is_normed):
        yield


@contextmanager
def _truncated(
    decoder: Any, layout: Layout, layer: int, *, is_normed: bool = False
) -> Iterator[None]:
    blocks = getattr(decoder, layout.blocks)
    norm = getattr(decoder, layout.norm) if layout.norm else None
    setattr(decoder, layout.blocks, blocks[:layer])
    if norm is not None and not is_normed:
        setattr(decoder, layout.norm, _no_norm(norm))
    try:
        yield
    finally:
        setattr(decoder, layout.blocks, blocks)
        if norm is not None:
            setattr(decoder, layout.norm, norm)


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
        ArtifactError: It does not, according to its config: Mllama, Gemma 3n and DeepSeek V4.
    """
    text, why = config.get_text_config(), ""
    if getattr(text, "cross_attention_layers", None):
        why = "skips its cross-attention blocks when there is no image"
    elif (getattr(text, "altup_num_inputs", None) or 1) > 1:
        why = "has several hidden states for a token (AltUp)"
    elif (getattr(text, "hc_mult", None) or 1) > 1:
        why = "has several hidden states for a token (hyper-connections)"
    if why:
        raise ArtifactError(
            f"{type(config).__name__}: the model {why}",
            hint="alignment and retrieval need one hidden state per token after every block",
        )


def check_blocks(folder: Path, settings: ModelSettings) -> None:
    """Check that a model's class has a decoder with a list of blocks.

    Raises:
        ArtifactError: It has none: an encoder, or a class of transformers without such a list.
    """
    config = load_config(folder, settings)
    decoder = text_decoder(_empty(_class_without_head(config), folder, settings, config))
    if not _name_of_blocks(decoder):
        raise _unusual(type(decoder).__name__)


def decoder_of(model: "PreTrainedModel") -> tuple[Any, Layout]:
    """Return the part of a model with the blocks: of a multimodal model, the language model.

    Raises:
        ArtifactError: The model's class has no list of blocks; see ``layout_of``.
    """
    decoder = text_decoder(model)
    return decoder, layout_of(decoder)


def layout_of(decoder: Any) -> Layout:
    """Return the names of a decoder's blocks and of the norm that follows them.

    Most classes call them ``layers`` and ``norm``. Other classes have as many names as authors
    (``h`` and ``ln_f``, ``blocks`` and ``norm_f``), so a trial of two tokens tells: the final norm
    is what runs after the last block, and only there. With the first block only and no norm, the
    class must return that block's output.

    Raises:
        ArtifactError: The class has no list of blocks, or returns something else.
    """
    if decoder not in _FOUND:
        _FOUND[decoder] = _find_layout(decoder)
    return _FOUND[decoder]


def _find_layout(decoder: Any) -> Layout:
    from torch import nn

    blocks = _name_of_blocks(decoder)
    is_usual = blocks == "layers" and isinstance(getattr(decoder, "norm", None), nn.Module)
    is_empty = blocks and next(decoder.parameters()).is_meta  # its states are never used
    if is_empty or (is_usual and shards_model()):  # a trial needs a whole model
        return Layout(blocks, "norm" if is_usual else "")
    if not blocks or shards_model():
        raise _unusual(type(decoder).__name__)
    try:
        trial = _tried(decoder, blocks)
        layout = Layout(blocks, next(iter(trial.after), ""))
        with _truncated(decoder, layout, 1):
            shortened = _tried(decoder, blocks)
    except Exception as error:  # any class of any library, some of which need more than token IDs
        if is_usual:
            return Layout("layers", "norm")
        raise _unusual(type(decoder).__name__) from error
    is_raw = _is_same(shortened.returned, shortened.states[-1])
    if layout.norm in trial.before or not is_raw or not trial.are_all_told:
        raise _unusual(type(decoder).__name__)
    return layout


def check_states(model: "PreTrainedModel") -> None:
    """Check that a model returns its embeddings and the states after every block, in this order.

    Raises:
        ArtifactError: It does not: Mamba's first hidden states are those after the first block.
    """
    decoder = text_decoder(model)
    blocks = _name_of_blocks(decoder)
    if blocks and not _tried(decoder, blocks).are_all_told:
        raise ArtifactError(
            f"{type(decoder).__name__}: its hidden states are not the embeddings and the states "
            "after every block",
            hint="retrieval compares these; use another model",
        )


def _name_of_blocks(decoder: Any) -> str:
    from torch import nn

    lists = [n for n, child in decoder.named_children() if isinstance(child, nn.ModuleList)]
    return "layers" if "layers" in lists else next(iter(lists), "")


@dataclass(frozen=True)
class _Trial:
    """What a decoder did with two tokens.

    Attributes:
        states: The input of the first block, and the output of every block.
        told: The hidden states that the class returns.
        returned: The last hidden state that it returns.
        before: Names of norms that ran before the last block's end.
        after: Names of norms that ran after it.
    """

    states: list[Any]
    told: tuple[Any, ...]
    returned: Any
    before: list[str]
    after: list[str]

    @property
    def are_all_told(self) -> bool:
        """Whether the class returns all states; the last one may have gone through the norm."""
        pairs = zip(self.told[:-1], self.states[:-1], strict=False)
        return len(self.told) == len(self.states) and all(_is_same(*pair) for pair in pairs)


def _tried(decoder: Any, name: str) -> _Trial:
    import torch

    blocks, states, order = getattr(decoder, name), [], []
    norms = {n: child for n, child in decoder.named_children() if "Norm" in type(child).__name__}

    def note_input(module: Any, given: Any, named: Any) -> None:
        states.append((given[0] if given else named.get("hidden_states")).clone())

    def note_output(module: Any, given: Any, output: Any) -> None:
        states.append((output[0] if isinstance(output, tuple) else output).clone())
        order.append("")

    hooks = [blocks[0].register_forward_pre_hook(note_input, with_kwargs=True)]
    hooks += [block.register_forward_hook(note_output) for block in blocks]
    hooks += [
        norm.register_forward_hook(lambda *_, n=n: order.append(n)) for n, norm in norms.items()
    ]
    modes = {module: module.training for module in decoder.modules()}
    ids = torch.zeros((1, 2), dtype=torch.long, device=next(decoder.parameters()).device)
    try:
        with torch.no_grad():
            output = decoder.eval()(input_ids=ids, use_cache=False, output_hidden_states=True)
    finally:
        for hook in hooks:
            hook.remove()
        for module, was_training in modes.items():
            module.training = was_training
    last = len(order) - order[::-1].index("") - 1
    before, after = filter(None, order[:last]), order[last + 1 :]
    return _Trial(states, output.hidden_states, output.last_hidden_state, [*before], after)


def _is_same(one: Any, other: Any) -> bool:
    import torch

    return one.shape == other.shape and torch.equal(one, other)


def text_decoder(model: Any) -> Any:
    """Return the part of a model or of its PEFT wrapper that computes text hidden states."""
    decoder = model.get_decoder()
    has_head = hasattr(decoder, "lm_head")  # Llama 4's decoder includes the LM head
    return getattr(decoder, "model", decoder) if has_head else decoder


def find_blocks(model: Any) -> "Sequence[nn.Module]":
    """Return the blocks of a model's text decoder; none if it has no list of them."""
    decoder = text_decoder(model)
    name = _name_of_blocks(decoder)
    return [*getattr(decoder, name)] if name else []


def _keep_blocks(config: "PreTrainedConfig", layer: int) -> None:
    """Restrict a config to the first text blocks, without image and audio blocks.

    If blocks share weights or depend on the number of all blocks, the config keeps all: with fewer,
    it would be a different model's.
    """
    text = config.get_text_config()
    for name in config.sub_configs:
        other = getattr(config, name, None)
        for key in ("num_hidden_layers", "depth"):
            if other is not None and other is not text and hasattr(other, key):
                setattr(other, key, 0)
    keys = (*_SHARED_AMONG_BLOCKS, *_OF_DEPTH)
    if text.model_type in _WHOLE_TYPES or any(getattr(text, key, None) for key in keys):
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
    config = load_config(folder, settings)
    if layer is None:
        return _empty(model_class(config), folder, settings, config)
    _keep_blocks(config, layer)
    model = _empty(_class_without_head(config), folder, settings, config)
    _drop_upper(model, layer)
    return model


def _class_without_head(config: "PreTrainedConfig") -> Any:
    from transformers import AutoModel

    if type(config) in AutoModel._model_mapping or getattr(config, "auto_map", None):
        return AutoModel
    raise ArtifactError(
        f"models of type '{config.model_type}': transformers has no class for them without an LM "
        "head",
        hint=_DECODERS,
    )


def _empty(
    kind: Any, folder: Path, settings: ModelSettings, config: "PreTrainedConfig"
) -> "PreTrainedModel":
    import torch

    with opening(str(folder / "config.json"), AGAIN), torch.device("meta"):
        model: PreTrainedModel = kind.from_config(
            config, dtype=compute_dtype(settings), trust_remote_code=settings.trust_remote_code
        )
    return model


def _unusual(name: str) -> ArtifactError:
    return ArtifactError(
        f"{name} has no list of decoder blocks, or does not return their states",
        hint=_DECODERS,
    )
