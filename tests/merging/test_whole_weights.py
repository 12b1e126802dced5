"""Whole weights of adapters (biases, embeddings, modules_to_save), merged and folded."""

import pytest
import torch
from helpers.adapters import logits_through_peft
from helpers.merging import (
    ATTENTION,
    check_fold,
    logits_of,
    rewrite,
    sum_of_folded_models,
    trained,
)
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.merging.fold import merge_into
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings


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
