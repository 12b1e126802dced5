"""Models of several modes, and of other names than Llama's: every command takes them."""

import warnings

import pytest
import torch
import transformers as t
from helpers.evaluation import eval_settings
from helpers.models import SHAPE, make_tokenizer
from helpers.training import align_settings, joint_settings, task_settings

from adaptermix.adapters.adapter import read_adapter
from adaptermix.errors import ConfigError
from adaptermix.evaluation.evaluate import evaluate, plan
from adaptermix.models.blocks import load_lower_blocks
from adaptermix.models.lora import with_lora
from adaptermix.settings.shared import ModelSettings
from adaptermix.settings.training import TrainTaskSettings
from adaptermix.training.align import train_align
from adaptermix.training.joint import train_joint
from adaptermix.training.task import train_task

VISION = {"hidden_size": 16, "intermediate_size": 16}
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


ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MAKERS = {"gemma3": gemma3, "qwen25vl": qwen25vl}


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
    ids = torch.tensor([[0, 20, 30, 40, 50]])
    whole = t.AutoModelForImageTextToText.from_pretrained(several_modes).eval()
    states = whole(input_ids=ids, output_hidden_states=True).hidden_states
    lower = load_lower_blocks(several_modes, ModelSettings(), 2).eval()
    torch.testing.assert_close(lower(input_ids=ids).last_hidden_state, states[2])
    assert len(lower.get_decoder().layers) == 2


def test_a_task_adapter_is_of_the_text_and_can_be_tested(several_modes, corpus_dir, tmp_path):
    train_task(task_settings(several_modes, corpus_dir, tmp_path / "p"), dry_run=True)
    train_task(task_settings(several_modes, corpus_dir, tmp_path / "t", max_steps=2))
    modules = read_adapter(tmp_path / "t").modules
    assert len(modules) == 4 * 7
    assert all(module.startswith("model.language_model.layers.") for module in modules)
    adapters = (str(tmp_path / "t"),)
    settings = eval_settings(several_modes, corpus_dir, tmp_path / "e", adapters=adapters, limit=2)
    plan(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT's, of keys that are missing
        assert len(evaluate(settings).systems) == 2


def test_joint_training_takes_them(several_modes, corpus_dir, tmp_path):
    settings = joint_settings(several_modes, corpus_dir, tmp_path / "j", max_steps=2)
    train_joint(settings, dry_run=True)
    report = train_joint(settings)
    assert report.steps == 2
    assert len(read_adapter(tmp_path / "j").modules) == 4 * 7


def test_an_alignment_adapter_has_the_names_of_a_task_adapter(several_modes, corpus_dir, tmp_path):
    settings = align_settings(several_modes, corpus_dir, tmp_path / "a", max_steps=2)
    train_align(settings, dry_run=True)
    train_align(settings)
    modules = read_adapter(tmp_path / "a").modules
    assert len(modules) == 2 * 7
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
