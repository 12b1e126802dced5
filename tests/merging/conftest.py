"""Models with biases, and with transposed layers."""

import pytest
import torch
from helpers.models import save_model
from transformers import AutoModelForCausalLM, GPT2Config


@pytest.fixture(scope="session")
def qwen_dir(tmp_path_factory):
    """A model with biases in its attention."""
    return save_model(tmp_path_factory.mktemp("biased") / "qwen2", "qwen2")


@pytest.fixture(scope="session")
def gpt2_dir(tmp_path_factory):
    """A model whose linear layers are stored in x out, and whose embeddings are tied."""
    folder = tmp_path_factory.mktemp("gpt2") / "gpt2"
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_embd=48, n_layer=2, n_head=2, n_positions=64)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.1
    model.save_pretrained(folder)
    return folder
