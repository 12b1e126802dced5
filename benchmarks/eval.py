"""The overhead of `eval` over bare vLLM, and the gain of one run with three adapters over three.

    python benchmarks/eval.py [examples of each language] [rounds]

Requires vLLM; model, adapter and prompts are in the repository. In one engine, `LLM.generate` and
`CachedGenerator.decode` answer the same prompts alternately. The latter is everything in `eval`
between prompts and answers: queue, progress, and an initially empty cache file. Then
`adaptermix eval` runs as for a user, for three adapters at once and one by one.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from vllm import SamplingParams, TokensPrompt

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.writing import stage_adapter
from adaptermix.commands.settings_file import load_settings
from adaptermix.generation.cached import CachedGenerator
from adaptermix.generation.engine import Limits, Request
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.generation.vllm_engine import _lora_request
from adaptermix.merging.merge import merge
from adaptermix.models.loading import load_tokenizer
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.merging import MergeSettings
from adaptermix.tasks.massive import Massive, read_massive

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "adaptermix" / "demo_data"
ADAPTER = ROOT / "examples" / "voice" / "task.safetensors"


def main(limit: int, rounds: int) -> None:
    """Measure both and print a table of each."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["ADAPTERMIX_CACHE"] = str(folder / "cache")
        compare_with_bare_engine(folder, limit, rounds)
        compare_with_single_runs(folder, limit)


def compare_with_bare_engine(folder: Path, limit: int, rounds: int) -> None:
    """Answer the same prompts alternately; the prefix cache is emptied before each run."""
    settings = eval_settings()
    base = Path(settings.model)
    encoder = PromptEncoder(load_tokenizer(base, settings))
    task = Massive("")
    found = [
        encoder.prompt_ids(task.messages(example))
        for lang in settings.langs
        for example in read_massive(lang, "test", settings.data_dir)[:limit]
    ]
    prompts = [list(ids) for ids in dict.fromkeys(map(tuple, found))]  # duplicates are decoded once
    adapter = stage_adapter(read_adapter(ADAPTER), folder / "staged")
    requests = [Request(ids, adapter) for ids in prompts]
    limits = Limits(adapters=1, rank=8, prompt=max(map(len, prompts)))
    generator = CachedGenerator(settings, base, encoder, limits)
    generator.decode(requests[:64])  # engine start and warm-up
    llm = generator._generator.copies.llm
    sampling = SamplingParams(
        temperature=0.0, max_tokens=settings.max_new_tokens, stop_token_ids=generator.stop_ids
    )

    def bare() -> int:
        outputs = llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in prompts],
            sampling,
            lora_request=_lora_request(adapter),
            use_tqdm=False,
        )
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def ours() -> int:
        os.environ["ADAPTERMIX_CACHE"] = tempfile.mkdtemp(dir=folder)
        fresh = CachedGenerator(settings, base, encoder, limits)
        fresh._generator = generator._generator
        return sum(answer.tokens for answer in fresh.decode(requests))

    seconds: dict[str, list[float]] = {"LLM.generate": [], "adaptermix": []}
    for number in range(rounds):
        turns: list[tuple[str, Callable[[], int]]] = [("LLM.generate", bare), ("adaptermix", ours)]
        for name, run in turns[:: 1 if number % 2 else -1]:
            llm.reset_prefix_cache()
            started = time.perf_counter()
            tokens = run()
            seconds[name].append(time.perf_counter() - started)
    print(f"\n{len(prompts):,} prompts, {tokens:,} tokens, one adapter, {rounds} rounds\n")
    print("| | median s | lowest | highest | tokens/s |")
    print("|---|---|---|---|---|")
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(
            f"| {name} | {middle:.2f} | {min(times):.2f} | {max(times):.2f} "
            f"| {tokens / middle:,.0f} |"
        )
    ratio = statistics.median(seconds["adaptermix"]) / statistics.median(seconds["LLM.generate"])
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(f"\nratio of medians: {ratio:.3f}; median of the rounds' ratios ", end="")
    print(f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def compare_with_single_runs(folder: Path, limit: int) -> None:
    """Time the command for three adapters at once, then for each of them."""
    adapters = [str(ADAPTER)]
    for share in (0.9, 0.8):
        out = folder / f"task-{share}.safetensors"
        merge([ADAPTER, ADAPTER], MergeSettings(weights=(share, 0), out=out))
        adapters.append(str(out))
    together = run_eval(folder / "together", adapters, limit)
    apart = [run_eval(folder / f"apart-{n}", [path], limit) for n, path in enumerate(adapters)]
    print("\n| `adaptermix eval --exclude-base`, engine start included | wall s |")
    print("|---|---|")
    print(f"| three adapters, one run | {together:.1f} |")
    print(f"| three adapters, three runs | {sum(apart):.1f} |")
    print(f"\nratio: {sum(apart) / together:.2f}")


def run_eval(out: Path, adapters: list[str], limit: int) -> float:
    """Return the wall time of the command in seconds."""
    flags = [flag for path in adapters for flag in ("--adapter", path)]
    started = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-m", "adaptermix", "eval", "--config", DEMO / "adaptermix.toml"),
            *("--engine", "vllm", "--no-cache", "--exclude-base", "--json", "--limit", str(limit)),
            *("--out", out, *flags),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def eval_settings() -> EvalSettings:
    """Return the demo's settings, with vLLM."""
    return load_settings(EvalSettings, {"engine": "vllm"}, DEMO / "adaptermix.toml")


if __name__ == "__main__":
    main(*(int(text) for text in (*sys.argv[1:], "120", "7")[:2]))
