"""Time and memory of merging and inspecting, whole processes, beside `cp` and PEFT.

    python benchmarks/merge.py [--dtype bfloat16] [--no-peft]

Two adapters shaped like rank 8 on all seven projections of Llama-3-8B (224 modules) are made in a
temporary folder. Each command runs as a process of its own, from its start to its end; times are
medians, memory is the largest peak. `cp` copies the same bytes, and PEFT merges one 4096 x 4096
module by its SVD.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import CONFIG_KEY
from adaptermix.files.tensors import TensorSpec, write_tensors
from adaptermix.merging.methods import MethodOptions, merge_updates

HIDDEN, MIDDLE, KEYS, LAYERS, RANK = 4096, 14336, 1024, 32, 8
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (MIDDLE, HIDDEN),
    "mlp.up_proj": (MIDDLE, HIDDEN),
    "mlp.down_proj": (HIDDEN, MIDDLE),
}
RUNS = [
    ("exact", None),
    ("exact", RANK),
    ("factor-average", None),
    ("peft-linear", None),
    ("peft-svd", None),
    ("magnitude", None),
    ("ties", None),
    ("dare", None),
    ("dare-ties", None),
    ("della", None),
    ("knots", None),
    ("tsv", None),
    ("iso-c", None),
]


def make_adapters(folder: Path, dtype: str) -> list[Path]:
    """Write two adapters of random factors."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": [name.split(".")[1] for name in SHAPES],
        "base_model_name_or_path": "a model of this shape",
    }
    specs = {
        f"base_model.model.model.layers.{layer}.{name}.lora_{side}.weight": TensorSpec(
            np.dtype(dtype), (RANK, columns) if side == "A" else (rows, RANK)
        )
        for layer in range(LAYERS)
        for name, (rows, columns) in SHAPES.items()
        for side in "AB"
    }
    paths = []
    for seed in range(2):
        normal = np.random.default_rng(seed).standard_normal
        factors = (0.01 * normal(spec.shape, np.float32) for spec in specs.values())
        tensors = (f.astype(spec.dtype) for f, spec in zip(factors, specs.values(), strict=True))
        paths.append(folder / f"{seed}.safetensors")
        metadata = {CONFIG_KEY: json.dumps(config)}
        write_tensors(paths[-1], specs, tensors, lambda told=metadata: told)
    return paths


def time_of(work: Callable[[], Any], repeats: int) -> float:
    """Return the median time of some work, in seconds, after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def copy(paths: list[Path], folder: Path) -> None:
    """Copy the adapters with cp, bytes and all."""
    for path in paths:
        target = folder / f"copy-{path.name}"
        target.unlink(missing_ok=True)
        subprocess.run(["cp", "--reflink=never", path, target], check=True)


PROCESS = """
import atexit
from pathlib import Path
from adaptermix.cli.main import main
def tell():
    lines = Path("/proc/self/status").read_text().splitlines()
    Path("peak").write_text(next(line for line in lines if line.startswith("VmHWM")).split()[1])
atexit.register(tell)
main()
"""


def measure(folder: Path, arguments: Sequence[str], repeats: int) -> tuple[float, float]:
    """Return the median time of a command in seconds, and its largest peak of memory in MB."""
    peaks = []

    def run() -> None:
        (folder / "merged.safetensors").unlink(missing_ok=True)
        code = [sys.executable, "-c", PROCESS, *arguments]
        subprocess.run(code, cwd=folder, capture_output=True, check=True)
        peaks.append(int((folder / "peak").read_text()) / 1024)

    return time_of(run, repeats), max(peaks)


def peft_svd() -> float:
    """Let PEFT merge two rank-8 updates of one 4096 x 4096 layer by its SVD; return seconds."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    class OneLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(HIDDEN, HIDDEN, bias=False)

        def forward(self, values: Any) -> Any:
            return self.layer(values)

    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["layer"])
    model = get_peft_model(OneLayer(), config, adapter_name="task")
    model.add_adapter("align", config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.02)
    started = time.perf_counter()
    model.base_model.add_weighted_adapter(
        ["task", "align"], [0.9, 0.1], "merged", combination_type="svd", svd_rank=RANK
    )
    return time.perf_counter() - started


def ours_per_module() -> float:
    """Return the seconds that the best rank 8 of the same two updates takes here."""
    normal = np.random.default_rng(0).standard_normal
    updates = [
        LoraUpdate(normal((RANK, HIDDEN), np.float32), normal((HIDDEN, RANK), np.float32), 2.0)
        for _ in range(2)
    ]
    options = MethodOptions(rank=RANK)
    return time_of(lambda: merge_updates("exact", updates, [0.9, 0.1], options), 20)


def main() -> None:
    """Measure and print a table, and what PEFT takes for one module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-peft", action="store_true", help="leave PEFT's SVD out (a minute)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="adaptermix-benchmark-"))
    try:
        paths = make_adapters(folder, options.dtype)
        size = sum(path.stat().st_size for path in paths) / 1e6
        print(f"two adapters, {size:.0f} MB together, {options.dtype}, {os.cpu_count()} cores\n")
        print(f"{'':24}{'seconds':>9}{'MB':>7}")
        print(f"{'cp of both':24}{time_of(lambda: copy(paths, folder), options.repeats):9.3f}")
        merge = ["merge", *(path.name for path in paths), "--weight", "0.9"]
        commands = {"inspect one": ["inspect", paths[0].name]}
        for method, rank in RUNS:
            cut = ["--rank", str(rank)] if rank else []
            out = ["-o", "merged.safetensors"]
            commands[" ".join([method, *cut])] = [*merge, "--method", method, *cut, *out]
        for name, arguments in commands.items():
            seconds, peak = measure(folder, arguments, options.repeats)
            print(f"{name:24}{seconds:9.3f}{peak:7.0f}", flush=True)
        if not options.no_peft:
            ours, theirs = ours_per_module(), peft_svd()
            print(f"\nbest rank 8 of two, one 4096 x 4096 module: {1000 * ours:.2f} ms here,")
            print(f"{theirs:.1f} s with PEFT's svd: {theirs / ours:,.0f} times as long")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
