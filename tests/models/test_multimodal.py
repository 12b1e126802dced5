"""Models of several modes, and of other names than Llama's: every command takes them."""

import re
import warnings

import pytest
import torch
import transformers as t
from helpers.evaluation import eval_settings
from helpers.models import SHAPE, make_tokenizer
from helpers.training import align_settings, joint_settings, task_settings
from safetensors.torch import load_file

from adaptermix.adapters.adapter import read_adapter
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.evaluation.evaluate import evaluate, plan
from adaptermix.merging.fold import merge_into
from adaptermix.models.blocks import load_lower_blocks
from adaptermix.models.lora import with_lora
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.shared import ModelSettings
from adaptermix.settings.training import TrainTaskSettings
from adaptermix.training.align import train_align
from adaptermix.training.joint import train_joint
from adaptermix.training.task import train_task

VISION = {"hidden_size": 16, "intermediate_size": 16}
VISUAL = re.compile("vis|multi_modal_projector")
SHAPE = SHAPE | {"vocab_size": 371, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def gemma3():
    vision = VISION | {"num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = t.Gemma3Config(
        text_config=dict(SHAPE), vision_config=vision, mm_tokens_per_image=4, **ENDS
    )
    return t.Gemma3ForConditionalGeneration(config)


def qwen25vl():
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    text = {k: v for k, v in SHAPE.items() if k != "head_dim"} | {"rope_parameters": rope}
    vision = VISION | {"depth": 1, "num_heads": 2, "out_hidden_size": 64}
    config = t.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision | {"fullatt_block_indexes": [0]}, **ENDS
    )
    return t.Qwen2_5_VLForConditionalGeneration(config)


def qwen3vl():
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    vision = VISION | {"depth": 1, "num_heads": 2, "out_hidden_size": 64}
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    config = t.Qwen3VLConfig(
        text_config=SHAPE | {"rope_parameters": rope}, vision_config=vision, **ENDS
    )
    return t.Qwen3VLForConditionalGeneration(config)


def qwen35():
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    linear = {"linear_num_key_heads": 1, "linear_num_value_heads": 2}
    linear |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
    kinds = ["linear_attention", "full_attention"] * 2
    text = SHAPE | linear | {"rope_parameters": rope, "layer_types": kinds}
    vision = VISION | {"depth": 1, "num_heads": 2, "out_hidden_size": 64}
    config = t.Qwen3_5Config(
        text_config=text, vision_config=vision | {"num_position_embeddings": 16}, **ENDS
    )
    return t.Qwen3_5ForConditionalGeneration(config)


def llama4():
    text = SHAPE | {"intermediate_size_mlp": 96, "num_local_experts": 2, "moe_layers": []}
    vision = VISION | {"num_hidden_layers": 1, "num_attention_heads": 2, "vision_output_dim": 16}
    vision |= {"image_size": 28, "patch_size": 14, "projector_input_dim": 16}
    vision |= {"projector_output_dim": 16}
    config = t.Llama4Config(text_config=text, vision_config=vision, **ENDS)
    return t.Llama4ForConditionalGeneration(config)


def mistral3():
    text = t.MistralConfig(**SHAPE)
    vision = VISION | {"num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14, "model_type": "pixtral", "head_dim": 8}
    config = t.Mistral3Config(text_config=text, vision_config=vision, **ENDS)
    return t.Mistral3ForConditionalGeneration(config)


ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MAKERS = {
    "gemma3": gemma3,
    "qwen25vl": qwen25vl,
    "qwen3vl": qwen3vl,
    "qwen35": qwen35,
    "llama4": llama4,
    "mistral3": mistral3,
}

MODULES = {"qwen35": 4 * 3 + 2 * 4}  # every other block has linear attention, of other names
TEXT = re.compile(r"model\.(language_model\.)?layers\.")  # Qwen 3.5 has a class for text alone


@pytest.fixture(scope="module", params=MAKERS)
def several_modes(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("modes") / request.param
    torch.manual_seed(0)
    model = MAKERS[request.param]()
    tokenizer = make_tokenizer()
    assert len(tokenizer) == SHAPE["vocab_size"]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_lower_blocks_give_the_states_of_the_whole(several_modes):
    if several_modes.name == "llama4":  # its only class has the LM head
        with pytest.raises(ArtifactError, match="not have the usual decoder layout"):
            load_lower_blocks(several_modes, ModelSettings(), 2)
        return
    ids = torch.tensor([[0, 20, 30, 40, 50]])
    whole = t.AutoModelForImageTextToText.from_pretrained(several_modes).eval()
    states = whole(input_ids=ids, output_hidden_states=True).hidden_states
    lower = load_lower_blocks(several_modes, ModelSettings(), 2).eval()
    torch.testing.assert_close(lower(input_ids=ids).last_hidden_state, states[2])
    assert sum(name.endswith("down_proj.weight") for name in lower.state_dict()) == 2
    assert not [name for name in lower.state_dict() if VISUAL.search(name)]


def test_a_task_adapter_is_of_the_text_and_can_be_tested(several_modes, corpus_dir, tmp_path):
    train_task(task_settings(several_modes, corpus_dir, tmp_path / "p"), dry_run=True)
    train_task(task_settings(several_modes, corpus_dir, tmp_path / "t", max_steps=2))
    modules = read_adapter(tmp_path / "t").modules
    assert len(modules) == MODULES.get(several_modes.name, 4 * 7)
    assert all(TEXT.match(module) for module in modules)
    adapters = (str(tmp_path / "t"),)
    settings = eval_settings(several_modes, corpus_dir, tmp_path / "e", adapters=adapters, limit=2)
    plan(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT's, of keys that are missing
        assert len(evaluate(settings).systems) == 2


def test_a_fold_changes_the_text_alone(several_modes, corpus_dir, tmp_path):
    train_task(task_settings(several_modes, corpus_dir, tmp_path / "t", max_steps=2))
    folded = tmp_path / "folded"
    merge_into([tmp_path / "t"], MergeSettings(weights=(1,), into=str(several_modes), out=folded))
    before, after = (load_file(p / "model.safetensors") for p in (several_modes, folded))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert len(changed) == MODULES.get(several_modes.name, 4 * 7)
    assert not [name for name in changed if VISUAL.search(name)]


def test_joint_training_takes_them(several_modes, corpus_dir, tmp_path):
    settings = joint_settings(several_modes, corpus_dir, tmp_path / "j", max_steps=2)
    train_joint(settings, dry_run=True)
    report = train_joint(settings)
    assert report.steps == 2
    modules = read_adapter(tmp_path / "j").modules
    assert len(modules) == MODULES.get(several_modes.name, 4 * 7)


def test_an_alignment_adapter_has_the_names_of_a_task_adapter(several_modes, corpus_dir, tmp_path):
    if several_modes.name == "llama4":
        pytest.skip("cannot be aligned")
    settings = align_settings(several_modes, corpus_dir, tmp_path / "a", max_steps=2)
    train_align(settings, dry_run=True)
    train_align(settings)
    modules = read_adapter(tmp_path / "a").modules
    assert len(modules) == MODULES.get(several_modes.name, 4 * 7) // 2
    assert all(module.startswith("model.language_model.layers.") for module in modules)
    plan(eval_settings(several_modes, corpus_dir, tmp_path / "e", adapters=(str(tmp_path / "a"),)))


OTHERS = {
    "phi3": t.Phi3Config(
        hidden_size=32,
        num_hidden_layers=1,
        intermediate_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=50,
        pad_token_id=0,
    ),
    "neox": t.GPTNeoXConfig(
        hidden_size=32,
        num_hidden_layers=1,
        intermediate_size=16,
        num_attention_heads=2,
        vocab_size=50,
    ),
    "falcon": t.FalconConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50
    ),
    "bloom": t.BloomConfig(hidden_size=32, n_layer=1, n_head=2, vocab_size=50),
}


@pytest.mark.parametrize(
    ("kind", "modules"),
    [
        ("phi3", {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
        ("neox", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        ("falcon", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        ("bloom", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    ],
)
def test_other_names_get_a_lora_on_all_linear_layers(kind, modules):
    def names(**settings):
        model = t.AutoModelForCausalLM.from_config(OTHERS[kind])
        adapted = with_lora(model, TrainTaskSettings(**settings), "CAUSAL_LM")
        return {name.rsplit(".", 1)[-1] for name in adapted.base_model.targeted_module_names}

    assert names() == modules == names(target_modules="all-linear")
    with pytest.raises(ConfigError, match="has no linear layer 'q_proj'"):
        names(target_modules="q_proj")
