"""The package as Python users meet it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.adapters import peft_adapter

import adaptermix

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_importing_the_package_is_light():
    code = (
        "import sys, adaptermix; dir(adaptermix); print({'torch', 'pydantic'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_no_command_that_may_refuse_its_input_starts_with_transformers():
    """It takes seconds to import: an error in a file name, or a report, need not wait for it."""
    code = (
        "import sys, adaptermix.reports.page, adaptermix.evaluation.evaluate, "
        "adaptermix.search.run, adaptermix.retrieval.analysis; "
        "print({'transformers', 'peft', 'accelerate'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_everything_exported_is_there_and_documented():
    for name in adaptermix._HOMES:
        assert name in dir(adaptermix)
        assert getattr(adaptermix, name).__doc__, name
    assert (Path(adaptermix.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="has no attribute 'unmerge'"):
        adaptermix.unmerge  # noqa: B018


def test_type_checkers_know_every_export():
    source = Path(adaptermix.__file__).read_text(encoding="utf-8")
    names = re.findall(r"from adaptermix\.([\w.]+) import (\w+) as \2\b", source)
    assert {name: module for module, name in names} == adaptermix._HOMES


@pytest.mark.slow
def test_the_example_of_the_page_runs(tmp_path, model_dir, corpus_dir, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "base").symlink_to(model_dir)
    (tmp_path / "data").symlink_to(corpus_dir)
    for seed, name in enumerate(("task", "align")):
        peft_adapter(model_dir, tmp_path / name, seed=seed)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(PAGE), "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[2:4]] == ["en", "cy"]
    assert "'merged': " in said[3]
    assert said[4] == "merged exists - choose another --out, or pass --force"
