"""The real COMET, where it is installed, on a checkpoint of random weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adaptermix.errors import ArtifactError, ResourceError
from adaptermix.evaluation.score import score_files
from adaptermix.settings.evaluation import ScoreSettings
from adaptermix.tasks.metrics.comet import Translations, segment_scores, segment_scores_many
from adaptermix.tasks.metrics.comet_environment import status

VENV = Path(__file__).parents[2] / ".venv"
REAL = VENV / "comet" / "bin" / "python"
PYTHON = sys.executable


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
        ResourceError, match="Unbabel/wmt22-comet-da could not be downloaded from the Hub"
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
        with pytest.raises(ResourceError, match="possibly one of its encoder's: OSError"):
            segment_scores(["a"], ["b"], ["c"], model=str(metric / "metric"), python=REAL)
    finally:
        (metric / "elsewhere").rename(metric / "encoder")
