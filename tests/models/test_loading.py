import json
import shutil
from importlib.util import find_spec

import pytest
import torch
from helpers.models import save_model, save_model_of_own_code
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from adaptermix.errors import ArtifactError, ConfigError, ResourceError
from adaptermix.models.blocks import empty_model, load_lower_blocks
from adaptermix.models.files import (
    context_length,
    fingerprint,
    is_tied,
    layer_index,
    locate_model,
    weight_shapes,
)
from adaptermix.models.loading import load_config, load_model, load_tokenizer
from adaptermix.settings.shared import ModelSettings
from adaptermix.settings.training import TrainAlignSettings

SETTINGS = ModelSettings()


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_lower_blocks_give_the_hidden_states_of_the_whole_model(layout_dir, layer):
    ids = torch.tensor([[0, 20, 30, 40, 50], [0, 21, 31, 2, 2]])
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    whole = AutoModelForCausalLM.from_pretrained(layout_dir, dtype=torch.float64)
    states = whole(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    lower = load_lower_blocks(layout_dir, SETTINGS, layer).double()
    output = lower(ids, attention_mask=mask).last_hidden_state
    real = mask.bool()
    torch.testing.assert_close(output[real], states[layer][real])
    assert not torch.allclose(output[real], states[layer + 1][real])


def test_the_middle_is_the_default_and_upper_blocks_are_not_held(model_dir):
    lower = load_lower_blocks(model_dir, SETTINGS)
    whole = load_model(model_dir, SETTINGS)
    assert len(lower.layers) == 2
    assert not any("lm_head" in name for name, _ in lower.named_parameters())
    assert lower.num_parameters() < whole.num_parameters()


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is here")
def test_four_bits_need_bitsandbytes(model_dir):
    settings = TrainAlignSettings(model=str(model_dir), quantize="nf4")
    with pytest.raises(ResourceError, match="--quantize nf4 needs bitsandbytes") as raised:
        load_lower_blocks(model_dir, settings, 2)
    assert "adaptermix[quantize]" in raised.value.hint


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_four_bits_hold_nearly_the_same_model(model_dir):
    ids = torch.arange(3, 23)[None]
    states = []
    for quantize in (None, "nf4"):
        settings = TrainAlignSettings(model=str(model_dir), quantize=quantize)
        model = load_lower_blocks(model_dir, settings, 2)
        states.append(model(ids).last_hidden_state.float())
        dtypes = {module.weight.dtype for module in model.layers.modules() if is_linear(module)}
        assert dtypes == {torch.uint8 if quantize else torch.float32}
    similar = torch.nn.functional.cosine_similarity(*states, dim=-1)
    assert 0.8 < similar.mean() < 0.999  # random weights of width 64 are coarse


def is_linear(module):
    return isinstance(module, torch.nn.Linear)


def test_a_layer_beyond_the_model_is_refused(model_dir):
    with pytest.raises(ConfigError, match="--layer 5: the model has 4 blocks"):
        load_lower_blocks(model_dir, SETTINGS, 5)


@pytest.mark.parametrize(
    ("layer", "depth", "expected"),
    [
        ("bottom", 32, 8),  # Llama's in the paper's table 3, as are the next two
        ("middle", 32, 16),
        ("top", 32, 32),
        ("top-normed", 28, 28),
        ("middle", 7, 3),
        ("bottom", 3, 1),
        ("0.5", 28, 14),
        ("0.29", 100, 29),  # 0.29 * 100 is below 29 in floating point
        ("0.01", 4, 1),
        ("1.0", 4, 4),
        ("1", 4, 1),
        (3, 4, 3),
    ],
)
def test_a_layer_is_a_number_a_name_or_a_share(layer, depth, expected):
    assert layer_index(layer, depth) == expected


def test_the_top_is_before_the_final_norm_unless_it_is_asked_for(model_dir):
    ids = torch.tensor([[0, 20, 30, 40]])
    whole = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        whole.model.norm.weight.uniform_(0.5, 2)
    raw = []
    whole.model.layers[-1].register_forward_hook(lambda *call: raw.append(call[-1]))
    normed = whole(ids, output_hidden_states=True).hidden_states[-1]
    top = load_lower_blocks(model_dir, SETTINGS, "top")
    torch.testing.assert_close(top(ids).last_hidden_state, raw[0])
    other = load_lower_blocks(model_dir, SETTINGS, "top-normed")
    other.norm.load_state_dict(whole.model.norm.state_dict())
    torch.testing.assert_close(other(ids).last_hidden_state, normed)
    assert not torch.allclose(raw[0], normed)


def test_another_layout_is_refused_by_its_class(tmp_path, model_dir):
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=400)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="GPT2Model does not have the usual decoder layout"):
        load_lower_blocks(tmp_path, SETTINGS, 1)


def test_what_is_no_model_is_refused(tmp_path, model_dir):
    with pytest.raises(ArtifactError, match=r"no config.json"):
        locate_model(ModelSettings(model=str(tmp_path)))
    shutil.copy(model_dir / "config.json", tmp_path)
    with pytest.raises(ArtifactError, match=r"no .safetensors weights"):
        locate_model(ModelSettings(model=str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        weight_shapes(tmp_path)
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load_model(tmp_path, SETTINGS)
    with pytest.raises(ArtifactError, match="no usable tokenizer"):
        load_tokenizer(tmp_path, SETTINGS)


def test_the_fingerprint_knows_weights_and_not_places(tmp_path, model_dir):
    moved = shutil.copytree(model_dir, tmp_path / "moved")
    assert fingerprint(moved) == fingerprint(model_dir)
    model = AutoModelForCausalLM.from_pretrained(moved)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.save_pretrained(tmp_path / "tuned")
    assert fingerprint(tmp_path / "tuned") != fingerprint(model_dir)
    assert fingerprint(save_model(tmp_path / "qwen", "qwen2")) != fingerprint(model_dir)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 256}, 256),
        ({"text_config": {"max_position_embeddings": 128}}, 128),  # a model of several modes
        ({"model_type": "mamba"}, None),
    ],
)
def test_the_context_is_what_the_config_says(tmp_path, config, expected):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_length(tmp_path) == expected


@pytest.mark.parametrize("place", ["as saved", "in text_config", "nowhere"])
def test_tied_embeddings_are_known_where_the_config_leaves_them_to_its_class(
    tmp_path, layout_dir, place
):
    shutil.copytree(layout_dir, tmp_path / "m")
    expected = AutoConfig.from_pretrained(layout_dir).tie_word_embeddings
    config = json.loads((layout_dir / "config.json").read_text())
    if place != "as saved":
        config.pop("tie_word_embeddings", None)
    if place == "in text_config":
        config["text_config"] = {"tie_word_embeddings": expected}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert is_tied(tmp_path / "m") == expected


@pytest.mark.parametrize("load", [load_model, load_lower_blocks])
def test_a_loaded_model_computes_with_the_threads_asked_for(model_dir, load):
    for threads in (2, 3):
        load(model_dir, ModelSettings(model=str(model_dir), threads=threads))
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("load", "kind"),
    [
        (load_tokenizer, "OwnTokenizer"),
        (load_config, "OwnConfig"),
        (load_model, "OwnForCausalLM"),
        (load_lower_blocks, "OwnModel"),
        (empty_model, "OwnForCausalLM"),
        (lambda folder, settings: empty_model(folder, settings, 2), "OwnModel"),
    ],
)
def test_code_of_a_model_runs_where_it_is_trusted_and_only_there(tmp_path, model_dir, load, kind):
    # transformers knows a class for good once it is loaded, by the name of its folder
    own_code_dir = save_model_of_own_code(model_dir, tmp_path / tmp_path.name)
    trusted = SETTINGS.model_copy(update={"trust_remote_code": True})
    assert type(load(own_code_dir, trusted)).__name__ == kind
    with pytest.raises(ArtifactError) as raised:
        load(own_code_dir, SETTINGS)
    assert "--trust-remote-code" in raised.value.hint
