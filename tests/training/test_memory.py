"""What a dry run says of parameters, tokens and memory, against what is there."""

import importlib
import json
import shutil

import numpy as np
import pytest
import torch
from helpers.experts import save_experts
from helpers.models import make_tokenizer, save_model, saved_base
from helpers.training import KINDS, joint_settings, task_settings
from safetensors import safe_open
from safetensors.numpy import save_file
from torch.autograd.graph import saved_tensors_hooks
from transformers import BloomConfig, LlamaModel

from adaptermix.models.blocks import empty_model, load_lower_blocks
from adaptermix.models.loading import load_model
from adaptermix.models.lora import with_lora
from adaptermix.training import answer_loss
from adaptermix.training.batches import IGNORED, AnswerCollator
from adaptermix.training.joint import train_joint
from adaptermix.training.memory import _TRAINED_BYTES, Pass, footprint
from adaptermix.training.task import train_task

TRAININGS = {**KINDS, "joint": (train_joint, joint_settings)}


def saved_bytes(model, batch):
    """What autograd keeps of a real pass: the sum, and the largest."""
    saved = {}
    own = {parameter.data_ptr() for parameter in model.parameters()}

    def note(tensor):
        if tensor.data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        model.train()(**batch, use_cache=False)
    sizes = [storage.nbytes() for storage in saved.values()]
    return sum(sizes), max(sizes)


@pytest.mark.parametrize("is_whole", [True, False])
def test_activations_are_those_of_a_real_pass(layout_dir, is_whole):
    settings = task_settings(layout_dir, None, "x")
    if is_whole:
        real, empty = load_model(layout_dir, settings), empty_model(layout_dir, settings)
    else:
        real = load_lower_blocks(layout_dir, settings, 2)
        empty = empty_model(layout_dir, settings, 2)
    kind = "CAUSAL_LM" if is_whole else "FEATURE_EXTRACTION"
    ids = torch.randint(3, 200, (8, 40))
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    batch = {"input_ids": ids, "attention_mask": mask} | ({"labels": ids} if is_whole else {})
    total, largest = saved_bytes(with_lora(real, settings, kind), batch)
    found = footprint(with_lora(empty, settings, kind), [Pass(8, 40)])
    frozen = sum(p.numel() * 4 for p in real.parameters() if not p.requires_grad)
    estimated = found.memory_bytes - frozen - found.trained * _TRAINED_BYTES
    assert estimated == pytest.approx(total + 2 * largest, rel=0.15)


def save_bloom(folder):
    config = BloomConfig(hidden_size=64, n_layer=2, n_head=2, vocab_size=400)
    return saved_base(folder, "BloomForCausalLM", config)


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "bloom"])
def test_activations_of_other_classes_are_those_of_a_real_pass(tmp_path, kind):
    """Experts, and attention that cannot be replaced."""
    if kind == "bloom":
        base = save_bloom(tmp_path / "base")
    else:
        base = save_experts(tmp_path / "base", kind, make_tokenizer())
    settings = task_settings(base, None, "x", dropout=0.0)
    real, empty = load_model(base, settings), empty_model(base, settings)
    ids = torch.randint(3, 200, (8, 40))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    total, largest = saved_bytes(with_lora(real, settings, "CAUSAL_LM"), batch)
    found = footprint(with_lora(empty, settings, "CAUSAL_LM"), [Pass(8, 40)])
    frozen = sum(p.numel() * 4 for p in real.parameters() if not p.requires_grad)
    estimated = found.memory_bytes - frozen - found.trained * _TRAINED_BYTES
    assert estimated == pytest.approx(total + 2 * largest, rel=0.15)


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_plan_reads_no_weight_and_knows_the_parameters(tmp_path, model_dir, corpus_dir, kind):
    train, settings_for = TRAININGS[kind]
    bare = tmp_path / "bare"
    shutil.copytree(model_dir, bare)
    with safe_open(model_dir / "model.safetensors", "np") as weights:
        names = list(weights.keys())
    save_file({name: np.zeros(0, np.float32) for name in names}, bare / "model.safetensors")
    changes = {"max_steps": 3, "eval_steps": 3}
    plan = train(settings_for(bare, corpus_dir, tmp_path / "a", **changes), dry_run=True)
    report = train(settings_for(model_dir, corpus_dir, tmp_path / "a", **changes))
    assert plan.trainable_parameters == report.trainable_parameters
    whole = sum(
        p.numel() for p in load_model(model_dir, task_settings(model_dir, None, "x")).parameters()
    )
    if kind == "align":
        lower = load_lower_blocks(model_dir, task_settings(model_dir, None, "x"), 2)
        assert plan.held_parameters == sum(p.numel() for p in lower.parameters())
        assert plan.held_parameters < 0.6 * whole
    else:
        assert plan.held_parameters == whole
    assert plan.memory_bytes > 4 * plan.held_parameters


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_plan_has_the_largest_passes_of_its_training(
    tmp_path, model_dir, corpus_dir, monkeypatch, kind
):
    """As many rows, no shorter, through as many blocks, and with as many answers."""
    train, settings_for = TRAININGS[kind]
    planned, made, answers = [], [], [0]
    module = importlib.import_module(f"adaptermix.training.{kind}")
    monkeypatch.setattr(
        module,
        "footprint",
        lambda model, passes, given: planned.extend(passes) or footprint(model, passes, given),
    )
    forward, collate = LlamaModel.forward, AnswerCollator.__call__

    def watched(self, *arguments, **options):
        if self.training:
            rows, length = options["input_ids"].shape
            if groups := options.get("groups"):  # of pairs
                rows = sum(group.sentences for group in groups)
                length = max(group.length for group in groups)
            made.append((bool(groups), rows, length, len(self.layers)))
        return forward(self, *arguments, **options)

    def counted(self, examples):
        batch = collate(self, examples)
        answers.append(int((batch["labels"] != IGNORED).sum()))
        return batch

    monkeypatch.setattr(LlamaModel, "forward", watched)
    monkeypatch.setattr(AnswerCollator, "__call__", counted)
    changes = {
        "task": {"micro_batch_size": 4},
        "align": {"contrastive_batch": 8, "micro_batch_size": 2},
        "joint": {"contrastive_batch": 4, "layer": 1},
    }[kind]
    changes |= {"batch_size": 8, "max_steps": None, "epochs": 1, "limit": 20}
    settings = settings_for(model_dir, corpus_dir, tmp_path / "a", **changes)
    train(settings, dry_run=True)
    made.clear()
    train(settings)
    assert len(planned) == (2 if kind == "joint" else 1)
    for each in planned:
        are_pairs = kind == "align" or each.layer is not None
        seen = [rest for of_pairs, *rest in made if of_pairs == are_pairs]
        rows, lengths, blocks = (max(column) for column in zip(*seen, strict=True))
        both_sides = 2 if are_pairs else 1
        asked = {"task": 4, "align": 2, "joint": 4}[kind]  # rows per forward pass
        assert each.rows == rows == both_sides * asked
        assert each.length >= lengths if kind == "joint" else each.length == lengths
        assert blocks == (each.layer or (2 if kind == "align" else 4))
        assert are_pairs or max(answers) <= each.answers <= 2 * max(answers)


@pytest.fixture
def empty(model_dir):
    settings = task_settings(model_dir, None, "x")
    return with_lora(empty_model(model_dir, settings), settings, "CAUSAL_LM")


def test_memory_is_that_of_the_largest_pass(empty):
    small, large = Pass(1, 8), Pass(8, 64)
    alone = footprint(empty, [large])
    assert footprint(empty, [small, large]) == footprint(empty, [large, small]) == alone
    assert footprint(empty, [small]).memory_bytes < alone.memory_bytes


def test_four_bits_are_counted_for_linear_layers_but_the_last(model_dir, empty):
    changes = {"quantize": "nf4", "target_modules": ("q_proj",)}
    plain = footprint(empty, [Pass(1, 8)])
    packed = footprint(empty, [Pass(1, 8)], task_settings(model_dir, None, "x", **changes))
    blocks = [m.weight.numel() for m in empty.model.model.layers.modules() if is_frozen_linear(m)]
    assert len(blocks) == 4 * 7
    assert plain.memory_bytes - packed.memory_bytes == sum(blocks) * (4 - 0.5625)
    assert (packed.held, packed.trained) == (plain.held, plain.trained)


def is_frozen_linear(module):
    return isinstance(module, torch.nn.Linear) and not module.weight.requires_grad


def test_with_checkpoints_another_block_takes_its_input_only(tmp_path, model_dir):
    config = json.loads((model_dir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    settings = task_settings(model_dir, None, "x", gradient_checkpointing=True)
    activations = []
    for folder in (model_dir, tmp_path):
        model = with_lora(empty_model(folder, settings), settings, "CAUSAL_LM")
        frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
        found = footprint(model, [Pass(8, 40)], settings)
        activations.append(found.memory_bytes - frozen - found.trained * _TRAINED_BYTES)
    assert activations[1] - activations[0] == 8 * 40 * 64 * 4
    whole = footprint(model, [Pass(8, 40)])
    assert whole.memory_bytes - found.memory_bytes > 0.6 * activations[1]


def test_with_checkpoints_the_block_that_keeps_most_counts(model_dir):
    """Blocks below a LoRA keep nothing, so one of them is no measure of the others."""
    activations = []
    for layers in ((0,), (3,), ()):
        settings = task_settings(
            model_dir, None, "x", gradient_checkpointing=True, layers_to_transform=layers
        )
        model = with_lora(empty_model(model_dir, settings), settings, "CAUSAL_LM")
        frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
        found = footprint(model, [Pass(8, 40)], settings)
        activations.append(found.memory_bytes - frozen - found.trained * _TRAINED_BYTES)
    first, last, every = activations
    assert first == last < every


@pytest.mark.parametrize("attention", ["eager", None])
def test_attention_that_keeps_its_weights_is_counted(model_dir, tmp_path, attention):
    """Eager attention: as asked for, and as a cap of the attention logits requires it."""
    folder = model_dir if attention else save_model(tmp_path, "gemma2")
    settings = task_settings(folder, None, "x", attention=attention, dropout=0.0)
    real, empty = load_model(folder, settings), empty_model(folder, settings)
    ids = torch.randint(3, 200, (8, 40))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    total, largest = saved_bytes(with_lora(real, settings, "CAUSAL_LM"), batch)
    found = footprint(with_lora(empty, settings, "CAUSAL_LM"), [Pass(8, 40)], settings)
    frozen = sum(p.numel() * 4 for p in real.parameters() if not p.requires_grad)
    estimated = found.memory_bytes - frozen - found.trained * _TRAINED_BYTES
    assert estimated == pytest.approx(total + 2 * largest, rel=0.05)


def test_logits_of_answers_count_as_far_as_they_exist_at_a_time(empty, monkeypatch):
    monkeypatch.setattr(answer_loss, "_LOGITS", 0)
    monkeypatch.setattr(answer_loss, "_MIN_ROWS", 1000)
    memory = {
        count: footprint(empty, [Pass(2, 8, answers=count)]).memory_bytes
        for count in (400, 800, 1000, 5000)
    }
    vocabulary = empty.config.vocab_size
    assert memory[800] - memory[400] == 400 * vocabulary * 4 * 4  # four arrays in float32
    assert memory[5000] == memory[1000] > memory[800]


def test_tokens_are_those_of_all_steps(tmp_path, model_dir, corpus_dir):
    settings = task_settings(model_dir, corpus_dir, tmp_path / "a", max_steps=None, epochs=2)
    per_epoch = train_task(settings, dry_run=True)
    assert per_epoch.planned_steps == 2 * -(-60 // 16)
    one = train_task(settings.model_copy(update={"max_steps": 1}), dry_run=True)
    assert one.tokens * per_epoch.planned_steps == pytest.approx(per_epoch.tokens, rel=1e-3)
    assert 16 * 10 < one.tokens < 16 * 100


def test_a_trained_parameter_takes_its_value_its_gradient_and_the_optimizers_state():
    parameter = torch.nn.Parameter(torch.ones(100))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    moments = [state for state in optimizer.state[parameter].values() if state.numel() == 100]
    held = [parameter, parameter.grad, *moments]
    assert sum(tensor.nbytes for tensor in held) == 100 * _TRAINED_BYTES
