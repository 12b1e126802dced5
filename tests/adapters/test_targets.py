"""The modules that a config targets, compared with PEFT's own check."""

import itertools
import json
from pathlib import Path

import pytest
from helpers.adapters import peft_adapter
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.targets import check_targets, left_out_by
from adaptermix.errors import ArtifactError
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings

MODULES = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.mlp.down_proj",
    "model.language_model.layers.2.mlp.experts.1.down_proj",
    "layers.1.self_attn.q_proj",
    "transformer.h.1.attn.c_attn",
    "lm_head",
    "model.embed_tokens",
)
TARGETS = (
    ["q_proj", "down_proj", "lm_head"],
    ["layers.1.mlp.down_proj", "model.embed_tokens", "c_attn"],
    ["proj"],
    r".*\.(q|down)_proj",
    r"model\.layers\.\d+\..*",
)
OPTIONS = (
    {},
    {"exclude_modules": ["q_proj", "model.embed_tokens"]},
    {"exclude_modules": r".*layers\.1\..*"},
    {"modules_to_save": ["lm_head", "mlp"]},
    {"layers_to_transform": 1},
    {"layers_to_transform": [0, 2]},
    {"layers_to_transform": []},
    {"layers_to_transform": [1, 2], "layers_pattern": "layers"},
    {"layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
    {"layers_to_transform": [1], "layers_pattern": []},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_module_is_targeted_if_peft_says_so(options):
    for targets, module in itertools.product(TARGETS, MODULES):
        config = {"target_modules": targets, **options}
        try:
            expected = check_target_module_exists(LoraConfig(**config), module)
        except ValueError:  # a pattern with layers is not possible in PEFT
            continue
        assert (left_out_by(module, config) is None) is bool(expected), (config, module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_modules": ["q_proj"]}, "down_proj', but target_modules in the config does not"),
        ({"target_modules": r".*q_proj"}, "down_proj', but target_modules in the config does not"),
        ({"exclude_modules": ["q_proj"]}, "q_proj', but exclude_modules in the config excludes"),
        ({"layers_to_transform": [0, 2]}, r"layers\.1\..*, but layers_to_transform in the config"),
    ],
)
def test_an_update_that_peft_would_ignore_is_not_merged(tmp_path, model_dir, change, message):
    for name in ("a", "b"):
        peft_adapter(model_dir, tmp_path / name)
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    settings = MergeSettings(weights=(0.5, 0.5), out=tmp_path / "m")
    with pytest.raises(ArtifactError, match=f"update of '.*{message}") as error:
        merge([tmp_path / "a", tmp_path / "b"], settings)
    assert "correct the config, or remove the tensors" in error.value.hint


@pytest.mark.parametrize("targets", ["all-linear", ["linear_qkv", "linear_fc1"], [], None])
def test_a_config_with_the_names_of_another_program_is_accepted(tmp_path, model_dir, targets):
    peft_adapter(model_dir, tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": targets}))
    assert len(read_adapter(tmp_path / "a").modules) == 8


def test_embeddings_tied_to_targeted_ones_are_targeted():
    config = {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}
    modules = ["model.layers.0.self_attn.q_proj", "model.embed_tokens", "lm_head"]
    check_targets(Path("a"), modules, config)
    with pytest.raises(ArtifactError, match="update of 'lm_head'"):
        check_targets(Path("a"), modules, config | {"ensure_weight_tying": False})
