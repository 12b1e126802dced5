import dataclasses
import itertools
import json
import shlex

import pytest
from helpers.adapters import peft_adapter
from helpers.evaluation import eval_settings, read_predictions
from helpers.families import (
    WELSH,
    family_settings,
    use_known_effects,
    welsh_family,
    write_adapters,
    write_dev_data,
)
from helpers.merging import reconfigure, rewrite
from helpers.updates import dense
from typer.testing import CliRunner

from adaptermix.adapters.adapter import adapter_hash, read_adapter
from adaptermix.adapters.family import read_family
from adaptermix.adapters.names import core
from adaptermix.adapters.writing import write_adapter
from adaptermix.cli.main import program
from adaptermix.errors import AdaptermixError, ConfigError, DataError, MissingDataError
from adaptermix.evaluation.evaluate import evaluate
from adaptermix.merging.merge import merge
from adaptermix.search.by_language import (
    _prepare,
    _route,
    _serving_options,
    plan_by_language,
    search_by_language,
)
from adaptermix.search.candidates import folder_names, merges_with_first
from adaptermix.search.routes import Evidence
from adaptermix.search.routes import Route as Chosen
from adaptermix.search.run import search
from adaptermix.settings.merging import MergeSettings, SearchSettings
from adaptermix.tasks.metrics.significance import Difference, Interval


def test_a_merge_is_taken_where_it_gains_and_nowhere_else(monkeypatch, tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data")
    paths = write_adapters(model_dir, tmp_path)
    use_known_effects(monkeypatch, paths[0], WELSH)
    seen = []
    settings = family_settings(model_dir, data, tmp_path / "family")
    report = search_by_language(paths, settings, on_progress=seen.append)
    assert seen
    assert {lang: r.adapter for lang, r in report.routes.routes.items()} == {
        "en": "task",
        "cy": "align-0.7",
        "sw": "task",
    }
    welsh = report.routes.routes["cy"]
    assert (welsh.examples, welsh.merge) == (200, "align-0.7")
    assert welsh.merge_score - welsh.task_score == pytest.approx(welsh.difference, abs=2e-6)
    assert welsh.low < welsh.difference < welsh.high
    assert welsh.p <= welsh.p_holm < 0.05
    assert report.routes.routes["en"].p_holm == 1.0
    assert report.verdict == "a merge is used for cy; task alone for en, sw"
    assert report.decoded == 3 * 3 * 200
    assert report.notes == []
    assert [e.candidate for e in report.evidence["sw"]] == ["align-0.7", "align-0.9"]
    assert report.weights["align-0.9"] == {"task": 0.9, "align": 0.1}
    family = read_family(tmp_path / "family")
    assert family.content == report.routes
    names = sorted(path.name for path in (tmp_path / "family").iterdir())
    expected = ["README.md", "align-0.7", "evidence.json", "routes.toml", "serve.sh", "task"]
    assert names == expected
    json.dumps(report.as_record())
    record = json.loads((tmp_path / "family" / "evidence.json").read_text())
    assert record["evidence"]["cy"][0]["p_holm"] == report.evidence["cy"][0].p_holm
    merged = family.adapter_for("cy")
    assert merged.record["chosen_for"] == ["cy"]
    assert merged.record["out"] == str(tmp_path / "family" / "align-0.7")
    merge(paths, MergeSettings(weight=0.7, out=tmp_path / "merged"))
    for module, update in read_adapter(tmp_path / "merged").updates():
        assert (update.b == merged.update(module).b).all()


def test_a_family_is_served_with_the_tokenizer_and_template_of_its_search(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat.jinja").touch()
    settings = SearchSettings(model="m", data_dir="d", out="o", search="0.5")
    assert _serving_options(settings) == []
    changes = {"revision": "v1", "tokenizer": "owner/name", "chat_template": "chat.jinja"}
    assert _serving_options(SearchSettings(**settings.model_dump() | changes)) == [
        *("--revision", "v1", "--tokenizer", "owner/name"),
        *("--chat-template", str(tmp_path / "chat.jinja")),
    ]


def test_the_task_adapter_stays_the_same_to_the_byte(monkeypatch, tmp_path, model_dir):
    (task, _), _, family = welsh_family(monkeypatch, model_dir, tmp_path)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (family / "task" / name).read_bytes() == (task / name).read_bytes()
    copied = read_family(family).adapter_for("en")
    assert adapter_hash(copied) == adapter_hash(read_adapter(task))


def test_a_family_answers_as_its_adapters_do(monkeypatch, tmp_path, model_dir):
    """With the real engine: the trained languages to the last letter, Welsh as the merge."""
    (task, _), data, family = welsh_family(monkeypatch, model_dir, tmp_path)
    out = tmp_path / "out"
    settings = eval_settings(
        model_dir,
        data,
        out,
        adapters=(str(task), str(family), str(family / "align-0.7")),
        langs=("en", "cy", "sw"),
    )
    report = evaluate(settings)
    assert report.systems == ["base", "task", "family", "align-0.7"]
    assert report.baseline.name == "task"
    assert report.baseline.reason == "the task adapter of family"
    for lang, same in (("en", "task"), ("sw", "task"), ("cy", "align-0.7")):
        answers = read_predictions(out, "family", lang)
        assert answers == read_predictions(out, same, lang)
        others = {"task", "align-0.7"} - {same}
        assert all(answers != read_predictions(out, other, lang) for other in others)
    assert report.decoded == 3 * 3 * 5, "the family's answers are those of others"
    entry = json.loads((out / "scores.json").read_text())["adapters"]["family"]
    assert entry["routes"] == {"en": "task", "cy": "align-0.7", "sw": "task"}


def test_answers_are_shared_with_evaluations(monkeypatch, tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data")
    paths = write_adapters(model_dir, tmp_path)
    started = use_known_effects(monkeypatch, paths[0], WELSH)
    search_by_language(paths, family_settings(model_dir, data, tmp_path / "family"))
    settings = eval_settings(
        model_dir,
        data,
        tmp_path / "out",
        adapters=(str(paths[0]),),
        langs=("en",),
        split="dev",
        limit=None,
        exclude_base=True,
        cache=True,
        max_new_tokens=6,
    )
    assert (evaluate(settings).decoded, len(started)) == (0, 1)


def test_answers_of_merges_are_shared_with_a_search(monkeypatch, tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data", examples=20)
    paths = write_adapters(model_dir, tmp_path)
    started = use_known_effects(monkeypatch, paths[0], WELSH)
    settings = family_settings(model_dir, data, tmp_path / "family")
    one = {"per_language": False, "exhaustive": True, "out": tmp_path / "merged"}
    search(paths, settings.model_copy(update=one))
    search_by_language(paths, settings)
    assert len(started) == 2
    assert {who for who, _ in started[1].asked} == {"task"}


def test_the_best_score_is_taken_where_it_is_asked_for(monkeypatch, tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data", examples=20)
    paths = write_adapters(model_dir, tmp_path)
    skill = {"task": {"cy": 0.5}, "merge": {"cy": 0.6}}
    use_known_effects(monkeypatch, paths[0], skill)
    taken = []
    for prefer in ("simpler", "best"):
        settings = family_settings(model_dir, data, tmp_path / prefer, prefer=prefer)
        taken.append(search_by_language(paths, settings).routes.name_for("cy"))
    assert taken == ["task", "align-0.7"]


def test_several_adapters_compete_each_with_the_task_adapter(monkeypatch, tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data", examples=20)
    paths = write_adapters(model_dir, tmp_path, ("task", "align", "welsh"))
    use_known_effects(monkeypatch, paths[0], WELSH)
    changes = {"search": "0.7,1:0.5", "prefer": "best"}
    settings = family_settings(model_dir, data, tmp_path / "family", **changes)
    report = search_by_language(paths, settings)
    assert report.weights == {
        "align-0.7": {"task": 0.7, "align": 0.3, "welsh": 0},
        "welsh-0.7": {"task": 0.7, "align": 0, "welsh": 0.3},
        "align-1_0.5": {"task": 1, "align": 0.5, "welsh": 0},
        "welsh-1_0.5": {"task": 1, "align": 0, "welsh": 0.5},
    }
    assert report.decoded == 5 * 3 * 20
    welsh = read_family(tmp_path / "family").adapter_for("cy")
    assert len(welsh.record["sources"]) == 2, "no adapter takes part with the weight 0"


def test_what_looks_like_a_slip_in_a_merge_that_is_taken_is_noted(monkeypatch, tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data")
    paths = write_adapters(model_dir, tmp_path)
    use_known_effects(monkeypatch, paths[0], WELSH)
    settings = family_settings(model_dir, data, tmp_path / "family", search="1.5:-0.5")
    report = search_by_language(paths, settings)
    assert [note.partition(" of ")[0] for note in report.notes] == [
        "the weight 1.5",
        "the weight -0.5",
    ]


def test_a_language_without_dev_data_takes_the_task_adapter(monkeypatch, tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data", examples=20, langs=("en", "cy"))
    paths = write_adapters(model_dir, tmp_path)
    use_known_effects(monkeypatch, paths[0], WELSH)
    settings = family_settings(model_dir, data, tmp_path / "family")
    said = "no dev data for sw: the adapter task is used"
    plan = plan_by_language(paths, settings)
    assert said in plan.notes
    assert plan.examples == {"en": 20, "cy": 20, "sw": 0}
    report = search_by_language(paths, settings)
    assert said in report.notes
    swahili = read_family(tmp_path / "family").content.routes["sw"]
    assert (swahili.adapter, swahili.examples, swahili.merge) == ("task", 0, None)
    assert str(report.view().shown[0].rows[2][3]) == "-"


def test_broken_dev_data_is_no_missing_data(tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data", examples=20)
    paths = write_adapters(model_dir, tmp_path)
    settings = family_settings(model_dir, data, tmp_path / "family")
    path = data / "massive" / "cy-GB.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-9])
    with pytest.raises(DataError, match=r"cy-GB\.jsonl:30: not JSON") as broken:
        search_by_language(paths, settings)
    assert not isinstance(broken.value, MissingDataError)
    for file in (data / "massive").iterdir():
        file.write_text(whole.replace('"dev"', '"train"').replace("cy-GB", file.stem))
    with pytest.raises(MissingDataError, match="no rows of the dev partition"):
        search_by_language(paths, settings)
    with pytest.raises(DataError, match="no language 'xx'"):
        search_by_language(paths, settings.model_copy(update={"langs": ("en", "xx")}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--search auto -o family", "not --search auto"),
        ("--search learn -o family", "not --search learn"),
        ("--search 0.5,0.7", "--out merged.safetensors: --per-language writes a folder"),
        ("--search 0.5,0.7 -o f.safetensors", "writes a folder"),
        (
            "--search 0.5,0.7 -o f --into base",
            "--search writes an adapter, but --into writes a model",
        ),
        ("--search 1,1:0 -o family", "the grid contains no merge"),
        ("--search 1:0.2:0.1 -o family", "expected 2 weights"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_read(
    tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    line = ["merge", "nowhere", "gone", "--per-language", *shlex.split(words)]
    done = CliRunner().invoke(program(), line)
    assert isinstance(done.exception, ConfigError)
    assert message in done.exception.message
    assert "\n" not in done.exception.message


def test_one_point_is_a_grid_where_the_task_adapter_competes():
    settings = SearchSettings(search="0.7", per_language=True, out="f")
    (only,) = merges_with_first(["task", "align"], settings)
    assert (only.name, only.weighting.weights) == ("align-0.7", (0.7, 0.3))


def test_names_of_folders_are_plain_and_differ():
    names = folder_names(["task", "a b=c,d-0.7", "a b=c;d-0.7", "../x"])
    assert names == ["task", "a_b_c_d-0.7", "a_b_c_d-0.7_3", "_x"]
    assert folder_names(["a", "a", "a_2"]) == ["a", "a_2", "a_2_3"]


def test_a_choice_that_ends_early_leaves_nothing_and_goes_on(monkeypatch, tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data", examples=20)
    paths = write_adapters(model_dir, tmp_path)
    started = use_known_effects(monkeypatch, paths[0], WELSH)
    settings = family_settings(model_dir, data, tmp_path / "family")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("adaptermix.search.by_language.write_family", stop)
        search_by_language(paths, settings)
    assert not [path for path in tmp_path.iterdir() if "family" in path.name]
    report = search_by_language(paths, settings)
    assert len(started) == 1, "all answers are known"
    again = search_by_language(paths, settings)
    assert again.notes == [
        *report.notes,
        "this search was already complete; nothing was decoded or written",
    ]
    assert dataclasses.replace(again, notes=report.notes) == report
    changed = settings.model_copy(update={"seed": 5})
    with pytest.raises(AdaptermixError, match="family exists"):
        search_by_language(paths, changed)
    search_by_language(paths, changed, force=True)


def test_equal_adapters_of_one_name_have_folders_of_their_own(monkeypatch, tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data", examples=20)
    paths = [tmp_path / name / "lora" for name in "abc"]
    for path, seed in zip(paths, itertools.count(), strict=False):
        peft_adapter(model_dir, path, seed=seed)
    use_known_effects(monkeypatch, paths[0], WELSH)
    plan = plan_by_language(paths, family_settings(model_dir, data, tmp_path / "family"))
    assert len(set(plan.candidates)) == 5


@pytest.mark.filterwarnings("ignore:.*lora_bias=True", "ignore:Adapter 'default'")
def test_slips_and_what_vllm_cannot_serve_are_noted(monkeypatch, tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data", examples=20)
    task, align = write_adapters(model_dir, tmp_path)
    peft_adapter(model_dir, tmp_path / "biased", seed=4, lora_bias=True)
    record = read_adapter(align)
    aligned = tmp_path / "aligned.safetensors"
    updates = dict(record.updates())
    write_adapter(aligned, updates, record.config, {"command": "train-align"})
    settings = family_settings(model_dir, data, tmp_path / "family", engine="transformers")
    first, second = (
        plan_by_language(paths, settings).notes
        for paths in ([aligned, task], [task, tmp_path / "biased"])
    )
    assert any("aligned.safetensors was trained for alignment" in note for note in first)
    assert any("serve.sh: vLLM cannot load" in note and "lora_bias" in note for note in second)
    assert plan_by_language([task, align], settings).notes == []


def test_the_command_prints_routes_and_json(monkeypatch, tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data", examples=20)
    paths = write_adapters(model_dir, tmp_path)
    use_known_effects(monkeypatch, paths[0], WELSH)
    monkeypatch.chdir(tmp_path)
    line = ["merge", *map(str, paths), "--search", "0.7,0.9", "--per-language", "-o", "family"]
    line += ["--model", str(model_dir), "--data", str(data), "--langs", "en,cy"]
    line += ["--engine", "transformers", "--system-prompt", ""]
    planned = CliRunner().invoke(program(), [*line, "--dry-run"])
    assert planned.exit_code == 0, planned.exception
    assert "task, align-0.7, align-0.9" in planned.output
    assert "en 20  cy 20" in planned.output
    assert not (tmp_path / "family").exists()
    done = CliRunner().invoke(program(), [*line, "--json"])
    assert done.exit_code == 0, done.exception
    record = json.loads(done.stdout)
    assert record["routes"]["routes"]["cy"]["merge"] == "align-0.7"


def test_the_evidence_of_a_route_is_of_the_merge_that_it_takes():
    """Another one may have the better score by chance."""

    def evidence(name, score, p_holm):
        difference = Difference(Interval(score - 0.4, 0.0, 0.2), p_holm / 2)
        return Evidence(name, score, difference, p_holm)

    found = [evidence("lucky", 0.6, 0.2), evidence("real", 0.5, 0.01)]
    taken = _route(Chosen("real", 0.4, 50, found), "task")
    assert (taken.adapter, taken.merge, taken.merge_score, taken.p_holm) == (
        *("real", "real", 0.5, 0.01),
    )
    kept = _route(Chosen(None, 0.4, 50, found), "task")
    assert (kept.adapter, kept.merge, kept.p) == ("task", "lucky", 0.1)


def test_a_report_says_how_many_answers_were_new(monkeypatch, tmp_path, model_dir):
    data = write_dev_data(tmp_path / "data", examples=20)
    paths = write_adapters(model_dir, tmp_path)
    use_known_effects(monkeypatch, paths[0], WELSH)
    monkeypatch.setattr("adaptermix.search.halving.count_denormalized", len)  # all, for the note
    settings = family_settings(model_dir, data, tmp_path / "one")
    counts = []
    for name, grid in (("one", "0.7"), ("two", "0.7,0.9")):
        changed = settings.model_copy(update={"out": tmp_path / name, "search": grid})
        report = search_by_language(paths, changed)
        counts.append((report.decoded, report.reused))
        remark = report.view().remarks[0]
        assert remark == f"examples decoded: {report.decoded}; {report.reused} from the cache"
        assert report.notes[-1].startswith(f"{report.decoded} answers of the candidates would")
    assert counts == [(120, 0), (180, 120)]


def test_the_engine_has_room_for_the_first_adapter_and_for_all_merges(tmp_path, model_dir):
    """Merges may be truncated below the rank of the adapter that competes with them."""
    data, paths = write_dev_data(tmp_path / "data", examples=4), write_adapters(model_dir, tmp_path)
    for rank, expected in ((2, 4), (None, 8)):
        settings = family_settings(model_dir, data, tmp_path / "family", rank=rank)
        assert _prepare(paths, settings, False).asked.generator.limits.rank == expected


def test_a_family_that_was_changed_or_is_forced_is_chosen_again(monkeypatch, tmp_path, model_dir):
    paths, data, family = welsh_family(monkeypatch, model_dir, tmp_path)
    use_known_effects(monkeypatch, paths[0], WELSH)
    settings = family_settings(model_dir, data, family)
    done = "this search was already complete"
    assert search_by_language(paths, settings).notes[-1].startswith(done)
    assert search_by_language(paths, settings, force=True).notes == []
    routes = (family / "routes.toml").read_text()
    (family / "routes.toml").write_text(routes.replace("align-0.7", "task"))
    with pytest.raises(AdaptermixError, match="family exists"):
        search_by_language(paths, settings)
    search_by_language(paths, settings, force=True)
    assert (family / "routes.toml").read_text() == routes


MODES = "model.language_model."  # prefix of the decoder's modules in a multimodal class


def test_adapters_with_the_names_of_another_class_are_staged_with_the_bases_names(
    tmp_path, model_dir
):
    """Those of a multimodal class, for example: PEFT leaves out what it does not find."""
    data = write_dev_data(tmp_path / "data", examples=2, langs=("en",))
    paths = write_adapters(model_dir, tmp_path)
    for path in paths:
        rewrite(
            path, lambda ts: {n.replace("model.layers", f"{MODES}layers"): t for n, t in ts.items()}
        )
    assert read_adapter(paths[0]).modules[0].startswith(f"{MODES}layers.0.")
    settings = family_settings(
        model_dir, data, tmp_path / "family", search="0.7", langs=("en",), max_new_tokens=1
    )
    report = search_by_language(paths, settings)
    assert report.decoded == 2 * 2
    task = read_family(tmp_path / "family").default
    assert adapter_hash(task) == adapter_hash(read_adapter(paths[0])), "it is left as it is"


@pytest.mark.parametrize(
    ("bases", "expected"),
    [
        (("x/one-4bit", "y/two"), ("x/one-4bit", "x/one-4bit")),
        (("x/one-4bit", "x/one"), ("x/one-4bit", "x/one")),
        ((None, "y/two"), ("y/two", "y/two")),
        ((None, None), (None, None)),
    ],
)
def test_the_adapters_of_a_family_name_one_base(monkeypatch, tmp_path, model_dir, bases, expected):
    """Otherwise it could not be read, which was found out after everything was decoded."""
    data = write_dev_data(tmp_path / "data", examples=20, langs=("cy",))
    paths = write_adapters(model_dir, tmp_path)
    for path, base in zip(paths, bases, strict=True):
        reconfigure(path, base_model_name_or_path=base)
    use_known_effects(monkeypatch, paths[0], {"task": {"cy": 0.1}, "merge": {"cy": 0.9}})
    changes = {"search": "0.7", "langs": ("cy",), "ignore_base": True}
    search_by_language(paths, family_settings(model_dir, data, tmp_path / "family", **changes))
    family = read_family(tmp_path / "family")
    assert family.adapters["align-0.7"].base == expected[1]
    assert family.content.base == (expected[0] or str(model_dir))


@pytest.mark.parametrize("renamed", [(0, 1), (2,)])
def test_merges_of_a_family_are_those_of_their_two_adapters(
    monkeypatch, tmp_path, model_dir, renamed
):
    """Whatever modules are named in the base model and in others: random draws depend on names."""
    data = write_dev_data(tmp_path / "data", examples=50, langs=("cy",))
    paths = write_adapters(model_dir, tmp_path, ("task", "align", "other"))
    for at in renamed:
        rewrite(
            paths[at],
            lambda ts: {n.replace("model.layers", f"{MODES}layers"): t for n, t in ts.items()},
        )
    use_known_effects(monkeypatch, paths[0], {"task": {"cy": 0.1}, "merge": {"cy": 0.9}})
    changes = {"search": "0.7", "langs": ("cy",), "method": "dare", "prefer": "best"}
    search_by_language(paths, family_settings(model_dir, data, tmp_path / "family", **changes))
    family = read_family(tmp_path / "family")
    assert family.content.name_for("cy") == "align-0.7"
    merge(paths[:2], MergeSettings(weight=0.7, method="dare", out=tmp_path / "plain"))
    found, plain = (
        {core(module): dense(update) for module, update in adapter.updates()}
        for adapter in (family.adapters["align-0.7"], read_adapter(tmp_path / "plain"))
    )
    assert found.keys() == plain.keys()
    assert all((found[module] == plain[module]).all() for module in found)
