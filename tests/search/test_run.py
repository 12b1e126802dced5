import dataclasses
import itertools
import json
import os
import random
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.adapters import IDS, logits_through_peft, peft_adapter
from helpers.corpus import write_corpus
from helpers.merging import rewrite, trained
from helpers.models import save_model
from helpers.search import settings_for
from helpers.search_answers import SKILL, make_halving
from helpers.updates import dense
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.card import card_path
from adaptermix.adapters.names import core
from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError, DataError, ResourceError
from adaptermix.files import outputs
from adaptermix.files.tensors import TensorFile
from adaptermix.merging.merge import merge
from adaptermix.merging.plan import open_adapters, plan_merge
from adaptermix.merging.weights import Rule, Weighting
from adaptermix.plots.plot import Plot
from adaptermix.search.candidates import (
    Candidate,
    as_parameters,
    candidate_of,
    first_candidates,
    layer_groups,
    scalar_candidate,
)
from adaptermix.search.halving import choose, stage_merge
from adaptermix.search.learn import WeightedMerge
from adaptermix.search.record import STAGE, CandidateResult, candidate_table, search_folder
from adaptermix.search.run import _show_without_others, _told_apart, plan_search, search
from adaptermix.settings.merging import MergeSettings, SearchSettings
from adaptermix.tasks.massive import Massive
from adaptermix.tasks.metrics.significance import Difference, Interval
from adaptermix.tasks.task import Task


def test_a_race_chooses_as_an_exhaustive_search_does_with_fewer_examples(monkeypatch, tmp_path):
    winners, asked = [], []
    for exhaustive in (True, False):
        halving, generator, candidates = make_halving(monkeypatch, tmp_path, SKILL)
        ranked = halving.run(candidates, exhaustive=exhaustive)
        winners.append(choose(halving, ranked, "simpler")[0].candidate.name)
        asked.append(len(generator.asked))
        assert halving.needed == len(generator.asked) == len(set(generator.asked))
        assert all(len(rows) == 200 for entry in ranked for rows in entry.statistics)
    assert winners == ["0.7", "0.7"]
    assert asked[0] == 7 * 400
    assert asked[1] < 0.65 * asked[0]


def test_a_search_halves_and_keeps_the_best_adapter_alone(monkeypatch, tmp_path):
    halving, _, candidates = make_halving(monkeypatch, tmp_path, SKILL | {"1": 0.15})
    ranked = halving.run(candidates, exhaustive=False)
    assert [entry.candidate.name for entry in ranked] == ["0.7", "0.9", "1"]
    assert [entry.dropped for entry in ranked] == [None] * 3
    seen = {name: len(entry.statistics[0]) for name, entry in halving.entries.items()}
    assert seen == {"0.1": 50, "0": 50, "0.3": 100, "0.5": 100, "0.7": 200, "0.9": 200, "1": 200}
    assert halving.entries["0"].dropped == 1
    assert halving.entries["0.5"].dropped == halving.entries["0.3"].dropped == 2


def test_each_answer_is_read_and_counted_once(monkeypatch, tmp_path):
    """However often candidates are ranked and compared; COMET's statistics cost minutes."""
    counted = []

    class Counting(Massive):
        def statistics(self, outcomes):
            counted.extend(outcomes)
            return super().statistics(outcomes)

    halving, generator, candidates = make_halving(monkeypatch, tmp_path, SKILL)
    halving.task = Counting()
    choose(halving, halving.run(candidates, exhaustive=False), "simpler")
    assert len(counted) == len(generator.asked) > 0


def test_scores_are_macro_averages_on_what_was_seen(monkeypatch, tmp_path):
    halving, _, candidates = make_halving(monkeypatch, tmp_path, SKILL, examples=30)
    halving.run(candidates, exhaustive=True)
    for name, entry in halving.entries.items():
        means = []
        for start in (0, 30):
            right = sum(random.Random(n).random() < SKILL[name] for n in range(start, start + 30))
            means.append(2 * right / (right + 30))  # a wrong answer names no slot
        assert halving.score(entry) == pytest.approx(sum(means) / 2)
        interval = halving.score_interval(entry)
        assert interval.low <= interval.value <= interval.high


def test_of_what_cannot_be_told_apart_the_simpler_wins(monkeypatch, tmp_path):
    skill = {"0.9": 0.608, "1": 0.6, "0.5": 0.2}
    halving, _, candidates = make_halving(monkeypatch, tmp_path, skill)
    ranked = halving.run(candidates, exhaustive=True)
    winner, tied, verdict = choose(halving, ranked, "simpler")
    assert winner.candidate.name == "1"
    assert [entry.candidate.name for entry in tied] == ["1"]
    assert (
        "0.9 has the best score, but is not significantly different from 1: 1, the simplest"
        in verdict
    )
    winner, _, verdict = choose(halving, ranked, "best")
    assert winner.candidate.name == "0.9"
    assert (
        verdict
        == "0.9 has the best score and is chosen, but it is not significantly different from 1"
    )


def test_a_clear_winner_wins_over_what_is_simpler(monkeypatch, tmp_path):
    halving, _, candidates = make_halving(monkeypatch, tmp_path, {"0.9": 0.9, "1": 0.5})
    winner, tied, verdict = choose(halving, halving.run(candidates, exhaustive=True), "simpler")
    assert (winner.candidate.name, tied) == ("0.9", [])
    assert verdict == "0.9 is better than all others that answered all examples"


def test_a_merge_is_compared_with_its_main_adapter_at_the_same_weight(monkeypatch, tmp_path):
    """What a merge gains may be a smaller weight's doing: that is measured, and told."""
    for alone, told in (
        (0.2, "better than"),
        (0.9, "not significantly different from"),
        (1, "worse than"),
    ):
        halving, _, candidates = make_halving(monkeypatch, tmp_path, {**SKILL, "shrunk": alone})
        plan = halving.plan
        halving.plan = lambda w, plan=plan: "shrunk" if w == Weighting((0.7, 0.0)) else plan(w)
        winner = halving.run(candidates, exhaustive=False)[0]
        control = halving.enter(winner.candidate.without_others(["task", "align"]))
        halving.show([control], 1.0)
        assert control.candidate == Candidate("task alone at 0.7", Weighting((0.7, 0.0)))
        assert f"0.7 is {told} task alone at 0.7" in _told_apart(halving, winner, control)


def test_a_control_that_cannot_be_written_is_left_out(monkeypatch, tmp_path):
    """Whole weights (modules_to_save) need weights that add up to 1."""
    halving, _, candidates = make_halving(monkeypatch, tmp_path, SKILL, examples=4)
    plan = halving.plan

    def needs_a_sum_of_1(weighting):
        if sum(weighting.weights) != 1:
            raise ArtifactError("the weights add up to 0.7")
        return plan(weighting)

    halving.plan = needs_a_sum_of_1
    winner = next(halving.enter(found) for found in candidates if found.name == "0.7")
    adapters = [
        SimpleNamespace(path=Path(name), is_for_alignment=name == "align")
        for name in ("task", "align")
    ]
    inputs = SimpleNamespace(adapters=adapters, settings=SearchSettings(search="auto"))
    assert _show_without_others(halving, winner, inputs) is None
    assert halving.notes == [
        "0.7 is not compared with task alone at 0.7, which cannot be written: "
        "the weights add up to 0.7"
    ]


def test_the_main_adapter_keeps_its_weights_by_layer():
    rules = (Rule((0.2, 0.8), frozenset([0])), Rule((0.9, 0.1), frozenset([1]), "mlp"))
    learned = Candidate("learned", Weighting((0.4, 0.6), rules))
    alone = learned.without_others(["task", "align"])
    assert alone.name == "align alone as in learned"
    assert alone.weighting.weights == (0.0, 0.6)
    assert [rule.weights for rule in alone.weighting.rules] == [(0.0, 0.8), (0.0, 0.1)]
    assert [rule.modules for rule in alone.weighting.rules] == [None, "mlp"]
    assert Candidate("task alone", Weighting((1.0, 0.0))).without_others(["a", "b"]) is None


def test_simplicity_counts_adapters_then_mixtures():
    alone = Candidate("a", Weighting((1.0, 0.0)))
    scalar = Candidate("b", Weighting((0.9, 0.1)))
    layered = Candidate("c", Weighting((0.9, 0.1), (Rule((0.5, 0.5), frozenset({1})),)))
    three = Candidate("d", Weighting((0.8, 0.1, 0.1)))
    order = sorted([three, layered, scalar, alone], key=lambda c: c.complexity)
    assert [candidate.name for candidate in order] == ["a", "b", "c", "d"]
    assert alone.is_control and not scalar.is_control


@pytest.fixture
def adapters(tmp_path, model_dir):
    paths = [tmp_path / name for name in ("task", "align", "style")]
    for seed, path in enumerate(paths):
        peft_adapter(model_dir, path, seed=seed)
    return paths


def test_controls_join_the_grid_and_nothing_is_tried_twice():
    settings = SearchSettings(search="0.5,1,0.5")
    names = [candidate.name for candidate in first_candidates(["task", "align"], settings)]
    assert names == ["0.5", "task alone", "align alone"]
    with pytest.raises(ConfigError, match="for two adapters, not 3"):
        first_candidates(["t", "a", "s"], settings)
    settings = SearchSettings(search="0.5:0.25:0.25,1:0:0")
    weights = [c.weighting.weights for c in first_candidates(["t", "a", "s"], settings)]
    assert weights == [(0.5, 0.25, 0.25), (1, 0, 0), (0, 1, 0), (0, 0, 1)]


def test_a_point_of_a_grid_may_have_all_weights():
    """Weights that add up to more than 1 leave the task adapter at its full strength."""
    settings = SearchSettings(search="0.7,1:0.2,1:-0.5,1:0")
    candidates = first_candidates(["task", "align"], settings)
    assert {c.name: c.weighting.weights for c in candidates} == {
        "0.7": (0.7, 0.3),
        "1:0.2": (1, 0.2),
        "1:-0.5": (1, -0.5),
        "task alone": (1, 0),
        "align alone": (0, 1),
    }


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("0.7,1:0.2:0.1", "1:0.2:0.1: expected 2 weights"),
        ("0.7,0:0", "0:0: expected 2 weights, at least one of them not zero"),
        ("0.7,1:", "expected auto, learn or weights"),
        ("0.5", "a grid needs at least two points"),
        ("0.5,0.5", "a grid needs at least two points"),
        ("a,b", "expected auto, learn or weights"),
        ("0.5,nan", "finite"),
        ("", "a grid needs at least two points"),
    ],
)
def test_a_grid_that_is_none_is_refused(grid, message):
    with pytest.raises(ConfigError, match=message):
        first_candidates(["task", "align"], SearchSettings(search=grid))


@pytest.mark.slow
def test_a_search_writes_the_merge_it_chose(tmp_path, model_dir, corpus_dir, adapters):
    out = tmp_path / "merged.safetensors"
    settings = settings_for(model_dir, corpus_dir, out, prefer="best")
    report = search(adapters[:2], settings)
    folder = search_folder(out)
    assert sorted(path.name for path in folder.iterdir()) == [
        "search.json",
        "search.png",
        "search.svg",
        "weights.toml",
    ]
    assert report.candidates[0].name == report.winner
    again = tmp_path / "again.safetensors"
    merge(adapters[:2], MergeSettings(weights_file=folder / "weights.toml", out=again))
    found, expected = read_adapter(out), read_adapter(again)
    assert found.modules == expected.modules
    for module, update in found.updates():
        assert np.array_equal(update.a, expected.update(module).a)
        assert np.array_equal(update.b, expected.update(module).b)
        assert update.scaling == expected.update(module).scaling
    record = json.loads((folder / "search.json").read_text())
    assert (report.control is None) == report.winner.endswith("alone")
    tried = {"0.5", "0.7", "0.9", "task alone", "align alone"} | {report.control} - {None}
    assert {c["name"] for c in record["candidates"]} == tried
    assert record["decoded"] <= record["exhaustive"] == len(tried) * 12
    assert found.record["weighting"] == record["merge"]["weighting"]


@pytest.mark.slow
def test_a_search_that_ends_while_it_draws_leaves_nothing(
    tmp_path, model_dir, corpus_dir, adapters, monkeypatch
):
    """Drawing takes seconds: an adapter that was there before would be in the next one's way."""
    out = tmp_path / "merged"

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("adaptermix.plots.plot.Plot.write", stop)
    with pytest.raises(KeyboardInterrupt):
        search(adapters[:2], settings_for(model_dir, corpus_dir, out))
    assert not out.exists()
    assert not search_folder(out).exists()


@pytest.mark.slow
@pytest.mark.parametrize(  # a file has a card beside it, which is moved first
    ("name", "moved"), [("merged", 0), ("merged.safetensors", 0), ("merged.safetensors", 1)]
)
def test_a_search_that_ends_between_its_outputs_is_run_again(
    tmp_path, model_dir, corpus_dir, adapters, monkeypatch, name, moved
):
    """The record is there, the adapter is not: no flag is needed to go on."""
    out = tmp_path / name
    settings = settings_for(model_dir, corpus_dir, out)
    moves = itertools.count()
    whole_output = outputs.whole_output

    def stop(path):
        if path.parent == tmp_path and path != search_folder(out) and next(moves) == moved:
            raise KeyboardInterrupt
        return whole_output(path)

    monkeypatch.setattr("adaptermix.search.record.whole_output", stop)
    with pytest.raises(KeyboardInterrupt):
        search(adapters[:2], settings)
    assert (search_folder(out) / "search.json").is_file()
    assert not out.exists()
    monkeypatch.undo()
    report = search(adapters[:2], settings)
    whole = search(adapters[:2], settings_for(model_dir, corpus_dir, tmp_path / "whole"))
    assert report.candidates == whole.candidates
    assert report.verdict == whole.verdict
    assert read_adapter(out).record["out"] == str(out)
    assert card_path(out).is_file()
    names = sorted(path.name for path in search_folder(out).iterdir())
    assert names == ["search.json", "search.png", "search.svg", "weights.toml"]
    for module, update in read_adapter(out).updates():
        assert np.array_equal(update.b, read_adapter(tmp_path / "whole").update(module).b)


def test_a_search_that_has_ended_is_told_again(
    tmp_path, model_dir, corpus_dir, adapters, monkeypatch
):
    """Killed after its last output and before its exit, it can be started again as well."""
    out = tmp_path / os.fsdecode(b"merg\xe9d")  # paths may be in any encoding
    settings = settings_for(model_dir, corpus_dir, out)
    report = search(adapters[:2], settings)
    (search_folder(out) / STAGE).mkdir()
    monkeypatch.setattr("adaptermix.search.run.write_merge", None)
    monkeypatch.setattr("adaptermix.search.halving.stage_merge", None)
    again = search(adapters[:2], settings)
    assert again.notes == [
        *report.notes,
        "this search was already complete; nothing was decoded or written",
    ]
    assert dataclasses.replace(again, notes=report.notes) == report
    assert not (search_folder(out) / STAGE).exists()


@pytest.mark.parametrize("what", ["seed", "adapters", "data", "merged", "record"])
def test_another_search_is_not_taken_for_one_that_has_ended(
    tmp_path, model_dir, corpus_dir, adapters, what
):
    out = tmp_path / "merged"
    data = shutil.copytree(corpus_dir, tmp_path / "data")
    settings = settings_for(model_dir, data, out)
    search(adapters[:2], settings)
    if what == "seed":
        settings = settings.model_copy(update={"seed": 5})
    elif what == "data":
        for path in data.rglob("*en-US*"):
            path.write_text(path.read_text().replace("lamp", "light"))
    elif what == "merged":
        merge(adapters[:2], MergeSettings(weight=0.1, out=out), force=True)
    elif what == "record":
        (search_folder(out) / "search.json").write_text("{}")
    chosen = adapters[1:3] if what == "adapters" else adapters[:2]
    with pytest.raises(ArtifactError, match="merged exists"):
        search(chosen, settings)


def test_an_output_that_appears_meanwhile_is_not_replaced(
    tmp_path, model_dir, corpus_dir, adapters, monkeypatch
):
    out = tmp_path / "new" / "merged"
    write = Plot.write

    def meanwhile(*arguments):
        out.mkdir()
        write(*arguments)

    monkeypatch.setattr("adaptermix.plots.plot.Plot.write", meanwhile)
    with pytest.raises(ArtifactError, match="merged exists"):
        search(adapters[:2], settings_for(model_dir, corpus_dir, out))
    assert list(out.parent.iterdir()) == [out]
    assert not list(out.iterdir())


def test_a_second_search_decodes_nothing(tmp_path, model_dir, corpus_dir, adapters, monkeypatch):
    first = search(adapters[:2], settings_for(model_dir, corpus_dir, tmp_path / "one"))
    assert first.reused == 0

    def refuse(*_):
        raise AssertionError("the engine was started")

    monkeypatch.setattr("adaptermix.generation.cached.make_generator", refuse)
    second = search(adapters[:2], settings_for(model_dir, corpus_dir, tmp_path / "two"))
    assert second.reused == second.decoded == first.decoded
    assert second.candidates == first.candidates


def test_more_adapters_are_searched_by_trials(tmp_path, model_dir, corpus_dir, adapters):
    reports = []
    for name in ("one", "two"):
        settings = settings_for(
            model_dir, corpus_dir, tmp_path / name, search="auto", trials=3, limit=4
        )
        reports.append(search(adapters, settings))
    assert reports[0].candidates == reports[1].candidates
    names = {candidate.name for candidate in reports[0].candidates}
    assert {"task alone", "align alone", "style alone", "0.9"} <= names
    assert any(name.startswith("trial ") for name in names)
    for candidate in reports[0].candidates:
        assert sum(candidate.weighting["weights"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("sampler", ["tpe", "cma"])
def test_groups_of_layers_get_weights_of_their_own(
    tmp_path, model_dir, corpus_dir, adapters, sampler
):
    settings = settings_for(
        model_dir,
        corpus_dir,
        tmp_path / "out",
        **{"search": "auto", "trials": 3, "limit": 2, "layer_groups": 2, "sampler": sampler},
    )
    report = search(adapters[:2], settings)
    ruled = [c.weighting for c in report.candidates if "rules" in c.weighting]
    assert ruled
    assert {tuple(rule["layers"]) for w in ruled for rule in w["rules"]} == {(0, 1), (2, 3)}


def test_proposed_numbers_become_weights_that_add_up_to_one():
    groups = [frozenset({0, 1}), frozenset({2, 3})]
    known = [scalar_candidate(0.5, 2)]
    candidate = candidate_of([[0.2, 0.6], [1.0, 0.0]], groups, 4, known)
    assert candidate.name == "trial 5"
    assert [rule.weights for rule in candidate.weighting.rules] == [(0.25, 0.75), (1.0, 0.0)]
    assert candidate.weighting.weights == (0.625, 0.375)  # the main adapter has most on average
    assert candidate_of([[0.3, 0.3], [0.1, 0.1]], groups, 4, known) is known[0]
    assert candidate_of([[0.0, 0.0], [0.0, 0.0]], groups, 4, known) is known[0]
    thirds = [scalar_candidate(0.5, 4)]  # has more digits
    assert candidate_of([[0.3, 0.1, 0.1, 0.1]], groups[:1], 4, thirds) is thirds[0]
    rng = random.Random(0)
    for _ in range(20):  # --inactive keep needs the sum
        proposed = candidate_of([[rng.random() for _ in range(3)]], groups[:1], 4, [])
        assert sum(proposed.weighting.weights) == pytest.approx(1, abs=1e-9)
    assert as_parameters((0.9, 0.1), 1) == {"0.0": 0.9, "1.0": 0.1}


def test_layers_are_split_evenly(adapters):
    settings = MergeSettings(weight=0.5)
    plan = plan_merge(open_adapters(adapters[:2], settings), Weighting((0.5, 0.5)), settings)
    assert layer_groups(plan, 2) == [frozenset({0, 1}), frozenset({2, 3})]
    assert layer_groups(plan, 3) == [frozenset({0, 1}), frozenset({2}), frozenset({3})]
    with pytest.raises(ConfigError, match="the adapters have only 4 layers"):
        layer_groups(plan, 5)


def test_weights_in_the_model_give_the_logits_of_the_merged_adapter(tmp_path, model_dir, adapters):
    weighting = Weighting((0.9, 0.1), (Rule((0.2, 0.6), frozenset({1, 2})),))
    settings = SearchSettings(search="learn")
    plan = plan_merge(open_adapters(adapters[:2], settings), weighting, settings)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    merged = WeightedMerge(model, plan, settings).at(weighting)
    with torch.no_grad():
        found = merged.model(IDS).logits
    (tmp_path / "weights.toml").write_text(merged.weighting().as_toml())
    out = tmp_path / "merged"
    merge(adapters[:2], MergeSettings(weights_file=tmp_path / "weights.toml", out=out))
    torch.testing.assert_close(found, logits_through_peft(model_dir, out), rtol=1e-4, atol=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(model_dir)(IDS).logits
    assert not torch.allclose(found, plain, atol=0.1)


@pytest.mark.parametrize(("per", "method"), [("layer", "exact"), ("module", "ties")])
def test_learned_weights_lower_the_loss_they_were_trained_on(
    tmp_path, model_dir, corpus_dir, adapters, per, method
):
    settings = settings_for(
        model_dir,
        corpus_dir,
        tmp_path / "out",
        **{"search": "learn", "learn_steps": 15, "learn_lr": 0.1, "learn_per": per, "limit": 8},
        method=method,
    )
    report = search(adapters[:2], settings)
    told = "weights are learned for the weighted sum; --method ties changes the merge"
    assert (told in report.notes) == (method == "ties")
    (note,) = [note for note in report.notes if note.startswith("learned from")]
    before, after = (float(part) for part in note.rpartition("loss ")[2].split(" to "))
    assert after < before
    learned = next(c for c in report.candidates if c.name == "learned")
    rules = learned.weighting["rules"]
    assert len(rules) == (4 if per == "layer" else 8)
    assert report.decoded <= report.exhaustive == 9 * 8  # half of the dev data learns


def test_a_plan_decodes_nothing(tmp_path, model_dir, corpus_dir, adapters, monkeypatch):
    """But it checks whether answers can be scored."""
    checked = []
    monkeypatch.setattr(Task, "check_metrics", lambda task, examples: checked.extend(examples))
    settings = settings_for(model_dir, corpus_dir, tmp_path / "out")
    plan = plan_search(adapters[:2], settings)
    assert len(checked) == 12
    assert plan.notes == []
    assert plan.candidates == ["0.5", "0.7", "0.9", "task alone", "align alone"]
    assert plan.examples == {"en": 6, "cy": 6}
    changes = {"search": "auto", "trials": 3, "tokenize": "13a"}
    settings = settings_for(model_dir, corpus_dir, tmp_path / "out", **changes)
    assert plan_search(adapters[:2], settings).notes == [
        "--tokenize has no effect on slot_f1 of massive",
        "--trials has no effect with two adapters, unless --layer-groups is given",
    ]
    asked = settings_for(model_dir, corpus_dir, tmp_path / "out", prompt="paper")
    (note,) = plan_search(adapters[:2], asked).notes
    assert note == "--prompt has no effect with --system-prompt"
    assert not any("--trials" in note for note in plan_search(adapters, settings).notes)
    assert not (tmp_path / "out").exists()


def test_dev_data_without_gold_answers_is_refused(tmp_path, model_dir, adapters):
    folder = write_corpus(tmp_path / "corpus")
    path = folder / "massive" / "cy-GB.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    bare = (r | {"annot_utt": r["utt"]} if r["partition"] == "dev" else r for r in rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in bare))
    settings = settings_for(model_dir, folder, tmp_path / "out")
    with pytest.raises(DataError, match="dev data of cy has no gold answers"):
        search(adapters[:2], settings)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"into": "base"}, ConfigError, "--search writes an adapter"),
        ({"langs": ("xx",)}, DataError, "no language 'xx'"),
        ({"langs": ("cy", "Welsh")}, ConfigError, "cy and Welsh are the same language"),
        ({"model": "nowhere/at/all"}, AdaptermixError, "nowhere"),
        (
            {"task": "wmt23", "langs": ("en-de",), "metrics": ("comet", "bleu")},
            ResourceError,
            "COMET is not installed",
        ),
        ({"search": "auto", "layer_groups": 9}, ConfigError, "the adapters have only 4 layers"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(
    tmp_path, model_dir, corpus_dir, adapters, changes, error, message
):
    settings = settings_for(model_dir, corpus_dir, tmp_path / "new" / "out", **changes)
    for run in (plan_search, search):
        with pytest.raises(error, match=message):
            run(adapters[:2], settings)
    assert not (tmp_path / "new").exists()


def test_an_existing_record_is_not_replaced_unasked(tmp_path, model_dir, corpus_dir, adapters):
    out = tmp_path / "out"
    search_folder(out).mkdir()
    settings = settings_for(model_dir, corpus_dir, out)
    with pytest.raises(ArtifactError, match=r"out\.search exists"):
        search(adapters[:2], settings)
    for base in (out, search_folder(out)):  # neither is deleted with the base model in it
        with pytest.raises(ConfigError, match="contains the input"):
            (base / "base").mkdir(parents=True)
            search(adapters[:2], settings_for(base / "base", corpus_dir, out), force=True)
        shutil.rmtree(base)
    search(adapters[:2], settings, force=True)
    assert (search_folder(out) / "search.json").is_file()
    shutil.rmtree(search_folder(out))


def test_candidates_that_have_seen_fewer_examples_are_not_ranked():
    """The one with the best score left the race early."""

    def result(name, examples, score, dropped=None):
        ends = Interval(score, score, score)
        difference = Difference(Interval(0, 0, 0), 1.0)
        weighting = {"weights": [1.0, 0.0]}
        return CandidateResult(name, weighting, examples, ends, difference, dropped)

    found = SimpleNamespace(
        candidates=[result("a", 40, 0.5), result("c", 10, 0.9, 1), result("b", 40, 0.4)],
        **{"winner": "a", "metric": "slot_f1", "task": "massive", "engine": "transformers"},
    )
    table = candidate_table(found)
    assert [[str(row[0]) for row in group] for group in table.groups] == [["a", "b"], ["c"]]
    assert table.note.startswith("1 of 3 candidates answered fewer than 40 examples")
    found.candidates.pop(1)
    assert candidate_table(found).note == ""


@pytest.fixture
def report(tmp_path, model_dir, corpus_dir, adapters):
    settings = settings_for(model_dir, corpus_dir, tmp_path / "out", limit=2)
    return search(adapters[:2], settings)


def test_every_cell_of_the_table_has_its_own_number(report):
    def ends(start):
        return Interval(start, start - 0.1, start + 0.2)

    candidates = [
        dataclasses.replace(
            candidate,
            examples=examples,
            score=ends(0.4 + at / 100),
            difference=Difference(ends(-0.03 + at / 100), 0.5),
        )
        for at, (candidate, examples) in enumerate(
            zip(report.candidates[:3], (1200, 1200, 300), strict=True)
        )
    ]
    shown = dataclasses.replace(
        report, candidates=candidates, decoded=2700, exhaustive=3600, reused=45, notes=["a note"]
    )
    table = candidate_table(shown, weights=True)
    first, second, _, third = [[str(cell) for cell in row] for row in table.rows]
    weights = [", ".join(f"{w:g}" for w in c.weighting["weights"]) for c in candidates]
    names = [c.name for c in candidates]
    assert first == [
        *(names[0], weights[0], "40.0", "30.0 to 60.0", "chosen", "1,200"),
    ]
    assert second == [
        *(names[1], weights[1], "41.0", "31.0 to 61.0", "-2.0 (-12.0 to +18.0)", "1,200"),
    ]
    assert third == [
        *(names[2], weights[2], "42.0", "32.0 to 62.0", "-1.0 (-11.0 to +19.0)", "300"),
    ]
    assert len(table.columns) == len(first) == len(candidate_table(shown).columns) + 1
    assert shown.view().remarks[0] == (
        "examples decoded: 2,700; an exhaustive search of the same candidates needs 3,600; "
        "45 from the cache"
    )
    unranked, note = (
        next(r for r in shown.view().remarks if words in r) for words in ("1 of 3", "a note")
    )
    assert "answered fewer than 1,200 examples" in unranked
    assert note


def test_the_record_of_the_adapter_has_the_winners_score_and_interval(report):
    record = read_adapter(Path(report.merge.out)).record
    winner = report.candidates[0]
    found = record["search"]
    assert record["dev"] == {report.metric: winner.score.value}
    assert (found["low"], found["high"]) == (winner.score.low, winner.score.high)
    assert (
        (found["task"], found["langs"]) == (report.task, report.langs) == ("massive", ["en", "cy"])
    )
    assert found["verdict"] == report.verdict
    others = {c.name for c in report.candidates} - {report.winner, report.control}
    told = [name for name in others if re.search(rf"\b{name}\b", report.verdict)]
    assert set(report.tied) <= set(told) | {report.winner}


def test_force_runs_a_search_again(tmp_path, model_dir, corpus_dir, adapters):
    settings = settings_for(model_dir, corpus_dir, tmp_path / "out", limit=2)
    first = search(adapters[:2], settings)
    assert search(adapters[:2], settings).notes[-1].startswith("this search was already complete")
    again = search(adapters[:2], settings, force=True)
    assert again == dataclasses.replace(first, reused=first.decoded)


@pytest.mark.parametrize("inactive", ["average", "keep"])
def test_a_chosen_merge_is_shown_without_its_other_adapters(
    tmp_path, model_dir, corpus_dir, adapters, inactive
):
    """With ``keep``, an adapter alone would not have the weights that it has in the merge."""
    changes = {"limit": 2, "prefer": "best", "search": "0.5,0.6,0.7", "inactive": inactive}
    settings = settings_for(model_dir, corpus_dir, tmp_path / "out", **changes)
    report = search(adapters[:2], settings)
    names = {candidate.name for candidate in report.candidates}
    is_merge = not report.winner.endswith("alone")
    has_control = any(" alone at " in name for name in names)
    assert has_control == (report.control is not None) == (is_merge and inactive == "average")
    assert not has_control or f"task alone at {report.winner}" in names


def deltas(path):
    """Delta weights by the part of a module's name that is the same in all classes."""
    return {core(module): dense(update) for module, update in read_adapter(path).updates()}


def as_multimodal(paths):
    """Give the modules the names of a multimodal class; the base model has those of text alone."""
    for path in paths:
        rewrite(
            path,
            lambda ts: {
                n.replace("model.layers", "model.language_model.layers"): t for n, t in ts.items()
            },
        )


@pytest.mark.parametrize(
    ("renamed", "changes"),
    [
        (2, {"method": "dare"}),
        (1, {"method": "dare-ties", "search": "auto", "layer_groups": 2, "trials": 2}),
        (1, {"method": "della", "search": "auto"}),
    ],
)
def test_candidates_are_the_merges_of_their_weights_and_seed(
    tmp_path, model_dir, corpus_dir, adapters, monkeypatch, renamed, changes
):
    """Whatever the modules are named in the base model: random draws depend on their names."""
    as_multimodal(adapters[:renamed])
    staged = {}

    def keep(plan, folder):
        path = stage_merge(plan, folder)
        staged[plan.weighting] = deltas(path)
        return path

    monkeypatch.setattr("adaptermix.search.halving.stage_merge", keep)
    tiny = {"limit": 1, "max_new_tokens": 1, "seed": 3, "prefer": "best", "search": "0.5,0.7"}
    settings = settings_for(model_dir, corpus_dir, tmp_path / "out", **tiny | changes)
    report = search(adapters[:2], settings)
    winner = next(w for w in staged if w.as_record() == report.candidates[0].weighting)
    for at, (weighting, found) in enumerate([*staged.items(), (winner, deltas(settings.out))]):
        (tmp_path / "w.toml").write_text(weighting.as_toml())
        is_alone = Candidate("", weighting).is_control  # only scaled, by any method
        method = "exact" if is_alone else settings.method
        plain = {"weights_file": tmp_path / "w.toml", "method": method, "seed": 3}
        merge(adapters[:2], MergeSettings(**plain, out=tmp_path / str(at)))
        expected = deltas(tmp_path / str(at))
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[module], expected[module]) for module in found)


@pytest.mark.parametrize(
    ("options", "changes", "least"),
    [
        ({"target_modules": ["lm_head", "embed_tokens", "q_proj"]}, {}, 4),  # two pairs of copies
        ({}, {"inactive": "keep"}, 32),  # two factors of eight modules in two adapters
    ],
)
def test_a_search_compares_tensors_once_for_all_candidates(
    tmp_path, corpus_dir, monkeypatch, options, changes, least
):
    base = save_model(tmp_path / "base", "qwen2")
    paths = [trained(base, tmp_path / str(seed), seed, **options) for seed in (1, 2)]
    read, tensor = [], TensorFile.tensor

    def counted(file, name):
        read.extend([name] if file.path.parent in paths else [])
        return tensor(file, name)

    monkeypatch.setattr(TensorFile, "tensor", counted)
    settings = settings_for(base, corpus_dir, tmp_path / "out", limit=1, **changes)
    assert len(plan_search(paths, settings).candidates) == 5
    assert len(read) == least


def test_learned_weights_name_the_modules_of_the_adapters(
    tmp_path, model_dir, corpus_dir, adapters
):
    as_multimodal(adapters[:2])
    changes = {"search": "learn", "learn_steps": 1, "learn_per": "module", "limit": 2}
    settings = settings_for(model_dir, corpus_dir, tmp_path / "out", **changes)
    report = search(adapters[:2], settings)
    learned = next(c.weighting for c in report.candidates if c.name == "learned")
    rules = tuple(Rule(tuple(r["weights"]), modules=r["modules"]) for r in learned["rules"])
    weighting = Weighting(tuple(learned["weights"]), rules)
    (tmp_path / "w.toml").write_text(weighting.as_toml())
    assert merge(
        adapters[:2], MergeSettings(weights_file=tmp_path / "w.toml", out=tmp_path / "plain")
    ).written
