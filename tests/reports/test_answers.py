"""What a report says: did the merge help, where, and can it be trusted?"""

import json
import re
import shutil
from dataclasses import replace

import pytest
from helpers.cards import ALIGNED, TRAINED, write
from helpers.records import (
    write_distinct_evaluation,
    write_distinct_retrieval,
    write_evaluation,
    write_retrieval,
)

from adaptermix.adapters.adapter import adapter_hash, read_adapter
from adaptermix.adapters.inspection import inspect
from adaptermix.evaluation.comparison import ALL
from adaptermix.merging.merge import merge
from adaptermix.reports.runs import find_runs
from adaptermix.reports.sections.adapters import adapters_section
from adaptermix.reports.sections.build import sections_of
from adaptermix.reports.sections.retrieval import (
    _curve,
    analyzed,
    retrieval_section,
    sentence,
    wilson,
)
from adaptermix.reports.sections.roles import (
    alignment_layers,
    controls_among,
    is_unscaled,
    label_of,
    language_groups,
    merge_among,
    named_in,
    with_own_names,
)
from adaptermix.reports.sections.scores import answer_section, evaluation_section
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import InspectSettings

LANGS = ("en", "cy", "sw", "de")
STAYS = (
    "Retrieval accuracy at layer 2, the aligned layer: 30.0% [27.2, 32.9] with task, "
    "30.0% [27.2, 32.9] with merged."
)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A task adapter of en and cy, an alignment of sw, their merge, and the task adapter scaled."""
    folder = tmp_path_factory.mktemp("adapters")
    task, align = folder / "task.safetensors", folder / "align.safetensors"
    write(task, TRAINED)
    write(align, ALIGNED | {"settings": {"layer": 2}}, seed=1)
    for name, sources in (("scaled", [task]), ("merged", [task, align])):
        weights = ",".join(["0.5"] * len(sources))
        merge(sources, MergeSettings(weights=weights, out=folder / f"{name}.safetensors"))
    return folder


@pytest.fixture(scope="module")
def inspected(adapters):
    return inspect(sorted(adapters.glob("*.safetensors")), InspectSettings())


def evaluated(tmp_path, differences, systems=("task", "merged"), split="test"):
    """An evaluation whose systems differ so much, by language; those of 0.1 and more are clear."""
    folder = write_evaluation(
        tmp_path / "eval", {lang: ["hello"] for lang in LANGS}, systems=systems
    )
    path = folder / "scores.json"
    record = json.loads(path.read_text())
    record["split"] = split
    model = record["comparisons"][0]
    means = {ALL: list(LANGS), "trained": ["en", "cy"]}
    record["comparisons"] = [
        model
        | {"system": system, "over": over, "langs": langs, "difference": difference}
        | {"low": difference - 0.05, "high": difference + 0.05}
        | {"p_value": p, "p_holm": p if len(langs) == 1 else None}
        for system in systems[1:]
        for over, langs in [*((lang, [lang]) for lang in LANGS), *means.items()]
        for difference in [sum(differences[lang] for lang in langs) / len(langs)]
        for p in [0.001 if abs(difference) >= 0.1 else 0.5]
    ]
    path.write_text(json.dumps(record))
    return find_runs([folder]).evaluations[0]


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        (0.2, "Yes: merged scores 20.0 points of slot F1 higher than task on average over 4 "
         "languages (95% interval +15.0 to +25.0)."),
        (-0.2, "No, it hurts: merged scores 20.0 points of slot F1 lower than task on average "
         "over 4 languages (95% interval −25.0 to −15.0)."),
        (0.02, "No clear effect: merged scores 2.0 points of slot F1 higher than task on average "
         "over 4 languages (95% interval −3.0 to +7.0)."),
        (-0.02, "No clear effect: merged scores 2.0 points of slot F1 lower than task on average "
         "over 4 languages (95% interval −7.0 to +3.0)."),
        (-0.0004, "No clear effect: merged scores the same as task on average over 4 languages "
         "(95% interval −5.0 to +5.0)."),
    ],
)  # fmt: skip
def test_the_answer_is_yes_no_or_unclear(tmp_path, size, sentence):
    section = answer_section(evaluated(tmp_path, dict.fromkeys(LANGS, size)), None)
    assert section.answer == sentence
    assert section.title == "Did “merged” help?"


def test_the_answer_for_one_language_names_it(tmp_path):
    run = evaluated(tmp_path, dict.fromkeys(LANGS, 0.2))
    one = replace(run, report=replace(run.report, langs=["cy"]))
    assert answer_section(one, None).answer.startswith(
        "Yes: merged scores 20.0 points of slot F1 higher than task in Welsh (cy) (95% interval"
    )


def test_the_scores_say_which_systems_are_better_and_which_are_worse(tmp_path):
    systems = ("task", "one", "two", "three", "four")
    run = evaluated(tmp_path, dict.fromkeys(LANGS, 0.2), systems)
    for c, size in zip(
        [c for c in run.report.comparisons if c.over == ALL], (2, -2, 0, 0), strict=True
    ):
        at = run.report.comparisons.index(c)
        p = 0.001 if size else 0.5
        run.report.comparisons[at] = replace(c, difference=size / 10, p_value=p)
    run = replace(run, content={"adaptermix": "0.2.0", "settings": {"model": "/models/tiny"}})
    section = evaluation_section("scores", run, None)
    assert section.answer == (
        "On average over 4 languages: one is better than task; two is worse than task; "
        "three, four are not significantly different from task."
    )
    assert section.notes[-1] == "Source: eval/scores.json, model tiny, adaptermix 0.2.0."


def test_where_names_languages_and_groups(tmp_path, inspected):
    seen = evaluated(tmp_path, {"en": 0.3, "cy": 0.2, "sw": -0.4, "de": 0.0})
    where, _ = answer_section(seen, inspected).texts
    assert where == (
        "Significantly better in English (en), Welsh (cy), worse in Swahili (sw). "
        "Averages over groups: better in trained languages."
    )
    small = evaluated(tmp_path / "small", dict.fromkeys(LANGS, 0.0))
    assert answer_section(small, None).texts[0] == "No single language differs significantly."


def test_the_first_plot_has_languages_sorted_in_groups(tmp_path, inspected):
    seen = evaluated(tmp_path, {"en": 0.1, "cy": 0.2, "sw": -0.4, "de": 0.0})
    (plot,) = answer_section(seen, inspected).plots
    order = ["all 4 languages", "trained languages", "Welsh (cy)", "English (en)", "mean of 2"]
    order += ["aligned languages", "Swahili (sw)", "other languages", "German (de)"]
    for panel in (plot.panels[0], plot.narrow[0]):
        places = [panel.marks.index(f">{label}<") for label in order]
        assert places == sorted(places)
    assert [row[0] for row in plot.values.rows if row] == ["en", "cy", "sw", "de", ALL, "trained"]


def test_groups_that_the_user_chose_are_those_of_the_plot(tmp_path, inspected):
    """The table below it has their averages; adapters that are not at hand are not known."""
    run = evaluated(tmp_path, dict.fromkeys(LANGS, 0.1))
    groups = {"trained": ["en", "de"], "aligned": ["cy"]}
    report = replace(run.report, groups=groups)
    chosen = replace(run, report=report, content={"settings": {"groups": groups}})
    (plot,) = answer_section(chosen, inspected).plots
    named = {str(row[0]): str(row[1]) for row in plot.values.rows if row and str(row[0]) in LANGS}
    assert named == {"en": "trained", "de": "trained", "cy": "aligned", "sw": "other languages"}
    of_the_task = replace(run, report=report, content={"settings": {"groups": None}})
    (plot,) = answer_section(of_the_task, inspected).plots
    assert "trained languages" in {str(row[1]) for row in plot.values.rows if row}


def test_the_precision_of_equal_scores_is_unknown(tmp_path):
    run = evaluated(tmp_path, dict.fromkeys(LANGS, 0.0))
    same = [replace(c, low=0.0, high=0.0) for c in run.report.comparisons]
    run = replace(run, report=replace(run.report, comparisons=same))
    facts = {fact.name: fact for fact in answer_section(run, None).facts}
    assert facts["Precision"].text == "Unknown: the scores are equal in every resample."


def test_trust_depends_on_data_controls_and_answers(tmp_path, inspected):
    seen = evaluated(tmp_path, dict.fromkeys(LANGS, 0.2), ("task", "scaled", "merged"), "dev")
    facts = {fact.name: fact for fact in answer_section(seen, inspected).facts}
    assert facts["Data"].look == "warn"
    assert answer_section(seen, inspected).texts[1] == "Treat this with caution: dev data."
    assert facts["Data"].text.startswith("Dev data, 1 example per language; if the weights")
    assert facts["Control"].text == (
        "Task adapter scaled, with nothing merged in: scaled +20.0 (+15.0 to +25.0)."
    )
    assert facts["Precision"].text.startswith("The average is known to ±5.0 points of slot F1")
    cells = [replace(cell, malformed=int(cell.system == "merged")) for cell in seen.report.cells]
    spoiled = replace(seen, report=replace(seen.report, cells=cells, test=None))
    facts = {fact.name: fact for fact in answer_section(spoiled, None).facts}
    assert facts["Unreadable answers"].look == "warn"
    assert facts["Unreadable answers"].text == "task 0.0%, merged 100.0%."
    assert facts["Test"].look == facts["Control"].look == "warn"
    assert answer_section(spoiled, None).texts[1] == (
        "Treat this with caution: dev data, no significance test, control unknown, "
        "many unreadable answers."
    )
    unknown = "Unknown: merged is not one of the adapters in this report."
    assert facts["Control"].text == unknown
    changed = {"merged": {"hash": "another", "path": inspected.adapters[1].path}}
    retrained = replace(seen, content=seen.content | {"adapters": changed})
    assert unknown not in [fact.text for fact in answer_section(seen, inspected).facts]
    kept = [adapter for adapter in inspected.adapters if adapter.name != "scaled"]
    facts = answer_section(retrained, replace(inspected, adapters=kept)).facts
    assert unknown in [fact.text for fact in facts]
    sound = evaluated(tmp_path / "sound", dict.fromkeys(LANGS, 0.2), ("task", "scaled", "merged"))
    cells = [replace(cell, malformed=0) for cell in sound.report.cells]
    sound = replace(sound, report=replace(sound.report, cells=cells))
    assert answer_section(sound, inspected).texts[1] == (
        "Nothing calls for caution: test data, significance test, control, readable answers."
    )
    alone = evaluated(tmp_path / "alone", dict.fromkeys(LANGS, 0.2))
    (control,) = [f for f in answer_section(alone, inspected).facts if f.name == "Control"]
    assert control.text.startswith("None: the difference may come from scaling")
    trained = evaluated(tmp_path / "trained", dict.fromkeys(LANGS, 0.2), ("task", "align"))
    (control,) = [f for f in answer_section(trained, inspected).facts if f.name == "Control"]
    assert (control.text, control.look) == ("Not needed: align is not a merge.", "ok")


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ("1,0.2", "Not needed: merged does not scale task (its weight is 1)."),
        ("0.2,1", "None: the difference may come from scaling the task adapter alone. Also "
         "evaluate the scaled task adapter without the alignment adapter."),
    ],
)  # fmt: skip
def test_a_task_adapter_at_weight_1_needs_no_control(tmp_path, adapters, weights, text):
    task, whole = adapters / "task.safetensors", tmp_path / "merged.safetensors"
    sources = [task, adapters / "align.safetensors"]
    merge(sources, MergeSettings(weights=weights, out=whole))
    section = answer_section(
        evaluated(tmp_path, dict.fromkeys(LANGS, 0.2)), inspect([task, whole], InspectSettings())
    )
    assert [fact.text for fact in section.facts if fact.name == "Control"] == [text]
    assert ("task adapter not scaled" in section.texts[1]) == (weights == "1,0.2")


def test_only_a_scaled_adapter_is_a_control(tmp_path, inspected):
    """Neither an adapter as it was trained, nor a copy of it, nor another merge."""
    systems = ["base", "task", "scaled", "merged", "align"]
    assert controls_among(systems, inspected) == ["scaled"]
    assert controls_among(systems, None) == []
    (scaled,) = [adapter for adapter in inspected.adapters if adapter.name == "scaled"]
    (source,) = scaled.record["sources"]
    copy = replace(scaled, record={**scaled.record, "sources": [{**source, "weight": 1.0}]})
    assert controls_among(["scaled"], replace(inspected, adapters=[copy])) == []


@pytest.mark.parametrize(
    ("method", "rules", "is_whole"),
    [
        ("exact", None, True),
        ("ties", None, False),
        ("exact", [{"layers": "0", "weight": 0.5}], False),
    ],
)
def test_an_adapter_is_unscaled_only_where_it_keeps_its_weight_everywhere(
    tmp_path, adapters, method, rules, is_whole
):
    sources = [adapters / "task.safetensors", adapters / "align.safetensors"]
    whole = merge(sources, MergeSettings(weights="1,0.2", out=tmp_path / "merged.safetensors"))
    assert whole.method == "exact"
    report = inspect([tmp_path / "merged.safetensors"], InspectSettings())
    (adapter,) = report.adapters
    weighting = adapter.record["weighting"] | {"rules": rules}
    record = adapter.record | {"method": method, "weighting": weighting}
    changed = replace(report, adapters=[replace(adapter, record=record)])
    assert is_unscaled("merged", "task", changed) is is_whole
    assert not is_unscaled("merged", "align", changed)


def test_a_language_of_both_trainings_is_a_trained_one(tmp_path, adapters):
    """Only those of the merge's own sources count, and only sides of pairs are aligned."""
    align, other = tmp_path / "align.safetensors", tmp_path / "other.safetensors"
    write(align, ALIGNED | {"examples": {"cy-sw": 10, "ja": 5}}, seed=1)
    write(other, ALIGNED | {"examples": {"de-en": 10}}, seed=2)
    joint = tmp_path / "joint.safetensors"
    write(joint, ALIGNED | {"command": "train-joint", "examples": {"ko-KR": 5, "cy-sw": 5}}, seed=3)
    task, merged = adapters / "task.safetensors", tmp_path / "merged.safetensors"
    merge([task, align, joint], MergeSettings(weights="0.5,0.5,0.5", out=merged))
    known = inspect([task, align, joint, other, merged], InspectSettings())
    assert language_groups((*LANGS, "ja", "ko"), "merged", known, {}) == [
        ("trained languages", ["en", "cy", "ko"]),
        ("aligned languages", ["sw"]),
        ("other languages", ["de", "ja"]),
    ]


def test_unreadable_answers_are_many_beside_those_of_the_baseline(tmp_path):
    """More than a twentieth, and more than twice as many as the baseline has, or a fifth.

    They are called readable only if both systems have few.
    """
    run = evaluated(tmp_path, dict.fromkeys(LANGS, 0.2))
    looks = []
    bads = ((0, 5), (0, 6), (4, 5), (10, 19), (10, 21), (19, 1), (60, 60), (60, 0))
    for bad in bads:
        counts = dict(zip(("task", "merged"), bad, strict=True))
        cells = [replace(c, examples=100, malformed=counts[c.system]) for c in run.report.cells]
        spoiled = replace(run, report=replace(run.report, cells=cells))
        facts = {fact.name: fact for fact in answer_section(spoiled, None).facts}
        looks.append(facts["Unreadable answers"].look)
    assert looks == ["ok", "warn", "ok", "", "warn", "", "warn", "warn"]


def test_the_merge_is_the_first_of_several_adapters_and_not_the_best(inspected):
    systems = ["base", "task", "scaled", "merged", "align"]
    assert merge_among(systems, "task", inspected) == "merged"
    assert merge_among(["base", "task", "scaled", "align"], "task", inspected) == "align"
    assert merge_among(["base", "one", "two"], "base", None) == "two"
    assert merge_among(["base", "merged", "two"], "base", None) == "merged", "by its usual name"
    assert merge_among(["one", "base"], "one", None) == "base"
    assert merge_among(["base"], "base", None) is None


def test_adapters_are_found_by_their_names_among_the_systems(tmp_path, adapters):
    """Equal names of files have the names of folders as a prefix there."""
    names = {name: f"{name}-final" for name in ("task", "align", "scaled", "merged")}
    places = {name: tmp_path / name / "final.safetensors" for name in names}
    for name, place in places.items():
        place.parent.mkdir()
        shutil.copyfile(adapters / f"{name}.safetensors", place)
    sources = [places["task"], places["align"]]
    merge(sources, MergeSettings(weights="1,0.2", out=tmp_path / "whole" / "final.safetensors"))
    places["whole"], names["whole"] = tmp_path / "whole" / "final.safetensors", "whole-final"
    inspected = inspect(sorted(places.values()), InspectSettings())
    for key in ("hash", "path"):
        own = {"path": str, "hash": lambda place: adapter_hash(read_adapter(place))}[key]
        systems = ("task-final", "scaled-final", "merged-final", "align-final")
        run = evaluated(tmp_path / key, dict.fromkeys(LANGS, 0.2), systems)
        entries = {names[name]: {key: own(place)} for name, place in places.items()}
        run = replace(run, content=run.content | {"adapters": entries})
        section = answer_section(run, inspected)
        assert section.title == "Did “merged-final” help?"
        (control,) = [fact.text for fact in section.facts if fact.name == "Control"]
        assert "merged in: scaled-final +20.0" in control
        known = named_in(run.content, inspected)
        assert language_groups(LANGS, "merged-final", known, {})[0][1] == ["en", "cy"]
        assert is_unscaled("whole-final", "task-final", known)
        assert not is_unscaled("merged-final", "task-final", known)
        assert not is_unscaled("whole-final", "align-final", known)
    runs = replace(find_runs([tmp_path / "path"]), evaluations=[run])
    last = list(sections_of(runs, inspected))[-1]
    norms = next(plot for plot in last.folded if plot.name == "adapters-norms")
    assert norms.values.columns[1:] == sorted(names.values()) and len(norms.panels) == 5


def test_the_names_of_a_run_are_only_of_the_adapters_that_it_tested(adapters, inspected):
    """Not of one that has changed in its place; equal copies have both names."""
    task, merged = adapters / "task.safetensors", adapters / "merged.safetensors"
    own = adapter_hash(read_adapter(task))
    entries = {"merged": {"hash": "of old weights", "path": str(merged)}}
    entries |= {name: {"hash": own, "path": f"runs/{name}"} for name in ("one", "other")}
    known = named_in({"adapters": entries}, inspected)
    assert [a.name for a in known.adapters] == ["align", str(merged), "scaled", "one", "other"]
    old = {"merged": {"hash": "of old weights", "path": "merged"}}
    here = [replace(adapter, path=adapter.name) for adapter in inspected.adapters]
    known = named_in({"adapters": old}, replace(inspected, adapters=here))
    assert [a.name for a in known.adapters] == ["align", "./merged", "scaled", "task"]


def test_a_folder_and_a_file_of_one_name_are_two_adapters(tmp_path):
    paths = [write(tmp_path / name, ALIGNED, seed=3) for name in ("a", "a.safetensors")]
    known = with_own_names(inspect(paths, InspectSettings()))
    assert [adapter.name for adapter in known.adapters] == [str(path) for path in paths]


def test_groups_come_from_adapters_or_from_the_record(inspected):
    assert language_groups(LANGS, "merged", inspected, {}) == [
        *(
            ("trained languages", ["en", "cy"]),
            ("aligned languages", ["sw"]),
            ("other languages", ["de"]),
        ),
    ]
    given = {"near": ["en"], "far": ["cy", "sw"]}
    groups = language_groups(LANGS, None, None, given)
    assert groups == [("near", ["en"]), ("far", ["cy", "sw"]), ("other languages", ["de"])]
    twice = {"near": ["en"], "far": ["en", "sw"]}
    assert language_groups(LANGS, None, None, twice) == [("", list(LANGS))]


def test_languages_have_names_that_people_know():
    names = ["Welsh (cy)", "de-en", "Modern standard Arabic (ar)"]
    assert [label_of(lang) for lang in ("cy", "de-en", "ar")] == names


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory, inspected):
    folder = tmp_path_factory.mktemp("retrieval") / "run"
    write_retrieval(folder, systems=("base", "task", "merged"))
    path = folder / "retrieval.json"
    record = json.loads(path.read_text())
    for pair in record["pairs"]:
        if pair["system"] == "merged" and pair["source"] == "cy":
            pair["accuracy"] = [0.0, 0.0, 0.1, 0.0]
    path.write_text(json.dumps(record))
    return find_runs([folder]).retrievals[0]


def test_one_heat_map_has_the_gains_at_the_aligned_layer(retrieval, inspected):
    """align was trained at layer 2, where cy as a source loses 20 points and others gain none."""
    section = retrieval_section("retrieval", retrieval, inspected, "task")
    (plot,) = [plot for plot in section.plots if plot.name == "retrieval-pairs"]
    assert plot.title == "What changed between languages: merged compared with task"
    assert "at layer 2," in plot.subtitle
    cells = {(row[0], column): value for row in plot.values.rows
             for column, value in zip(plot.values.columns[1:], row[1:], strict=True)}  # fmt: skip
    assert cells["cy", "en"] == cells["cy", "sw"] == "-20.0"
    assert cells["en", "cy"] == cells["sw", "en"] == "+0.0"
    assert cells["cy", "cy"] == ""
    assert section.answer == STAYS


def test_pairs_with_one_language_are_two_columns(retrieval, inspected):
    pairs = [p for p in retrieval.report.pairs if "en" in (p.source, p.target)]
    run = replace(retrieval, report=replace(retrieval.report, pairs=pairs, pivot="en"))
    plot = retrieval_section("retrieval", run, inspected, "task").plots[0]
    assert list(plot.values.columns) == ["language", "from en", "to en"]
    assert {row[0]: row[1:] for row in plot.values.rows} == {
        "cy": ["+0.0", "-20.0"],
        "sw": ["+0.0", "+0.0"],
    }


def test_a_layer_chosen_by_measurement_is_the_aligned_one(tmp_path, retrieval):
    chosen = {"settings": {"layer": "auto"}, "layers": {"layer": "3"}}
    path = write(tmp_path / "align", ALIGNED | chosen)
    seen = analyzed("r", retrieval, inspect([path], InspectSettings()), None)
    assert seen.placed == {"align": 3}
    assert seen.layer == 3


def test_every_system_is_drawn_against_the_baseline_with_its_band(retrieval, inspected):
    section = retrieval_section("retrieval", retrieval, inspected, "task")
    (plot,) = [plot for plot in section.plots if plot.name == "retrieval-systems"]
    assert [panel.title for panel in plot.panels] == ["base", "merged"]
    assert all(panel.marks.count('fill-opacity="0.2"') == 2 for panel in plot.panels)
    assert list(plot.values.columns) == ["layer", "task", "base", "merged"]
    assert [str(cell) for cell in plot.values.rows[1]] == ["1", "30.0", "20.0", "40.0"]


@pytest.mark.parametrize(
    ("share", "trials", "ends"),  # SciPy's binomtest(...).proportion_ci(method="wilson")
    [(0.5, 100, (0.403832, 0.596168)), (0.0, 10, (0.0, 0.277533)), (0.9, 60, (0.798505, 0.953357))],
)
def test_intervals_of_shares_are_wilsons(share, trials, ends):
    assert wilson(share, trials) == pytest.approx(ends, abs=1e-5)
    assert wilson(share, 0) == (0.0, 1.0)


def test_where_the_loss_was_placed_is_the_gain_over_the_base(tmp_path):
    """Early is 10 and late 20 points better at layer 1, nowhere else."""
    write_retrieval(tmp_path / "run")
    paths = [write(tmp_path / name, ALIGNED | {"settings": {"layer": layer}}, seed=layer)
             for name, layer in (("early", 1), ("late", 3))]  # fmt: skip
    run = find_runs([tmp_path / "run"]).retrievals[0]
    section = retrieval_section("retrieval", run, inspect(paths, InspectSettings()), None)
    (plot,) = [plot for plot in section.plots if plot.name == "retrieval-placement"]
    assert plot.values.rows == [
        *(["0", "+0.0", "+0.0"], ["1", "+10.0", "+20.0"]),
        *(["2", "+0.0", "+0.0"], ["3", "+0.0", "+0.0"]),
    ]
    assert [panel.title for panel in plot.panels] == ["early, at layer 1", "late, at layer 3"]
    other = retrieval_section("retrieval", run, inspect(paths, InspectSettings()), "late")
    (same,) = [plot for plot in other.plots if plot.name == "retrieval-placement"]
    assert same.values == plot.values, "it is not the gain over the baseline"


def test_adapters_are_in_the_order_of_their_layers(tmp_path):
    write_retrieval(tmp_path / "run")
    paths = [write(tmp_path / name, ALIGNED | {"settings": {"layer": layer}}, seed=layer)
             for name, layer in (("early", 2), ("late", 1))]  # fmt: skip
    run = find_runs([tmp_path / "run"]).retrievals[0]
    section = retrieval_section("retrieval", run, inspect(paths, InspectSettings()), None)
    (plot,) = [plot for plot in section.plots if plot.name == "retrieval-placement"]
    assert [panel.title for panel in plot.panels] == ["late, at layer 1", "early, at layer 2"]
    (systems,) = [plot for plot in section.plots if plot.name == "retrieval-systems"]
    marked = {p.title: re.findall(r"aligned at layer (\d)", p.marks) for p in systems.panels}
    assert marked == {"early": ["2"], "late": ["1"]}


@pytest.mark.parametrize(
    ("placed", "layers", "place"),
    [
        ({}, [0, 1, 2, 3], "1, the middle layer"),  # of three blocks
        ({}, [0, 2, 3], "0, the nearest to the middle layer 1"),
        ({"late": 3, "early": 2}, [0, 1, 2, 3], "3, the aligned layer"),
        ({"early": 3}, [0, 1, 2, 3], "3, the aligned layer"),
        ({"early": 3, "task": 2}, [0, 1, 2, 3], "1, the middle layer"),
        ({"late": 2}, [0, 1, 3], "1, the nearest to the aligned layer 2"),
        ({"late": 2}, [0, 3], "3, the nearest to the aligned layer 2"),
    ],
)
def test_the_layer_of_the_answer_is_the_nearest_to_where_the_system_was_aligned(
    tmp_path, placed, layers, place
):
    run = find_runs([write_retrieval(tmp_path / "run")]).retrievals[0]
    seen = analyzed("r", run, None, None)
    assert seen.after == "late"
    seen = replace(seen, placed=placed, report=replace(seen.report, layers=layers))
    assert sentence(seen).startswith(f"Retrieval accuracy at layer {place}: ")


def test_a_merge_was_aligned_where_its_sources_were(tmp_path):
    """If all of them are known. Systems that were not aligned have no line in their panels."""
    write_retrieval(tmp_path / "run", systems=("base", "task", "early", "late"))
    run = find_runs([tmp_path / "run"]).retrievals[0]
    early, deep = (
        write(
            tmp_path / f"{name}.safetensors", ALIGNED | {"settings": {"layer": layer}}, seed=layer
        )
        for name, layer in (("early", 1), ("deep", 3))
    )
    task, late = write(tmp_path / "task.safetensors", TRAINED), tmp_path / "late.safetensors"
    merge([task, deep], MergeSettings(weights="0.5,0.5", out=late))
    known = inspect([early, deep, task, late], InspectSettings())
    section = retrieval_section("retrieval", run, known, None)
    assert section.answer.startswith("Retrieval accuracy at layer 3, the aligned layer: ")
    (systems,) = [plot for plot in section.plots if plot.name == "retrieval-systems"]
    marked = {p.title: re.findall(r"aligned at layer (\d)", p.marks) for p in systems.panels}
    assert marked == {"task": [], "early": ["1"], "late": ["3"]}
    outer, both = tmp_path / "again.safetensors", tmp_path / "both.safetensors"
    merge([late, task], MergeSettings(weights="0.5,0.5", out=outer))
    merge([early, late], MergeSettings(weights="0.5,0.5", out=both))
    nested = inspect([both, outer, late, early, deep, task], InspectSettings())
    aligned = {"early": 1, "deep": 3}
    assert alignment_layers(nested, 4) == aligned | {"late": 3, "again": 3}
    unknown = replace(nested, adapters=[a for a in nested.adapters if a.name != "task"])
    assert alignment_layers(unknown, 4) == aligned
    other = write(tmp_path / "other.safetensors", ALIGNED | {"settings": {"layer": 2}}, seed=2)
    for paths in ([early, other, task, late], [early, other, deep, late]):
        unknown = retrieval_section("retrieval", run, inspect(paths, InspectSettings()), None)
        assert unknown.answer.startswith("Retrieval accuracy at layer 1, the middle layer: ")


def test_the_band_of_a_curve_is_that_of_its_accuracy(tmp_path):
    write_distinct_retrieval(tmp_path / "run")
    seen = analyzed("r", find_runs([tmp_path / "run"]).retrievals[0], None, None)
    for row in seen.report.by_layer:
        curve = _curve(seen, row, "one", is_reference=False)
        expected = [tuple(100 * end for end in wilson(value, 997)) for value in row.accuracy]
        assert curve.band == expected
        assert curve.points == [
            (at, 100 * y) for at, y in zip((0, 2, 3), row.accuracy, strict=True)
        ]


def test_plots_of_adapters_say_their_own_numbers(tmp_path, adapters):
    """Trained adapters come before merges; those with a common origin are not compared."""
    late = write(tmp_path / "late.safetensors", ALIGNED, seed=5)
    paths = [adapters / "merged.safetensors", late, adapters / "task.safetensors"]
    known = inspect(paths, InspectSettings())
    section = adapters_section("adapters", known)
    norms, cosines, overlaps = section.folded
    (row,) = known.layers
    outside = replace(row, name="mm_projector.2")
    more = replace(known, layers=[row, outside], modules=[*known.modules, outside])
    assert adapters_section("adapters", more).folded[0] == norms
    names = ["merged", "late", "task"]

    def hovers(plot):
        return [re.findall(r"<title>([^<]+)</title>", panel.marks) for panel in plot.panels]

    assert hovers(norms) == [
        [f"{name}, 0: {norm:.4g}"] for name, norm in zip(names, row.norms, strict=True)
    ]
    assert [str(cell) for cell in norms.values.rows[0]] == [
        "0",
        *(f"{norm:#.4g}" for norm in row.norms),
    ]
    pairs = {"late and task": (1, 2), "merged and late": (0, 1)}
    met = {label: row.comparison(pair) for label, pair in pairs.items()}
    assert [panel.title for panel in cosines.panels] == list(pairs)
    assert hovers(cosines) == [[f"{label}, 0: {c.cosine:.4g}"] for label, c in met.items()]
    sides = [(label, side) for label in pairs for side in ("out", "in")]
    assert [panel.title for panel in overlaps.panels] == [f"{label}, {s}" for label, s in sides]
    assert hovers(overlaps) == [
        [
            f"random, 0: {getattr(met[label], f'random_{side}'):.4g}",
            f"measured, 0: {getattr(met[label], f'overlap_{side}'):.4g}",
        ]
        for label, side in sides
    ]


def test_every_evaluation_has_its_own_overview_and_retrieval_the_first_one_s_baseline(tmp_path):
    write_evaluation(tmp_path / "a", {"en": ["hello"]}, systems=("task", "merged"))
    write_distinct_evaluation(tmp_path / "b")
    write_retrieval(tmp_path / "retrieval", systems=("base", "task", "merged"))
    sections = {s.name: s for s in sections_of(find_runs([tmp_path]), None)}
    first, second = sections["answer"].tables
    assert [row[0] for row in first.rows] == ["task", "merged"]
    assert len(second.rows) == 6
    assert (first.title[:1], second.title[:1]) == ("a", "b")
    assert " with task, " in sections["retrieval"].answer
    assert sections["answer"].title == "a: Did “merged” help?"
    assert first.title.endswith(", 1 language")


def test_pairs_of_adapters_that_are_not_drawn_are_in_the_table(tmp_path):
    paths = [write(tmp_path / f"a{seed}", ALIGNED, seed=seed) for seed in range(5)]  # ten pairs
    section = adapters_section("adapters", inspect(paths, InspectSettings()))
    cosine = next(plot for plot in section.folded if plot.name == "adapters-cosine")
    assert len(cosine.panels) == 8
    assert "The first 8 of 10 pairs." in cosine.caption
    plots = [plot for plot in section.folded if plot.name != "adapters-norms"]
    assert [len(plot.values.rows) for plot in plots] == [10, 10]


def test_the_first_section_tells_of_alignment_too(tmp_path, retrieval, inspected):
    seen = evaluated(tmp_path, dict.fromkeys(LANGS, 0.2))
    runs = replace(find_runs([tmp_path / "eval"]), retrievals=[retrieval])
    first = next(iter(sections_of(runs, inspected)))
    assert first.answer == answer_section(seen, inspected).answer
    assert [fact.text for fact in first.facts if fact.name == "Alignment"] == [STAYS]


def test_retrieval_of_another_system_than_the_merge_is_named(tmp_path, inspected):
    evaluation = evaluated(tmp_path, dict.fromkeys(LANGS, 0.2))
    write_retrieval(tmp_path / "retrieval", systems=("base", "task", "align"))
    first = next(iter(sections_of(find_runs([tmp_path]), inspected)))
    assert evaluation.report.systems == ["task", "merged"]
    (text,) = [fact.text for fact in first.facts if fact.name == "Alignment"]
    assert text.endswith("with align. merged was not analyzed.")
