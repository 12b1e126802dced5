import json
import math

import numpy as np
import pytest
import torch
from helpers.adapters import logits_through_peft, peft_adapter
from helpers.models import SHAPE
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import (
    CONFIG_KEY,
    UpdateSpec,
    decoder_layer_of,
    describe_config,
    layer_of,
    spec_of,
)
from adaptermix.adapters.matching import check_fits
from adaptermix.adapters.writing import stage_adapter, write_adapter
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.files.outputs import whole_output
from adaptermix.models.files import weight_shapes


@pytest.fixture
def made_by_peft(tmp_path, model_dir):
    peft_adapter(model_dir, tmp_path / "made")
    return tmp_path / "made"


def test_a_directory_has_the_config_that_peft_reads(tmp_path, model_dir, made_by_peft):
    adapter = read_adapter(made_by_peft)
    write_adapter(tmp_path / "mine", dict(adapter.updates()), adapter.config, {})
    path = tmp_path / "mine" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 24}))
    again = read_adapter(tmp_path / "mine")
    peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_dir), str(tmp_path / "mine")
    )
    (module, update), *_ = again.updates()
    assert update.scaling == peft.base_model.model.get_submodule(module).scaling["default"] == 6
    path.write_text("{")
    with pytest.raises(ArtifactError, match=r"adapter_config.json:1: not JSON"):
        read_adapter(tmp_path / "mine")


@pytest.mark.parametrize("name", ["written", "written.safetensors"])
def test_what_is_written_is_read_back_bit_by_bit(tmp_path, made_by_peft, name):
    adapter = read_adapter(made_by_peft)
    updates = dict(adapter.updates())
    write_adapter(tmp_path / name, updates, adapter.config, {"seed": 1})
    again = read_adapter(tmp_path / name)
    assert again.modules == adapter.modules
    for module, update in again.updates():
        assert np.array_equal(update.a, updates[module].a)
        assert np.array_equal(update.b, updates[module].b)
        assert update.scaling == updates[module].scaling == 2.0
    assert again.record == {"seed": 1}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}},
        {"layers_to_transform": [0, 1]},
        {"target_modules": r".*layers\.(0|2)\.mlp\.(up|gate)_proj"},
        {"alpha_pattern": {"base_model.model.model.layers.0.self_attn.q_proj": 1}},
    ],
)
def test_delta_weights_are_pefts(tmp_path, model_dir, options):
    peft_adapter(model_dir, tmp_path, **options)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_dir), str(tmp_path)
    )
    modules = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    adapter = read_adapter(tmp_path)
    assert set(adapter.modules) == set(modules)
    for name, update in adapter.updates():
        expected = modules[name].get_delta_weight("default")
        torch.testing.assert_close(torch.from_numpy(update.delta_weight()), expected)


def test_a_described_config_means_the_same_to_peft(tmp_path, model_dir):
    expected = peft_adapter(
        model_dir, tmp_path / "made", rank_pattern={"q_proj": 2}, layers_to_transform=[0, 2]
    )
    updates = dict(read_adapter(tmp_path / "made").updates())
    specs = {module: spec_of(update) for module, update in updates.items()}
    config = describe_config(specs, str(model_dir), all_layers=False)
    assert config["layers_to_transform"] == [0, 2]
    write_adapter(tmp_path / "ours", updates, config, {})
    torch.testing.assert_close(logits_through_peft(model_dir, tmp_path / "ours"), expected)


def test_irregular_updates_are_described_by_whole_names(tmp_path, model_dir):
    options = {"target_modules": ["layers.0.mlp.up_proj", "layers.1.self_attn.q_proj"]}
    expected = peft_adapter(model_dir, tmp_path / "made", **options)
    updates = dict(read_adapter(tmp_path / "made").updates())
    specs = {module: spec_of(update) for module, update in updates.items()}
    config = describe_config(specs, str(model_dir), all_layers=False)
    write_adapter(tmp_path / "ours", updates, config, {})
    torch.testing.assert_close(logits_through_peft(model_dir, tmp_path / "ours"), expected)


def test_one_file_carries_its_config_and_is_staged_for_peft(tmp_path, model_dir):
    expected = peft_adapter(model_dir, tmp_path / "made")
    adapter = read_adapter(tmp_path / "made")
    path = tmp_path / "one.safetensors"
    write_adapter(path, dict(adapter.updates()), adapter.config, {})
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()[CONFIG_KEY])["r"] == 4
    staged = stage_adapter(read_adapter(path), tmp_path)
    torch.testing.assert_close(logits_through_peft(model_dir, staged), expected)


def test_a_changed_adapter_is_staged_elsewhere(tmp_path, model_dir):
    path = tmp_path / "adapter"
    staged = []
    for seed in (1, 2):
        peft_adapter(model_dir, path, seed=seed)
        staged.append(stage_adapter(read_adapter(path), tmp_path / "stage"))
    assert staged[0] != staged[1]
    config = json.loads((path / "adapter_config.json").read_text())
    for key, value in (("lora_alpha", 9), ("use_rslora", True), ("alpha_pattern", {"q_proj": 3})):
        (path / "adapter_config.json").write_text(json.dumps(config | {key: value}))
        staged.append(stage_adapter(read_adapter(path), tmp_path / "stage"))
    assert len(set(staged)) == 5


def test_a_bare_file_wants_rank_and_alpha(tmp_path, model_dir, made_by_peft):
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(made_by_peft / "adapter_model.safetensors"), bare)
    with pytest.raises(ArtifactError, match="has no LoRA config") as caught:
        read_adapter(bare)
    assert "--source-rank 8 --source-alpha 16" in caught.value.hint
    adapter = read_adapter(bare, rank=4, alpha=8)
    assert adapter.update(adapter.modules[0]).scaling == 2.0
    expected = logits_through_peft(model_dir, made_by_peft)
    staged = stage_adapter(adapter, tmp_path / "stage")
    torch.testing.assert_close(logits_through_peft(model_dir, staged), expected)


def test_a_bare_file_takes_the_config_beside_it(tmp_path, made_by_peft):
    (tmp_path / "adapter_config.json").write_bytes(
        (made_by_peft / "adapter_config.json").read_bytes()
    )
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(made_by_peft / "adapter_model.safetensors"), bare)
    assert read_adapter(bare).config["r"] == 4


def damage(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


FIRST_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(FIRST_A), "has lora_B, but not lora_A"),
        (lambda t: t[FIRST_A].fill_(math.nan), "lora_A.weight contains NaN or infinity"),
        (lambda t: t[FIRST_A].fill_(math.inf), "contains NaN or infinity"),
        (
            lambda t: t.update({FIRST_A: t[FIRST_A].T.contiguous()}),
            "do not fit rank 4: they are transposed",
        ),
        (lambda t: t.update({"router.weight": torch.ones(2)}), "'router.weight' is not a LoRA"),
        (lambda t: t.clear(), "no LoRA factors"),
    ],
)
def test_damaged_tensors_are_named(made_by_peft, change, message):
    damage(made_by_peft, change)
    with pytest.raises(ArtifactError, match=message):
        list(read_adapter(made_by_peft).updates())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "not the config of a LoRA adapter"),
        ({"use_dora": True}, r"DoRA \(use_dora\)"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16, which changes the base model"),
        ({"init_lora_weights": "lora-ga"}, "lora_ga, which changes the base model"),
        ({"init_lora_weights": "milora"}, "initialized by milora, which adaptermix does not know"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["self_attn.q_proj.x"]}, "do not fit several experts"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save lists 'lm_head'"),
        ({"r": 0}, "'r' is not a positive whole number"),
        ({"lora_alpha": "x"}, "'lora_alpha' is not a positive number"),
    ],
)
def test_configs_that_are_not_plain_lora_are_refused_by_name(made_by_peft, change, message):
    path = made_by_peft / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=message):
        read_adapter(made_by_peft)


def test_truncated_missing_and_pickled_files_are_refused(tmp_path, made_by_peft):
    weights = made_by_peft / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="not a valid safetensors file"):
        read_adapter(made_by_peft)
    weights.rename(made_by_peft / "adapter_model.bin")
    with pytest.raises(ArtifactError, match="no such file") as caught:
        read_adapter(made_by_peft)
    assert "pickle" in caught.value.hint
    (made_by_peft / "adapter_config.json").write_text("{")
    with pytest.raises(ArtifactError, match="no such file"):
        read_adapter(tmp_path / "nowhere.safetensors")


def test_an_existing_output_is_kept(tmp_path, made_by_peft):
    adapter = read_adapter(made_by_peft)
    with pytest.raises(ArtifactError, match="exists"):
        write_adapter(made_by_peft, dict(adapter.updates()), adapter.config, {})
    with pytest.raises(ConfigError, match="written as a .safetensors file"):
        write_adapter(tmp_path / "x.bin", dict(adapter.updates()), adapter.config, {})


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "kept").touch()
    with pytest.raises(RuntimeError), whole_output(path) as partial:
        partial.mkdir()
        raise RuntimeError
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert (path / "kept").exists()


def test_an_adapter_that_matches_no_layer_of_the_base_is_refused(tmp_path, model_dir):
    hidden = SHAPE["hidden_size"]
    shapes = weight_shapes(model_dir) | {"model.layers.1.shared.q_proj.weight": (hidden, hidden)}
    fitting = LoraUpdate(np.ones((1, hidden)), np.ones((hidden, 1)), 1.0)
    for module, update, message in (
        ("model.layers.3.shared.q_proj", fitting, "; it has 'model.layers.1.shared.q_proj'$"),
        ("model.layers.9.shared.q_proj", fitting, "linear layer 'model.layers.9.shared.q_proj'$"),
        ("layers.0.self_attn.q_proj", fitting, "has no linear layer 'layers.0.self_attn.q_proj'"),
        (
            "model.layers.0.self_attn.q_proj",
            LoraUpdate(np.ones((1, 7)), np.ones((hidden, 1)), 1.0),
            "is 64 x 7, but base has 64 x 64",
        ),
    ):
        path = tmp_path / f"{len(message)}.safetensors"
        config = describe_config({module: spec_of(update)}, None, all_layers=False)
        write_adapter(path, {module: update}, config, {})
        with pytest.raises(ArtifactError, match=message):
            check_fits(read_adapter(path), shapes, "base")


def test_an_lm_head_fits_though_it_is_tied_and_in_no_file(tmp_path, model_dir):
    peft_adapter(model_dir, tmp_path / "a", target_modules=["lm_head"])
    adapter, shapes = read_adapter(tmp_path / "a"), weight_shapes(model_dir)
    del shapes["lm_head.weight"]
    check_fits(adapter, shapes, "base")
    shapes["model.embed_tokens.weight"] = (7, 64)
    with pytest.raises(ArtifactError, match=r"lm_head is \d+ x 64, but base has 7 x 64"):
        check_fits(adapter, shapes, "base")


def test_layers_are_read_off_module_names():
    assert layer_of("model.layers.12.mlp.up_proj") == 12
    assert layer_of("lm_head") is None
    for module in ("mm_projector.2", "mlp1.3", "vpm.encoder.layers.3.mlp.fc1", "apm.layers.3.fc1"):
        assert decoder_layer_of(module) is None
    specs = {f"mm_projector.{at}": UpdateSpec(4, 4, 2, 1.0, np.dtype(np.float32)) for at in (0, 2)}
    config = describe_config(specs, None, all_layers=True)
    assert config["target_modules"] == list(specs), "0 and 2 are the ends of blocks' names, too"


@given(st.integers(1, 256), st.floats(1e-6, 1e6))
def test_alpha_gives_the_scaling_to_the_last_bit_and_is_whole_where_it_can_be(rank, scaling):
    spec = UpdateSpec(4, 4, rank, scaling, np.dtype(np.float32))
    config = describe_config({"model.layers.0.mlp.up_proj": spec}, None, all_layers=True)
    nearest = min(abs(alpha / rank - scaling) for alpha in _around(scaling * rank))
    assert abs(config["lora_alpha"] / rank - scaling) == nearest
    whole = spec._replace(scaling=16 / rank)
    config = describe_config({"model.layers.0.mlp.up_proj": whole}, None, all_layers=True)
    assert config["lora_alpha"] == 16
    assert isinstance(config["lora_alpha"], int)


def _around(number):
    return number, math.nextafter(number, 0), math.nextafter(number, math.inf)
