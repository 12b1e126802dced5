"""Whole weights of adapters (biases, embeddings, modules_to_save), merged and folded."""

import numpy as np
import pytest
import torch
from helpers.adapters import IDS, logits_through_peft
from helpers.merging import (
    ATTENTION,
    base_model,
    check_fold,
    check_merge,
    logits_of,
    rewrite,
    sum_of_folded_models,
    trained,
)
from helpers.models import save_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.inspection import inspect
from adaptermix.errors import ArtifactError
from adaptermix.merging.fold import merge_into
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import InspectSettings


@pytest.mark.parametrize(
    "options",
    [
        {"lora_bias": True, **ATTENTION},
        {"bias": "all", **ATTENTION},
        {"modules_to_save": ["lm_head"], **ATTENTION},
        {"target_modules": ["embed_tokens", "lm_head"]},
    ],
)
def test_biases_embeddings_and_whole_weights_are_folded(tmp_path, qwen_dir, options):
    paths = [trained(qwen_dir, tmp_path / str(seed), seed, **options) for seed in (1, 2)]
    check_fold(tmp_path, qwen_dir, paths, (0.7, 0.3))


@pytest.mark.parametrize("weights", [(0.7, 0.5), (-0.4, 1.0)])
@pytest.mark.parametrize(
    "options",
    [
        {"bias": "all", **ATTENTION},
        {"modules_to_save": ["lm_head", "norm"], **ATTENTION},
        {"modules_to_save": ["lm_head"], "target_modules": ["embed_tokens"]},
    ],
)
def test_whole_weights_of_one_adapter_are_folded_at_any_weights(
    tmp_path,
    qwen_dir,
    options,
    weights,
):
    """The base model's weight is known here, and with it what each adapter adds to it."""
    paths = [
        trained(qwen_dir, tmp_path / "whole", 1, **options),
        trained(qwen_dir, tmp_path / "plain", 2, target_modules=["q_proj", "lm_head"]),
    ]
    for name in ("whole", "twice"):
        sources = paths if name == "whole" else [paths[0], paths[0]]
        out = tmp_path / f"{name}-model"
        merge_into(sources, MergeSettings(weights=weights, into=str(qwen_dir), out=out))
        expected = sum_of_folded_models(qwen_dir, sources, weights)
        torch.testing.assert_close(logits_of(out), expected, rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize("halved", [0, 1])
def test_frozen_copies_that_differ_only_in_precision_are_one(tmp_path, qwen_dir, halved):
    options = {"target_modules": ["lm_head", "embed_tokens"]}
    paths = [trained(qwen_dir, tmp_path / str(seed), seed, **options) for seed in (0, 1)]
    expected = sum_of_folded_models(qwen_dir, paths, (0.7, 0.9))
    rewrite(
        paths[halved],
        lambda ts: {k: t.bfloat16() if "base_layer" in k else t for k, t in ts.items()},
    )
    settings = {"weights": (0.7, 0.9)}
    merge(paths, MergeSettings(**settings, out=tmp_path / "merged"))
    merge_into(paths, MergeSettings(**settings, into=str(qwen_dir), out=tmp_path / "model"))
    torch.testing.assert_close(logits_of(tmp_path / "model"), expected, rtol=2e-4, atol=2e-3)
    through_peft = logits_through_peft(qwen_dir, tmp_path / "merged")
    torch.testing.assert_close(through_peft, expected, rtol=2e-4, atol=2e-3)
    kept = load_file(tmp_path / "merged" / "adapter_model.safetensors")
    head = load_file(qwen_dir / "model.safetensors")["lm_head.weight"]
    assert torch.equal(kept["base_model.model.lm_head.base_layer.weight"], head)


def test_embeddings_that_peft_saves_three_times_are_one(tmp_path, model_dir):
    """Of a resized vocabulary: the trained weight, the base's, and the trained one again."""
    base = tmp_path / "base"
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    model.resize_token_embeddings(model.config.vocab_size + 2, mean_resizing=False)
    model.save_pretrained(base)
    options = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    adapted = get_peft_model(model, options)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    adapted.save_pretrained(tmp_path / "a", save_embedding_layers=True)
    names = list(load_file(tmp_path / "a" / "adapter_model.safetensors"))
    assert sum("embed_tokens" in name for name in names) == 3
    assert "model.embed_tokens.weight" in read_adapter(tmp_path / "a").saved
    settings = MergeSettings(weights=(1,), into=str(base), out=tmp_path / "model")
    merge_into([tmp_path / "a"], settings)
    expected = logits_through_peft(base, tmp_path / "a")
    torch.testing.assert_close(logits_of(tmp_path / "model"), expected, rtol=2e-4, atol=2e-3)
    merge([tmp_path / "a"], MergeSettings(weights=(1,), out=tmp_path / "merged"))
    through_peft = logits_through_peft(base, tmp_path / "merged")
    torch.testing.assert_close(through_peft, expected, rtol=2e-4, atol=2e-3)


def test_biases_are_not_merged_with_what_has_none_in_peft(tmp_path, qwen_dir):
    paths = [
        trained(qwen_dir, tmp_path / "biased", 1, lora_bias=True, **ATTENTION),
        trained(qwen_dir, tmp_path / "embedded", 2, target_modules=["embed_tokens", "q_proj"]),
    ]
    with pytest.raises(ArtifactError, match="updates 'model.embed_tokens', embeddings") as refused:
        merge(paths, MergeSettings(weight=0.5, out=tmp_path / "m"))
    assert "--into" in refused.value.hint
    merge_into(paths, MergeSettings(weight=0.5, into=str(qwen_dir), out=tmp_path / "model"))
    expected = sum_of_folded_models(qwen_dir, paths, (0.5, 0.5))
    torch.testing.assert_close(logits_of(tmp_path / "model"), expected, rtol=2e-4, atol=2e-3)


def test_a_rule_may_be_for_whole_weights_alone(tmp_path, qwen_dir):
    options = {"modules_to_save": ["lm_head"], **ATTENTION}
    paths = [trained(qwen_dir, tmp_path / str(seed), seed, **options) for seed in (1, 2)]
    rules = tmp_path / "w.toml"
    rules.write_text('weights = [0, 1]\n[[rule]]\nmodules = "lm_head"\nweights = [1, 0]\n')
    merge(paths, MergeSettings(weights_file=rules, out=tmp_path / "m"))
    first, merged = (
        read_adapter(path).saved_weight("lm_head.weight") for path in (paths[0], tmp_path / "m")
    )
    assert (first == merged).all()


def test_embeddings_that_stay_tied_are_tied_in_the_merge(tmp_path):
    base = save_model(tmp_path / "base", "gemma2")
    options = {"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj"]}
    path = trained(base, tmp_path / "a", **options, ensure_weight_tying=True)
    assert "lm_head.weight" in read_adapter(path).saved
    merge([path], MergeSettings(weights=(1,), out=tmp_path / "merged"))
    model = AutoModelForCausalLM.from_pretrained(base)
    expected = model(IDS).logits
    adapted = PeftModel.from_pretrained(model, tmp_path / "merged").eval()
    through_peft = logits_through_peft(base, path)
    torch.testing.assert_close(adapted(IDS).logits, through_peft, rtol=2e-4, atol=2e-3)
    with adapted.disable_adapter():
        assert torch.equal(adapted(IDS).logits, expected)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_merge_is_tied_only_if_all_its_sources_are(tmp_path):
    """Their heads and embeddings differ otherwise, and so do those of the merge."""
    base = save_model(tmp_path / "base", "gemma2")
    tied = trained(
        base, tmp_path / "tied", 1, modules_to_save=["embed_tokens"], ensure_weight_tying=True
    )
    free = trained(base, tmp_path / "free", 2, modules_to_save=["embed_tokens", "lm_head"])
    for pair in ([tied, free], [free, tied]):
        merge(pair, MergeSettings(weights=(0.5, 0.5), out=tmp_path / "m"), force=True)
        merged = read_adapter(tmp_path / "m")
        names = "lm_head.weight", "model.embed_tokens.weight"
        head, embeddings = map(merged.saved_weight, names)
        assert (head != embeddings).any()
        assert not merged.config.get("ensure_weight_tying")


WHOLE = {
    "biases of the updates": {"lora_bias": True, **ATTENTION},
    "all biases": {"bias": "all", **ATTENTION},
    "biases beside updates": {"bias": "lora_only", **ATTENTION},
    "a whole LM head": {"modules_to_save": ["lm_head"], **ATTENTION},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "the LM head": {"target_modules": ["lm_head", "q_proj"]},
    "embeddings and head": {"modules_to_save": ["embed_tokens", "lm_head"], **ATTENTION},
}


FROZEN = ("embeddings", "the LM head")  # LoRA, beside a copy of the base's own weight


@pytest.mark.parametrize("variant", WHOLE)
def test_whole_weights_are_averaged_when_weights_add_up_to_one(tmp_path, qwen_dir, variant):
    paths = [
        trained(qwen_dir, tmp_path / str(seed), seed, **WHOLE[variant], r=2 + seed)
        for seed in range(2)
    ]
    check_merge(tmp_path, qwen_dir, paths, (0.7, 0.3))


def test_an_adapter_of_weight_zero_adds_no_whole_module(tmp_path, qwen_dir):
    head = trained(qwen_dir, tmp_path / "a", 1, modules_to_save=["lm_head"])
    both = trained(qwen_dir, tmp_path / "b", 2, modules_to_save=["lm_head", "embed_tokens"])
    merge([head, both], MergeSettings(weights=(1, 0), out=tmp_path / "m"))
    assert read_adapter(tmp_path / "m").config["modules_to_save"] == ["lm_head"]
    biased = trained(qwen_dir, tmp_path / "c", 3, lora_bias=True, **ATTENTION)
    merge([head, biased], MergeSettings(weights=(1, 0), out=tmp_path / "n"))
    assert read_adapter(tmp_path / "n").config["lora_bias"] is False


def test_an_adapter_keeps_a_whole_module_that_others_have_not(tmp_path, qwen_dir):
    head = trained(qwen_dir, tmp_path / "a", 1, modules_to_save=["lm_head"], **ATTENTION)
    plain = trained(qwen_dir, tmp_path / "b", 2, **ATTENTION)
    options = {"weight": 0.6, "inactive": "keep"}
    merge([head, plain], MergeSettings(**options, out=tmp_path / "m"))
    merge_into([head, plain], MergeSettings(**options, into=str(qwen_dir), out=tmp_path / "model"))
    own, merged = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("a", "m"))
    folded = load_file(tmp_path / "model" / "model.safetensors")["lm_head.weight"]
    for found in (merged["base_model.model.lm_head.weight"], folded):
        torch.testing.assert_close(found, own["base_model.model.lm_head.weight"])


def test_an_update_of_a_module_and_its_whole_weight_share_their_weights(tmp_path, qwen_dir):
    head = trained(qwen_dir, tmp_path / "a", 1, modules_to_save=["lm_head"], **ATTENTION)
    lora = trained(qwen_dir, tmp_path / "b", 2, target_modules=["lm_head"])
    for way in ("keep", "average"):
        options = {"weight": 0.6, "inactive": way, "out": tmp_path / way}
        merge_into([head, lora], MergeSettings(**options, into=str(qwen_dir)))
    kept, average = (
        load_file(tmp_path / way / "model.safetensors")["lm_head.weight"]
        for way in ("keep", "average")
    )
    torch.testing.assert_close(kept, average)


def test_biases_beside_updates_of_different_modules_are_averaged(tmp_path, qwen_dir):
    paths = [
        trained(qwen_dir, tmp_path / name, seed, bias="all", target_modules=[name])
        for seed, name in enumerate(["q_proj", "v_proj"])
    ]
    check_merge(tmp_path, qwen_dir, paths, (0.7, 0.3))


@pytest.mark.parametrize("weights", [(0.9, 0.4), (-0.5, 1.0)])
@pytest.mark.parametrize("variant", FROZEN)
def test_lora_on_embeddings_merges_with_an_adapter_that_has_none(
    tmp_path, qwen_dir, variant, weights
):
    """PEFT saves the base's own weight with it, and that is no part of the sum."""
    paths = [
        trained(qwen_dir, tmp_path / "a", 1, **WHOLE[variant]),
        trained(qwen_dir, tmp_path / "b", 2, r=3),
    ]
    copies = read_adapter(paths[0]).saved
    assert copies
    check_merge(tmp_path, qwen_dir, paths, weights)
    assert not inspect([paths[0]], InspectSettings()).notes  # they replace nothing
    merged = read_adapter(tmp_path / "merged")
    for name in copies:
        assert np.array_equal(merged.saved_weight(name), read_adapter(paths[0]).saved_weight(name))
    # Another base's weight is not passed over.
    rewrite(
        paths[0],
        lambda tensors: {k: t + 1 if "base_layer" in k else t for k, t in tensors.items()},
    )
    other = trained(qwen_dir, tmp_path / "c", 3, **WHOLE[variant])
    with pytest.raises(ArtifactError, match="whole weight"):
        merge([paths[0], other], MergeSettings(weights=weights, out=tmp_path / "m"))


@pytest.mark.parametrize("module", ["norm", "model.norm", "1.input_layernorm"])
def test_whole_modules_are_named_by_the_end_of_their_names(tmp_path, qwen_dir, module):
    paths = [
        trained(qwen_dir, tmp_path / str(seed), seed, modules_to_save=[module], **ATTENTION)
        for seed in range(2)
    ]
    check_merge(tmp_path, qwen_dir, paths, (0.7, 0.3))


def test_whole_weights_whose_sum_overflows_are_refused(tmp_path, qwen_dir):
    paths = []
    for seed, number in enumerate((40000.0, -40000.0)):
        path = trained(qwen_dir, tmp_path / str(seed), modules_to_save=["lm_head"], **ATTENTION)
        rewrite(
            path,
            lambda tensors, number=number: {
                k: torch.full_like(t, number).half() if "lm_head" in k else t.half()
                for k, t in tensors.items()
            },
        )
        paths.append(path)
    with pytest.raises(
        ArtifactError, match=r"'lm_head\.weight': the merged weight is too large for float16"
    ):
        merge(paths, MergeSettings(weights=(3, -2), out=tmp_path / "m"))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "variant", [name for name in WHOLE if name not in (*FROZEN, "biases of the updates")]
)
def test_whole_weights_are_refused_by_name_where_the_sum_is_not_known(tmp_path, qwen_dir, variant):
    paths = [trained(qwen_dir, tmp_path / str(seed), seed, **WHOLE[variant]) for seed in range(2)]
    plain = trained(qwen_dir, tmp_path / "plain", 3, **ATTENTION)
    names = "|".join(read_adapter(paths[0]).saved)
    for sources, weights, why in (
        (paths, (1.0, 0.1), r"the weights add up to 1\.1"),
        (paths, (0.7, 0.301), r"the weights add up to 1\.001"),
        ([paths[0], plain], (0.9, 0.1), "plain does not"),
    ):
        with pytest.raises(ArtifactError, match=rf"whole weight '({names})', but .*{why}"):
            merge(sources, MergeSettings(weights=weights, out=tmp_path / "m"), dry_run=True)
    # An adapter of weight zero brings nothing.
    report = merge([plain, paths[0]], MergeSettings(weights=(1, 0), out=tmp_path / "m"))
    assert report.written
    torch.testing.assert_close(
        logits_through_peft(qwen_dir, tmp_path / "m"), logits_through_peft(qwen_dir, plain)
    )


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_a_whole_weight_beside_an_update_of_it_is_refused_but_folded(tmp_path, qwen_dir, module):
    """Each is right by itself, and PEFT cannot load both: it looks for one of the two names."""
    paths = [
        trained(qwen_dir, tmp_path / "a", 1, target_modules=[module, "q_proj"]),
        trained(qwen_dir, tmp_path / "b", 2, modules_to_save=[module], **ATTENTION),
    ]
    settings = {"weights": (0.7, 0.3), "out": tmp_path / "m"}
    for dry_run in (True, False):
        with pytest.raises(
            ArtifactError, match=rf"the whole weight of '.*{module}' .* another has a"
        ):
            merge(paths, MergeSettings(**settings), dry_run=dry_run)
    assert not (tmp_path / "m").exists()
    merge_into(paths, MergeSettings(**settings, into=str(qwen_dir)))
    torch.testing.assert_close(
        base_model(tmp_path / "m")(IDS).logits.float(),
        sum_of_folded_models(qwen_dir, paths, (0.7, 0.3)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_some_modules_with_a_bias_and_some_without(tmp_path, qwen_dir):
    """Where an update has no bias it gets a zero: PEFT wants one in all modules or in none."""
    paths = [
        trained(qwen_dir, tmp_path / "a", 1, lora_bias=True, target_modules=["q_proj"]),
        trained(qwen_dir, tmp_path / "b", 2, target_modules=["q_proj", "v_proj"]),
    ]
    check_merge(tmp_path, qwen_dir, paths, (0.7, 0.4))
