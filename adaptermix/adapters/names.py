"""Module names: their wrappers, and their differences between the classes of one model.

All comparisons of module names use this module. A name has a prefix, which depends on the model's
class and on the version of transformers, and a core, which does not: ``model.layers.0.mlp``,
``model.language_model.layers.0.mlp``, ``language_model.model.layers.0.mlp`` and ``layers.0.mlp``
have the core ``layers.0.mlp``.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

from adaptermix.errors import ArtifactError

PREFIX = "base_model.model."  # prefix of every key that PEFT saves
# Added to names by torch.compile, activation checkpointing, FSDP, Lightning and DDP.
WRAPPERS = (
    *("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "_forward_module."),
    "module.",
)
# The decoder's attribute name in classes with a head: base_model_prefix in transformers.
BASE_PREFIXES = (
    *("model", "transformer", "backbone", "gpt_neox", "gpt_neox_japanese", "rwkv", "bert"),
    *("roberta", "roberta_prelayernorm", "roc_bert", "rembert", "roformer", "electra", "ernie"),
    *("data2vec_text", "biogpt", "cpmant", "git", "prophetnet", "reformer"),
)
# Names of input and output embeddings: the default, and exceptions by model_type.
_EMBEDDINGS = ("embed_tokens", "lm_head")
_EMBEDDINGS_BY_TYPE = {
    **dict.fromkeys(("bloom", "falcon"), ("word_embeddings", "lm_head")),
    **dict.fromkeys(
        ("codegen", "dbrx", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "mpt"),
        ("wte", "lm_head"),
    ),
    **dict.fromkeys(("falcon_mamba", "mamba", "mamba2"), ("embeddings", "lm_head")),
    **dict.fromkeys(("gpt_neox", "gpt_neox_japanese"), ("embed_in", "embed_out", "lm_head")),
    **dict.fromkeys(("biogpt", "trocr"), ("embed_tokens", "output_projection")),
    **dict.fromkeys(
        (
            *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "ernie"),
            *("megatron-bert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer"),
            *("xlm-roberta", "xlm-roberta-xl", "xmod"),
        ),
        ("word_embeddings", "decoder"),
    ),
    "ctrl": ("w", "lm_head"),
    "electra": ("word_embeddings", "generator_lm_head"),
    "git": ("word_embeddings", "output"),
    "prophetnet": ("word_embeddings", "lm_head"),
    "whisper": ("embed_tokens", "proj_out"),
    "xlm": ("embeddings", "proj"),
    "xlnet": ("word_embedding", "lm_loss"),
    "openai-gpt": ("tokens_embed", "lm_head"),
    "modernbert-decoder": ("tok_embeddings", "decoder"),
    "rwkv": ("embeddings", "head"),
}
# Model types that store linear layers as [in, out] (transformers' Conv1D), and the layers' names.
CONV1D_TYPES = ("clvp_decoder", "decision_transformer", "gpt2", "imagegpt", "openai-gpt")
CONV1D = ("c_attn", "c_fc", "c_proj", "q_attn")
# Modules that PEFT saves as whole weights if the vocabulary was resized.
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "lm_head", "embed_out")
# The decoder's prefix with a vision tower: in memory, and in files of transformers 4 and vLLM.
_MULTIMODAL = ("model.language_model.", "language_model.model.")
_HEADS = ("lm_head", "embed_out", "score")  # outside the decoder, whatever its prefix
_NEOX_HEADS = ("embed_out", "lm_head")  # in transformers 4, and in 5
_WRAPPER = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(map(re.escape, WRAPPERS))})")
_UNKNOWN_WRAPPER = re.compile(r"(?:^|.*\.)_[^.]*\.|.*base_model\.model\.")
_CLASS_PREFIX = re.compile(
    rf"(?:model\.){{0,2}}(?:language_model\.)?(?:(?:{'|'.join(BASE_PREFIXES)})\.)?"
)
# Parts of names in memory, and what they are in a model's files, if transformers renames them.
_IN_FILES = (
    ("lm_head.", "embed_out."),  # GPT-NeoX
    (".mlp.", ".block_sparse_moe."),  # Mixtral, MiniMax
    (".mlp.router.", ".block_sparse_moe.gate."),  # Phi MoE
    (".router.", ".router.layer."),  # Granite MoE
    (".mlp.gate.", ".mlp.router.gate."),  # Hunyuan 3
    (".mlp.shared_experts.", ".mlp.shared_mlp."),  # Hunyuan 3
    (".mlp.shared_experts.", ".mlp.shared_expert."),  # Laguna
    (".self_attn.forget_gate.", ".self_attn."),  # Kimi Linear
)
# Tinker's name of the LM head, which it places inside the decoder.
_TINKER_HEAD = re.compile(r"(?<=base_model\.model\.)(?:model\.)?unembed_tokens\.")
# Tinker's experts of a layer: three-dimensional factors, some of them shared by all experts.
TINKER_EXPERTS = re.compile(r"\.experts\.w[123]\.lora_[AB]\.weight$")
_EXPERT = re.compile(r"\.experts\.\d+\.")
_BLOCK = re.compile(r"\.\d+\.")
# Layers that some models have instead of several, and those that they replace.
_QKV = ("q_proj", "k_proj", "v_proj")
_FUSED = {
    **dict.fromkeys(("qkv_proj", "query_key_value", "Wqkv", "c_attn"), _QKV),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
# Names of one part of a block. A block has one of each group.
_PART_NAMES = (
    frozenset({"self_attn", "attention", "self_attention", "attn"}),
    frozenset({"mlp", "feed_forward", "ffn", "block_sparse_moe"}),
)
_IN_BLOCK = re.compile(r"(?P<block>.*?\.\d+)\.(?P<part>[^.]+)\.")
# Distinct parts of one model, which are never the same part under different names.
_PART = re.compile(r"(?:.*[._])?(encoder|decoder|vis\w*|image|audio|speech|vit)(?:[._].*)?")
# Encoders of images and audio in models of several modes.
_ENCODER = re.compile(r"(?:^|[._])(?:vis\w*|image|audio|speech|vit|vpm|apm)(?:[._]|$)")
# First components of the names of blocks' modules in known models.
_STARTS = frozenset(
    """
    model language_model text_model layers h block blocks decoder encoder thinker talker llm
    visual vision_tower vision_model audio_tower multi_modal_projector embed_tokens_extend
    """.split()
) | {*BASE_PREFIXES}


def without_wrappers(name: str) -> str:
    """Return a tensor's name without PEFT's prefix and without training wrappers.

    Raises:
        ArtifactError: The name has an unknown prefix or wrapper.
    """
    short = _WRAPPER.sub("", name)
    short = _TINKER_HEAD.sub("lm_head.", short)
    while short.startswith(PREFIX):
        short = short.removeprefix(PREFIX)
    if unknown := _UNKNOWN_WRAPPER.match(short):
        raise ArtifactError(
            f"'{name}' has the unknown prefix or wrapper '{unknown[0]}'",
            hint=f"rename its tensors; known wrappers are {', '.join(WRAPPERS)}",
        )
    return short


def unwrapped_pattern(pattern: str) -> str:
    """Return a pattern of module names without wrappers, which may be escaped in it."""
    for wrapper in WRAPPERS[:-1]:
        pattern = pattern.replace(wrapper, "").replace(re.escape(wrapper), "")
    return pattern


@cache
def _split(name: str) -> tuple[str, str]:
    """Return a name's prefix, which depends on the model's class, and its core."""
    match = _CLASS_PREFIX.match(name)
    prefix = match[0] if match else ""
    return prefix, name[len(prefix) :]


def core(name: str) -> str:
    """Return the part that all names of a module have in common."""
    return _split(name)[1]


def names_in_models(name: str) -> list[str]:
    """Return all names of a module: this one, and those in the model's other classes.

    A bare decoder's name is not included, because it may mean another model.
    """
    prefix, rest = _split(name)
    forms = (*_MULTIMODAL, "model.")
    return [name, *(other + rest for other in forms if prefix in forms and other != prefix)]


def renamed_cores(weight: str) -> list[str]:
    """Return the cores that a weight may have in files or in memory: its own, and other names."""
    own = core(weight)
    pairs = [*_IN_FILES, *((files, memory) for memory, files in _IN_FILES)]
    return [own, *(own.replace(old, new) for old, new in pairs if old in own)]


def has_modes(name: str) -> bool:
    """Whether a module's name shows that its model has other modalities besides text.

    In Idefics, SmolVLM and Emu3, the language model is called ``text_model``.
    """
    prefix, rest = _split(name)
    return prefix in _MULTIMODAL or rest.startswith("text_model.")


def fits_text_alone(modules: Sequence[str]) -> bool:
    """Whether a loader accepts modules for a multimodal model without its encoders.

    Encoders of images and audio have modules such as ``model.visual.blocks.0.attn.qkv``. vLLM
    compares only the last parts of names with its layers. If a layer of the text has this part
    too, such as ``q_proj``, the encoder's module is ignored, and it has no effect on text.
    """
    text = [module for module in modules if _is_of_text(module)]
    lasts = {module.rpartition(".")[2] for module in text}
    return all(module.rpartition(".")[2] in lasts for module in modules)


def _is_of_text(module: str) -> bool:
    """Whether a module is known to be of the language model in a model of any class."""
    return core(module).partition(".")[0] in ("layers", *EMBEDDINGS)


def common_names(sets: Sequence[Sequence[str]]) -> list[Callable[[str], str]]:
    """Return a renaming function for every set of names, so that all get the same prefixes.

    A part of the model, such as ``layers`` or ``visual``, gets the longest prefix that it has in
    one of the sets. Names outside the blocks follow the blocks that share their prefix, if there
    are any. Of two prefixes of equal length, ``model.language_model.``, which transformers 5 uses
    in memory, is preferred. Heads such as ``lm_head``, if they differ or blocks are renamed, get
    the prefix that they have beside the blocks: ``language_model.`` beside
    ``language_model.model.layers``, or else none. GPT-NeoX's head ``embed_out`` is ``lm_head`` in
    transformers 5, and becomes it if a set has that name.
    """
    sets = [list(names) for names in sets]
    found = [{core(name).partition(".")[0] for name in names} & {*_NEOX_HEADS} for names in sets]
    is_mixed = len(set().union(*found)) == 2 and not any(len(heads) == 2 for heads in found)
    own = [_prefixes(names) for names in sets]
    best: dict[str, str] = {}  # of parts with blocks
    outside: dict[str, str] = {}
    for prefixes, blocks in own:
        for part, prefix in prefixes.items():
            known = best if part in blocks else outside
            known[part] = max(known.get(part, prefix), prefix, key=lambda p: (len(p), p))
    is_renamed = any(best[part] != prefixes[part] for prefixes, blocks in own for part in blocks)
    beside = any(re.match(r"language_model\..", prefix) for prefix in best.values())
    names = {_split(name) for names in sets for name in names}
    heads = {
        part: "language_model." if beside else ""
        for part in _HEADS
        if is_renamed or len({p for p, rest in names if rest.partition(".")[0] == part}) > 1
    }
    outside = {part: prefix for part, prefix in outside.items() if part not in _HEADS}
    renamed = [_renaming(prefixes, blocks, best, outside, heads) for prefixes, blocks in own]
    return [_with_head(rename, *_NEOX_HEADS) for rename in renamed] if is_mixed else renamed


def _prefixes(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return each part's prefix, and the parts with blocks; nothing if a part has two prefixes."""
    found: dict[str, str] = {}
    blocks = []
    for name in names:
        prefix, rest = _split(name)
        part = rest.partition(".")[0]
        if found.setdefault(part, prefix) != prefix:
            return {}, []
        if _BLOCK.search(rest):
            blocks.append(part)
    return found, list(dict.fromkeys(blocks))


def _renaming(
    prefixes: Mapping[str, str],
    blocks: Sequence[str],
    best: Mapping[str, str],
    outside: Mapping[str, str],
    heads: Mapping[str, str],
) -> Callable[[str], str]:
    by_prefix = {prefixes[part]: best[part] for part in reversed(blocks)}
    targets = {
        part: best[part] if part in best else by_prefix.get(prefix, outside.get(part, prefix))
        for part, prefix in prefixes.items()
    } | dict(heads)

    def rename(name: str) -> str:
        prefix, rest = _split(name)
        return targets.get(rest.partition(".")[0], prefix) + rest

    return rename


def _with_head(rename: Callable[[str], str], head: str, new: str) -> Callable[[str], str]:
    """Extend a renaming function: one head gets the name of another."""

    def with_head(name: str) -> str:
        prefix, rest = _split(rename(name))
        is_head = rest.partition(".")[0] == head
        return prefix + (new + rest.removeprefix(head) if is_head else rest)

    return with_head


def check_prefixes(first: Sequence[str], second: Sequence[str], paths: tuple[str, str]) -> None:
    """Check that the blocks of two sets of modules have prefixes of classes of one model.

    Other prefixes, such as ``model.model.`` beside ``model.``, are those of an unknown wrapper or
    of different models. ``common_names`` would give one of them to both sets.

    Raises:
        ArtifactError: They have not; the message names one module of each.
    """
    (one, blocks), (other, others) = _prefixes(first), _prefixes(second)
    for part in blocks:
        if part in others and not _are_of_one_model(one[part], other[part]):
            a, b = (
                next(m for m in ms if _split(m)[1].startswith(f"{part}.")) for ms in (first, second)
            )
            raise ArtifactError(
                f"the modules of {paths[0]} are named like '{a}', and those of {paths[1]} like "
                f"'{b}'; no known model has both prefixes",
                hint="the adapters belong to different models, or one has an unknown prefix; "
                "rename its tensors and target_modules",
            )


def _are_of_one_model(one: str, other: str) -> bool:
    is_bare = "" in (one, other) and not any(p.startswith("model.model.") for p in (one, other))
    return is_bare or _decoder(one) == _decoder(other)


def _decoder(prefix: str) -> str:
    """Return the part of a prefix that is the same in all classes and versions of a model."""
    rest = re.sub(r"^(?:model\.)?language_model\.", "", prefix)
    if rest != "model.model.":
        rest = rest.removeprefix("model.")
    return "" if rest == "backbone." else rest  # the name of Nemotron-H's in its own code


def check_names_meet(first: Sequence[str], second: Sequence[str], paths: tuple[str, str]) -> None:
    """Check that two sets of modules of the same part of a model have a block in common.

    Raises:
        ArtifactError: They have none; the message names one module of each.
    """
    one, other = (
        {m[: at.start()]: m for m in ms if (at := _BLOCK.search(m))} for ms in (first, second)
    )
    if one.keys() & other.keys():
        return
    parts = [{_part(block) for block in blocks} for blocks in (one, other)]
    if parts[0] & parts[1]:
        a, b = next(iter(one.values())), next(iter(other.values()))
        raise ArtifactError(
            f"{paths[1]} has no decoder block in common with {paths[0]}: their modules are "
            f"named like '{b}' and '{a}'",
            hint="the adapters belong to different models, or one has an unknown prefix; "
            "rename its tensors",
        )


def _part(block: str) -> str:
    """Return the part of a model that a block belongs to; empty for its decoder."""
    match = _PART.fullmatch(block)
    return "" if match is None or match[1] == "decoder" else match[1]


def is_of_encoder(module: str) -> bool:
    """Whether a module of a block belongs to an encoder of images or audio."""
    block = _BLOCK.search(module)
    return block is not None and _ENCODER.search(module[: block.start()]) is not None


def check_fusion(first: Sequence[str], second: Sequence[str], paths: tuple[str, str]) -> None:
    """Check that no set of modules has the parts of a fused layer of the other.

    A model has one or the other, so half of a merge would have no effect. Experts are checked with
    their adapters (``check_experts``).

    Raises:
        ArtifactError: One has; the message names one module of each.
    """
    for one, other, (path, owner) in ((first, second, paths), (second, first, paths[::-1])):
        names = {core(module): module for module in other}
        for module in one:
            block, _, last = core(module).rpartition(".")
            parts = (names.get(f"{block}.{part}") for part in _FUSED.get(last, ()))
            if (found := next(filter(None, parts), None)) and not is_expert(module):
                raise ArtifactError(
                    f"{path} updates '{module}', but {owner} updates a part of it as a separate "
                    f"layer, '{found}'",
                    hint="one of the base models was converted; train both adapters on the same "
                    "base model",
                )


def check_part_names(first: Sequence[str], second: Sequence[str], paths: tuple[str, str]) -> None:
    """Check that two sets of modules do not have different names for one part of a block.

    Meta's and Mistral's own files have ``attention.wq`` for ``self_attn.q_proj``, and Mixtral in
    transformers 4 has ``block_sparse_moe`` for ``mlp``. A wrapper of a block has a name before the
    part: ``layers.0.inner.mlp``. Half of a merge would have no effect.

    Raises:
        ArtifactError: They have; the message names one module of each.
    """
    one, other = (
        {found.groups(): m for m in ms if (found := _IN_BLOCK.match(core(m)))}
        for ms in (first, second)
    )
    for own, others, (path, owner) in ((one, other, paths), (other, one, paths[::-1])):
        for (block, part), module in own.items():
            inner = core(module).removeprefix(f"{block}.{part}.").partition(".")[0]
            groups = [group for group in _PART_NAMES if part in group]
            for group in (*groups, (part, inner)):
                theirs = [name for name in group if (block, name) in others]
                if theirs and not any((block, name) in own for name in theirs):
                    raise ArtifactError(
                        f"{path} names the modules of a block like '{module}', and {owner} like "
                        f"'{others[block, theirs[0]]}'",
                        hint="these are names of different programs or versions for one model, or "
                        "of a wrapper; rename the tensors and target_modules of one adapter, or "
                        "train it again",
                    )


def unknown_start(names: Iterable[str]) -> str | None:
    """Return a module of a block whose name starts differently than in known models, if any.

    The model may be of a custom class, or the name may have the prefix of a wrapper.
    """
    blocks = (name for name in names if _BLOCK.search(name))
    return next((name for name in blocks if name.partition(".")[0] not in _STARTS), None)


def is_expert(module: str) -> bool:
    """Whether a module belongs to one of a layer's experts: ``mlp.experts.3.up_proj``.

    Loaders fuse the experts of a model, and use one rank and one scaling for all of them.
    """
    return _EXPERT.search(module) is not None


def embeddings_of(model_type: str | None) -> tuple[str, ...]:
    """Return the names of the input and output embeddings of a model type."""
    return _EMBEDDINGS_BY_TYPE.get(model_type or "", _EMBEDDINGS)


def is_embedding_name(module: str, model_type: str | None) -> bool:
    """Whether a module is the input or output embeddings in a model of this type."""
    last = module.rpartition(".")[2]
    return last in EMBEDDINGS or last in embeddings_of(model_type)


def is_conv1d(module: str, model_type: str | None, given: bool | None) -> bool:
    """Whether a model stores the weight of a module as [in, out].

    Args:
        module: Name of the module.
        model_type: Type of the model.
        given: ``fan_in_fan_out`` of the adapter's config if the model has its own code. Used only
            for types without known Conv1D layers, because PEFT saves the value of the last module
            for all.
    """
    last = module.rpartition(".")[2]
    if model_type in CONV1D_TYPES:
        return last in CONV1D
    return bool(given) and last not in _HEADS
