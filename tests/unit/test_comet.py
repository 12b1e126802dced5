"""COMET in its own environment: the real package where it is installed, and how things fail."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from adaptermix.errors import ArtifactError, DataError, ResourceError
from adaptermix.evaluation.score import score_files
from adaptermix.settings.evaluation import ScoreSettings
from adaptermix.tasks.metrics import comet_environment
from adaptermix.tasks.metrics.comet import Translations, segment_scores, segment_scores_many
from adaptermix.tasks.metrics.comet_environment import default_path, install, status

VENV = Path(__file__).parents[2] / ".venv"
REAL = VENV / "comet" / "bin" / "python"
PYTHON = sys.executable
COMMAND = Path(PYTHON).with_name("adaptermix")


def why_not() -> str:
    reason = VENV / "no-comet"
    said = reason.read_text().strip().splitlines()[:1] if reason.is_file() else []
    return "COMET is not installed in .venv/comet" + "".join(f": {line}" for line in said)


needs_comet = pytest.mark.skipif(
    not status(VENV / "comet").installed,
    reason=why_not(),
)

SOURCES = ["the cat sat", "a dog ran home and slept for a long time", "hello", "", "one two"] * 5
HYPOTHESES = ["die katze sass", "ein hund", "hallo", "nichts", "eins zwei drei"] * 5
REFERENCES = ["die katze saß", "ein hund lief heim", "hallo", "leer", "eins zwei"] * 5
SYSTEMS = [
    Translations(SOURCES, HYPOTHESES, REFERENCES),
    Translations(SOURCES[:7], REFERENCES[:7], REFERENCES[:7]),
]

# Makes a real checkpoint with random weights, and scores with it as COMET's users do.
MAKE_CHECKPOINT = """
import json, sys
from pathlib import Path
import torch, yaml
from comet import load_from_checkpoint
from comet.models import RegressionMetric
from pytorch_lightning import Trainer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizerFast

folder = Path(sys.argv[1])
tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
trainer = trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
)
tokenizer.train_from_iterator(["the cat sat", "die katze"], trainer)
tokenizer.post_processor = processors.TemplateProcessing(
    single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
)
XLMRobertaTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder / "encoder")
torch.manual_seed(0)
encoder = XLMRobertaModel(
    XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=130,
        initializer_range=0.5,
    )
)
encoder.save_pretrained(folder / "encoder")
model = RegressionMetric(
    pretrained_model=str(folder / "encoder"), hidden_sizes=[16], local_files_only=True
)
with torch.no_grad():
    list(model.estimator.parameters())[-2].mul_(10)  # so that scores differ visibly
lightning = Trainer(logger=False, accelerator="cpu")
lightning.strategy.connect(model)
lightning.save_checkpoint(folder / "metric" / "checkpoints" / "model.ckpt")
(folder / "metric" / "hparams.yaml").write_text(yaml.safe_dump(dict(model.hparams)))
systems = json.loads(sys.argv[2])
expected = [
    load_from_checkpoint(str(folder / "metric" / "checkpoints" / "model.ckpt")).predict(
        [dict(zip(("src", "mt", "ref"), row)) for row in zip(*system)],
        gpus=int(torch.cuda.is_available()),
    ).scores
    for system in systems
]
(folder / "expected.json").write_text(json.dumps(expected))
"""


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    """A folder with a real COMET model in ``metric`` and its scores of SYSTEMS."""
    folder = tmp_path_factory.mktemp("comet")
    done = subprocess.run(
        [REAL, "-I", "-c", MAKE_CHECKPOINT, folder, json.dumps(SYSTEMS)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@needs_comet
def test_scores_equal_those_of_comets_own_predict(metric):
    expected = json.loads((metric / "expected.json").read_text())
    model = str(metric / "metric")
    scores = segment_scores_many(SYSTEMS, model=model, python=REAL)
    assert scores.segments == expected
    assert len(expected[0]) == len(SOURCES)
    assert max(expected[0]) - min(expected[0]) > 0.1, "equal scores would prove nothing"
    assert expected[0][:7] != expected[1]
    assert f"comet|model:{model}|dtype:float32|unbabel-comet:2.2.7|" in scores.signature


@needs_comet
def test_segment_scores_are_kept_beside_the_corpus_score(metric, tmp_path):
    for name, lines in zip(("src", "out", "ref"), SYSTEMS[1], strict=True):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    report = score_files(
        ScoreSettings(
            task="wmt23",
            target_lang="de",
            src=tmp_path / "src",
            ref=(tmp_path / "ref",),
            predictions=tmp_path / "out",
            metrics=("chrf", "comet"),
            comet_model=str(metric / "metric"),
            comet_python=REAL,
        )
    )
    record = json.loads(json.dumps(report.as_record()))["metrics"]
    expected = json.loads((metric / "expected.json").read_text())[1]
    assert record["comet"]["segments"] == expected
    assert record["comet"]["score"] == pytest.approx(sum(expected) / len(expected))
    assert len(record["chrf"]["segments"]) == len(expected)


@needs_comet
def test_scores_are_close_to_those_of_the_comet_score_command(metric, tmp_path):
    """Close, for the command rounds the model to float16 (COMET 2.2.7)."""
    for name, lines in zip("str", SYSTEMS[0], strict=True):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    checkpoint = metric / "metric" / "checkpoints" / "model.ckpt"
    subprocess.run(
        [REAL, "-I", REAL.with_name("comet-score"), "-s", "s", "-t", "t", "-r", "r"]
        + ["--model", checkpoint, "--gpus", "0", "--to_json", "scores.json", "--quiet"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=300,
    )
    theirs = [row["COMET"] for row in json.loads((tmp_path / "scores.json").read_text())["t"]]
    ours = segment_scores(*SYSTEMS[0], model=str(checkpoint), python=REAL)
    assert ours == pytest.approx(theirs, abs=5e-3)
    assert ours != theirs


@needs_comet
def test_a_hub_model_that_cannot_be_had_names_both_ways_on(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(
        ResourceError, match="Unbabel/wmt22-comet-da cannot be had from the hub"
    ) as e:
        segment_scores(["a"], ["b"], ["c"], python=REAL)
    assert "network" in e.value.hint
    assert ".ckpt" in e.value.hint


@needs_comet
def test_a_damaged_checkpoint_and_a_missing_encoder_are_told_apart(metric, tmp_path):
    broken = tmp_path / "broken"
    (broken / "checkpoints").mkdir(parents=True)
    (broken / "checkpoints" / "model.ckpt").write_bytes(b"no pickle")
    settings = (metric / "metric" / "hparams.yaml").read_text()
    (broken / "hparams.yaml").write_text(settings)
    with pytest.raises(ArtifactError, match="not a checkpoint that COMET can load: Unpickling"):
        segment_scores(["a"], ["b"], ["c"], model=str(broken), python=REAL)
    (metric / "encoder").rename(metric / "elsewhere")
    try:
        with pytest.raises(ResourceError, match="lacks a file, maybe of its encoder: OSError"):
            segment_scores(["a"], ["b"], ["c"], model=str(metric / "metric"), python=REAL)
    finally:
        (metric / "elsewhere").rename(metric / "encoder")


def fake_python(path: Path, body: str) -> Path:
    """Write an interpreter that does not interpret: a script with the given behavior."""
    head = f"#!{PYTHON} -I\nimport json, os, pathlib, shutil, sys, time\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + body)
    path.chmod(0o755)
    return path


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
answer(scores=[[float(len(row["mt"])) for row in rows] for rows in job["systems"]])
print("{" * 100_000)
"""
    python = fake_python(tmp_path / "python", ANSWER + body)
    systems = [Translations("ab", ["", "xyz"], "ab"), Translations("a", ["ÄÖ\u2028"], "a")]
    scores = segment_scores_many(systems, model=checkpoint, python=python)
    assert scores.segments == [[0.0, 3.0], [3.0]]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('out of luck')", "COMET stopped without scores: .* code 1, .*: out of luck"),
        ("os.kill(os.getpid(), 9)", "its process ended with code -9, its last words: nothing"),
        ("print('garbage')", "code 0, its last words: garbage"),
        ("pathlib.Path(sys.argv[-1]).write_text('{]')", "stopped without scores"),
        ("answer(stage='import', error='ImportError: x')", "cannot import COMET: ImportError: x"),
        ("answer(stage='score', error='OutOfMemoryError: x')", "without scores: OutOfMemoryError"),
        ("answer(scores=[[1.0]])", r"not give one score a segment; expected \[2\]"),
        ("answer(scores=[[1.0, 2.0], []])", "not give one score a segment"),
        ("answer(scores=5)", "not give one score a segment"),
        ("time.sleep(60)", "COMET gave no answer in 0.5 s"),
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

    refuse("nowhere/model.ckpt", "neither a COMET checkpoint nor a hub name")
    refuse("wmt22-comet-da", "neither a COMET checkpoint nor a hub name")
    refuse(tmp_path, "has 0 .ckpt files")
    Path(checkpoint, "checkpoints", "last.ckpt").touch()
    refuse(checkpoint, "has 2 .ckpt files")
    Path(checkpoint, "hparams.yaml").unlink()
    refuse(f"{checkpoint}/checkpoints/last.ckpt", "hparams.yaml: is missing")


def test_an_interpreter_without_comet_says_how_to_install_it(tmp_path, checkpoint):
    with pytest.raises(ResourceError, match="cannot import COMET: ModuleNotFoundError") as error:
        segment_scores("a", "b", "c", model=checkpoint, python=Path(PYTHON))
    assert "adaptermix comet install" in error.value.hint
    assert "--comet-python" in error.value.hint
    with pytest.raises(ResourceError, match="there is no Python"):
        segment_scores("a", "b", "c", model=checkpoint, python=tmp_path / "python")
    (tmp_path / "python").touch()
    with pytest.raises(ResourceError, match="cannot be run: Permission denied"):
        segment_scores("a", "b", "c", model=checkpoint, python=tmp_path / "python")


def test_nothing_installed_says_how_to_install_it(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setenv("ADAPTERMIX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ResourceError, match="COMET is not installed") as error:
        segment_scores("a", "b", "c", model=checkpoint)
    assert "adaptermix comet install" in error.value.hint


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
        with pytest.raises(ArtifactError, match="not empty and not an environment"):
            install(folder, python=builder, force=force)
    with pytest.raises(ArtifactError, match="is not a folder"):
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


def test_the_default_folder_is_in_the_users_cache(monkeypatch):
    monkeypatch.delenv("ADAPTERMIX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_path() == Path.home() / ".cache" / "adaptermix" / "comet"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_path() == Path("/x/adaptermix/comet")
    monkeypatch.setenv("ADAPTERMIX_CACHE", "~/y")
    assert default_path() == Path.home() / "y" / "comet"


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
    assert "not installed; `adaptermix comet install` does it" in before.stdout
    done = run("install", "--python", builder, "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["built"] is True
    again = run("install", "--python", builder)
    assert "it was there already" in again.stderr
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


def test_importing_the_module_is_light():
    code = (
        "import sys, adaptermix.tasks.metrics.comet; "
        "print({'torch', 'transformers', 'pydantic', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
