"""Adapters that PEFT makes, and what a model answers through PEFT."""

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import CONFIG_FILE, WEIGHTS_FILE, describe_config, spec_of
from adaptermix.adapters.writing import write_adapter

IDS = torch.tensor([[0, 20, 30, 40, 50, 60]])


def peft_adapter(model_dir, folder, seed=0, kind=AutoModelForCausalLM, **options):
    """Let PEFT make and save an adapter with random factors; return its logits as well."""
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **options}
    model = kind.from_pretrained(model_dir)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    return model(IDS).logits.detach()


def logits_through_peft(model_dir, adapter_dir):
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    return PeftModel.from_pretrained(model, str(adapter_dir)).eval()(IDS).logits.detach()


def adapter_files(folder):
    """Write an adapter of one module, and return the contents of its files by name."""
    update = LoraUpdate(np.ones((2, 6)), np.ones((4, 2)), 0.5)
    updates = {"model.layers.0.self_attn.q_proj": update}
    specs = {module: spec_of(u) for module, u in updates.items()}
    write_adapter(folder, updates, describe_config(specs, "somebody/tiny", True), {})
    return {name: (folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}
