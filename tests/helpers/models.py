"""Tiny models made from configs, and their tokenizer."""

import json
import shutil
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.decoders import ByteLevel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from helpers.corpus import SENTENCES

CHAT_TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # the smallest that vLLM has CPU kernels for
    "max_position_embeddings": 256,
}
LAYOUTS = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma2": Gemma2Config,
}


def make_tokenizer(end: str = "<|end|>") -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of 400 tokens on the test sentences.

    Args:
        end: The token that ends a turn.
    """
    specials = ["<|bos|>", end, "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([s for group in SENTENCES.values() for s in group], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token=end,
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE.replace("<|end|>", end),
    )


def save_model(
    folder: Path, layout: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0
) -> Path:
    """Save a model of random weights and its tokenizer; the same every time."""
    tokenizer = make_tokenizer()
    shape = {key: SHAPE[key] for key in SHAPE if layout != "qwen2" or key != "head_dim"}
    config = LAYOUTS[layout](
        **shape,
        vocab_size=len(tokenizer),
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():  # the stock initialization is too small for blocks to matter
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def plain_model(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Load a saved model by stock transformers, with the cap of Gemma 2, which SDPA leaves out."""
    attention = "eager" if AutoConfig.from_pretrained(folder).model_type == "gemma2" else None
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype or torch.float32, attn_implementation=attention
    )


def save_model_of_eot(model_dir: Path, folder: Path) -> Path:
    """Save a copy of a model whose turns end with <|eot_id|>, as those of Llama 3."""
    shutil.copytree(model_dir, folder)
    make_tokenizer("<|eot_id|>").save_pretrained(folder)
    return folder


def save_other_tokenizer(folder: Path) -> Path:
    """Save a tokenizer of the same tokens that reads every a as an e, and no model."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("a", "e")
    tokenizer.save_pretrained(folder)
    return folder


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

class OwnConfig(LlamaConfig):
    model_type = "own-llama"

class OwnModel(LlamaModel):
    config_class = OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def save_model_of_own_code(model_dir: Path, folder: Path) -> Path:
    """Save a copy of a model whose classes are in a file beside its weights."""
    shutil.copytree(model_dir, folder)
    (folder / "own.py").write_text(OWN_CODE)
    own = {
        "AutoConfig": "own.OwnConfig",
        "AutoModel": "own.OwnModel",
        "AutoModelForCausalLM": "own.OwnForCausalLM",
    }
    changes = {
        "config.json": {"model_type": "own-llama", "auto_map": own},
        "tokenizer_config.json": {
            "tokenizer_class": "OwnTokenizer",
            "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]},
        },
    }
    for name, changed in changes.items():
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    return folder


def randomized(model, seed):
    """Draw all matrices of a model anew."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model


def saved_base(folder, kind, config):
    """Save a random model of a transformers class, with a tokenizer."""
    model = randomized(getattr(transformers, kind)(config), 0)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
