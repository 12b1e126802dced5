"""Tiny models with experts, and adapters of PEFT on their fused parameters."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AriaTextConfig,
    AutoModelForCausalLM,
    GptOssConfig,
    GraniteMoeConfig,
    MixtralConfig,
    PhimoeConfig,
    Qwen3MoeConfig,
)

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
CONFIGS = {
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SHAPE, intermediate_size=48, moe_intermediate_size=12, num_experts=4
    ),
    "mixtral": lambda: MixtralConfig(**SHAPE, intermediate_size=48, num_local_experts=4),
    # Its experts are square in one projection, [experts in out] in both.
    "granitemoe": lambda: GraniteMoeConfig(
        **{key: value for key, value in SHAPE.items() if key != "head_dim"},
        intermediate_size=12,
        num_local_experts=4,
    ),
    "aria_text": lambda: AriaTextConfig(**SHAPE, intermediate_size=12, moe_num_experts=4),
    "phimoe": lambda: PhimoeConfig(
        **{key: value for key, value in SHAPE.items() if key != "head_dim"},
        intermediate_size=12,
        num_local_experts=4,
    ),
    "gpt_oss": lambda: GptOssConfig(**SHAPE, intermediate_size=16, num_local_experts=4),
}
FUSED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
# The faster implementations of experts have no float64.
WIDE = {"dtype": torch.float64, "experts_implementation": "eager"}
IDS = torch.tensor([[0, 20, 30, 40, 50, 60]])


def save_experts(folder, kind, tokenizer=None):
    """Save a model of random weights, with the tokenizer that it is to have, if any."""
    torch.manual_seed(0)
    config = CONFIGS[kind]()
    if tokenizer is not None:
        config.vocab_size, config.max_position_embeddings = len(tokenizer), 256
        config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 2
        tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    return folder


def fused_adapter(model_dir, folder, seed, **options):
    """Let PEFT make and save an adapter with random factors on attention and experts."""
    torch.manual_seed(seed)
    options = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj"], **options}
    config = LoraConfig(task_type="CAUSAL_LM", **{"target_parameters": [*FUSED], **options})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


def folded_by_peft(model_dir, adapters, weights):
    """Return the base's weights in float64 plus what PEFT adds for each adapter, weighted."""
    base = AutoModelForCausalLM.from_pretrained(model_dir, **WIDE)
    total = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for adapter, weight in zip(adapters, weights, strict=True):
        model = AutoModelForCausalLM.from_pretrained(model_dir, **WIDE)
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
        for name in total:
            total[name] += weight * (merged[name] - base.state_dict()[name])
    return total


def logits_of(weights, model_dir):
    """Return the answer of a model with these weights, in float64."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, **WIDE).eval()
    model.load_state_dict(weights)
    return model(IDS).logits.detach()


def logits_with(model_dir, adapter=None):
    """Return the answer of a model, with an adapter loaded by PEFT, in float64."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, **WIDE)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()(IDS).logits.detach()
