"""A weight search in one engine, compared with a merge and an evaluation per weight.

    adaptermix demo -o runs/demo
    python benchmarks/search.py runs/demo [--limit 40] [--engine vllm]

The folder must have adaptermix.toml, task.safetensors and align.safetensors. The same six weights
are tried on the same dev examples: by `merge --search` with and without `--exhaustive`, which also
tries the two adapters alone, and by running `merge --weight` and `eval --split dev` six times, each
with its own engine. The cache is not used.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WEIGHTS = ("0.4", "0.5", "0.6", "0.7", "0.8", "0.9")
COMMAND = [sys.executable, "-m", "adaptermix"]


def run(project: Path, *arguments: str) -> Any:
    """Run one command in the project's folder and return its JSON output."""
    done = subprocess.run(
        [*COMMAND, *arguments, "--json"], cwd=project, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def search(project: Path, out: Path, decode: list[str], *more: str) -> tuple[float, int, str]:
    """Search; return the seconds, the number of decoded examples and the winner."""
    started = time.perf_counter()
    arguments = ["task.safetensors", "align.safetensors", "--search", ",".join(WEIGHTS)]
    report = run(project, "merge", *arguments, *decode, *more, "--prefer", "best", "-o", str(out))
    return time.perf_counter() - started, report["decoded"], report["winner"]


def one_by_one(project: Path, folder: Path, decode: list[str]) -> tuple[float, int, str]:
    """Merge and evaluate every weight separately."""
    started = time.perf_counter()
    scores: dict[str, float] = {}
    examples = 0
    for weight in WEIGHTS:
        adapter = folder / f"{weight}.safetensors"
        names = ["task.safetensors", "align.safetensors", "--weight", weight, "-o", str(adapter)]
        run(project, "merge", *names)
        tested = ["--split", "dev", "--exclude-base", "--adapter", str(adapter)]
        report = run(project, "eval", *tested, *decode, "-o", str(folder / f"eval-{weight}"))
        (scores[weight],) = report["macro"].values()
        examples += report["decoded"]
    return time.perf_counter() - started, examples, max(scores, key=scores.__getitem__)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--limit", type=int, default=40, help="dev examples of each language")
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    options = parser.parse_args()
    decode = ["--engine", options.engine, "--limit", str(options.limit), "--no-cache"]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        rows = [
            ("one engine, halving", *search(options.project, folder / "halving", decode)),
            ("one engine, all", *search(options.project, folder / "all", decode, "--exhaustive")),
            ("six merges, six evals", *one_by_one(options.project, folder, decode)),
        ]
    print(f"{'':24}{'seconds':>9}{'examples':>10}  best score")
    for name, seconds, examples, winner in rows:
        print(f"{name:24}{seconds:9.1f}{examples:10,}  {winner}")


if __name__ == "__main__":
    main()
