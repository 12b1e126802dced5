"""Adapters with records of how they were made."""

import numpy as np

from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import describe_config, spec_of
from adaptermix.adapters.writing import write_adapter

TRAINED = {
    "adaptermix": "0.1.0",
    "command": "train-task",
    "examples": {"en": 1200, "cy": 80},
    "dev": {"loss": 0.25},
    "steps": 30,
    "settings": {
        "task": "/home/somebody/private/intent.toml",
        "model": "/home/somebody/models/llama",
        "data_dir": "/home/somebody/data",
        "system_prompt": "the password is swordfish",
        "rank": 8,
        "lr": 0.0005,
        "target_modules": ["q_proj", "v_proj"],
    },
}
ALIGNED = {
    "adaptermix": "0.1.0",
    "command": "train-align",
    "examples": {"sw-en": 40},
    "settings": {"layer": 16},
}


def write(path, record, base="somebody/llama", seed=0, width=6):
    generator = np.random.default_rng(seed)
    a, b = (generator.standard_normal(shape, np.float32) for shape in ((2, width), (4, 2)))
    updates = {"model.layers.0.self_attn.q_proj": LoraUpdate(a, b, 1.0)}
    specs = {module: spec_of(update) for module, update in updates.items()}
    write_adapter(path, updates, describe_config(specs, base, True), record, force=True)
    return path
