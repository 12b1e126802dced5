"""A small evaluation, and what it leaves."""

import json

from adaptermix.settings.evaluation import EvalSettings


def eval_settings(model_dir, corpus_dir, out, **changes):
    return EvalSettings(
        **{
            "model": str(model_dir),
            "data_dir": corpus_dir,
            "langs": ("en", "cy"),
            "system_prompt": "",
            "limit": 5,
            "engine": "transformers",
            "max_new_tokens": 8,
            "batch_size": 3,
            "cache": False,
            "out": out,
            **changes,
        }
    )


def read_predictions(out, system, lang):
    path = out / "predictions" / system / f"{lang}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
