"""What the prompts of a batch begin with is read once, and the answers stay the same."""

import pytest
import torch
from helpers.adapters import peft_adapter
from helpers.generation import answers_of, make_engine
from helpers.models import save_model
from transformers import AutoConfig

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.writing import stage_adapter
from adaptermix.generation.engine import Request

BEGINNING = [0, *range(20, 52)]
ENDS = ([60], [61, 62, 63, 64, 65], [66, 67, 68], [])


def requests(adapter=None):
    return [Request([*BEGINNING, *end], adapter) for end in ENDS]


def tokens_read(engine):
    """Count the tokens that go through the first block."""
    counts = []
    block = engine.adapted.model.get_decoder().layers[0]
    block.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[:2].numel()))
    return counts


@pytest.mark.parametrize("has_adapter", [False, True])
def test_answers_are_those_of_each_prompt_alone(layout_dir, tmp_path, has_adapter):
    adapter = None
    if has_adapter:
        peft_adapter(layout_dir, tmp_path / "adapter")
        adapter = stage_adapter(read_adapter(tmp_path / "adapter"), tmp_path)
    together = make_engine(layout_dir, batch_size=4, max_new_tokens=6)
    alone = make_engine(layout_dir, batch_size=1, max_new_tokens=6)
    expected = answers_of(alone, requests(adapter))
    assert answers_of(together, requests(adapter)) == expected
    assert len({answer.text for answer in expected}) > 1


def test_a_beginning_is_read_once(model_dir):
    engine = make_engine(model_dir, batch_size=4, max_new_tokens=1)
    counts = tokens_read(engine)
    answers_of(engine, requests())
    shared = len(BEGINNING) - 1  # the shortest prompt must have a token left
    assert counts == [shared, 4 * (1 + max(map(len, ENDS)))]


def test_a_window_that_padding_would_fill_is_left_alone(tmp_path):
    folder = save_model(tmp_path / "model", "mistral")
    config = AutoConfig.from_pretrained(folder)
    config.sliding_window = 40
    config.save_pretrained(folder)
    engine = make_engine(folder, batch_size=4, max_new_tokens=6)
    counts = tokens_read(engine)
    answers_of(engine, requests())
    assert counts[0] == 4 * (len(BEGINNING) + max(map(len, ENDS)))


def test_prompts_without_a_common_beginning_are_answered(model_dir):
    together = make_engine(model_dir, batch_size=2, max_new_tokens=4)
    alone = make_engine(model_dir, batch_size=1, max_new_tokens=4)
    asked = [Request([5, 6, 7], None), Request([8, 9], None)]
    with torch.inference_mode():
        assert answers_of(together, asked) == answers_of(alone, asked)
