"""Names of modules are compared by rules alone, without a model or a file."""

import re

import numpy as np
import pytest

from adaptermix.adapters.format import UpdateSpec, describe_config
from adaptermix.adapters.names import (
    PREFIX,
    WRAPPERS,
    check_fusion,
    check_names_meet,
    check_part_names,
    check_prefixes,
    common_names,
    core,
    embeddings_of,
    has_modes,
    is_conv1d,
    is_embedding_name,
    is_expert,
    names_in_models,
    unknown_start,
    unwrapped_pattern,
    without_wrappers,
)
from adaptermix.errors import ArtifactError

PATHS = ("a", "b")
BLOCK = "layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{PREFIX}{PREFIX}model.{BLOCK}", f"model.{BLOCK}"),
        (f"module.{PREFIX}model.layers.0._orig_mod.x", "model.layers.0.x"),
        (f"{PREFIX}model.submodule.x", "model.submodule.x"),  # a name that ends like a wrapper
        (f"{PREFIX}model.unembed_tokens.lora_A.weight", "lm_head.lora_A.weight"),
        (f"{PREFIX}unembed_tokens.lora_A.weight", "lm_head.lora_A.weight"),
        ("model.unembed_tokens.lora_A.weight", "model.unembed_tokens.lora_A.weight"),
        *((f"{wrapper}x", "x") for wrapper in WRAPPERS),
    ],
)
def test_wrappers_are_left_out_of_names(name, expected):
    assert without_wrappers(name) == expected


@pytest.mark.parametrize("prefix", ["trainer.base_model.model.", "x._odd.", "_odd."])
def test_an_unknown_wrapper_is_told(prefix):
    with pytest.raises(ArtifactError, match=f"has the unknown prefix or wrapper '{prefix}'"):
        without_wrappers(f"{prefix}y.lora_A.weight")


def test_wrappers_are_left_out_of_patterns_in_either_form():
    for wrapper in WRAPPERS[:-1]:
        assert unwrapped_pattern(f"{wrapper}a.{wrapper}b") == "a.b"
        assert unwrapped_pattern(rf"a\.{re.escape(wrapper)}b") == r"a\.b"
    # In a pattern, it may be the end of another name.
    assert unwrapped_pattern("submodule.x") == "submodule.x"


@pytest.mark.parametrize(
    ("prefix", "others"),
    [
        ("model.", ["model.language_model.", "language_model.model."]),
        ("model.language_model.", ["language_model.model.", "model."]),
        ("language_model.model.", ["model.language_model.", "model."]),
        ("", []),
        ("transformer.", []),
        ("language_model.", []),
    ],
)
def test_a_module_has_a_name_in_every_class_of_its_model(prefix, others):
    assert names_in_models(prefix + BLOCK) == [name + BLOCK for name in [prefix, *others]]
    assert core(prefix + BLOCK) == BLOCK
    assert has_modes(prefix + BLOCK) is (
        prefix in ("model.language_model.", "language_model.model.")
    )


def test_names_of_a_text_model_show_that_there_are_others():
    assert has_modes(f"model.text_model.{BLOCK}")
    names = [
        f"model.text_model.layers.{at}.self_attn.{kind}_proj" for at in (0, 1) for kind in "qv"
    ]
    specs = dict.fromkeys(names, UpdateSpec(4, 4, 2, 1.0, np.dtype(np.float32)))
    # Their last parts alone would add a LoRA to the vision model as well.
    assert describe_config(specs, None, all_layers=True)["target_modules"] == sorted(names)


def renamed(*sets):
    return [
        [rename(name) for name in names]
        for rename, names in zip(common_names(sets), sets, strict=True)
    ]


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        # The longest prefix, in either order; of two of one length, that of transformers 5.
        ((["layers.0.q"], ["model.layers.0.q"]), [["model.layers.0.q"]] * 2),
        ((["model.layers.0.q"], ["layers.0.q"]), [["model.layers.0.q"]] * 2),
        (
            (["language_model.model.layers.0.q"], ["model.language_model.layers.0.q"]),
            [["model.language_model.layers.0.q"]] * 2,
        ),
        (
            (["model.layers.0.q"], ["language_model.model.layers.0.q"]),
            [["language_model.model.layers.0.q"]] * 2,
        ),
        # A head is outside the decoder of every class.
        (
            (["layers.0.q", "score"], ["model.layers.0.q", "model.lm_head", "model.embed_out"]),
            [["model.layers.0.q", "score"], ["model.layers.0.q", "lm_head", "embed_out"]],
        ),
        # What is equal stays, heads of any prefix as well.
        (
            (["model.layers.0.q", "model.lm_head"], ["model.layers.0.q", "model.lm_head"]),
            [["model.layers.0.q", "model.lm_head"]] * 2,
        ),
        # A model has one head, however it is named.
        (
            (["model.layers.0.q", "model.lm_head"], ["model.layers.0.q", "lm_head.weight"]),
            [["model.layers.0.q", "lm_head"], ["model.layers.0.q", "lm_head.weight"]],
        ),
        ((["lm_head"], ["language_model.lm_head"]), [["lm_head"]] * 2),
        ((["lm_head", "language_model.lm_head"],), [["lm_head"] * 2]),
        (
            (["model.language_model.layers.0.q", "lm_head"], ["language_model.lm_head"]),
            [["model.language_model.layers.0.q", "lm_head"], ["lm_head"]],
        ),
        (
            (["language_model.model.layers.0.q", "score"], ["language_model.score"]),
            [["language_model.model.layers.0.q", "language_model.score"], ["language_model.score"]],
        ),
        (
            (["model.layers.0.q", "lm_head"], ["language_model.model.layers.0.q"]),
            [
                ["language_model.model.layers.0.q", "language_model.lm_head"],
                ["language_model.model.layers.0.q"],
            ],
        ),
        (
            (["layers.0.q", "lm_head"], ["language_model.layers.0.q"]),
            [["language_model.layers.0.q", "lm_head"], ["language_model.layers.0.q"]],
        ),
        # A part with two prefixes says nothing about either.
        (
            (["layers.0.q", "model.layers.1.q"], ["model.language_model.layers.0.q"]),
            [["layers.0.q", "model.layers.1.q"], ["model.language_model.layers.0.q"]],
        ),
        # Parts without blocks have no prefix to give.
        (
            (["layers.0.q", "norm"], ["model.language_model.norm", "layers.0.q"]),
            [["layers.0.q", "norm"], ["model.language_model.norm", "layers.0.q"]],
        ),
        # Without blocks of their own prefix, parts have the longest prefix, too.
        (
            (
                ["language_model.model.layers.0.q", "projector.1", "visual.merger.mlp.0"],
                [
                    "model.language_model.layers.0.q",
                    "model.projector.1",
                    "model.visual.merger.mlp.0",
                ],
            ),
            [
                [
                    "model.language_model.layers.0.q",
                    "model.projector.1",
                    "model.visual.merger.mlp.0",
                ]
            ]
            * 2,
        ),
        # Names outside the blocks follow the first part of their prefix that has blocks.
        (
            (
                ["layers.0.q", "visual.blocks.0.q", "norm"],
                ["model.language_model.layers.0.q", "model.visual.blocks.0.q"],
            ),
            [
                [
                    "model.language_model.layers.0.q",
                    "model.visual.blocks.0.q",
                    "model.language_model.norm",
                ],
                ["model.language_model.layers.0.q", "model.visual.blocks.0.q"],
            ],
        ),
        (
            (["model.layers.0.q", "other.norm"], ["model.language_model.layers.0.q"]),
            [
                ["model.language_model.layers.0.q", "other.norm"],
                ["model.language_model.layers.0.q"],
            ],
        ),
    ],
)
def test_sets_of_names_get_the_prefixes_of_the_richest(sets, expected):
    assert renamed(*sets) == expected


def test_a_name_that_was_not_in_the_set_keeps_its_prefix():
    rename, _ = common_names([["layers.0.q"], ["model.layers.0.q"]])
    assert rename("transformer.wte") == "transformer.wte"
    assert rename("layers.7.k") == "model.layers.7.k"


@pytest.mark.parametrize(
    ("one", "other", "fits"),
    [
        ("", "model.language_model.", True),
        ("", "", True),
        ("model.model.", "model.model.", True),
        ("model.model.", "model.model.model.", True),
        ("model.model.", "language_model.model.", False),
        ("model.language_model.model.", "language_model.model.", True),
        ("model.gpt_neox.", "gpt_neox.", True),
        ("gpt_neox.", "transformer.", False),
        ("gpt_neox.", "backbone.", False),
        ("model.backbone.", "model.", True),
        ("language_model.transformer.", "transformer.", True),
    ],
)
def test_prefixes_of_one_model_in_its_classes_and_versions(one, other, fits):
    names = [f"{prefix}layers.0.q" for prefix in (one, other)]
    for a, b in (names, names[::-1]):
        # The example is of the part that differs.
        sets = [a, "visual.blocks.0.q"], ["visual.blocks.0.q", b]
        if fits:
            check_prefixes(*sets, PATHS)
        else:
            with pytest.raises(ArtifactError, match=f"of a are named like '{a}', .* b like '{b}'"):
                check_prefixes(*sets, PATHS)


def test_prefixes_of_different_parts_are_not_compared():
    check_prefixes(["model.model.layers.0.q"], ["visual.blocks.0.q", "layers"], PATHS)


@pytest.mark.parametrize(
    ("one", "other", "is_refused"),
    [
        ("model.layers.0.q", "model.layers.1.q", False),
        ("model.layers.0.q", "model.trunk.0.q", True),
        ("model.layers.0.q", "model.decoder.layers.0.q", True),
        ("encoder.layers.0.q", "decoder.layers.0.q", False),
        ("model.layers.0.q", "model.vision_tower.layers.0.q", False),
        ("vision_tower.layers.0.q", "vision_tower.h.0.q", True),
        ("vision_tower.layers.0.q", "audio_tower.layers.0.q", False),
        ("model.layers.0.q", "lm_head", False),
        ("lm_head", "score", False),
        ("model.layers.0.experts.1.q", "model.layers.0.experts.2.q", False),
    ],
)
def test_sets_of_one_part_have_a_block_in_common(one, other, is_refused):
    for a, b in ((one, other), (other, one)):
        if is_refused:
            with pytest.raises(ArtifactError, match=rf"^b has no .* with a: .* '{b}' and '{a}'$"):
                check_names_meet([a], [b], PATHS)
        else:
            check_names_meet([a], [b], PATHS)
    check_names_meet([one, other], [other], PATHS)


@pytest.mark.parametrize(
    ("one", "other", "is_refused"),
    [
        ("model.layers.0.mlp.gate_up_proj", "model.layers.0.mlp.up_proj", True),
        ("model.layers.0.mlp.gate_up_proj", "layers.0.mlp.gate_proj", True),
        ("model.layers.0.attn.c_attn", "model.layers.0.attn.k_proj", True),
        ("model.layers.0.attn.query_key_value", "model.layers.0.attn.v_proj", True),
        ("model.layers.0.attn.Wqkv", "model.layers.0.attn.q_proj", True),
        ("model.layers.0.attn.qkv_proj", "model.layers.0.attn.q_proj", True),
        ("model.layers.0.attn.c_attn", "model.layers.1.attn.k_proj", False),
        ("model.layers.0.attn.c_attn", "model.layers.0.attn.o_proj", False),
        (
            "model.layers.0.mlp.experts.0.gate_up_proj",
            "model.layers.0.mlp.experts.0.up_proj",
            False,
        ),
    ],
)
def test_a_fused_layer_is_not_merged_with_its_parts(one, other, is_refused):
    for first, second, (path, owner) in (([one], [other], "ab"), ([other], [one], "ba")):
        if is_refused:
            words = f"^{path} updates '{one}', but {owner} updates .*, '{other}'$"
            with pytest.raises(ArtifactError, match=words):
                check_fusion(first, second, PATHS)
        else:
            check_fusion(first, second, PATHS)


@pytest.mark.parametrize(
    ("one", "other", "is_refused"),
    [
        (["model.layers.0.mlp.x"], ["layers.0.feed_forward.x"], True),
        (["model.layers.0.mlp.x"], ["layers.1.feed_forward.x"], False),
        (["model.layers.0.mlp.x"], ["layers.0.self_attn.x"], False),
        (["model.layers.0.mlp.x", "model.layers.0.ffn.x"], ["layers.0.ffn.x"], False),
        (["model.layers.0.mamba.x"], ["layers.0.mlp.x"], False),
        (["model.layers.0.norm.x"], ["layers.0.attn.x"], False),
        (["model.layers.0.attn.x"], ["layers.0.attention.x"], True),
        (["model.layers.0.self_attention.x"], ["layers.0.self_attn.x"], True),
        (["model.layers.0.ffn.x"], ["layers.0.block_sparse_moe.x"], True),
    ],
)
def test_a_part_of_a_block_has_one_name(one, other, is_refused):
    for first, second in ((one, other), (other, one)):
        if is_refused:
            words = f"^a names .* like '{first[0]}', and b like '{second[0]}'$"
            with pytest.raises(ArtifactError, match=words):
                check_part_names(first, second, PATHS)
        else:
            check_part_names(first, second, PATHS)


@pytest.mark.parametrize(
    ("one", "other", "is_refused"),
    [
        (["layers.0.inner.mlp.x"], ["model.layers.0.mlp.y", "model.layers.0.attn.y"], True),
        (["layers.0.inner.mlp.x"], ["layers.1.mlp.x"], False),
        (["layers.0.mlp.shared.x"], ["layers.0.mlp.x"], False),
        (["layers.0.shared.attn.x", "layers.0.attn.x"], ["layers.0.attn.x"], False),
        (["layers.0.shared.attn.x"], ["layers.0.shared.attn.x", "layers.0.attn.x"], False),
    ],
)
def test_a_wrapper_of_a_block_is_refused(one, other, is_refused):
    for first, second in ((one, other), (other, one)):
        if is_refused:
            with pytest.raises(
                ArtifactError, match=r"names .* like 'layers\.0\.inner\.mlp\.x', and"
            ):
                check_part_names(first, second, PATHS)
        else:
            check_part_names(first, second, PATHS)


def test_a_block_of_an_unknown_model_is_found():
    known = ["model.layers.0.q", "h.0.q", "lm_head", "own.head"]
    assert unknown_start(known) is None
    assert unknown_start([*known, "own.layers.0.q", "other.layers.0.q"]) == "own.layers.0.q"


def test_experts_and_embeddings_are_known_by_their_names():
    assert is_expert("model.layers.0.mlp.experts.11.up_proj")
    assert not is_expert("model.layers.0.mlp.experts.up_proj")
    assert not is_expert("model.layers.0.mlp.up_proj")
    for end in ("embed_tokens", "wte", "word_embeddings", "embed_in", "lm_head", "embed_out"):
        assert is_embedding_name(f"model.{end}", None)
    for kind in (None, "llama", "xlm", ""):
        assert is_embedding_name("model.language_model.lm_head", kind)
        assert is_embedding_name("wte", kind)
        assert not is_embedding_name("wte.x", kind)
        assert is_embedding_name("transformer.proj", kind) is (kind == "xlm")
    assert embeddings_of(None) == embeddings_of("llama") == ("embed_tokens", "lm_head")
    assert embeddings_of("xlm") == ("embeddings", "proj")


@pytest.mark.parametrize(
    ("module", "kind", "given", "expected"),
    [
        ("transformer.h.0.attn.c_attn", "gpt2", None, True),
        ("transformer.h.0.attn.c_attn", "gpt2", False, True),
        ("transformer.h.0.attn.other", "gpt2", True, False),
        ("transformer.h.0.attn.c_attn", "own", None, False),
        ("transformer.h.0.attn.other", "own", True, True),
        ("transformer.h.0.attn.other", None, False, False),
        ("lm_head", "own", True, False),
        ("c_attn.x", "gpt2", True, False),
    ],
)
def test_the_layers_of_gpt_2_are_transposed(module, kind, given, expected):
    assert is_conv1d(module, kind, given) is expected
