"""Show the effect of alignment on translation retrieval, block by block.

For the base model and every adapter, prints how often a test utterance retrieves its English
version among all of them, by cosine of mean-pooled hidden states after each block. No test
utterance is in the alignment pairs, and languages without pairs were not aligned.

Example:
    adaptermix demo -o runs/demo
    python examples/demo/layers.py runs/demo align.safetensors
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from adaptermix.adapters.adapter import read_adapter
from adaptermix.commands.settings_file import load_settings
from adaptermix.models.files import layer_index
from adaptermix.models.loading import load_model, load_tokenizer
from adaptermix.models.pooling import mean_pool, retrieval_accuracy
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.training import TrainAlignSettings, TrainTaskSettings
from adaptermix.tasks.massive import read_massive


def main() -> None:
    """Print a Markdown table: one row per block, one column per system and kind of language."""
    parser = argparse.ArgumentParser(description="Retrieval of translations after every block.")
    parser.add_argument("folder", type=Path, help="holds adaptermix.toml and the adapters")
    parser.add_argument("adapters", nargs="+", help="names of adapters in the folder")
    parser.add_argument("--split", default="test", choices=["dev", "test"])
    parser.add_argument("--limit", type=int, default=200, help="utterances of each language")
    arguments = parser.parse_args()
    config = arguments.folder / "adaptermix.toml"
    settings = load_settings(EvalSettings, {}, config)
    align = load_settings(TrainAlignSettings, {}, config)
    aligned = [pair.partition("-")[0] for pair in align.pairs]
    trained = [x for x in load_settings(TrainTaskSettings, {}, config).langs if x != "en"]
    other = [x for x in settings.langs if x not in ("en", *aligned, *trained)]
    kinds = {"aligned": aligned, "of the task": trained, "other": other}
    texts = {
        lang: [e.utterance for e in read_massive(lang, arguments.split, settings.data_dir)]
        for lang in settings.langs
    }
    texts = {lang: lines[: arguments.limit] for lang, lines in texts.items()}
    systems = {"base": None, **{name: arguments.folder / name for name in arguments.adapters}}
    columns: dict[tuple[str, str], list[float]] = {}
    for system, path in systems.items():
        found = by_block(settings, path, texts)
        for kind, langs in kinds.items():
            accuracies = [found[lang] for lang in langs]
            columns[system, kind] = [statistics.mean(row) for row in zip(*accuracies, strict=True)]
    depth = len(next(iter(columns.values()))) - 1
    chosen = layer_index(align.layer, depth)
    print(f"{len(texts['en'])} utterances a language; " + describe(kinds))
    print("| block | " + " | ".join(f"{Path(s).stem}: {kind}" for s, kind in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for block in range(depth + 1):
        mark = " (aligned here)" if block == chosen else " (embeddings)" if block == 0 else ""
        cells = [f"{100 * column[block]:.1f}" for column in columns.values()]
        print(f"| {block}{mark} | " + " | ".join(cells) + " |")


def describe(kinds: dict[str, list[str]]) -> str:
    """List the languages of each kind."""
    return "; ".join(f"{kind}: {', '.join(langs)}" for kind, langs in kinds.items())


def by_block(
    settings: EvalSettings, adapter: Path | None, texts: dict[str, list[str]]
) -> dict[str, list[float]]:
    """Return each language's retrieval accuracy after the embeddings and after every block."""
    folder = Path(settings.model)
    model, tokenizer = load_model(folder, settings).float(), load_tokenizer(folder, settings)
    if adapter is not None:
        with torch.no_grad():
            for module, update in read_adapter(adapter).updates():
                delta = torch.from_numpy(update.delta_weight())
                model.get_submodule(module).weight.add_(delta.to(model.device))
    states = {lang: pooled(model, tokenizer, lines) for lang, lines in texts.items()}
    english = states.pop("en")
    return {
        lang: [retrieval_accuracy(s, e) for s, e in zip(mine, english, strict=True)]
        for lang, mine in states.items()
    }


def pooled(model: Any, tokenizer: Any, lines: Sequence[str]) -> list[torch.Tensor]:
    """Return mean-pooled states after the embeddings and after every block, [lines hidden]."""
    outputs: list[Any] = [None] * (len(model.model.layers) + 1)
    parts = []

    def keep(at: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            outputs[at] = output[0] if isinstance(output, tuple) else output

        return hook

    blocks = [model.model.embed_tokens, *model.model.layers]
    handles = [block.register_forward_hook(keep(at)) for at, block in enumerate(blocks)]
    for start in range(0, len(lines), 64):
        batch = tokenizer(list(lines[start : start + 64]), return_tensors="pt", padding=True)
        batch = batch.to(model.device)
        with torch.no_grad():
            model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        parts.append([mean_pool(states, batch["attention_mask"]).cpu() for states in outputs])
    for handle in handles:
        handle.remove()
    return [torch.cat(block) for block in zip(*parts, strict=True)]


if __name__ == "__main__":
    main()
