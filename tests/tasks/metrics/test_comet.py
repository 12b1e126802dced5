"""COMET in its own environment: the real package where it is installed, and how things fail."""

import subprocess
from pathlib import Path

import pytest
from helpers.comet import PYTHON, fake_python

from adaptermix.errors import ArtifactError, DataError, ResourceError
from adaptermix.tasks.metrics.comet import Translations, segment_scores, segment_scores_many
from adaptermix.tasks.metrics.comet_environment import default_path


@pytest.fixture
def checkpoint(tmp_path):
    """What looks like a COMET model from outside."""
    (tmp_path / "metric" / "checkpoints").mkdir(parents=True)
    (tmp_path / "metric" / "checkpoints" / "model.ckpt").touch()
    (tmp_path / "metric" / "hparams.yaml").touch()
    return str(tmp_path / "metric")


ANSWER = "\ndef answer(**known): pathlib.Path(sys.argv[-1]).write_text(json.dumps(known))\n"


def test_what_the_libraries_print_does_not_reach_the_scores(tmp_path, checkpoint, capfd):
    body = """
job = json.loads(pathlib.Path(sys.argv[-2]).read_text())
print('{"scores": [[9.0]]}'); print("GPU available: False", file=sys.stderr)
scores = [[float(len(row["mt"])) for row in rows] for rows in job["systems"]]
answer(scores=scores, versions={"a": "1.0", "b": "2.0"})
print("{" * 100_000)
"""
    python = fake_python(tmp_path / "python", ANSWER + body)
    systems = [Translations("ab", ["", "xyz"], "ab"), Translations("a", ["ÄÖ\u2028"], "a")]
    scores = segment_scores_many(systems, model=checkpoint, python=python)
    assert scores.segments == [[0.0, 3.0], [3.0]]
    assert scores.signature == f"comet|model:{checkpoint}|dtype:float32|a:1.0|b:2.0"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('out of luck')", "COMET stopped without scores: .* code 1; .*: out of luck"),
        (
            "os.kill(os.getpid(), 9)",
            "its process ended with code -9; its last line of output: nothing",
        ),
        ("print('garbage')", "code 0; its last line of output: garbage"),
        ("pathlib.Path(sys.argv[-1]).write_text('{]')", "stopped without scores"),
        ("answer(stage='import', error='ImportError: x')", "cannot import COMET: ImportError: x"),
        ("answer(stage='score', error='OutOfMemoryError: x')", "without scores: OutOfMemoryError"),
        ("answer(scores=[[1.0]])", r"not return one score per segment; expected \[2\]"),
        ("answer(scores=[[1.0, 2.0], []])", "not return one score per segment"),
        ("answer(scores=5)", "not return one score per segment"),
        ("time.sleep(60)", "COMET did not respond within 0.5 s"),
    ],
)
def test_a_process_that_fails_is_a_resource_error(tmp_path, checkpoint, body, message):
    python = fake_python(tmp_path / "python", ANSWER + body)
    timeout = 0.5 if "sleep" in body else 30
    with pytest.raises(ResourceError, match=message):
        segment_scores("ab", "cd", "ef", model=checkpoint, python=python, timeout_seconds=timeout)


def test_scores_that_are_not_numbers_are_refused(tmp_path, checkpoint):
    python = fake_python(tmp_path / "python", ANSWER + "answer(scores=[[1.0, float('nan')]])")
    with pytest.raises(ArtifactError, match="not finite"):
        segment_scores("ab", "cd", "ef", model=checkpoint, python=python)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ((["a"], ["b", "c"], ["d"]), "1 sources, 2 hypotheses and 1 references"),
        ((["a", "b"], ["c", "d"], ["e"]), "2 sources, 2 hypotheses and 1 references"),
        ((["a"], ["b"], []), "no references"),
        (([], [], []), "no references"),
    ],
)
def test_segments_that_do_not_belong_together_are_refused(segments, message):
    with pytest.raises(DataError, match=message):
        segment_scores(*segments, python=Path("never started"))


def test_models_that_cannot_be_meant_are_refused_before_a_process_starts(tmp_path, checkpoint):
    def refuse(model, message):
        with pytest.raises(ArtifactError, match=message):
            segment_scores("a", "b", "c", model=str(model), python=Path("never started"))

    refuse("nowhere/model.ckpt", "neither a COMET checkpoint nor a name on the Hub")
    refuse("wmt22-comet-da", "neither a COMET checkpoint nor a name on the Hub")
    refuse(tmp_path, "contains 0 .ckpt files")
    Path(checkpoint, "checkpoints", "last.ckpt").touch()
    refuse(checkpoint, "contains 2 .ckpt files")
    Path(checkpoint, "hparams.yaml").unlink()
    refuse(f"{checkpoint}/checkpoints/last.ckpt", "hparams.yaml: no such file")


@pytest.mark.slow
def test_an_interpreter_without_comet_says_how_to_install_it(tmp_path, checkpoint):
    with pytest.raises(ResourceError, match="cannot import COMET: ModuleNotFoundError") as error:
        segment_scores("a", "b", "c", model=checkpoint, python=Path(PYTHON))
    assert "adaptermix comet install" in error.value.hint
    assert "--comet-python" in error.value.hint
    with pytest.raises(ResourceError, match="no such Python interpreter"):
        segment_scores("a", "b", "c", model=checkpoint, python=tmp_path / "python")
    (tmp_path / "python").touch()
    with pytest.raises(ResourceError, match="cannot be run: Permission denied"):
        segment_scores("a", "b", "c", model=checkpoint, python=tmp_path / "python")


def test_nothing_installed_says_how_to_install_it(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setenv("ADAPTERMIX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ResourceError, match="COMET is not installed") as error:
        segment_scores("a", "b", "c", model=checkpoint)
    assert "adaptermix comet install" in error.value.hint


def test_the_default_folder_is_in_the_users_cache(monkeypatch):
    monkeypatch.delenv("ADAPTERMIX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_path() == Path.home() / ".cache" / "adaptermix" / "comet"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_path() == Path("/x/adaptermix/comet")
    monkeypatch.setenv("ADAPTERMIX_CACHE", "~/y")
    assert default_path() == Path.home() / "y" / "comet"


def test_importing_the_module_is_light():
    code = (
        "import sys, adaptermix.tasks.metrics.comet; "
        "print({'torch', 'transformers', 'pydantic', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
