"""A small search."""

from adaptermix.settings.merging import SearchSettings


def settings_for(model_dir, corpus_dir, out, **changes):
    return SearchSettings(
        **{
            "model": str(model_dir),
            "data_dir": corpus_dir,
            "langs": ("en", "cy"),
            "system_prompt": "",
            "limit": 6,
            "engine": "transformers",
            "max_new_tokens": 6,
            "batch_size": 4,
            "search": "0.5,0.7,0.9",
            "out": out,
            **changes,
        }
    )
