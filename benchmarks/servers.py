"""The overhead of decoding on a server over the same engine in this process.

    python benchmarks/servers.py [examples of each language] [rounds]

Requires vLLM and aiohttp; model, adapter and prompts are in the repository. A vLLM server starts on
the loopback address, and an engine in this process. Both answer the same prompts alternately,
through `CachedGenerator.decode` with an initially empty cache file, which is everything in `eval`
between prompts and answers. Prefix caches are off.
"""

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import URLError

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.writing import stage_adapter
from adaptermix.commands.settings_file import load_settings
from adaptermix.generation.cached import CachedGenerator, check_engine
from adaptermix.generation.engine import Limits, Request
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.models.loading import load_tokenizer
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.tasks.massive import Massive, read_massive

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "adaptermix" / "demo_data"
ADAPTER = ROOT / "examples" / "voice" / "task.safetensors"
# Seconds before each turn. vLLM polls for a while after its last answer, and binds the workers of
# both engines to the same core, so the second would be measured beside the polling first.
REST = 10


def main(limit: int, rounds: int) -> None:
    """Measure and print a table."""
    with tempfile.TemporaryDirectory() as scratch, served() as url:
        compare(Path(scratch), {"a server": url}, limit, rounds)


@contextmanager
def served() -> Iterator[str]:
    """Run a server of the demo's model, like `vllm serve`, within the context."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(DEMO / "base"), "--host", "127.0.0.1", "--port", str(port)),
            *("--enable-lora", "--max-loras", "16", "--max-lora-rank", "8", "--enforce-eager"),
            *("--dtype", "float32", "--max-model-len", "256", "--no-enable-prefix-caching"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ
        | {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
        },
    )
    try:
        while not is_up(url):
            if server.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def is_up(url: str) -> bool:
    """Whether a server answers."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except (URLError, ConnectionError, TimeoutError):
        return False


def compare(folder: Path, servers: dict[str, str], limit: int, rounds: int) -> None:
    """Answer the same prompts alternately."""
    flags = {"engine": "vllm", "engine_args": {"enable_prefix_caching": False}}
    here = load_settings(EvalSettings, flags, DEMO / "adaptermix.toml")
    base = Path(here.model)
    encoder = PromptEncoder(load_tokenizer(base, here))
    task = Massive("")
    found = [
        encoder.prompt_ids(task.messages(example))
        for lang in here.langs
        for example in read_massive(lang, "test", here.data_dir)[:limit]
    ]
    prompts = [list(ids) for ids in dict.fromkeys(map(tuple, found))]
    limits = Limits(adapters=1, rank=8, prompt=max(map(len, prompts)))
    given = {"this process": here} | {
        name: load_settings(EvalSettings, {"server": url}, DEMO / "adaptermix.toml")
        for name, url in servers.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in given}
    tokens = 0
    with ExitStack() as stack:
        generators = {}
        for name, settings in given.items():
            # A cache that already knew the warm-up's answers would leave the engine's start to the
            # first round.
            os.environ["ADAPTERMIX_CACHE"] = tempfile.mkdtemp(dir=folder)
            known = check_engine(settings, base, [])
            generator = CachedGenerator(settings, base, encoder, limits, known)
            staged = stage_adapter(read_adapter(ADAPTER), stack.enter_context(generator.staging()))
            generator.decode([Request(ids, staged) for ids in prompts[:64]])  # warm-up
            generators[name] = generator, staged, known
        for number in range(rounds):
            turns = list(generators)[:: 1 if number % 2 else -1]
            for name in turns:
                started_one, staged, known = generators[name]
                os.environ["ADAPTERMIX_CACHE"] = tempfile.mkdtemp(dir=folder)
                fresh = CachedGenerator(given[name], base, encoder, limits, known)
                fresh._generator = started_one._generator
                time.sleep(REST)
                started = time.perf_counter()
                answers = fresh.decode([Request(ids, staged) for ids in prompts])
                seconds[name].append(time.perf_counter() - started)
                tokens = sum(answer.tokens for answer in answers)
    print(f"\n{len(prompts):,} prompts, {tokens:,} tokens, one adapter, {rounds} rounds\n")
    print("| vLLM in | median s | lowest | highest | tokens/s |")
    print("|---|---|---|---|---|")
    for name, times in seconds.items():
        middle = statistics.median(times)
        speed = f"{tokens / middle:,.0f}"
        print(f"| {name} | {middle:.2f} | {min(times):.2f} | {max(times):.2f} | {speed} |")
    for name in servers:
        pairs = zip(seconds["this process"], seconds[name], strict=True)
        ratios = sorted(there / process for process, there in pairs)
        print(
            f"\n{name}: median of the rounds' ratios {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    main(*(int(text) for text in (*sys.argv[1:], "60", "5")[:2]))
