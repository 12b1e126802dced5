"""Alignment steps of adaptermix, of stock transformers with PEFT, and of the paper's released code.

    python benchmarks/align.py [PAIRS.tsv.gz ...] [--authors CHECKOUT --authors-python PYTHON]
    python benchmarks/align.py --shape llama-3-8b --dtype bfloat16     # on a GPU

Each method runs in a separate process. It creates a random model of the same shape and runs forward
and backward passes on the same batches. The methods alternate for several rounds; the table shows
medians. MB is the peak memory of the process above its imports, or on a GPU, of the device. Token
ids come from a BPE trained on the pairs; without pairs, sentences have 4 to 20 random ids.

The paper's code is a fork of transformers (README.md says how to set it up). Without it, a
reenactment on current transformers is measured: separately padded sides, K blocks each, and the LM
head on the sources.
"""

import argparse
import gzip
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

SHAPES = {  # hidden size, intermediate size, blocks, heads, key-value heads, vocabulary
    "tiny": (64, 172, 4, 4, 4, 1000),
    "16x512": (512, 1376, 16, 8, 8, 32000),
    "llama-3-8b": (4096, 14336, 32, 32, 8, 128256),
}
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TEMPERATURE = 0.1
WARM_UP = 2


def main() -> None:
    """Measure all methods and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="*", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="16x512")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--authors", type=Path)
    parser.add_argument("--authors-python", default=sys.executable)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--worker")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.folder = Path(folder)
        prepare(arguments)
        measured: dict[str, list[Any]] = {}
        for _ in range(arguments.rounds):
            for method in arguments.only or methods(arguments.authors):
                measured.setdefault(method, []).append(in_own_process(method, arguments))
                print(method, measured[method][-1], file=sys.stderr, flush=True)
    report(measured, arguments)


def methods(authors: Path | None) -> list[str]:
    """Return the methods to compare, including ours with more pairs and with longer sentences."""
    theirs = ["authors", "authors-checkpointing"] if authors else ["authors-reenacted"]
    growth = [f"ours-pairs-{times}x" for times in (4, 16, 64)]
    growth += ["ours-length-2x", "ours-length-4x"]
    return ["stock", *theirs, "ours", "ours-padded", *growth]


def prepare(arguments: argparse.Namespace) -> None:
    """Save the config and the token ids for the workers."""
    rng = random.Random(0)
    hidden, inner, blocks, heads, shared, vocabulary = SHAPES[arguments.shape]
    needed = arguments.batch * (arguments.steps + WARM_UP)
    if arguments.pairs:
        rows = sentence_ids(arguments.pairs, needed, vocabulary, rng)
    else:
        rows = [
            [[rng.randrange(3, vocabulary) for _ in range(rng.randint(4, 20))] for _ in range(2)]
            for _ in range(needed)
        ]
    config = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "vocab_size": vocabulary,
    }
    job = {"config": config, "rows": rows}
    (arguments.folder / "job.json").write_text(json.dumps(job), encoding="utf-8")


def sentence_ids(paths: list[Path], needed: int, vocabulary: int, rng: random.Random) -> Any:
    """Tokenize parallel text with a BPE trained on it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    lines = []
    for path in paths:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines += [line.split("\t")[:2] for line in text.decode().splitlines()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<pad>", "<bos>"], show_progress=False
    )
    tokenizer.train_from_iterator((text for line in lines for text in line), trainer)
    chosen = rng.choices(lines, k=needed)
    return [[[1, *tokenizer.encode(text).ids] for text in line] for line in chosen]


def in_own_process(method: str, arguments: argparse.Namespace) -> Any:
    """Run one method in a new process and return its measurements."""
    python, environment = sys.executable, dict(os.environ)
    if method in ("authors", "authors-checkpointing"):
        python = arguments.authors_python
        environment["PYTHONPATH"] = str(arguments.authors / "src")
    command = [python, __file__, "--worker", method, "--folder", str(arguments.folder)]
    for name in ("shape", "dtype", "batch", "steps"):
        command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{method}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def work(arguments: argparse.Namespace) -> dict[str, float]:
    """Load one method's model and time its steps."""
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401

    if arguments.worker.startswith("ours"):
        from adaptermix.models import loading as models  # noqa: F401
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    imports = memory(device)
    job = json.loads((arguments.folder / "job.json").read_text(encoding="utf-8"))
    step = METHODS[arguments.worker.split("-")[0]](arguments, job["config"], device)
    batches = make_batches(job["rows"], arguments, device)
    seconds, losses = [], []
    for batch in batches:
        started = time.perf_counter()
        losses.append(float(step(batch)))
        seconds.append(time.perf_counter() - started)
    timed = batches[WARM_UP:]
    return {
        "seconds": statistics.median(seconds[-len(timed) :]),
        "tokens": statistics.mean(int(batch["attention_mask"].sum()) for batch in timed),
        "pairs": len(batches[0]["input_ids"]) / 2,
        "MB": (memory(device) - imports) / 2**20,
        "loss": losses[0],
        "matmul": matmul_speed(device, arguments.dtype),
    }


def memory(device: str) -> int:
    """Return the peak memory so far, in bytes."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matmul_speed(device: str, dtype: str) -> float:
    """Return the speed of the fastest of ten square matrix products, in FLOP/s."""
    import torch

    size = 8192 if device == "cuda" else 2048
    square = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        float((square @ square)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def make_batches(rows: Any, arguments: argparse.Namespace, device: str) -> list[Any]:
    """Return padded batches, sources first; growth methods get more pairs or longer sentences."""
    import torch

    word, _, times = arguments.worker.removeprefix("ours-").partition("-")
    factor = int(times[:-1]) if times.endswith("x") else 1
    if word == "length":
        rows = [[side * factor for side in row] for row in rows]
    size = arguments.batch * (factor if word == "pairs" else 1)
    batches = []
    rows = (rows * factor)[: 3 * size] if word == "pairs" else rows
    for start in range(0, len(rows) - size + 1, size):
        sides = zip(*rows[start : start + size], strict=True)
        flat = [torch.tensor(ids) for side in sides for ids in side]
        ids = torch.nn.utils.rnn.pad_sequence(flat, batch_first=True)
        real = torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in flat], True)
        batches.append({"input_ids": ids.to(device), "attention_mask": real.to(device)})
    return batches


def load(kind: Any, config: Any, arguments: argparse.Namespace, device: str, **more: Any) -> Any:
    """Return a model with random weights on the device, in the chosen dtype.

    Every weight's seed is its name, so the models of all methods are identical.
    """
    import torch

    torch.set_default_dtype(getattr(torch, arguments.dtype))
    with torch.device(device):
        model = kind._from_config(config, **more)
    torch.set_default_dtype(torch.float32)
    generator = torch.Generator(device)
    for name, weight in model.named_parameters():
        generator.manual_seed(zlib.crc32(name.removeprefix("model.").encode()))
        if weight.dim() > 1:
            with torch.no_grad():
                weight.normal_(std=config.initializer_range, generator=generator)
    return model


def lora() -> Any:
    """Return the paper's LoRA config."""
    from peft import LoraConfig

    return LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=MODULES)


def sides_of(batch: Any) -> Any:
    """Yield ids and mask of the sources, then of the targets, each padded to its own maximum."""
    for ids, mask in zip(
        batch["input_ids"].chunk(2), batch["attention_mask"].chunk(2), strict=True
    ):
        longest = int(mask.sum(1).max())
        yield ids[:, :longest], mask[:, :longest]


def ranking_loss(sides: list[Any]) -> Any:
    """Return sentence-transformers' MultipleNegativesRankingLoss, from its formula."""
    import torch
    from torch.nn import functional

    sources, targets = (functional.normalize(side.float(), dim=-1) for side in sides)
    scores = sources @ targets.T / TEMPERATURE
    return functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def stock(arguments: argparse.Namespace, shape: Any, device: str) -> Any:
    """Return a step of stock code: full forward pass, all hidden states, separate sides."""
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**shape)
    model = get_peft_model(load(LlamaForCausalLM, config, arguments, device), lora()).train()
    layer = config.num_hidden_layers // 2

    def step(batch: Any) -> Any:
        model.zero_grad()
        pooled = []
        for ids, mask in sides_of(batch):
            output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            states = output.hidden_states[layer]
            pooled.append((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        loss = ranking_loss(pooled)
        loss.backward()
        return loss.detach()

    return step


def authors(arguments: argparse.Namespace, shape: Any, device: str) -> Any:
    """Return a step of the released code on a contrastive micro-batch."""
    if arguments.worker == "authors-reenacted":
        return reenacted(arguments, shape, device)
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**shape, use_cache=False)
    chosen = {
        "additional_loss_layer": config.num_hidden_layers // 2,
        "contrastive_loss_temperature": TEMPERATURE,
        "distance_function": "cosine",
        "contrastive_loss_weight": 1.0,
        "only_train_contrastive": True,
        "only_train_language_modeling": False,
        "unidirectional_contrastive_loss": False,
        "contrastive_pooling_type": "mean",
        "inject_Ws": False,
        "apply_inverse": False,
    }
    for name, value in chosen.items():
        setattr(config, name, value)
    base = load(LlamaForCausalLM, config, arguments, device, attn_implementation="sdpa")
    model = get_peft_model(base, lora()).train()
    if arguments.worker == "authors-checkpointing":
        model.enable_input_require_grads()
        base.gradient_checkpointing_enable({"use_reentrant": False})

    def step(batch: Any) -> Any:
        model.zero_grad()
        given = {}
        for side, (ids, mask) in enumerate(sides_of(batch)):
            given |= {f"input_ids_parallel_{side}": ids, f"attention_mask_parallel_{side}": mask}
        # the code requires a task input, but does not run it
        ids, mask = given["input_ids_parallel_0"], given["attention_mask_parallel_0"]
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, **given)
        output["loss"].backward()
        return output["loss"].detach()

    return step


def reenacted(arguments: argparse.Namespace, shape: Any, device: str) -> Any:
    """Return a step like the released code's: K blocks per side, unused LM head on the sources."""
    import torch
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**shape)
    base = load(LlamaForCausalLM, config, arguments, device)
    base.model.layers = base.model.layers[: config.num_hidden_layers // 2]
    base.model.norm = torch.nn.Identity()
    model = get_peft_model(base, lora()).train()

    def step(batch: Any) -> Any:
        model.zero_grad()
        states, pooled = [], []
        for ids, mask in sides_of(batch):
            output = base.model(input_ids=ids, attention_mask=mask, use_cache=False)
            states.append(output.last_hidden_state)
            pooled.append((states[-1] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        logits = base.lm_head(states[0]).float()
        loss = ranking_loss(pooled)
        loss.backward()
        del logits
        return loss.detach()

    return step


def ours(arguments: argparse.Namespace, shape: Any, device: str) -> Any:
    """Return a step of train-align on the lower blocks."""
    import torch
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaModel

    from adaptermix.training.contrastive import ContrastiveStep, Loss, Sentences
    from adaptermix.training.objectives import contrastive_loss

    config = LlamaConfig(**{**shape, "num_hidden_layers": shape["num_hidden_layers"] // 2})
    base = load(LlamaModel, config, arguments, device)
    base.norm = torch.nn.Identity()
    model = get_peft_model(base, lora()).train()
    packing = arguments.worker != "ours-padded"
    runner = ContrastiveStep(model, 2 * arguments.batch, packing)

    def step(batch: Any) -> Any:
        model.zero_grad()
        keys = batch["input_ids"][: len(batch["input_ids"]) // 2, 0]  # one per pair; not compared
        return runner.backpropagate(
            model,
            Sentences.of({**batch, "source_keys": keys}, seed=1),
            Loss(lambda sources, targets: contrastive_loss(sources, targets, TEMPERATURE)),
            torch.Tensor.backward,
        )

    return step


METHODS = {"stock": stock, "authors": authors, "ours": ours}


def report(measured: dict[str, list[Any]], arguments: argparse.Namespace) -> None:
    """Print one row per method, with medians over the rounds."""
    hidden, inner, blocks, heads, shared, _ = SHAPES[arguments.shape]
    keys = hidden * shared // heads
    weights = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner
    print(
        "| | pairs/s | x stock | tokens/s | ms a step | MB | share of stock | of matmul peak "
        "| first loss |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rows = {
        method: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for method, runs in measured.items()
    }
    first = next(iter(rows.values()))
    for method, row in rows.items():
        speed = row["pairs"] / row["seconds"]
        needed = 4 * weights * (blocks // 2) * row["tokens"]  # forward, and input gradients
        print(
            f"| {method} | {speed:.1f} | {speed / (first['pairs'] / first['seconds']):.2f} "
            f"| {row['tokens'] / row['seconds']:.0f} | {1000 * row['seconds']:.0f} "
            f"| {row['MB']:.0f} | {row['MB'] / first['MB']:.2f} "
            f"| {needed / row['seconds'] / row['matmul']:.0%} "
            f"| {row['loss']:.6f} |"
        )
    print(f"\nmatmul: {first['matmul'] / 1e9:.0f} GFLOP/s in {arguments.dtype}")


if __name__ == "__main__":
    main()
