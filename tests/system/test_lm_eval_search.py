"""The search of merge weights on lm-eval tasks: dev data, a race, reports, recipes."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.adapters import peft_adapter
from helpers.corpus import SENTENCES
from helpers.lm_eval_tasks import ANSWER, CHOICE, write_choices, write_lines, write_tasks
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from adaptermix.adapters.adapter import read_adapter
from adaptermix.cli.main import program
from adaptermix.commands.catalog import COMMANDS
from adaptermix.commands.command import Call
from adaptermix.errors import ArtifactError, ConfigError, ResourceError
from adaptermix.evaluation.evaluate import evaluate
from adaptermix.evaluation.harness import part_of
from adaptermix.merging.merge import merge
from adaptermix.recipes import plan as recipe_plan
from adaptermix.recipes.recipe import read_recipe
from adaptermix.recipes.run import run
from adaptermix.reports.page import report as write_report
from adaptermix.search.run import _prepare, plan_search, search, search_folder
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.merging import MergeSettings, SearchSettings
from adaptermix.settings.reports import ReportSettings

pytest.importorskip("lm_eval", reason='lm-eval tasks need pip install "adaptermix[lm-eval]"')

DEV = 14  # dev examples of the choice; the answer has half as many
GRID = "0.2,0.4,0.6,0.8"
ALL = (*GRID.split(","), "task alone", "align alone")
FILES = "dataset_kwargs: {data_files: "
# A task is a file above with other lines; none of these tasks can be searched.
REFUSED = {
    "toy_choice": ("has only the split 'test', which eval uses", "a validation or"),
    "toy_scored": ("has only the split 'validation', which eval uses", "a validation or"),
    "toy_named_twice": ("has only the split 'test'", "a validation or"),
    "toy_answer": ("all examples of the split 'train' are also in the split 'test'", ""),
    "toy_shots": ("takes its few-shot examples from the split 'test'", "another fewshot_split"),
}


def write_search_tasks(folder):
    """Write a choice with a validation split, an answer with a training split, and others."""
    write_tasks(folder)
    words = [text for group in SENTENCES.values() for text in group]
    sentences = [f"{words[at % 12]} {words[(at * 5 + at // 12) % 12]}" for at in range(DEV)]
    write_choices(folder / "dev.jsonl", sentences)
    rows = [{"text": t, "right": "aehi"[at % 4]} for at, t in enumerate(sentences[: DEV // 2])]
    write_lines(folder / "train.jsonl", rows)
    same = json.loads((folder / "choice.jsonl").read_text().splitlines()[3])
    partly = [same, *map(json.loads, (folder / "dev.jsonl").read_text().splitlines()[:3])]
    write_lines(folder / "partly.jsonl", partly)
    choice, answer = CHOICE.format(folder=folder), ANSWER.format(folder=folder)
    dev = f"validation: {folder}/dev.jsonl"
    both = choice.replace("{test:", f"{{{dev}, test:")
    three = both.replace("{validation", f"{{train: {folder}/partly.jsonl, validation")
    text = {
        "dev_choice": three.replace(
            "test_split", "training_split: train\nvalidation_split: validation\ntest_split"
        ),
        "dev_answer": answer.replace(f"train: {folder}/answer", f"train: {folder}/train").replace(
            "fewshot_split", "training_split: train\nfewshot_split"
        ),
        "own_shots": answer.replace(f"train: {folder}/answer", f"train: {folder}/train").replace(
            "fewshot_split", "training_split"
        ),
        "partly": both.replace("dev.jsonl", "partly.jsonl").replace(
            "test_split", "validation_split: validation\ntest_split"
        ),
        "trained": choice.replace("{test:", f"{{train: {folder}/dev.jsonl, validation:").replace(
            "test_split: test", "training_split: train\nvalidation_split: validation"
        ),
        "on_dev": both.replace("test_split: test", "test_split: validation"),
        "toy_scored": choice.replace("{test:", "{validation:").replace(
            "test_split: test", "validation_split: validation"
        ),
        "toy_named_twice": choice.replace("test_split", "validation_split: test\ntest_split"),
        "toy_shots": both.replace(
            "test_split", "validation_split: validation\nfewshot_split: test\ntest_split"
        ).replace("metric_list", "num_fewshot: 2\nmetric_list"),
        "toy_answer": answer.replace("fewshot_split", "training_split: train\nfewshot_split"),
    }
    for name, content in text.items():
        for known in ("toy_choice", "toy_answer"):
            content = content.replace(f"task: {known}", f"task: {name}")
        (folder / f"{name}.yaml").write_text(content.replace("tag: toys\n", ""))
    (folder / "answer.yaml").unlink()  # named toy_answer, too
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_dir, datasets_cache):
    """A base model, two adapters and tasks."""
    folder = tmp_path_factory.mktemp("lm-eval")
    (folder / "base").symlink_to(model_dir)
    for seed, name in enumerate(("task", "align")):
        peft_adapter(model_dir, folder / name, seed=seed)
    write_search_tasks(folder / "tasks")
    return folder


def adapters_in(place):
    return [place / "task", place / "align"]


def settings_in(place, out, **changes):
    return SearchSettings(
        **{
            "model": str(place / "base"),
            "task": "lm-eval:dev_choice,dev_answer",
            "lm_eval_path": place / "tasks",
            "search": GRID,
            "batch_size": 4,
            "out": out,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def searched(place):
    """A race that is stopped in its second round and started again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTERMIX_CACHE", str(place / "cache"))
        seen = []

        def stop(progress):
            seen.append(progress.detail)
            if len(seen) == 6 * 2 + 4:
                raise KeyboardInterrupt

        settings = settings_in(place, place / "merged")
        with pytest.raises(KeyboardInterrupt):
            search(adapters_in(place), settings, on_progress=stop)
        assert "candidate 0.4 on dev_answer" in seen
        assert not (place / "merged").exists()
        report = search(adapters_in(place), settings)
    assert 0 < report.reused < report.decoded
    return report


@pytest.fixture
def known(place, searched, monkeypatch):
    """The results of the search are known."""
    monkeypatch.setenv("ADAPTERMIX_CACHE", str(place / "cache"))


def asked(place, tmp_path, **changes):
    return _prepare(adapters_in(place), settings_in(place, tmp_path / "x", **changes), False)


def test_a_race_goes_on_where_it_stopped_and_ends_as_without_a_stop(place, searched, tmp_path):
    whole = search(adapters_in(place), settings_in(place, tmp_path / "whole", cache=False))
    assert whole.candidates == searched.candidates
    (note,) = [note for note in whole.notes if "were cut" in note]
    assert note.startswith("lm-eval task dev_answer: ")
    assert note.endswith("were cut; --max-new-tokens changes the limit")
    assert (whole.winner, whole.verdict, whole.tied) == (
        searched.winner,
        searched.verdict,
        searched.tied,
    )
    assert whole.reused == 0
    names = {candidate.name for candidate in searched.candidates}
    assert names >= set(ALL)
    counts = {candidate.examples for candidate in searched.candidates}
    assert max(counts) == DEV * 3 // 2
    assert len(counts) > 1, "the worse half left the race"
    assert searched.decoded < searched.exhaustive == len(names) * DEV * 3 // 2
    assert read_adapter(place / "merged").record["search"]["langs"] == ["dev_choice", "dev_answer"]


def test_the_record_is_that_of_every_search(place, searched):
    record = json.loads((search_folder(place / "merged") / "search.json").read_text())
    assert (record["task"], record["engine"]) == ("lm-eval", "transformers")
    assert record["langs"] == ["dev_choice", "dev_answer"]
    assert record["settings"]["task"] == "lm-eval:dev_choice,dev_answer"
    assert all(c["score"]["low"] <= c["score"]["value"] for c in record["candidates"])
    assert len({c["score"]["value"] for c in record["candidates"]}) > 1
    note = "the dev data of dev_answer is its split 'train'; eval uses 'test'"
    assert searched.notes[:2] == [
        note,
        "the score is the average of acc of dev_choice, exact_match of dev_answer",
    ]


def test_a_candidate_has_the_score_that_lm_eval_gives_its_merge(
    place, tmp_path, known, monkeypatch
):
    """lm-eval is told to score the validation split."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # takes seconds
    settings = settings_in(place, tmp_path / "one", task="lm-eval:dev_choice", exhaustive=True)
    report = search(adapters_in(place), settings)
    merged = tmp_path / "merged"
    merge(adapters_in(place), MergeSettings(weight=0.4, out=merged))
    scores = {c.name: c.score.value for c in report.candidates}
    for name, path in (("task alone", place / "task"), ("0.4", merged)):
        base = AutoModelForCausalLM.from_pretrained(place / "base")
        lm = HFLM(
            pretrained=PeftModel.from_pretrained(base, str(path)).eval(),
            tokenizer=AutoTokenizer.from_pretrained(place / "base"),
            batch_size=4,
        )
        theirs = simple_evaluate(
            model=lm,
            tasks=["on_dev"],
            task_manager=TaskManager(include_path=place / "tasks", include_defaults=False),
            bootstrap_iters=0,
        )
        assert scores[name] == pytest.approx(theirs["results"]["on_dev"]["acc,none"], abs=1e-12)


def test_an_exhaustive_search_uses_the_results_of_a_race(place, searched, tmp_path, known):
    settings = settings_in(place, tmp_path / "all", exhaustive=True)
    report = search(adapters_in(place), settings)
    assert report.decoded == len(ALL) * DEV * 3 // 2 + (report.control is not None) * DEV * 3 // 2
    assert report.reused >= sum(c.examples for c in searched.candidates if c.name in ALL)


def test_a_search_that_has_ended_is_told_again_unless_data_changed(place, tmp_path, known):
    tasks = shutil.copytree(place / "tasks", tmp_path / "tasks")
    for path in tasks.glob("*.yaml"):
        path.write_text(path.read_text().replace(str(place / "tasks"), str(tasks)))
    settings = settings_in(
        place, tmp_path / "m", lm_eval_path=tasks, task="lm-eval:dev_choice", search="0.5,0.7"
    )
    search(adapters_in(place), settings)
    again = search(adapters_in(place), settings)
    assert again.notes[-1].startswith("this search was already complete")
    (tasks / "dev.jsonl").write_text((tasks / "dev.jsonl").read_text().replace("lamp", "light"))
    with pytest.raises(ArtifactError, match="m exists"):
        search(adapters_in(place), settings)


def test_no_example_is_one_that_eval_scores(place, tmp_path):
    """Neither as a question nor as a few-shot example."""
    inputs = asked(place, tmp_path)
    prompts = "".join(
        i.arguments[0] for t in inputs.asked.harness.tasks.values() for i in t.instances
    )
    for lines in ("choice.jsonl", "answer.jsonl"):
        for line in (place / "tasks" / lines).read_text().splitlines():
            assert f"\n{json.loads(line)['text']}:" not in f"\n{prompts}"
    assert {lang: len(items) for lang, items in inputs.items.items()} == {
        "dev_choice": DEV,
        "dev_answer": DEV // 2,
    }
    tested = {json.loads(t)["text"] for t in (place / "tasks" / "choice.jsonl").open()}
    assert not tested & {item.example.utterance.strip() for item in inputs.items["dev_choice"]}


def test_outcomes_are_in_the_order_of_the_questions(place, tmp_path):
    """A candidate that is shown all examples at once is compared with one shown parts of them."""
    inputs = asked(place, tmp_path, task="lm-eval:dev_choice", cache=False)
    items = inputs.items["dev_choice"]
    parts = [(None, items), (None, items[::-1]), (None, items[:3]), (None, [])]
    whole, reverse, first, nothing = inputs.asked.outcomes(parts, lambda progress: None)
    assert whole == reverse[::-1]
    assert (first, nothing) == (whole[:3], [])
    assert len({outcome.expected for outcome in whole}) > 3


def test_a_part_of_a_task_asks_as_the_whole_does(place, tmp_path):
    """Few-shot examples are drawn for all examples, and answers are those of one run."""
    task = asked(place, tmp_path, task="lm-eval:dev_answer").asked.harness.tasks["dev_answer"]
    whole = {instance.doc_id: instance for instance in task.instances}
    whole[5].resps.append("earlier")
    part = part_of(task, {5, 2})
    part.build_all_requests(limit=None)
    assert [(i.doc_id, i.arguments) for i in part.instances] == [
        (at, whole[at].arguments) for at in (2, 5)
    ]
    assert not any(instance.resps for instance in part.instances)
    assert list(part.doc_iterator()) == [(at, whole[at].doc) for at in (2, 5)]


@pytest.mark.parametrize("name", ["dev_answer", "own_shots"])
def test_no_example_is_its_own_few_shot_example(place, tmp_path, name):
    """The training split is both the dev data and the source of few-shot examples."""
    inputs = asked(place, tmp_path, task=f"lm-eval:{name}")
    assert len(inputs.items[name]) == DEV // 2
    for item in inputs.items[name]:
        shot, question = item.example.utterance.split("\n\n")
        assert shot.partition(":")[0] != question.partition(":")[0]


def test_examples_that_eval_scores_too_are_left_out(place, tmp_path):
    inputs = asked(place, tmp_path, task="lm-eval:partly")
    assert len(inputs.items["partly"]) == 3
    assert inputs.asked.notes == [
        "left out 1 dev example of partly that its test data also contains"
    ]
    limited = asked(place, tmp_path, task="lm-eval:partly", limit=2)
    assert len(limited.items["partly"]) == 1, "the limit counts examples of the file"


def test_a_dry_run_counts_dev_examples(place, tmp_path):
    settings = settings_in(place, tmp_path / "x", task="lm-eval:trained,dev_choice", limit=7)
    made = plan_search(adapters_in(place), settings)
    assert made.examples == {"trained": 7, "dev_choice": 7}
    assert made.candidates == list(ALL)
    split = "the dev data of trained is its split 'train'; eval uses 'validation'"
    assert made.notes == [split]
    settings = settings_in(place, tmp_path / "x", task="lm-eval:trained", max_new_tokens=9)
    idle = "--max-new-tokens has no effect with --task lm-eval:trained, whose answers are chosen"
    assert plan_search(adapters_in(place), settings).notes == [split, f"{idle}, not written"]
    assert made.longest_prompt > 10
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", REFUSED)
def test_a_task_without_dev_data_is_refused(place, tmp_path, name):
    words, hint = REFUSED[name]
    with pytest.raises(ConfigError, match=f"lm-eval task {name}") as caught:
        plan_search(adapters_in(place), settings_in(place, tmp_path / "x", task=f"lm-eval:{name}"))
    assert words in str(caught.value)
    assert hint in (caught.value.hint or "")
    assert "\n" not in str(caught.value)


def test_a_task_of_ones_own_may_split_the_test_data(place, tmp_path):
    """As the manual shows: one half for the search, the other half for eval."""
    tasks = shutil.copytree(place / "tasks", tmp_path / "tasks")
    (tasks / "halved.yaml").write_text(
        "include: choice.yaml\n"
        "task: halved\n"
        "custom_dataset: !function halves.load\n"
        "dataset_kwargs: null\n"
        "validation_split: dev\n"
    )
    (tasks / "halves.py").write_text(
        "from datasets import DatasetDict, load_dataset\n\n\n"
        "def load(**_):\n"
        f"    rows = load_dataset('json', data_files='{tasks}/choice.jsonl', split='train')\n"
        "    halves = rows.train_test_split(test_size=0.5, seed=1)\n"
        "    return DatasetDict(dev=halves['train'], test=halves['test'])\n"
    )
    changes = {"task": "lm-eval:halved", "lm_eval_path": tasks}
    dev = {i.example.utterance for i in asked(place, tmp_path, **changes).items["halved"]}
    settings = EvalSettings(model=str(place / "base"), out=tmp_path / "e", limit=9, **changes)
    evaluate(settings)
    rows = (tmp_path / "e" / "predictions" / "base" / "halved.jsonl").read_text().splitlines()
    test = {json.loads(row)["utterance"] for row in rows}
    assert (len(dev), len(test)) == (6, 6)
    assert not dev & test


def test_auto_searches_as_well(place, tmp_path, known):
    settings = settings_in(
        place, tmp_path / "auto", search="auto", task="lm-eval:dev_choice", limit=6
    )
    report = search(adapters_in(place), settings)
    assert {"0.4", "0.5", "0.6"} < {candidate.name for candidate in report.candidates}


def test_the_command_line_prints_json(place, tmp_path, known, monkeypatch):
    monkeypatch.chdir(place)
    line = f"merge task align --search {GRID} --task lm-eval:dev_choice,dev_answer --model base"
    line += f" --lm-eval-path tasks --batch-size 4 -o {tmp_path / 'm.safetensors'} --json"
    done = CliRunner().invoke(program(), line.split())
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["reused"] == report["decoded"] > 0
    assert Path(report["merge"]["out"]).is_file()
    refused = CliRunner().invoke(program(), [*line.split(), "--langs", "cy"])
    assert refused.exit_code != 0


def test_reports_and_recipes_read_such_searches(place, tmp_path, known):
    evaluate(
        EvalSettings(
            model=str(place / "base"),
            task="lm-eval:dev_choice",
            lm_eval_path=place / "tasks",
            out=tmp_path / "run",
        )
    )
    page = tmp_path / "page.html"
    folders = [tmp_path / "run", search_folder(place / "merged")]
    write_report(folders, ReportSettings(out=page))
    assert "Dev data of lm-eval in dev_choice, dev_answer" in page.read_text()
    recipe = place / "recipe.toml"
    recipe.write_text(
        f"""
        out = "runs"
        model = "base"
        langs = "cy"
        batch-size = 4
        lm-eval-path = "tasks"
        [chosen]
        command = "merge"
        adapters = ["task", "align"]
        search = "{GRID}"
        task = "lm-eval:dev_choice,dev_answer"
        [knows]
        command = "eval"
        task = "lm-eval:dev_choice"
        adapters = ["@chosen"]
        [page]
        command = "report"
        runs = ["@knows", "@chosen.search"]
        """.replace("        ", "")
    )
    read = read_recipe(recipe)
    step = recipe_plan.plan(read).steps[0]
    assert step.problem is None
    assert step.cost["answers"] == len(ALL) * DEV * 3 // 2
    report = run(read)
    assert [each.status for each in report.steps] == ["done"] * 3
    assert recipe_plan.plan(read_recipe(recipe)).steps[0].status == "finished"


def test_the_extra_of_lm_eval_is_needed(place, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "adaptermix.errors.find_spec", lambda name: None if name == "lm_eval" else name
    )
    with pytest.raises(ResourceError) as caught:
        COMMANDS["merge"].perform(Call(settings_in(place, tmp_path / "x"), adapters_in(place)))
    assert caught.value.hint == 'pip install "adaptermix[lm-eval]"'
