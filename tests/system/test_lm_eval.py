"""Tasks of lm-eval on small local data: its own numbers, resumed runs, reports and recipes."""

import json
import shutil

import pytest
import torch
from helpers.adapters import peft_adapter
from helpers.evaluation import read_predictions
from helpers.lm_eval_tasks import CHOICE, COUNT, write_tasks
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaptermix.commands.catalog import COMMANDS
from adaptermix.commands.command import Call
from adaptermix.errors import AdaptermixError, ConfigError
from adaptermix.evaluation.evaluate import evaluate, plan
from adaptermix.recipes import plan as recipe_plan
from adaptermix.recipes.recipe import read_recipe
from adaptermix.recipes.run import run
from adaptermix.reports.page import report as write_report
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.reports import ReportSettings

pytest.importorskip("lm_eval", reason='lm-eval tasks need pip install "adaptermix[lm-eval]"')

# Tasks that are refused: what differs from the choice above, the error and its words.
REFUSED = {
    "corpus": ("{metric: f1, aggregation: f1, higher_is_better: true}", "not a mean over examples"),
    "lower": ("{metric: acc, aggregation: mean, higher_is_better: false}", "lower values"),
    "code": ("{metric: somebodys, aggregation: mean, higher_is_better: true}", "code from the Hub"),
    "unsafe": (
        "{metric: acc, aggregation: mean, higher_is_better: true}\nunsafe_code: true",
        "runs",
    ),
}


def write_refused_tasks(folder):
    for name, (metric, _) in REFUSED.items():
        text = CHOICE.format(folder=folder).replace("toy_choice", f"toy_{name}")
        start, end = text.index("metric_list"), text.index("metadata")
        text = f"{text[:start]}metric_list:\n  - {metric}\n{text[end:]}".replace(
            "tag: toys", f"tag: tag_{name}"
        )
        (folder / f"{name}.yaml").write_text(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_dir, datasets_cache):
    """A base model, two adapters and tasks."""
    folder = tmp_path_factory.mktemp("lm-eval")
    (folder / "base").symlink_to(model_dir)
    for seed, name in enumerate(("task", "merged")):
        peft_adapter(model_dir, folder / name, seed=seed)
    write_refused_tasks(write_tasks(folder / "tasks"))
    return folder


def settings_in(place, out, **changes):
    adapters = (str(place / "task"), str(place / "merged"))
    return EvalSettings(
        **{
            "model": str(place / "base"),
            "task": "lm-eval:toy_choice,toy_answer",
            "lm_eval_path": place / "tasks",
            "adapters": adapters,
            "batch_size": 4,
            "out": out,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def evaluated(place):
    """A whole run, which starts again after it was stopped; the cache of its results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTERMIX_CACHE", str(place / "cache"))
        seen = []

        def stop(progress):
            seen.append(progress.done)
            if progress.done == 3 * COUNT:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluate(settings_in(place, place / "run"), on_progress=stop)
        assert not (place / "run").exists()
        report = evaluate(settings_in(place, place / "run"))
    assert (report.reused, report.decoded) == (3 * COUNT, 3 * COUNT)
    return report


@pytest.fixture
def known(place, evaluated, monkeypatch):
    """The results of the run are known."""
    monkeypatch.setenv("ADAPTERMIX_CACHE", str(place / "cache"))


def reaches_the_limit(lm, prompt):
    """Whether a model goes on for all of the six tokens that the task's answers may have."""
    asked = lm.tokenizer(prompt, return_tensors="pt")
    made = lm.model.generate(**asked, max_new_tokens=6, do_sample=False)[0]
    ids = made[asked["input_ids"].shape[1] :].tolist()
    text = lm.tokenizer.decode(ids)
    return len(ids) == 6 and lm.tokenizer.eos_token not in text and "\n" not in text


def test_scores_are_those_of_lm_eval(place, evaluated, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # takes seconds
    for system in ("base", "merged"):
        model = AutoModelForCausalLM.from_pretrained(place / "base")
        if system == "merged":
            model = PeftModel.from_pretrained(model, str(place / "merged"))
        lm = HFLM(
            pretrained=model.eval(),
            tokenizer=AutoTokenizer.from_pretrained(place / "base"),
            batch_size=4,
        )
        theirs = simple_evaluate(
            model=lm,
            tasks=["toy_choice", "toy_answer"],
            task_manager=TaskManager(include_path=place / "tasks", include_defaults=False),
            bootstrap_iters=0,
        )
        for task, metric in (("toy_choice", "acc,none"), ("toy_answer", "exact_match,letter")):
            score = evaluated.cell(system, task).score
            assert score.value == pytest.approx(theirs["results"][task][metric], abs=1e-12)
            filtered = metric.partition(",")[2]
            samples = [s for s in theirs["samples"][task] if s["filter"] == filtered]
            rows = read_predictions(place / "run", system, task)
            own = metric.partition(",")[0]
            assert [row["scores"]["score"] for row in rows] == [s[own] for s in samples]
            assert [row["utterance"] for row in rows] == [s["arguments"][0][0] for s in samples]
            if task == "toy_answer":
                assert [row["output"] for row in rows] == [s["resps"][0][0] for s in samples]
                cut = [reaches_the_limit(lm, s["arguments"][0][0]) for s in samples]
                assert [row["is_cut"] for row in rows] == cut
                assert evaluated.cell(system, task).cut_answers == sum(cut) > 0
            else:
                assert [row["output"] == row["expected"] for row in rows] == [
                    bool(s["acc"]) for s in samples
                ]


def test_tasks_stand_as_languages_in_tables_and_records(place, evaluated):
    assert (evaluated.task, evaluated.split, evaluated.row_name) == ("lm-eval", "test", "task")
    assert evaluated.langs == ["toy_choice", "toy_answer"]
    assert len({evaluated.macro[system] for system in evaluated.systems}) > 1, "some differ"
    signatures = [cell.score.signature for cell in evaluated.cells[:2]]
    assert [text.rpartition("|by:")[0] for text in signatures] == [
        "acc|task:toy_choice|task-version:1.0|filter:none|shots:0",
        "exact_match|task:toy_answer|task-version:2.0|filter:letter|shots:1",
    ]
    assert {(c.system, c.over) for c in evaluated.comparisons} == {
        (system, over)
        for system in ("task", "merged")
        for over in ("toy_choice", "toy_answer", "macro average")
    }
    record = json.loads((place / "run" / "scores.json").read_text())
    assert record["settings"]["langs"] == evaluated.langs


def test_results_are_reused_until_something_changes(place, tmp_path, known):
    same = settings_in(place, tmp_path / "same", batch_size=3, groups={"a": "toy_choice"})
    report = evaluate(same)
    assert (report.decoded, report.reused) == (0, 6 * COUNT)
    assert list(report.groups) == ["a"]
    less = evaluate(settings_in(place, tmp_path / "less", limit=5, adapters=()))
    assert (less.decoded, less.reused) == (0, 10), "each example has a result of its own"
    tasks = shutil.copytree(place / "tasks", tmp_path / "tasks")
    rows = (tasks / "choice.jsonl").read_text().replace('"right": 0', '"right": 1')
    (tasks / "choice.jsonl").write_text(rows)
    text = (tasks / "choice.yaml").read_text()
    (tasks / "choice.yaml").write_text(text.replace(str(place / "tasks"), str(tasks)))
    changed = settings_in(place, tmp_path / "changed", lm_eval_path=tasks, adapters=())
    report = evaluate(changed)
    assert (report.decoded, report.reused) == (COUNT, COUNT), "the other task lies elsewhere"
    (tasks / "choice.jsonl").write_text(rows.replace("jazz", "music"))
    report = evaluate(settings_in(place, tmp_path / "in-place", lm_eval_path=tasks, adapters=()))
    changed = sum("jazz" in row for row in rows.splitlines())
    assert (report.decoded, report.reused) == (changed, 2 * COUNT - changed)


def test_a_generation_config_that_lm_eval_applies_is_told_and_counts(place, tmp_path, known):
    """lm-eval applies penalties of the base model, so results without them are not reused."""
    base = shutil.copytree((place / "base").resolve(), tmp_path / "base")
    path = base / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 1.5}))
    given = {"model": str(base), "adapters": ()}
    report = evaluate(settings_in(place, tmp_path / "out", **given))
    assert report.reused == 0
    (note,) = [note for note in report.notes if "generation_config.json" in note]
    assert "repetition_penalty = 1.5" in note
    choice = settings_in(place, tmp_path / "c", task="lm-eval:toy_choice", **given)
    assert not [note for note in evaluate(choice).notes if "generation_config" in note]
    plain = evaluate(settings_in(place, tmp_path / "plain", adapters=()))
    assert plain.reused == 2 * COUNT
    assert not [note for note in plain.notes if "generation_config" in note]


def test_a_batch_that_does_not_fit_is_halved(place, tmp_path, monkeypatch):
    from lm_eval import evaluator

    sizes, work = [], evaluator.evaluate

    def small(lm, **options):
        sizes.append(lm.batch_size)
        if lm.batch_size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB")
        return work(lm=lm, **options)

    monkeypatch.setattr(evaluator, "evaluate", small)
    settings = settings_in(place, tmp_path / "x", batch_size=8, limit=4, adapters=())
    assert evaluate(settings).decoded == 8
    assert sizes == [8, 4, 2, 2]


def test_metrics_and_filters_are_chosen_by_name(place, tmp_path, known):
    settings = settings_in(
        place, tmp_path / "norm", task="lm-eval:toy_choice", metrics=("acc_norm", "acc")
    )
    report = evaluate(settings)
    assert report.reused == 3 * COUNT
    scores = report.cells[0].scores
    assert list(scores) == ["acc_norm", "acc"]
    whole = settings_in(
        place, tmp_path / "whole", task="lm-eval:toy_answer", metrics=("exact_match:whole",)
    )
    rows = evaluate(whole) and read_predictions(tmp_path / "whole", "base", "toy_answer")
    assert all(row["predicted"] == row["output"] for row in rows)


def test_a_tag_is_taken_apart(place, tmp_path, monkeypatch):
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(  # reading lm-eval's own 14,000 names takes seconds
        "adaptermix.evaluation.harness._manager",
        lambda folder, has_defaults: TaskManager(include_path=folder, include_defaults=False),
    )
    made = plan(settings_in(place, tmp_path / "x", task="lm-eval:toys", limit=3))
    assert made.examples == {"toy_answer": 3, "toy_choice": 3}
    assert made.longest_prompt > 10
    for changes, words, hint in (
        ({"task": "lm-eval:toy_choise"}, "no task 'toy_choise'", "toy_choice"),
        ({"lm_eval_path": tmp_path / "no"}, "no such folder", ""),
        ({"max_new_tokens": 256}, "context is 256 tokens", "--max-new-tokens"),
        ({"metrics": ("acc",)}, "toy_answer has no metric 'acc'", "exact_match"),
        *(({"task": f"lm-eval:toy_{name}"}, words, "") for name, (_, words) in REFUSED.items()),
        ({"task": "lm-eval:tag_unsafe"}, "runs code", ""),
    ):
        with pytest.raises(ConfigError) as caught:
            plan(settings_in(place, tmp_path / "x", **changes))
        assert words in str(caught.value)
        assert hint in (caught.value.hint or "")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("source", "code"), [("json", 4), ("nobody/nothing", 6)])
def test_data_that_is_not_there_is_one_line(place, tmp_path, source, code):
    """A local file is missing, or the Hub is out of reach."""
    tasks = shutil.copytree(place / "tasks", tmp_path / "tasks")
    text = (tasks / "choice.yaml").read_text().replace(f"{place}/tasks/choice", "nowhere/choice")
    (tasks / "choice.yaml").write_text(text.replace("path: json", f"path: {source}"))
    with pytest.raises(AdaptermixError, match="toy_choice") as caught:
        plan(settings_in(place, tmp_path / "x", lm_eval_path=tasks, task="lm-eval:toy_choice"))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == code


def test_reports_and_recipes_read_such_runs(place, tmp_path, known):
    page = tmp_path / "page.html"
    write_report([place / "run"], ReportSettings(out=page))
    text = page.read_text()
    assert "toy_choice" in text
    assert "over 2 tasks" in text
    assert "languages better" not in text
    recipe = place / "recipe.toml"
    recipe.write_text(
        """
        out = "runs"
        model = "base"
        data-dir = "nowhere"
        langs = "cy"
        [knows]
        command = "eval"
        task = "lm-eval:toy_choice,toy_answer"
        lm-eval-path = "tasks"
        adapters = ["task", "merged"]
        batch-size = 4
        [page]
        command = "report"
        runs = ["@knows", "run"]
        """.replace("        ", "")
    )
    read = read_recipe(recipe)
    step = recipe_plan.plan(read).steps[0]
    assert step.problem is None
    assert step.cost["answers"] == 6 * COUNT
    report = run(read)
    assert [each.status for each in report.steps] == ["done", "done"]
    assert "toy_answer" in (place / "runs" / "page.html").read_text()
    record = json.loads((place / "runs" / "knows" / "scores.json").read_text())
    assert record["reused"] == 6 * COUNT
    assert recipe_plan.plan(read_recipe(recipe)).steps[0].status == "finished"


def test_the_command_line_runs_it_without_a_model(place, tmp_path, known):
    """All results are known, so that the base need not be loaded."""
    call = Call(settings_in(place, tmp_path / "out"))
    assert COMMANDS["eval"].perform(call).reused == 6 * COUNT
