"""Compare the memory estimate of a dry run with the peak memory of the training, on a CPU.

python benchmarks/footprint.py FOLDER [task|align|joint]

A random Llama with 8 blocks of width 256 is saved in FOLDER once. The training runs two steps of
one micro-batch each. The peak is the process's (``ru_maxrss``) minus its resident memory before
the training, so it excludes the imports.
"""

import json
import resource
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from helpers.corpus import write_corpus
from helpers.models import make_tokenizer

from adaptermix.settings.training import TrainAlignSettings, TrainJointSettings, TrainTaskSettings
from adaptermix.training.align import train_align
from adaptermix.training.joint import train_joint
from adaptermix.training.task import train_task

ENGLISH = {"langs": "en", "system_prompt": ""}
KINDS = {
    "task": (train_task, TrainTaskSettings, {**ENGLISH, "micro_batch_size": 32}),
    "align": (train_align, TrainAlignSettings, {"pairs": "cy-en", "contrastive_batch": 32}),
    "joint": (
        train_joint,
        TrainJointSettings,
        {**ENGLISH, "pairs": "cy-en", "contrastive_batch": 32},
    ),
}


def resident() -> int:
    """Return the current resident memory of the process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main(folder: Path, kind: str) -> None:
    """Print estimate and measurement as one line of JSON."""
    base = folder / "base"
    if not base.exists():
        config = LlamaConfig(
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            vocab_size=8000,
        )
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(base)
        make_tokenizer().save_pretrained(base)
        write_corpus(folder / "corpus")
    train, settings_of, changes = KINDS[kind]
    settings = settings_of(
        model=str(base),
        data_dir=folder / "corpus",
        batch_size=32,
        max_steps=2,
        out=folder / f"{kind}.safetensors",
        **changes,
    )
    plan = train(settings, dry_run=True, force=True)
    before = resident()
    train(settings, force=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    estimate = plan.memory_bytes or 0
    line = {
        "kind": kind,
        "held": plan.held_parameters,
        "trained": plan.trainable_parameters,
        "estimate_mb": round(estimate / 1e6),
        "peak_mb": round(peak / 1e6),
        "estimate_to_peak": round(estimate / peak, 2),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "task")
