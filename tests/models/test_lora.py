"""Variants of LoRA that PEFT has: what is saved means what was trained."""

from pathlib import Path

import pytest
import torch
from helpers.adapters import IDS, logits_through_peft
from helpers.training import align_settings, randomize, task_settings
from peft import PeftModel
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.format import layer_of
from adaptermix.commands.settings_file import load_settings
from adaptermix.errors import ConfigError
from adaptermix.merging.merge import merge
from adaptermix.models.blocks import load_lower_blocks
from adaptermix.models.loading import load_model
from adaptermix.models.lora import with_lora
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.training import TrainTaskSettings
from adaptermix.training.batches import EncodedExample
from adaptermix.training.memory import Footprint
from adaptermix.training.report import TrainingData, plan_training
from adaptermix.training.run import TrainingRun

VARIANTS = {
    "rslora": {"use_rslora": True},
    "ranks": {"rank_pattern": {"down_proj": 2, "model.layers.1.self_attn.q_proj": 3}},
    "alphas": {"alpha_pattern": {"mlp.*": 5.0}},
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
    run = TrainingRun(settings, Path(settings.model), data, 1, None, None)
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
        if key != "target_modules":
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
        ({"layers_to_transform": (1, 4)}, "--layers-to-transform 4: 4 blocks are trained, 0 to 3"),
        ({"rank_pattern": {"dwn_proj": 2}}, "--rank-pattern: no module.*'dwn_proj'"),
        ({"alpha_pattern": {"proj": 2.0}}, "--alpha-pattern: no module.*'proj'"),
    ],
)
def test_variants_that_match_nothing_are_refused(model_dir, changes, message):
    settings = task_settings(model_dir, None, "x", **changes)
    with pytest.raises(ConfigError, match=message):
        with_lora(load_model(model_dir, settings), settings, "CAUSAL_LM")


def test_variants_on_the_command_line():
    flags = {"rank_pattern": "down_proj=16,q_proj=4", "layers_to_transform": "0-2,5"}
    settings = load_settings(TrainTaskSettings, flags)
    assert settings.rank_pattern == {"down_proj": 16, "q_proj": 4}
    assert settings.layers_to_transform == (0, 1, 2, 5)
    for wrong in ({"rank_pattern": "q=0"}, {"rank_pattern": "(=1"}, {"layers_to_transform": "a"}):
        with pytest.raises(ConfigError):
            load_settings(TrainTaskSettings, wrong)
