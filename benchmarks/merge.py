"""Time and memory of merge and inspect as whole processes, compared with `cp` and PEFT.

    python benchmarks/merge.py [--model 8b] [--dtype bfloat16] [--no-peft]

Two adapters for all seven projections of Llama 3 are created in a temporary folder: rank 8 with the
shapes of 8B (224 modules), or rank 64 with those of 70B (560 modules; 3.3 GB together in bfloat16).
Each command runs in a separate process and is timed from start to end. Times are medians, memory is
the largest peak. `cp` copies the same bytes, and PEFT merges one square module with its SVD.
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
from typing import Any, NamedTuple

import numpy as np

from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import CONFIG_KEY
from adaptermix.files.tensors import TensorSpec, write_tensors
from adaptermix.merging.methods import MethodOptions, merge_updates


class Model(NamedTuple):
    """The sizes of a model, and the rank of its adapters."""

    hidden: int
    middle: int
    layers: int
    rank: int

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The shape of every projection of a block: rows, columns."""
        keys = 1024  # 8 heads of 128
        return {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.middle, self.hidden),
            "mlp.up_proj": (self.middle, self.hidden),
            "mlp.down_proj": (self.hidden, self.middle),
        }


MODELS = {"8b": Model(4096, 14336, 32, 8), "70b": Model(8192, 28672, 80, 64)}
# Methods, and whether the result is truncated to the rank of its sources.
RUNS = [
    ("exact", False),
    ("exact", True),
    ("factor-average", False),
    ("peft-linear", False),
    ("peft-svd", False),
    ("magnitude", False),
    ("ties", False),
    ("dare", False),
    ("dare-ties", False),
    ("della", False),
    ("knots", False),
    ("tsv", False),
    ("iso-c", False),
]


def make_adapters(folder: Path, model: Model, dtype: str) -> list[Path]:
    """Write two adapters with random factors."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": model.rank,
        "lora_alpha": 2 * model.rank,
        "target_modules": [name.split(".")[1] for name in model.shapes],
        "base_model_name_or_path": "a model of this shape",
    }
    specs = {
        f"base_model.model.model.layers.{layer}.{name}.lora_{side}.weight": TensorSpec(
            np.dtype(dtype), (model.rank, columns) if side == "A" else (rows, model.rank)
        )
        for layer in range(model.layers)
        for name, (rows, columns) in model.shapes.items()
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
    """Return the median time of a function in seconds, after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def copy(paths: list[Path], folder: Path) -> None:
    """Copy the adapters with cp."""
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
    """Return a command's median time in seconds, and its largest memory peak in MB."""
    peaks = []

    def run() -> None:
        (folder / "merged.safetensors").unlink(missing_ok=True)
        code = [sys.executable, "-c", PROCESS, *arguments]
        subprocess.run(code, cwd=folder, capture_output=True, check=True)
        peaks.append(int((folder / "peak").read_text()) / 1024)

    return time_of(run, repeats), max(peaks)


def peft_svd(hidden: int, rank: int) -> float:
    """Return the time in seconds of PEFT's SVD merge of two updates of one square layer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    class OneLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(hidden, hidden, bias=False)

        def forward(self, values: Any) -> Any:
            return self.layer(values)

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["layer"])
    model = get_peft_model(OneLayer(), config, adapter_name="task")
    model.add_adapter("align", config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.02)
    started = time.perf_counter()
    model.base_model.add_weighted_adapter(
        ["task", "align"], [0.9, 0.1], "merged", combination_type="svd", svd_rank=rank
    )
    return time.perf_counter() - started


def ours_per_module(hidden: int, rank: int) -> float:
    """Return the time in seconds of our optimal truncation of two such updates."""
    normal = np.random.default_rng(0).standard_normal
    updates = [
        LoraUpdate(normal((rank, hidden), np.float32), normal((hidden, rank), np.float32), 2.0)
        for _ in range(2)
    ]
    options = MethodOptions(rank=rank)
    return time_of(lambda: merge_updates("exact", updates, [0.9, 0.1], options, 0), 20)


def main() -> None:
    """Measure, and print a table and PEFT's time for one module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="8b", choices=MODELS)
    parser.add_argument("--methods", nargs="*", help="only these, of the methods")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-peft", action="store_true", help="leave PEFT's SVD out (a minute)")
    options = parser.parse_args()
    model = MODELS[options.model]
    folder = Path(tempfile.mkdtemp(prefix="adaptermix-benchmark-"))
    try:
        paths = make_adapters(folder, model, options.dtype)
        size = sum(path.stat().st_size for path in paths) / 1e6
        print(f"two adapters, {size:.0f} MB together, {options.dtype}, {os.cpu_count()} cores\n")
        print(f"{'':24}{'seconds':>9}{'MB':>7}")
        print(f"{'cp of both':24}{time_of(lambda: copy(paths, folder), options.repeats):9.3f}")
        merge = ["merge", *(path.name for path in paths), "--weight", "0.9"]
        commands = {"inspect one": ["inspect", paths[0].name]}
        for method, is_cut in RUNS:
            if method not in (options.methods or [method]):
                continue
            cut = ["--rank", str(model.rank)] if is_cut else []
            out = ["-o", "merged.safetensors"]
            commands[" ".join([method, *cut])] = [*merge, "--method", method, *cut, *out]
        for name, arguments in commands.items():
            seconds, peak = measure(folder, arguments, options.repeats)
            print(f"{name:24}{seconds:9.3f}{peak:7.0f}", flush=True)
        if not options.no_peft:
            hidden, rank = model.hidden, model.rank
            ours, theirs = ours_per_module(hidden, rank), peft_svd(hidden, rank)
            print(f"\nbest rank {rank} of two, one module of {hidden} x {hidden}:")
            print(f"{1000 * ours:.2f} ms here,")
            print(f"{theirs:.1f} s with PEFT's svd: {theirs / ours:,.0f} times as long")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
