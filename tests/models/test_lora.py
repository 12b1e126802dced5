"""Variants of LoRA that PEFT has: what is saved means what was trained."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from helpers.adapters import IDS, logits_through_peft
from helpers.experts import FUSED, save_experts
from helpers.training import align_settings, randomize, task_settings
from peft import PeftModel
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.format import layer_of
from adaptermix.commands.settings_file import load_settings
from adaptermix.errors import ConfigError
from adaptermix.merging.merge import merge
from adaptermix.models.blocks import load_lower_blocks
from adaptermix.models.loading import load_model
from adaptermix.models.lora import _LAYOUTS, with_lora
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.paper import ATTENTION_AND_MLP
from adaptermix.settings.training import TrainTaskSettings
from adaptermix.training.base import Base
from adaptermix.training.batches import EncodedExample
from adaptermix.training.memory import Footprint
from adaptermix.training.report import TrainingData, plan_training
from adaptermix.training.run import TrainingRun

VARIANTS = {
    "rslora": {"use_rslora": True, "revision": "v1"},
    # The first of several patterns applies, whatever their order in the file.
    "ranks": {"rank_pattern": {"layers.1.mlp.down_proj": 3, "down_proj": 2}},
    "alphas": {"alpha_pattern": {"up_proj": 64.0, r"^model\.layers\.0\.mlp.*": 5.0}},
    "layers": {"layers_to_transform": (0, 1)},
    "all": {
        "use_rslora": True,
        "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {"q_proj": 3.0, r"0\.mlp\.up_proj": 7.0},
        "layers_to_transform": (0,),
        "target_modules": ("q_proj", "up_proj"),
    },
}


def saved(settings, model, out):
    data = TrainingData([EncodedExample([0], [0])], [], {}, {})
    run = TrainingRun(settings, Base(Path(settings.model), None, [], []), data, 1, None)
    run._write(model, plan_training(settings, data, Footprint(0, 0, 0)), force=False)
    return read_adapter(out)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_of_a_task_adapter_means_what_was_trained(tmp_path, model_dir, name):
    changes = VARIANTS[name]
    settings = task_settings(model_dir, None, tmp_path / "adapter", **changes)
    model = with_lora(load_model(model_dir, settings), settings, "CAUSAL_LM").eval()
    randomize(model)
    expected = model(IDS).logits.detach()
    adapter = saved(settings, model, tmp_path / "adapter")
    torch.testing.assert_close(logits_through_peft(model_dir, tmp_path / "adapter"), expected)
    for key, value in changes.items():
        if key != "target_modules" and not key.endswith("pattern"):
            assert adapter.config[key] == (list(value) if key.startswith("layers") else value)
    merge([tmp_path / "adapter"], MergeSettings(weights=(1.0,), out=tmp_path / "merged"))
    merged = logits_through_peft(model_dir, tmp_path / "merged")
    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=5e-5)  # B holds the scaling


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_of_an_alignment_adapter_means_what_was_trained(tmp_path, model_dir, name):
    settings = align_settings(model_dir, None, tmp_path / "adapter", **VARIANTS[name])
    lower = with_lora(load_lower_blocks(model_dir, settings, 2), settings, None).eval()
    randomize(lower)
    expected = lower(IDS).last_hidden_state.detach()
    adapter = saved(settings, lower, tmp_path / "adapter")
    assert {layer_of(module) for module in adapter.modules} <= {0, 1}
    whole = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_dir), str(tmp_path / "adapter")
    )
    states = whole.eval()(IDS, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(states, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layers_to_transform": (1, 4)},
            "--layers-to-transform 4: the blocks of the model are 0 to 3",
        ),
        (
            {"layers_to_transform": (1,), "target_modules": ("q_proj", "lm_head")},
            "--target-modules: no block of --layers-to-transform has 'lm_head'",
        ),
        ({"rank_pattern": {"dwn_proj": 2}}, "--rank-pattern: no module.*'dwn_proj'"),
        ({"alpha_pattern": {"proj": 2.0}}, "--alpha-pattern: no module.*'proj'"),
    ],
)
def test_variants_that_match_nothing_are_refused(model_dir, changes, message):
    settings = task_settings(model_dir, None, "x", **changes)
    with pytest.raises(ConfigError, match=message):
        with_lora(load_model(model_dir, settings), settings, "CAUSAL_LM")


def test_patterns_are_for_the_names_in_the_saved_adapter(model_dir):
    settings = align_settings(model_dir, None, "x", alpha_pattern={"^layers.0.mlp.up_proj": 64.0})
    with pytest.raises(ConfigError, match="no module.*'\\^layers.0") as error:
        with_lora(load_lower_blocks(model_dir, settings, 2), settings, None)
    assert "model.layers.0" in error.value.hint


def test_variants_on_the_command_line():
    flags = {"rank_pattern": "down_proj=16,q_proj=4", "layers_to_transform": "0-2,5"}
    settings = load_settings(TrainTaskSettings, flags)
    assert settings.rank_pattern == {"down_proj": 16, "q_proj": 4}
    assert settings.layers_to_transform == (0, 1, 2, 5)
    for wrong in ({"rank_pattern": "q=0"}, {"rank_pattern": "(=1"}, {"layers_to_transform": "a"}):
        with pytest.raises(ConfigError):
            load_settings(TrainTaskSettings, wrong)


SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
FUSED_QKV = {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
LATENT = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}
DEFAULTS = {
    "ApertusConfig": ATTENTION | {"up_proj", "down_proj"},
    "DeepseekV2Config": LATENT,
    "DeepseekV3Config": LATENT,
    "GPT2Config": {"c_attn", "c_fc", "c_proj"},
    "GPTBigCodeConfig": {"c_attn", "c_fc", "c_proj"},
    "GPTJConfig": {"q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"},
    "Glm4vTextConfig": ATTENTION | {"gate_up_proj", "down_proj"},
    "GraniteMoeConfig": ATTENTION,
    "GraniteMoeHybridConfig": ATTENTION | {"input_linear", "output_linear"},
    "GraniteMoeSharedConfig": ATTENTION | {"input_linear", "output_linear"},
    "Lfm2Config": {"q_proj", "k_proj", "v_proj", "out_proj", "w1", "w2", "w3"},
    "Phi4MultimodalConfig": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "Qwen3VLMoeTextConfig": ATTENTION,
    "ArceeConfig": ATTENTION | {"up_proj", "down_proj"},
    "BloomConfig": FUSED_QKV,
    "FalconConfig": FUSED_QKV,
    "GPTNeoXConfig": FUSED_QKV,
    "GlmConfig": ATTENTION | {"gate_up_proj", "down_proj"},
    "Glm4Config": ATTENTION | {"gate_up_proj", "down_proj"},
    "GptOssConfig": ATTENTION,
    "MixtralConfig": ATTENTION,
    "MptConfig": {"Wqkv", "out_proj", "up_proj", "down_proj"},
    "NemotronConfig": ATTENTION | {"up_proj", "down_proj"},
    "OlmoeConfig": ATTENTION,
    "BioGptConfig": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "GPTNeoConfig": {"q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"},
    "XGLMConfig": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "OPTConfig": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "PersimmonConfig": FUSED_QKV,
    "PhiConfig": {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
    "Phi3Config": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "PhimoeConfig": ATTENTION,
    "Qwen3MoeConfig": ATTENTION,
    "Starcoder2Config": ATTENTION | {"c_fc", "c_proj"},
    "LlamaConfig": ATTENTION | {"gate_proj", "up_proj", "down_proj"},
}


MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1}
OWN = {
    "GraniteMoeHybridConfig": {"layer_types": ["mamba", "attention"], **MAMBA},
    "GraniteMoeSharedConfig": {"shared_intermediate_size": 32},
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 1]]},
    "Mamba2Config": {"num_heads": 4, "head_dim": 16},
}


def small_model(name, **changes):
    changes = SMALL | OWN.get(name, {}) | changes
    if "layers_block_type" in changes:
        changes["num_hidden_layers"] = len(changes["layers_block_type"])
    config = getattr(transformers, name)(**changes)
    if name != "BloomConfig":
        config.intermediate_size = config.moe_intermediate_size = 48
        config.num_key_value_heads = 4
    kind = AutoModel if "Text" in name else AutoModelForCausalLM  # of a model of several modes
    with torch.device("meta"):
        return kind.from_config(config)


@pytest.mark.parametrize("name", DEFAULTS)
def test_default_targets_are_those_of_the_models_class(tmp_path, name):
    settings = task_settings("unused", None, tmp_path / "adapter")
    assert settings.target_modules == ATTENTION_AND_MLP
    task = "FEATURE_EXTRACTION" if "Text" in name else "CAUSAL_LM"
    adapted = with_lora(small_model(name), settings, task)
    found = adapted.base_model.targeted_module_names
    assert {module.rpartition(".")[2] for module in found} == DEFAULTS[name]
    assert {layer_of(module) for module in found} == {0, 1}


MLP = {"gate_proj", "up_proj", "down_proj"}
# Classes without an entry in the table, some with Mamba blocks, by what is set in their config.
OTHERS = {
    "NemotronHConfig": (
        {"layers_block_type": ["mamba", "attention", "mlp"]},
        ATTENTION | {"up_proj", "down_proj"},
    ),
    "BambaConfig": ({"attn_layer_indices": [1], **MAMBA}, ATTENTION | MLP),
    "JambaConfig": ({"attn_layer_offset": 1, "attn_layer_period": 2}, ATTENTION | MLP),
    "Zamba2Config": (
        {"layers_block_type": ["mamba", "hybrid"], "hybrid_layer_ids": [1]},
        ATTENTION | {"gate_up_proj", "down_proj"},
    ),
    "MiniMaxM2Config": ({"head_dim": 8}, ATTENTION),
    "MiniCPM3Config": ({}, LATENT | MLP),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_classes_get_the_projections_that_they_have(tmp_path, name):
    settings = task_settings("unused", None, tmp_path / "adapter")
    changes, expected = OTHERS[name]
    adapted = with_lora(small_model(name, **changes), settings, "CAUSAL_LM")
    found = adapted.base_model.targeted_module_names
    assert {module.rpartition(".")[2] for module in found} == expected


@pytest.mark.parametrize("name", ["Mamba2Config", "MambaConfig"])
def test_all_linear_and_the_hint_leave_out_what_peft_refuses(tmp_path, name):
    settings = task_settings("unused", None, tmp_path / "adapter")
    with pytest.raises(ConfigError, match="no linear layer 'q_proj'") as error:
        with_lora(small_model(name), settings, "CAUSAL_LM")
    assert "in_proj" in error.value.hint
    assert "out_proj" not in error.value.hint
    settings = settings.model_copy(update={"target_modules": ("all-linear",)})
    adapted = with_lora(small_model(name), settings, "CAUSAL_LM")
    found = {name.rpartition(".")[2] for name in adapted.base_model.targeted_module_names}
    assert "in_proj" in found
    assert "out_proj" not in found


def test_the_table_of_layouts_is_tested():
    kinds = {getattr(transformers, name)().model_type for name in DEFAULTS}
    assert kinds == {*_LAYOUTS, "llama"}


@pytest.mark.parametrize("name", ["Glm4MoeConfig", "Ernie4_5_MoeConfig"])
def test_layers_that_peft_takes_for_experts_are_left_out_or_named(tmp_path, name):
    settings = task_settings("unused", None, tmp_path / "adapter")
    for targets in (settings.target_modules, ("all-linear",)):
        own = settings.model_copy(update={"target_modules": targets})
        found = with_lora(small_model(name), own, "CAUSAL_LM").base_model.targeted_module_names
        last = {module.rpartition(".")[2] for module in found}
        assert last >= ATTENTION
        assert not last & {"gate_proj", "up_proj", "down_proj"}
    settings = settings.model_copy(update={"target_modules": ("q_proj", "up_proj")})
    with pytest.raises(ConfigError, match="treats 'up_proj' as the fused experts of") as error:
        with_lora(small_model(name), settings, "CAUSAL_LM")
    assert "--target-parameters" in error.value.hint


def test_what_peft_refuses_is_one_line(tmp_path):
    settings = task_settings("unused", None, tmp_path / "a", target_modules=("out_proj",))
    with pytest.raises(ConfigError, match="PEFT cannot add this LoRA to MambaForCausalLM"):
        with_lora(small_model("MambaConfig"), settings, "CAUSAL_LM")


def test_towers_inside_a_decoder_get_no_lora(tmp_path):
    settings = task_settings("unused", None, tmp_path / "a", target_modules=("all-linear",))
    model = small_model("Phi4MultimodalConfig")
    every = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert any("image_embed" in name for name in every)
    found = with_lora(model, settings, "CAUSAL_LM").base_model.targeted_module_names
    assert {name.partition(".layers.")[0] for name in found} == {"model"}
    changes = {"target_parameters": ("fc1.weight",), "dropout": 0.0}
    with pytest.raises(ConfigError, match="no parameter 'fc1.weight'"):
        with_lora(model, settings.model_copy(update=changes), "CAUSAL_LM")


def test_a_layout_that_is_not_known_is_an_error_with_its_linear_layers(tmp_path):
    settings = task_settings("unused", None, tmp_path / "adapter")
    with pytest.raises(ConfigError, match="no linear layer 'q_proj'") as error:
        with_lora(small_model("CodeGenConfig"), settings, "CAUSAL_LM")
    words = "all-linear, or some of these: fc_in, fc_out, lm_head, out_proj, qkv_proj"
    assert words in error.value.hint
    settings = settings.model_copy(update={"target_modules": ("all-linear",)})
    adapted = with_lora(small_model("CodeGenConfig"), settings, "CAUSAL_LM")
    found = {name.rpartition(".")[2] for name in adapted.base_model.targeted_module_names}
    assert found == {"qkv_proj", "out_proj", "fc_in", "fc_out"}


PARAMETERS = {
    "experts": {},
    "layer": {"layers_to_transform": (1,)},
    "rank": {"rank_pattern": {"gate_up_proj": 5}, "use_rslora": True},
    "router": {"target_parameters": ("mlp.gate.weight", "down_proj")},
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_trained_and_saved_as_peft_has_them(tmp_path, name):
    base = save_experts(tmp_path / "base", "qwen3_moe")
    changes = {"target_parameters": FUSED, "dropout": 0.0, **PARAMETERS[name]}
    settings = task_settings(base, None, tmp_path / "adapter", **changes)
    model = with_lora(load_model(base, settings), settings, "CAUSAL_LM").eval()
    randomize(model)
    expected = model(IDS).logits.detach()
    adapter = saved(settings, model, tmp_path / "adapter")
    experts = [name for name in adapter.modules if adapter.factors[name].experts]
    assert {layer_of(name) for name in experts} == ({1} if name == "layer" else {0, 1})
    assert adapter.record["settings"]["target_parameters"] == list(changes["target_parameters"])
    torch.testing.assert_close(logits_through_peft(base, tmp_path / "adapter"), expected)


def test_parameters_of_lower_blocks_are_saved_under_the_full_models_names(tmp_path):
    base = save_experts(tmp_path / "base", "gpt_oss")
    changes = {"target_parameters": FUSED, "dropout": 0.0, "layer": 1}
    settings = align_settings(base, None, tmp_path / "adapter", **changes)
    lower = load_lower_blocks(base, settings, 1)
    model = with_lora(lower, settings, "FEATURE_EXTRACTION").eval()
    randomize(model)
    expected = model(IDS).last_hidden_state.detach()
    saved(settings, model, tmp_path / "adapter")
    whole = AutoModelForCausalLM.from_pretrained(base)
    whole = PeftModel.from_pretrained(whole, tmp_path / "adapter").eval()
    states = whole(IDS, output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[1].detach(), expected)


def test_parameters_that_are_not_there_are_named(tmp_path):
    base = save_experts(tmp_path / "base", "qwen3_moe")
    changes = {"dropout": 0.0, "target_parameters": ("experts.up",)}
    settings = task_settings(base, None, tmp_path / "adapter", **changes)
    with pytest.raises(ConfigError, match=r"no parameter 'experts\.up'") as error:
        with_lora(load_model(base, settings), settings, "CAUSAL_LM")
    assert "mlp.experts.gate_up_proj, mlp.experts.down_proj" in error.value.hint
    (base / "config.json").write_text(
        json.dumps(json.loads((base / "config.json").read_text()) | {"mlp_only_layers": [0]})
    )
    config = AutoConfig.from_pretrained(base)
    changes |= {"target_parameters": ("experts.down_proj",), "layers_to_transform": (0,)}
    settings = task_settings(base, None, tmp_path / "adapter", **changes)
    with pytest.raises(ConfigError, match=r"no block .* has 'experts\.down_proj'") as error:
        with_lora(AutoModelForCausalLM.from_config(config), settings, "CAUSAL_LM")
    assert error.value.hint == "these have it: 1"
    with pytest.raises(ValueError, match="--target-parameters needs --dropout 0"):
        task_settings(base, None, tmp_path / "adapter", target_parameters=FUSED, dropout=0.1)


def test_blocks_that_get_a_lora_are_among_those_to_align(model_dir):
    aligned = align_settings(model_dir, None, "x", layer=2, layers_to_transform=(0, 2))
    with pytest.raises(ConfigError, match="2: the blocks up to --layer 2 are 0 to 1"):
        with_lora(load_lower_blocks(model_dir, aligned, 2), aligned, None)
    whole = task_settings(model_dir, None, "x", layers_to_transform=(4,))
    with pytest.raises(ConfigError, match="4: the blocks of the model are 0 to 3"):
        with_lora(load_model(model_dir, whole), whole, None)
