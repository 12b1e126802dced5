"""What an export takes, and what it refuses before it writes anything."""

import json
import shutil

import numpy as np
import pytest
from helpers.adapters import peft_adapter
from helpers.experts import CONFIGS, FUSED
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.export.export import export
from adaptermix.settings.export import ExportSettings


def settings(tmp_path, **changes):
    return ExportSettings(**{"to": "mlx", "out": tmp_path / "out", **changes})


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, model_dir):
    folder = tmp_path_factory.mktemp("exported") / "adapter"
    peft_adapter(model_dir, folder)
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"modules_to_save": ["input_layernorm"]},
            "whole weights, such as model.layers.0.input_layernorm",
        ),
        ({"target_modules": ["embed_tokens"]}, "a LoRA on embeddings, model.embed_tokens"),
        ({"lora_bias": True}, "a LoRA with a bias"),
        ({"use_dora": True}, r"DoRA \(use_dora\)"),
    ],
)
def test_what_no_format_holds_is_refused(tmp_path, model_dir, options, message):
    peft_adapter(model_dir, tmp_path / "adapter", **options)
    for to in ("gguf", "mlx"):
        with pytest.raises(ArtifactError, match=message):
            export([tmp_path / "adapter"], settings(tmp_path, to=to))
    assert not (tmp_path / "out").exists()


def test_fused_experts_are_refused(tmp_path):
    model = AutoModelForCausalLM.from_config(CONFIGS["mixtral"]())
    model.save_pretrained(tmp_path / "base")
    targets = {"target_modules": ["q_proj"], "target_parameters": list(FUSED)}
    get_peft_model(model, LoraConfig(r=2, lora_dropout=0.0, **targets)).save_pretrained(
        tmp_path / "adapter"
    )
    with pytest.raises(ArtifactError, match="updates of single experts, such as model.layers.0"):
        export([tmp_path / "adapter"], settings(tmp_path, model=str(tmp_path / "base")))


def test_an_adapter_of_another_base_is_refused(tmp_path, adapter, model_dir):
    shutil.copytree(model_dir, tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights = {name: np.ascontiguousarray(tensor[..., :32]) for name, tensor in weights.items()}
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match=r"mlp.down_proj is 64 x 96, but .* has 64 x 32"):
        export([adapter], settings(tmp_path, model=str(tmp_path / "base")))


def test_numbers_that_float16_does_not_hold_are_refused(tmp_path, adapter):
    shutil.copytree(adapter, tmp_path / "large")
    file = tmp_path / "large" / "adapter_model.safetensors"
    save_file({name: tensor * 1e6 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ArtifactError, match="too large for float16"):
        export([tmp_path / "large"], settings(tmp_path, out_dtype="float16"))
    assert not (tmp_path / "out").exists()


def test_the_config_of_the_base_is_enough(tmp_path, adapter, model_dir):
    (tmp_path / "base").mkdir()
    shutil.copy(model_dir / "config.json", tmp_path / "base")
    report = export([adapter], settings(tmp_path, model=str(tmp_path / "base")))
    assert report.base == str(tmp_path / "base")
    record = json.loads((tmp_path / "out" / "adaptermix.json").read_text())
    assert record["command"] == "export"
    assert record["sources"][0]["path"] == str(adapter)


def test_a_dry_run_writes_nothing(tmp_path, adapter):
    report = export([adapter], settings(tmp_path), dry_run=True)
    assert not report.written
    assert list(tmp_path.iterdir()) == []


def test_slips_are_named(tmp_path, adapter):
    with pytest.raises(ConfigError, match="one adapter, not 2"):
        export([adapter, adapter], settings(tmp_path))
    with pytest.raises(ConfigError, match="a folder, not a single file"):
        export([adapter], settings(tmp_path, out=tmp_path / "a.safetensors"))
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        export([adapter], settings(tmp_path, model=str(tmp_path)))
    nameless = tmp_path / "nameless"
    shutil.copytree(adapter, nameless)
    config = json.loads((nameless / "adapter_config.json").read_text())
    (nameless / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": None})
    )
    with pytest.raises(ConfigError, match="does not name its base model"):
        export([nameless], settings(tmp_path))
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="exists"):
        export([adapter], settings(tmp_path))
