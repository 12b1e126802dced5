"""Every option of the training commands changes what it is there to change.

Each command runs as typed, on a tiny model, once for every value in the tables below. The first
value of most options is the usual one, so that one run is compared with all others. An option of
several commands has all its values with the first of them, and two with the others. A new option
needs an entry: values that give different results, or the test that shows its effect and why that
test does it.
"""

import hashlib
import json
import shutil
from dataclasses import replace
from functools import wraps

import pytest
import torch
from helpers.corpus import write_corpus
from helpers.models import (
    CHAT_TEMPLATE,
    save_model,
    save_model_of_eot,
    save_model_of_own_code,
    save_other_tokenizer,
)
from helpers.options import (
    Differs,
    Elsewhere,
    assert_all_differ,
    assert_choices_are_tried,
    assert_table_is_whole,
    command_line,
)
from helpers.training import factors
from torch.utils.data import DataLoader
from transformers import LlamaModel
from typer.testing import CliRunner

from adaptermix.adapters.adapter import read_adapter
from adaptermix.cli.main import program
from adaptermix.commands.catalog import COMMANDS
from adaptermix.errors import AdaptermixError

HUB = Elsewhere("files/test_hub.py", "needs a hub")
PUSH = Elsewhere("cli/test_push.py", "needs a hub")
SHORT = {"max_steps": None, "limit": "16"}  # as long as its epochs are
WORSE = {"eval_steps": "1", "max_steps": "6", "lr": "0.5", "schedule": "constant_with_warmup"}
LONG = {"system_prompt": None, "max_length": "1400", "limit": "8", "batch_size": "4"}
TWO_PAIRS = {"pairs": "cy-en,sw-en", "pairs_dir": "@odd"}
SLOPES = {"max_steps": "3"}  # the loss's slope for A is zero in the first step
ALL_LINEAR = {"target_modules": "all-linear"}
ODD = {"pairs_dir": "@odd"}

COMMON = {
    # Model and data
    "model": Differs(("@model", "@other")),
    "revision": HUB,
    "tokenizer": Differs((None, "@reader")),
    "dtype": Differs(
        ("float32", "bfloat16", "float16"), left_out={"auto": "float32 where there is no GPU"}
    ),
    "trust_remote_code": Differs((False, True), ("exit",), {"model": "@own-code"}),
    "data_dir": Differs(("@corpus", "@other-corpus")),
    "threads": Differs(("1", "2"), ("threads",)),
    "on": Elsewhere("models/test_stacking.py", "a stacked model is compared with PEFT's there"),
    # LoRA
    "rank": Differs(("8", "4")),
    "alpha": Differs(("16", "32"), ("tensors", "config.lora_alpha")),
    "dropout": Differs(("0.1", "0")),
    "target_modules": Differs(("q_proj", "all-linear")),
    "target_parameters": Elsewhere("models/test_lora.py", "needs fused experts"),
    "use_rslora": Differs((False, True), ("tensors", "config.use_rslora")),
    "rank_pattern": Differs((None, "down_proj=2"), beside=ALL_LINEAR),
    "alpha_pattern": Differs((None, "down_proj=32"), beside=ALL_LINEAR),
    "layers_to_transform": Differs((None, "0", "1")),
    "quantize": Elsewhere("models/test_loading.py", "needs bitsandbytes"),
    "attention": Elsewhere("training/test_run.py", "the adapters are the same, up to rounding"),
    # Training
    "lr": Differs(("1e-3", "2e-3")),
    "schedule": Differs(
        ("inverse_sqrt", "linear", "cosine", "constant_with_warmup"), beside={"max_steps": "4"}
    ),
    "warmup_ratio": Differs(("0.1", "0.9")),
    "batch_size": Differs(("8", "16"), ("tensors", "passes")),
    "epochs": Differs(("1", "2"), ("report.steps", "report.planned_steps"), SHORT),
    "max_steps": Differs(("2", "1"), ("tensors", "report.steps", "report.planned_steps")),
    "eval_steps": Differs(("2", "1"), ("evaluations",)),
    "patience": Differs(("3", "1"), ("report.steps",), WORSE),
    "max_length": Differs(("128", "50")),
    "seed": Differs(("1", "2")),
    "workers": Differs(("0", "1"), ("workers",)),
    "tensorboard": Differs((False, True), ("files",)),
    "report_to": Differs((None, "tensorboard"), ("files",)),
    "resume": Differs((False, True), ("exit",), again=True),
    "out": Differs(("a.safetensors", "b.safetensors"), ("files",)),
    # Of every command
    "config": Differs((None, "@one-layer.toml")),
    "force": Differs((None, True), ("exit",), again=True),
    "json": Differs((True, None), ("is_json",)),
    "dry_run": Differs((None, True), ("files", "report.written")),
    "quiet": Elsewhere("cli/test_console.py", "a progress bar is drawn in a terminal only"),
    "verbose": Elsewhere("system/test_commands.py", "it changes the libraries of the process"),
    "push_to_hub": PUSH,
    "private": PUSH,
}
TASK_DATA = {
    "task": Differs(("massive", "@own.toml")),
    "prompt": Differs(("paper", "zero-shot", "authors-code"), beside=LONG),
    "system_prompt": Differs(("", "Find the slots.")),
    "chat_template": Differs((None, "@t.jinja")),
    "turn_newline": Differs((False, True), beside={"model": "@eot"}),
    "langs": Differs(("en", "cy", "en,cy"), ("tensors", "report.examples")),
    "chat": Differs((None, "@chat.jsonl"), ("tensors", "report.examples")),
    "dev_chat": Differs(
        (None, "@dev.jsonl"), ("report.dev", "report.dev_examples"), {"chat": "@chat.jsonl"}
    ),
    "columns": Elsewhere("data/test_own_data.py", "tables of other columns are there"),
    "limit": Differs((None, "8"), ("tensors", "report.examples")),
    "dev_limit": Differs(("4", "2"), ("report.dev", "report.dev_examples")),
}
ALIGNMENT = {
    "pairs": Differs(("cy-en", "sw-en", "cy-en,sw-en"), ("tensors", "report.examples")),
    "pairs_dir": Differs((None, "@odd")),
    "pairs_columns": Elsewhere("data/test_own_data.py", "tables of other columns are there"),
    "layer": Differs(
        ("middle", "bottom", "0.75", "top", "top-normed"), left_out={"auto": "it is one of these"}
    ),
    "pooling": Differs(("mean", "weighted", "last")),
    "pool_skip": Differs(("0", "1"), left_out={"auto": "it is one of these"}),
    "temperature": Differs(("0.1", "0.5")),
    "directions": Differs(("one", "both")),
    "stop_gradient": Differs((False, True)),
    "mask_duplicates": Differs((False, True), beside=ODD),
    "contrastive_batch": Differs(("4", "8")),
    "dev_pairs": Differs(("4", "2"), ("tensors", "report.dev_examples", "report.examples")),
    "resample": Differs(("0", "0.5", "1"), beside=TWO_PAIRS),
    "several_sentences": Differs((False, True), ("tensors", "report.dropped"), ODD),
    "check_script": Differs((True, False), ("tensors", "report.dropped"), ODD),
}


def in_brief(table):
    """Return a table with two values of each option: another command has tried all of them."""
    return {
        option: replace(entry, values=entry.values[:2]) if isinstance(entry, Differs) else entry
        for option, entry in table.items()
    }


TABLES = {
    "train-task": {
        **COMMON,
        **TASK_DATA,
        "micro_batch_size": Differs(("4", "8"), ("passes",)),
        "gradient_checkpointing": Elsewhere("training/test_run.py", "the adapter is the same"),
        "compile": Elsewhere("system/test_kernels.py", "needs a compiler, and minutes"),
        "liger": Elsewhere("system/test_kernels.py", "needs a GPU, or Triton's interpreter"),
    },
    "train-align": {
        **in_brief(COMMON),
        **ALIGNMENT,
        "max_length": Differs(("128", "9"), ("tensors", "report.dropped")),
        "preserve": Differs(("0", "1", "10"), beside=SLOPES),
        "preserve_text": Differs((None, ["@lines.txt"]), beside={"preserve": "1"}),
        "micro_batch_size": Differs((None, "2"), ("passes",)),
        "packing": Differs((True, False), ("passes",)),
        "limit": Differs((None, "16"), ("tensors", "report.examples")),
    },
    "train-joint": {
        **in_brief(COMMON | TASK_DATA | ALIGNMENT),
        "layer": ALIGNMENT["layer"],  # it runs the blocks below by code of its own
        "contrastive_batch": Differs(("4", "2")),
        "alternate": Differs(("paper-code", "steps")),
        "align_weight": Differs(("1", "0.1")),
        "stop_on": Elsewhere("training/test_joint.py", "that the best adapter is kept says more"),
        "max_new_tokens": Differs(
            ("2", "12"),
            ("report.dev.score",),
            {"stop_on": "score", "task": "@own.toml"},
        ),
    },
}
# All options of these tables whose first value is a usual one stand here, or are left out.
TASK_BASE = {
    "task": "massive",
    "prompt": "paper",
    "turn_newline": False,
    "langs": "en",
    "system_prompt": "",
    "dev_limit": "4",
}
ALIGN_BASE = {
    "pairs": "cy-en",
    "layer": "middle",
    "pooling": "mean",
    "pool_skip": "0",
    "temperature": "0.1",
    "directions": "one",
    "stop_gradient": False,
    "mask_duplicates": False,
    "contrastive_batch": "4",
    "dev_pairs": "4",
    "resample": "0",
    "several_sentences": False,
    "check_script": True,
}
BASE = {
    "model": "@model",
    "dtype": "float32",
    "data_dir": "@corpus",
    "threads": "1",
    "rank": "8",
    "alpha": "16",
    "dropout": "0.1",
    "target_modules": "q_proj",
    "use_rslora": False,
    "lr": "1e-3",
    "schedule": "inverse_sqrt",
    "warmup_ratio": "0.1",
    "batch_size": "8",
    "max_steps": "2",
    "eval_steps": "2",
    "patience": "3",
    "max_length": "128",
    "seed": "1",
    "workers": "0",
    "tensorboard": False,
    "out": "a.safetensors",
    "json": True,
}
USUAL = {
    "train-task": BASE | TASK_BASE | {"micro_batch_size": "4"},
    "train-align": BASE | ALIGN_BASE | {"preserve": "0"},
    "train-joint": BASE | TASK_BASE | ALIGN_BASE | {"alternate": "paper-code", "align_weight": "1"},
}
CASES = [
    pytest.param(command, option, id=f"{command}-{option}")
    for command, table in TABLES.items()
    for option, entry in table.items()
    if isinstance(entry, Differs)
]


def write_rows(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def chat(number):
    roles = {"user": f"say {number}", "assistant": f"it is {number}"}
    return {"messages": [{"role": role, "content": text} for role, text in roles.items()]}


def write_odd_pairs(folder):
    """Write pairs of every kind that an option is about, and far fewer of another language."""
    folder.mkdir()
    rows = [f"rho'r lamp {n} ymlaen\tturn on lamp {n // 8}" for n in range(40)]
    rows += [f"Helo {n}. Sut wyt ti?\tHello {n}. How are you?" for n in range(20)]
    rows += [f"привет {n} друзья\thello {n} friends" for n in range(20)]
    (folder / "cy-en.tsv").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    rows = [f"washa taa {n}\tturn on lamp {n}\n" for n in range(16)]
    (folder / "sw-en.tsv").write_text("".join(rows), encoding="utf-8")


def write_own_task(folder):
    toml = ['name = "own"', 'metrics = ["chrf"]', 'prompt = "{asked}"', 'answer = "answered"']
    toml += ["[files]", *(f'{split} = "{{lang}}.{split}.jsonl"' for split in ("train", "dev"))]
    (folder / "own.toml").write_text("\n".join(toml), encoding="utf-8")
    for split, count in (("train", 24), ("dev", 4)):
        rows = [{"asked": f"say {n}", "answered": f"lamp kitchen {n} red"} for n in range(count)]
        write_rows(folder / "corpus" / f"en.{split}.jsonl", rows)


@pytest.fixture(scope="module")
def material(tmp_path_factory, model_dir, corpus_dir):
    """The folder that ``@`` stands for."""
    folder = tmp_path_factory.mktemp("options")
    (folder / "model").symlink_to(model_dir)
    shutil.copytree(corpus_dir, folder / "corpus")
    write_own_task(folder)
    write_corpus(folder / "other-corpus")
    for path in (folder / "other-corpus").rglob("*.*"):
        path.write_text(path.read_text().replace("lamp", "light").replace("jazz", "rock"))
    write_odd_pairs(folder / "odd")
    save_model(folder / "other", "llama", seed=1)
    save_model_of_eot(model_dir, folder / "eot")
    save_model_of_own_code(model_dir, folder / "own-code")
    save_other_tokenizer(folder / "reader")
    (folder / "t.jinja").write_text(CHAT_TEMPLATE.replace("<|end|>", " over<|end|>"))
    write_rows(folder / "chat.jsonl", map(chat, range(40)))
    write_rows(folder / "dev.jsonl", map(chat, range(40, 43)))
    (folder / "lines.txt").write_text("".join(f"the lamp {n} is red\n" for n in range(20)))
    sections = [f"[{command}]\nlayers-to-transform = [1]\n" for command in TABLES]
    (folder / "one-layer.toml").write_text("".join(sections))
    return folder


@pytest.fixture
def watched(monkeypatch):
    """What is done on the way: shapes of training passes, and processes that prepare batches."""
    seen = {"passes": [], "workers": set()}
    forward, init = LlamaModel.forward, DataLoader.__init__

    @wraps(forward)
    def watched_forward(self, *args, **options):
        if self.training:
            seen["passes"].append(tuple(options["input_ids"].shape))
        return forward(self, *args, **options)

    def watched_init(self, *args, **options):
        seen["workers"].add(options.get("num_workers", 0))
        init(self, *args, **options)

    monkeypatch.setattr(LlamaModel, "forward", watched_forward)
    monkeypatch.setattr(DataLoader, "__init__", watched_init)
    return seen


OUTCOMES = {}


@pytest.fixture
def perform(material, watched, tmp_path_factory, monkeypatch):
    """Run a command with some options in place of its usual ones; return all that came of it."""

    def placed(value):
        if isinstance(value, list):
            return [placed(item) for item in value]
        is_name = isinstance(value, str) and value.startswith("@")
        return str(material / value[1:]) if is_name else value

    def perform(command, changes, before=None):
        folder = tmp_path_factory.mktemp("run")
        if before:
            shutil.copytree(before, folder, dirs_exist_ok=True)
        monkeypatch.chdir(folder)
        options = {n: placed(v) for n, v in (USUAL[command] | changes).items()}
        watched.update(passes=[], workers=set())
        return run(command_line(command, options)) | watched | left_in(folder) | {"at": folder}

    return perform


@pytest.fixture
def outcome(perform):
    """Run a command with some options once, and the next time return what came of it."""

    def known(command, changes, again=False):
        typed = {n: v for n, v in (USUAL[command] | changes).items() if v is not None}
        key = (command, json.dumps(typed, sort_keys=True), again)
        if key not in OUTCOMES:
            OUTCOMES[key] = perform(command, changes, known(command, {})["at"] if again else None)
        return OUTCOMES[key]

    return known


def run(line):
    done = CliRunner().invoke(program(), line, standalone_mode=False)
    error = done.exception
    if error is not None and not isinstance(error, AdaptermixError):
        raise error
    text = done.stdout.strip()
    is_json = text.startswith("{")
    return {
        "exit": error.exit_code if error else done.exit_code,
        "error": str(error or ""),
        "is_json": is_json,
        "report": json.loads(text) if is_json else {},
        "threads": torch.get_num_threads(),
    }


def left_in(folder):
    found = {"files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))}
    adapter, log = folder / "a.safetensors", folder / "a.log.jsonl"
    if adapter.exists():
        found["tensors"] = {
            name: hashlib.sha256(factor.numpy().tobytes()).hexdigest()
            for name, factor in factors(adapter).items()
        }
        found["config"] = read_adapter(adapter).config
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    found["evaluations"] = sorted({row["step"] for row in rows if any("eval_" in k for k in row)})
    return found


@pytest.mark.parametrize("command", TABLES)
def test_every_option_has_an_entry(command):
    assert_table_is_whole(command, TABLES[command])
    with_all_values = {**TABLES["train-joint"], **TABLES["train-align"], **TABLES["train-task"]}
    assert_choices_are_tried(COMMANDS[command].settings, with_all_values)


def test_every_training_command_has_a_table():
    assert {name for name in COMMANDS if name.startswith("train")} == TABLES.keys()


@pytest.mark.parametrize("command", TABLES)
def test_the_same_options_give_the_same_result(outcome, perform, command):
    """Or two values would differ whatever they are."""
    first, second = outcome(command, {}), perform(command, {})
    assert first["exit"] == 0, first["error"]
    for each in (first, second):
        each["report"].pop("seconds", None)
    assert first | {"at": None} == second | {"at": None}


@pytest.mark.parametrize(("command", "option"), CASES)
def test_no_two_values_give_the_same_result(outcome, command, option):
    entry = TABLES[command][option]
    outcomes = [
        outcome(command, {**entry.beside, option: value}, entry.again) for value in entry.values
    ]
    if "exit" not in entry.seen:
        assert [each["error"] for each in outcomes] == [""] * len(outcomes)
    assert_all_differ(entry, outcomes)
