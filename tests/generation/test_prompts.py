"""Prompts that leave room for their answers."""

import json

import pytest
from helpers.evaluation import eval_settings

from adaptermix.errors import ConfigError
from adaptermix.generation.prompts import PromptEncoder, read_prompts
from adaptermix.models.loading import load_tokenizer
from adaptermix.tasks.massive import Massive


@pytest.mark.parametrize("context", [7, 8, 9, 20, 500])
def test_prompt_and_answer_fit_the_context(tmp_path, model_dir, corpus_dir, context):
    """A context that the longest answer fills is refused; longer prompts lose tokens."""
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": context}))
    settings = eval_settings(model_dir, corpus_dir, "x", max_new_tokens=8)
    encoder = PromptEncoder.of(load_tokenizer(model_dir, settings), settings)
    arguments = settings, "test", Massive(system_prompt=""), encoder, tmp_path
    if context <= 8:
        with pytest.raises(ConfigError, match=f"accepts at most {context} tokens"):
            read_prompts(*arguments)
        return
    items = read_prompts(*arguments)
    assert max(len(item.prompt_ids) + 8 for item in items) <= context
    for item in items:
        whole = encoder.prompt_ids([{"role": "user", "content": item.example.utterance}])
        assert item.is_truncated == (len(whole) + 8 > context)
        assert item.prompt_ids[0] == whole[0]
        assert item.prompt_ids[1:] == whole[len(whole) - len(item.prompt_ids) + 1 :]
