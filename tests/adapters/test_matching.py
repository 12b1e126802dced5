"""Adapters are compared with each other and with a base model by names and shapes alone."""

from types import SimpleNamespace

import numpy as np
import pytest
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.format import ModuleTensors, UpdateSpec
from adaptermix.adapters.matching import (
    check_common_names,
    check_experts,
    check_fits,
    check_names,
    check_shapes,
    notes_on_base,
    notes_on_copies,
    notes_on_names,
    notes_on_revision,
    notes_on_revisions,
    refuse_other_base,
    share_a_base,
    with_common_names,
    with_names_of,
)
from adaptermix.errors import ArtifactError

BLOCK = "layers.0.self_attn.q_proj"


def adapter(*modules, path="a", saved=(), experts=0, config=None, record=None):
    """An adapter without files: what is compared here is in its names."""
    return Adapter(
        path=path,
        weights_path=path,
        config=config or {},
        record=record or {},
        factors={m: ModuleTensors(f"{m}.A", f"{m}.B", None, False, 0, experts) for m in modules},
        saved={name: f"saved {name}" for name in saved},
        file=None,
    )


def on(base, **config):
    """An adapter that was trained on a base model."""
    record = {"base_fingerprint": config.pop("print", "")}
    path = config.pop("path", "a")
    return adapter(path=path, config={"base_model_name_or_path": base} | config, record=record)


def updating(specs, **config):
    """An adapter of which only the shapes of its updates are known."""
    return SimpleNamespace(path="a", modules=list(specs), spec=specs.__getitem__, config=config)


def spec(out, inn, **options):
    return UpdateSpec(out, inn, 2, 1.0, np.dtype(np.float32), **options)


UP = "model.layers.0.mlp.up_proj"
EXPERT = "model.layers.0.mlp.experts.1.down_proj"
FUSED = "model.layers.0.mlp.experts.down_proj"
GATE_UP = "model.layers.0.mlp.experts.1.gate_up_proj"
APART = "model.layers.0.mlp.experts.1.down_proj.weight"


@pytest.mark.parametrize(
    ("specs", "shapes", "config", "fits"),
    [
        ({UP: spec(3, 5)}, {f"{UP}.weight": (3, 5)}, {}, True),
        ({UP: spec(3, 5)}, {f"{UP}.weight": (5, 3)}, {}, False),
        ({UP: spec(3, 5)}, {f"{UP}.weight": (5, 3)}, {"fan_in_fan_out": True}, True),
        ({UP: spec(3, 5)}, {f"{UP}.weight": (3, 5)}, {"fan_in_fan_out": True}, True),
        ({UP: spec(3, 5)}, {f"{UP}.weight": (5, 4)}, {"fan_in_fan_out": True}, False),
        ({"h.0.c_fc": spec(3, 5)}, {"h.0.c_fc.weight": (5, 3)}, {}, True),
        ({"h.0.c_fc": spec(3, 5)}, {"h.0.c_fc.weight": (5, 4)}, {}, False),
        # A bare decoder may be another model's; the classes with a head have one model's names.
        ({"layers.0.q": spec(3, 5)}, {"model.layers.0.q.weight": (3, 5)}, {}, False),
        (
            {"model.layers.0.q": spec(3, 5)},
            {"model.language_model.layers.0.q.weight": (3, 5)},
            {},
            True,
        ),
        # Embeddings are stored as [tokens, hidden].
        (
            {"model.embed_tokens": spec(3, 5, is_embedding=True)},
            {"model.embed_tokens.weight": (5, 3)},
            {},
            True,
        ),
        (
            {"model.embed_tokens": spec(3, 5, is_embedding=True)},
            {"model.embed_tokens.weight": (3, 5)},
            {},
            False,
        ),
        # A head that is in no file is the input's.
        ({"lm_head": spec(7, 3)}, {"model.embed_tokens.weight": (7, 3)}, {}, True),
        ({"lm_head": spec(7, 3)}, {"model.norm.weight": (7, 3)}, {}, False),
        ({"score": spec(7, 3)}, {"model.embed_tokens.weight": (7, 3)}, {}, False),
        # Two experts, in one tensor of either layout or apart, and a router beside them.
        ({EXPERT: spec(3, 5, experts=2)}, {FUSED: (2, 3, 5)}, {}, True),
        ({EXPERT: spec(3, 5, experts=2)}, {FUSED: (2, 5, 3)}, {}, True),
        ({EXPERT: spec(3, 5, experts=2)}, {FUSED: (3, 3, 5)}, {}, False),
        ({EXPERT: spec(3, 5, experts=2)}, {FUSED: (3, 5)}, {}, False),
        ({EXPERT: spec(3, 5, experts=2)}, {APART: (3, 5)}, {}, True),
        ({EXPERT: spec(3, 5, experts=2)}, {APART: (5, 3)}, {}, False),
        (
            {GATE_UP: spec(6, 5, experts=2)},
            {f"model.layers.0.mlp.experts.1.w{at}.weight": (3, 5) for at in (1, 3)},
            {},
            True,
        ),
        ({EXPERT: spec(3, 5, experts=2)}, {FUSED.replace("model.", "x."): (2, 3, 5)}, {}, False),
        ({UP: spec(3, 5, experts=1)}, {f"{UP}.weight": (3, 5)}, {}, True),
        ({UP: spec(3, 5, experts=1)}, {f"{UP}.weight": (3, 4)}, {}, False),
        (
            {EXPERT: spec(3, 5, experts=2), UP: spec(3, 5)},
            {FUSED: (2, 3, 5), f"{UP}.weight": (3, 4)},
            {},
            False,
        ),
    ],
)
def test_every_update_has_a_weight_of_its_shape_or_the_adapter_does_not_fit(
    specs, shapes, config, fits
):
    if fits:
        check_fits(updating(specs, **config), shapes, "base")
    else:
        with pytest.raises(ArtifactError, match=r"^a: .*\bbase has|^a: .*' of base is"):
            check_fits(updating(specs, **config), shapes, "base")


def test_experts_that_the_base_lacks_are_named_as_its_parameter():
    with pytest.raises(ArtifactError, match=rf"^a: base has no fused experts '{FUSED}'$"):
        check_fits(updating({EXPERT: spec(3, 5, experts=2)}), {}, "base")


def test_the_block_that_shares_its_weight_is_named_if_the_model_has_the_layer():
    q, shared = (f"model.layers.{at}.shared.q" for at in (3, 1))
    shapes = {"model.layers.3.norm.weight": (4,), f"{shared}.weight": (4, 4)}
    with pytest.raises(ArtifactError, match=rf"no linear layer '{q}'; it has '{shared}'$"):
        check_fits(updating({q: spec(4, 4)}), shapes, "base")
    for missing in ("model.layers.2.shared.q", "model.layers.3.other.q", "score"):
        with pytest.raises(ArtifactError, match=rf"has no linear layer '{missing}'$") as caught:
            check_fits(updating({missing: spec(4, 4)}), shapes, "base")
        assert "another base model" in str(caught.value.hint)
    # The first number is the block's; another one, of a part of the layer, stays.
    shapes = {"model.layers.3.norm.weight": (4,), "model.layers.1.parts.5.q.weight": (4, 4)}
    with pytest.raises(ArtifactError, match=r"parts\.0\.q'$"):
        check_fits(updating({"model.layers.3.parts.0.q": spec(4, 4)}), shapes, "base")


def test_fused_and_separate_experts_are_not_combined():
    fused, apart = adapter(EXPERT, experts=2), adapter(EXPERT, path="b")
    dense, router = adapter(UP), adapter("model.layers.0.mlp.gate", experts=1)
    for pair in ([fused, apart], [apart, fused], [dense, fused, apart]):
        with pytest.raises(ArtifactError, match=r"^a updates the fused experts .*, and b has"):
            check_experts(pair)
    for together in ([fused, dense, router, fused], [apart, dense, router], [dense]):
        check_experts(together)


def test_names_of_a_text_only_class_are_told_where_they_are_renamed():
    shapes = {f"model.language_model.{BLOCK}.weight": (4, 4), "lm_head.weight": (4, 4)}
    renamed = with_names_of(adapter(f"model.{BLOCK}"), shapes)
    named_so = with_names_of(adapter(f"model.language_model.{BLOCK}"), shapes)
    old = with_names_of(adapter(f"language_model.model.{BLOCK}"), shapes)
    (note,) = notes_on_names({"t": renamed, "same": named_so, "old": old}, "b")
    assert note.startswith(
        f"the modules of t are named like 'model.{BLOCK}', "
        f"those of b like 'model.language_model.{BLOCK}'"
    )
    plain = with_names_of(adapter(BLOCK), {f"model.{BLOCK}.weight": (4, 4)})
    assert plain.own_names == {f"model.{BLOCK}": BLOCK}
    assert notes_on_names({"plain": plain}, "b") == []


def test_names_of_the_base_model_are_taken_over():
    names = [f"model.{BLOCK}", "model.layers.0.mlp.gate", EXPERT, "other.0.q", "lm_head"]
    saved = ["model.norm.weight", "lm_head.weight", "other.weight", "model.norm.bias"]
    files = [
        f"model.language_model.{BLOCK}.weight",
        "model.language_model.layers.0.block_sparse_moe.gate.weight",
        "model.language_model.norm.weight",
        "model.language_model.norm.bias",
        "language_model.lm_head.weight",
    ]
    found = with_names_of(adapter(*names, saved=saved), dict.fromkeys(files, (4, 4)))
    assert found.own_names == {
        f"model.language_model.{BLOCK}": names[0],
        "model.language_model.layers.0.block_sparse_moe.gate": names[1],
        f"model.language_model.{EXPERT.removeprefix('model.')}": EXPERT,  # whatever the files have
        "other.0.q": "other.0.q",
        "language_model.lm_head": "lm_head",
    }
    assert [f.a for f in found.factors.values()] == [f"{name}.A" for name in names]
    assert found.saved == {
        "model.language_model.norm.weight": "saved model.norm.weight",
        "language_model.lm_head.weight": "saved lm_head.weight",
        "other.weight": "saved other.weight",
        "model.language_model.norm.bias": "saved model.norm.bias",
    }
    again = with_names_of(found, {f"model.{BLOCK}.weight": (4, 4)})
    assert again.own_names[f"model.{BLOCK}"] == names[0]
    same = adapter(names[0], saved=saved)
    assert with_names_of(same, {f"{names[0]}.weight": (4, 4)}) is same
    only_saved = with_names_of(adapter("x.0.q", saved=saved[:1]), {files[2]: (4, 4)})
    assert list(only_saved.saved) == [files[2]]


@pytest.mark.parametrize(
    ("kind", "memory", "files"),
    [
        ("GPTNeoXForCausalLM", "lm_head", "embed_out"),
        ("hy_v3", "model.layers.0.mlp.gate", "model.layers.0.mlp.router.gate"),
        ("hy_v3", "model.layers.0.mlp.shared_experts.q", "model.layers.0.mlp.shared_mlp.q"),
        ("kimi_linear", "model.layers.0.self_attn.forget_gate.f_a_proj", ""),
        ("laguna", "model.layers.0.mlp.shared_experts.q", "model.layers.0.mlp.shared_expert.q"),
    ],
)
def test_names_in_files_and_in_memory_are_those_of_transformers(kind, memory, files):
    files = files or memory.replace("forget_gate.", "")
    renamings = get_checkpoint_conversion_mapping(kind)
    renamed = rename_source_key(
        f"{files}.weight", [r for r in renamings if isinstance(r, WeightRenaming)], []
    )
    assert renamed[0] == f"{memory}.weight"
    for own, there in ((memory, files), (files, memory)):
        assert with_names_of(adapter(own), {f"{there}.weight": (4, 4)}).modules == [there]


def test_an_old_and_a_new_name_of_a_head_are_one():
    block = "gpt_neox.layers.0.attention.dense"
    old, new = adapter(block, "embed_out", saved=["embed_out.bias"]), adapter(block, "lm_head")
    both = with_common_names([old, new])
    assert [each.modules for each in both] == [[block, "lm_head"]] * 2
    assert [*both[0].saved] == ["lm_head.bias"]
    assert with_common_names([old, old]) == [old, old]


@pytest.mark.parametrize(
    ("module", "experts"), [("mlp.experts", 2), ("mlp.experts", 0), ("moe", 2)]
)
def test_experts_have_the_prefix_of_their_blocks(module, experts):
    named = adapter(f"model.layers.0.{module}.1.down_proj", experts=experts)
    owner = f"language_model.model.layers.0.{module}"
    found = with_names_of(named, {f"{owner}.gate_up_proj": (2, 3, 4), "visual.x.weight": (4,)})
    assert found.modules == [f"{owner}.1.down_proj"]
    unknown = with_names_of(named, {"visual.x.weight": (4,)})
    assert unknown.modules == [f"layers.0.{module}.1.down_proj"]


def test_a_parameter_that_the_base_lacks_keeps_its_name():
    for experts in (0, 1):
        router = adapter("model.layers.0.mlp.router", experts=experts)
        assert with_names_of(router, {f"model.language_model.{BLOCK}.weight": (4, 4)}) is router


def test_two_names_of_one_module_are_refused():
    shapes = {f"model.{BLOCK}.weight": (4, 4), "model.norm.weight": (4,)}
    both = adapter(BLOCK, f"model.language_model.{BLOCK}")
    saved = adapter(saved=["norm.weight", "model.norm.weight"])
    for one, names in ((both, both.factors), (saved, saved.saved)):
        told = " and ".join(f"'{name}'" for name in names)
        with pytest.raises(ArtifactError, match=f"a: {told} are two names of one module"):
            with_names_of(one, shapes)


def test_whole_weights_are_renamed_with_the_modules():
    text = adapter(f"model.{BLOCK}", saved=["model.embed_tokens.weight"])
    vision = adapter(f"model.language_model.{BLOCK}", path="b")
    one, other = with_common_names([text, vision])
    assert one.saved == {
        "model.language_model.embed_tokens.weight": "saved model.embed_tokens.weight"
    }
    assert one.modules == other.modules
    assert other is vision


def test_every_pair_of_adapters_is_compared():
    fine, odd = f"model.{BLOCK}", f"model.model.{BLOCK}"
    for modules in ((fine, fine, odd), (fine, odd, fine), (odd, fine, fine)):
        adapters = [adapter(module, path=str(at)) for at, module in enumerate(modules)]
        with pytest.raises(
            ArtifactError, match=rf"of [012] are .*{BLOCK}', and those of [012] like"
        ):
            check_common_names(adapters)
    check_common_names([adapter(fine), adapter(BLOCK), adapter(fine)])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("trunk.layers.9.mlp.up_proj", "c has no decoder block in common with (d and )?a"),
        ("model.layers.0.self_attn.qkv_proj", "c updates .*, but a updates a part"),
        ("model.layers.0.attention.wq", "^a names .* and c like"),
    ],
)
def test_the_layers_of_every_pair_of_adapters_are_compared(other, words):
    first = adapter(f"model.{BLOCK}")
    same, last = adapter(f"model.{BLOCK}", path="b"), adapter(other, path="c")
    apart = adapter("lm_head", path="d")  # has nothing in common with the others
    for adapters in ([first, same, last], [first, last, same], [apart, first, last]):
        with pytest.raises(ArtifactError, match=words):
            check_names(adapters)
    check_names([first, same])
    check_names([apart, first])


def test_shapes_are_those_of_the_first_adapter():
    adapters = [adapter(path=name) for name in "ab"]
    check_shapes("m", adapters, [spec(3, 5), spec(3, 5)])
    for other in ((5, 3), (3, 4), (4, 5)):
        sizes = " and ".join(f"{a} x {b}" for a, b in sorted([(3, 5), other]))
        with pytest.raises(ArtifactError, match=f"^m has different shapes, {sizes}, .* a, b$"):
            check_shapes("m", adapters, [spec(3, 5), spec(*other)])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (on("x/a", print="1"), on("x/b", print="1"), True),
        (on("x/a", print="1"), on("x/a", print="2"), False),
        (on("x/a", print="1"), on("x/a"), True),
        (on("x/a"), on("x/b", print="1"), False),
        (on(None), on("x/b"), True),
        (on(None), on(None), True),
        (on("/runs/1/merged"), on("/runs/2/merged"), None),
        (on(None, print="1"), on("x/b", print="1"), True),
    ],
)
def test_fingerprints_count_more_than_names(one, other, expected):
    assert share_a_base(one, other) is expected
    assert share_a_base(other, one) is expected


def test_notes_name_the_adapters_of_another_base():
    adapters = {"a": on("x/a", print="1"), "b": on("x/b", print="2"), "c": on("x/c")}
    adapters |= {"d": on("/runs/merged"), "e": on("/data/now"), "f": on(None)}
    adapters |= {"g": on("x/now", print="2")}  # the name is the same
    assert notes_on_base(adapters, "x/now", "1") == [
        "b was trained on x/b, whose weights are not those of x/now",
        "c was trained on x/c, which by its name is not x/now",
        "g was trained on x/now, whose weights are not those of x/now",
    ]


def test_a_name_on_the_hub_is_proof_of_another_base_and_a_folders_name_is_not(tmp_path):
    told = "a was trained on x/a, which by its name is not "
    with pytest.raises(ArtifactError, match=f"{told}y/b") as error:
        refuse_other_base(on("x/a"), "y/b", None, "a hint")
    assert error.value.hint == "a hint"
    assert refuse_other_base(on("x/a"), "x/a", None, "") == []
    assert len(refuse_other_base(on("/models/a"), "y/b", None, "")) == 1
    assert len(refuse_other_base(on("models/a"), "y/b", None, "")) == 1
    assert refuse_other_base(on("models/base"), "y/b", None, "") == []
    (tmp_path / "b").mkdir()
    base = str(tmp_path / "b")
    (note,) = refuse_other_base(on("x/a"), base, "2", "")
    assert note == told + base
    with pytest.raises(ArtifactError, match="whose weights are not those of"):
        refuse_other_base(on("x/a", print="1"), base, "2", "")


def test_copies_are_compared_with_the_first_base_that_is_known():
    unknown, plain = on(None, path="u"), on("Qwen/Qwen3-8B")
    copy, other = on("unsloth/Qwen3-8B-bnb-4bit", path="c"), on("Qwen/Qwen3-4B", path="o")
    notes = notes_on_copies([unknown, plain, copy, other, unknown])
    assert [note.partition(";")[0] for note in notes] == [
        "c was trained on unsloth/Qwen3-8B-bnb-4bit, and a on Qwen/Qwen3-8B"
    ]
    assert len(notes_on_copies([other, plain, copy])) == 1
    assert notes_on_copies([unknown]) == notes_on_copies([plain, plain]) == []


def test_only_the_adapters_of_another_revision_are_noted():
    first = on("x/a", revision="v1")
    (note,) = notes_on_revisions([first, first, on("x/a", revision="v2", path="b")])
    assert note.startswith("b was trained on revision v2 of its base model, and a on revision v1;")
    printed = [on("x/a", revision=f"v{at}", print="1") for at in range(2)]
    assert notes_on_revisions(printed) == []
    assert len(notes_on_revisions([first, printed[0]])) == 1
    unknown = on(None, revision="v2")
    assert notes_on_revisions([unknown, first]) == []
    (note,) = notes_on_revisions([unknown, on("x/a", revision="v3"), first])
    assert "and a on revision v3;" in note
    assert notes_on_revision({"u": unknown}, "x/a", "v1") == []
    notes = notes_on_revision({"a": first, "b": on("x/a", revision="v2")}, "x/a", "v1")
    assert [note[:31] for note in notes] == ["b was trained on revision v2 of"]


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("abcdef0", "abcdef01", False),
        ("abcdef0", "abcdef1f", True),
        ("abcdef", "abcdef01", True),  # too short for a commit
        ("v1", "v1.5", True),
        ("main", None, False),
        (None, "v1", True),
        ("main", "v1", True),
        ("v1", "v1", False),
    ],
)
def test_a_revision_may_be_the_beginning_of_a_commit(one, other, differ):
    for pair in ((one, other), (other, one)):
        notes = notes_on_revisions([on("x/a", revision=revision) for revision in pair])
        assert bool(notes) is differ, pair


def test_the_commit_of_a_snapshot_may_be_what_main_was():
    plain, snapshot = on("x/a"), on(f"/cache/models--x--a/snapshots/{'0' * 40}")
    for pair in ((plain, snapshot), (snapshot, plain)):
        assert notes_on_revisions(pair) == []
    assert notes_on_revision({"a": plain}, snapshot.base, None) == []
    assert len(notes_on_revision({"a": on("x/a", revision="v1")}, snapshot.base, None)) == 1
