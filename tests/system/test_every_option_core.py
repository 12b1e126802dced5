"""No option is accepted and ignored: two values give two results, on tiny inputs.

Every option of every command but the trainings has an entry below, or a reason for none. A new
option without an entry makes ``test_every_option_has_an_entry`` fail.
"""

import json
import shlex
import shutil
from dataclasses import dataclass

import pytest
import torch
from helpers.adapters import peft_adapter
from helpers.corpus import write_corpus
from helpers.models import save_model, save_other_tokenizer
from helpers.options import options_of
from helpers.records import write_evaluation
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from adaptermix.adapters.adapter import read_adapter
from adaptermix.cli.main import program
from adaptermix.commands.catalog import COMMANDS
from adaptermix.generation.engine import Generated, Limits
from adaptermix.generation.transformers_engine import TransformersGenerator
from adaptermix.generation.vllm_engine import _vllm_options
from adaptermix.settings.evaluation import EvalSettings

CORE = {name: command for name, command in COMMANDS.items() if not name.startswith("train-")}


@dataclass(frozen=True)
class Two:
    """Two lines of arguments that differ in one option, and what shows the difference.

    Attributes:
        one: Arguments with the first value.
        other: The same with the second value.
        seen: ``result``: numbers, answers or tensors; else a key of the report, or ``asked``: what
            the engine was asked; ``batches``: the sizes of its batches; ``threads``: torch's;
            ``view``: what a person reads; ``page``: the page; ``exit``: whether it is refused.
        engine: Whether the real engine answers, not one that is right now and then.
    """

    one: str
    other: str
    seen: str = "result"
    engine: bool = False


VLLM = "an argument of vLLM: test_arguments_of_vllm_are_those_asked_for"
COMET = "COMET runs in an environment of its own: tests/tasks/metrics/test_comet.py"
HUB = "needs the hub: tests/files/test_hub.py"
OUT = "where it is written; every call here has another one"
ON_VLLM = dict.fromkeys(
    (
        *("engine", "tensor_parallel_size", "data_parallel_size", "gpu_memory_utilization"),
        *("max_lora_rank", "engine_args"),
    ),
    VLLM,
)
SERVERS = dict.fromkeys(
    (
        "server",
        *(f"server_{name}" for name in ("model", "folder", "label", "requests", "timeout")),
    ),
    "needs a server: tests/generation/test_server_engine.py",
)
WMT = "--task wmt23 --langs en-de --data data/wmt"
TEXT = "--task wmt23 --langs en-de"
DECODING = {
    **ON_VLLM,
    **SERVERS,
    "scorer": Two("--scorer strict", "--scorer paper"),
    "match": Two(*(f"--task uner --langs da --data uner --match {m}" for m in ("text", "offsets"))),
    "metrics": Two(f"{WMT} --metrics bleu", f"{WMT} --metrics chrf"),
    "tokenize": Two(
        f"{WMT} --metrics bleu --tokenize 13a", f"{WMT} --metrics bleu --tokenize char"
    ),
    "comet_model": COMET,
    "comet_python": COMET,
    "model": Two("--model base", "--model other", engine=True),
    "revision": HUB,
    "tokenizer": Two("--model base", "--model base --tokenizer reader", "asked"),
    "chat_template": Two("--model base", "--model base --chat-template t.jinja", "asked"),
    "dtype": Two(
        "--dtype float32 --max-new-tokens 40", "--dtype bfloat16 --max-new-tokens 40", engine=True
    ),
    "trust_remote_code": "code of models is not run here: tests/models/test_loading.py",
    "data_dir": Two("--data data", "--data data2", "asked"),
    "threads": Two("--threads 1", "--threads 2", "threads", engine=True),
    "task": Two("--task massive", "--task own.toml", "asked"),
    "prompt": Two("--prompt paper", "--prompt zero-shot", "asked"),
    "system_prompt": Two("--system-prompt one", "--system-prompt two", "asked"),
    "turn_newline": Two("--model eot --no-turn-newline", "--model eot --turn-newline", "asked"),
    "max_new_tokens": Two("--max-new-tokens 3", "--max-new-tokens 9", engine=True),
    "batch_size": Two("--batch-size 2", "--batch-size 4", "batches", engine=True),
    "cache": Two("--cache", "--no-cache", "reused"),
    "langs": Two("--langs en", "--langs en,sw", "asked"),
    "limit": Two("--limit 3", "--limit 4", "asked"),
    "lm_eval_path": "needs lm-eval: tests/system/test_lm_eval.py and test_lm_eval_search.py",
}
SRC = f"{TEXT} --data data/wmt --ref data/wmt/en-de.ref --metrics chrf --src data/wmt/en-de"
REF = f"{TEXT} --data data/wmt --src data/wmt/en-de.src --metrics chrf --ref data/wmt/en-de"
AUTO = "--search auto --trials 3 --limit 2 --layer-groups 2"
LEARN = "--search learn --learn-steps 4"
SAME = "answers of a random model all score 0: eval tries the same engine"
MERGE = {
    "source_rank": Two(
        "one.safetensors --weights 1 --source-rank 4 --source-alpha 8",
        "one.safetensors --weights 1 --source-rank 5 --source-alpha 8",
        "exit",
    ),
    "source_alpha": Two(
        "one.safetensors --weights 1 --source-rank 4 --source-alpha 8",
        "one.safetensors --weights 1 --source-rank 4 --source-alpha 9",
    ),
    "weight": Two("one two --weight 0.3", "one two --weight 0.4"),
    "weights": Two("one two --weights 1,0.3", "one two --weights 1,0.4"),
    "weights_file": Two("one two --weights-file w.toml", "one two --weights-file v.toml"),
    "method": Two("one two --weight 0.5 --method ties", "one two --weight 0.5 --method knots"),
    "rank": Two("one two --weight 0.5 --rank 2", "one two --weight 0.5 --rank 3"),
    "inactive": Two(
        "one part --weight 0.5 --inactive average", "one part --weight 0.5 --inactive keep"
    ),
    "density": Two(
        "one two --weight 0.5 --method ties --density 0.2",
        "one two --weight 0.5 --method ties --density 0.8",
    ),
    "epsilon": Two(
        "one two --weight 0.5 --method della --epsilon 0.05",
        "one two --weight 0.5 --method della --epsilon 0.8",
    ),
    "isotropic": Two("one two --weight 0.5 --isotropic", "one two --weight 0.5 --no-isotropic"),
    "compact": Two("one part --weight 0.5 --compact", "one part --weight 0.5 --no-compact"),
    "seed": Two(
        "one two --weight 0.5 --method dare --seed 1",
        "one two --weight 0.5 --method dare --seed 2",
    ),
    "out_dtype": Two(
        "one two --weight 0.5 --out-dtype float16", "one two --weight 0.5 --out-dtype float32"
    ),
    "ignore_base": Two(
        "one foreign --weight 0.5 --ignore-base", "one foreign --weight 0.5", "exit"
    ),
    "into": Two("one two --weight 0.5 --into base", "one two --weight 0.5 --into base16"),
    "search": Two("one two --search 0.5,0.7", "one two --search 0.5,0.8"),
    "out": OUT,
    "exhaustive": Two("one two --exhaustive", "one two --no-exhaustive", "asked"),
    "per_language": Two("one two --no-per-language", "one two --per-language"),
    "prefer": Two("one two --prefer simpler", "one two --prefer best", "winner"),
    "layer_groups": Two(f"one two {AUTO}", f"one two {AUTO} --layer-groups 4"),
    "trials": Two(f"one two {AUTO}", f"one two {AUTO} --trials 4", "asked"),
    "sampler": Two(f"one two {AUTO} --sampler tpe", f"one two {AUTO} --sampler cma"),
    "learn_per": Two(f"one two {LEARN} --learn-per layer", f"one two {LEARN} --learn-per module"),
    "learn_steps": Two(f"one two {LEARN}", f"one two {LEARN} --learn-steps 7"),
    "learn_lr": Two(f"one two {LEARN} --learn-lr 0.01", f"one two {LEARN} --learn-lr 0.1"),
    "learn_penalty": Two(
        f"one two {LEARN} --learn-penalty 0", f"one two {LEARN} --learn-penalty 1e4"
    ),
    **{
        name: Two(f"one two {case.one}", f"one two {case.other}", case.seen, case.engine)
        if isinstance(case, Two)
        else case
        for name, case in DECODING.items()
    },
    **dict.fromkeys(("model", "dtype", "threads", "max_new_tokens", "batch_size"), SAME),
    "src": "dev data of a search is a folder's; eval tries them",
    "ref": "dev data of a search is a folder's; eval tries them",
}
EVAL = {
    **DECODING,
    "src": Two(f"{SRC}.src", f"{SRC}.src2", "asked"),
    "ref": Two(f"{REF}.ref", f"{REF}.ref2"),
    "adapters": Two("--adapter one", "--adapter two", engine=True),
    "split": Two("--split test", "--split dev", "asked"),
    "exclude_base": Two("--adapter one", "--adapter one --exclude-base"),
    "baseline": Two(
        "--adapter one --adapter two --baseline one", "--adapter one --adapter two --baseline two"
    ),
    "test": Two("--adapter one --test bootstrap", "--adapter one --test ar"),
    "groups": Two("--groups a=en", "--groups a=cy"),
    "out": OUT,
}
MASSIVE = "--gold data/massive/en-US.jsonl --predictions answers --lang en"
TRANSLATION = "--task wmt23 --target-lang de --predictions out.de --ref data/wmt/en-de.ref"
FAKE = f"{TRANSLATION} --src data/wmt/en-de.src --metrics comet --comet-model metric.ckpt"
SCORE = {
    "scorer": Two(f"{MASSIVE} --scorer strict", f"{MASSIVE} --scorer paper"),
    "match": Two(
        *(
            f"--task uner --lang da --gold uner/da.test.iob2 --predictions entities --match {m}"
            for m in ("text", "offsets")
        )
    ),
    "metrics": Two(f"{TRANSLATION} --metrics bleu", f"{TRANSLATION} --metrics chrf"),
    "tokenize": Two(f"{TRANSLATION} --tokenize 13a", f"{TRANSLATION} --tokenize char"),
    "src": COMET,
    "comet_model": COMET,
    "comet_python": COMET,
    "ref": Two(
        TRANSLATION, "--task wmt23 --target-lang de --predictions out.de --ref data/wmt/en-de.ref2"
    ),
    "task": Two(MASSIVE, f"{MASSIVE} --task uner", "exit"),
    "predictions": Two(MASSIVE, f"{MASSIVE} --predictions answers2"),
    "gold": Two(MASSIVE, f"{MASSIVE} --gold data2/massive/en-US.jsonl"),
    "lang": Two(MASSIVE, f"{MASSIVE} --lang cy", "exit"),
    "split": Two(*(f"{MASSIVE} --predictions answers2 --split {s}" for s in ("test", "dev"))),
    "target_lang": Two(
        f"{TRANSLATION} --metrics bleu", f"{TRANSLATION} --metrics bleu --target-lang zh", "metrics"
    ),
}
INSPECT = {
    "by": Two("one two --by layer", "one two --by kind", "view"),
    "source_rank": Two(
        "one.safetensors --source-rank 4 --source-alpha 8",
        "one.safetensors --source-rank 5 --source-alpha 8",
        "exit",
    ),
    "source_alpha": Two(
        "one.safetensors --source-rank 4 --source-alpha 8",
        "one.safetensors --source-rank 4 --source-alpha 9",
    ),
}
EXPORT = {
    **{
        name: Two(f"{case.one} --model base", f"{case.other} --model base", case.seen)
        for name, case in INSPECT.items()
        if name.startswith("source")
    },
    "to": "each is read back: tests/export/test_gguf.py and test_mlx.py",
    "model": Two("one --model base", "one --model other --ignore-base"),
    "ignore_base": "a folder is only noted: tests/export/test_export.py",
    "out_dtype": Two("one --out-dtype float32", "one --out-dtype bfloat16"),
    "out": OUT,
}
RETRIEVAL = {
    "model": Two("--model base", "--model other"),
    "revision": HUB,
    "tokenizer": Two("--model base", "--model base --tokenizer reader"),
    "dtype": Two("--dtype float32", "--dtype bfloat16"),
    "trust_remote_code": "code of models is not run here: tests/models/test_loading.py",
    "data_dir": Two("--data text", "--data text2"),
    "threads": Two("--no-cache --threads 1", "--no-cache --threads 2", "threads"),
    "adapters": Two("--adapter one", "--adapter two"),
    "exclude_base": Two("--adapter one", "--adapter one --exclude-base"),
    "langs": Two("--langs en,cy", "--langs en,sw"),
    "split": Two("--split dev", "--split devtest"),
    "pivot": Two("--pivot en", "--pivot cy"),
    "layers": Two("--layers 0-2", "--layers 1-3"),
    "limit": Two("--limit 5", "--limit 9"),
    "groups": Two("--groups a=en,cy", "--groups a=cy,sw"),
    "scores": "nothing is correlated below eight languages: tests/retrieval/test_analysis.py",
    "pooling": Two("--pooling mean", "--pooling weighted"),
    "pool_skip": Two("--pool-skip 0", "--pool-skip 2"),
    "neighbors": Two("--neighbors 1", "--neighbors 4"),
    "batch_size": "representations do not depend on it, up to rounding",
    "cache": Two("--cache", "--no-cache", "reused"),
    "out": OUT,
}
REPORT = {
    "title": Two("run --title one", "run --title other", "page"),
    "examples": Two("run --examples", "run --no-examples", "page"),
    "published": Two("run --published paper.toml", "run --published paper2.toml", "page"),
    "export": Two("run", "run --export figures", "export"),
    "out": OUT,
}
ENTRIES = {
    "merge": MERGE,
    "eval": EVAL,
    "score": SCORE,
    "inspect": INSPECT,
    "export": EXPORT,
    "retrieval": RETRIEVAL,
    "report": REPORT,
}
BASE = "--model base --data data --langs en,cy --limit 8 --engine transformers --no-cache "
BASE += "--max-new-tokens 8 --batch-size 3 --system-prompt ask"
LINES = {
    "eval": BASE,
    "retrieval": "--model base --data text --langs en,cy,sw",
    "export": "--to mlx",
}
SEARCHING = {
    *DECODING,
    "exhaustive",
    "per_language",
    "prefer",
    "search",
    "layer_groups",
    "trials",
    "sampler",
}
SEARCHING |= {name for name in MERGE if name.startswith("learn")}
CASES = [
    (name, option, case)
    for name, entries in ENTRIES.items()
    for option, case in entries.items()
    if isinstance(case, Two)
]


def test_every_option_has_an_entry():
    every = {"config", "force", "json", "dry_run", "quiet", "verbose", "push_to_hub", "private"}
    for name in CORE:
        assert ENTRIES[name].keys() == options_of(name) - every, name


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, model_dir):
    """A folder with small inputs of every kind."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(model_dir, folder / "base")
    save_model(folder / "base16", dtype=torch.bfloat16)
    for name, change in (("other", 1.1), ("eot", 1.0)):
        model = shutil.copytree(model_dir, folder / name)
        tensors = load_file(model / "model.safetensors")
        tensors = {key: t * change for key, t in tensors.items()}
        save_file(tensors, model / "model.safetensors", {"format": "pt"})
    template = folder / "eot" / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|end|>", "<|eot_id|>"))
    save_other_tokenizer(folder / "reader")
    (folder / "t.jinja").write_text(template.read_text().replace("<|user|>", "<|user|>Q: "))
    for seed, name in enumerate(("one", "two")):
        peft_adapter(model_dir, folder / name, seed=seed)
    peft_adapter(model_dir, folder / "part", seed=5, layers_to_transform=[0, 1], r=2)
    peft_adapter(model_dir, folder / "foreign", seed=6)
    config = json.loads((folder / "foreign" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "somebody/else"
    (folder / "foreign" / "adapter_config.json").write_text(json.dumps(config))
    shutil.copy(folder / "one" / "adapter_model.safetensors", folder / "one.safetensors")
    write_data(folder)
    return folder


def write_data(folder):
    write_corpus(folder / "data")
    write_corpus(folder / "data2")
    for path in (folder / "data2").rglob("*.jsonl"):
        path.write_text(path.read_text().replace("lamp", "light").replace("red", "dark red"))
    shutil.copy(folder / "data2" / "massive" / "en-US.jsonl", folder / "en.own.jsonl")
    (folder / "own.toml").write_text(
        'name = "own"\nmetrics = ["exact-match"]\nprompt = "Q {utt}"\nanswer = "locale"\n'
        '[files]\ntest = "../{lang}.own.jsonl"\ndev = "../{lang}.own.jsonl"\n'
    )
    shutil.copy(folder / "en.own.jsonl", folder / "cy.own.jsonl")
    wmt, uner = folder / "data" / "wmt", folder / "uner"
    wmt.mkdir()
    uner.mkdir()
    lines = [f"the house number {n} is red" for n in range(12)]
    for name, word in (("src", "house"), ("src2", "home"), ("ref", "house"), ("ref2", "cat")):
        text = "".join(line.replace("house", word) + "\n" for line in lines)
        (wmt / f"en-de.{name}").write_text(text)
    rows = [json.dumps({"translation": {"en": line, "de": line}}) + "\n" for line in lines]
    (wmt / "de-en.valid.json").write_text("".join(rows))
    (folder / "out.de").write_text("".join(line.replace("red", "read") + "\n" for line in lines))
    for split in ("test", "dev"):
        rows = "".join(
            f"# text = {n} I Rom\n1\t{n}\tO\n2\tI\tO\n3\tRom\tB-LOC\n\n" for n in range(8)
        )
        (uner / f"da.{split}.iob2").write_text(rows)
    entity = '"Results": [{"TypeName": "LOC", "Text": "Rom", "Start": 0, "End": 3}]'
    (folder / "entities").write_text(f"{entity}\n" * 8)
    (folder / "answers").write_text("color_type: red; house_place: zzz\n" * 10)
    (folder / "answers2").write_text("color_type: red; house_place: kitchen\n" * 10)
    (folder / "w.toml").write_text("weights = [1, 0.5]\n")
    (folder / "v.toml").write_text('weights = [1, 0.5]\n[[rule]]\nlayers = "1"\nweights = [1, 0]\n')
    for name, step in (("text", 1), ("text2", 2)):
        (folder / name).mkdir()
        for at, (lang, word) in enumerate(
            (("eng_Latn", "hello"), ("cym_Latn", "helo"), ("swh_Latn", "habari"))
        ):
            for ending, offset in (("dev", 0), ("devtest", 50)):
                rows = [
                    f"{word} {(n * step + offset) % 97} {'lamp ' * (n % (3 + at))}"
                    for n in range(12)
                ]
                (folder / name / f"{lang}.{ending}").write_text("\n".join(rows) + "\n")
    examples = {lang: ["one", "two", "three"] for lang in ("en", "cy", "sw")}
    write_evaluation(folder / "run", examples)
    for name, number in (("paper", 50), ("paper2", 60)):
        text = '[t]\nsource = "table 1"\nmetric = "slot_f1"\nover = ["cy"]\n'
        text += f"values.base = [{number}]\n"
        (folder / f"{name}.toml").write_text(text)


ANSWERS = (
    "color_type: red; house_place: zzz",
    "house_place: hall; color_type: blue; date: zzz",
    "None",
    "color_type: red; house_place: kitchen",
)


def weights_sum(adapter):
    """Return a whole number that follows from an adapter's weights alone, not from its name."""
    if adapter is None:
        return 0
    updates = [update for _, update in read_adapter(adapter).updates()]
    return sum(
        int(1e4 * update.scaling * abs(update.b.astype("float64")).sum()) for update in updates
    )


@pytest.fixture
def watched(monkeypatch):
    """What the engine was asked, and the sizes of its batches."""
    seen = {"asked": [], "batches": []}
    decode = TransformersGenerator._decode

    def batch(self, prompts):
        seen["batches"].append(len(prompts))
        return decode(self, prompts)

    class NowAndThen:
        """Is right now and then, as the adapter and the prompt have it."""

        def generate(self, requests, on_answers):
            answers = {}
            for at, request in enumerate(requests):
                name = request.adapter.name if request.adapter else ""
                seen["asked"].append((name, tuple(request.prompt_ids)))
                luck = weights_sum(request.adapter) + sum(request.prompt_ids)
                text = ANSWERS[luck % 4]
                if seen.get("task") == "wmt23":
                    text = ("the house number 1 is read", "a red house is the number 5")[luck % 2]
                if seen.get("task") == "uner":
                    text = '"Results": [{"TypeName": "LOC", "Text": "Rom", "Start": 0, "End": 3}]'
                answers[at] = Generated(text, False, 1)
            on_answers(answers)

    monkeypatch.setattr(TransformersGenerator, "_decode", batch)
    monkeypatch.setattr("adaptermix.plots.plot.Plot.write", lambda *_: None)  # a PNG takes a second
    seen["engine"] = NowAndThen
    return seen


ECHO = {"out", "signature", "notes", "folder", "seconds", "split", "pooling", "pool_skip", "export"}
ECHO |= {"neighbors", "pivot", "written", "task", "decoded", "reused", "extracted", "engine"}
ECHO |= {
    "hash",
    "path",
    "verdict",
    "bytes",
    "sources",
    "method",
    "test",
    "inactive",
    "by",
    "counts",
}


def numbers(value):
    """Return a report without what only repeats the settings."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items() if key not in ECHO}
    return [numbers(item) for item in value] if isinstance(value, list) else value


def written(out):
    """Return the tensors, answers or page that were left at a path."""
    if (out / "config.json").is_file():
        return [
            (n, str(t.dtype), t.float().numpy().tobytes())
            for n, t in load_file(out / "model.safetensors").items()
        ]
    if (out / "predictions").is_dir():
        files = sorted((out / "predictions").rglob("*.jsonl"))
        return [[json.loads(line)["output"] for line in p.read_text().splitlines()] for p in files]
    if (out / "adapter_config.json").is_file():
        merged = read_adapter(out)
        return [
            (m, u.scaling, str(u.a.dtype), u.a.tobytes(), u.b.tobytes())
            for m, u in merged.updates()
        ]
    return None


def outcome(name, line, case, watched, folder):
    """Run a command as a user does, and return what of it is looked at."""
    watched["asked"].clear()
    watched["batches"].clear()
    words = shlex.split(line)
    watched["task"] = words[words.index("--task") + 1] if "--task" in words else "massive"
    out = folder / f"out{len(list(folder.iterdir()))}"
    if "out" in CORE[name].settings.model_fields:
        words += ["-o", str(out.with_suffix(".html") if name == "report" else out)]
    words += [] if case.seen == "view" else ["--json"]
    done = CliRunner().invoke(program(), [name, *words])
    if case.seen == "exit":
        return done.exit_code, str(done.exception)
    assert done.exit_code == 0, (line, done.stderr, done.exception)
    if case.seen == "view":
        return done.stdout
    report = json.loads(done.stdout)
    if case.seen == "page":
        return out.with_suffix(".html").read_text()
    if case.seen == "threads":
        return torch.get_num_threads()
    if case.seen in ("asked", "batches"):
        return list(watched[case.seen])
    return report[case.seen] if case.seen != "result" else (numbers(report), written(out))


@pytest.mark.parametrize(
    ("name", "option", "case"), CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_two_values_are_two_results(inputs, tmp_path, monkeypatch, watched, name, option, case):
    monkeypatch.chdir(inputs)
    if not case.engine:
        engine = watched["engine"]
        monkeypatch.setattr("adaptermix.generation.cached.make_generator", lambda *_: engine())
    base = LINES.get(name, "")
    if name == "merge" and option in SEARCHING:
        base = f"{BASE} --search 0.3,0.5,0.7,0.9"
    if option == "prompt":
        base = base.replace("--system-prompt ask", "")  # which overrides it
    runs = []
    for line in (case.one, case.other):
        times = 2 if case.seen == "reused" else 1
        for _ in range(times):
            found = outcome(name, f"{base} {line}", case, watched, tmp_path)
        runs.append(found)
    assert runs[0] != runs[1]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dtype", "float16"),
        ("trust_remote_code", True),
        ("tensor_parallel_size", 2),
        ("data_parallel_size", 2),
        ("gpu_memory_utilization", 0.5),
        ("max_lora_rank", 64),
        ("engine_args", {"quantization": "fp8"}),
        ("max_new_tokens", 9),
    ],
)
def test_arguments_of_vllm_are_those_asked_for(monkeypatch, inputs, option, value):
    """On a GPU; the engine itself is started in tests/system/test_vllm.py."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    limits = Limits(adapters=2, rank=8, prompt=40)
    plain, changed = (
        _vllm_options(EvalSettings(dtype="float32").model_copy(update=update), inputs, limits)
        for update in ({}, {option: value})
    )
    assert plain != changed
