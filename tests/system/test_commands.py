"""The commands: files in, files out, words, exit codes.

The installed command is started where that is what is shown, or where it is killed; elsewhere
its entry point is called, for a start takes seconds.
"""

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import chdir, closing, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import pytest
from helpers import warm
from peft import PeftConfig

from adaptermix.cli.main import comet_app, main, program

app = program()

COMMAND = Path(sys.executable).with_name("adaptermix")


def run(*arguments, cwd=None, **environment):
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200", "HF_HUB_OFFLINE": "1"} | environment,
        timeout=300,
    )


def call(*arguments, cwd):
    """Do what ``run`` does, in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        try:
            with patch.object(sys, "argv", ["adaptermix", *map(str, arguments)]):
                main()
        except SystemExit as ended:
            code = ended.code or 0
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def check(done, code=0):
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_dir, corpus_dir):
    """A folder with an adaptermix.toml and a task adapter, as a user would have it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "adaptermix.toml").write_text(
        f"""
model = "{model_dir}"
data-dir = "{corpus_dir}"

[train-task]
langs = ["en"]
system-prompt = "slots"
batch-size = 16
micro-batch-size = 8
epochs = 1

[train-align]
batch-size = 32
contrastive-batch = 16
epochs = 1

[eval]
langs = ["en", "cy"]
system-prompt = "slots"
limit = 4
engine = "transformers"
max-new-tokens = 12
adapters = ["task.safetensors", "align.safetensors", "merged.safetensors"]
"""
    )
    check(call("train-task", cwd=folder))
    return folder


def test_the_three_lines_work_as_typed(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "project")
    align = check(run(*"train-align --pairs cy-en,sw-en".split(), cwd=folder))
    assert "cy-en 108  sw-en 108" in align.stdout
    merge = "merge task.safetensors align.safetensors --weight 0.9"
    merged = check(run(*merge.split(), cwd=folder))
    assert "merged.safetensors" in merged.stdout
    evaluated = check(run(*"eval --task massive".split(), cwd=folder))
    header = next(line for line in evaluated.stdout.splitlines() if "language" in line)
    assert [name for name in header.split() if name.isalpha()] == [
        "language",
        "base",
        "task",
        "align",
        "merged",
    ]
    assert "difference from task, 95% interval, p-value" in evaluated.stdout
    assert "baseline: task, the main adapter of merged" in evaluated.stdout
    predictions = folder / "eval-massive" / "predictions"
    for system in ("base", "task", "align", "merged"):
        for lang in ("en", "cy"):
            rows = (predictions / system / f"{lang}.jsonl").read_text().splitlines()
            assert [json.loads(row)["lang"] for row in rows] == [lang] * 4


def test_everything_can_be_said_with_flags(tmp_path, model_dir, corpus_dir):
    common = ("--model", model_dir, "--data-dir", corpus_dir)
    steps = ("--max-steps", 1, "--batch-size", 4, "--quiet")
    check(call("train-task", *common, "--langs", "en", "-o", "t", *steps, cwd=tmp_path))
    align = ("train-align", *common, "--pairs", "cy-en", "-o", "a", "--layer", 1)
    check(call(*align, "--contrastive-batch", 4, *steps, cwd=tmp_path))
    assert PeftConfig.from_pretrained(str(tmp_path / "t")).r == 8
    check(call("merge", "t", "a", "--weights", "1,0.5", "-o", "m", cwd=tmp_path))
    flags = ("--adapter", "m", "--langs", "en", "--limit", 2, "--max-new-tokens", 4)
    done = check(call("eval", *common, *flags, "--engine", "transformers", "--json", cwd=tmp_path))
    report = json.loads(done.stdout)
    assert report["systems"] == ["base", "m"]
    assert report["cells"][0]["score"]["signature"].startswith("slot_f1|")
    assert [(c["system"], c["baseline"]) for c in report["comparisons"]] == [("m", "base")] * 2


def test_help_imports_no_torch():
    code = (
        "import atexit, sys\n"
        "from adaptermix.cli.main import main\n"
        "heavy = {'torch', 'transformers', 'peft', 'vllm'}\n"
        "atexit.register(lambda: print('imported:', *heavy & set(sys.modules)))\n"
        "main()"
    )
    command = [sys.executable, "-c", code, "--help"]
    shown = check(subprocess.run(command, capture_output=True, text=True)).stdout
    assert "train-align" in shown
    assert shown.endswith("imported:\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["merge", "task.safetensors", "--weights", "0.5", "-o", "out"],
        ["inspect", "task.safetensors"],
    ],
)
def test_adapters_are_merged_and_inspected_without_transformers(trained, tmp_path, arguments):
    """It takes longer to import than they take."""
    shutil.copy(trained / "task.safetensors", tmp_path)
    code = (
        "import sys; from adaptermix.cli.main import program; app = program()\n"
        "try: app()\n"
        "finally: assert not {'transformers', 'peft', 'vllm'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code, *arguments]
    check(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True))


def test_every_command_has_help_with_an_example(tmp_path):
    commands = [(command.name or command.callback.__name__,) for command in app.registered_commands]
    commands += [("comet", command.name) for command in comet_app.registered_commands]
    assert len(commands) >= 10
    for words in commands:
        done = check(call(*words, "--help", cwd=tmp_path))
        text = " ".join(done.stdout.replace("│", " ").split())
        assert f"adaptermix {' '.join(words)}" in text.partition("xample")[2], words


def test_words_and_options_are_completed():
    for words, expected in (
        ("adaptermix tra", {"train-task", "train-align", "train-joint"}),
        ("adaptermix comet i", {"install"}),
        ("adaptermix merge --push", {"--push-to-hub"}),
    ):
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        done = check(run(_ADAPTERMIX_COMPLETE="complete_bash", **asked))
        assert set(done.stdout.split()) == expected


def test_completion_is_installed_for_the_shell(tmp_path):
    detection = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = check(run("--install-completion", "bash", HOME=str(tmp_path), **detection))
    assert "bash completion installed" in done.stdout
    written = "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    assert "_ADAPTERMIX_COMPLETE=complete_bash" in written


def test_no_color_means_no_colour():
    red = "\x1b[1;31m"
    forced = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    wrong = ("train-task", "--rank", "0")
    assert red in check(run(*wrong, **forced), 3).stderr
    assert red not in check(run(*wrong, **forced, NO_COLOR="1"), 3).stderr


def test_verbose_names_versions_and_quiet_is_the_rule(trained):
    plan = "train-task -o other --dry-run --json".split()
    quiet, loud = (warm.command(*plan, *more, cwd=trained, COLUMNS="200") for more in ([], ["-v"]))
    for process in (quiet, loud):
        process.wait(300)
        check(process)
    assert quiet.stdout == loud.stdout
    assert quiet.stderr == "", "no progress bar where there is no terminal"
    assert f"torch {version('torch')}" in loud.stderr


def test_json_and_dry_run_print_a_plan_and_write_nothing(trained):
    before = sorted(trained.iterdir())
    for command in (
        "train-task -o other",
        "train-align --pairs cy-en -o other",
        "merge task.safetensors task.safetensors --weight 0.9 -o other",
        "eval --adapter task.safetensors -o other",
    ):
        done = check(call(*command.split(), "--dry-run", "--json", cwd=trained))
        assert json.loads(done.stdout)["out"] == "other"
    assert sorted(trained.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("train-task --rnk 4", 2, "No such option"),
        ("train-task --rank 0", 3, "--rank: must be greater than 0"),
        ("train-task --config nowhere.toml", 3, "nowhere.toml: no such file"),
        ("train-align --pairs cy", 4, "'cy' is not a language pair"),
        ("train-align --pairs xx-en", 4, "no parallel text xx-en"),
        ("train-align --pairs cy-en --layer 99", 3, "has 4 blocks"),
        ("train-task", 5, "task.safetensors exists"),
        ("train-task -o new --langs xx", 4, "MASSIVE has no language 'xx'"),
        ("train-task -o new --model . ", 5, "no config.json"),
        ("merge task.safetensors --weight 0.9", 3, "for two adapters, not 1"),
        ("merge task.safetensors nowhere --weight 0.9", 5, "nowhere: no such file"),
        ("merge task.safetensors adaptermix.toml --weight 1", 5, "not a valid safetensors file"),
        ("merge task.safetensors task.safetensors", 3, "one of --weight W, --weights"),
        ("eval --adapter nowhere.safetensors", 5, "nowhere.safetensors: no such file"),
        ("eval --langs en,xx --adapter task.safetensors", 4, "MASSIVE has no language 'xx'"),
        ("eval --baseline bsae --adapter task.safetensors", 3, "the systems are base, task"),
        ("eval --model nobody/nothing --adapter task.safetensors", 6, "not a local folder"),
    ],
)
def test_a_mistake_gets_one_line_an_exit_code_and_leaves_nothing(trained, arguments, code, words):
    before = sorted(trained.iterdir())
    done = check(call(*arguments.split(), cwd=trained), code)
    assert words in " ".join(done.stderr.split())
    if code != 2:
        assert 1 <= len(done.stderr.strip().splitlines()) <= 2
        assert done.stderr.startswith("error: ")
    assert done.stdout == ""
    assert sorted(trained.iterdir()) == before


def test_without_model_and_data_the_two_ways_on_are_named(tmp_path):
    done = check(run("eval", cwd=tmp_path), 6)
    assert "Meta-Llama-3-8B-Instruct" in done.stderr
    assert "--model PATH --data-dir PATH" in done.stderr
    assert "adaptermix demo" in done.stderr


def test_a_killed_evaluation_goes_on_where_it_was(trained, tmp_path, answer_cache):
    """What it had decoded is not decoded again, and its answers are those of an unbroken run."""
    folder = shutil.copytree(trained, tmp_path / "project")
    flags = "--adapter task.safetensors --limit 6 --batch-size 1 --max-new-tokens 60 -q".split()
    process = warm.command("eval", "-o", "killed", *flags, cwd=folder)
    deadline = time.monotonic() + 120
    while len(known := kept(answer_cache)) < 5:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (folder / "killed").exists()
    known = kept(answer_cache)
    assert len(known) < 24  # or it was killed too late
    report = json.loads(check(call("eval", "-o", "again", *flags, "--json", cwd=folder)).stdout)
    assert (report["decoded"], report["reused"]) == (24 - len(known), len(known))
    assert known.items() <= kept(answer_cache).items()
    check(call("eval", "-o", "unbroken", *flags, "--no-cache", cwd=folder))
    predictions = [
        {path.name: path.read_bytes() for path in (folder / out / "predictions").rglob("*.jsonl")}
        for out in ("again", "unbroken")
    ]
    assert predictions[0] == predictions[1]
    quick = json.loads(check(call("eval", "-o", "quick", *flags, "--json", cwd=folder)).stdout)
    assert (quick["decoded"], quick["reused"]) == (0, 24)


def kept(folder):
    """Return the answers in the cache, by key."""
    (path,) = folder.glob("*.sqlite3") if folder.is_dir() else [None]
    if path is None:
        return {}
    try:
        with closing(sqlite3.connect(path)) as connection:
            return {key: row for key, *row in connection.execute("SELECT * FROM answers")}
    except sqlite3.OperationalError:  # not made yet
        return {}


def test_a_killed_training_leaves_no_adapter_and_resumes(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "project")
    arguments = ["train-task", "-o", "killed", "--max-steps", "60", "--eval-steps", "5"]
    process = warm.command(*arguments, cwd=folder)
    work = folder / ".killed.training"
    deadline = time.monotonic() + 120
    while not list(work.glob("checkpoint-*/trainer_state.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (folder / "killed").exists()
    done = check(call(*arguments, "--resume", "--json", cwd=folder))
    assert json.loads(done.stdout)["steps"] <= 60
    assert (folder / "killed" / "adapter_model.safetensors").is_file()
    assert not work.exists()
