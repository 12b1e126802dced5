"""What a search asks of an engine, and what the data and the answers give notes on."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.adapters import peft_adapter
from helpers.families import family_settings, use_known_effects, write_dev_data
from helpers.search import settings_for

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.writing import write_adapter
from adaptermix.generation.answers import FILE_NAME
from adaptermix.generation.engine import Generated
from adaptermix.generation.prompts import PromptedExample
from adaptermix.search import by_language
from adaptermix.search import run as of_all
from adaptermix.search.asking import DevPrompts, _notes_on_metrics
from adaptermix.search.by_language import plan_by_language, search_by_language
from adaptermix.search.run import plan_search, search
from adaptermix.settings.merging import SearchSettings
from adaptermix.tasks.catalog import make_task
from adaptermix.tasks.massive import Massive, SlotExample

LONG_GRID = ",".join(f"{at / 20:g}" for at in range(1, 20))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, model_dir):
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, rank) in enumerate({"task": 5, "align": 2}.items()):
        peft_adapter(model_dir, folder / name, seed=seed, r=rank)
    return [folder / "task", folder / "align"]


@pytest.mark.parametrize(
    ("changes", "candidates", "rank"),
    [
        ({}, 5, 7),  # the merges have the sum of both ranks
        ({"rank": 3}, 5, 5),
        ({"search": LONG_GRID}, 16, 7),  # no more than are held at a time
        ({"per_language": True}, 4, 7),
        ({"per_language": True, "rank": 3}, 4, 5),  # the task adapter is not cut
        ({"per_language": True, "search": LONG_GRID}, 16, 7),
    ],
)
def test_an_engine_is_prepared_for_all_candidates_and_the_longest_prompt(
    tmp_path, model_dir, corpus_dir, adapters, monkeypatch, changes, candidates, rank
):
    is_text = rank == 7
    monkeypatch.setattr("adaptermix.search.asking.fits_text_alone", lambda modules: is_text)
    settings = settings_for(model_dir, corpus_dir, tmp_path / "out", **changes)
    is_family = settings.per_language
    inputs = (by_language if is_family else of_all)._prepare(adapters, settings, False)
    limits = inputs.asked.generator.limits
    lengths = [len(item.prompt_ids) for items in inputs.items.values() for item in items]
    assert min(lengths) < max(lengths)
    assert (limits.adapters, limits.rank, limits.prompt) == (candidates, rank, max(lengths))
    assert limits.is_text == is_text
    planned = (plan_by_language if is_family else plan_search)(adapters, settings)
    assert planned.longest_prompt == max(lengths)
    (table,) = planned.view().shown
    assert f"{max(lengths)} tokens" in str(table.rows)


def test_a_search_is_another_one_with_other_metrics_in_the_file_of_the_task(tmp_path):
    """Of which the settings have only the path."""
    settings = SearchSettings(search="auto", task=str(tmp_path / "own.toml"))
    text = 'name = "own"\nmetrics = ["{}"]\nprompt = "{{a}}"\nanswer = "b"\n{}'
    keys = []
    for content in (("bleu", ""), ("chrf", ""), ("bleu", 'target-lang = "zh"\n'), ("bleu", "")):
        (tmp_path / "own.toml").write_text(text.format(*content))
        task = make_task(settings.task)
        asked = SimpleNamespace(settings=settings, context=b"", task=task)
        one = of_all._SearchInputs(
            opened=[], adapters=[], asked=asked, items={}, learning=[], candidates=[]
        )
        family = by_language._Inputs({}, [], None, [], None, asked, {}, settings)
        keys.append((one.key, family.key))
    assert keys[0] == keys[3]
    for kind in zip(*keys[:3], strict=True):
        assert len(set(kind)) == 3


def test_answers_that_are_cut_are_noted():
    """Weights may be chosen by how the answers begin."""
    settings = SearchSettings(search="auto", max_new_tokens=7)
    generator = SimpleNamespace(
        decode=lambda requests, _: [Generated("None", r.prompt_ids == [1]) for r in requests],
        notes=["a note"],
    )
    asked = DevPrompts(settings, Massive(), [], None, generator)
    items = [
        PromptedExample("en", SlotExample(str(n), "en", "a", "a"), [n], False) for n in range(3)
    ]
    assert asked.notes_on_answers == ["a note"]
    asked.outcomes([(Path("a"), items), (Path("b"), items)], None)
    cut = "2 answers of the candidates reached --max-new-tokens 7 and were cut"
    assert asked.notes_on_answers == ["a note", cut]
    asked.outcomes([(Path("c"), items)], None)  # another round
    assert asked.notes_on_answers == ["a note", cut.replace("2", "3")]


def test_metrics_after_the_first_are_noted():
    for metrics in (("chrf",), ("chrf", "bleu")):
        settings = SearchSettings(search="auto", task="wmt23", metrics=metrics)
        notes = _notes_on_metrics(settings, make_task("wmt23", options=settings))
        assert notes == ["a search uses only the first of --metrics, chrf"] * (len(metrics) - 1)


def test_a_plan_of_a_family_shows_what_is_preferred_and_shortened(
    tmp_path, model_dir, corpus_dir, adapters
):
    for prefer in ("simpler", "best"):
        changes = {"per_language": True, "prefer": prefer, "system_prompt": "word " * 300}
        changes |= {"exhaustive": True}
        settings = settings_for(model_dir, corpus_dir, tmp_path / "out", **changes)
        planned = plan_by_language(adapters, settings)
        assert planned.prefer == prefer
        assert f"'{prefer}'" in str(planned.view().shown[0].rows)
        assert "shortened 12 dev prompts to fit the model's context" in planned.notes
        assert any(note.startswith("--exhaustive has no effect") for note in planned.notes)


@pytest.fixture
def odd(tmp_path, model_dir, adapters):
    """Adapters with everything that there are notes on: a place, a base, a stack, a template."""
    task = tmp_path / "runs" / "checkpoint-10"
    read = read_adapter(adapters[0])
    on = [{"path": "lower", "blake3": "00", "weight": 0.5}]
    record = {"command": "train-task", "base_fingerprint": "of another", "on": on}
    write_adapter(task, dict(read.updates()), read.config, record)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_dir / name, task / name)
    (task / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return [task.parent, adapters[1]]


SAID = (
    "contains only checkpoints; using the last one",
    "whose weights are not those of",
    "was trained on lower at weight 0.5, but it is missing here",
    "has a different chat template than",
    FILE_NAME,
)


@pytest.mark.parametrize("is_family", [False, True])
def test_the_report_has_the_notes_on_adapters_data_and_answers(
    monkeypatch, tmp_path, model_dir, odd, answer_cache, is_family
):
    data = write_dev_data(tmp_path / "data", examples=5)
    use_known_effects(monkeypatch, odd[0], {"task": {}, "merge": {}})
    monkeypatch.setattr("adaptermix.search.halving.count_denormalized", len)
    answer_cache.mkdir(parents=True)
    (answer_cache / FILE_NAME).write_text("not a database, but as long as one" * 9)
    changes = {} if is_family else {"per_language": False}
    settings = family_settings(model_dir, data, tmp_path / "family", **changes)
    report = (search_by_language if is_family else search)(odd, settings)
    notes = [*report.notes, *([] if is_family else report.merge.notes)]
    of_answers = f"{report.decoded} answers of the candidates would have more correct values"
    for words in (*(SAID if is_family else SAID[3:]), of_answers):
        assert any(words in note for note in notes), words
    assert all(any(note in remark for remark in report.view().remarks) for note in report.notes)
    kept = tmp_path / ("family/evidence.json" if is_family else "family.search/search.json")
    assert json.loads(kept.read_text())["notes"] == report.notes
