"""The transformers engine on a tiny model."""

from adaptermix.generation.transformers_engine import TransformersGenerator
from adaptermix.models.loading import load_tokenizer
from helpers.evaluation import eval_settings


def make_engine(model_dir, stop_ids=(1,), **changes):
    settings = eval_settings(model_dir, "unused", "unused", **changes)
    return TransformersGenerator(
        settings, model_dir, load_tokenizer(model_dir, settings), list(stop_ids)
    )


def answers_of(engine, requests):
    answers = {}
    engine.generate(requests, answers.update)
    return [answers[index] for index in range(len(requests))]
