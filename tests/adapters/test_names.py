"""Names of modules, in files and as PEFT reads them."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from helpers.adapters import IDS, adapter_files
from helpers.models import SHAPE, saved_base
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.conversion_mapping import (
    WeightRenaming,
    _build_checkpoint_conversion_mapping,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.inspection import inspect
from adaptermix.adapters.matching import notes_on_revision, notes_on_revisions
from adaptermix.adapters.names import (
    BASE_PREFIXES,
    CONV1D,
    CONV1D_TYPES,
    check_prefixes,
    common_names,
    core,
    embeddings_of,
    fits_text_alone,
    unknown_start,
    without_wrappers,
)
from adaptermix.adapters.writing import stage_adapter
from adaptermix.errors import ArtifactError
from adaptermix.merging.fold import merge_into
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import InspectSettings

WEIGHTS = (0.7, 0.3)
BLOCKS = r".*\.layers\.\d+\.(self_attn\.q_proj|mlp\.down_proj)"
TEXT = {k: v for k, v in SHAPE.items() if k != "num_key_value_heads"} | {"vocab_size": 400}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 64}


def adapter_on(base, folder, seed, kind=AutoModelForCausalLM, **options):
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"} | options
    model = get_peft_model(kind.from_pretrained(base), LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or ("modules_to_save" in name and parameter.ndim > 1):
                parameter += torch.randn_like(parameter) * 0.1
    model.save_pretrained(folder)
    return folder


def logits(base, adapter=None, kind=AutoModelForCausalLM):
    model = kind.from_pretrained(base)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval()(IDS).logits


def sum_of_updates(base, adapters, weights=WEIGHTS, kind=AutoModelForCausalLM):
    """Return logits of the base with the weighted sum of what PEFT folds of each adapter."""
    result = kind.from_pretrained(base)
    before = {name: p.detach().clone() for name, p in result.named_parameters()}
    with torch.no_grad():
        for adapter, weight in zip(adapters, weights, strict=True):
            model = PeftModel.from_pretrained(kind.from_pretrained(base), adapter)
            for name, parameter in model.merge_and_unload().named_parameters():
                result.get_parameter(name).add_(weight * (parameter - before[name]))
        return result.eval()(IDS).logits


def with_keys(adapter, folder, change):
    shutil.copytree(adapter, folder)
    file = folder / "adapter_model.safetensors"
    tensors = {change(key): tensor for key, tensor in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    return folder


def check(base, out, adapters, kind=AutoModelForCausalLM, references=None):
    merge(adapters, MergeSettings(weights=WEIGHTS, out=out))
    expected = sum_of_updates(base, references or adapters, kind=kind)
    assert (expected - logits(base, kind=kind)).abs().max() > 0.1
    torch.testing.assert_close(logits(base, out, kind), expected, rtol=1e-3, atol=1e-3)


@pytest.fixture
def two(tmp_path, model_dir):
    return [
        adapter_on(model_dir, tmp_path / "a", 1, target_modules=["q_proj", "down_proj"]),
        adapter_on(model_dir, tmp_path / "b", 2, target_modules=["q_proj", "v_proj"]),
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("base_model.", "_orig_mod.base_model."),
        ("base_model.", "module.base_model."),
        ("base_model.", "_forward_module.base_model."),
        ("base_model.model.", "base_model.model._orig_mod."),
        ("base_model.model.", "base_model.model.base_model.model."),
        (".self_attn.", "._checkpoint_wrapped_module.self_attn."),
        (".mlp.", ".mlp._fsdp_wrapped_module."),
    ],
)
def test_known_wrappers_are_stripped_wherever_they_are(tmp_path, model_dir, two, old, new):
    wrapped = with_keys(two[0], tmp_path / "w", lambda key: key.replace(old, new, 1))
    check(model_dir, tmp_path / "m", [wrapped, two[1]], references=two)


def test_wrappers_in_a_config_are_stripped_too(tmp_path, model_dir, two):
    patterns = {"rank_pattern": {"layers.1.self_attn.q_proj": 2}}
    plain = adapter_on(model_dir, tmp_path / "p", 3, target_modules=["q_proj"], **patterns)
    wrapped = with_keys(plain, tmp_path / "w", lambda key: key.replace("_A", "_A"))
    config = json.loads((wrapped / "adapter_config.json").read_text())
    config["rank_pattern"] = {"_orig_mod.layers.1._orig_mod.self_attn.q_proj": 2}
    (wrapped / "adapter_config.json").write_text(json.dumps(config))
    check(model_dir, tmp_path / "m", [wrapped, two[1]], references=[plain, two[1]])


@pytest.mark.parametrize(
    ("change", "prefix"),
    [
        (lambda key: f"trainer.{key}", "trainer.base_model.model."),
        (lambda key: key.replace(".mlp.", "._fancy_wrapper.mlp."), "_fancy_wrapper."),
    ],
)
def test_unknown_prefixes_are_refused_by_name(tmp_path, two, change, prefix):
    wrapped = with_keys(two[0], tmp_path / "w", change)
    with pytest.raises(ArtifactError, match=rf"has the unknown prefix or wrapper '.*{prefix}'"):
        merge([wrapped, two[1]], MergeSettings(weights=WEIGHTS, out=tmp_path / "m"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("self_attn.qkv_proj", "self_attn.q_proj"),
        ("self_attn.v_proj", "self_attn.Wqkv"),
        ("mlp.gate_up_proj", "mlp.gate_proj"),
    ],
)
def test_a_fused_layer_and_its_parts_are_not_merged_side_by_side(tmp_path, two, one, other):
    for adapter, name in zip(two, (one, other), strict=True):
        change = partial(re.sub, r"self_attn\.q_proj", name)
        renamed = with_keys(adapter, tmp_path / name, change)
        config = json.loads((renamed / "adapter_config.json").read_text()) | {"target_modules": []}
        (renamed / "adapter_config.json").write_text(json.dumps(config))
    pair = [tmp_path / one, tmp_path / other]
    with pytest.raises(
        ArtifactError, match=r"updates '\S*(qkv|gate_up)\w*', but .* a part of it as a"
    ):
        merge(pair, MergeSettings(weights=WEIGHTS, out=tmp_path / "m"))


def test_modules_that_never_meet_are_refused_with_an_example_of_each(tmp_path, two):
    other = with_keys(two[0], tmp_path / "w", lambda key: key.replace(".layers.", ".trunk.layers."))
    with pytest.raises(
        ArtifactError, match=r"'model\.layers\.\d\..*' and 'model.trunk\.layers\.\d"
    ):
        merge([other, two[1]], MergeSettings(weights=WEIGHTS, out=tmp_path / "m"))
    assert "no decoder block in common" in inspect([other, two[1]], InspectSettings()).notes[0]


def test_a_decoder_is_no_other_part_than_a_model_without_parts(tmp_path, two):
    other = with_keys(
        two[0], tmp_path / "w", lambda key: key.replace("model.layers.", "model.decoder.layers.")
    )
    with pytest.raises(ArtifactError, match="no decoder block in common"):
        merge([other, two[1]], MergeSettings(weights=WEIGHTS, out=tmp_path / "m"))


@pytest.fixture(scope="module")
def gemma_dir(tmp_path_factory):
    vision = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(
        text_config=TEXT | {"num_key_value_heads": 1},
        vision_config=vision | {"hidden_size": 16, "intermediate_size": 16},
        mm_tokens_per_image=4,
    )
    folder = tmp_path_factory.mktemp("gemma") / "m"
    return saved_base(folder, "Gemma3ForConditionalGeneration", config)


@pytest.mark.slow
def test_old_and_new_names_of_a_multimodal_class_are_the_same_modules(tmp_path, gemma_dir):
    kind = AutoModelForImageTextToText
    text = r".*language_model.*\.(q_proj|down_proj)"
    new = [
        adapter_on(gemma_dir, tmp_path / str(seed), seed, kind, target_modules=text)
        for seed in (1, 2)
    ]
    old = with_keys(
        new[1],
        tmp_path / "old",
        lambda key: key.replace("model.language_model.", "language_model.model.", 1),
    )
    check(gemma_dir, tmp_path / "m", [new[0], old], kind, references=new)
    assert len(read_adapter(tmp_path / "m").modules) == len(read_adapter(new[0]).modules)
    settings = MergeSettings(weights=WEIGHTS, into=str(gemma_dir), out=tmp_path / "folded")
    merge_into([new[0], old], settings)
    expected = sum_of_updates(gemma_dir, new, kind=kind)
    folded = logits(tmp_path / "folded", kind=kind)
    torch.testing.assert_close(folded, expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def qwen35_dir(tmp_path_factory):
    config = transformers.Qwen3_5Config(
        text_config=TEXT | {"num_key_value_heads": 1, "layer_types": ["full_attention"] * 4},
        vision_config=VISION
        | {"depth": 1, "num_position_embeddings": 16, "deepstack_visual_indexes": []},
    )
    folder = tmp_path_factory.mktemp("qwen35") / "m"
    return saved_base(folder, "Qwen3_5ForConditionalGeneration", config)


def test_a_head_keeps_its_name_where_blocks_are_renamed(tmp_path, qwen35_dir):
    vision_class = AutoModelForImageTextToText
    language = BLOCKS.replace(r".*\.layers", r".*language_model\.layers")
    text = adapter_on(qwen35_dir, tmp_path / "text", 1, target_modules=f"{BLOCKS}|lm_head")
    vision = adapter_on(
        qwen35_dir, tmp_path / "vl", 2, vision_class, target_modules=f"{language}|lm_head"
    )
    as_vision = with_keys(
        text, tmp_path / "as", lambda key: key.replace(".layers.", ".language_model.layers.")
    )
    config = json.loads((as_vision / "adapter_config.json").read_text())
    config["target_modules"] = f"{language}|lm_head"
    (as_vision / "adapter_config.json").write_text(json.dumps(config))
    check(qwen35_dir, tmp_path / "m", [text, vision], vision_class, [as_vision, vision])
    assert "lm_head" in read_adapter(tmp_path / "m").modules


def tied(kind, **options):
    shape = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2} | options
    return getattr(transformers, f"{kind}Config")(**shape, tie_word_embeddings=True)


@pytest.mark.parametrize(
    ("kind", "options", "module"),
    [
        ("Falcon", {"num_attention_heads": 4}, "word_embeddings"),
        ("Bloom", {"n_head": 4}, "word_embeddings"),
        ("GPTNeoX", {"num_attention_heads": 4, "intermediate_size": 48}, "embed_in"),
        ("Llama", {"num_attention_heads": 4, "intermediate_size": 48}, "embed_tokens"),
    ],
)
@pytest.mark.parametrize("as_saved", [True, False])
def test_tied_embeddings_of_any_name_are_never_changed_at_both_ends(
    tmp_path, kind, options, module, as_saved
):
    base = saved_base(tmp_path / "base", f"{kind}ForCausalLM", tied(kind, **options))
    config = json.loads((base / "config.json").read_text())
    if not as_saved:
        config.pop("tie_word_embeddings", None)
        (base / "config.json").write_text(json.dumps(config))
    attention = "q_proj" if kind == "Llama" else "query_key_value"
    adapter = adapter_on(
        base, tmp_path / "a", 1, target_modules=[attention], modules_to_save=[module]
    )
    settings = MergeSettings(weights=(1,), into=str(base), out=tmp_path / "out")
    with pytest.raises(ArtifactError, match=rf"ties its input .* change '.*{module}'"):
        merge_into([adapter], settings)
    assert not (tmp_path / "out").exists()


BLOCK = "layers.0.self_attn.q_proj"


def test_quantized_and_whole_copies_of_a_base_are_merged_with_a_note(tmp_path, two):
    names = ("unsloth/Llama-3.1-8B-bnb-4bit", "meta-llama/Llama-3.1-8B")
    for adapter, base in zip(two, names, strict=True):
        config = json.loads((adapter / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = base
        (adapter / "adapter_config.json").write_text(json.dumps(config))
    report = merge(two, MergeSettings(weights=WEIGHTS, out=tmp_path / "m"))
    (note,) = [note for note in report.notes if "count as one base model" in note]
    assert all(name in note for name in names)
    assert read_adapter(tmp_path / "m").base == names[1]


SNAPSHOT = "/cache/hub/models--somebody--tiny/snapshots/"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("one", "other", "noted"),
    [
        ({"revision": "step1000"}, {"revision": "step2000"}, ["step1000", "step2000"]),
        ({"revision": "step1000"}, {}, ["step1000", "revision main"]),
        ({}, {"revision": "step1000"}, ["step1000", "revision main"]),
        ({"base": SNAPSHOT + COMMIT}, {"base": SNAPSHOT + "f" * 40}, [COMMIT, "f" * 40]),
        ({"base": SNAPSHOT + COMMIT}, {"revision": "step1000"}, [COMMIT, "step1000"]),
        ({"revision": "abc"}, {"revision": "abcdef01"}, ["abc", "abcdef01"]),
        ({"revision": "step1000"}, {"revision": "step1000"}, []),
        ({"revision": "main"}, {}, []),
        ({"revision": COMMIT}, {"revision": COMMIT[:7]}, []),
        ({"base": SNAPSHOT + COMMIT}, {"revision": "main"}, []),
        ({"base": SNAPSHOT + COMMIT}, {"revision": COMMIT}, []),
        ({"revision": "step1000", "print": "a"}, {"revision": "v1", "print": "a"}, []),
    ],
)
def test_other_revisions_of_a_base_are_noted(tmp_path, one, other, noted):
    adapters = []
    adapter_files(tmp_path / "a")
    for given in (one, other):
        adapter = read_adapter(tmp_path / "a")
        adapter.config["base_model_name_or_path"] = given.get("base", "somebody/tiny")
        adapter.config["revision"] = given.get("revision")
        adapter.record["base_fingerprint"] = given.get("print", "")
        adapters.append(adapter)
    notes = notes_on_revisions(adapters)
    assert len(notes) == bool(noted)
    assert all(words in notes[0] for words in noted)


@pytest.mark.parametrize(
    ("base", "revision", "trained", "noted"),
    [
        ("somebody/tiny", "v1", {"revision": "v2"}, ["revision v2", "revision v1"]),
        ("somebody/tiny", None, {"revision": "v2"}, ["used on revision main", "--revision v2"]),
        ("somebody/tiny", "v1", {}, ["trained on revision main", "used on revision v1"]),
        (SNAPSHOT + COMMIT, None, {"revision": "v2"}, ["revision v2", COMMIT]),
        ("somebody/tiny", "v2", {"revision": "v2"}, []),
        ("somebody/tiny", "main", {}, []),
        ("somebody/tiny", None, {"revision": "main"}, []),
        ("somebody/tiny", COMMIT[:7], {"revision": COMMIT}, []),
        ("somebody/tiny", None, {"base": SNAPSHOT + COMMIT}, []),
        (SNAPSHOT + COMMIT, None, {}, []),
        ("somebody/tiny", "v1", {"revision": "v2", "print": "a"}, []),
        ("somebody/other", "v1", {"revision": "v2"}, []),
        ("./here/tiny", "v1", {"revision": "v2"}, []),  # a folder
        # A copy has revisions of its own.
        ("unsloth/tiny-bnb-4bit", "v1", {"revision": "v2"}, []),
    ],
)
def test_another_revision_than_the_one_in_use_is_noted(
    tmp_path, monkeypatch, base, revision, trained, noted
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "tiny").mkdir(parents=True)
    adapter_files(tmp_path / "a")
    adapter = read_adapter(tmp_path / "a")
    adapter.config["base_model_name_or_path"] = trained.get("base", "somebody/tiny")
    adapter.config["revision"] = trained.get("revision")
    adapter.record["base_fingerprint"] = trained.get("print", "")
    notes = notes_on_revision({"a": adapter}, base, revision)
    assert len(notes) == bool(noted)
    assert all(words in notes[0] for words in noted)


def test_a_merge_keeps_the_revision_that_its_adapters_agree_on(tmp_path, two):
    for adapter, revision in zip(two, ("v2", "v2"), strict=True):
        config = json.loads((adapter / "adapter_config.json").read_text())
        config |= {"base_model_name_or_path": "somebody/tiny", "revision": revision}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
    report = merge(two, MergeSettings(weights=WEIGHTS, out=tmp_path / "same"))
    assert not [note for note in report.notes if "revision" in note]
    assert read_adapter(tmp_path / "same").revision == "v2"
    config["revision"] = "v3"
    (two[1] / "adapter_config.json").write_text(json.dumps(config))
    report = merge(two, MergeSettings(weights=WEIGHTS, out=tmp_path / "other"))
    (note,) = [note for note in report.notes if "revision" in note]
    assert "revision v3 of its base model" in note
    assert read_adapter(tmp_path / "other").revision is None


def test_generic_folder_names_do_not_make_one_base_of_two(tmp_path, two):
    for adapter, base in zip(two, ("/runs/french/merged", "/runs/coder/merged"), strict=True):
        config = json.loads((adapter / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = base
        (adapter / "adapter_config.json").write_text(json.dumps(config))
    settings = MergeSettings(weights=WEIGHTS, out=tmp_path / "m")
    with pytest.raises(ArtifactError, match="names do not show whether"):
        merge(two, settings)
    assert merge(two, settings.model_copy(update={"ignore_base": True})).written


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"self_attn.q_proj": "attention.wq", "self_attn.v_proj": "attention.wv"}, True),
        ({"self_attn.v_proj": "block_sparse_moe.gate"}, True),
        ({"self_attn.q_proj": "mamba.in_proj", "self_attn.v_proj": "mamba.out_proj"}, False),
        ({"self_attn.v_proj": "mlp.up_proj"}, False),
    ],
)
def test_two_names_of_one_part_of_a_block_are_refused(tmp_path, two, changes, refused):
    """Each adapter is right for one program; side by side, half of the merge has no effect."""

    def renamed(name):
        for old, new in changes.items():
            name = name.replace(old, new)
        return name

    path = two[1] / "adapter_model.safetensors"
    save_file({renamed(name): tensor for name, tensor in load_file(path).items()}, path)
    config = json.loads((two[1] / "adapter_config.json").read_text()) | {"target_modules": None}
    (two[1] / "adapter_config.json").write_text(json.dumps(config))
    for paths in (two, two[::-1]):
        settings = MergeSettings(weights=WEIGHTS, out=tmp_path / "m")
        if refused:
            with pytest.raises(ArtifactError, match=r"names the modules of a block like '.*layers"):
                merge(paths, settings)
    if not refused:
        assert merge(two, settings).written


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ([], True),
        (["model.layers.0.mlp.up_proj"], True),
        (["model.language_model.layers.0.mlp.up_proj", "model.language_model.embed_tokens"], True),
        (["language_model.model.layers.0.mlp.up_proj", "language_model.lm_head"], True),
        (["model.language_model.layers.0.up_proj", "model.visual.blocks.0.attn.qkv"], False),
        (["model.language_model.layers.0.up_proj", "model.visual.blocks.0.up_proj"], True),
        (["model.visual.blocks.0.up_proj"], False),
        (["model.layers.0.fc1", "model.vision_tower.encoder.layers.0.q_proj"], False),
        (["model.layers.0.fc1", "model.multi_modal_projector.linear_1"], False),
    ],
)
def test_modules_of_encoders_fit_the_text_alone_if_their_last_names_do(modules, expected):
    assert fits_text_alone(modules) == expected


def test_names_outside_the_blocks_follow_the_blocks():
    text = ["model.layers.0.q", "model.embed_tokens", "lm_head", "score"]
    old = ["language_model.model.layers.0.q", "visual.blocks.0.q", "language_model.lm_head"]
    new = ["model.language_model.layers.0.q", "model.visual.blocks.0.q", "lm_head"]
    renamed = [
        [rename(name) for name in names]
        for rename, names in zip(common_names([text, old, new]), (text, old, new), strict=True)
    ]
    assert renamed[0] == [new[0], "model.language_model.embed_tokens", "lm_head", "score"]
    assert renamed[1:] == [new, new]


@pytest.mark.parametrize(
    ("one", "other", "fits"),
    [
        ("model.", "", True),
        ("transformer.", "", True),
        ("model.transformer.", "transformer.", True),
        ("model.", "language_model.model.", True),
        ("model.language_model.", "language_model.", True),
        ("backbone.", "model.", True),  # Nemotron-H with its own code, and in transformers
        ("model.model.", "model.", False),
        ("model.model.", "", False),
        ("transformer.", "model.", False),
    ],
)
def test_prefixes_are_of_one_model_or_refused(one, other, fits):
    """One of them would be given to both, and PEFT would load nothing of the merge."""
    names = [[f"{prefix}layers.0.mlp.up_proj", "lm_head"] for prefix in (one, other)]
    for first, second in (names, names[::-1]):
        if fits:
            check_prefixes(first, second, ("a", "b"))
        else:
            with pytest.raises(ArtifactError, match="no known model has both prefixes"):
                check_prefixes(first, second, ("a", "b"))


def test_adapters_with_prefixes_of_no_one_model_are_not_merged(tmp_path, two):
    doubled = with_keys(two[0], tmp_path / "d", partial(re.sub, r"\.layers", ".model.layers"))
    with pytest.raises(ArtifactError, match="no known model has both prefixes"):
        merge([doubled, two[1]], MergeSettings(weights=WEIGHTS, out=tmp_path / "m"))


@pytest.mark.slow
def test_the_table_of_prefixes_and_embeddings_is_that_of_transformers():
    for model_type, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        kind = getattr(transformers, name)
        assert kind.base_model_prefix in (*BASE_PREFIXES, "language_model"), name
        tied_keys = getattr(kind, "_tied_weights_keys", None) or {}
        pairs = [(a, b) for a, b in dict(tied_keys).items() if a.endswith(".weight")]
        for key in {end.removesuffix(".weight") for pair in pairs[:1] for end in pair}:
            assert key.rpartition(".")[2] in embeddings_of(model_type), (model_type, key)


def test_transformers_own_renamings_keep_the_core_of_a_name():
    starts = ("model.language_model.", "language_model.model.", "language_model.", "model.", "")
    renamed = set()
    for conversions in _build_checkpoint_conversion_mapping().values():
        for conversion in conversions:
            for start in starts if isinstance(conversion, WeightRenaming) else ():
                new = conversion.rename_source_key(start + BLOCK)[0].removesuffix(BLOCK)
                if new != start and new in starts:
                    renamed.add((start, new))
    assert ("language_model.model.", "model.language_model.") in renamed
    assert len(renamed) > 4
    for pair in renamed:
        assert {core(start + BLOCK) for start in pair} == {BLOCK}, pair


def test_plain_names_stay():
    assert without_wrappers("base_model.model.lm_head.lora_A.weight") == "lm_head.lora_A.weight"


def as_tinker(adapter, folder):
    """Name the head as Tinker does, and let the config say as little as Tinker's."""
    keys = ("base_model.model.lm_head", "base_model.model.model.unembed_tokens")
    with_keys(adapter, folder, lambda key: key.replace(*keys))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = "all-linear"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_the_head_of_a_tinker_adapter_is_the_lm_head(tmp_path, model_dir):
    plain = [
        adapter_on(model_dir, tmp_path / str(seed), seed, target_modules=["q_proj", "lm_head"])
        for seed in (1, 2)
    ]
    tinker = [as_tinker(path, tmp_path / f"t{path.name}") for path in plain]
    check(model_dir, tmp_path / "m", tinker, references=plain)
    assert read_adapter(tinker[0]).modules == read_adapter(plain[0]).modules
    staged = stage_adapter(read_adapter(tinker[0]), tmp_path)
    torch.testing.assert_close(logits(model_dir, staged), logits(model_dir, plain[0]))


def test_experts_of_tinker_are_refused_for_what_they_are(tmp_path, model_dir):
    adapter = adapter_on(model_dir, tmp_path / "a", 1, target_modules=["q_proj"])
    file = adapter / "adapter_model.safetensors"
    experts = {
        f"base_model.model.model.layers.0.mlp.experts.w1.lora_{side}.weight": torch.ones(shape)
        for side, shape in (("A", (1, 4, 64)), ("B", (3, 16, 4)))
    }
    save_file(load_file(file) | experts, file, {"format": "pt"})
    with pytest.raises(ArtifactError, match="Tinker LoRAs of mixtures of experts"):
        read_adapter(adapter)


def test_transposed_layers_are_those_of_transformers():
    folder = Path(next(iter(transformers.models.__path__)))
    sources = {
        file.parent.name: file.read_text(encoding="utf-8")
        for file in folder.glob("*/modeling_*.py")
    }
    uses = {name: text for name, text in sources.items() if "import Conv1D" in text}
    aliases = {"clvp_decoder": "clvp", "openai-gpt": "openai"}
    assert {aliases.get(name, name) for name in CONV1D_TYPES} == uses.keys()
    layers = {
        layer for text in uses.values() for layer in re.findall(r"self\.(\w+) = Conv1D\(", text)
    }
    assert layers == set(CONV1D)


def test_a_prefix_that_no_model_is_known_to_have_is_told(tmp_path, two):
    old, new = "base_model.model.", "base_model.model.actor."
    odd = [
        with_keys(path, tmp_path / f"odd-{path.name}", lambda key: key.replace(old, new))
        for path in two
    ]
    assert merge(two, MergeSettings(weights=WEIGHTS, out=tmp_path / "plain")).notes == []
    (note,) = merge(odd, MergeSettings(weights=WEIGHTS, out=tmp_path / "m")).notes
    assert "named like 'actor.model.layers." in note
    assert unknown_start(["model.layers.0.q", "visual.blocks.0.q", "lm_head", "own.head"]) is None
