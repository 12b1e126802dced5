"""Run the demo with several seeds and print the mean and standard deviation of slot F1.

Example:
    python examples/demo/seeds.py runs/seeds --seeds 1,2,3
"""

import argparse
import json
import statistics
import subprocess
from pathlib import Path


def main() -> None:
    """Run what is missing, then print a Markdown table over all seeds."""
    parser = argparse.ArgumentParser(description="Run the demo with several seeds.")
    parser.add_argument("out", type=Path, help="folder for the runs; finished ones are kept")
    parser.add_argument("--seeds", default="1,2,3")
    arguments = parser.parse_args()
    scores = []
    for seed in arguments.seeds.split(","):
        folder = arguments.out / f"seed-{seed}"
        if not (folder / "eval-massive" / "scores.json").is_file():
            command = [
                "adaptermix",
                "demo",
                "--quiet",
                "--force",
                "--seed",
                seed,
                "-o",
                str(folder),
            ]
            subprocess.run(command, check=True)
        scores.append(json.loads((folder / "eval-massive" / "scores.json").read_text()))
    systems, langs = scores[0]["systems"], scores[0]["langs"]
    print("| language | " + " | ".join(systems) + " |")
    print("|---" * (len(systems) + 1) + "|")
    for lang in langs:
        values = [[cell_value(run, system, lang) for run in scores] for system in systems]
        print(f"| {lang} | " + " | ".join(map(mean_and_spread, values)) + " |")
    macros = [[100 * run["macro"][system] for run in scores] for system in systems]
    print("| macro average | " + " | ".join(map(mean_and_spread, macros)) + " |")


def cell_value(run: dict, system: str, lang: str) -> float:
    """Return one system's F1 on one language, in percent."""
    cells = run["cells"]
    return next(
        100 * c["score"]["value"] for c in cells if (c["system"], c["lang"]) == (system, lang)
    )


def mean_and_spread(values: list[float]) -> str:
    """Format the mean and standard deviation over seeds."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {spread:.1f}"


if __name__ == "__main__":
    main()
