"""Answers that have ended leave their batch, and the others stay the same."""

import pytest
from helpers.generation import answers_of, make_engine

from adaptermix.generation.engine import Request

PROMPTS = [[token, token + 7, 30 + token % 5] for token in range(40, 56)]
ROOM = 24


def rows_of_each_step(engine):
    rows = []
    block = engine.adapted.model.get_decoder().layers[0]
    block.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    return rows


def answer(model_dir, batch_size, stop_ids):
    engine = make_engine(model_dir, stop_ids, batch_size=batch_size, max_new_tokens=ROOM)
    rows = rows_of_each_step(engine)
    return answers_of(engine, [Request(prompt, None) for prompt in PROMPTS]), rows


@pytest.mark.parametrize("every", [2, 7, 40])
def test_each_answer_is_that_of_its_prompt_alone(layout_dir, every):
    stop_ids = range(0, 400, every)
    together, rows = answer(layout_dir, len(PROMPTS), stop_ids)
    assert together == answer(layout_dir, 1, stop_ids)[0]
    assert len(rows) >= max(each.tokens for each in together)


def test_less_than_half_of_the_rows_have_ended(model_dir):
    answers, rows = answer(model_dir, len(PROMPTS), range(0, 400, 7))
    lengths = [each.tokens for each in answers]
    assert len(set(lengths)) > 3
    for step, width in enumerate(rows):
        going_on = sum(length > step for length in lengths)
        assert going_on <= width < 2 * going_on


def test_no_token_may_end_an_answer(model_dir):
    answers, rows = answer(model_dir, len(PROMPTS), [])
    assert {each.tokens for each in answers} == {ROOM}
    assert set(rows) == {len(PROMPTS)}
