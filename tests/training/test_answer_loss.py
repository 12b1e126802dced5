"""The loss at answer tokens only, against that of stock transformers over all tokens."""

from functools import wraps

import pytest
import torch
from helpers.models import SHAPE
from helpers.training import joint_settings, randomize, task_settings
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    TrainingArguments,
)

from adaptermix.models.lora_linear import LoraLinear
from adaptermix.training import answer_loss
from adaptermix.training.answer_loss import can_gather_answers, gather_answers
from adaptermix.training.batches import IGNORED
from adaptermix.training.joint import train_joint
from adaptermix.training.task import spare_memory, train_task
from adaptermix.training.trainer import AdapterTrainer

COMMON = {**SHAPE, "vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 300, "eos_token_id": 1}
HEADS = {
    "linear": (LlamaConfig, {}),
    "capped": (Gemma2Config, {"final_logit_softcapping": 0.5}),
    "multiplied": (CohereConfig, {"logit_scale": 0.3}),
    "divided": (GraniteConfig, {"logits_scaling": 3.0}),
    "tied": (Gemma3TextConfig, {}),
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(answer_loss, "_LOGITS", 0)
    monkeypatch.setattr(answer_loss, "_MIN_ROWS", 4)


@pytest.fixture
def _whole_precision(monkeypatch):
    """The loss of transformers takes any logits to float32."""
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)


def adapted(config, targets=r".*(q_proj|c_attn|down_proj)"):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    lora = LoraConfig(r=4, target_modules=targets)
    model = get_peft_model(model, lora, autocast_adapter_dtype=False).eval()
    randomize(model)
    return model


def task_batch():
    ids = torch.randint(3, 300, (3, 12), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    for row, columns in ((0, slice(7)), (1, slice(9)), (2, slice(4)), (2, slice(8, 10))):
        labels[row, columns] = IGNORED
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_and_gradients(model, **changes):
    model.zero_grad()
    output = model(**task_batch(), **changes)
    (3 * output.loss).backward()
    return output.loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.usefixtures("_whole_precision")
@pytest.mark.parametrize("is_head_trained", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_loss_and_gradients_are_those_of_all_logits(head, is_head_trained):
    kind, changes = HEADS[head]
    targets = r".*(q_proj|lm_head)" if is_head_trained else r".*(q_proj|down_proj)"
    model = adapted(kind(**COMMON, **changes), targets)
    expected = loss_and_gradients(model), loss_and_gradients(model, num_items_in_batch=40)
    assert all(gradient.any() for gradient in expected[0][1].values())
    gather_answers(model)
    spare_memory(model)
    found = loss_and_gradients(model), loss_and_gradients(model, num_items_in_batch=40)
    for (loss, gradients), (found_loss, found_gradients) in zip(expected, found, strict=True):
        torch.testing.assert_close(found_loss, loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(found_gradients, gradients, rtol=1e-9, atol=1e-12)


def test_logits_are_of_answers_only_and_of_few_of_them_at_a_time(monkeypatch):
    model = adapted(LlamaConfig(**COMMON))
    rows = []
    head = model.get_base_model().lm_head
    head.register_forward_hook(lambda _, inputs, output: rows.append(output.shape[:2].numel()))
    gather_answers(model)
    model(**task_batch())
    assert rows == [4, 4, 4, 2]  # of 5 + 3 + 6 answer tokens


def test_a_model_in_evaluation_has_the_same_loss_and_without_labels_all_logits():
    model = adapted(LlamaConfig(**COMMON))
    batch = task_batch()
    expected, _ = loss_and_gradients(model)
    gather_answers(model)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).loss, expected, check_dtype=False)
        del batch["labels"]
        assert model(**batch).logits.shape == (3, 12, 300)


def test_the_decoder_is_left_as_it_was():
    model = adapted(LlamaConfig(**COMMON))
    gather_answers(model)
    model(**task_batch())
    assert "forward" not in vars(model.get_base_model().model)


@pytest.mark.parametrize("balances", [False, True])
def test_experts_that_are_balanced_need_a_whole_pass(balances):
    config = Qwen3MoeConfig(**COMMON, num_experts=4, output_router_logits=balances)
    model = AutoModelForCausalLM.from_config(config)
    assert can_gather_answers(model) is not balances


@pytest.mark.usefixtures("_whole_precision")
def test_an_older_layout_is_gathered_too():
    model = adapted(GPT2Config(**GPT2))
    expected, gradients = loss_and_gradients(model)
    gather_answers(model)
    found = loss_and_gradients(model)
    torch.testing.assert_close(found, (expected, gradients), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("train", "settings_for"), [(train_task, task_settings), (train_joint, joint_settings)]
)
def test_a_training_has_no_logits_of_prompts(
    tmp_path, model_dir, corpus_dir, monkeypatch, train, settings_for
):
    rows = []
    forward = LlamaForCausalLM.forward

    @wraps(forward)
    def watched(self, *args, **options):
        output = forward(self, *args, **options)
        rows.append(output.logits.shape[:2].numel())
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", watched)
    train(settings_for(model_dir, corpus_dir, tmp_path / "a", max_steps=1, eval_steps=1))
    assert max(rows) == 4


def test_a_task_training_without_dropout_has_the_lora_layers_with_few_arrays(
    tmp_path, model_dir, corpus_dir, monkeypatch
):
    in_training = []
    adapted_forward = LoraLinear._adapted

    def watched(self, *args):
        in_training.append(self.training)
        return adapted_forward(self, *args)

    monkeypatch.setattr(LoraLinear, "_adapted", watched)
    changes = {"max_steps": 1, "eval_steps": 1, "dropout": 0.0}
    train_task(task_settings(model_dir, corpus_dir, tmp_path / "a", **changes))
    assert any(in_training)


@pytest.mark.parametrize("is_gathered", [True, False])
def test_pieces_add_up_also_in_classes_that_ignore_the_number_of_items(
    tmp_path, monkeypatch, is_gathered
):
    """As most classes with a vision tower say that they do. Others are not split."""
    monkeypatch.setattr(LlamaForCausalLM, "accepts_loss_kwargs", False, raising=False)
    monkeypatch.setattr(answer_loss, "can_gather_answers", lambda model: is_gathered)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    trainer = AdapterTrainer(model=adapted(LlamaConfig(**COMMON)), args=arguments)
    assert trainer.can_split is is_gathered
    if not is_gathered:
        return
    batch = {**task_batch(), "names": ["a", "b", "c"]}
    items = trainer._get_num_items_in_batch([batch, batch], torch.device("cpu"))
    assert items == 2 * (5 + 3 + 6)
    trainer.current_gradient_accumulation_steps = 2
    found = []
    for most in (3, 1):
        trainer.model.zero_grad()
        loss = trainer.backpropagate(trainer.model, batch, items, most)
        parameters = trainer.model.named_parameters()
        found.append((loss, {n: p.grad.clone() for n, p in parameters if p.requires_grad}))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
