"""How much alignment can be merged into a task adapter before the task suffers?

Trains alignment adapters with and without ``preserve`` in a folder made by ``adaptermix demo`` or
``examples/massive/run.sh``, merges each with the folder's task adapter at increasing weights, and
scores every merge by slot F1 and translation retrieval at the aligned layer. Results are stored in
OUT, so that a second run only prints them.

    python benchmarks/preserve.py runs/demo --arms plain,preserve=1,preserve=1+text
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.commands.settings_file import load_settings
from adaptermix.evaluation.evaluate import evaluate
from adaptermix.merging.merge import merge
from adaptermix.models.files import layer_index
from adaptermix.models.loading import load_tokenizer
from adaptermix.models.pooling import mean_pool, retrieval_accuracy
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.shared import ModelSettings
from adaptermix.settings.training import TrainAlignSettings, TrainTaskSettings
from adaptermix.tasks.massive import read_massive
from adaptermix.training.align import train_align


def main() -> None:
    """Run what is missing, then print a table over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds adaptermix.toml, task.safetensors")
    parser.add_argument("--out", type=Path, help="FOLDER/preserve by default")
    parser.add_argument("--arms", default="plain,preserve=1,preserve=1+text")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--weights", default="0.1,0.2,0.4,0.6,1.0", help="of align; task has 1")
    parser.add_argument("--averages", default="0.9,0.7", help="of task; align has the rest")
    parser.add_argument("--limit", type=int, default=40, help="examples of each language")
    parser.add_argument("--split", default="test", choices=["dev", "test"])
    parser.add_argument("--langs", help="of the evaluation; the folder's by default")
    parser.add_argument("--align", default="", help="settings of alignment: lr=1e-3,epochs=5")
    arguments = parser.parse_args()
    arguments.out = arguments.out or arguments.folder / "preserve"
    arguments.out.mkdir(parents=True, exist_ok=True)
    pairs = [(1.0, float(w)) for w in arguments.weights.split(",")]
    averages = [float(w) for w in arguments.averages.split(",") if w]
    weights = [*pairs, *((w, round(1 - w, 6)) for w in averages)]
    rows: dict[tuple[str, tuple[float, float]], list[dict[str, float]]] = {}
    for arm in arguments.arms.split(","):
        for seed in arguments.seeds.split(","):
            results = run_arm(arm, int(seed), weights, arguments)
            for pair in weights:
                rows.setdefault((arm, pair), []).append(results[f"{pair[0]:g}/{pair[1]:g}"])
    alone = score([arguments.folder / "task.safetensors"], arguments, "task")[0]
    show(rows, alone)


def run_arm(
    arm: str, seed: int, weights: Sequence[tuple[float, float]], arguments: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Return the scores of all merges of one alignment adapter, by weights."""
    place = arguments.out / f"{arm}-{seed}"
    path = place / f"{arguments.split}.json"
    known: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}
    missing = [pair for pair in weights if f"{pair[0]:g}/{pair[1]:g}" not in known]
    if not missing:
        return known
    align = place / "align.safetensors"
    if not align.is_file():
        train_align(settings_of(arm, seed, align, arguments), force=True)
    task = arguments.folder / "task.safetensors"
    merged = []
    for one, other in missing:
        out = place / f"merged-{one:g}-{other:g}.safetensors"
        merge([task, align], MergeSettings(weights=(one, other), out=out), force=True)
        merged.append(out)
    scores = score(merged, arguments, str(place))
    known |= {f"{a:g}/{b:g}": scores[at] for at, (a, b) in enumerate(missing)}
    for out in merged:
        out.unlink()
    path.write_text(json.dumps(known, indent=1))
    return known


def settings_of(
    arm: str, seed: int, out: Path, arguments: argparse.Namespace
) -> TrainAlignSettings:
    """Parse an arm such as ``preserve=1+text`` to settings of the training."""
    flags: dict[str, Any] = {"seed": seed, "out": out}
    flags |= dict(item.split("=") for item in arguments.align.split(",") if item)
    kind, _, options = arm.partition("=")
    if kind == "preserve":
        weight, _, text = options.partition("+")
        flags["preserve"] = float(weight)
        if text:
            flags["preserve_text"] = task_text(arguments)
    return load_settings(TrainAlignSettings, flags, arguments.folder / "adaptermix.toml")


def task_text(arguments: argparse.Namespace) -> list[Path]:
    """Write the utterances that the task adapter was trained on, one file per language."""
    task = load_settings(TrainTaskSettings, {}, arguments.folder / "adaptermix.toml")
    paths = []
    for lang in task.langs:
        examples = read_massive(lang, "train", task.data_dir)[:2000]
        path = arguments.out / f"{lang}.txt"
        path.write_text("".join(f"{example.utterance}\n" for example in examples))
        paths.append(path)
    return paths


def score(
    adapters: Sequence[Path], arguments: argparse.Namespace, name: str
) -> list[dict[str, float]]:
    """Return slot F1 and retrieval accuracy of adapters, averaged by kind of language."""
    config = arguments.folder / "adaptermix.toml"
    flags = {
        "adapters": [str(path) for path in adapters],
        "exclude_base": True,
        "engine": "transformers",
        "limit": arguments.limit,
        "split": arguments.split,
        "batch_size": 256,
        "out": arguments.out / f"eval-{Path(name).name}",
    }
    if arguments.langs:
        flags["langs"] = arguments.langs
    settings = load_settings(EvalSettings, flags, config)
    report = evaluate(settings, force=True)
    groups = languages(settings, arguments)
    rows = []
    for system, path in zip(report.systems, adapters, strict=True):
        f1 = {lang: 100 * report.cell(system, lang).score.value for lang in report.langs}
        found = retrieval(path, settings, groups, arguments)
        rows.append(
            {f"f1 {kind}": mean(f1[lang] for lang in langs) for kind, langs in groups.items()}
            | {
                f"retrieval {kind}": mean(found[lang] for lang in langs)
                for kind, langs in groups.items()
                if kind != "trained"
            }
        )
    return rows


def mean(values: Any) -> float:
    """Return the mean of numbers."""
    return statistics.mean(values)


def languages(settings: EvalSettings, arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Return the languages with task data, the aligned ones, and the others."""
    config = arguments.folder / "adaptermix.toml"
    trained = list(load_settings(TrainTaskSettings, {}, config).langs)
    pairs = load_settings(TrainAlignSettings, {}, config).pairs
    aligned = [pair.partition("-")[0] for pair in pairs]
    other = [lang for lang in settings.langs if lang not in [*trained, *aligned]]
    kinds = {"trained": trained, "aligned": aligned, "other": other}
    return {kind: [x for x in langs if x in settings.langs] for kind, langs in kinds.items()}


def retrieval(
    path: Path | None,
    settings: EvalSettings,
    groups: dict[str, list[str]],
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """Return the accuracy of retrieving English after the middle block, by language, in percent."""
    folder = Path(settings.model)
    tokenizer = load_tokenizer(folder, ModelSettings(model=str(folder)))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if path is not None:
        add_adapter(model, path)
    middle = layer_index("middle", model.config.num_hidden_layers)
    by_lang = {}
    for lang in ["en", *groups["aligned"], *groups["other"]]:
        texts = utterances(lang, arguments.split, settings.data_dir)
        by_lang[lang] = vectors(model, tokenizer, texts)[middle]
    english = by_lang.pop("en")
    return {lang: 100 * retrieval_accuracy(found, english) for lang, found in by_lang.items()}


@cache
def utterances(lang: str, split: Any, folder: Path) -> list[str]:
    """Return the first utterances of a MASSIVE partition, which are parallel over languages."""
    return [example.utterance for example in read_massive(lang, split, folder)[:150]]


def add_adapter(model: Any, path: Path) -> None:
    """Add an adapter's delta weights to the model's weights."""
    with torch.no_grad():
        for module, update in read_adapter(path).updates():
            delta = torch.from_numpy(update.delta_weight())
            model.get_submodule(module).weight.add_(delta)


def vectors(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[torch.Tensor]:
    """Return mean-pooled hidden states after the embeddings and after every block."""
    parts = []
    for start in range(0, len(texts), 100):
        batch = tokenizer(list(texts[start : start + 100]), return_tensors="pt", padding=True)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.no_grad():
            states = model.model(
                input_ids=ids, attention_mask=mask, output_hidden_states=True
            ).hidden_states
        parts.append([mean_pool(state, mask) for state in states])
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def show(
    rows: dict[tuple[str, tuple[float, float]], list[dict[str, float]]], alone: dict[str, float]
) -> None:
    """Print a Markdown table of the means over seeds, with standard deviations."""
    columns = list(alone)
    print("| alignment | task / align | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 2) + "|")
    print("| none | 1 / 0 | " + " | ".join(f"{alone[c]:.1f}" for c in columns) + " |")
    for (arm, (one, other)), results in rows.items():
        cells = []
        for column in columns:
            values = [result[column] for result in results]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        print(f"| {arm} | {one:g} / {other:g} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
