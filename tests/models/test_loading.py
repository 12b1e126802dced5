import copy
import json
import shutil
from base64 import b64encode
from contextlib import nullcontext
from importlib.util import find_spec

import pytest
import torch
import transformers
from helpers.adapters import IDS, peft_adapter
from helpers.models import make_tokenizer, plain_model, save_model, save_model_of_own_code
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    ByT5Tokenizer,
    Emu3TextConfig,
    LlamaConfig,
)

from adaptermix.errors import ArtifactError, ConfigError, ResourceError
from adaptermix.models.blocks import (
    check_states,
    choose_layer,
    empty_model,
    find_blocks,
    layout_of,
    load_lower_blocks,
    lower_blocks_only,
    text_decoder,
)
from adaptermix.models.files import (
    CONTEXT_KEYS,
    check_depth,
    context_length,
    fingerprint,
    is_tied,
    layer_index,
    locate_model,
    weight_shapes,
    weights_hash,
)
from adaptermix.models.loading import (
    AdaptedModel,
    _attention,
    compute_dtype,
    load_config,
    load_model,
    load_tokenizer,
    model_class,
    tokenizer_hash,
)
from adaptermix.models.systems import open_systems
from adaptermix.retrieval.representations import layers_and_width
from adaptermix.settings.evaluation import RetrievalSettings
from adaptermix.settings.shared import ModelSettings
from adaptermix.settings.training import TrainAlignSettings
from adaptermix.training.align import train_align

SETTINGS = ModelSettings()


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_lower_blocks_give_the_hidden_states_of_the_whole_model(layout_dir, layer):
    ids = torch.tensor([[0, 20, 30, 40, 50], [0, 21, 31, 2, 2]])
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    whole = plain_model(layout_dir, torch.float64)
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


@pytest.mark.parametrize("load", [load_model, load_lower_blocks])
def test_a_model_whose_config_contradicts_itself_is_refused(tmp_path, load):
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=2,
        head_dim=16,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="the model does not run: ") as raised:
        load(tmp_path, SETTINGS)
    assert raised.value.hint == "check its config.json"


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


@pytest.mark.parametrize("prefix", ["model.", "model.language_model.", ""])
def test_blocks_that_the_config_leaves_out_are_told(tmp_path, prefix):
    """transformers drops them without an error, and another model is measured."""
    names = [f"{prefix}layers.{at}.mlp.up_proj.weight" for at in range(3)]
    names += [f"{prefix}layers.3.eh_proj.weight", "vision_tower.layers.7.weight", "lm_head.weight"]
    save_file({name: torch.ones(2) for name in names}, tmp_path / "model.safetensors")
    for depth in (3, 4, None):
        (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": depth}))
        check_depth(tmp_path)
    config = {"text_config": {"num_hidden_layers": 2}, "num_hidden_layers": 9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="have 3 blocks, but config.json says 2"):
        check_depth(tmp_path)


def test_every_command_that_loads_a_model_counts_its_blocks(tmp_path, model_dir, corpus_dir):
    folder = shutil.copytree(model_dir, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    options = {"model": str(folder), "data_dir": corpus_dir, "out": tmp_path / "a"}
    with pytest.raises(ArtifactError, match="have 4 blocks, but config.json says 2"):
        train_align(TrainAlignSettings(pairs=("cy-en",), **options), dry_run=True)
    with pytest.raises(ArtifactError, match="have 4 blocks, but config.json says 2"):
        open_systems(ModelSettings(model=str(folder)), {})


def test_the_decoder_of_an_encoder_decoder_is_not_taken_for_the_model(tmp_path):
    """transformers would load it without the encoder."""
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 50}
    transformers.BartConfig(**shape).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="'bart' are not supported: they have an encoder"):
        load_config(tmp_path, ModelSettings())
    alone = transformers.BartConfig(**shape, is_encoder_decoder=False, is_decoder=True)
    alone.save_pretrained(tmp_path)
    with pytest.raises(
        ArtifactError, match="only the decoder of an encoder-decoder model of type 'bart'"
    ):
        load_config(tmp_path, ModelSettings())


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("quantization_config", "gptq", 'quantization_config is "gptq", not an object'),
        ("text_config", [1], r"text_config is \[1\], not an object"),
        ("auto_map", 3, "auto_map is 3, not an object"),
        ("architectures", "LlamaForCausalLM", "architectures is .*, not a list"),
        ("model_type", ["llama"], r'model_type is \["llama"\], not text'),
        ("tie_word_embeddings", "no", 'tie_word_embeddings is "no", not true or false'),
        ("eos_token_id", "</s>", "'eos_token_id': TypeError: .* got str"),
        ("rope_scaling", "linear", "'rope_parameters': TypeError: .* got str"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_with_file_and_key(tmp_path, model_dir, key, value, why):
    config = json.loads((model_dir / "config.json").read_text()) | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(model_dir / name)
    with pytest.raises(ArtifactError, match=rf"config\.json: .*{why}") as raised:
        open_systems(ModelSettings(model=str(tmp_path)), {})
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("model_max_length", "long", '"long", not a number'),
        ("chat_template", 5, "5, not text"),
        ("tokenizer_class", {}, "{}, not text"),
        ("auto_map", 5, "5, not an object"),
        ("added_tokens_decoder", "x", '"x", not an object'),
        ("model_input_names", 5, "5, not a list"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_with_its_tokenizer(tmp_path, model_dir, key, value, why):
    (tmp_path / "tokenizer.json").symlink_to(model_dir / "tokenizer.json")
    config = json.loads((model_dir / "tokenizer_config.json").read_text()) | {key: value}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=f"{tmp_path}/tokenizer_config.json: {key} is {why}"):
        load_tokenizer(model_dir, ModelSettings(tokenizer=str(tmp_path)))


@pytest.mark.parametrize("kind", ["qwen2_5_omni", "qwen2_audio", "voxtral", "t5"])
def test_models_of_other_modes_are_refused_by_their_type(kind):
    with pytest.raises(ArtifactError, match=f"models of type '{kind}' are not supported"):
        model_class(transformers.CONFIG_MAPPING[kind]())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama", "AutoModelForCausalLM"),
        ("gemma4", "AutoModelForImageTextToText"),
        ("internvl", "AutoModelForImageTextToText"),
    ],
)
def test_a_model_of_several_modes_gets_the_class_of_all(kind, expected):
    assert model_class(transformers.CONFIG_MAPPING[kind]()).__name__ == expected


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


def test_a_class_without_blocks_is_refused_by_its_name(tmp_path):
    config = BertConfig(**SMALL, intermediate_size=32, vocab_size=400, is_decoder=True)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="BertModel has no list of decoder blocks"):
        load_lower_blocks(tmp_path, SETTINGS, 1)  # whose files lack the encoder's pooler
    Emu3TextConfig(**SMALL).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="no class for them without an LM head"):
        empty_model(tmp_path, SETTINGS, 1)


@pytest.mark.parametrize("name", ["NanoChatConfig", "MambaConfig", "OPTConfig"])
def test_a_class_with_other_states_is_refused(tmp_path, name):
    """NanoChat's norm runs before the blocks too, Mamba does not return its embeddings.

    OPT 350M projects the states of the last block.
    """
    kind = getattr(transformers, name)
    options = {"vocab_size": 400, "intermediate_size": 48, "state_size": 4}
    config = kind(**SMALL, **options, ffn_dim=48, word_embed_proj_dim=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="does not return their states"):
        load_lower_blocks(tmp_path, SETTINGS, 1)
    is_refused = pytest.raises(ArtifactError, match="hidden states are not the embeddings")
    with is_refused if name == "MambaConfig" else nullcontext():
        check_states(load_model(tmp_path, SETTINGS))


SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
# Their blocks and norms have other names; OPT's norm is listed before its blocks.
OTHERS = {
    "GPT2Config": {"vocab_size": 400},
    "BloomConfig": {"vocab_size": 400},
    "OPTConfig": {"vocab_size": 400, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "Lfm2Config": {"vocab_size": 400, "intermediate_size": 48, "num_key_value_heads": 1},
}


@pytest.mark.parametrize("name", OTHERS)
def test_blocks_and_norm_of_other_names_are_found_by_a_trial(tmp_path, name):
    torch.manual_seed(0)
    options = {"layer_types": ["conv", "full_attention"] * 2} if name == "Lfm2Config" else {}
    config = getattr(transformers, name)(
        **SMALL | {"num_hidden_layers": 4} | OTHERS[name] | options
    )
    whole = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.normal_(0, 0.2)
    whole.save_pretrained(tmp_path)
    ids = torch.tensor([[5, 20, 30, 40, 50]])
    with torch.no_grad():
        states = whole(ids, output_hidden_states=True).hidden_states
        lower = load_lower_blocks(tmp_path, SETTINGS, 2).eval()(ids).last_hidden_state
        normed = load_lower_blocks(tmp_path, SETTINGS, "top-normed").eval()(ids).last_hidden_state
        with lower_blocks_only(whole, 2):
            within = whole(ids, output_hidden_states=True).hidden_states[-1]
    for found, expected in ((lower, states[2]), (within, states[2]), (normed, states[-1])):
        torch.testing.assert_close(found, expected)
    assert len(find_blocks(empty_model(tmp_path, SETTINGS, 2))) == 2


def test_a_trial_leaves_dropout_as_it_was(model_dir):
    model = load_model(model_dir, SETTINGS)
    decoder = text_decoder(model)
    model.train()
    decoder.norm.eval()
    layout_of(decoder)
    assert [each.training for each in decoder.layers.modules()].count(False) == 0
    assert not decoder.norm.training


def test_what_is_no_model_is_refused(tmp_path, model_dir):
    with pytest.raises(ArtifactError, match=r"no config.json"):
        locate_model(ModelSettings(model=str(tmp_path)))
    shutil.copy(model_dir / "config.json", tmp_path)
    with pytest.raises(ArtifactError, match=r"no .safetensors weights"):
        locate_model(ModelSettings(model=str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "adapter_config.json").write_text("{}")  # transformers would add the adapter
    with pytest.raises(ArtifactError, match="both a model and an adapter"):
        locate_model(ModelSettings(model=str(tmp_path)))
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ArtifactError, match="not a valid safetensors file"):
        weight_shapes(tmp_path)
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load_model(tmp_path, SETTINGS)
    with pytest.raises(ArtifactError, match="no usable tokenizer: the folder has no vocabulary"):
        load_tokenizer(tmp_path, SETTINGS)
    shutil.copy(model_dir / "tokenizer_config.json", tmp_path)  # of a class that reads no tiktoken
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(ArtifactError, match="transformers cannot read its vocabulary$"):
        load_tokenizer(tmp_path, SETTINGS)


def test_the_hash_of_a_tokenizer_does_not_know_how_it_was_called():
    tokenizer = make_tokenizer()
    before = tokenizer_hash(tokenizer)
    tokenizer("a text", truncation=True, padding="max_length", max_length=3)
    assert tokenizer_hash(tokenizer) == before


def test_the_hash_of_a_slow_tokenizer_knows_its_tokens_and_which_are_special():
    hashes = []
    for is_special in (None, False, True, True):
        tokenizer = ByT5Tokenizer()
        if is_special is not None:
            tokenizer.add_tokens("<user>", special_tokens=is_special)
        hashes.append(tokenizer_hash(tokenizer))
    assert hashes[2] == hashes[3]
    assert len(set(hashes)) == 3


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
    ("change", "is_other"),
    [
        ({"rms_norm_eps": 0.1}, True),
        ({"tie_word_embeddings": True}, True),
        ({"transformers_version": "9.9"}, False),
        ({"_name_or_path": "elsewhere"}, False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_fingerprint_knows_the_config_and_not_who_wrote_it(
    tmp_path, model_dir, change, is_other
):
    folder = shutil.copytree(model_dir, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    assert (fingerprint(folder) != fingerprint(model_dir)) == is_other


@pytest.mark.parametrize("share", [0.01, 0.5, 0.98])
def test_the_fingerprint_knows_weights_everywhere_in_a_file(tmp_path, model_dir, share):
    folder = shutil.copytree(model_dir, tmp_path / "m")
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    start = int(share * len(content))
    content[start : start + 20_000] = bytes(len(content[start : start + 20_000]))
    path.write_bytes(content)
    assert len(content) / 64 < 20_000, "a stretch between two samples is shorter"
    assert fingerprint(folder) != fingerprint(model_dir)


def test_the_hash_for_kept_results_knows_every_tensor(tmp_path, model_dir):
    """Also a change in the middle or at the end of the largest."""
    folder = shutil.copytree(model_dir, tmp_path / "m")
    hashes = [weights_hash(folder)]
    assert hashes == [weights_hash(model_dir)]
    (folder / "consolidated.safetensors").write_bytes(b"of other software, and damaged")
    assert weights_hash(folder) == hashes[0], "it is not loaded, and no longer downloaded"
    tensors = load_file(model_dir / "model.safetensors")
    largest = max(tensors, key=lambda name: tensors[name].numel())
    for name, at in [*((name, 0) for name in tensors), *((largest, share) for share in (0.5, 1))]:
        changed = {**tensors, name: tensors[name].clone()}
        flat = changed[name].view(-1)
        flat[int(at * (len(flat) - 1))] += 1
        other = tmp_path / str(len(hashes))
        other.mkdir()
        shutil.copy(model_dir / "config.json", other)
        save_file(changed, other / "model.safetensors", {"format": "pt"})
        hashes.append(weights_hash(other))
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("name", "shape", "changed"),
    [
        ("model.embed_tokens.weight", (4096, 256), slice(4000, 4009)),
        ("lm_head.weight", (4096, 256), 700),
        ("model.layers.0.mlp.experts.down_proj", (8, 1024, 1024), 2),
        ("model.layers.0.self_attn.qkv_proj.weight", (12288, 1024), slice(8192, 10240)),
        ("code", (1,), None),
    ],
)
def test_the_hash_for_kept_results_knows_parts_of_a_model(
    tmp_path, monkeypatch, name, shape, changed
):
    """Rows of a few tokens, one expert, the keys of a projection, and what its code imports."""
    monkeypatch.setattr("adaptermix.models.files.fingerprint", lambda folder: "of a large model")
    weight, hashes = torch.zeros(shape, dtype=torch.bfloat16), []
    for at in ("one", "other"):
        (tmp_path / at).mkdir()
        (tmp_path / at / "config.json").write_text("{}")
        save_file({name: weight}, tmp_path / at / "model.safetensors")
        (tmp_path / at / "layers.py").write_text(at if name == "code" else "")
        hashes.append(weights_hash(tmp_path / at))
        if changed is not None:
            weight[changed] = 1
    assert hashes[0] != hashes[1]


def test_a_model_returns_no_tuples_whatever_its_config_says(tmp_path, model_dir):
    folder = shutil.copytree(model_dir, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | {"return_dict": False}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(folder, SETTINGS)(torch.tensor([[0, 5]])).logits.shape[:2] == (1, 2)


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_weights_are_loaded_in_the_precision_asked_for(model_dir, monkeypatch, dtype):
    settings = SETTINGS.model_copy(update={"dtype": dtype})
    expected = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    for load in (load_model, load_lower_blocks, empty_model):
        assert {p.dtype for p in load(model_dir, settings).parameters()} == {expected}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute_dtype(settings) == (torch.bfloat16 if dtype == "auto" else expected)


@pytest.mark.parametrize("attention", [None, "sdpa"])
def test_capped_attention_keeps_its_cap(tmp_path, attention):
    """SDPA, the default of transformers, would leave it out."""
    options = {"num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 48}
    config = transformers.Gemma2Config(
        **SMALL, **options, vocab_size=400, attn_logit_softcapping=0.5
    )
    whole = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.normal_(0, 0.5)
    whole.save_pretrained(tmp_path)
    settings = TrainAlignSettings(model=str(tmp_path), attention=attention)
    ids = torch.tensor([[5, 20, 30, 40, 50]])
    with torch.no_grad():
        expected = whole(ids, output_hidden_states=True)
        logits = load_model(tmp_path, settings).eval()(ids).logits
        lower = load_lower_blocks(tmp_path, settings, 2).eval()(ids).last_hidden_state
        whole.set_attn_implementation("sdpa")
        assert not torch.allclose(whole(ids).logits, expected.logits)
    torch.testing.assert_close(logits, expected.logits)
    torch.testing.assert_close(lower, expected.hidden_states[2])


def test_a_cap_in_the_text_part_of_a_config_counts_and_flash_attention_has_it():
    config = transformers.PaliGemmaConfig(text_config=transformers.Gemma2Config(**SMALL))
    flash = TrainAlignSettings(attention="flash_attention_2")
    assert _attention(SETTINGS, config) == {"attn_implementation": "eager"}
    assert _attention(flash, config) == {"attn_implementation": "flash_attention_2"}
    assert _attention(SETTINGS, transformers.LlamaConfig(**SMALL)) == {}


def test_a_weight_that_the_files_lack_is_named(tmp_path, model_dir):
    """transformers would draw it at random."""
    folder = shutil.copytree(model_dir, tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match=r"layers\.1\.mlp\.up_proj\.weight' is missing"):
        load_model(folder, SETTINGS)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 256}, 256),
        ({"text_config": {"max_position_embeddings": 128}}, 128),  # a model of several modes
        ({"n_positions": 64, "n_ctx": 32}, 64),  # GPT-2
        ({"max_seq_len": 64}, 64),  # MPT
        ({"max_position_embeddings": None, "seq_length": 64}, 64),  # ChatGLM
        ({"model_type": "mamba"}, None),
    ],
)
def test_the_context_is_what_the_config_says(tmp_path, config, expected):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_length(tmp_path) == expected


@pytest.mark.slow
def test_configs_name_the_context_as_those_of_transformers_do():
    kinds = AutoModelForCausalLM._model_mapping.keys()
    names = {getattr(kind, "attribute_map", {}).get("max_position_embeddings") for kind in kinds}
    assert len(names) > 1
    recurrent = {"context_length"}  # RWKV's, which is no limit
    assert names - {None} - recurrent <= set(CONTEXT_KEYS)


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


@pytest.mark.parametrize("top", [True, False])
def test_the_weights_decide_where_a_config_contradicts_itself(tmp_path, model_dir, top):
    shutil.copytree(model_dir, tmp_path / "m")
    config = json.loads((model_dir / "config.json").read_text())
    config |= {"tie_word_embeddings": top, "text_config": {"tie_word_embeddings": not top}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert not is_tied(tmp_path / "m")
    weights = load_file(model_dir / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "m" / "model.safetensors")
    assert is_tied(tmp_path / "m")


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


SHAPE = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 6},
    "pad_token_id": 0,
}
KINDS = ["sliding_attention", "full_attention"] * 3
# The upper blocks take keys and values of lower ones; one table has embeddings of all blocks.
SHARING = {
    **{"num_kv_shared_layers": 3, "hidden_size_per_layer_input": 4, "layer_types": KINDS},
    "vocab_size_per_layer_input": 64,
}
UNEVEN = {
    "Gemma4TextConfig": SHARING,
    "MiniCPM3Config": {
        **{"num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "v_head_dim": 8},
        **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 8},
    },
    "GPTNeoXJapaneseConfig": {},  # the last block alone has a bias
    "SmolLM3Config": {"no_rope_layers": [1, 0, 1, 1, 0, 1]},
    "ZambaConfig": {  # two blocks share their weights
        **{"layers_block_type": ["mamba", "hybrid", "mamba", "mamba", "hybrid", "mamba"]},
        **{"attention_hidden_size": 64, "attention_head_dim": 16, "num_key_value_heads": 4},
        **{"mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    },
}


@pytest.mark.parametrize("layer", [2, 4])
@pytest.mark.parametrize("name", UNEVEN)
def test_lower_blocks_are_those_of_the_whole_where_a_config_tells_of_each(tmp_path, name, layer):
    torch.manual_seed(0)
    config = getattr(transformers, name)(**SHAPE | UNEVEN[name])
    whole = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.2)
    whole.save_pretrained(tmp_path / "base")
    ids = torch.tensor([[5, 20, 30, 40, 50]])
    with torch.no_grad():
        states = whole(ids, output_hidden_states=True).hidden_states
        lower = load_lower_blocks(tmp_path / "base", SETTINGS, layer)(ids).last_hidden_state
    torch.testing.assert_close(lower, states[layer])
    assert not torch.allclose(lower, states[layer + 1])
    assert len(find_blocks(empty_model(tmp_path / "base", SETTINGS, layer))) == layer


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("MllamaTextConfig", {"cross_attention_layers": [1]}, "skips its cross-attention blocks"),
        (
            "Gemma3nTextConfig",
            {"activation_sparsity_pattern": [0.0] * 6},
            "has several hidden states",
        ),
        ("DeepseekV4Config", {}, "has several hidden states"),
    ],
)
def test_a_model_without_a_state_of_each_block_is_refused(tmp_path, name, options, why):
    getattr(transformers, name)(**SHAPE | options).save_pretrained(tmp_path)
    settings = RetrievalSettings(model=str(tmp_path), langs=("en", "cy"))
    for ask in (
        lambda: choose_layer(tmp_path, SETTINGS, 1),
        lambda: layers_and_width(tmp_path, settings),
    ):
        with pytest.raises(ArtifactError, match=rf"{name}: the model {why}"):
            ask()


def test_an_adapter_that_peft_loads_in_part_is_refused(tmp_path):
    # Its experts are fused; of this class, PEFT does not convert a LoRA of each to one of all.
    config = transformers.Qwen2MoeConfig(
        **SHAPE, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16
    )
    model = AutoModelForCausalLM.from_config(config)
    layer = "base_model.model.model.layers.0"
    shapes = {"self_attn.q_proj": (32, 32)}
    shapes |= {f"mlp.experts.{e}.{n}": (16, 32) for e in (0, 1) for n in ("gate_proj", "up_proj")}
    shapes |= {f"mlp.experts.{e}.down_proj": (32, 16) for e in (0, 1)}
    tensors = {
        f"{layer}.{module}.lora_{side}.weight": torch.ones(shape)
        for module, (rows, columns) in shapes.items()
        for side, shape in (("A", (2, columns)), ("B", (rows, 2)))
    }
    for name in ("whole", "attention"):
        (tmp_path / name).mkdir()
        kept = {k: t for k, t in tensors.items() if name == "whole" or "q_proj" in k}
        save_file(kept, tmp_path / name / "adapter_model.safetensors", {"format": "pt"})
        targets = sorted({key.split(".")[-3] for key in kept})
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": targets}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
    for before in ([], ["attention"]):
        adapted = AdaptedModel(copy.deepcopy(model))
        for name in before:
            adapted.switch_to(tmp_path / name)
        with pytest.raises(
            ArtifactError, match="Qwen2MoeForCausalLM has no module for '.*expe"
        ) as e:
            adapted.switch_to(tmp_path / "whole")
        assert "merge --into BASE" in e.value.hint


@pytest.fixture(scope="module")
def biased(tmp_path_factory):
    """A tiny Qwen 2, whose layers have biases, with tied embeddings."""
    folder = tmp_path_factory.mktemp("biased") / "base"
    config = transformers.Qwen2Config(**SHAPE | {"num_hidden_layers": 1}, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"bias": "lora_only"},
        {"bias": "all"},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"modules_to_save": ["norm"], "bias": "all"},
    ],
    ids=str,
)
def test_an_adapter_leaves_nothing_behind(tmp_path, biased, options):
    for name, own in (("first", options), ("second", {}), ("third", {"r": 8})):
        peft_adapter(biased, tmp_path / name, **{"target_modules": ["q_proj"], **own})
    file = tmp_path / "first" / "adapter_model.safetensors"
    changed = {n: w if "lora" in n else w + torch.randn_like(w) for n, w in load_file(file).items()}
    save_file(changed, file, {"format": "pt"})

    def alone(name):
        model = AutoModelForCausalLM.from_pretrained(biased)
        if name:
            model = PeftModel.from_pretrained(model, tmp_path / name)
        return model.eval()(IDS).logits

    expected = {name: alone(name) for name in ("", "first", "second", "third")}
    adapted = AdaptedModel(AutoModelForCausalLM.from_pretrained(biased))
    for name in ("second", "first", "third", "second", "", "first", "", "third"):
        adapted.switch_to(tmp_path / name if name else None)
        assert torch.equal(adapted.model(IDS).logits, expected[name])


def test_mistrals_own_vocabulary_does_not_replace_the_tokenizer_and_its_template(
    tmp_path, model_dir
):
    """With mistral-common installed, transformers prefers tekken.json and drops the template."""
    pytest.importorskip("mistral_common")
    layout = save_model(tmp_path / "m", "mistral")
    vocabulary = [{"rank": i, "token_bytes": b64encode(bytes([i])).decode()} for i in range(256)]
    config = {"pattern": ".", "num_vocab_tokens": 256, "default_vocab_size": 1256}
    config |= {"default_num_special_tokens": 1000, "version": "v3"}
    (layout / "tekken.json").write_text(json.dumps({"config": config, "vocab": vocabulary}))
    expected = load_tokenizer(model_dir, SETTINGS)
    found = load_tokenizer(layout, SETTINGS)
    assert found.chat_template == expected.chat_template is not None
    text = "<|bos|><|user|>hello<|end|>"
    assert found(text)["input_ids"] == expected(text)["input_ids"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (layout / name).unlink()
    with pytest.raises(ArtifactError, match=r"only vocabulary is Mistral's tekken\.json") as error:
        load_tokenizer(layout, SETTINGS)
    assert "--tokenizer" in error.value.hint


def test_a_chat_template_of_the_processor_is_the_tokenizers_where_it_has_none(tmp_path, model_dir):
    shutil.copytree(model_dir, tmp_path / "m")
    (tmp_path / "m" / "chat_template.json").write_text('{"chat_template": "own"}')
    assert load_tokenizer(tmp_path / "m", SETTINGS).chat_template not in (None, "own")
    (tmp_path / "m" / "chat_template.jinja").unlink()
    assert load_tokenizer(tmp_path / "m", SETTINGS).chat_template == "own"
    (tmp_path / "m" / "chat_template.json").write_text("{")
    assert load_tokenizer(tmp_path / "m", SETTINGS).chat_template is None
