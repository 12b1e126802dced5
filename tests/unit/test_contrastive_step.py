"""The fast step against stock transformers and PEFT: whole model, padded, one pass."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from adaptermix.contrastive_step import ContrastiveStep, Sentences
from adaptermix.objectives import contrastive_loss

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEAD = {"head_dim": 6}  # not hidden_size / num_attention_heads
LAYOUTS = {
    "llama": LlamaConfig(**SHAPE, **HEAD),
    "mistral": MistralConfig(**SHAPE, **HEAD, sliding_window=3),
    "qwen2": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=3, max_window_layers=1),
    "qwen3": Qwen3Config(**SHAPE, **HEAD),
    "gemma": GemmaConfig(**SHAPE, **HEAD),
    "gemma2": Gemma2Config(
        **SHAPE, **HEAD, sliding_window=3, attn_logit_softcapping=2.0, query_pre_attn_scalar=5
    ),
    "gemma3": Gemma3TextConfig(**SHAPE, **HEAD, sliding_window=3, query_pre_attn_scalar=5),
}
LORA = {
    "r": 3,
    "lora_alpha": 6,
    "target_modules": [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    ],
}
LAYER = 3
LENGTHS = (9, 2, 5, 5, 1, 12, 4, 6, 3, 7)  # five sources, five targets


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def float64_throughout(monkeypatch):
    """transformers makes float32 of float64 in its norms, rotations and softmax; not here."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def whole_model(config, dropout=0.0):
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1 if parameter.ndim == 1 else 0, 0.3)
    lora = LoraConfig(**LORA, lora_dropout=dropout)
    model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    return model


def lower_model(config, dropout=0.0):
    """The same weights, without the upper blocks, the norm and the head."""
    whole = whole_model(config, dropout)
    model = whole.base_model.model.model
    model.layers = model.layers[:LAYER]
    model.config.num_hidden_layers = LAYER
    model.norm = nn.Identity()
    return model


def make_batch(lengths=LENGTHS):
    torch.manual_seed(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(3, 50, mask.shape) * mask
    keys = torch.arange(len(lengths) // 2)
    return {"input_ids": ids, "attention_mask": mask, "source_keys": keys, "target_keys": keys}


def loss_of(sources, targets):
    return contrastive_loss(sources, targets, 0.1)


def gradients(model):
    named = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {name[name.index("layers.") :]: grad for name, grad in named.items()}


def plain_gradients(config, batch):
    """Both sides apart, a full forward with all hidden states, the formula with plain sums."""
    model = whole_model(config)
    sides = []
    for ids, mask in zip(
        batch["input_ids"].chunk(2), batch["attention_mask"].chunk(2), strict=True
    ):
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        states = output.hidden_states[LAYER]
        pooled = [s[m.bool()].sum(0) / m.sum() for s, m in zip(states, mask, strict=True)]
        sides.append(torch.stack(pooled))
    lengths = [side.pow(2).sum(1).sqrt() for side in sides]
    logits = sides[0] @ sides[1].T / lengths[0][:, None] / lengths[1] / 0.1
    loss = (logits.exp().sum(1).log() - logits.diagonal()).mean()
    loss.backward()
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_gradients_equal_those_of_the_plain_whole_model(float64_throughout, layout, packing):
    batch = make_batch()
    loss, expected = plain_gradients(LAYOUTS[layout], batch)
    for rows in (len(LENGTHS), 3):  # one pass, and parts that do not divide the batch
        model = lower_model(LAYOUTS[layout])
        step = ContrastiveStep(model, rows, packing)
        found = step.backpropagate(model, Sentences.of(batch), loss_of, torch.Tensor.backward)
        torch.testing.assert_close(found, loss)
        grads = gradients(model)
        assert len(grads) == 2 * 7 * LAYER
        for name, grad in grads.items():
            assert grad.abs().sum() > 0
            torch.testing.assert_close(grad, expected[name], rtol=1e-8, atol=1e-10)
