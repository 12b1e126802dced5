"""Every task can be trained and tested: the same chain on small files of each."""

import json
import shutil

import pytest
from helpers.comet import fake_python
from helpers.evaluation import eval_settings, read_predictions
from helpers.models import make_tokenizer, save_model_of_eot
from helpers.training import joint_settings, task_settings
from pydantic import ValidationError

from adaptermix.evaluation.evaluate import evaluate
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.training import TrainTaskSettings
from adaptermix.training.joint import train_joint
from adaptermix.training.task import train_task

COLORS = {"red": "rot", "blue": "blau", "green": "grün", "white": "weiß"}


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_translations(folder):
    pairs = [(f"the {c} lamp {n}", f"die Lampe {d} {n}") for c, d in COLORS.items() for n in "123"]
    rows = [json.dumps({"translation": {"en": en, "de": de}}) for en, de in pairs]
    write(folder / "de-en.train.json", rows)
    write(folder / "de-en.valid.json", rows[:4])
    write(folder / "en-de.src", [en for en, _ in pairs])
    write(folder / "en-de.ref", [de for _, de in pairs])
    write(folder / "de-en.src", [de for _, de in pairs])
    write(folder / "de-en.ref", [en for en, _ in pairs])


def write_comet(folder):
    """A metric whose scores are the lengths of the outputs; it counts its starts."""
    body = f"""
with open({str(folder / "starts")!r}, "a") as starts:
    starts.write("start\\n")
systems = json.loads(pathlib.Path(sys.argv[-2]).read_text())["systems"]
scores = [[float(len(row["mt"])) for row in rows] for rows in systems]
pathlib.Path(sys.argv[-1]).write_text(json.dumps({{"scores": scores}}))
"""
    (folder / "metric" / "checkpoints").mkdir(parents=True)
    (folder / "metric" / "checkpoints" / "model.ckpt").touch()
    (folder / "metric" / "hparams.yaml").touch()
    python = fake_python(folder / "python", body)
    return {"comet_model": str(folder / "metric"), "comet_python": python}


def write_entities(folder):
    for split in ("train", "dev", "test"):
        lines = []
        for number, color in enumerate(COLORS):
            lines += [f"# sent_id = {number}", f"# text = I {color}", "1\tI\tO"]
            lines += [f"2\t{color}\tB-LOC", ""]
        write(folder / f"en.{split}.iob2", lines)


def write_records(folder):
    rows = [json.dumps({"word": word, "color": color}) for word, color in COLORS.items()]
    write(folder / "en.jsonl", rows)
    toml = ['name = "colors"', 'metrics = ["exact-match", "chrf"]', 'prompt = "{word}?"']
    toml += ['answer = "color"', "[files]"]
    toml += [f'{split} = "{{lang}}.jsonl"' for split in ("train", "dev", "test")]
    write(folder / "colors.toml", toml)


@pytest.mark.parametrize(
    ("task", "lang", "metrics", "count"),
    [
        ("massive", "en", {"slot_f1"}, 5),
        ("wmt23", "en-de", {"bleu", "chrf"}, 5),
        ("uner", "en", {"entity_f1"}, 4),
        ("colors.toml", "en", {"exact_match", "chrf"}, 4),
    ],
)
def test_a_task_is_trained_and_tested(tmp_path, model_dir, corpus_dir, task, lang, metrics, count):
    for write_files in (write_translations, write_entities, write_records):
        write_files(tmp_path)
    folder = corpus_dir if task == "massive" else tmp_path
    name = str(tmp_path / task) if task.endswith(".toml") else task
    chosen = {"task": name, "langs": (lang,)}
    adapter = tmp_path / "adapter"
    train_task(task_settings(model_dir, folder, adapter, max_steps=1, batch_size=2, **chosen))
    out = tmp_path / "out"
    settings = eval_settings(model_dir, folder, out, adapters=(str(adapter),), **chosen)
    report = evaluate(settings)
    assert {cell.examples for cell in report.cells} == {count}
    assert all(set(cell.scores) == metrics for cell in report.cells)
    record = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert set(record["cells"][0]["scores"]) == metrics
    rows = read_predictions(out, "adapter", lang)
    assert all(row["utterance"] and "predicted" in row and row["expected"] for row in rows)


def test_comet_starts_once_for_all_systems_and_languages(tmp_path, model_dir):
    write_translations(tmp_path)
    chosen = {"task": "wmt23", "langs": ("en-de", "de-en"), "metrics": ("comet", "chrf")}
    settings = eval_settings(
        model_dir, tmp_path, tmp_path / "out", limit=2, **chosen, **write_comet(tmp_path)
    )
    report = evaluate(settings)
    for cell in report.cells:
        rows = read_predictions(tmp_path / "out", cell.system, cell.lang)
        assert cell.score.segments == tuple(len(row["output"]) for row in rows)
    assert [cell.lang for cell in report.cells] == ["en-de", "de-en"]
    assert (tmp_path / "starts").read_text() == "start\n"


def test_the_paper_s_scorer_and_prompt_can_be_chosen(tmp_path, model_dir, corpus_dir):
    chosen = {"scorer": "paper", "prompt": "zero-shot", "system_prompt": None, "limit": 2}
    report = evaluate(eval_settings(model_dir, corpus_dir, tmp_path / "out", **chosen))
    assert "scorer:paper" in report.cells[0].score.signature
    assert read_predictions(tmp_path / "out", "base", "en")[0]["expected"][-1].endswith(
        "house_place"
    )


def test_any_files_can_be_translated(tmp_path, model_dir):
    write(tmp_path / "a.txt", ["red", "blue"])
    write(tmp_path / "b.txt", ["coch", "glas"])
    files = {"task": "wmt23", "src": tmp_path / "a.txt", "ref": (tmp_path / "b.txt",)}
    settings = eval_settings(model_dir, None, tmp_path / "out", langs=("en-cy",), **files)
    evaluate(settings)
    rows = read_predictions(tmp_path / "out", "base", "en-cy")
    assert [(row["utterance"], row["expected"]) for row in rows] == [
        ("red", ["coch"]),
        ("blue", ["glas"]),
    ]
    for changes in ({"ref": ()}, {"langs": ("en-cy", "en-de")}, {"task": "massive"}):
        with pytest.raises(ValidationError, match="--src"):
            eval_settings(model_dir, None, tmp_path, **{"langs": ("en-cy",), **files, **changes})


def test_a_task_brings_its_own_defaults():
    assert EvalSettings().langs[:2] == ("ar", "en")
    assert str(EvalSettings().out) == "eval-massive"
    translation = EvalSettings(task="wmt23")
    assert translation.langs == ("he-en", "ja-en", "uk-en", "en-he", "en-ja", "en-uk")
    assert (translation.max_new_tokens, str(translation.out)) == (512, "eval-wmt23")
    assert EvalSettings(task="uner", langs=("da",), max_new_tokens=9).langs == ("da",)
    assert EvalSettings(task="uner", max_new_tokens=9).max_new_tokens == 9
    assert TrainTaskSettings(task="uner").langs == ("en", "pt", "zh")
    assert len(TrainTaskSettings(task="wmt23").langs) == 10
    assert str(EvalSettings(task="x/my.toml").out) == "eval-my"


@pytest.mark.parametrize("changes", [{}, {"turn_newline": True}, {"system_prompt": "Translate."}])
def test_trainings_and_an_evaluation_ask_the_same(
    tmp_path, model_dir, corpus_dir, monkeypatch, changes
):
    """The very same prompt ids of the same example, whatever the options of the prompt are."""
    write_records(tmp_path)
    shutil.copytree(corpus_dir / "pairs", tmp_path / "pairs")
    base = save_model_of_eot(model_dir, tmp_path / "base")
    asked = []
    prompt_ids = PromptEncoder.prompt_ids

    def noted(self, messages):
        asked.append(tuple(prompt_ids(self, messages)))
        return asked[-1]

    monkeypatch.setattr(PromptEncoder, "prompt_ids", lambda *given: list(noted(*given)))
    chosen = {"task": str(tmp_path / "colors.toml"), "langs": ("en",), "system_prompt": None}
    chosen |= changes
    found = {}
    for name, run in {
        "task": lambda: train_task(task_settings(base, tmp_path, "x", **chosen), dry_run=True),
        "joint": lambda: train_joint(joint_settings(base, tmp_path, "x", **chosen), dry_run=True),
        "eval": lambda: evaluate(
            eval_settings(base, tmp_path, tmp_path / "out", max_new_tokens=1, **chosen)
        ),
    }.items():
        asked.clear()
        run()
        found[name] = set(asked)
    assert found["task"] == found["joint"] == found["eval"]
    assert len(found["eval"]) == len(COLORS)
    text = make_tokenizer("<|eot_id|>").decode(max(found["eval"]))
    assert ("<|eot_id|>\n" in text) == changes.get("turn_newline", False)
    assert ("Translate." in text) == ("system_prompt" in changes)
