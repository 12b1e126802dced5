"""A recipe as a user runs it: written, filled in, run, killed, run again."""

import contextlib
import io
import json
import re
import shutil
import sys
import time
from dataclasses import dataclass

import pytest
from helpers import warm

from adaptermix.adapters.adapter import read_adapter
from adaptermix.cli.main import main
from adaptermix.recipes.keys import content_hash

TRIAL = ("--limit", 4, "--set", "engine=transformers", "--set", "max-new-tokens=4")


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(*arguments, cwd):
    """Run the command line in this process: another Python takes seconds to import torch."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setenv("COLUMNS", "200")
        patched.setattr(sys, "argv", ["adaptermix", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    return Done(code, out.getvalue(), err.getvalue())


def check(done, code=0):
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def project(tmp_path_factory, model_dir, corpus_dir):
    """A folder with the recipe that the tool writes, and data where it says."""
    folder = tmp_path_factory.mktemp("project")
    check(run("recipe", "new", "recipe.toml", cwd=folder))
    (folder / "data").mkdir()
    shutil.copytree(corpus_dir / "massive", folder / "data" / "massive")
    shutil.copytree(corpus_dir / "pairs", folder / "data" / "tatoeba")
    for locale in ("de-DE", "es-ES"):
        text = (folder / "data" / "massive" / "en-US.jsonl").read_text()
        (folder / "data" / "massive" / f"{locale}.jsonl").write_text(text.replace("en-US", locale))
    return folder


def test_the_written_recipe_runs_as_it_is(project, model_dir):
    command = ("run", "recipe.toml", "--model", model_dir, *TRIAL)
    planned = json.loads(check(run(*command, "--dry-run", "--json", cwd=project)).stdout)
    assert [step["status"] for step in planned["steps"]] == ["to do"] * 6
    assert planned["steps"][0]["cost"]["planned_steps"] == 4
    assert planned["steps"][2]["cost"]["candidates"][:3] == ["0.5", "0.7", "0.9"]
    assert not (project / "runs").exists()
    shown = check(run(*command, "--dry-run", cwd=project)).stdout
    assert "12 examples in 3 languages, at most 4 steps" in shown
    done = check(run(*command, cwd=project))
    assert "3/6  merged: merge" in done.stderr
    assert "slot F1" in done.stdout
    out = project / "runs" / "recipe"
    for name in ("task.safetensors", "merged.search", "interference.json", "test", "report.html"):
        assert (out / name).exists()
    again = json.loads(check(run(*command, "--json", cwd=project)).stdout)
    assert {step["status"] for step in again["steps"]} == {"done before"}
    assert again["steps"][-2]["record"]["systems"] == ["base", "task", "merged"]
    check(run("recipe", "new", "recipe.toml", cwd=project), 5)


def test_a_recipe_killed_again_and_again_ends_as_one_that_was_not(
    project, model_dir, tmp_path, monkeypatch
):
    """Kills fall into training, search and evaluation, wherever the run is by then."""
    folder = shutil.copytree(project, tmp_path / "project", ignore=lambda *_: ["runs"])
    text = (folder / "recipe.toml").read_text()
    slow = 'command = "train-task"\neval-steps = 2\nepochs = 10\nbatch-size = 8\n'
    (folder / "recipe.toml").write_text(text.replace('command = "train-task"\n', slow))
    sets = ("--set", "engine=transformers", "--set", "batch-size=8", "--set", "max-new-tokens=8")
    sets += ("--set", "threads=1")  # another number of them rounds sums differently
    command = ["run", "recipe.toml", "--model", model_dir, "--limit", "16", *sets, "--quiet"]
    out = folder / "runs" / "recipe"
    kills = 0
    for sign in (
        ".task.safetensors.training/checkpoint-*/trainer_state.json",
        "align.safetensors",
        "interference.json",
    ):
        process = warm.command(*command, cwd=folder)
        deadline = time.monotonic() + 600
        while not list(out.glob(sign)) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.05)
        kills += process.poll() is None
        if "training" in sign:
            check_what_a_stopped_run_says(process)
        process.kill()
        process.wait()
    assert kills >= 2
    check(run(*command, cwd=folder))
    first = snapshot(out)
    shutil.rmtree(out)
    monkeypatch.setenv("ADAPTERMIX_CACHE", str(tmp_path / "fresh"))
    check(run(*command, cwd=folder))
    assert snapshot(out) == first
    assert not read_adapter(out / "task.safetensors").record["settings"].get("resume")


def check_what_a_stopped_run_says(process):
    process.terminate()
    _, said = process.communicate(timeout=600)
    assert process.returncode == 143
    assert re.search(r"recipe.toml:\d+: \[task\] stopped by SIGTERM after step \d+; a", said), said
    assert "run the recipe again" in said
    assert "Traceback" not in said


def snapshot(out):
    """Return what a run leaves, without times: outputs byte for byte, and the record of steps."""
    state = json.loads((out / "steps.json").read_text())
    for step in state["steps"].values():
        del step["seconds"]
    names = [f"{name}.safetensors" for name in ("task", "align", "merged")]
    files = {
        name: (out / name).read_bytes() for name in (*names, "interference.json", "report.html")
    }
    predictions = {p: p.read_bytes() for p in sorted((out / "test").rglob("*.jsonl"))}
    return (
        state,
        files,
        predictions,
        content_hash(out / "test"),
        content_hash(out / "merged.search"),
    )


def test_help_has_examples(tmp_path):
    text = check(run("run", "--help", cwd=tmp_path)).stdout
    assert "adaptermix run recipe.toml --dry-run" in text
    assert "--only" in text


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("langs = [", "lngs = ["), 3, "recipe.toml:17: [task] unknown key 'lngs'"),
        (('["@task", "@align"]', '["@task", "@merged"]'), 3, "cycle: merged -> merged"),
        (("data/tatoeba", "data/none"), 4, "recipe.toml:22: pairs-dir: no such file or folder"),
        (
            ('"de", "es"]     #', '"de", "ja"]     #'),
            4,
            "recipe.toml:17: [task] data/massive: no M",
        ),
    ],
)
def test_a_mistake_gets_one_line_with_its_place(project, tmp_path, model_dir, change, code, words):
    folder = shutil.copytree(project, tmp_path / "project", ignore=lambda *_: ["runs"])
    text = (folder / "recipe.toml").read_text()
    assert change[0] in text
    (folder / "recipe.toml").write_text(text.replace(*change, 1))
    for flags in ((), ("--dry-run",)):
        done = check(run("run", "recipe.toml", "--model", model_dir, *flags, cwd=folder), code)
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) <= (2 if not flags else 6)
    assert check(run("run", "no.toml", cwd=folder), 3).stderr.startswith("error: no.toml: no such")
