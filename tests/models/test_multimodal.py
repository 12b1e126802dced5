"""Models of several modes, and of other names than Llama's: every command takes them."""

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import transformers as t
from helpers.evaluation import eval_settings
from helpers.merging import rewrite
from helpers.models import SHAPE, make_tokenizer
from helpers.training import align_settings, joint_settings, task_settings
from peft import PeftModel
from safetensors.torch import load_file

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.names import core
from adaptermix.adapters.systems import read_systems
from adaptermix.adapters.writing import stage_adapter
from adaptermix.errors import ConfigError
from adaptermix.evaluation.evaluate import evaluate, plan
from adaptermix.merging.fold import merge_into
from adaptermix.merging.merge import merge
from adaptermix.models.blocks import load_lower_blocks
from adaptermix.models.loading import AdaptedModel, load_model
from adaptermix.models.lora import with_lora
from adaptermix.models.systems import open_systems
from adaptermix.retrieval.analysis import analyze
from adaptermix.settings.evaluation import RetrievalSettings
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.shared import ModelSettings
from adaptermix.settings.training import TrainTaskSettings
from adaptermix.training.align import train_align
from adaptermix.training.answer_loss import can_gather_answers, gather_answers
from adaptermix.training.batches import IGNORED
from adaptermix.training.joint import train_joint
from adaptermix.training.task import train_task

pytestmark = pytest.mark.slow  # six models of their own classes

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
TEXT = re.compile(r"(model\.language_model|language_model\.model)\.layers\.")


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
    settings = align_settings(several_modes, corpus_dir, tmp_path / "a", max_steps=2)
    train_align(settings, dry_run=True)
    train_align(settings)
    modules = read_adapter(tmp_path / "a").modules
    assert len(modules) == MODULES.get(several_modes.name, 4 * 7) // 2
    prefix = "language_model.model" if several_modes.name == "llama4" else "model.language_model"
    assert all(module.startswith(f"{prefix}.layers.") for module in modules)
    plan(eval_settings(several_modes, corpus_dir, tmp_path / "e", adapters=(str(tmp_path / "a"),)))


def test_logits_of_answers_alone_give_the_same_loss_and_gradients(several_modes):
    def loss_and_gradients(*, gathered):
        model = load_model(several_modes, ModelSettings()).eval()
        if gathered:
            assert can_gather_answers(model)
            gather_answers(model)
        ids = torch.randint(3, 300, (3, 12), generator=torch.Generator().manual_seed(1))
        mask, labels = torch.ones_like(ids), ids.clone()
        mask[1, 10:] = 0
        labels[:, :6] = labels[1, 9:] = IGNORED
        output = model(input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=5)
        output.loss.backward()
        text = {core(name): p.grad for name, p in model.named_parameters() if p.grad is not None}
        return output, text

    whole, expected = loss_and_gradients(gathered=False)
    output, gradients = loss_and_gradients(gathered=True)
    assert output.logits is None
    torch.testing.assert_close(output.loss, whole.loss)
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def trained(several_modes, corpus_dir, tmp_path_factory):
    """Adapters with the names that both trainings give, of large random factors."""
    folder = tmp_path_factory.mktemp("trained") / several_modes.name
    train_task(task_settings(several_modes, corpus_dir, folder / "task", max_steps=1))
    train_align(align_settings(several_modes, corpus_dir, folder / "align", max_steps=1))
    for seed, name in enumerate(("task", "align")):
        torch.manual_seed(seed)
        rewrite(folder / name, lambda ts: {n: torch.randn_like(x) * 0.1 for n, x in ts.items()})
    paths = [folder / "task", folder / "align"]
    merge(paths, MergeSettings(weights=WEIGHTS, out=folder / "merged"))
    return folder


WEIGHTS = (0.6, 0.4)
IDS = torch.tensor([[0, 20, 30, 40, 50, 60]])


def logits_of_sum(base, adapters):
    """Logits of the base with weighted delta weights added to its text's linear layers."""
    model = load_model(base, ModelSettings()).eval()
    linear = {
        core(name): module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not VISUAL.search(name)
    }
    with torch.no_grad():
        for path, weight in adapters.items():
            for name, update in read_adapter(path).updates():
                delta = torch.from_numpy(update.b @ update.a)
                linear[core(name)].weight += weight * update.scaling * delta
        return model(input_ids=IDS).logits


def logits_through_peft(base, adapter):
    model = t.AutoModelForImageTextToText.from_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT's, of keys that are missing
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_a_merge_of_a_task_and_an_alignment_is_their_sum(several_modes, trained, tmp_path):
    weights = dict(zip((trained / "task", trained / "align"), WEIGHTS, strict=True))
    expected = logits_of_sum(several_modes, weights)
    assert (expected - logits_of_sum(several_modes, {})).abs().max() > 1
    torch.testing.assert_close(
        logits_through_peft(several_modes, trained / "merged"), expected, rtol=1e-4, atol=1e-4
    )
    into = MergeSettings(weights=WEIGHTS, into=str(several_modes), out=tmp_path / "folded")
    merge_into(list(weights), into)
    torch.testing.assert_close(
        logits_of_sum(tmp_path / "folded", {}), expected, rtol=1e-4, atol=1e-4
    )


def retrieval_settings(base, folder, adapters, **changes):
    (folder / "texts").mkdir()
    for lang in ("en", "cy"):
        (folder / "texts" / f"{lang}.txt").write_text(f"wake me {lang}\nplay jazz {lang}\n")
    return RetrievalSettings(
        model=str(base),
        data_dir=folder / "texts",
        langs=("en", "cy"),
        adapters=adapters,
        out=folder / "r",
        **changes,
    )


def test_all_three_are_evaluated_and_retrieved_with(several_modes, trained, corpus_dir, tmp_path):
    adapters = tuple(str(trained / name) for name in ("task", "align", "merged"))
    settings = eval_settings(several_modes, corpus_dir, tmp_path / "e", adapters=adapters, limit=2)
    opened = open_systems(settings, read_systems(map(Path, adapters)))
    model = AdaptedModel(load_model(several_modes, settings))
    for path, adapter in zip(adapters, opened.adapters.values(), strict=True):
        model.switch_to(stage_adapter(adapter, tmp_path))
        with torch.no_grad():
            given = model.model(input_ids=IDS).logits
        expected = logits_of_sum(several_modes, {Path(path): 1})
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
    assert len(evaluate(settings).systems) == 4
    report = analyze(retrieval_settings(several_modes, tmp_path, adapters, cache=False))
    assert len(report.systems) == 4


def test_names_of_a_class_for_text_alone_are_understood(
    trained, several_modes, tmp_path, answer_cache
):
    """Trained by other programs: transformers loads some such models as their text alone."""
    text = shutil.copytree(trained / "task", tmp_path / "text")
    settings = ModelSettings(model=str(several_modes))
    as_trained = open_systems(settings, read_systems([trained / "task"])).adapters["task"]
    own = TEXT.match(as_trained.modules[0])[0]
    rewrite(text, lambda ts: {n.replace(own, "model.layers."): x for n, x in ts.items()})
    config = json.loads((text / "adapter_config.json").read_text())
    config["target_modules"] = [name.replace(own, "model.layers.") for name in as_trained.modules]
    config["alpha_pattern"] = {"model.layers.1.mlp.up_proj": 3}
    (text / "adapter_config.json").write_text(json.dumps(config))
    opened = open_systems(settings, read_systems([text]))
    adapter = opened.adapters["text"]
    assert adapter.modules == as_trained.modules
    (note,) = opened.notes()
    assert "the modules of text are named like 'model.layers.0." in note
    model = AdaptedModel(load_model(several_modes, settings))
    model.switch_to(stage_adapter(adapter, tmp_path))
    with torch.no_grad():
        given = model.model(input_ids=IDS).logits
    torch.testing.assert_close(given, logits_of_sum(several_modes, {text: 1}), rtol=1e-4, atol=1e-4)
    analyze(retrieval_settings(several_modes, tmp_path, (str(text),)))
    kept = [path.read_bytes() for path in answer_cache.rglob("*.safetensors")]
    assert len({*kept}) == len(kept) == 4  # the adapter has an effect in both languages


def test_a_base_of_the_text_alone_takes_adapters_of_the_whole(corpus_dir, tmp_path):
    torch.manual_seed(0)
    whole, tokenizer = qwen35(), make_tokenizer()
    for folder, model in (("whole", whole), ("text", None)):
        if model is None:
            model = t.Qwen3_5ForCausalLM.from_pretrained(tmp_path / "whole")
        model.save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
    train_task(task_settings(tmp_path / "whole", corpus_dir, tmp_path / "t", max_steps=1))
    torch.manual_seed(0)
    rewrite(tmp_path / "t", lambda ts: {n: torch.randn_like(x) * 0.1 for n, x in ts.items()})
    settings = ModelSettings(model=str(tmp_path / "text"))
    adapter = open_systems(settings, read_systems([tmp_path / "t"])).adapters["t"]
    assert adapter.modules[0].startswith("model.layers.0.")
    model = AdaptedModel(load_model(tmp_path / "text", settings))
    model.switch_to(stage_adapter(adapter, tmp_path))
    with torch.no_grad():
        given = model.model(input_ids=IDS).logits
    expected = logits_of_sum(tmp_path / "text", {tmp_path / "t": 1})
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


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
