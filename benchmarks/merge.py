"""Time and memory of merging, beside `cp` and PEFT, in one run.

    python benchmarks/merge.py [--dtype bfloat16] [--no-peft]

Two adapters shaped like rank 8 on all seven projections of Llama-3-8B (224 modules) are made in a
temporary folder. Every method merges them, and in the same run `cp` copies the same bytes and
PEFT merges one 4096 x 4096 module by its SVD. Times are medians; each memory figure is the peak
of a fresh process above what it took after its imports.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    import torch
    from safetensors.torch import save_file

    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": [name.split(".")[1] for name in SHAPES],
        "base_model_name_or_path": "a model of this shape",
    }
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        tensors = {}
        for layer in range(LAYERS):
            for name, (rows, columns) in SHAPES.items():
                key = f"base_model.model.model.layers.{layer}.{name}"
                a = torch.randn(RANK, columns) / columns**0.5
                b = torch.randn(rows, RANK) * 0.01
                tensors[f"{key}.lora_A.weight"] = a.to(getattr(torch, dtype))
                tensors[f"{key}.lora_B.weight"] = b.to(getattr(torch, dtype))
        paths.append(folder / f"{seed}.safetensors")
        save_file(tensors, paths[-1], {"lora_adapter_metadata": json.dumps(config)})
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


def merge_once(paths: list[Path], folder: Path, method: str, rank: int | None) -> None:
    """Merge as `adaptermix merge` does, without starting Python anew."""
    from adaptermix.merging.merge import merge
    from adaptermix.settings.merging import MergeSettings

    out = folder / "merged.safetensors"
    out.unlink(missing_ok=True)
    merge(paths, MergeSettings(weight=0.9, method=method, rank=rank, out=out))


MEMORY = """
import sys
from pathlib import Path
from adaptermix.merging.merge import merge
from adaptermix.merging.methods import METHODS
from adaptermix.settings.merging import MergeSettings
first, second, out, method, rank = sys.argv[1:]
def resident(which):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(which)).split()[1]) / 1024
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
settings = MergeSettings(weight=0.9, method=method, rank=int(rank) or None, out=Path(out))
merge([Path(first), Path(second)], settings)
print(resident("VmHWM") - before)
"""


def memory_of(paths: list[Path], folder: Path, method: str, rank: int | None) -> float:
    """Return the peak memory of a merge above the imports, in MB; mapped files count."""
    out = folder / "memory.safetensors"
    out.unlink(missing_ok=True)
    arguments = [*map(str, paths), str(out), method, str(rank or 0)]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


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
    import torch

    from adaptermix.adapters.deltas import LoraUpdate
    from adaptermix.merging.methods import MethodOptions, merge_updates

    updates = [
        LoraUpdate(torch.randn(RANK, HIDDEN), torch.randn(HIDDEN, RANK), 2.0) for _ in range(2)
    ]
    options = MethodOptions(rank=RANK)
    return time_of(lambda: merge_updates("exact", updates, [0.9, 0.1], options), 20)


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-peft", action="store_true", help="leave PEFT's SVD out (a minute)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="adaptermix-benchmark-"))
    try:
        paths = make_adapters(folder, options.dtype)
        size = sum(path.stat().st_size for path in paths) / 1e6
        print(f"two adapters, {size:.0f} MB together, {options.dtype}, {os.cpu_count()} cores\n")
        floor = time_of(lambda: copy(paths, folder), options.repeats)
        print(f"{'':24}{'seconds':>9}{'x cp':>8}{'x exact':>9}{'x rank 8':>10}{'MB':>7}")
        print(f"{'cp of both':24}{floor:9.3f}{1:8.1f}")
        measured: dict[str, float] = {}
        for method, rank in RUNS:
            name = f"{method} --rank {rank}" if rank else method
            seconds = time_of(lambda: merge_once(paths, folder, method, rank), options.repeats)  # noqa: B023
            measured[name] = seconds
            exact, cut = measured["exact"], measured.get(f"exact --rank {RANK}")
            print(
                f"{name:24}{seconds:9.3f}{seconds / floor:8.1f}{seconds / exact:9.1f}"
                + (f"{seconds / cut:10.2f}" if cut else " " * 10)
                + f"{memory_of(paths, folder, method, rank):7.0f}",
                flush=True,
            )
        if not options.no_peft:
            ours, theirs = ours_per_module(), peft_svd()
            print(f"\nbest rank 8 of two, one 4096 x 4096 module: {1000 * ours:.2f} ms here,")
            print(f"{theirs:.1f} s with PEFT's svd: {theirs / ours:,.0f} times as long")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
