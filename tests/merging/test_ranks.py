"""Ranks and scalings of merges, which loaders that know only one of each can read."""

import json

import pytest
import torch
import transformers
from helpers.adapters import logits_through_peft
from helpers.merging import logits_of, sum_of_folded_models, trained
from helpers.models import saved_base
from safetensors.torch import load_file, save_file

from adaptermix.adapters.adapter import read_adapter
from adaptermix.merging.fold import merge_into
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings

WEIGHTS = (0.7, 0.3)


def test_a_merge_has_one_rank_and_one_alpha_for_loaders_that_know_no_other(tmp_path, model_dir):
    options = {"r": 3, "lora_alpha": 5, "layers_to_transform": [0, 1]}
    adapters = [
        trained(model_dir, tmp_path / "a", 1),
        trained(model_dir, tmp_path / "b", 2, target_modules=["q_proj", "v_proj"], **options),
    ]
    merge(adapters, MergeSettings(weights=WEIGHTS, out=tmp_path / "m"))
    found = logits_through_peft(model_dir, tmp_path / "m")
    expected = sum_of_folded_models(model_dir, adapters, WEIGHTS)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-3)
    config = read_adapter(tmp_path / "m").config
    assert (config["r"], config["lora_alpha"]) == (7, 7)
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    tensors = load_file(tmp_path / "m" / "adapter_model.safetensors")
    assert {t.shape[0] for key, t in tensors.items() if "lora_A" in key} == {7}
    merge(adapters, MergeSettings(weights=WEIGHTS, out=tmp_path / "compact", compact=True))
    assert read_adapter(tmp_path / "compact").config["rank_pattern"]
    compact = logits_through_peft(model_dir, tmp_path / "compact")
    torch.testing.assert_close(compact, found, rtol=1e-4, atol=1e-4)


MOE = {
    "Qwen3Moe": ("mlp", ("gate_proj", "up_proj", "down_proj"), "num_experts"),
    "Mixtral": ("block_sparse_moe", ("w1", "w3", "w2"), "num_local_experts"),
}


def moe_dir(folder, kind):
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8}
    shape |= {"vocab_size": 400, "num_key_value_heads": 2, "intermediate_size": 16}
    if kind == "Qwen3Moe":
        shape["moe_intermediate_size"] = 16
    config = getattr(transformers, f"{kind}Config")(
        **shape, num_experts_per_tok=2, **{MOE[kind][2]: 4}
    )
    return saved_base(folder, f"{kind}ForCausalLM", config)


def per_expert(folder, base, kind, rank, layers=3):
    """Write an adapter as transformers 4 had them: one LoRA for every expert."""
    torch.manual_seed(rank + layers)
    block, names, _ = MOE[kind]
    shapes = dict(zip(names, ((16, 32), (16, 32), (32, 16)), strict=True))
    modules = {f"{block}.experts.{e}.{name}": shapes[name] for e in range(4) for name in names}
    modules["self_attn.q_proj"] = (32, 32)
    tensors = {}
    for layer in range(layers):
        for module, (rows, columns) in modules.items():
            key = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, columns) * 0.2
            tensors[f"{key}.lora_B.weight"] = torch.randn(rows, rank) * 0.2
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 8}
    config |= {"target_modules": [*names, "q_proj"], "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


RULES = """
weights = [0.7, 0.3]
[[rule]]
layers = "0"
weights = [0.2, 0.1]
"""


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("kind", MOE)
@pytest.mark.parametrize("case", ["ranks", "layers", "rules"])
def test_experts_get_one_rank_and_one_scaling(tmp_path, kind, case, compact):
    base = moe_dir(tmp_path / "base", kind)
    adapters = [
        per_expert(tmp_path / "a", base, kind, 4),
        per_expert(tmp_path / "b", base, kind, 8 if case == "ranks" else 3, 2 + (case != "layers")),
    ]
    (tmp_path / "w.toml").write_text(RULES)
    weights = {"weights_file": tmp_path / "w.toml"} if case == "rules" else {"weights": WEIGHTS}
    merge(adapters, MergeSettings(**weights, out=tmp_path / "m", compact=compact))
    merge_into(adapters, MergeSettings(**weights, into=str(base), out=tmp_path / "folded"))
    expected = logits_of(tmp_path / "folded")
    assert (expected - logits_of(base)).abs().max() > 0.1
    found = logits_through_peft(base, tmp_path / "m")
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
