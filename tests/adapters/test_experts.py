"""Adapters of fused experts: PEFT is the reference for their sum, and for the folded model."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from helpers.experts import (
    FUSED,
    IDS,
    WIDE,
    folded_by_peft,
    fused_adapter,
    logits_of,
    logits_with,
    save_experts,
)
from safetensors.numpy import load_file, save_file

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.experts import TRANSPOSED
from adaptermix.adapters.inspection import inspect
from adaptermix.adapters.writing import stage_adapter
from adaptermix.errors import ArtifactError
from adaptermix.generation.vllm_engine import vllm_lacks
from adaptermix.merging.fold import merge_into
from adaptermix.merging.merge import merge
from adaptermix.merging.methods import METHODS
from adaptermix.models.loading import AdaptedModel
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import InspectSettings


@pytest.fixture(scope="module", params=["qwen3_moe", "mixtral", "gpt_oss"])
def base(request, tmp_path_factory):
    return save_experts(tmp_path_factory.mktemp(request.param) / "base", request.param)


OPTIONS = {
    "two parameters": ({}, {"r": 2, "lora_alpha": 5}),
    "other ranks": ({"rank_pattern": {"gate_up_proj": 5}}, {"use_rslora": True}),
    "one parameter": (
        {"target_parameters": ["mlp.experts.down_proj"]},
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
    ),
    "experts alone": ({"target_modules": []}, {}),
    # PEFT then names parameters without their modules, and the router's with its module.
    "all-linear": ({"target_modules": "all-linear", "target_parameters": None}, {}),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_merge_is_the_weighted_sum_of_what_peft_adds(base, tmp_path, options):
    paths = [
        fused_adapter(base, tmp_path / name, at, **options[at]) for at, name in enumerate("ab")
    ]
    weights = (0.7, -0.4)
    expected = folded_by_peft(base, paths, weights)
    reference = logits_of(expected, base)
    merge(paths, MergeSettings(weights=weights, out=tmp_path / "m"))
    effect = (reference - logits_with(base)).abs().max()
    assert effect > 0.05
    assert (logits_with(base, tmp_path / "m") - reference).abs().max() < 1e-5 * effect

    merge_into(paths, MergeSettings(weights=weights, out=tmp_path / "into", into=str(base)))
    assert (logits_with(tmp_path / "into") - reference).abs().max() < 1e-4 * effect
    folded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "into").state_dict()
    for name, weight in folded.items():
        torch.testing.assert_close(weight.double(), expected[name], rtol=1e-5, atol=1e-6)


# Models whose experts and routers have other names in their files than in memory.
RENAMED = {
    "granitemoe": ("block_sparse_moe", "block_sparse_moe.input_linear.weight"),
    "aria_text": ("mlp", "mlp.experts.fc1.weight"),
    "phimoe": ("mlp", "block_sparse_moe.gate.weight"),
}


@pytest.mark.parametrize("kind", RENAMED)
def test_experts_and_routers_are_folded_under_the_names_of_the_files(tmp_path, kind):
    base = save_experts(tmp_path / "base", kind)
    block, in_files = RENAMED[kind]
    assert f"model.layers.0.{in_files}" in load_file(base / "model.safetensors")
    targets = [f"{block}.router.weight", *(name.replace("mlp", block) for name in FUSED)]
    targets = {"target_parameters": targets[kind == "aria_text" :]}
    paths = [fused_adapter(base, tmp_path / str(at), at, **targets) for at in range(2)]
    expected = logits_of(folded_by_peft(base, paths, (0.7, -0.4)), base)
    out = tmp_path / "model"
    merge_into(paths, MergeSettings(weights=(0.7, -0.4), into=str(base), out=out))
    assert (logits_with(out) - expected).abs().max() < 1e-4


def test_a_merge_has_one_rank_and_pefts_names(base, tmp_path):
    paths = [
        fused_adapter(base, tmp_path / "a", 1),
        fused_adapter(base, tmp_path / "b", 2, r=5, target_modules=["q_proj", "o_proj"]),
    ]
    merge(paths, MergeSettings(weights=(0.5, 0.5), out=tmp_path / "m"))
    config = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    assert config["r"] == 8
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    tensors = load_file(tmp_path / "m" / "adapter_model.safetensors")
    of_a = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert set(of_a) < set(tensors)
    layer = "base_model.model.model.layers.1.mlp.experts"
    assert tensors[f"{layer}.base_layer.lora_A.weight"].shape == (4 * 8, 32)
    assert tensors[f"{layer}.lora_B.weight"].shape == (32, 8 * 4)


def test_experts_are_read_as_peft_lays_them_out(base, tmp_path):
    path = fused_adapter(base, tmp_path / "a", 3)
    adapter, before = read_adapter(path), logits_with(base)
    added = folded_by_peft(base, [path], [1])
    weights = transformers.AutoModelForCausalLM.from_pretrained(base).state_dict()
    for module in adapter.modules:
        if adapter.factors[module].experts:
            owner, expert, name = module.rsplit(".", 2)
            delta = (added[f"{owner}.{name}"] - weights[f"{owner}.{name}"])[int(expert)].numpy()
            if "gpt_oss" in str(base):
                delta = delta.T
            np.testing.assert_allclose(adapter.update(module).delta_weight(), delta, atol=1e-5)
    report = inspect([path], InspectSettings())
    norms = math.hypot(*(float((added[name] - w).norm()) for name, w in weights.items()))
    assert report.total.norms[0] == pytest.approx(norms, rel=1e-5)
    assert before.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_merges_every_expert(base, tmp_path, method):
    paths = [fused_adapter(base, tmp_path / name, at) for at, name in enumerate("ab")]
    settings = MergeSettings(weights=(0.5, 0.5), out=tmp_path / "m", method=method)
    merge(paths, settings)
    merged, one = read_adapter(tmp_path / "m"), read_adapter(paths[0])
    assert set(merged.modules) == set(one.modules)
    assert all(map(merged.is_active, merged.modules))
    assert logits_with(base, tmp_path / "m").isfinite().all()


def test_a_fold_loses_what_the_merge_loses(base, tmp_path):
    """Each expert counts once, in one weight or in two of the base's files."""
    paths = [fused_adapter(base, tmp_path / name, at) for at, name in enumerate("ab")]
    settings = MergeSettings(weights=(0.5, 0.5), out=tmp_path / "m", method="ties", density=0.2)
    lost = merge(paths, settings).relative_error
    settings = settings.model_copy(update={"out": tmp_path / "into", "into": str(base)})
    assert merge_into(paths, settings).relative_error == pytest.approx(lost, rel=1e-4)
    assert lost > 0.1


def test_experts_apart_and_fused_are_not_merged(tmp_path):
    base = save_experts(tmp_path / "base", "qwen3_moe")
    fused, apart = fused_adapter(base, tmp_path / "fused", 1), tmp_path / "apart"
    apart.mkdir()
    (apart / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "r": 2,
                "lora_alpha": 2,
                "base_model_name_or_path": str(base),
                "target_modules": ["down_proj"],
            }
        )
    )
    key = "base_model.model.model.layers.0.mlp.experts.0.down_proj.lora_"
    factors = {"A": np.ones((2, 12), np.float32), "B": np.ones((32, 2), np.float32)}
    save_file(
        {f"{key}{side}.weight": factor for side, factor in factors.items()},
        apart / "adapter_model.safetensors",
    )
    with pytest.raises(ArtifactError, match=r"fused experts .* has a LoRA on each expert") as error:
        merge([fused, apart], MergeSettings(weights=(0.5, 0.5), out=tmp_path / "m"))
    assert "--into" in error.value.hint


def test_factors_that_the_config_does_not_tell_are_refused(tmp_path):
    base = save_experts(tmp_path / "base", "qwen3_moe")
    path = fused_adapter(base, tmp_path / "a", 1)
    config_file = path / "adapter_config.json"
    config = json.loads(config_file.read_text())
    for change, message in (
        ({"target_parameters": ["mlp.experts.down_proj"]}, "factors for 2 parameters"),
        ({"r": 5}, "do not fit several experts of rank 5"),
        (
            {"target_parameters": ["mlp.experts.up", "mlp.experts.down_proj"]},
            "factors belong to 'up'",
        ),
    ):
        config_file.write_text(json.dumps(config | change))
        with pytest.raises(ArtifactError, match=message):
            read_adapter(path)


def test_transposed_classes_are_those_of_transformers():
    folder = next(iter(transformers.models.__path__))
    found = {
        file.parent.name
        for file in Path(folder).glob("*/modeling_*.py")
        if "is_transposed=True" in file.read_text(encoding="utf-8")
    }
    assert found == {name.removesuffix("_text") for name in TRANSPOSED}


def test_parameters_of_two_dimensions_are_like_the_weights_of_linear_layers(base, tmp_path):
    router = "mlp.router.weight" if "gpt_oss" in str(base) else "mlp.gate.weight"
    targets = {"target_modules": [], "target_parameters": ["self_attn.v_proj.weight", router]}
    paths = [
        fused_adapter(base, tmp_path / "a", 1, **targets),
        fused_adapter(base, tmp_path / "b", 2, r=4),
    ]
    reference = logits_of(folded_by_peft(base, paths, (0.5, 0.8)), base)
    merge(paths, MergeSettings(weights=(0.5, 0.8), out=tmp_path / "m"))
    effect = (reference - logits_with(base)).abs().max()
    assert (logits_with(base, tmp_path / "m") - reference).abs().max() < 1e-5 * effect
    merge([paths[0], paths[0]], MergeSettings(weights=(0.5, 0.5), out=tmp_path / "c", compact=True))
    once = logits_with(base, paths[0])
    assert (logits_with(base, tmp_path / "c") - once).abs().max() < 1e-5


def test_adapters_of_other_parameters_take_turns_in_one_model(base, tmp_path):
    paths = [
        fused_adapter(base, tmp_path / "both", 1),
        fused_adapter(base, tmp_path / "down", 2, target_parameters=["mlp.experts.down_proj"]),
        fused_adapter(base, tmp_path / "none", 3, target_parameters=None),
    ]
    model = AdaptedModel(transformers.AutoModelForCausalLM.from_pretrained(base, **WIDE))
    staged = [stage_adapter(read_adapter(path), tmp_path) for path in paths]
    for at in (0, 1, 2, 0, 0, 2, 1):
        model.switch_to(staged[at])
        torch.testing.assert_close(model.model(IDS).logits, logits_with(base, paths[at]))
    model.switch_to(None)
    torch.testing.assert_close(model.model(IDS).logits, logits_with(base))


def test_vllm_is_not_given_fused_experts(tmp_path):
    base = save_experts(tmp_path / "base", "qwen3_moe")
    adapter = read_adapter(fused_adapter(base, tmp_path / "a", 1))
    assert "fused experts" in vllm_lacks(adapter)
    plain = fused_adapter(base, tmp_path / "b", 1, target_parameters=None)
    assert vllm_lacks(read_adapter(plain)) is None


def test_experts_have_one_rank_whatever_the_weights_of_layers(tmp_path):
    base = save_experts(tmp_path / "base", "qwen3_moe")
    paths = [
        fused_adapter(base, tmp_path / "a", 1),
        fused_adapter(base, tmp_path / "b", 2, rank_pattern={"down_proj": 2}),
    ]
    rules = tmp_path / "weights.toml"
    rules.write_text('weights = [0.7, 0.3]\n[[rule]]\nlayers = "0"\nweights = [0.2, 0.1]\n')
    merge(paths, MergeSettings(weights_file=rules, out=tmp_path / "m", compact=True))
    config = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    assert not any(
        "experts" in name for name in (*config["rank_pattern"], *config["alpha_pattern"])
    )
    merge_into(paths, MergeSettings(weights_file=rules, out=tmp_path / "into", into=str(base)))
    expected = folded_by_peft(base, paths, (0.7, 0.3))
    first = folded_by_peft(base, paths, (0.2, 0.1))
    expected |= {name: weight for name, weight in first.items() if ".layers.0." in name}
    reference = logits_of(expected, base)
    effect = (reference - logits_with(base)).abs().max()
    assert (logits_with(base, tmp_path / "m") - reference).abs().max() < 1e-5 * effect
    assert (logits_with(tmp_path / "into") - reference).abs().max() < 1e-4 * effect
