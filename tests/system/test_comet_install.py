"""COMET's environment is built once, whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.comet import fake_python

from adaptermix.errors import ArtifactError, ResourceError
from adaptermix.tasks.metrics import comet_environment
from adaptermix.tasks.metrics.comet_environment import install, status

PYTHON = sys.executable
COMMAND = Path(PYTHON).with_name("adaptermix")

# A Python that makes environments of itself, whose pip notes each run, and which has COMET once
# pip has run. Files beside it steer it: ``fails``, ``slow``, ``empty``.
BUILDER = """
here = pathlib.Path({here!r})
code = sys.argv[-1]
if "venv" in sys.argv:
    (pathlib.Path(code) / "bin").mkdir(parents=True)
    shutil.copy(__file__, pathlib.Path(code) / "bin" / "python")
elif "pip" in sys.argv:
    with (here / "runs").open("a") as file:
        file.write(" ".join(sys.argv) + chr(10))
    if (here / "slow").exists():
        time.sleep(3)
        pathlib.Path(__file__).with_name("late").touch()
    if (here / "fails").exists():
        sys.exit("WARNING: something" + chr(10) + "ERROR: No matching distribution" + chr(10))
    if not (here / "empty").exists():
        pathlib.Path(__file__).with_name("comet").touch()
elif "version_info" in code:
    print("{version}")
elif pathlib.Path(__file__).with_name("comet").exists():
    print("chatter")
    print(json.dumps({{"python": "3.11.7", "unbabel-comet": "2.2.7"}}))
else:
    sys.exit("ModuleNotFoundError: No module named 'comet'")
"""


@pytest.fixture
def builder(tmp_path):
    return str(make_builder(tmp_path / "builder", "3.11"))


def make_builder(folder, version, name="python"):
    return fake_python(folder / name, BUILDER.format(here=str(folder), version=version))


def pip_runs(builder):
    runs = Path(builder).with_name("runs")
    return runs.read_text().splitlines() if runs.exists() else []


def test_an_environment_is_built_once_and_again_only_when_asked(tmp_path, builder, monkeypatch):
    folder = tmp_path / "cache" / "comet"
    assert not status(folder).installed
    said = []
    report = install(folder, python=builder, say=said.append)
    assert report.built
    assert report.installed
    assert report.versions == {"python": "3.11.7", "unbabel-comet": "2.2.7"}
    assert len(said) == 3
    assert "unbabel-comet==2.2.7 torch==2.13.0" in pip_runs(builder)[0]
    assert status(folder).as_record() == {
        key: value for key, value in report.as_record().items() if key not in ("built", "seconds")
    }
    again = install(folder, python=builder)
    assert not again.built
    assert len(pip_runs(builder)) == 1
    assert install(folder, python=builder, force=True).built
    assert len(pip_runs(builder)) == 2
    monkeypatch.setattr(comet_environment, "PINS", ("unbabel-comet==9",))
    assert install(folder, python=builder).built
    assert "unbabel-comet==9" in pip_runs(builder)[2]


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("fails", "^COMET could not be installed: ERROR: No matching distribution$"),
        ("empty", "installed but does not load: ModuleNotFoundError: No module named 'comet'$"),
    ],
)
def test_a_failed_install_says_why_in_a_line_and_leaves_nothing(
    tmp_path, builder, trouble, message
):
    folder = tmp_path / "comet"
    Path(builder).with_name(trouble).touch()
    with pytest.raises(ResourceError, match=message):
        install(folder, python=builder)
    assert not status(folder).installed
    assert [path.name for path in folder.iterdir()] == ["adaptermix-comet.lock"]
    Path(builder).with_name(trouble).unlink()
    assert install(folder, python=builder).built


def test_a_killed_install_is_no_install_and_what_outlives_it_is_waited_for(tmp_path, builder):
    folder = tmp_path / "comet"
    Path(builder).with_name("slow").touch()
    command = [COMMAND, "comet", "install", "--path", folder, "--python", builder]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: pip_runs(builder))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not status(folder).installed
    Path(builder).with_name("slow").unlink()
    said = []
    report = install(folder, python=builder, say=said.append)
    assert report.built
    assert report.installed
    assert "waiting for it" in said[0]
    assert not (folder / "bin" / "late").exists()


def test_two_installs_at_once_build_one_environment(tmp_path, builder):
    folder = tmp_path / "comet"
    Path(builder).with_name("slow").touch()
    reports = []
    threads = [
        threading.Thread(target=lambda: reports.append(install(folder, python=builder)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.built for report in reports) == [False, True]
    assert all(report.installed for report in reports)


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never came")


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, builder):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter").write_text("1")
    for force in (False, True):
        with pytest.raises(ArtifactError, match="not empty, and not an environment"):
            install(folder, python=builder, force=force)
    with pytest.raises(ArtifactError, match=": not a folder"):
        install(folder / "chapter", python=builder)
    assert (folder / "chapter").read_text() == "1"


def test_an_environment_whose_python_is_gone_is_built_again(tmp_path, builder):
    folder = tmp_path / "comet"
    install(folder, python=builder)
    python = folder / "bin" / "python"
    python.unlink()
    python.symlink_to(tmp_path / "gone")
    assert not status(folder).installed
    assert install(folder, python=builder).built


def test_a_python_that_suits_comet_is_found_or_asked_for(tmp_path, monkeypatch):
    new = make_builder(tmp_path / "new", "3.13")
    with pytest.raises(ResourceError, match="is Python 3.13; COMET's packages need one of 3.12"):
        install(tmp_path / "comet", python=str(new))
    with pytest.raises(ResourceError, match="does not run as a Python"):
        install(tmp_path / "comet", python=str(tmp_path / "no-python"))
    monkeypatch.setattr(sys, "executable", str(new))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(ResourceError, match="none was found"):
        install(tmp_path / "comet")
    old = make_builder(tmp_path / "path", "3.11", name="python3.11")
    assert install(tmp_path / "comet").built
    assert len(pip_runs(old)) == 1


def test_the_commands_show_what_is_there(tmp_path, builder):
    def run(*arguments):
        return subprocess.run(
            [COMMAND, "comet", *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"ADAPTERMIX_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"},
            timeout=60,
        )

    before = run("status")
    assert before.returncode == 0
    assert "not installed; to install it: adaptermix comet install" in before.stdout
    done = run("install", "--python", builder, "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["built"] is True
    again = run("install", "--python", builder)
    assert "it was already installed" in again.stderr
    assert "2.2.7" in again.stdout
    record = json.loads(run("status", "--json").stdout)
    assert record["installed"] is True
    assert record["path"] == str(tmp_path / "cache" / "comet")
    Path(builder).with_name("fails").touch()
    failed = run("install", "--python", builder, "--force", "--quiet")
    assert failed.returncode == 6
    error, hint = failed.stderr.splitlines()
    assert error == "error: COMET could not be installed: ERROR: No matching distribution"
    assert hint.startswith("hint: ")
