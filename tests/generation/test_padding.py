"""Models whose classes do not handle padding, or batches at all, answer as if alone."""

import pytest
import torch
import transformers
from helpers.models import make_tokenizer

from adaptermix.generation.transformers_engine import answer_greedily

PROMPTS = [[5, 9, 20, 33, 41, 7], [12, 18], [50, 3, 22], [13, 19, 44]]
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "head_dim": 8}
CONFIGS = {
    "MiniMaxConfig": {
        **HEADS,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "block_size": 8,
    },
    "RecurrentGemmaConfig": {
        **HEADS,
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
        "lru_width": 32,
        "attention_window_size": 64,
    },
    "RwkvConfig": {"num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 128},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_answer_does_not_depend_on_the_others_in_its_batch(name):
    torch.manual_seed(0)
    config = getattr(transformers, name)(**SMALL, **CONFIGS[name])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    tokenizer = make_tokenizer()
    alone = [answer_greedily(model, tokenizer, [], [prompt], 4)[0] for prompt in PROMPTS]
    assert len(set(alone)) == len(PROMPTS)
    assert answer_greedily(model, tokenizer, [], PROMPTS, 4) == alone
