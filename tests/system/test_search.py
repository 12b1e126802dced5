"""A weight search from the command line, killed and gone on with."""

import json
import sqlite3
import time

import pytest
from helpers import warm
from helpers.adapters import peft_adapter

from adaptermix.adapters.adapter import read_adapter
from adaptermix.generation.answers import FILE_NAME


@pytest.fixture
def project(tmp_path, model_dir, corpus_dir):
    """A folder with settings and two adapters."""
    for seed, name in enumerate(("task", "align")):
        peft_adapter(model_dir, tmp_path / name, seed=seed)
    (tmp_path / "adaptermix.toml").write_text(
        f"""
model = "{model_dir}"
data-dir = "{corpus_dir}"

[eval]
langs = ["en", "cy"]
system-prompt = ""
engine = "transformers"
max-new-tokens = 6
batch-size = 2

[merge]
weight = 0.9
limit = 8
"""
    )
    return tmp_path


def search(project, out):
    arguments = ["merge", "task", "align", "--search", "0.5,0.7,0.9", "-o", out, "--json"]
    return warm.command(*arguments, cwd=project)


def known_answers(cache):
    if not (cache / FILE_NAME).is_file():
        return 0
    try:
        with sqlite3.connect(cache / FILE_NAME, timeout=5) as connection:
            return connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
    except sqlite3.OperationalError:  # the table is not there yet
        return 0


def finish(process):
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    return json.loads(stdout)


def test_a_killed_search_goes_on_and_ends_the_same(project, answer_cache, monkeypatch):
    cut_at = []
    for count in (4, 24):
        process = search(project, "merged")
        while process.poll() is None and known_answers(answer_cache) < count:
            time.sleep(0.005)
        assert process.poll() is None, "it was to be killed before it ended"
        process.kill()
        process.communicate()
        cut_at.append(known_answers(answer_cache))
        left = {path.name for path in project.iterdir()} - {answer_cache.name}
        assert left == {"adaptermix.toml", "task", "align"}
    resumed = finish(search(project, "merged"))
    assert cut_at == sorted(cut_at)
    assert resumed["reused"] >= cut_at[-1] > 0
    assert known_answers(answer_cache) == resumed["decoded"], "nothing was decoded for nothing"

    monkeypatch.setenv("ADAPTERMIX_CACHE", str(project / "other-cache"))
    whole = finish(search(project, "whole"))
    assert whole["reused"] == 0
    assert whole["candidates"] == resumed["candidates"]
    assert whole["winner"] == resumed["winner"]
    assert whole["verdict"] == resumed["verdict"]
    first, second = (read_adapter(project / name) for name in ("merged", "whole"))
    for module, update in first.updates():
        assert (update.b == second.update(module).b).all()
    toml = [
        (project / f"{name}.search" / "weights.toml").read_text() for name in ("merged", "whole")
    ]
    assert toml[0] == toml[1]
