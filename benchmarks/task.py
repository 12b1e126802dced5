"""Speed and memory of task training, compared with TRL's SFTTrainer and transformers' Trainer.

    python benchmarks/task.py [--shape gemma-3-270m llama-32k] [--rounds 3] [--trl FOLDER]

The models have random weights: one with the shape of Gemma 3 270M (262,144 tokens), and a Llama
with similar blocks and 32,000 tokens. All train the same LoRA on the same token ids, with the
lengths of MASSIVE with the paper's prompt. Each run is a separate process, and the methods
alternate. On a CPU, time is CPU time, which other jobs affect least, and memory is the peak above
the imports, including the model. On a GPU, time is wall time, and memory is torch's peak
allocation. TRL is used if it is installed, or if --trl names the folder that it was installed to
(pip install --target).
"""

import argparse
import contextlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from adaptermix.settings.paper import ATTENTION_AND_MLP
from adaptermix.training.batches import IGNORED, AnswerCollator, EncodedExample
from adaptermix.training.task import spare_memory
from adaptermix.training.trainer import AdapterTrainer, NamedCollator

BLOCKS = {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18}
SHAPES = {
    "gemma-3-270m": Gemma3TextConfig(
        **BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        query_pre_attn_scalar=256,
        sliding_window=512,
        vocab_size=262_144,
    ),
    "llama-32k": LlamaConfig(
        **BLOCKS, num_attention_heads=10, num_key_value_heads=2, vocab_size=32_000
    ),
}
METHODS = ("adaptermix", "trl", "trainer")


def make_rows(count: int, vocabulary: int) -> list[EncodedExample]:
    """Return examples with prompts of 52 to 72 tokens and answers of 2 to 31, 6 on average."""
    rng = random.Random(1)
    rows = []
    for number in range(count):
        prompt = [rng.randrange(5, vocabulary) for _ in range(rng.randint(52, 72))]
        length = min(31, 2 + int(rng.expovariate(1 / 4.5)))
        answer = [rng.randrange(5, vocabulary) for _ in range(length)]
        labels = [*[IGNORED] * len(prompt), *answer]
        rows.append(EncodedExample([*prompt, *answer], labels, str(number)))
    return rows


class Clock(TrainerCallback):
    """Records the start time of each step, and the end of the last."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Create a callback that reads the time with ``now``."""
        self.now = now
        self.times: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Record the time."""
        self.times.append(self.now())

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Record the time."""
        self.times.append(self.now())


def measure(shape: str, method: str, batch: int, steps: int) -> dict[str, Any]:
    """Train a few steps with one method, in this process."""
    on_gpu = torch.cuda.is_available()
    config = SHAPES[shape]
    rows = make_rows(batch * steps, config.vocab_size)
    clock = Clock(time.perf_counter if on_gpu else time.process_time)
    common: dict[str, Any] = {
        "per_device_train_batch_size": batch,
        "max_steps": steps,
        "learning_rate": 5e-4,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": 1,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "gradient_checkpointing": False,  # TRL's default is True
    }
    lora = LoraConfig(
        r=8, lora_alpha=16, target_modules=list(ATTENTION_AND_MLP), task_type="CAUSAL_LM"
    )
    trainer_of = {"adaptermix": _ours, "trl": _trl, "trainer": _stock}[method]
    imported = _peak(on_gpu)
    set_seed(1)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    set_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(model, lora, rows, common | {"output_dir": folder})
        trainer.add_callback(clock)
        trainer.train()
    seconds = [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)][1:]
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {
        "examples_per_second": batch / statistics.median(seconds),
        "peak_mb": (_peak(on_gpu) - imported) / 1e6,
        "losses": losses,
    }


def _peak(on_gpu: bool) -> float:
    if on_gpu:
        return float(torch.cuda.max_memory_allocated())
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _ours(model: Any, lora: LoraConfig, rows: list[EncodedExample], common: Any) -> Trainer:
    adapted = get_peft_model(model, lora)
    spare_memory(adapted)
    return AdapterTrainer(
        model=adapted,
        args=TrainingArguments(**common, remove_unused_columns=False, label_names=["labels"]),
        train_dataset=rows,
        data_collator=NamedCollator(AnswerCollator(0)),
    )


def _stock(model: Any, lora: LoraConfig, rows: list[EncodedExample], common: Any) -> Trainer:
    return Trainer(
        model=get_peft_model(model, lora),
        args=TrainingArguments(**common, remove_unused_columns=False, label_names=["labels"]),
        train_dataset=rows,  # type: ignore[arg-type]
        data_collator=AnswerCollator(0),  # type: ignore[arg-type]
    )


def _trl(model: Any, lora: LoraConfig, rows: list[EncodedExample], common: Any) -> Trainer:
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "completion_mask": [[int(x != IGNORED) for x in row.labels] for row in rows],
        }
    )
    words = {"<pad>": 0, "<eos>": 1}
    bare = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>", eos_token="<eos>")
    return SFTTrainer(
        model=model,
        args=SFTConfig(**common, completion_only_loss=True, max_length=None),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora,
    )


def compare(shape: str, methods: list[str], options: argparse.Namespace) -> None:
    """Run all methods alternately and print a table."""
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for number in range(options.rounds):
        for method in methods[:: 1 if number % 2 else -1]:
            found[method].append(_in_a_process(shape, method, options))
    print(
        f"\n{shape}, batches of {options.batch}, {options.rounds} rounds of {options.steps} steps\n"
    )
    print("| | examples/s | lowest | highest | peak MB | first loss | last loss |")
    print("|---|---|---|---|---|---|---|")
    for method, runs in found.items():
        speeds = [run["examples_per_second"] for run in runs]
        peak = statistics.median(run["peak_mb"] for run in runs)
        first, *_, last = runs[0]["losses"]
        print(
            f"| {method} | {statistics.median(speeds):.2f} | {min(speeds):.2f} | {max(speeds):.2f} "
            f"| {peak:,.0f} | {first:.4f} | {last:.4f} |",
            flush=True,
        )


def _in_a_process(shape: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), options.trl)))
    done = subprocess.run(
        [
            *(sys.executable, __file__, "--shape", shape, "--only", method, "--one"),
            *("--batch", str(options.batch), "--steps", str(options.steps)),
        ],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{method} failed:\n{done.stderr[-2000:]}")
    run: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return run


def main() -> None:
    """Compare all methods, or measure one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--trl", default="", help="folder that TRL was installed to")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with contextlib.redirect_stdout(sys.stderr):
            run = measure(options.shape[0], options.only[0], options.batch, options.steps)
        print(json.dumps(run))
        return
    for shape in options.shape:
        compare(shape, options.only, options)
    print(f"\ntorch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
