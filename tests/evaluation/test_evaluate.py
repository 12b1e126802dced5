import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.adapters import peft_adapter
from helpers.evaluation import eval_settings, read_predictions
from helpers.families import hand_written
from helpers.models import CHAT_TEMPLATE, make_tokenizer
from helpers.progress import check_progress
from helpers.training import task_settings
from safetensors.torch import load_file, save_file

from adaptermix.adapters.adapter import adapter_hash, read_adapter
from adaptermix.adapters.systems import choose_baseline
from adaptermix.errors import ArtifactError, ConfigError, DataError, ResourceError
from adaptermix.evaluation.asking import Prompts
from adaptermix.evaluation.evaluate import _group_notes, _groups, evaluate, plan
from adaptermix.generation.cached import CachedGenerator
from adaptermix.generation.engine import Generated
from adaptermix.generation.prompts import PromptEncoder, read_prompts, truncate
from adaptermix.generation.server_client import Served
from adaptermix.models.files import fingerprint
from adaptermix.models.loading import load_tokenizer
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.tables import Table
from adaptermix.tasks.massive import Massive, read_massive
from adaptermix.training.task import train_task


@pytest.fixture
def adapter(tmp_path, model_dir):
    peft_adapter(model_dir, tmp_path / "adapter", seed=3)
    return tmp_path / "adapter"


def test_every_system_and_language_is_scored_and_kept(tmp_path, model_dir, corpus_dir, adapter):
    out = tmp_path / "out"
    settings = eval_settings(model_dir, corpus_dir, out, adapters=(str(adapter),))
    seen = []
    report = evaluate(settings, on_progress=seen.append)
    check_progress(seen)
    assert report.systems == ["base", "adapter"]
    assert [(c.system, c.lang, c.examples) for c in report.cells] == [
        ("base", "en", 5),
        ("base", "cy", 5),
        ("adapter", "en", 5),
        ("adapter", "cy", 5),
    ]
    gold = read_massive("cy", "test", corpus_dir)[:5]
    rows = read_predictions(out, "adapter", "cy")
    assert [row["id"] for row in rows] == [example.id for example in gold]
    assert [row["utterance"] for row in rows] == [example.utterance for example in gold]
    assert rows != read_predictions(out, "base", "cy")
    scores = json.loads((out / "scores.json").read_text())
    assert scores["macro"] == report.macro
    kept = report.cell("adapter", "cy").score.segments
    assert [row["scores"] for row in rows] == [{"slot_f1": value} for value in kept]
    assert "segments" not in json.dumps(scores), "they are with the predictions"
    assert scores["settings"]["max_new_tokens"] == 8
    with (out / "scores.csv").open() as file:
        table = list(csv.reader(file))
    assert table[0] == ["lang", "base", "adapter"]
    averages = ["supervised", "transfer-aligned", "macro average"]
    assert [row[0] for row in table[1:]] == ["en", "cy", *averages]
    assert scores["groups"] == {"supervised": ["en"], "transfer-aligned": ["cy"]}
    assert report.group_macro["supervised"]["adapter"] == report.cell("adapter", "en").score.value


def test_systems_are_compared_with_the_baseline(tmp_path, model_dir, corpus_dir, monkeypatch):
    """One adapter answers all right, the other nothing; the base model is left out."""
    for name in ("good", "bad"):
        peft_adapter(model_dir, tmp_path / name, seed=ord(name[0]))
    gold = {lang: read_massive(lang, "test", corpus_dir) for lang in ("en", "cy")}
    right = [Massive().answer(example) for lang in gold for example in gold[lang]]

    class Uneven:
        def generate(self, requests, on_answers):
            texts = [*right, *("None" for _ in right)]
            on_answers({at: Generated(text, False) for at, text in enumerate(texts)})

    monkeypatch.setattr("adaptermix.generation.cached.make_generator", lambda *args: Uneven())
    settings = eval_settings(
        model_dir,
        corpus_dir,
        tmp_path / "out",
        adapters=(str(tmp_path / "good"), str(tmp_path / "bad")),
        limit=None,
        exclude_base=True,
        baseline="bad",
        groups={"ours": "cy,sw"},
    )
    report = evaluate(settings)
    assert report.systems == ["good", "bad"]
    assert report.groups == {"ours": ["cy"]}
    assert [(c.system, c.over, c.difference) for c in report.comparisons] == [
        ("good", "en", 1.0),
        ("good", "cy", 1.0),
        ("good", "ours", 1.0),
        ("good", "macro average", 1.0),
    ]
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["comparisons"][1]["excludes_zero"] is True
    with (tmp_path / "out" / "differences.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["over"], row["difference"]) for row in rows[2:]] == [
        ("ours", "1.0"),
        ("macro average", "1.0"),
    ]


@pytest.mark.parametrize(("systems", "chosen"), [("task", "task"), ("", "task-seed-2")])
def test_a_system_with_the_name_of_the_baseline_comes_before_its_seeds(systems, chosen):
    names = ("task-seed-2", "task-seed-3", *filter(None, [systems]))
    settings = EvalSettings(baseline="task", adapters=names)
    assert choose_baseline(settings, dict.fromkeys(names)).name == chosen


def test_groups_are_of_some_of_the_tested_languages(model_dir, corpus_dir):
    groups = {"one": "cy", "both": "en,cy", "more": "en,cy,sw", "none": "ja", "some": "sw,en"}
    settings = eval_settings(model_dir, corpus_dir, "x", groups=groups)
    assert _groups(settings) == {"one": ["cy"], "some": ["en"]}
    papers = eval_settings(model_dir, corpus_dir, "x", langs=("en", "de", "cy", "fr"))
    assert _groups(papers)["transfer-aligned"] == ["cy"]
    assert _groups(papers.model_copy(update={"task": "uner"})) == {}


def test_languages_of_groups_may_be_spelled_in_other_ways():
    """Members that were not tested are noted: they may be typing errors.

    A file of settings may have groups for other runs, and groups with all of a run's languages.
    """
    groups = {"aligned": "cy,sw", "typo": "cy,sx", "exact": "en", "ours": "English"}
    groups |= {"far": "ja,ko", "other": "fr", "everything": "cy,sw,English,ja"}
    settings = EvalSettings(langs=("cy-GB", "sw-KE", "en", "en-US"), groups=groups)
    assert _groups(settings) == {
        **{"aligned": ["cy-GB", "sw-KE"], "typo": ["cy-GB"]},
        **{"exact": ["en"], "ours": ["en", "en-US"]},
    }
    assert _group_notes(settings) == [
        "group typo: not in this run: sx",
        "groups without a member in this run: far, other",
    ]
    assert _groups(EvalSettings(langs=("cym", "swa", "en")))["transfer-aligned"] == ["cym", "swa"]
    pairs = {"in": "German-English", "out": "en-de"}
    settings = EvalSettings(task="wmt23", langs=("de-en", "en-de", "de-cs"), groups=pairs)
    assert _groups(settings) == {"in": ["de-en"], "out": ["en-de"]}
    tasks = EvalSettings(task="lm-eval:ar_x,ar_y", groups={"a": "ar_x", "b": "ar_z"})
    assert (_groups(tasks), len(_group_notes(tasks))) == ({"a": ["ar_x"]}, 1)
    assert _group_notes(EvalSettings(langs=("cy",))) == []


def test_problems_are_counted_by_answer(tmp_path, model_dir, corpus_dir, monkeypatch):
    """An answer with several malformed parts is one malformed answer."""
    answers = [Generated("a:; b:; c:", True), Generated("no slots", True), Generated("None", True)]
    answers += [Generated("None", False)] * 7

    class Faulty:
        def generate(self, requests, on_answers):
            on_answers(dict(enumerate(answers)))

    monkeypatch.setattr("adaptermix.generation.cached.make_generator", lambda *args: Faulty())
    report = evaluate(eval_settings(model_dir, corpus_dir, tmp_path / "out"))
    counts = [(c.lang, c.examples, c.malformed, c.cut_answers) for c in report.cells]
    assert counts == [("en", 5, 2, 3), ("cy", 5, 0, 0)]
    rows = read_predictions(tmp_path / "out", "base", "en")
    assert [row["malformed"] for row in rows] == [3, 1, 0, 0, 0]


def test_systems_of_several_seeds_are_summed_up(tmp_path, model_dir, corpus_dir):
    names = [f"{name}-seed-{seed}" for name in ("task", "merged") for seed in (1, 2)]
    for at, name in enumerate(names):
        peft_adapter(model_dir, tmp_path / name, seed=at)
    settings = eval_settings(
        model_dir,
        corpus_dir,
        tmp_path / "out",
        adapters=tuple(str(tmp_path / name) for name in names),
        baseline="task",
    )
    report = evaluate(settings)
    assert report.reference == "task-seed-1"
    found = {(row.system, row.over): row for row in report.over_seeds}
    row = found["merged", "cy"]
    assert row.scores == [report.cell(name, "cy").score.value for name in names[2:]]
    assert (row.baseline, found["task", "cy"].baseline) == ("task", None)
    assert {over for _, over in found} == {"en", "cy", *report.groups, "macro average"}
    kept = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert kept["over_seeds"][0]["seeds"] == [1, 2]
    with (tmp_path / "out" / "seeds.csv").open() as file:
        assert {(r["system"], r["over"]) for r in csv.DictReader(file)} == set(found)
    titles = [part.title for part in report.view().shown if isinstance(part, Table)]
    assert [title for title in titles if "over seeds" in title] == [
        "slot F1 (%) over seeds: mean ± standard deviation, 95% interval",
        "difference from task over seeds, 95% interval; * average excludes zero",
    ]


def test_what_went_wrong_is_counted_by_system_and_language(
    tmp_path, model_dir, corpus_dir, adapter, monkeypatch
):
    """Cut and malformed answers, of 5 in each language: 1 and 2, then 3 and 4."""
    counts = {("base", "en"): 1, ("base", "cy"): 2, ("adapter", "en"): 3, ("adapter", "cy"): 4}
    wrong = [at < count for count in counts.values() for at in range(5)]

    class Uneven:
        def generate(self, requests, on_answers):
            answers = [Generated("a b c" if is_wrong else "None", is_wrong) for is_wrong in wrong]
            on_answers(dict(enumerate(answers)))

    monkeypatch.setattr("adaptermix.generation.cached.make_generator", lambda *args: Uneven())
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "out", adapters=(str(adapter),))
    report = evaluate(settings)
    for cell in report.cells:
        wanted = counts[cell.system, cell.lang]
        assert (cell.cut_answers, cell.malformed) == (wanted, wanted)


class Told:
    """An engine that gives the answers it is told, and keeps the requests."""

    def __init__(self, answers=lambda at: Generated("None", False)):
        self.answers, self.requests, self.limits = answers, [], None

    def __call__(self, engine, settings, folder, tokenizer, stop_ids, limits):
        self.limits = limits
        return self

    def generate(self, requests, on_answers):
        self.requests += requests
        on_answers({at: self.answers(at) for at in range(len(requests))})


@pytest.fixture
def told(monkeypatch):
    """Replace the engine by one that is told its answers."""

    def replaced(*answers):
        engine = Told(*answers)
        monkeypatch.setattr("adaptermix.generation.cached.make_generator", engine)
        return engine

    return replaced


def test_cut_prompts_and_cut_answers_are_told_apart(tmp_path, model_dir, corpus_dir, told):
    """Every third answer is cut, and the longer half of the prompts of both languages."""
    encoder = PromptEncoder(load_tokenizer(model_dir, eval_settings(model_dir, corpus_dir, "")))
    lengths = [
        len(encoder.prompt_ids(Massive("").messages(example)))
        for lang in ("en", "cy")
        for example in read_massive(lang, "test", corpus_dir)[:5]
    ]
    room = sorted(lengths)[5]
    told(lambda at: Generated("None", at % 3 == 0))
    changes = {"max_new_tokens": 256 - room}
    report = evaluate(eval_settings(model_dir, corpus_dir, tmp_path / "out", **changes))
    rows = [
        row for lang in ("en", "cy") for row in read_predictions(tmp_path / "out", "base", lang)
    ]
    assert [row["is_truncated"] for row in rows] == [length > room for length in lengths]
    assert [row["is_cut"] for row in rows] == [at % 3 == 0 for at in range(10)]
    for at, cell in enumerate(report.cells):
        mine = slice(5 * at, 5 * at + 5)
        assert cell.truncated_prompts == sum(length > room for length in lengths[mine])
        assert cell.cut_answers == sum(at % 3 == 0 for at in range(10)[mine])
    assert len({cell.truncated_prompts for cell in report.cells}) == 2


@pytest.mark.parametrize("is_text", [True, False])
def test_the_engine_has_room_for_every_adapter_and_prompt(
    tmp_path, model_dir, corpus_dir, told, monkeypatch, is_text
):
    """The rank is the largest of any module; a language is a group of requests.

    One module of the last adapter may be of an encoder of images.
    """
    peft_adapter(model_dir, tmp_path / "small", r=2, rank_pattern={"down_proj": 6})
    peft_adapter(model_dir, tmp_path / "large", r=4, target_modules=["q_proj", "v_proj"])
    known = read_adapter(tmp_path / "small").modules
    if is_text:
        known = [*known, *read_adapter(tmp_path / "large").modules]
    adapters = (str(tmp_path / "small"), str(tmp_path / "large"))
    engine = told()
    monkeypatch.setattr(
        "adaptermix.evaluation.asking.fits_text_alone", lambda modules: {*modules} <= {*known}
    )
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "out", adapters=adapters)
    longest = plan(settings).longest_prompt
    evaluate(settings)
    assert (engine.limits.adapters, engine.limits.rank) == (2, 6)
    assert engine.limits.is_text == is_text
    assert engine.limits.widest == adapters[0]
    assert engine.limits.prompt == longest == max(len(r.prompt_ids) for r in engine.requests)
    assert [request.group for request in engine.requests] == [*["en"] * 5, *["cy"] * 5] * 3


def test_answers_are_counted_as_decoded_or_from_the_cache(tmp_path, model_dir, corpus_dir, told):
    told()
    runs = [
        evaluate(eval_settings(model_dir, corpus_dir, tmp_path / name, cache=True))
        for name in ("one", "two")
    ]
    assert [(run.decoded, run.reused) for run in runs] == [(10, 0), (0, 10)]


def test_the_test_asked_for_is_done_with_enough_resamples(
    tmp_path, model_dir, corpus_dir, adapter, told, monkeypatch
):
    """They depend on the number of languages: 2, with 2 other systems."""
    monkeypatch.setattr("adaptermix.tasks.metrics.significance.SAMPLES", 10)
    told()
    peft_adapter(model_dir, tmp_path / "other", seed=1)
    adapters = (str(adapter), str(tmp_path / "other"))
    tests = {
        test: evaluate(
            eval_settings(model_dir, corpus_dir, tmp_path / test, adapters=adapters, test=test)
        ).test
        for test in ("bootstrap", "ar")
    }
    assert (tests["bootstrap"].kind, tests["bootstrap"].samples) == ("bootstrap", 80)
    assert (tests["ar"].kind, tests["ar"].samples) == ("randomization", 10_000)


def test_the_record_says_what_was_tested_and_force_replaces_it(
    tmp_path, model_dir, corpus_dir, adapter, told
):
    told()
    out = tmp_path / "out"
    settings = eval_settings(model_dir, corpus_dir, out, adapters=(str(adapter),))
    evaluate(settings)
    record = json.loads((out / "scores.json").read_text())
    assert record["base_fingerprint"] == fingerprint(model_dir)
    known = {"path": str(adapter), "hash": adapter_hash(read_adapter(adapter))}
    assert record["adapters"] == {"adapter": known}
    with pytest.raises(ArtifactError, match="out exists"):
        evaluate(settings)
    with pytest.raises(ConfigError, match="is one of the inputs"):
        plan(settings.model_copy(update={"out": adapter}), force=True)
    (out / "scores.json").unlink()
    assert plan(settings, force=True).systems == evaluate(settings, force=True).systems
    assert (out / "scores.json").is_file()


def test_what_prompts_engine_and_answers_had_to_say_is_noted(
    tmp_path, model_dir, corpus_dir, told, monkeypatch
):
    def noted(settings, split, task, encoder, folder):
        encoder.notes.append("of the prompts")
        return read_prompts(settings, split, task, encoder, folder)

    monkeypatch.setattr("adaptermix.evaluation.asking.read_prompts", noted)

    def counted(outcomes):
        return [f"{len(given)} of {system}" for system, given in outcomes.items()]

    monkeypatch.setattr(CachedGenerator, "notes", ["of the engine"])
    monkeypatch.setattr("adaptermix.evaluation.asking.notes_on_normalization", counted)
    told(lambda at: Generated("a</think>" if at == 3 else "None", False))
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "out")
    assert evaluate(settings).notes == [
        "of the prompts",
        "of the engine",
        "10 of base",
        "1 of 10 answers of base contain '</think>'; reasoning is scored as a part of the answer",
    ]
    assert "of the prompts" in plan(settings, force=True).notes


def test_metrics_and_languages_that_need_care_are_noted(tmp_path, model_dir, told):
    """COMET is not installed, Thai has no spaces, and a task of one's own has no languages."""
    told()
    for name in ("a", "b"):
        (tmp_path / name).write_text("text\n")
    files = {"src": tmp_path / "a", "ref": (tmp_path / "b",), "metrics": ("chrf", "bleu", "comet")}
    settings = eval_settings(
        model_dir, None, tmp_path / "o", task="wmt23", langs=("en-th",), **files
    )
    elsewhere = settings.model_copy(update={"comet_python": tmp_path / "python"})
    with pytest.raises(ResourceError, match="no such Python interpreter"):
        plan(elsewhere)
    report = evaluate(settings)
    assert ["COMET is not installed" in report.notes[0], "Thai" in report.notes[1]] == [True] * 2
    (cell,) = report.cells
    assert (cell.score, list(cell.scores)) == (cell.scores["chrf"], ["chrf", "bleu"])
    toml = 'name = "own"\nmetrics = ["chrf"]\nprompt = "{a}"\nanswer = "a"\n[files]\n'
    (tmp_path / "own.toml").write_text(f'{toml}test = "{{lang}}.jsonl"\n')
    own = {"task": str(tmp_path / "own.toml"), "model": str(model_dir), "engine": "transformers"}
    settings = EvalSettings(**own, cache=False, out=tmp_path / "own")
    for lang in settings.langs:
        (tmp_path / f"{lang}.jsonl").write_text('{"a": "text"}\n')
    (note,) = evaluate(settings).notes
    assert "uses the languages of massive, ar en" in note
    (tmp_path / "own.toml").write_text(f'{toml}test = "{{lang}}.jsonl"\n'.replace("chrf", "bleu"))
    (tmp_path / "pirate.jsonl").write_text('{"a": "text"}\n')
    with pytest.raises(DataError, match="'pirate' is an unknown language, for which BLEU's"):
        plan(settings.model_copy(update={"langs": ("pirate",)}), force=True)


def test_a_plan_says_what_the_servers_and_the_adapters_need(
    tmp_path, model_dir, corpus_dir, adapter, monkeypatch
):
    server = Served("http://here:1", "base", "", "some server", 200, "", True, ())
    monkeypatch.setattr("adaptermix.evaluation.evaluate.check_engine", lambda *given: [server])
    make_tokenizer("<|other|>").save_pretrained(adapter)
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "out", adapters=(str(adapter),))
    longest = plan(settings).longest_prompt
    first, last = plan(settings).notes
    assert first.startswith("the folder of adapter has a different vocabulary")
    assert last == f"would decode on {server}"
    answers = 200 - longest
    assert plan(settings.model_copy(update={"max_new_tokens": answers}))
    with pytest.raises(ConfigError, match="accepts at most 200 tokens"):
        plan(settings.model_copy(update={"max_new_tokens": answers + 1}))


SAME = {"prompt": "paper", "system_prompt": None, "turn_newline": False}


@pytest.mark.parametrize(
    ("before", "names"),
    [
        (SAME | {"tokenizer": None, "chat_template": None}, []),
        (SAME | {"prompt": "zero-shot"}, ["prompt"]),
        (SAME | {"turn_newline": True}, ["turn newline"]),
        ({"tokenizer": "elsewhere", "chat_template": "t.jinja"}, ["tokenizer", "chat template"]),
        ({}, []),
    ],
)
def test_every_difference_of_the_prompt_is_noted(model_dir, corpus_dir, before, names):
    settings = eval_settings(model_dir, corpus_dir, "out", system_prompt=None)
    adapters = {"one": SimpleNamespace(record={"settings": before})}
    notes = Prompts(settings, None, None, [], ()).notes_on(adapters)
    assert [note.split(" different ")[1].split(" than ")[0] for note in notes] == names
    named = settings.model_copy(update={"tokenizer": "here", "chat_template": Path("u.jinja")})
    notes = Prompts(named, None, None, [], ()).notes_on(adapters)
    both = {"tokenizer", "chat_template"} <= set(before)
    moved = [] if before.get("tokenizer") or not both else ["tokenizer", "chat template"]
    assert [n.split(" different ")[1].split(" than ")[0] for n in notes] == [
        *(name for name in names if name not in ("tokenizer", "chat template")),
        *moved,
    ], "paths may change"
    for unused in ({"task": "uner"}, {"system_prompt": ""}):
        notes = Prompts(settings.model_copy(update=unused), None, None, [], ()).notes_on(adapters)
        assert not any("different prompt" in note for note in notes), "it has no effect"


@pytest.mark.parametrize("split", ["test", "dev"])
def test_the_split_asked_for_is_tested(tmp_path, model_dir, corpus_dir, split):
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "out", split=split)
    evaluate(settings)
    for lang in ("en", "cy"):
        gold = read_massive(lang, split, corpus_dir)[:5]
        rows = read_predictions(tmp_path / "out", "base", lang)
        assert [row["id"] for row in rows] == [example.id for example in gold]


def test_an_unknown_baseline_is_refused(tmp_path, model_dir, corpus_dir):
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "out", baseline="bsae")
    with pytest.raises(ConfigError, match="no such system"):
        evaluate(settings)


@pytest.mark.slow
def test_prompts_that_do_not_fit_are_cut_at_the_start_and_counted(tmp_path, model_dir, corpus_dir):
    """The model reads 256 tokens; the answers leave room for the shorter half of the prompts."""
    encoder = PromptEncoder(load_tokenizer(model_dir, eval_settings(model_dir, corpus_dir, "")))
    lengths = {
        lang: [
            len(encoder.prompt_ids(Massive("").messages(example)))
            for example in read_massive(lang, "test", corpus_dir)[:5]
        ]
        for lang in ("en", "cy")
    }
    room = sorted([*lengths["en"], *lengths["cy"]])[5]
    changes = {"max_new_tokens": 256 - room}
    report = evaluate(eval_settings(model_dir, corpus_dir, tmp_path / "out", **changes))
    for lang in ("en", "cy"):
        too_long = [length > room for length in lengths[lang]]
        assert report.cell("base", lang).truncated_prompts == sum(too_long)
        rows = read_predictions(tmp_path / "out", "base", lang)
        assert [row["is_truncated"] for row in rows] == too_long
    assert sum(cell.truncated_prompts for cell in report.cells) > 0
    assert truncate([0, 1, 2, 3, 4], 3) == [0, 3, 4]
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "o", max_new_tokens=256)
    with pytest.raises(ConfigError, match="the model accepts at most 256 tokens"):
        evaluate(settings)


def test_answers_do_not_depend_on_the_batch(tmp_path, model_dir, corpus_dir, adapter):
    outputs = []
    for size in (1, 4):
        out = tmp_path / str(size)
        settings = eval_settings(
            model_dir, corpus_dir, out, adapters=(str(adapter),), batch_size=size
        )
        evaluate(settings)
        outputs.append([read_predictions(out, s, "en") for s in ("base", "adapter")])
    assert outputs[0] == outputs[1]


def test_hostile_output_stays_one_record(tmp_path, model_dir, corpus_dir, monkeypatch):
    text = 'time: a\nb\t"\0\u202e[bold]'

    class Parrot:
        def generate(self, requests, on_answers):
            on_answers({index: Generated(text, False) for index in range(len(requests))})

    monkeypatch.setattr("adaptermix.generation.cached.make_generator", lambda *args: Parrot())
    evaluate(eval_settings(model_dir, corpus_dir, tmp_path / "out"))
    rows = read_predictions(tmp_path / "out", "base", "en")
    assert len(rows) == 5
    assert {row["output"] for row in rows} == {text}


def test_gold_answers_score_one(tmp_path, model_dir, corpus_dir, monkeypatch):
    answers = [
        "color_type: red; house_place: kitchen",
        "None",
    ]

    class Oracle:
        def generate(self, requests, on_answers):
            on_answers({i: Generated(answers[i % 2], False) for i in range(len(requests))})

    monkeypatch.setattr("adaptermix.generation.cached.make_generator", lambda *args: Oracle())
    report = evaluate(eval_settings(model_dir, corpus_dir, tmp_path / "out", limit=1))
    assert report.cell("base", "en").score.value == 1.0  # the first test row says just that
    assert report.cell("base", "cy").score.value == 0.0
    assert report.macro["base"] == 0.5


def test_an_option_of_scoring_without_effect_is_noted(tmp_path, model_dir, corpus_dir):
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "out", match="offsets")
    assert plan(settings).notes == ["--match has no effect on slot_f1 of massive"]


def test_an_option_of_prompts_without_effect_is_noted(tmp_path, model_dir):
    (tmp_path / "own.toml").write_text(
        'name = "own"\nmetrics = ["chrf"]\nprompt = "{a}"\nanswer = "b"\n'
        '[files]\ntest = "rows.jsonl"\n'
    )
    (tmp_path / "rows.jsonl").write_text('{"a": "one", "b": "eins"}\n')
    (tmp_path / "text").write_text("one\n")
    own = {"task": str(tmp_path / "own.toml"), "langs": ("de",), "system_prompt": None}
    (note,) = plan(eval_settings(model_dir, None, tmp_path / "out", prompt="paper", **own)).notes
    assert note == f"--prompt has no effect with --task {own['task']}"
    assert plan(eval_settings(model_dir, None, tmp_path / "out", **own)).notes == []
    files = {"src": tmp_path / "text", "ref": (tmp_path / "text",), "split": "dev"}
    wmt = {"task": "wmt23", "langs": ("en-de",), "turn_newline": True, **files}
    settings = eval_settings(model_dir, None, tmp_path / "out", prompt="paper", **wmt)
    assert plan(settings).notes == [
        "--turn-newline has no effect: prompts have no <|eot_id|>",
        "--prompt has no effect with --system-prompt",
        "--split has no effect with --src",
    ]


def test_an_adapter_trained_on_another_prompt_is_noted(tmp_path, model_dir, corpus_dir):
    train_task(task_settings(model_dir, corpus_dir, tmp_path / "task", max_steps=1))
    adapters = (str(tmp_path / "task"),)
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "same", adapters=adapters)
    assert evaluate(settings).notes == []
    changes = {"adapters": adapters, "system_prompt": "other"}
    (note,) = evaluate(eval_settings(model_dir, corpus_dir, tmp_path / "o", **changes)).notes
    assert note == (
        "task was trained with a different system prompt than the one in this evaluation"
    )
    (tmp_path / "t.jinja").write_text(CHAT_TEMPLATE)
    changes = {"adapters": adapters, "chat_template": tmp_path / "t.jinja"}
    (note,) = evaluate(eval_settings(model_dir, corpus_dir, tmp_path / "t", **changes)).notes
    assert note == (
        "task was trained with a different chat template than the one in this evaluation"
    )


def test_an_adapter_of_another_base_of_the_same_shapes_is_noted(tmp_path, model_dir, corpus_dir):
    train_task(task_settings(model_dir, corpus_dir, tmp_path / "task", max_steps=1))
    other = shutil.copytree(model_dir, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, other / "model.safetensors")
    adapters = (str(tmp_path / "task"),)
    settings = eval_settings(other, corpus_dir, tmp_path / "out", adapters=adapters, limit=1)
    (note,) = evaluate(settings).notes
    assert note == f"task was trained on {model_dir}, whose weights are not those of {other}"


def test_a_plan_checks_everything_and_writes_nothing(tmp_path, model_dir, corpus_dir, adapter):
    out = tmp_path / "out"
    settings = eval_settings(model_dir, corpus_dir, out, adapters=(str(adapter),))
    report = plan(settings)
    assert report.systems == ["base", "adapter"]
    assert report.examples == {"en": 5, "cy": 5}
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"langs": ("xx",)}, DataError, "no language 'xx'"),
        ({"langs": ("cy", "Welsh")}, ConfigError, "cy and Welsh are the same language"),
        ({"adapters": ("nowhere",)}, ArtifactError, "nowhere: no such file"),
        ({"data_dir": "nowhere"}, DataError, "nowhere: no such folder"),
    ],
)
def test_mistakes_are_named(tmp_path, model_dir, corpus_dir, changes, error, message):
    with pytest.raises(error, match=message):
        evaluate(eval_settings(model_dir, corpus_dir, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


ROUTES = """\
default = "task"

[routes.cy]
adapter = "align"
"""


def test_a_family_without_a_route_takes_its_default_and_says_so(tmp_path, model_dir, corpus_dir):
    family = hand_written(model_dir, tmp_path / "family", ROUTES)
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "out", adapters=(str(family),))
    said = f"{family} has no route for en; using the default, task"
    planned = plan(settings)
    assert planned.systems == ["base", "family"]
    assert said in planned.notes
    report = evaluate(settings)
    assert said in report.notes
    alone = eval_settings(
        model_dir,
        corpus_dir,
        tmp_path / "alone",
        adapters=(str(family / "task"), str(family / "align")),
        exclude_base=True,
    )
    evaluate(alone)
    for lang, name in (("en", "task"), ("cy", "align")):
        answers = read_predictions(tmp_path / "out", "family", lang)
        assert answers == read_predictions(tmp_path / "alone", name, lang)
    answers = [read_predictions(tmp_path / "alone", name, "cy") for name in ("task", "align")]
    assert answers[0] != answers[1]


def test_a_family_of_another_base_model_is_refused(tmp_path, model_dir, corpus_dir):
    text = ROUTES.replace("\n\n", '\nbase = "their/model"\nbase-fingerprint = "0123"\n\n')
    family = hand_written(model_dir, tmp_path / "family", text)
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "out", adapters=(str(family),))
    for config in family.glob("*/adapter_config.json"):
        own = json.loads(config.read_text()) | {"base_model_name_or_path": "their/model"}
        config.write_text(json.dumps(own))
    with pytest.raises(ArtifactError, match="the routes were chosen with their/model") as refused:
        plan(settings)
    assert refused.value.message.startswith(f"{family / 'routes.toml'}:3: ")
    (family / "routes.toml").write_text(text.replace('base-fingerprint = "0123"\n', ""))
    assert plan(settings).systems == ["base", "family"]
